//! Identities from a SPIFFE agent: while it is away everything goes on, until a certificate ends.

use mtls_tests::certs::{Authority, Leaf};
use mtls_tests::programs::agent::{Agent, Answer};
use mtls_tests::{Daemon, Pair, STRICT_PAIR, eventually, slow};

const WEB: &str = "spiffe://example.org/web";
const DB: &str = "spiffe://example.org/db";

/// Both workloads' SVIDs: that of `web` for so many seconds.
fn both(site: &Authority, web: u64) -> Answer {
    let until = time::Duration::try_from(slow::limit(web)).expect("some seconds");
    let web = Leaf { from: -time::Duration::SECOND, until, ..Leaf::good(WEB) };
    Answer::default().svid(site, &web).svid(site, &Leaf::good(DB))
}

fn alarm(daemon: &Daemon) -> f64 {
    daemon.metric("mtlsd_identity_alarm", &[("workload", "web")])
}

fn trouble(daemon: &Daemon) -> String {
    let workloads = daemon.ask(&["workloads"]);
    let web = workloads.as_array().expect("a list").iter().find(|w| w["name"] == "web").expect("web");
    web["identity_error"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn an_agent_whose_socket_is_gone_is_alarmed_before_the_end_and_heard_again_without_a_restart() {
    let lab = Pair::lab();
    let site = Authority::new(lab.dir(), "site");
    let socket = lab.dir().join("agent.sock");
    let mut agent = Agent::start(&socket);
    agent.say(both(&site, 50));
    let issuer = format!("{{ name: spire, workload_api: {{ socket: {} }} }}", socket.display());
    let alarms = "alarms: { warning: 60%, critical: 30% }";
    let identity = format!("identity: {{ issuer: spire, issuers: [ {issuer} ], {alarms} }}\n");
    let pair = Pair::configured(lab, &format!("{STRICT_PAIR}{identity}"));
    pair.works();
    let source = pair.daemon.ask(&["workloads"])[0]["identity_source"].clone();
    assert_eq!(source, "workload_api");

    agent.away();
    let error = eventually(slow::limit(30), "the loss in the status", || {
        Some(trouble(&pair.daemon)).filter(|error| error.contains("cannot connect"))
    });
    assert!(error.contains(&socket.display().to_string()), "it names the socket: {error}");
    pair.works();
    for level in [1.0, 2.0] {
        let what = format!("the alarm of web to be {level}");
        eventually(slow::limit(60), &what, || (alarm(&pair.daemon) > level - 0.1).then_some(()));
    }
    let status = pair.daemon.ask(&["status"])["alarms"].to_string();
    assert!(status.contains("workload web") && status.contains("cannot connect"), "{status}");
    eventually(slow::limit(60), "the end of web's certificate", || (alarm(&pair.daemon) > 2.9).then_some(()));
    pair.curl(pair.http()[0]).fails();
    let closed = pair.daemon.wait_for_log("web to be closed", |r| r.refused() && r.workload() == "web");
    assert_eq!(closed.reason(), "no_identity", "{closed:?}");

    // Whoever mends the agent does nothing to mtlsd.
    agent.say(both(&site, 3600));
    agent.back();
    eventually(slow::limit(60), "web to work again", || {
        (pair.curl(pair.http()[0]).code == Some(0)).then_some(())
    });
    pair.works();
    eventually(slow::limit(20), "the alarm to be over", || (alarm(&pair.daemon) < 0.1).then_some(()));
    assert_eq!(trouble(&pair.daemon), "");
}
