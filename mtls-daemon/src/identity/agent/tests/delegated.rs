//! The Delegated Identity API.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::identity::agent::messages::{
    Certificates, SUBSCRIBE_TO_X509_BUNDLES, SUBSCRIBE_TO_X509_SVIDS, SpiffeIdParts,
    SubscribeToX509BundlesResponse, SubscribeToX509SvidsResponse, X509SvidWithKey,
};
use crate::identity::{DelegatedSource, IdentitySource};

const WEB: &str = "spiffe://example.org/web";
/// The registration entry's selectors, which travel sorted.
const SELECTORS: &str = "k8s:ns:shop,unix:uid:1000";

/// A trust domain, the agent that serves it, and the store of a node.
struct World {
    ca: TestCa,
    server: Server,
    agent: Arc<Agent>,
    node: Node,
}

fn message(id: &str, leaf: &TestLeaf) -> X509SvidWithKey {
    let (trust_domain, path) = id.trim_start_matches("spiffe://").split_once('/').unwrap();
    let id = SpiffeIdParts { trust_domain: trust_domain.into(), path: format!("/{path}") };
    let cert_chain = leaf.chain.iter().map(|der| der.to_vec()).collect();
    let mut message = X509SvidWithKey::default();
    message.x509_svid = Some(Certificates { cert_chain, id: Some(id) });
    message.x509_svid_key = leaf.private_key().secret_der().to_vec();
    message
}

fn response(x509_svids: Vec<X509SvidWithKey>) -> SubscribeToX509SvidsResponse {
    SubscribeToX509SvidsResponse { x509_svids, federates_with: vec![] }
}

fn key(selectors: &str) -> String {
    format!("{SUBSCRIBE_TO_X509_SVIDS}?{selectors}")
}

impl World {
    fn start() -> Self {
        let server = Server::start();
        let agent = Arc::new(Agent::new(&server.socket(), QUICK));
        let world = Self { ca: TestCa::root("root"), server, agent, node: Node::start() };
        world.wants(&[("web", "unix:uid:1000,k8s:ns:shop")]);
        world.trusts(&[("spiffe://example.org", &world.ca)]);
        world
    }

    fn wants(&self, workloads: &[(&str, &str)]) {
        let source = |name: &str, selectors: &str| -> Arc<dyn IdentitySource> {
            let id = format!("spiffe://example.org/{name}").parse().unwrap();
            let selectors: BTreeSet<_> = selectors.split(',').map(|text| text.parse().unwrap()).collect();
            Arc::new(DelegatedSource::new(Arc::clone(&self.agent), id, selectors))
        };
        let wanted = workloads.iter().map(|(name, of)| ((*name).to_owned(), source(name, of))).collect();
        assert!(self.node.store.apply(wanted).is_empty());
    }

    fn trusts(&self, bundles: &[(&str, &TestCa)]) {
        let map = bundles.iter().map(|(domain, ca)| ((*domain).to_owned(), ca.der.to_vec())).collect();
        self.roots(map);
    }

    fn roots(&self, ca_certificates: BTreeMap<String, Vec<u8>>) {
        self.server
            .say(SUBSCRIBE_TO_X509_BUNDLES, Reply::of(&SubscribeToX509BundlesResponse { ca_certificates }));
    }

    fn says(&self, response: &SubscribeToX509SvidsResponse) {
        self.server.say(&key(SELECTORS), Reply::of(response));
    }

    fn leaf(&self, id: &str) -> TestLeaf {
        self.ca.leaf(&LeafSpec::id(id))
    }

    async fn ready(&self) -> (TestLeaf, SubscribeToX509SvidsResponse) {
        let leaf = self.leaf(WEB);
        let response = response(vec![message(WEB, &leaf)]);
        self.says(&response);
        self.node.has("web", &leaf).await;
        (leaf, response)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_has_the_svid_of_its_selectors_and_each_that_follows() {
    let world = World::start();
    let (_, _) = world.ready().await;
    assert_eq!(world.node.status("web").source, "delegated_identity");
    assert_eq!(world.node.domains("web"), ["example.org"]);
    let second = world.leaf(WEB);
    let mut svid = message(WEB, &second);
    // Consumers must take a path without its slash, too.
    svid.x509_svid.as_mut().unwrap().id.as_mut().unwrap().path = "web".into();
    world.says(&response(vec![svid]));
    world.node.has("web", &second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_set_of_selectors_is_one_stream_and_all_go_over_one_connection() {
    let world = World::start();
    let sets =
        [("web", "unix:uid:1000,k8s:ns:shop"), ("api", "k8s:ns:shop,unix:uid:1000"), ("db", "systemd:id:db")];
    world.wants(&sets);
    let (web, api, db) =
        (world.leaf(WEB), world.leaf("spiffe://example.org/api"), world.leaf("spiffe://example.org/db"));
    world.says(&response(vec![message("spiffe://example.org/api", &api), message(WEB, &web)]));
    world
        .server
        .say(&key("systemd:id:db"), Reply::of(&response(vec![message("spiffe://example.org/db", &db)])));
    world.node.has("web", &web).await;
    world.node.has("api", &api).await;
    world.node.has("db", &db).await;
    // Two sets, and the roots.
    assert_eq!((world.server.connections(), world.server.started()), (1, 3));
    world.wants(&sets[..1]);
    eventually("db's stream ends", || world.server.open() == 2).await;
    assert_eq!(world.node.chain("web"), Some(web.chain));
    world.wants(&[]);
    eventually("all streams end", || world.server.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_federated_trust_domains_of_the_workload_are_trusted() {
    let world = World::start();
    let (_, mut answer) = world.ready().await;
    let (partner, other) = (TestCa::root("partner"), TestCa::root("other"));
    // With and without the scheme: SPIRE's definitions say names, its agents send IDs.
    world.trusts(&[
        ("example.org", &world.ca),
        ("spiffe://partner.example", &partner),
        ("other.example", &other),
    ]);
    answer.federates_with = vec!["spiffe://partner.example".into(), "unknown.example".into()];
    world.says(&answer);
    eventually("added", || world.node.domains("web") == ["example.org", "partner.example"]).await;
    world.trusts(&[("example.org", &world.ca)]);
    eventually("removed", || world.node.domains("web") == ["example.org"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_denied_or_no_longer_there_is_given_up_at_once_and_may_come_back() {
    let world = World::start();
    let (leaf, good) = world.ready().await;
    for reply in [
        Reply::of(&response(vec![])),
        Reply::of(&response(vec![message("spiffe://example.org/x", &world.leaf("spiffe://example.org/x"))])),
        Reply::Status(7, "caller not configured as an authorized delegate"),
    ] {
        world.server.say(&key(SELECTORS), reply);
        eventually("withdrawn", || world.node.store.get("web").is_none()).await;
        let error = world.node.error("web");
        assert!(error.contains("the identity was withdrawn: "), "{error}");
        assert!(
            error.contains("authorized delegate") || error.contains("k8s:ns:shop, unix:uid:1000"),
            "{error}"
        );
        world.says(&good);
        world.node.has("web", &leaf).await;
    }
    world.server.say(SUBSCRIBE_TO_X509_BUNDLES, Reply::Status(7, "no identity issued"));
    eventually("withdrawn with the roots", || world.node.store.get("web").is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_agent_is_away_the_identity_stays_and_then_nothing_is_new() {
    let mut world = World::start();
    let (leaf, _) = world.ready().await;
    world.server.stop().await;
    world.node.complains("web", "cannot connect: ").await;
    assert_eq!(world.node.chain("web"), Some(leaf.chain));
    world.server.restart();
    eventually("heard again", || world.node.error("web").is_empty()).await;
    assert_eq!(world.node.status("web").fetched, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_answer_is_refused_with_its_field_and_the_last_good_identity_stays() {
    let world = World::start();
    let (leaf, good) = world.ready().await;
    let svid = |change: &dyn Fn(&mut X509SvidWithKey, &mut Certificates)| {
        let mut svid = message(WEB, &world.leaf(WEB));
        let mut inner = svid.x509_svid.take().unwrap();
        change(&mut svid, &mut inner);
        svid.x509_svid = Some(inner);
        response(vec![svid])
    };
    let mut no_svid = message(WEB, &leaf);
    no_svid.x509_svid = None;
    let federates =
        SubscribeToX509SvidsResponse { federates_with: vec!["spiffe://b/x".into()], ..good.clone() };
    for (answer, part) in [
        (response(vec![no_svid]), "x509_svids[0].x509_svid: it is empty"),
        (svid(&|_, svid| svid.id = None), "x509_svids[0].x509_svid.id: it is empty"),
        (
            svid(&|_, svid| svid.id = Some(SpiffeIdParts::default())),
            "x509_svids[0].x509_svid.id: \"spiffe:///\"",
        ),
        (svid(&|_, svid| svid.cert_chain.clear()), "x509_svids[0].x509_svid.cert_chain: it is empty"),
        (
            svid(&|_, svid| svid.cert_chain = vec![b"garbage".into()]),
            "certificate 1 of the chain cannot be parsed",
        ),
        (svid(&|svid, _| svid.x509_svid_key.clear()), "x509_svids[0].x509_svid_key: it is empty"),
        (svid(&|svid, _| svid.x509_svid_key = b"x".into()), "the private key cannot be used"),
        (
            response(vec![message(WEB, &world.leaf("spiffe://example.org/db"))]),
            "the certificate says spiffe://example.org/db",
        ),
        (federates, "federates_with[0]: spiffe://b/x is the ID of a workload"),
    ] {
        world.says(&answer);
        world.node.complains("web", part).await;
        let error = world.node.error("web");
        assert!(error.contains("agent.sock: the answer to SubscribeToX509SVIDs is refused: "), "{error}");
        assert_eq!(world.node.chain("web"), Some(leaf.chain.clone()), "{part}");
    }
    world.says(&good);
    eventually("good again", || world.node.error("web").is_empty()).await;

    let foreign = TestCa::root("foreign");
    let roots = |list: &[(&str, &[u8])]| -> BTreeMap<String, Vec<u8>> {
        list.iter().map(|(domain, der)| ((*domain).to_owned(), der.to_vec())).collect()
    };
    let ours: &[u8] = &world.ca.der;
    for (map, part) in [
        (roots(&[]), "ca_certificates: it has no roots of example.org"),
        (
            roots(&[("spiffe://example.org", &foreign.der)]),
            "the roots of the trust domain example.org do not verify",
        ),
        (roots(&[("spiffe://example.org", b"")]), "ca_certificates[\"spiffe://example.org\"]: it is empty"),
        (
            roots(&[("spiffe://example.org", ours), ("example.org", ours)]),
            "the trust domain example.org is there twice",
        ),
        (roots(&[("a b", ours)]), "ca_certificates[\"a b\"]: \"a b\" is not usable"),
    ] {
        world.roots(map);
        world.node.complains("web", part).await;
        let error = world.node.error("web");
        assert!(error.contains("the answer to SubscribeToX509Bundles is refused: "), "{error}");
        assert_eq!(world.node.chain("web"), Some(leaf.chain.clone()), "{part}");
    }
    world.trusts(&[("example.org", &world.ca)]);
    eventually("good again", || world.node.error("web").is_empty()).await;
    assert_eq!(world.node.status("web").fetched, 1);
}
