//! An agent for tests: gRPC over HTTP/2 on a Unix socket, which says what it is told to.

use std::collections::HashMap;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use h2::server::SendResponse;
use hyper::body::Bytes;
use hyper::http::{HeaderMap, Request, Response};
use prost::Message;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::identity::agent::messages::{self, SubscribeToX509SvidsRequest};

/// What a stream says next.
#[derive(Clone)]
pub(super) enum Reply {
    /// Nothing yet.
    Silence,
    /// A message, encoded.
    Message(Vec<u8>),
    /// The end, with a gRPC status.
    Status(u32, &'static str),
}

impl Reply {
    pub fn of(message: &impl Message) -> Self {
        Self::Message(message.encode_to_vec())
    }
}

#[derive(Default)]
struct Script {
    replies: Mutex<HashMap<String, watch::Sender<Reply>>>,
    connections: AtomicUsize,
    started: AtomicUsize,
    open: AtomicUsize,
}

impl Script {
    fn channel(&self, key: &str) -> watch::Sender<Reply> {
        let mut replies = self.replies.lock().unwrap();
        replies.entry(key.to_owned()).or_insert_with(|| watch::channel(Reply::Silence).0).clone()
    }
}

/// The agent. What it was told outlives a restart.
pub(super) struct Server {
    directory: tempfile::TempDir,
    script: Arc<Script>,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Server {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut server = Self { directory, script: Arc::default(), running: None };
        server.restart();
        server
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    /// What a call is answered from now on: its path, with `?type:value,…` behind it if there are selectors.
    pub fn say(&self, key: &str, reply: Reply) {
        self.script.channel(key).send_replace(reply);
    }

    /// Every connection is cut, and the socket goes away.
    pub async fn stop(&mut self) {
        let running = self.running.take().unwrap();
        running.abort();
        let _ = running.await;
        std::fs::remove_file(self.socket()).unwrap();
    }

    pub fn restart(&mut self) {
        let listener = listen(&self.socket());
        self.running = Some(tokio::spawn(serve(listener, Arc::clone(&self.script))));
    }

    /// Connections that were accepted so far.
    pub fn connections(&self) -> usize {
        self.script.connections.load(Ordering::SeqCst)
    }

    /// Calls that were made so far.
    pub fn started(&self) -> usize {
        self.script.started.load(Ordering::SeqCst)
    }

    /// Calls that are under way.
    pub fn open(&self) -> usize {
        self.script.open.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

fn listen(path: &Path) -> UnixListener {
    let listener = StdListener::bind(path).unwrap();
    listener.set_nonblocking(true).unwrap();
    UnixListener::from_std(listener).unwrap()
}

async fn serve(listener: UnixListener, script: Arc<Script>) {
    // Dropped with this task, and then every connection with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        script.connections.fetch_add(1, Ordering::SeqCst);
        let script = Arc::clone(&script);
        connections.spawn(async move {
            let mut calls = JoinSet::new();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                calls.spawn(answer(request, respond, Arc::clone(&script)));
            }
        });
    }
}

/// Counts a call as long as it is under way.
struct Open(Arc<Script>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, script: Arc<Script>) {
    script.started.fetch_add(1, Ordering::SeqCst);
    script.open.fetch_add(1, Ordering::SeqCst);
    let _open = Open(Arc::clone(&script));
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(Ok(part)) = body.data().await {
        bytes.extend_from_slice(&part);
    }
    let path = head.uri.path().to_owned();
    let content = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(content("content-type").as_deref(), Some("application/grpc"));
    if path == messages::FETCH_X509_SVID && content("workload.spiffe.io").as_deref() != Some("true") {
        return end(None, Some(&mut respond), 3, "security header missing from request");
    }
    let mut replies = script.channel(&key(&path, &bytes)).subscribe();
    let mut stream = None;
    loop {
        let reply = replies.borrow_and_update().clone();
        match reply {
            Reply::Silence => {}
            Reply::Message(message) => {
                let stream =
                    stream.get_or_insert_with(|| respond.send_response(head_of_answer(), false).unwrap());
                let mut frame = vec![0];
                frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
                frame.extend_from_slice(&message);
                if stream.send_data(frame.into(), false).is_err() {
                    return;
                }
            }
            Reply::Status(code, message) => return end(stream.as_mut(), Some(&mut respond), code, message),
        }
        let gone = async {
            match &mut stream {
                Some(stream) => std::future::poll_fn(|context| stream.poll_reset(context)).await,
                None => std::future::poll_fn(|context| respond.poll_reset(context)).await,
            }
        };
        tokio::select! {
            changed = replies.changed() => changed.unwrap(),
            _ = gone => return,
        }
    }
}

fn key(path: &str, request: &[u8]) -> String {
    let message = request.get(5..).unwrap();
    if path != messages::SUBSCRIBE_TO_X509_SVIDS {
        return path.to_owned();
    }
    let request = SubscribeToX509SvidsRequest::decode(message).unwrap();
    let list: Vec<_> = request.selectors.iter().map(|s| format!("{}:{}", s.r#type, s.value)).collect();
    format!("{path}?{}", list.join(","))
}

fn head_of_answer() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

fn end(
    stream: Option<&mut h2::SendStream<Bytes>>,
    respond: Option<&mut SendResponse<Bytes>>,
    code: u32,
    message: &str,
) {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    trailers.insert("grpc-message", message.replace(' ', "%20").parse().unwrap());
    match (stream, respond) {
        (Some(stream), _) => stream.send_trailers(trailers).unwrap(),
        (None, Some(respond)) => {
            let mut head = head_of_answer();
            head.headers_mut().extend(trailers);
            respond.send_response(head, true).unwrap();
        }
        (None, None) => unreachable!("a call has one of both"),
    }
}
