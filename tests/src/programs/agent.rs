//! A SPIFFE agent of the test: the Workload API's `FetchX509SVID` on a Unix socket, with gRPC as it is on the wire. It says
//! what it is told to, and can be away.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use h2::server::SendResponse;
use hyper::body::Bytes;
use hyper::http::{Request, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::certs::{Authority, Leaf};

/// Service and method, as in the request's `:path`.
const FETCH: &str = "/SpiffeWorkloadAPI/FetchX509SVID";

/// See the module. What it was told outlives [`Agent::away`].
pub struct Agent {
    socket: PathBuf,
    says: watch::Sender<Vec<u8>>,
    runtime: Runtime,
    running: Option<JoinHandle<()>>,
}

/// What one answer says.
#[derive(Debug, Default)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// With one more SVID, freshly issued, and the authority's root as bundle.
    ///
    /// # Panics
    /// If the authority's directory cannot be written.
    #[must_use]
    pub fn svid(mut self, authority: &Authority, leaf: &Leaf) -> Self {
        let id = leaf.uris.first().expect("an SVID has a SPIFFE ID");
        let files = authority.issue("svid", leaf);
        let key = PrivateKeyDer::from_pem_file(&files.key).expect("it was written");
        let svid = [
            field(1, id.as_bytes()),
            field(2, &certificates(&files.chain)),
            field(3, key.secret_der()),
            field(4, &certificates(&authority.root)),
        ];
        self.0.extend(field(1, &svid.concat()));
        self
    }

    /// With one more revocation list, DER.
    #[must_use]
    pub fn list(mut self, der: &[u8]) -> Self {
        self.0.extend(field(2, der));
        self
    }
}

/// The certificates of a PEM file, DER, one after the other.
fn certificates(file: &Path) -> Vec<u8> {
    let all = CertificateDer::pem_file_iter(file).expect("it was written");
    all.flat_map(|der| der.expect("PEM").to_vec()).collect()
}

/// A field of protobuf that has a length: number and wire type 2, the length, the bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    loop {
        let group = u8::try_from(length & 0x7f).expect("seven bits");
        length >>= 7;
        out.push(if length > 0 { group | 0x80 } else { group });
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(bytes);
    out
}

impl Agent {
    /// Listens, and says nothing yet.
    ///
    /// # Panics
    /// If the socket cannot be made.
    pub fn start(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let mut agent = Self {
            socket: socket.to_owned(),
            says: watch::channel(Vec::new()).0,
            runtime: runtime.expect("a runtime"),
            running: None,
        };
        agent.back();
        agent
    }

    /// What every stream says next.
    pub fn say(&self, answer: Answer) {
        self.says.send_replace(answer.0);
    }

    /// Every connection is cut, and the socket is gone.
    ///
    /// # Panics
    /// If it is away already.
    pub fn away(&mut self) {
        let running = self.running.take().expect("it is there");
        running.abort();
        let _ = self.runtime.block_on(running);
        fs::remove_file(&self.socket).expect("the socket is there");
    }

    /// It listens again.
    ///
    /// # Panics
    /// If the socket cannot be made.
    pub fn back(&mut self) {
        let _inside = self.runtime.enter();
        let listener = UnixListener::bind(&self.socket).expect("lab directory is writable");
        self.running = Some(self.runtime.spawn(serve(listener, self.says.clone())));
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Agent({})", self.socket.display())
    }
}

async fn serve(listener: UnixListener, says: watch::Sender<Vec<u8>>) {
    // Dropped with this task, and then every connection with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let says = says.clone();
        connections.spawn(async move {
            let mut calls = JoinSet::new();
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                calls.spawn(answer(request, respond, says.subscribe()));
            }
        });
    }
}

/// One stream: the answer of now, and each that follows.
async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    mut says: watch::Receiver<Vec<u8>>,
) {
    let header = request.headers().get("workload.spiffe.io").map(|value| value.as_bytes().to_vec());
    if request.uri().path() != FETCH || header.as_deref() != Some(b"true") {
        let refused = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", "3")
            .header("grpc-message", "not%20a%20call%20of%20the%20Workload%20API");
        let _ = respond.send_response(refused.body(()).expect("headers of ASCII"), true);
        return;
    }
    let head = Response::builder().header("content-type", "application/grpc").body(());
    let Ok(mut stream) = respond.send_response(head.expect("headers of ASCII"), false) else { return };
    loop {
        let message = says.borrow_and_update().clone();
        if !message.is_empty() {
            let length = u32::try_from(message.len()).expect("a small message");
            let frame = [&[0], &length.to_be_bytes()[..], &message].concat();
            if stream.send_data(frame.into(), false).is_err() {
                return;
            }
        }
        tokio::select! {
            changed = says.changed() => if changed.is_err() { return },
            _ = std::future::poll_fn(|context| stream.poll_reset(context)) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_its_number_and_its_length_in_groups_of_seven_bits() {
        assert_eq!(field(1, b"ab"), [0x0a, 2, b'a', b'b']);
        assert_eq!(field(4, &[0; 300])[..3], [0x22, 0xac, 0x02]);
    }
}
