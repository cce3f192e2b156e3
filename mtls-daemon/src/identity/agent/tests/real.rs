//! Against an agent that is there already, such as SPIRE's: `cargo test -p mtls-daemon --lib -- --ignored a_real_agent` with
//! `MTLSD_TEST_SPIFFE_ID`, and `MTLSD_TEST_WORKLOAD_API` or both of `MTLSD_TEST_ADMIN_SOCKET` and `MTLSD_TEST_SELECTORS`
//! (`TYPE:VALUE,…`).

use std::path::Path;

use super::*;
use crate::identity::{DelegatedSource, IdentitySource, WorkloadApiSource};

async fn gives_an_identity(source: Arc<dyn IdentitySource>) {
    let node = Node::start();
    node.store.apply([("web".to_owned(), source)].into());
    let given =
        tokio::time::timeout(LIMIT, eventually("an identity", || node.store.get("web").is_some())).await;
    given.unwrap_or_else(|_| panic!("{}", node.error("web")));
    println!("{:#?}, roots of {:?}", node.status("web"), node.domains("web"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an agent"]
async fn a_real_agent_gives_an_identity() {
    let given = |name: &str| std::env::var(name).ok();
    let id: crate::identity::SpiffeId = given("MTLSD_TEST_SPIFFE_ID").unwrap().parse().unwrap();
    let sockets = [given("MTLSD_TEST_WORKLOAD_API"), given("MTLSD_TEST_ADMIN_SOCKET")];
    assert!(sockets.iter().any(Option::is_some), "name a socket");
    let [workload_api, admin] = sockets;
    if let Some(socket) = workload_api {
        gives_an_identity(Arc::new(WorkloadApiSource::new(Agent::at(Path::new(&socket)), id.clone()))).await;
    }
    if let Some(socket) = admin {
        let selectors = given("MTLSD_TEST_SELECTORS").unwrap();
        let selectors = selectors.split(',').map(|text| text.parse().unwrap()).collect();
        gives_an_identity(Arc::new(DelegatedSource::new(Agent::at(Path::new(&socket)), id, selectors))).await;
    }
}
