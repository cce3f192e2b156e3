//! Against a server of Vault's published API.

mod refusals;
mod server;

use std::fs;
use std::sync::Arc;

use server::{Server, Token};

use super::*;
use crate::identity::issuer::Request;
use crate::identity::{IdentitySource, IssuerSource};

const SIGN: &str = "pki_int/sign/mesh";
const LOGIN: &str = "auth/approle/login";
const LOOKUP: &str = "auth/token/lookup-self";
const RENEW: &str = "auth/token/renew-self";

/// A server, and the files to log in with.
struct Scene {
    server: Server,
    files: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { server: Server::start(), files: tempfile::tempdir().unwrap() };
        scene.write("role", "role-1\n");
        scene.write("secret", "secret-of-the-role\n");
        scene.write("jwt", "jwt-of-the-pod");
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn app_role(&self) -> VaultAuth {
        let (role_id_file, secret_id_file) = (self.path("role"), self.path("secret"));
        VaultAuth::AppRole { role_id_file, secret_id_file, mount: "approle".into() }
    }

    fn kubernetes(&self) -> VaultAuth {
        let (jwt_file, mount) = (self.path("jwt"), "kubernetes".into());
        VaultAuth::Kubernetes { role: "mtlsd".into(), jwt_file, mount }
    }

    /// A token that lives, in a file.
    fn token(&self, name: &str, ttl: u64, renewable: bool) -> VaultAuth {
        self.server.state().tokens.insert(name.into(), Token { ttl, renewable, may_sign: true });
        self.write("token", name);
        VaultAuth::Token { file: self.path("token") }
    }

    fn settings(&self, auth: VaultAuth) -> VaultSettings {
        VaultSettings {
            address: format!("http://{}", self.server.address),
            mount: "pki_int".into(),
            role: "mesh".into(),
            namespace: None,
            ca_file: None,
            timeout: Duration::from_secs(20),
            auth,
        }
    }

    fn issuer(&self, auth: VaultAuth) -> Arc<VaultIssuer> {
        Arc::new(VaultIssuer::new("corp".into(), self.settings(auth)))
    }
}

fn source(issuer: &Arc<VaultIssuer>, workload: &str) -> IssuerSource {
    IssuerSource {
        name: "corp".into(),
        issuer: Arc::clone(issuer) as Arc<dyn Issuer>,
        request: Request {
            workload: workload.into(),
            id: format!("spiffe://example.org/{workload}").parse().unwrap(),
            dns_names: vec![format!("{workload}.example.org"), workload.into()],
            subject: crate::identity::Subject::default(),
            lifetime: Some(Duration::from_secs(600)),
        },
        key: None,
        bundle: None,
    }
}

fn fetched(issuer: &Arc<VaultIssuer>) -> Result<crate::identity::Identity, String> {
    source(issuer, "web").fetch(SystemTime::now()).map_err(|error| error.to_string())
}

#[test]
fn one_login_serves_all_workloads_and_only_a_csr_leaves() {
    let scene = Scene::new();
    let issuer = scene.issuer(scene.app_role());
    let (web, db) = (source(&issuer, "web"), source(&issuer, "db"));
    let (first, other) = (web.fetch(SystemTime::now()).unwrap(), db.fetch(SystemTime::now()).unwrap());
    assert_eq!(
        (first.svid.id.as_str(), other.svid.id.as_str()),
        (web.request.id.as_str(), db.request.id.as_str())
    );
    assert_eq!(first.bundles.iter().count(), 0, "roots are not taken from Vault");
    let state = scene.server.state();
    let chain: Vec<_> = first.svid.chain.iter().skip(1).collect();
    assert_eq!(chain, [&state.ca.der], "the intermediate is sent and the root is not");
    let asked: Vec<_> = state.asked.iter().map(|asked| asked.path.as_str()).collect();
    assert_eq!(asked, [LOGIN, SIGN, SIGN]);
    let sign = &state.asked[1];
    let body: serde_json::Value = serde_json::from_str(&sign.body).unwrap();
    assert!(body["csr"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE REQUEST-----\n"));
    assert_eq!(body["uri_sans"], "spiffe://example.org/web");
    assert_eq!(body["alt_names"], "web.example.org,web");
    assert_eq!((&body["ttl"], &body["format"]), (&"600s".into(), &"pem".into()));
    assert!(!sign.body.contains("PRIVATE KEY") && sign.token.is_some() && sign.namespace.is_none());
    assert_eq!((web.kind(), web.is_local(), web.renews()), ("vault", false, true));
}

#[test]
fn a_namespace_goes_with_every_request() {
    let scene = Scene::new();
    let settings = VaultSettings { namespace: Some("team/a".into()), ..scene.settings(scene.kubernetes()) };
    let issuer = Arc::new(VaultIssuer::new("corp".into(), settings));
    fetched(&issuer).unwrap();
    let state = scene.server.state();
    assert_eq!(state.asked.len(), 2);
    assert!(
        state.asked.iter().all(|asked| asked.namespace.as_deref() == Some("team/a")),
        "{:?}",
        state.asked
    );
}

#[test]
fn every_login_reads_its_files_anew() {
    let scene = Scene::new();
    for (issuer, login) in
        [(scene.issuer(scene.app_role()), LOGIN), (scene.issuer(scene.kubernetes()), "auth/kubernetes/login")]
    {
        fetched(&issuer).unwrap();
        // Everything is replaced: the token is revoked, and the secrets are others.
        let mut state = scene.server.state();
        state.tokens.clear();
        (state.secret_id, state.jwt) = ("secret-2".into(), "jwt-2".into());
        drop(state);
        let refused = fetched(&issuer).unwrap_err();
        assert!(refused.contains(login) && refused.contains("the login was refused (HTTP 40"), "{refused}");
        scene.write("secret", "secret-2");
        scene.write("jwt", "jwt-2\n");
        fetched(&issuer).unwrap();
        assert_eq!(scene.server.count(login), 3);
        let mut state = scene.server.state();
        (state.secret_id, state.jwt) = ("secret-of-the-role".into(), "jwt-of-the-pod".into());
        drop(state);
        scene.write("secret", "secret-of-the-role");
        scene.write("jwt", "jwt-of-the-pod");
    }
}

#[test]
fn a_token_in_a_file_is_looked_up_once_and_another_one_is_taken_at_once() {
    let scene = Scene::new();
    let issuer = scene.issuer(scene.token("hvs.first", 3600, true));
    fetched(&issuer).unwrap();
    fetched(&issuer).unwrap();
    assert_eq!((scene.server.count(LOOKUP), scene.server.count(SIGN)), (1, 2));
    scene.token("hvs.second", 3600, true);
    fetched(&issuer).unwrap();
    let last = scene.server.state().asked.last().unwrap().clone();
    assert_eq!((last.path.as_str(), last.token.as_deref()), (SIGN, Some("hvs.second")));
    // A root token: no life, nothing to renew.
    let issuer = scene.issuer(scene.token("hvs.root", 0, false));
    fetched(&issuer).unwrap();
    assert!(!issuer.needs_upkeep(Instant::now() + Duration::from_secs(1 << 30)));
}

#[test]
fn a_token_is_renewed_at_two_thirds_of_its_life_and_not_before() {
    let scene = Scene::new();
    for auth in [scene.app_role(), scene.kubernetes(), scene.token("hvs.first", 3600, true)] {
        let issuer = scene.issuer(auth);
        let before = Instant::now();
        assert!(!issuer.needs_upkeep(before + Duration::from_secs(1 << 30)), "there is none");
        fetched(&issuer).unwrap();
        assert!(!issuer.needs_upkeep(before + Duration::from_secs(2400) - Duration::from_millis(1)));
        let due = Instant::now() + Duration::from_secs(2400);
        assert!(issuer.needs_upkeep(due));
        issuer.upkeep(before);
        assert_eq!(scene.server.count(RENEW), 0, "not before it is due");
        issuer.upkeep(due);
        issuer.upkeep(due);
        assert_eq!(scene.server.count(RENEW), 1, "whoever comes second finds it done");
        assert!(!issuer.needs_upkeep(due + Duration::from_secs(2399)));
        assert!(issuer.needs_upkeep(due + Duration::from_secs(2400)));
        fetched(&issuer).unwrap();
        assert_eq!(
            scene.server.count(LOGIN) + scene.server.count("auth/kubernetes/login"),
            usize::from(issuer.settings.auth.token().is_none())
        );
    }
}

#[test]
fn a_renewal_without_an_answer_is_tried_again_and_the_token_kept() {
    let scene = Scene::new();
    let issuer = scene.issuer(scene.app_role());
    fetched(&issuer).unwrap();
    let due = Instant::now() + Duration::from_secs(2400);
    scene.server.state().sealed = true;
    issuer.upkeep(due);
    assert!(
        !issuer.needs_upkeep(due + Duration::from_secs(9))
            && issuer.needs_upkeep(due + Duration::from_secs(10))
    );
    scene.server.state().sealed = false;
    issuer.upkeep(due + Duration::from_secs(10));
    assert_eq!(scene.server.count(RENEW), 2);
    fetched(&issuer).unwrap();
    assert_eq!(scene.server.count(LOGIN), 1);
}

#[test]
fn another_token_in_the_file_is_renewed_instead_of_the_one_in_use() {
    let scene = Scene::new();
    let issuer = scene.issuer(scene.token("hvs.first", 3600, true));
    fetched(&issuer).unwrap();
    // One that does not work: it is looked at every ten seconds, not at every tick.
    scene.write("token", "hvs.second");
    let due = Instant::now() + Duration::from_secs(2400);
    issuer.upkeep(due);
    assert!(!issuer.needs_upkeep(due + Duration::from_secs(9)));
    let due = due + Duration::from_secs(10);
    assert!(issuer.needs_upkeep(due));
    scene.token("hvs.second", 3600, true);
    issuer.upkeep(due);
    assert!(!issuer.needs_upkeep(due + Duration::from_secs(2399)));
    assert_eq!((scene.server.count(RENEW), scene.server.count(LOOKUP)), (0, 3));
}

#[test]
fn a_token_near_the_end_of_its_longest_life_is_renewed_no_more_and_then_replaced() {
    let scene = Scene::new();
    let issuer = scene.issuer(scene.app_role());
    fetched(&issuer).unwrap();
    // It was given an hour, and gets no half of it.
    scene.server.state().renews_to = 1799;
    issuer.upkeep(Instant::now() + Duration::from_secs(2400));
    assert_eq!(scene.server.count(RENEW), 1);
    assert!(!issuer.needs_upkeep(Instant::now() + Duration::from_secs(1 << 20)));
    // One that cannot be renewed and has run out is not even tried.
    scene.server.state().gives = (1, false, true);
    scene.server.state().tokens.clear();
    let issuer = scene.issuer(scene.app_role());
    fetched(&issuer).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    scene.server.state().asked.clear();
    fetched(&issuer).unwrap();
    assert_eq!((scene.server.count(LOGIN), scene.server.count(LOOKUP)), (1, 0));
}

#[test]
fn a_token_that_vault_does_not_renew_is_forgotten_and_the_next_request_logs_in() {
    let scene = Scene::new();
    let issuer = scene.issuer(scene.app_role());
    fetched(&issuer).unwrap();
    scene.server.state().tokens.clear();
    let due = Instant::now() + Duration::from_secs(2400);
    issuer.upkeep(due);
    assert!(!issuer.needs_upkeep(due + Duration::from_secs(1 << 20)));
    fetched(&issuer).unwrap();
    assert_eq!((scene.server.count(RENEW), scene.server.count(LOGIN)), (1, 2));
}

#[test]
fn a_token_that_is_gone_is_replaced_once_within_the_request() {
    let scene = Scene::new();
    let issuer = scene.issuer(scene.app_role());
    fetched(&issuer).unwrap();
    scene.server.state().tokens.clear();
    fetched(&issuer).unwrap();
    assert_eq!((scene.server.count(LOGIN), scene.server.count(SIGN)), (2, 3));
    // The new one may not sign: that is said, and not tried again and again.
    scene.server.state().gives = (3600, true, false);
    scene.server.state().tokens.clear();
    let refused = fetched(&issuer).unwrap_err();
    assert!(refused.contains("permission denied; give the token a policy"), "{refused}");
    assert_eq!((scene.server.count(LOGIN), scene.server.count(SIGN)), (1, 2));
}

#[test]
fn a_policy_that_forbids_costs_no_login() {
    let scene = Scene::new();
    scene.server.state().gives = (3600, true, false);
    let issuer = scene.issuer(scene.app_role());
    for _ in 0..3 {
        let refused = fetched(&issuer).unwrap_err();
        assert!(
            refused.contains("`path \"pki_int/sign/mesh\" { capabilities = [\"update\"] }`"),
            "{refused}"
        );
    }
    assert_eq!((scene.server.count(LOGIN), scene.server.count(SIGN)), (1, 3));
}

#[test]
fn a_token_in_a_file_that_is_gone_is_said_until_there_is_another() {
    let scene = Scene::new();
    let auth = scene.token("hvs.first", 3600, true);
    let issuer = scene.issuer(auth);
    fetched(&issuer).unwrap();
    scene.server.state().tokens.clear();
    for _ in 0..2 {
        let refused = fetched(&issuer).unwrap_err();
        let file = scene.path("token").display().to_string();
        assert!(refused.contains(&format!("the token in {file} is not accepted")), "{refused}");
    }
    scene.token("hvs.second", 3600, true);
    fetched(&issuer).unwrap();
}

#[test]
fn a_sealed_vault_is_said_and_asked_again_with_the_same_token_once_it_is_unsealed() {
    let scene = Scene::new();
    let issuer = scene.issuer(scene.app_role());
    scene.server.state().sealed = true;
    let refused = fetched(&issuer).unwrap_err();
    assert!(refused.contains("auth/approle/login: Vault is sealed; unseal it"), "{refused}");
    scene.server.state().sealed = false;
    fetched(&issuer).unwrap();
    scene.server.state().sealed = true;
    let refused = fetched(&issuer).unwrap_err();
    assert!(refused.contains("pki_int/sign/mesh: Vault is sealed; unseal it"), "{refused}");
    scene.server.state().sealed = false;
    fetched(&issuer).unwrap();
    assert_eq!(scene.server.count(LOGIN), 2);
}

#[test]
fn no_secret_is_shown() {
    let scene = Scene::new();
    let issuer = scene.issuer(scene.app_role());
    fetched(&issuer).unwrap();
    let shown = format!("{issuer:?} {} {:?}", issuer.describe(), scene.settings(scene.app_role()));
    for secret in ["hvs.", "secret-of-the-role", "role-1"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(shown.contains("/secret\""), "the file is named: {shown}");
}
