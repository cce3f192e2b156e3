//! The web server of a CA, on the host's loopback: it hands out one revocation list, over HTTP or HTTPS, and can be away.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::certs::{Authority, Leaf};
use crate::slow;

/// See the module.
pub struct ListServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Option<JoinHandle<()>>,
}

struct Shared {
    tls: Option<Arc<ServerConfig>>,
    list: Mutex<Vec<u8>>,
    asked: AtomicUsize,
    stop: AtomicBool,
}

impl ListServer {
    /// Over plain HTTP, as most CAs do: the list's own signature counts.
    ///
    /// # Panics
    /// If loopback has no free port.
    pub fn http() -> Self {
        Self::start(None)
    }

    /// Over HTTPS, with a certificate of `authority` for `localhost`.
    ///
    /// # Panics
    /// If loopback has no free port.
    pub fn https(authority: &Authority) -> Self {
        let leaf = Leaf { dns: vec!["localhost".into()], ..Leaf::good("spiffe://ca/server") };
        let files = authority.issue("lists", &leaf);
        let chain = CertificateDer::pem_file_iter(&files.chain).expect("it was written");
        let chain = chain.collect::<Result<Vec<_>, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_file(&files.key).expect("it was written");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate and its key");
        Self::start(Some(Arc::new(config)))
    }

    fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared =
            Shared { tls, list: Mutex::default(), asked: AtomicUsize::new(0), stop: AtomicBool::new(false) };
        let mut server = Self { address, shared: Arc::new(shared), running: None };
        server.serve(listener);
        server
    }

    fn serve(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        self.running = Some(std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                shared.answer(stream);
            }
        }));
    }

    /// The list's URL.
    pub fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}/site.crl", self.address.port())
    }

    /// What it hands out from now on: the content of this file.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn hand_out(&self, file: &Path) {
        let list = std::fs::read(file).expect("a list");
        *self.shared.list.lock().unwrap_or_else(PoisonError::into_inner) = list;
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// It goes away: whoever connects is refused.
    ///
    /// # Panics
    /// If it had a panic itself.
    pub fn down(&mut self) {
        let Some(running) = self.running.take() else { return };
        self.shared.stop.store(true, Ordering::SeqCst);
        // It waits for a connection.
        let _ = TcpStream::connect(self.address);
        running.join().expect("the list server ends");
    }

    /// It comes back where it was.
    ///
    /// # Panics
    /// If its port was taken meanwhile.
    pub fn up(&mut self) {
        self.shared.stop.store(false, Ordering::SeqCst);
        self.serve(TcpListener::bind(self.address).expect("its port is still free"));
    }
}

impl Shared {
    /// A client that goes away in the middle, as one that does not believe the certificate, is none of its business.
    fn answer(&self, stream: TcpStream) {
        let patience: Duration = slow::limit(10);
        if stream.set_read_timeout(Some(patience)).is_err() {
            return;
        }
        match &self.tls {
            None => self.reply(stream),
            Some(config) => {
                let connection =
                    ServerConnection::new(Arc::clone(config)).expect("a configuration that works");
                self.reply(StreamOwned::new(connection, stream));
            }
        }
    }

    fn reply(&self, mut stream: impl Read + Write) {
        let (mut asked, mut room) = (Vec::new(), [0; 1024]);
        while !asked.ends_with(b"\r\n\r\n") {
            match stream.read(&mut room) {
                Ok(length @ 1..) => asked.extend_from_slice(&room[..length]),
                _ => return,
            }
        }
        let list = self.list.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", list.len());
        let _ = stream.write_all(&[head.as_bytes(), &list].concat()).and_then(|()| stream.flush());
        self.asked.fetch_add(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for ListServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListServer({})", self.url())
    }
}

impl Drop for ListServer {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.down();
        }
    }
}
