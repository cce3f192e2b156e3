//! The rules are replaced again and again while connections come: each is decided by one version of them, whole, and what every
//! version says of a peer always holds.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mtls_tests::lab::{NODE, Process, Record};
use mtls_tests::{Daemon, Lab, eventually, programs, slow};
use serde_json::json;

const PORT: u16 = 7000;
const STREAMS: u16 = 7001;
const WEB: &str = "spiffe://example.org/web";
const BAD: &str = "spiffe://example.org/bad";
/// Rules that a version has besides those that matter.
const FURTHER: usize = 1_000;
/// What may be held besides what was held before: allocations that fragment, and the records of the connections since.
const ROOM: u64 = 32 * 1024;

/// Each version says the same of `web` and `bad`, by rules of its own, and marks its decisions by an audit rule of its own.
fn version(mark: &str, further: usize) -> String {
    let mut yaml = format!(
        "workloads: [ {{ name: far, select: {{ netns: $far.netns }} }} ]\n\
         recorder: {{ entries: 256 }}\n\
         policy:\n\
         \x20 - {{ name: allow-{mark}, action: allow, from: {{ spiffe_ids: [\"{WEB}\"] }} }}\n\
         \x20 - {{ name: anybody-{mark}, action: allow, from: {{ trust_domains: [example.org] }} }}\n\
         \x20 - {{ name: deny-{mark}, action: deny, from: {{ spiffe_ids: [\"{BAD}\"] }} }}\n\
         \x20 - {{ name: seen-{mark}, action: audit }}\n"
    );
    for number in 0..further {
        yaml.push_str(&format!(
            "  - {{ name: further-{number}, action: deny, from: {{ spiffe_ids: [\"spiffe://example.org/no/{number}\"] }} }}\n"
        ));
    }
    yaml
}

/// Kilobytes that the process has in memory, and its descriptors.
fn held(daemon: &mut Daemon) -> (u64, usize) {
    let pid = daemon.process().pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let rss = line.trim().trim_end_matches(" kB").parse().expect("a number");
    (rss, fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count())
}

/// Rounds of short connections of one pod until it is over, each round to its end; how many connections there were, and how
/// many of them failed.
fn knock(lab: &Lab, pod: &str, over: &AtomicBool) -> (u64, u64) {
    let to = lab.pod("far").at(PORT).to_string();
    let (mut total, mut failed) = (0, 0);
    loop {
        let last = over.load(Ordering::SeqCst);
        let round = lab.pod(pod).own("load").args(["short", &to, "40", "4"]).run().json();
        total += round["total"].as_u64().expect("a number");
        failed += round["failed"].as_u64().expect("a number");
        if last {
            return (total, failed);
        }
    }
}

/// A connection that says a line now and then.
fn stream(lab: &Lab) -> Process {
    let to = lab.pod("far").at(STREAMS).to_string();
    let mut client = lab.pod("web").own("probe").args(["connect", &to, "--ask"]).piped().spawn();
    client.wait_for(r#""connect":"ok""#);
    client
}

/// The mark at the end of a rule's name.
fn mark(rule: &str) -> &str {
    rule.rsplit('-').next().expect("a name")
}

#[test]
fn while_rules_are_replaced_nobody_slips_in_or_is_turned_away_and_each_decision_is_of_one_version() {
    let mut lab = Lab::new(&["web", "bad"]);
    lab.add_node("n2");
    lab.add_pod("n2", "far");
    let mut here = lab.prepare(
        NODE,
        &format!(
            "workloads:\n  - {{ name: web, select: {{ netns: $web.netns }} }}\n  - {{ name: bad, select: {{ netns: $bad.netns }} }}\n\
             directory: [ {{ name: far, addresses: [\"$far.v4\"], ports: [{PORT}, {STREAMS}], spiffe_ids: [\"spiffe://example.org/far\"] }} ]\n"
        ),
    );
    here.ca_init();
    let versions = [version("one", 0), version("two", FURTHER)].map(|yaml| lab.expand(&yaml));
    let mut there = lab.prepare("n2", &versions[0]);
    there.share_ca(&here);
    here.start();
    there.start();
    let _server = programs::load(lab.pod("far"), PORT);
    let mut echo = programs::probe(lab.pod("far"), STREAMS, &[]);
    let mut streams: Vec<_> = (0..4).map(|_| stream(&lab)).collect();

    let reload = |there: &Daemon, yaml: &str, wanted: bool| {
        there.configure(yaml);
        let report = there.ask(&["reload"]);
        assert_eq!(report["applied"], wanted, "{report}");
    };
    // Twice around, so that what each version needs has been allocated once.
    for yaml in versions.iter().rev().chain(versions.iter().rev()) {
        reload(&there, yaml, true);
    }
    let warm = ["web", "bad"].map(|pod| knock(&lab, pod, &AtomicBool::new(true)).0);
    let before = held(&mut there);

    let over = AtomicBool::new(false);
    let rounds = slow::scaled(17, 4);
    let broken = versions[0].replace("action: audit", "action: perhaps");
    let mut said = String::new();
    let (web, bad) = thread::scope(|scope| {
        // Also when this thread panics, or the others would go on for ever.
        let _end = End(&over);
        let web = scope.spawn(|| knock(&lab, "web", &over));
        let bad = scope.spawn(|| knock(&lab, "bad", &over));
        for round in 0..rounds {
            for (yaml, wanted) in [(&versions[1], true), (&broken, false), (&versions[0], true)] {
                reload(&there, yaml, wanted);
            }
            let line = format!("{round},");
            said.push_str(&line);
            for client in &mut streams {
                client.write(format!("{line}\n").as_bytes());
            }
        }
        over.store(true, Ordering::SeqCst);
        (web.join().expect("web"), bad.join().expect("bad"))
    });
    println!("{rounds} rounds of 3 reloads: (connections, failed) of web {web:?}, of bad {bad:?}");
    assert!(web.0 > 0 && web.1 == 0, "web is allowed by every version: {web:?}");
    assert!(bad.0 > 0 && bad.1 == bad.0, "bad is denied by every version: {bad:?}");

    // Nothing was cut, lost or turned round in the streams.
    for client in &mut streams {
        client.close_stdin();
        let end = client.output(slow::limit(30)).text();
        assert!(
            end.contains(r#""receive":"ok""#) && end.contains(&format!(r#""received":"{said}""#)),
            "{end}"
        );
    }
    let echoed = echo.terminate().text();
    assert_eq!(echoed.matches(r#""accept""#).count(), streams.len(), "{echoed}");

    let all = usize::try_from(web.0 + bad.0 + warm[0] + warm[1]).expect("few") + streams.len();
    let inbound = || -> Vec<Record> { there.access_log().into_iter().filter(Record::inbound).collect() };
    let records = eventually(slow::limit(60), "a record of every connection", || {
        let records = inbound();
        (records.len() >= all).then_some(records)
    });
    assert_eq!(records.len(), all);
    let mut seen = BTreeSet::new();
    for record in &records {
        let action = match record.peer() {
            WEB => ("allow", false),
            BAD => ("deny", true),
            other => panic!("nobody knows {other}: {record:?}"),
        };
        assert_eq!(
            (record.policy().split('-').next(), record.refused()),
            (Some(action.0), action.1),
            "{record:?}"
        );
        assert!(!record.refused() || record.bytes() == 0, "{record:?}");
        // The rule that decided and the rule that only watched are of one version.
        assert_eq!(record.0["audit"], json!([format!("seen-{}", mark(record.policy()))]), "{record:?}");
        seen.insert(record.policy().to_owned());
    }
    let wanted = ["allow-one", "allow-two", "deny-one", "deny-two"];
    if rounds > 10 {
        assert_eq!(
            seen.iter().map(String::as_str).collect::<Vec<_>>(),
            wanted,
            "both versions were in force"
        );
    }

    // The access log's descriptor and the like stay; the streams' have gone.
    let after = held(&mut there);
    println!("held before: {before:?} (kB, descriptors), after: {after:?}");
    assert!(after.0 <= before.0 + ROOM, "{before:?} and {after:?}");
    assert!(after.1 <= before.1, "{before:?} and {after:?}");
    let reloads = |result| there.metric("mtlsd_config_reloads_total", &[("result", result)]);
    #[expect(clippy::cast_precision_loss, reason = "few")]
    let rounds = rounds as f64;
    assert!(reloads("applied") >= 2.0 * rounds && reloads("refused") >= rounds);
}

/// It is over when this goes.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
