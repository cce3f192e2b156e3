//! Vault's published API, as far as mtlsd uses it, on loopback: tokens with lives, seals, and a CA that signs.
//! How the real one behaves is in `tests/tests/vault.rs`; this one can also answer wrongly.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use serde_json::{Value, json};

use crate::identity::testing::{HOUR, TestCa};

pub(super) struct Server {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) token: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) body: String,
}

pub(super) struct Token {
    pub(super) ttl: u64,
    pub(super) renewable: bool,
    /// Its policy has the path `pki_int/sign/mesh`.
    pub(super) may_sign: bool,
}

pub(super) struct State {
    pub(super) ca: TestCa,
    pub(super) root: TestCa,
    pub(super) sealed: bool,
    /// The living ones.
    pub(super) tokens: BTreeMap<String, Token>,
    pub(super) secret_id: String,
    pub(super) jwt: String,
    /// What a login gives.
    pub(super) gives: (u64, bool, bool),
    /// What a renewal gives.
    pub(super) renews_to: u64,
    /// Status, media type and body instead of what is right, for paths that end so.
    pub(super) instead: Option<(&'static str, u16, &'static str, String)>,
    pub(super) asked: Vec<Asked>,
}

impl Server {
    pub(super) fn start() -> Self {
        let root = TestCa::root("root");
        let ca = root.intermediate("int");
        let state = State {
            ca,
            root,
            sealed: false,
            tokens: BTreeMap::new(),
            secret_id: "secret-of-the-role".into(),
            jwt: "jwt-of-the-pod".into(),
            gives: (3600, true, true),
            renews_to: 3600,
            instead: None,
            asked: vec![],
        };
        let state = Arc::new(Mutex::new(state));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&state);
        // Ends with the test process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let shared = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, state }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// How often a path was asked for, and forgets it.
    pub(super) fn count(&self, path: &str) -> usize {
        let mut state = self.state();
        let before = state.asked.len();
        state.asked.retain(|asked| asked.path != path);
        before - state.asked.len()
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(&stream);
    let (mut first, mut headers) = (String::new(), BTreeMap::new());
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let path = first.split(' ').nth(1).unwrap().trim_start_matches("/v1/").to_owned();
    let asked = Asked {
        path,
        token: headers.get("x-vault-token").cloned(),
        namespace: headers.get("x-vault-namespace").cloned(),
        body: String::from_utf8(body).unwrap(),
    };
    let mut state = state.lock().unwrap();
    state.asked.push(asked.clone());
    let (status, media_type, body) = match &state.instead {
        Some((path, status, media_type, body)) if asked.path.ends_with(path) => {
            (*status, *media_type, body.clone().into_bytes())
        }
        _ => state.answer(&asked),
    };
    drop(state);
    let mut answer = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend(body);
    // A client that has given up does not read it.
    let _ = (&stream).write_all(&answer);
}

type Reply = (u16, &'static str, Vec<u8>);

fn said(status: u16, value: &Value) -> Reply {
    (status, "application/json", value.to_string().into_bytes())
}

fn no(status: u16, error: &str) -> Reply {
    said(status, &json!({ "errors": [error] }))
}

impl State {
    fn answer(&mut self, asked: &Asked) -> Reply {
        if self.sealed {
            return no(503, "Vault is sealed");
        }
        let body: Value = serde_json::from_str(&asked.body).unwrap_or_default();
        match asked.path.as_str() {
            "auth/approle/login" => match body["secret_id"] == *self.secret_id && body["role_id"] == "role-1"
            {
                true => self.login(),
                false => no(400, "invalid role or secret ID"),
            },
            "auth/kubernetes/login" => match body["jwt"] == *self.jwt && body["role"] == "mtlsd" {
                true => self.login(),
                false => no(403, "permission denied"),
            },
            path => {
                let denied = "1 error occurred:\n\t* permission denied\n\n";
                let Some((name, token)) =
                    asked.token.as_ref().and_then(|name| self.tokens.get_key_value(name))
                else {
                    return no(403, denied);
                };
                match path {
                    "auth/token/lookup-self" => said(
                        200,
                        &json!({ "data": { "id": name, "ttl": token.ttl, "renewable": token.renewable } }),
                    ),
                    "auth/token/renew-self" if !token.renewable => no(400, "lease is not renewable"),
                    "auth/token/renew-self" => granted(name, self.renews_to, true),
                    "pki_int/sign/mesh" if token.may_sign => self.sign(&body),
                    "pki_int/sign/none" if token.may_sign => no(400, "unknown role: none"),
                    _ if token.may_sign => no(404, "no handler for route \"pki/x\". route entry not found."),
                    _ => no(403, denied),
                }
            }
        }
    }

    fn login(&mut self) -> Reply {
        let (ttl, renewable, may_sign) = self.gives;
        let name = format!("hvs.token-{}", self.tokens.len() + self.asked.len());
        self.tokens.insert(name.clone(), Token { ttl, renewable, may_sign });
        granted(&name, ttl, renewable)
    }

    fn sign(&self, body: &Value) -> Reply {
        let csr = body["csr"].as_str().unwrap();
        let mut csr = rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap();
        csr.params.not_before = (std::time::SystemTime::now() - HOUR).into();
        csr.params.not_after = (std::time::SystemTime::now() + HOUR).into();
        let leaf = csr.signed_by(&self.ca.issuer()).unwrap();
        let above = [pem(&self.ca.der), pem(&self.root.der)];
        said(
            200,
            &json!({ "data": { "certificate": leaf.pem(), "ca_chain": above, "issuing_ca": above[0] } }),
        )
    }
}

pub(super) fn pem(der: &[u8]) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", der))
}

fn granted(name: &str, ttl: u64, renewable: bool) -> Reply {
    said(200, &json!({ "auth": { "client_token": name, "lease_duration": ttl, "renewable": renewable } }))
}
