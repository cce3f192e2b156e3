//! The command line's side of the admin API.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::admin::ApiError;
use super::drill::DrillReport;
use super::enroll::{Changed, EnrolReport, EnrolRequest, Enrolled, UnenrolRequest};
use super::revoke::{RevokeReport, RevokeRequest, UnrevokeReport, UnrevokeRequest};
use super::view::{ReloadReport, Status, VerifyReport, WorkloadStatus};
use crate::diagnose::{LiveReport, LiveRequest, PathReport};
use crate::flows::rollout::RolloutReport;
use crate::flows::{Moment, Record};
use crate::identity::revocation::Entry;
use crate::observe::connection::{ConnectionId, ConnectionRecord};
use crate::observe::explain::Explanation;

/// How long the daemon may take; `verify` looks into every workload.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer: 100,000 connections of about 2 KiB.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no mtlsd is running at {0}; start it with `mtlsd run`, or name its socket with --socket")]
    NoDaemon(PathBuf),
    /// Not ours to open.
    #[error("you may not open {0}; run this as root (sudo)")]
    Permission(PathBuf),
    /// Another failure to connect.
    #[error("cannot connect to {path}: {source}; check that it is mtlsd's admin socket")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The daemon said no.
    #[error("{}; {}", .0.error, .0.mend)]
    Refused(ApiError),
    /// The connection broke, or what answers is not HTTP.
    #[error("{path} did not answer as mtlsd does: {detail}; look at the daemon's log")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        detail: String,
    },
    /// Too slow.
    #[error("mtlsd at {0} did not answer within {limit} s; look at the daemon's log", limit = TIMEOUT.as_secs())]
    Timeout(PathBuf),
}

/// Which connection to explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one with this id.
    Id(ConnectionId),
    /// The last one that was refused.
    LastRefused,
}

/// Asks the daemon behind one socket.
#[derive(Debug, Clone)]
pub struct AdminClient {
    socket: PathBuf,
}

impl AdminClient {
    /// A client of the daemon at a socket; connects with each question.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The daemon as a whole.
    ///
    /// # Errors
    /// As [`ClientError`] lists; so do the others.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.ask(Method::GET, "/v1/status").await
    }

    /// Live and recent connections, newest first.
    ///
    /// # Errors
    /// As [`ClientError`] lists.
    pub async fn connections(
        &self,
        workload: Option<&str>,
        limit: usize,
    ) -> Result<Vec<ConnectionRecord>, ClientError> {
        let workload = workload.map(|w| format!("&workload={}", escape(w))).unwrap_or_default();
        self.ask(Method::GET, &format!("/v1/connections?limit={limit}{workload}")).await
    }

    /// Every workload.
    ///
    /// # Errors
    /// As [`ClientError`] lists.
    pub async fn workloads(&self) -> Result<Vec<WorkloadStatus>, ClientError> {
        self.ask(Method::GET, "/v1/workloads").await
    }

    /// The same, after the daemon has looked at the node.
    ///
    /// # Errors
    /// As [`ClientError`] lists.
    pub async fn look(&self) -> Result<Vec<WorkloadStatus>, ClientError> {
        self.ask(Method::POST, "/v1/look").await
    }

    /// One connection explained; `near`: with the rules that nearly decided otherwise, also if it was let in.
    ///
    /// # Errors
    /// As [`ClientError`] lists.
    pub async fn explain(&self, which: &Which, near: bool) -> Result<Explanation, ClientError> {
        let query = match which {
            Which::Id(id) => format!("id={id}"),
            Which::LastRefused => "last-refused".to_owned(),
        };
        let near = if near { "&near" } else { "" };
        self.ask(Method::GET, &format!("/v1/explain?{query}{near}")).await
    }

    /// What would become of a connection.
    ///
    /// # Errors
    /// As [`ClientError`] lists; also for parties that the daemon does not know.
    pub async fn path(&self, from: &str, to: &str) -> Result<PathReport, ClientError> {
        self.ask(Method::GET, &format!("/v1/path?from={}&to={}", escape(from), escape(to))).await
    }

    /// Tries a connection.
    ///
    /// # Errors
    /// As [`ClientError`] lists; also for a workload that the daemon does not know.
    pub async fn diagnose(&self, request: &LiveRequest) -> Result<LiveReport, ClientError> {
        self.tell("/v1/diagnose", request).await
    }

    /// Whether everything that should be captured is.
    ///
    /// # Errors
    /// As [`ClientError`] lists.
    pub async fn verify(&self) -> Result<VerifyReport, ClientError> {
        self.ask(Method::GET, "/v1/verify").await
    }

    /// Loads the configuration anew.
    ///
    /// # Errors
    /// As [`ClientError`] lists.
    pub async fn reload(&self) -> Result<ReloadReport, ClientError> {
        self.ask(Method::POST, "/v1/reload").await
    }

    /// Tries whether revocation works.
    ///
    /// # Errors
    /// As [`ClientError`] lists; also when the daemon has no embedded CA.
    pub async fn drill_revoke(&self) -> Result<DrillReport, ClientError> {
        self.ask(Method::POST, "/v1/drill/revoke").await
    }

    /// Who would be refused if a workload, or every one, became strict now.
    ///
    /// # Errors
    /// As [`ClientError`] lists; also when nothing is recorded.
    pub async fn rollout(
        &self,
        workload: Option<&str>,
        since: Duration,
    ) -> Result<RolloutReport, ClientError> {
        let workload = workload.map(|w| format!("&workload={}", escape(w))).unwrap_or_default();
        self.ask(Method::GET, &format!("/v1/rollout?since_s={}{workload}", since.as_secs())).await
    }

    /// What connections there were in that time, and since when that is.
    ///
    /// # Errors
    /// As [`ClientError`] lists; also when nothing is recorded.
    pub async fn flows(&self, since: Duration) -> Result<(Record, Moment), ClientError> {
        let record: Record = self.ask(Method::GET, &format!("/v1/flows?since_s={}", since.as_secs())).await?;
        let since = record.taken.before(since);
        Ok((record, since))
    }

    /// What is on the deny list.
    ///
    /// # Errors
    /// As [`ClientError`] lists.
    pub async fn revocations(&self) -> Result<Vec<Entry>, ClientError> {
        self.ask(Method::GET, "/v1/revocations").await
    }

    /// Puts something on the deny list.
    ///
    /// # Errors
    /// As [`ClientError`] lists.
    pub async fn revoke(&self, request: &RevokeRequest) -> Result<RevokeReport, ClientError> {
        self.tell("/v1/revoke", request).await
    }

    /// Enrols a unit, or asks what would become of it.
    ///
    /// # Errors
    /// As [`ClientError`] lists; so do the others.
    pub async fn enroll(&self, request: &EnrolRequest) -> Result<EnrolReport, ClientError> {
        self.tell("/v1/enroll", request).await
    }

    /// Takes back what was enrolled so.
    ///
    /// # Errors
    /// As [`ClientError`] lists.
    pub async fn unenroll(&self, request: &UnenrolRequest) -> Result<Changed, ClientError> {
        self.tell("/v1/unenroll", request).await
    }

    /// Has the last change stay.
    ///
    /// # Errors
    /// As [`ClientError`] lists.
    pub async fn confirm(&self) -> Result<Changed, ClientError> {
        self.ask(Method::POST, "/v1/confirm").await
    }

    /// What was enrolled so.
    ///
    /// # Errors
    /// As [`ClientError`] lists.
    pub async fn enrolled(&self) -> Result<Vec<Enrolled>, ClientError> {
        self.ask(Method::GET, "/v1/enrolled").await
    }

    /// Takes something off the deny list.
    ///
    /// # Errors
    /// As [`ClientError`] lists.
    pub async fn unrevoke(&self, request: &UnrevokeRequest) -> Result<UnrevokeReport, ClientError> {
        self.tell("/v1/unrevoke", request).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        self.answer(method, path, Bytes::new()).await
    }

    async fn tell<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(&error))?;
        self.answer(Method::POST, path, body.into()).await
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(TIMEOUT, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(ClientError::Timeout(self.socket.clone())),
        }
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broken(&e))?;
        // Its error also ends the request below, which is where it is reported.
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "mtlsd")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| self.broken(&e))?;
        let response = sender.send_request(request).await.map_err(|e| self.broken(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        driver.abort();
        let body = body.map_err(|e| self.broken(&*e))?.to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|e| self.broken(&e));
        }
        match serde_json::from_slice(&body) {
            Ok(error) => Err(ClientError::Refused(error)),
            Err(_) => Err(self.broken(&format!("HTTP status {status}"))),
        }
    }

    fn unreachable(&self, error: io::Error) -> ClientError {
        let path = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon(path),
            io::ErrorKind::PermissionDenied => ClientError::Permission(path),
            _ => ClientError::Connect { path, source: error },
        }
    }

    fn broken(&self, detail: &(impl std::fmt::Display + ?Sized)) -> ClientError {
        ClientError::Broken { path: self.socket.clone(), detail: detail.to_string() }
    }
}

/// Percent-encodes what is not unreserved (RFC 3986, section 2.3).
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::super::admin::tests::serve;
    use super::super::socket::tests::leave_dead_socket;
    use super::*;

    #[tokio::test]
    async fn each_question_gets_its_typed_answer() {
        let served = serve(true);
        let client = AdminClient::new(&served.path);
        assert!(client.status().await.unwrap().ready());
        assert_eq!(client.connections(None, 10).await.unwrap().len(), 3);
        assert_eq!(client.connections(Some("no & such=one"), 10).await.unwrap().len(), 0);
        assert_eq!(client.workloads().await.unwrap()[0].name, "db");
        assert!(client.verify().await.unwrap().holds());
        assert!(client.reload().await.unwrap().applied);
        let two = client.explain(&Which::LastRefused, false).await.unwrap();
        assert_eq!(two, client.explain(&Which::Id(two.connection.id), false).await.unwrap());
        let three = Which::Id(ConnectionId::from_u64(3));
        assert_eq!(client.explain(&three, false).await.unwrap().near_misses, None);
        assert!(client.explain(&three, true).await.unwrap().near_misses.is_some());
        let path = client.path("web", "10.1.0.7:5432").await.unwrap();
        assert!(path.allowed() && path.recent.is_empty());
    }

    #[tokio::test]
    async fn an_answer_that_is_no_comes_with_the_daemons_words() {
        let served = serve(true);
        let client = AdminClient::new(&served.path);
        let error = client.explain(&Which::Id(ConnectionId::from_u64(99)), false).await.unwrap_err();
        assert!(matches!(&error, ClientError::Refused(_)));
        assert!(error.to_string().contains("mtlsd verify"), "{error}");
    }

    #[tokio::test]
    async fn without_a_daemon_the_message_says_how_to_start_one() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("none.sock");
        let dead = directory.path().join("dead.sock");
        leave_dead_socket(&dead);
        for path in [missing, dead] {
            let error = AdminClient::new(&path).status().await.unwrap_err();
            assert!(matches!(error, ClientError::NoDaemon(_)), "{error}");
            assert!(error.to_string().contains("mtlsd run"), "{error}");
        }
    }

    #[test]
    fn a_socket_that_may_not_be_opened_says_so() {
        let client = AdminClient::new(Path::new("/run/mtlsd/admin.sock"));
        let error = client.unreachable(io::ErrorKind::PermissionDenied.into());
        assert!(error.to_string().contains("sudo"), "{error}");
        let other = client.unreachable(io::ErrorKind::InvalidInput.into());
        assert!(matches!(other, ClientError::Connect { .. }));
    }

    #[tokio::test]
    async fn what_does_not_speak_like_mtlsd_is_reported_as_such() {
        for answer in [
            &b"SSH-2.0-OpenSSH_9\r\n"[..],
            b"",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            b"HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\noops",
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("other.sock");
            let listener = UnixListener::bind(&path).unwrap();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(answer).await.unwrap();
            });
            let error = AdminClient::new(&path).status().await.unwrap_err();
            assert!(matches!(error, ClientError::Broken { .. }), "{error}");
        }
    }

    #[test]
    fn query_values_cannot_leave_their_place() {
        assert_eq!(escape("spiffe://a/b"), "spiffe%3A%2F%2Fa%2Fb");
        assert_eq!(escape("a&to=b c\r\né"), "a%26to%3Db%20c%0D%0A%C3%A9");
    }
}
