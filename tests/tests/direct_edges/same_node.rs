//! Both applications on one node.

use mtls_tests::direct::{Address, HTTP, direct_records};
use mtls_tests::hold::why_not_direct;
use mtls_tests::lab::{Lab, NODE};
use mtls_tests::{could_not_run, eventually, programs, slow};

#[test]
fn two_workloads_of_one_node_talk_by_their_own_sockets() {
    if let Some(why) = why_not_direct() {
        return could_not_run(two_workloads_of_one_node_talk_by_their_own_sockets, why);
    }
    let address = Address::new();
    let lab = Lab::new(&["web", "db"]);
    let yaml = format!(
        r#"
workloads:
  - {{ name: web, select: {{ netns: $web.netns }}, direct: auto }}
  - {{ name: db, select: {{ netns: $db.netns }}, addresses: ["$db.v4"], direct: auto }}
policy: [ {{ name: web-only, action: allow, from: {{ spiffe_ids: ["spiffe://example.org/web"] }} }} ]
direct: {{ listen: "{}:15080" }}
"#,
        address.0
    );
    let mut daemon = lab.prepare(NODE, &yaml);
    daemon.ca_init();
    daemon.start();
    let _nginx = programs::nginx(lab.pod("db"), HTTP);
    let url = format!("http://{}/", lab.pod("db").at(HTTP));
    let get = || lab.pod("web").cmd("curl").args(["-sS", "--max-time", "60"]).arg(&url).run().ok().text();
    assert_eq!(get(), "hello from db");
    eventually(slow::limit(20), "a session of the daemon with itself", || {
        daemon.printed().contains("a session for direct connections is there").then_some(())
    });
    let capture = lab.capture();
    for _ in 0..3 {
        assert_eq!(get(), "hello from db", "{}", daemon.printed());
    }
    for workload in ["web", "db"] {
        for record in direct_records(&daemon, workload, 3) {
            assert_eq!(record.reason(), "", "{record:?}");
            assert!(record.peer_proven(), "{record:?}");
        }
    }
    let traffic = capture.stop();
    traffic.assert_absent(b"hello from");
    traffic.assert_only_tls(HTTP);
}
