//! The Workload API.

use std::collections::BTreeMap;

use rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::identity::agent::MAX_MESSAGE;
use crate::identity::agent::messages::{FETCH_X509_SVID, X509Svid, X509SvidResponse};
use crate::identity::{IdentitySource, WorkloadApiSource};

const WEB: &str = "spiffe://example.org/web";
const DB: &str = "spiffe://example.org/db";

/// A trust domain, the agent that serves it, and the store of a node with `web` (and `db`, if it is wanted).
struct World {
    ca: TestCa,
    server: Server,
    agent: Arc<Agent>,
    node: Node,
}

fn message(ca: &TestCa, id: &str, leaf: &TestLeaf) -> X509Svid {
    X509Svid {
        spiffe_id: id.into(),
        x509_svid: leaf.chain.iter().flat_map(|der| der.to_vec()).collect(),
        x509_svid_key: leaf.private_key().secret_der().to_vec(),
        bundle: ca.der.to_vec(),
    }
}

fn with(mut svid: X509Svid, change: impl FnOnce(&mut X509Svid)) -> X509Svid {
    change(&mut svid);
    svid
}

fn response(svids: Vec<X509Svid>) -> X509SvidResponse {
    X509SvidResponse { svids, ..X509SvidResponse::default() }
}

impl World {
    fn start() -> Self {
        Self::with(QUICK)
    }

    fn with(timing: Timing) -> Self {
        let server = Server::start();
        let agent = Arc::new(Agent::new(&server.socket(), timing));
        let world = Self { ca: TestCa::root("root"), server, agent, node: Node::start() };
        world.wants(&["web"]);
        world
    }

    fn wants(&self, workloads: &[&str]) {
        let source = |name: &str| -> Arc<dyn IdentitySource> {
            let id = format!("spiffe://example.org/{name}").parse().unwrap();
            Arc::new(WorkloadApiSource::new(Arc::clone(&self.agent), id))
        };
        let wanted = workloads.iter().map(|name| ((*name).to_owned(), source(name))).collect();
        assert!(self.node.store.apply(wanted).is_empty());
    }

    fn leaf(&self, id: &str) -> TestLeaf {
        self.ca.leaf(&LeafSpec::id(id))
    }

    fn says(&self, response: &X509SvidResponse) {
        self.server.say(FETCH_X509_SVID, Reply::of(response));
    }

    /// Gives `web` an identity.
    async fn ready(&self) -> (TestLeaf, X509SvidResponse) {
        let leaf = self.leaf(WEB);
        let response = response(vec![message(&self.ca, WEB, &leaf)]);
        self.says(&response);
        self.node.has("web", &leaf).await;
        (leaf, response)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_svid_and_each_that_follows_is_used() {
    let root = TestCa::root("root");
    let world = World { ca: root.intermediate("intermediate"), ..World::start() };
    let first = world.leaf(WEB);
    let mut svid = message(&world.ca, WEB, &first);
    svid.bundle = [root.der.to_vec(), TestCa::root("next").der.to_vec()].concat();
    let bundle = svid.bundle.clone();
    world.says(&response(vec![svid]));
    world.node.has("web", &first).await;
    let bundles = world.node.store.get("web").unwrap().bundles.clone();
    assert_eq!(bundles.get(&"example.org".parse().unwrap()).unwrap().roots().len(), 2);
    assert_eq!(first.chain.len(), 2);
    let status = world.node.status("web");
    assert_eq!((status.source, status.fetched, status.last_error), ("workload_api", 1, None));
    assert_eq!(status.next_renewal, None, "the agent rotates");
    let second = world.leaf(WEB);
    world.says(&response(vec![with(message(&world.ca, WEB, &second), |svid| svid.bundle = bundle)]));
    world.node.has("web", &second).await;
    assert_eq!(world.server.started(), 1, "on the same stream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_workload_has_the_svid_with_its_id_and_all_share_one_stream() {
    let world = World::start();
    world.wants(&["web", "db"]);
    let (web, db) = (world.leaf(WEB), world.leaf(DB));
    let both = vec![message(&world.ca, DB, &db), message(&world.ca, WEB, &web)];
    world.says(&response(both));
    world.node.has("web", &web).await;
    world.node.has("db", &db).await;
    // A reload that adds one, and one that leaves none.
    world.wants(&["web", "db", "other"]);
    world
        .node
        .complains(
            "other",
            "the agent gives mtlsd the SVIDs of spiffe://example.org/db, spiffe://example.org/web, and none of",
        )
        .await;
    assert_eq!((world.server.connections(), world.server.started()), (1, 1));
    assert_eq!(world.node.status("web").fetched, 1);
    world.wants(&[]);
    eventually("the stream ends with the last that uses it", || world.server.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_of_one_leaves_the_others_alone() {
    let world = World::start();
    world.wants(&["web", "db"]);
    let (web, db) = (world.leaf(WEB), world.leaf(DB));
    world.says(&response(vec![message(&world.ca, DB, &db), message(&world.ca, WEB, &web)]));
    world.node.has("web", &web).await;
    let new = world.leaf(DB);
    world.says(&response(vec![message(&world.ca, DB, &new), message(&world.ca, WEB, &web)]));
    world.node.has("db", &new).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(world.node.status("web").fetched, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_of_federated_trust_domains_come_and_go() {
    let world = World::start();
    let (_, mut response) = world.ready().await;
    assert_eq!(world.node.domains("web"), ["example.org"]);
    let partner = TestCa::root("partner");
    let federated: BTreeMap<_, _> = [
        ("spiffe://partner.example".to_owned(), partner.der.to_vec()),
        // The own trust domain has the roots that come with the SVID, and no others.
        ("spiffe://example.org".to_owned(), partner.der.to_vec()),
    ]
    .into();
    response.federated_bundles = federated;
    response.crl = vec![b"ignored".to_vec()];
    world.says(&response);
    eventually("added", || world.node.domains("web") == ["example.org", "partner.example"]).await;
    let identity = world.node.store.get("web").unwrap();
    let own = identity.bundles.get(&"example.org".parse().unwrap()).unwrap();
    assert_eq!(own, &world.ca.bundle());
    response.federated_bundles.clear();
    world.says(&response);
    eventually("removed", || world.node.domains("web") == ["example.org"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_denied_or_no_longer_there_is_given_up_at_once_and_may_come_back() {
    let world = World::start();
    let (leaf, good) = world.ready().await;
    let other = world.leaf(DB);
    world.says(&response(vec![message(&world.ca, DB, &other)]));
    eventually("withdrawn by absence", || world.node.store.get("web").is_none()).await;
    assert!(world.node.error("web").contains("the identity was withdrawn: "), "{}", world.node.error("web"));
    world.says(&good);
    world.node.has("web", &leaf).await;
    assert_eq!(world.node.error("web"), "");
    world.server.say(FETCH_X509_SVID, Reply::Status(7, "no identity issued"));
    eventually("withdrawn by denial", || world.node.store.get("web").is_none()).await;
    assert!(world.node.error("web").contains("no identity issued"), "{}", world.node.error("web"));
    world.says(&good);
    world.node.has("web", &leaf).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_agent_is_away_the_identity_stays_and_then_nothing_is_new() {
    let mut world = World::start();
    let (leaf, _) = world.ready().await;
    let generation = world.node.store.subscribe();
    world.server.stop().await;
    world.node.complains("web", "cannot connect: No such file or directory").await;
    assert_eq!(world.node.chain("web"), Some(leaf.chain.clone()));
    assert!(world.node.status("web").valid);
    world.server.restart();
    eventually("heard again", || world.node.error("web").is_empty()).await;
    assert_eq!(world.node.status("web").fetched, 1, "what was said before is not new");
    assert!(!generation.has_changed().unwrap(), "and nobody is told of it");
    let new = world.leaf(WEB);
    world.says(&response(vec![message(&world.ca, WEB, &new)]));
    world.node.has("web", &new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_there_later_is_found() {
    let mut world = World::start();
    world.server.stop().await;
    world.node.complains("web", "agent.sock: cannot connect: ").await;
    world.server.restart();
    world.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_says_nothing_is_asked_again() {
    let world = World::with(Timing { first_answer: Duration::from_millis(200), ..QUICK });
    world.node.complains("web", "the agent had not answered FetchX509SVID after 200ms; see its log").await;
    eventually("asked again", || world.server.started() > 2).await;
    eventually("the old call is given up", || world.server.open() <= 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_agent_is_shown_and_withdraws_nothing() {
    let world = World::start();
    let (leaf, _) = world.ready().await;
    for (code, name) in [(13, "Internal"), (14, "Unavailable"), (3, "InvalidArgument")] {
        world.server.say(FETCH_X509_SVID, Reply::Status(code, "workload attestation failed"));
        let text = format!("FetchX509SVID failed with {name}: workload attestation failed");
        world.node.complains("web", &text).await;
    }
    world.server.say(FETCH_X509_SVID, Reply::Status(0, ""));
    world.node.complains("web", "the agent ended FetchX509SVID").await;
    assert_eq!(world.node.chain("web"), Some(leaf.chain));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_answer_is_refused_with_its_field_and_the_last_good_identity_stays() {
    let world = World::start();
    let (leaf, good) = world.ready().await;
    let (other, foreign) = (world.leaf(WEB), TestCa::root("foreign"));
    let expired =
        world.ca.leaf(&LeafSpec { not_after: std::time::SystemTime::now() - HOUR / 2, ..LeafSpec::id(WEB) });
    let svid = |change: &dyn Fn(&mut X509Svid)| {
        response(vec![with(message(&world.ca, WEB, &world.leaf(WEB)), change)])
    };
    let federated = |key: &str, der: &[u8]| X509SvidResponse {
        federated_bundles: [(key.to_owned(), der.to_vec())].into(),
        ..good.clone()
    };
    let key = |leaf: &TestLeaf| match leaf.private_key() {
        PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der().to_vec(),
        _ => unreachable!(),
    };
    let twice = X509SvidResponse {
        federated_bundles: [("spiffe://b", &foreign.der), ("b", &foreign.der)]
            .map(|(key, der)| (key.to_owned(), der.to_vec()))
            .into(),
        ..good.clone()
    };
    for (answer, part) in [
        (response(vec![]), "svids: it is empty, and the protocol wants a value"),
        (svid(&|svid| svid.spiffe_id.clear()), "svids[0].spiffe_id: it is empty"),
        (
            svid(&|svid| svid.spiffe_id = "web".into()),
            "svids[0].spiffe_id: \"web\" is not usable: it does not start",
        ),
        (svid(&|svid| svid.x509_svid.clear()), "svids[0].x509_svid: it is empty"),
        (
            svid(&|svid| svid.x509_svid = b"garbage".into()),
            "svids[0].x509_svid: certificate 1 cannot be parsed",
        ),
        (
            svid(&|svid| svid.x509_svid.extend([0x30, 3])),
            "svids[0].x509_svid: certificate 2 cannot be parsed",
        ),
        (svid(&|svid| svid.x509_svid = svid.x509_svid.repeat(11)), "svids[0].x509_svid: the chain has 11"),
        (svid(&|svid| svid.x509_svid_key.clear()), "svids[0].x509_svid_key: it is empty"),
        (
            svid(&|svid| svid.x509_svid_key = b"garbage".into()),
            "svids[0].x509_svid: the private key cannot be used",
        ),
        (svid(&|svid| svid.x509_svid_key = key(&other)), "the private key does not belong to certificate"),
        (svid(&|svid| svid.bundle.clear()), "svids[0].bundle: it is empty"),
        (svid(&|svid| svid.bundle = b"garbage".into()), "svids[0].bundle: certificate 1 cannot be parsed"),
        (
            svid(&|svid| svid.bundle = svid.x509_svid.clone()),
            "svids[0].bundle: certificate 1 of the bundle, \"\", is not a CA",
        ),
        (
            svid(&|svid| svid.bundle = foreign.der.to_vec()),
            "the roots of the trust domain example.org do not verify",
        ),
        (
            response(vec![message(&world.ca, WEB, &world.leaf(DB))]),
            "the certificate says spiffe://example.org/db, and",
        ),
        (response(vec![message(&world.ca, WEB, &expired)]), "svids[0].x509_svid: certificate"),
        (
            federated("spiffe://b", b"garbage"),
            "federated_bundles[\"spiffe://b\"]: certificate 1 cannot be parsed",
        ),
        (federated("spiffe://b", b""), "federated_bundles[\"spiffe://b\"]: it is empty"),
        (federated("spiffe://b/x", &foreign.der), "spiffe://b/x is the ID of a workload"),
        (federated("B", &foreign.der), "federated_bundles[\"B\"]: \"B\" is not usable"),
        (twice, "the trust domain b is there twice"),
    ] {
        world.says(&answer);
        world.node.complains("web", part).await;
        let error = world.node.error("web");
        assert!(error.contains("agent.sock: the answer to FetchX509SVID is refused: "), "{error}");
        assert_eq!(world.node.chain("web"), Some(leaf.chain.clone()), "{part}");
    }
    assert_eq!(world.server.started(), 1, "the stream goes on");
    world.says(&good);
    eventually("good again", || world.node.error("web").is_empty()).await;
    assert_eq!(world.node.status("web").fetched, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_or_too_large_a_one_is_refused() {
    let world = World::start();
    let (leaf, good) = world.ready().await;
    world.server.say(FETCH_X509_SVID, Reply::Message(vec![0xff; 9]));
    world.node.complains("web", "FetchX509SVID failed with Internal: failed to decode").await;
    let large = X509SvidResponse { crl: vec![vec![0; MAX_MESSAGE]], ..good.clone() };
    world.says(&large);
    world.node.complains("web", "FetchX509SVID failed with OutOfRange").await;
    assert_eq!(world.node.chain("web"), Some(leaf.chain));
    world.says(&good);
    eventually("good again", || world.node.error("web").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_svid_of_somebody_else_that_is_not_usable_is_no_harm() {
    let world = World::start();
    let leaf = world.leaf(WEB);
    let broken = with(message(&world.ca, DB, &world.leaf(DB)), |svid| svid.x509_svid = b"garbage".into());
    world.says(&response(vec![broken, message(&world.ca, WEB, &leaf)]));
    world.node.has("web", &leaf).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_is_one_for_all_who_name_its_socket() {
    let server = Server::start();
    let agent = Agent::at(&server.socket());
    assert!(Arc::ptr_eq(&agent, &Agent::at(&server.socket())));
    assert!(!Arc::ptr_eq(&agent, &Agent::at(&server.socket().with_extension("other"))));
}
