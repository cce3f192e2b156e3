//! Against the API double, with the test in the place of approver and controller.

use std::sync::Mutex;
use std::time::Duration;

use mtls_kube_double::{Act, Double, TOKEN, json};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;

use super::error::Pending;
use super::*;
use crate::identity::Subject;
use crate::identity::issuer::Request;

struct World {
    double: Double,
    files: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let (double, files) = (Double::start(), tempfile::tempdir().unwrap());
        std::fs::write(files.path().join("token"), TOKEN).unwrap();
        std::fs::write(files.path().join("ca.crt"), double.ca_pem()).unwrap();
        Self { double, files }
    }

    /// Asks, while somebody does something with the request as soon as it is there.
    fn ask(
        &self,
        timeout: Duration,
        controller: impl Fn(&mut Value) + Send,
    ) -> (Result<Vec<CertificateDer<'static>>, CertManagerError>, Value) {
        let seen = Mutex::new(Value::Null);
        let outcome = std::thread::scope(|scope| {
            let asking = scope.spawn(|| issuer(timeout).chain_from(self.api(), &csr()));
            while !asking.is_finished() {
                for mut request in self.double.all("certificaterequests") {
                    if request["status"].is_null() {
                        *seen.lock().unwrap() = request.clone();
                        controller(&mut request);
                        if !request["status"].is_null() {
                            self.double.put("certificaterequests", request);
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            asking.join().unwrap()
        });
        assert_eq!(self.double.all("certificaterequests"), Vec::<Value>::new(), "none is left behind");
        (outcome, seen.into_inner().unwrap())
    }

    fn api(&self) -> ClusterConfig {
        let address = self.double.address();
        let variable = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some(address.ip().to_string()),
            _ => Some(address.port().to_string()),
        };
        ClusterConfig::from_variables(variable, self.files.path()).unwrap()
    }
}

fn issuer(timeout: Duration) -> CertManagerIssuer {
    let settings = CertManagerSettings {
        namespace: "mtlsd-system".parse().unwrap(),
        issuer: "mesh".parse().unwrap(),
        kind: "ClusterIssuer".into(),
        group: "cert-manager.io".into(),
        service_account: PathBuf::new(),
        timeout,
    };
    CertManagerIssuer::new("cm".into(), settings)
}

fn csr() -> Csr {
    let request = Request {
        workload: "shop/web".into(),
        id: "spiffe://example.org/ns/shop/sa/web".parse().unwrap(),
        dns_names: Vec::new(),
        subject: Subject::default(),
        lifetime: Some(Duration::from_secs(3_600)),
    };
    Csr { pem: "-----BEGIN CERTIFICATE REQUEST-----\n".into(), request }
}

fn certificate() -> String {
    CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": reason, "message": message })
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(400);

#[test]
fn a_request_that_is_approved_and_signed_gives_its_chain_and_is_removed() {
    let (world, pem) = (World::new(), certificate() + &certificate());
    let encoded = STANDARD.encode(&pem);
    let (chain, request) = world.ask(LONG, |request| {
        request["status"] = json!({
            "certificate": encoded,
            "conditions": [condition("Approved", "True", "policy", ""), condition("Ready", "True", "Issued", "")],
        });
    });
    assert_eq!(chain.unwrap().len(), 2);
    let spec = &request["spec"];
    assert_eq!(
        spec["issuerRef"],
        json!({ "name": "mesh", "kind": "ClusterIssuer", "group": "cert-manager.io" })
    );
    assert_eq!((&spec["duration"], &spec["isCA"]), (&json!("3600s"), &json!(false)));
    assert_eq!(spec["request"], STANDARD.encode(csr().pem));
    assert_eq!(
        request["metadata"]["annotations"]["mtlsd.io/spiffe-id"],
        "spiffe://example.org/ns/shop/sa/web"
    );
}

#[test]
fn a_request_that_is_refused_says_by_whom_and_why() {
    let world = World::new();
    let refused = |conditions: Value| {
        let certificate = STANDARD.encode(certificate());
        let (outcome, _) = world.ask(LONG, |request| {
            request["status"] = json!({ "conditions": conditions, "certificate": certificate });
        });
        outcome.unwrap_err()
    };
    let error = refused(json!([
        condition("Denied", "True", "policy", "not for you"),
        condition("Ready", "True", "Issued", "")
    ]));
    assert!(matches!(&error, CertManagerError::Denied { said, .. } if said == "not for you"), "{error}");
    let error = refused(json!([condition("Ready", "False", "Denied", "no")]));
    assert!(matches!(error, CertManagerError::Denied { .. }), "{error}");
    let error = refused(json!([
        condition("Approved", "True", "", ""),
        condition("Ready", "False", "Failed", "the CA is away")
    ]));
    assert!(error.to_string().contains("the CA is away"), "{error}");
    assert!(matches!(error, CertManagerError::Failed { .. }), "{error}");
    let error = refused(json!([condition("InvalidRequest", "True", "", "bad CSR")]));
    assert!(matches!(&error, CertManagerError::Failed { said, .. } if said == "bad CSR"), "{error}");
}

#[test]
fn what_nobody_decides_ends_in_time_and_says_how_far_it_was() {
    let world = World::new();
    let (outcome, _) = world.ask(SHORT, |_| {});
    let error = outcome.unwrap_err();
    assert!(matches!(error, CertManagerError::Waited { state: Pending::NotApproved, .. }), "{error}");
    assert!(error.to_string().contains("an approver must be there"), "{error}");
    let (outcome, _) = world.ask(SHORT, |request| {
        request["status"] = json!({ "conditions": [condition("Approved", "True", "", ""), condition("Ready", "False", "Pending", "")] });
    });
    let error = outcome.unwrap_err();
    assert!(matches!(error, CertManagerError::Waited { state: Pending::NotSigned, .. }), "{error}");
}

#[test]
fn an_answer_that_is_no_chain_is_an_error() {
    let world = World::new();
    let answered = |certificate: &str| {
        let (outcome, _) = world.ask(LONG, |request| {
            request["status"] =
                json!({ "certificate": certificate, "conditions": [condition("Ready", "True", "Issued", "")] });
        });
        outcome.unwrap_err()
    };
    assert!(matches!(answered("§"), CertManagerError::NotBase64(_)));
    assert!(matches!(answered(&STANDARD.encode("no PEM")), CertManagerError::Chain { .. }));
}

#[test]
fn an_api_server_that_refuses_or_is_silent_is_named() {
    let world = World::new();
    world.double.forbid("create", "certificaterequests");
    let error = issuer(LONG).chain_from(world.api(), &csr()).unwrap_err();
    assert!(error.to_string().contains("add the verb create"), "{error}");
    world.double.allow("create", "certificaterequests");
    world.double.next("create", "certificaterequests", 1, Act::Never);
    let error = issuer(SHORT).chain_from(world.api(), &csr()).unwrap_err();
    assert!(matches!(error, CertManagerError::NoAnswer(_)), "{error}");
    // Outside of a pod.
    let issued = issuer(SHORT).sign(&csr(), SystemTime::now());
    assert!(issued.unwrap_err().to_string().contains("issuer cm:"));
}
