//! The benchmark as a whole, with very little to measure: figures, the check on the wire, the report, and rows for what
//! cannot run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mtls_tests::lab::program_beside_the_test;
use mtls_tests::{Cmd, Lab, Output, slow};
use serde_json::Value;

const ZTUNNEL: &str = "MTLSD_BENCH_ZTUNNEL";
const MTLSD: &str = "relay-userspace";

/// The benchmark's program on this machine, with the ztunnel of this name.
fn bench(lab: &Lab, ztunnel: Option<&Path>) -> Cmd {
    let program = program_beside_the_test("mtls-bench");
    assert!(program.is_file(), "no {}; run `cargo build -p mtls-bench`", program.display());
    let command = match ztunnel {
        Some(path) => lab.tool("env").arg(format!("{ZTUNNEL}={}", path.display())),
        None => lab.tool("env").args(["-u", ZTUNNEL]),
    };
    command.arg(program).limit(slow::limit(120))
}

/// Measures, and gives the figures with what was printed.
fn run(lab: &Lab, ztunnel: Option<&Path>, systems: &str, only: &str) -> (PathBuf, Value, Output) {
    let figures = lab.dir().join("run.json");
    let command = bench(lab, ztunnel).args(["run", "--quick", "--rounds", "1", "--seconds", "0.2"]);
    let command = command.args(["--systems", systems, "--only", only, "--json"]).arg(&figures);
    let output = command.run().ok();
    let run = serde_json::from_slice(&fs::read(&figures).expect("the run wrote its figures"))
        .expect("they are JSON");
    (figures, run, output)
}

fn list<'a>(run: &'a Value, field: &str, key: &str, name: &str) -> Vec<&'a Value> {
    let all = run[field].as_array().expect("a list");
    all.iter().filter(|entry| entry[key] == name).collect()
}

/// The rate of the only round of a row, which must be sound.
fn rate(row: &Value) -> f64 {
    assert_eq!(row["failure"], Value::Null, "{row}");
    let rounds = row["rounds"].as_array().expect("a list");
    assert_eq!(rounds.len(), 1, "{row}");
    assert_eq!(rounds[0]["errors"], 0, "{row}");
    let rate = rounds[0]["per_second"].as_f64().expect("a rate");
    assert!(rate > 0.0, "{row}");
    rate
}

/// As the report shows a ratio.
fn shown(ratio: f64) -> String {
    match ratio {
        _ if ratio >= 99.95 => format!("{ratio:.0}×"),
        _ if ratio >= 9.995 => format!("{ratio:.1}×"),
        _ if ratio >= 0.0995 => format!("{ratio:.2}×"),
        _ => format!("{ratio:.4}×"),
    }
}

#[test]
fn a_run_has_figures_and_its_report_the_ratios() {
    let lab = Lab::new(&[]);
    // It begins and ends at once, as a wrong binary would.
    let fake = lab.dir().join("ztunnel");
    fs::write(&fake, "#!/bin/sh\necho 'no such mesh here' >&2\nexit 3\n").expect("lab directory is writable");
    fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).expect("just written");
    let (figures, run, _) = run(&lab, Some(&fake), "relay-userspace,ztunnel", "requests,download");

    let [plain, mtlsd] = ["plain", MTLSD].map(|system| list(&run, "rows", "system", system));
    assert!(plain.len() >= 3 && plain.len() == mtlsd.len(), "{run}");
    let ratios: Vec<String> =
        plain.iter().zip(&mtlsd).map(|(plain, mtlsd)| shown(rate(mtlsd) / rate(plain))).collect();
    assert!(plain.iter().zip(&mtlsd).all(|(plain, mtlsd)| plain["workload"] == mtlsd["workload"]));
    // What plain TCP sends is seen on the wire, so that what mtlsd sends would be too.
    for (system, readable) in [("plain", true), (MTLSD, false)] {
        let system = list(&run, "systems", "name", system)[0];
        assert_eq!(system["readable"], readable, "{system}");
        assert_eq!(system["failure"], Value::Null, "{system}");
    }
    let ztunnel = list(&run, "systems", "name", "ztunnel")[0]["failure"].as_str().expect("it did not run");
    assert!(ztunnel.contains("no such mesh here") && ztunnel.contains("exit status: 3"), "{ztunnel}");
    assert_eq!(run["environment"]["rounds"], 1);

    let directory = lab.dir().join("report");
    bench(&lab, None).arg("report").arg(&figures).arg(&directory).run().ok();
    let file = |name: &str| fs::read_to_string(directory.join(name)).expect("the report is there");
    let (markdown, html) = (file("report.md"), file("report.html"));
    for ratio in &ratios {
        assert!(markdown.contains(ratio.as_str()) && html.contains(ratio.as_str()), "{ratio}:\n{markdown}");
    }
    assert!(markdown.contains("no such mesh here") && html.contains("no such mesh here"), "{markdown}");
    assert!(file("bars-requests.svg").contains("<svg"));

    // Nothing was measured twice: a comparison needs two builds.
    let against = bench(&lab, None).arg("against").arg(&figures).run().fails();
    assert!(against.stderr.contains("relay-userspace (base)"), "{against}");
}

#[test]
fn what_cannot_run_is_a_row_with_its_reason() {
    let lab = Lab::new(&[]);
    let (_, run, output) = run(&lab, None, "ztunnel,base", "download");
    for (system, reason) in [
        ("ztunnel", "set MTLSD_BENCH_ZTUNNEL to a ztunnel binary"),
        ("relay-userspace (base)", "MTLSD_BENCH_BASE"),
    ] {
        let failure = list(&run, "systems", "name", system)[0]["failure"].as_str().expect("it cannot run");
        assert!(failure.contains(reason), "{failure}");
        assert!(list(&run, "rows", "system", system).is_empty(), "{run}");
        assert!(output.stderr.contains(&format!("{system} does not run")), "{output}");
    }
    assert!(rate(list(&run, "rows", "system", "plain")[0]) > 0.0);
}

#[test]
fn what_measures_nothing_is_refused() {
    let lab = Lab::new(&[]);
    for (words, why) in [
        (&["run", "--rounds", "0"][..], "--rounds 0"),
        (&["run", "--only", "paced"], "needs `requests`"),
        (&["report", "/no/run.json", "/tmp"], "/no/run.json"),
    ] {
        let output = bench(&lab, None).args(words).run().fails();
        assert!(output.stderr.contains(why), "{output}");
    }
}
