//! The whole report of invented runs.

mod files;

use super::document::Block;
use super::testing::{SYSTEMS, empty, full, row};
use super::{html, markdown, sections};
use crate::result::{Axis, Clock, Run, Workload};

const HOSTILE: &str = "</td><script>alert('1')</script> | `x` **y** & \u{1b}[31mred\u{1b}[0m\nsecond | line";
const REQUESTS: Workload = Workload::Requests { connections: 1, body: 0 };

fn rendered(run: &Run) -> (String, String) {
    let document = sections::document(run).unwrap();
    (markdown::render(&document), html::render(&document))
}

fn plots(run: &Run) -> Vec<(String, String)> {
    let blocks = sections::document(run).unwrap().blocks.into_iter();
    blocks
        .filter_map(|block| match block {
            Block::Plot(plot) => Some((plot.file, plot.svg)),
            _ => None,
        })
        .collect()
}

/// The rows of the chapter about losses.
fn losses(run: &Run) -> Vec<String> {
    let (text, _) = rendered(run);
    let chapter =
        text.split("## ").find(|chapter| chapter.starts_with("Where mtlsd loses")).unwrap().to_owned();
    let lines = chapter.lines().filter(|line| line.starts_with("| requests") || line.starts_with("- "));
    lines.map(str::to_owned).collect()
}

/// Whether every tag is closed in order and every attribute is quoted; enough for what plotters writes.
fn is_well_formed(xml: &str) -> bool {
    let mut open: Vec<&str> = vec![];
    let mut rest = xml;
    while let Some((text, tail)) = rest.split_once('<') {
        let Some((tag, tail)) = tail.split_once('>') else { return false };
        let entities = text.split('&').skip(1).chain(tag.split('&').skip(1));
        let known = ["amp;", "lt;", "gt;", "quot;", "apos;", "#39;"];
        if entities.into_iter().any(|entity| !known.iter().any(|known| entity.starts_with(known))) {
            return false;
        }
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return false;
            }
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap());
        }
        if !tag.matches('"').count().is_multiple_of(2) {
            return false;
        }
        rest = tail;
    }
    let has_control = xml.chars().any(|c| c.is_control() && c != '\n');
    open.is_empty() && rest.trim().is_empty() && !has_control
}

#[test]
fn a_full_run_has_every_figure_with_its_unit() {
    let mut run = full();
    run.systems[7].failure = Some("ztunnel is not installed".to_owned());
    run.rows.retain(|row| row.system != "ztunnel");
    let broken = run.rows.iter_mut().find(|row| row.system == "haproxy" && row.workload == REQUESTS).unwrap();
    broken.rounds.clear();
    broken.failure = Some("haproxy closed the connection".to_owned());
    let (text, page) = rendered(&run);
    for wanted in [
        "no: ztunnel is not installed",
        "failed: haproxy closed the connection",
        "not measured: the system failed, see Systems",
        "requests/s",
        "MB/s",
        "connections/s",
        "CPU, µs/request",
        "CPU, s/GiB",
        "added CPU, µs/connection",
        "p99.9",
        "20,000",
        "20,408",
        "64 KiB",
        " µs",
        " ms",
        "0.42×",
        "1 KiB",
        "Against envoy 1.2 sidecars",
        "relay-ktls (best)",
        "3.57×",
        "By enrolled workloads of a node",
        "1.00×",
        "23.4 GiB",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
        assert!(page.contains(wanted), "{wanted} in the page");
    }
    assert!(text.contains("Of 8 systems failed 1, of 77 rows failed 1."), "{text}");
    assert!(!text.contains("instruction"));
}

#[test]
fn the_plots_are_well_formed_and_name_the_systems() {
    let plots = plots(&full());
    let files: Vec<&str> = plots.iter().map(|(file, _)| file.as_str()).collect();
    for wanted in [
        "bars-requests.svg",
        "bars-throughput.svg",
        "bars-connections.svg",
        "bars-cpu.svg",
        "bars-memory.svg",
        "latency-requests-c1-b0.svg",
        "latency-paced-c16-b1024.svg",
        "curve-workloads-latency.svg",
        "curve-rules-memory.svg",
        "curve-connections-memory.svg",
    ] {
        assert!(files.contains(&wanted), "{wanted} in {files:?}");
    }
    for (file, svg) in &plots {
        assert!(is_well_formed(svg), "{file}: {svg}");
        for (name, _) in SYSTEMS {
            assert!(svg.contains(&format!(">\n{name}\n<")), "{name} in {file}");
        }
    }
    assert!(
        !is_well_formed("<a><b></a></b>") && !is_well_formed("<a>&x;</a>") && !is_well_formed("<a b=\">")
    );
}

#[test]
fn hostile_text_stays_text() {
    let mut run = full();
    run.environment.notes = vec![HOSTILE.to_owned()];
    run.environment.versions = [(HOSTILE.to_owned(), HOSTILE.to_owned())].into();
    run.systems[1].failure = Some(HOSTILE.to_owned());
    run.systems[2].title = HOSTILE.to_owned();
    run.systems[2].commands = vec![HOSTILE.to_owned(), "```".to_owned()];
    run.rows[0].failure = Some(HOSTILE.to_owned());
    run.curves[3].failure = Some(HOSTILE.to_owned());
    for name in
        run.rows.iter_mut().map(|row| &mut row.system).chain(run.curves.iter_mut().map(|c| &mut c.system))
    {
        if name == "envoy" {
            *name = HOSTILE.to_owned();
        }
    }
    run.cross_checks[0].what = HOSTILE.to_owned();
    let (text, page) = rendered(&run);
    assert!(!page.contains("<script") && !page.contains('\u{1b}'));
    let mut is_code = false;
    let mut width = 0;
    for line in text.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        }
        assert!(is_code || !line.contains("<script"), "{line}");
        let cells = line.replace("\\|", "").matches('|').count();
        if line.starts_with('|') && !is_code {
            assert!(width == 0 || width == cells, "{line}");
            width = cells;
        } else {
            width = 0;
        }
    }
    for (file, svg) in plots(&run) {
        assert!(is_well_formed(&svg), "{file}: {svg}");
    }
}

#[test]
fn an_empty_run_says_what_is_not_there() {
    let (text, page) = rendered(&empty());
    for wanted in [
        "The run holds no systems",
        "Not measured in this run",
        "nothing to compare",
        "Without data, and so without",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
        assert!(page.contains(wanted), "{wanted} in the page");
    }
    assert!(plots(&empty()).is_empty());
}

#[test]
fn a_loss_is_listed_and_a_difference_within_the_spread_is_not() {
    let mut run = empty();
    run.rows =
        vec![row("relay-ktls", REQUESTS, 2.0), row("stunnel", REQUESTS, 1.0), row("haproxy", REQUESTS, 1.99)];
    let listed = losses(&run);
    assert!(
        listed.contains(
            &"| requests, 1 conn, 0 B | requests/s | relay-ktls | stunnel | 10,000 | 20,000 | 2.00× |"
                .to_owned()
        ),
        "{listed:#?}"
    );
    assert_eq!(listed.iter().filter(|line| line.contains("stunnel")).count(), 6, "{listed:#?}");
    assert!(!listed.iter().any(|line| line.contains("haproxy")), "{listed:#?}");
    let (text, _) = rendered(&run);
    assert!(
        text.contains("In 6 of the figures within the spread the median of mtlsd is the worse one"),
        "{text}"
    );
    run.rows.remove(1);
    assert!(rendered(&run).0.contains("There is none"));
}

#[test]
fn a_datapath_that_broke_and_errors_and_curves_are_losses_too() {
    let mut run = empty();
    run.rows =
        vec![row("auto", REQUESTS, 1.0), row("relay-ktls", REQUESTS, 1.0), row("envoy", REQUESTS, 9.0)];
    run.rows[0].failure = Some("it hung".to_owned());
    run.rows[1].rounds.iter_mut().for_each(|round| round.errors = 7);
    run.curves = full().curves.into_iter().filter(|curve| curve.axis == Axis::Rules).collect();
    run.curves.retain(|curve| matches!(curve.system.as_str(), "relay-ktls" | "stunnel"));
    run.curves[0].points[4].request = Some(9_000_000);
    let listed = losses(&run);
    assert_eq!(
        listed,
        [
            "| requests, 1 conn, 0 B | errors | relay-ktls | envoy | 7 | 0 | – |",
            "- auto, requests, 1 conn, 0 B: measured, but not to be trusted: it hung (envoy did it)",
            "- relay-ktls against stunnel, request, by rules of the policy: worse at 1 of 5 points; \
             at 10,000: 9.00 ms against 180 µs",
        ]
    );
}

#[test]
fn the_clock_of_instructions_is_named_beside_the_figures() {
    let mut run = full();
    run.environment.clock = Clock::Instructions;
    let (text, page) = rendered(&run);
    let note = "it compares designs, not machines";
    assert!(text.matches(note).count() >= 10, "{}", text.matches(note).count());
    assert_eq!(text.matches(note).count(), page.matches(note).count());
    for (file, svg) in plots(&run) {
        assert!(svg.contains("1 ns is 1 instruction"), "{file}");
    }
}

#[test]
fn rounds_that_are_missing_and_a_rate_that_was_not_kept_are_said() {
    let mut run = full();
    let paced = run
        .rows
        .iter_mut()
        .find(|row| row.system == "envoy" && matches!(row.workload, Workload::Paced { .. }));
    let paced = paced.unwrap();
    paced.rounds.pop();
    paced.rounds.iter_mut().for_each(|round| round.per_second = Some(1500.0));
    let (text, _) = rendered(&run);
    assert!(text.contains("envoy, requests at a fixed rate, 16 conn, 1024 B: 2 of 3 rounds."), "{text}");
    assert!(text.contains("kept 75.0 % of the rate."), "{text}");
    run.environment.rounds = 1;
    assert!(rendered(&run).0.contains("the spread of the figures is not known"));
}
