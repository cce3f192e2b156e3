//! Metrics, health and readiness over TCP. Small on purpose: three paths, one request per connection, everything
//! bounded, because whoever reaches the port may talk to it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::observe::Metrics;

/// Connections served at one time; further ones are closed at once.
const MAX_CONNECTIONS: usize = 64;
/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;
/// Time for a request's head to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the whole exchange.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause after a failed accept (out of descriptors), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const TEXT: &str = "text/plain; charset=utf-8";

/// What still keeps the daemon from being ready. Ready is who has no reason left.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, String>>>);

impl Readiness {
    /// The cause that a new daemon starts with.
    pub const STARTING: &'static str = "starting";

    /// Not ready yet: cleared with `clear(Readiness::STARTING)`.
    #[must_use]
    pub fn new() -> Self {
        let readiness = Self(Arc::default());
        readiness.block(Self::STARTING, "the daemon is starting");
        readiness
    }

    /// Not ready, for a cause (its key) and with a sentence for people.
    pub fn block(&self, cause: impl Into<String>, sentence: impl Into<String>) {
        self.reasons_mut().insert(cause.into(), sentence.into());
    }

    /// The cause is gone.
    pub fn clear(&self, cause: &str) {
        self.reasons_mut().remove(cause);
    }

    /// Why it is not ready; empty when it is.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        self.reasons_mut().values().cloned().collect()
    }

    fn reasons_mut(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for metrics: {source}; set metrics.listen to a free address, or to off")]
pub struct ListenError {
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Listens for scrapes and probes.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    limits: Limits,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    connections: usize,
    head: Duration,
    exchange: Duration,
}

impl HttpServer {
    /// Listens on an address.
    ///
    /// # Errors
    /// When it is taken or not ours.
    pub async fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let listener = TcpListener::bind(address).await.map_err(|source| ListenError { address, source })?;
        let limits = Limits { connections: MAX_CONNECTIONS, head: HEAD_TIMEOUT, exchange: EXCHANGE_TIMEOUT };
        Ok(Self { listener, limits })
    }

    /// The address, with the port that the kernel chose if it was 0.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop` is done. `metrics` makes the text of a scrape ([`Metrics::encode`]).
    pub async fn serve<M>(self, metrics: M, readiness: Readiness, stop: impl Future<Output = ()>)
    where
        M: Fn() -> Result<String, fmt::Error> + Clone + Send + Sync + 'static,
    {
        let permits = Arc::new(Semaphore::new(self.limits.connections));
        let mut tasks = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                () = &mut stop => return,
                accepted = self.listener.accept() => accepted,
            };
            while tasks.try_join_next().is_some() {}
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection for metrics");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
            let (metrics, readiness, limits) = (metrics.clone(), readiness.clone(), self.limits);
            tasks.spawn(async move {
                // A peer that is too slow or talks nonsense costs its connection, nothing else.
                let exchange = exchange(stream, metrics, readiness, limits.head);
                let _outcome = tokio::time::timeout(limits.exchange, exchange).await;
                drop(permit);
            });
        }
    }
}

async fn exchange<M>(
    stream: TcpStream,
    metrics: M,
    readiness: Readiness,
    head: Duration,
) -> Result<(), hyper::Error>
where
    M: Fn() -> Result<String, fmt::Error>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &metrics, &readiness);
        async { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(
    method: &Method,
    path: &str,
    metrics: &impl Fn() -> Result<String, fmt::Error>,
    readiness: &Readiness,
) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/metrics" => match metrics() {
            Ok(body) => text(StatusCode::OK, Metrics::CONTENT_TYPE, body),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, TEXT, "cannot write the metrics\n".to_owned()),
        },
        "/healthz" => text(StatusCode::OK, TEXT, "alive\n".to_owned()),
        "/readyz" => match readiness.reasons() {
            reasons if reasons.is_empty() => text(StatusCode::OK, TEXT, "ready\n".to_owned()),
            reasons => text(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{}\n", reasons.join("\n"))),
        },
        _ => text(StatusCode::NOT_FOUND, TEXT, "there is /metrics, /healthz and /readyz\n".to_owned()),
    }
}

fn text(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(20);

    async fn start(limits: Limits) -> (SocketAddr, Readiness) {
        let mut server = HttpServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        server.limits = limits;
        let address = server.address().unwrap();
        let readiness = Readiness::new();
        let metrics = Arc::new(Metrics::new("1.2.3"));
        tokio::spawn(server.serve(move || metrics.encode(), readiness.clone(), std::future::pending()));
        (address, readiness)
    }

    fn generous() -> Limits {
        Limits { connections: 8, head: LONG, exchange: LONG }
    }

    /// Sends bytes and reads until the server closes.
    async fn exchange_raw(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may close before it has read everything.
        let _closed_early = stream.write_all(request).await;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        let read = async {
            while let Ok(count @ 1..) = stream.read(&mut chunk).await {
                answer.extend_from_slice(&chunk[..count]);
            }
        };
        tokio::time::timeout(LONG, read).await.expect("the server must close the connection");
        String::from_utf8(answer).unwrap()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        exchange_raw(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await
    }

    #[tokio::test]
    async fn metrics_come_as_openmetrics() {
        let (address, _) = start(generous()).await;
        let answer = get(address, "/metrics?x=1").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0"), "{answer}");
        assert!(answer.contains("mtlsd_build_info{version=\"1.2.3\"} 1") && answer.ends_with("# EOF\n"));
    }

    #[tokio::test]
    async fn readiness_says_why_not_and_health_does_not_depend_on_it() {
        let (address, readiness) = start(generous()).await;
        let starting = get(address, "/readyz").await;
        assert!(
            starting.starts_with("HTTP/1.1 503") && starting.contains("the daemon is starting"),
            "{starting}"
        );
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        readiness.block("web", "web has no certificate");
        readiness.clear(Readiness::STARTING);
        assert!(get(address, "/readyz").await.ends_with("\r\n\r\nweb has no certificate\n"));
        readiness.clear("web");
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused() {
        let (address, _) = start(generous()).await;
        assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
        let post =
            exchange_raw(address, b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n").await;
        assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: GET, HEAD"), "{post}");
    }

    #[tokio::test]
    async fn garbage_and_a_huge_head_are_cut_off_and_the_server_carries_on() {
        let (address, _) = start(generous()).await;
        let garbage = exchange_raw(address, b"\x16\x03\x01\x00\x05hello\r\n\r\n").await;
        assert!(!garbage.contains("200 OK"), "{garbage}");
        let huge = format!("GET /healthz HTTP/1.1\r\nX: {}", "a".repeat(10 * MAX_HEAD));
        let huge = exchange_raw(address, huge.as_bytes()).await;
        assert!(!huge.contains("200 OK"), "{huge}");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn silence_and_a_head_that_never_ends_are_cut_off_in_time() {
        for limits in [Limits { head: SHORT, ..generous() }, Limits { exchange: SHORT, ..generous() }] {
            let (address, _) = start(limits).await;
            assert!(!exchange_raw(address, b"GET /healthz HTTP/1.1\r\nX: a").await.contains("200 OK"));
            assert_eq!(exchange_raw(address, b"").await, "");
        }
    }

    #[tokio::test]
    async fn more_connections_than_the_limit_are_closed_at_once_and_room_comes_back() {
        let (address, _) = start(Limits { connections: 2, ..generous() }).await;
        let held = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        assert_eq!(exchange_raw(address, b"").await, "");
        drop(held);
        let mut answer = String::new();
        for _ in 0..100 {
            answer = get(address, "/healthz").await;
            if answer.contains("200 OK") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no room came back: {answer}");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named_with_the_mend() {
        let (address, _) = start(generous()).await;
        let error = HttpServer::bind(address).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("metrics.listen"), "{error}");
    }

    #[tokio::test]
    async fn stopping_ends_the_service() {
        let server = HttpServer::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.address().unwrap();
        server.serve(|| Ok(String::new()), Readiness::new(), async {}).await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
