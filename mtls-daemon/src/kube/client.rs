//! Requests: each with the token of now, bounded in time and in bytes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::answer::refused;
use super::body::{Body, broken};
use super::config::ClusterConfig;
use super::connect::{Link, connect};
use super::error::{KubeError, Subject, Verb};
use super::names::{Key, NamespaceName};
use super::resource::Resource;
use super::timing::Timing;

/// Largest single object that is read, in bytes.
pub const MAX_OBJECT: usize = 4 << 20;
/// How much of a refusal is read, in bytes.
const MAX_REFUSAL: usize = 64 * 1024;

/// A client of one API server. It keeps one connection between requests; each watch has its own.
#[derive(Debug)]
pub struct Client {
    config: ClusterConfig,
    timing: Timing,
    idle: Mutex<Option<Link>>,
}

/// What is sent.
struct Ask {
    subject: Subject,
    path: String,
    body: Option<(&'static str, Bytes)>,
}

impl Client {
    /// Nothing is read or opened before the first request.
    #[must_use]
    pub fn new(config: ClusterConfig, timing: Timing) -> Self {
        Self { config, timing, idle: Mutex::default() }
    }

    /// How long it waits for what.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Reads one object, with the fields that `T` has.
    ///
    /// # Errors
    /// Without it; [`KubeError::NotFound`] if there is none.
    pub async fn get<T: DeserializeOwned>(&self, resource: Resource, key: &Key) -> Result<T, KubeError> {
        let subject = Subject { verb: Verb::Get, resource };
        self.object(Ask { subject, path: resource.one(key), body: None }).await
    }

    /// Creates an object, and reads it as it is then.
    ///
    /// # Errors
    /// [`KubeError::Conflict`] if there is one of its name. After [`KubeError::Broken`] and [`KubeError::Timeout`] it may or may
    /// not have been created.
    pub async fn create<T: DeserializeOwned>(
        &self,
        resource: Resource,
        namespace: &NamespaceName,
        object: &impl Serialize,
    ) -> Result<T, KubeError> {
        let subject = Subject { verb: Verb::Create, resource };
        let body = Some(("application/json", encode(subject, object)?));
        self.object(Ask { subject, path: resource.all(Some(namespace)), body }).await
    }

    /// Merges a patch (RFC 7386) into the status of an object, and reads the object as it is then. A patch that names
    /// `metadata.resourceVersion` is refused if the object has another one by now.
    ///
    /// # Errors
    /// [`KubeError::Conflict`] if it has.
    pub async fn patch_status<T: DeserializeOwned>(
        &self,
        resource: Resource,
        key: &Key,
        patch: &impl Serialize,
    ) -> Result<T, KubeError> {
        let subject = Subject { verb: Verb::Patch, resource };
        let body = Some(("application/merge-patch+json", encode(subject, patch)?));
        let path = format!("{}/status?fieldManager=mtlsd", resource.one(key));
        self.object(Ask { subject, path, body }).await
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// [`KubeError::NotFound`] if there is none.
    pub async fn delete(&self, resource: Resource, key: &Key) -> Result<(), KubeError> {
        let subject = Subject { verb: Verb::Delete, resource };
        let ask = Ask { subject, path: resource.one(key), body: None };
        self.bytes(&ask, MAX_OBJECT).await.map(drop)
    }

    /// A page of a list.
    pub(super) async fn page(
        &self,
        resource: Resource,
        path: String,
        limit: usize,
    ) -> Result<Vec<u8>, KubeError> {
        self.bytes(&Ask { subject: Subject { verb: Verb::List, resource }, path, body: None }, limit).await
    }

    /// A watch that has begun well, on a connection of its own.
    pub(super) async fn watch(&self, resource: Resource, path: String) -> Result<Body, KubeError> {
        let subject = Subject { verb: Verb::Watch, resource };
        let ask = Ask { subject, path, body: None };
        self.in_time(subject, self.begin(&ask, None)).await
    }

    async fn object<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, KubeError> {
        let bytes = self.bytes(&ask, MAX_OBJECT).await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| KubeError::Malformed { subject: ask.subject, reason: error.to_string() })
    }

    /// A whole answer.
    async fn bytes(&self, ask: &Ask, limit: usize) -> Result<Vec<u8>, KubeError> {
        self.in_time(ask.subject, async {
            // What changes something is never sent twice: only what reads may find a kept connection closed.
            let kept =
                if ask.subject.verb.method() == hyper::Method::GET { self.idle().take() } else { None };
            let first = match kept {
                Some(link) if !link.sender.is_closed() => match self.begin(ask, Some(link)).await {
                    Err(KubeError::Broken { .. }) => None,
                    other => Some(other?),
                },
                _ => None,
            };
            let body = match first {
                Some(body) => body,
                None => self.begin(ask, None).await?,
            };
            let (bytes, link) = body.whole(limit).await?;
            *self.idle() = Some(link);
            Ok(bytes)
        })
        .await
    }

    async fn in_time<T>(
        &self,
        subject: Subject,
        work: impl Future<Output = Result<T, KubeError>>,
    ) -> Result<T, KubeError> {
        let limit = self.timing.answer;
        timeout(limit, work).await.unwrap_or(Err(KubeError::Timeout { subject, limit }))
    }

    /// Sends a request and waits for the head of its answer, which is one of success.
    async fn begin(&self, ask: &Ask, link: Option<Link>) -> Result<Body, KubeError> {
        let subject = ask.subject;
        // Before there is a connection: a token that cannot be read is nothing to dial for.
        let request = self.request(ask)?;
        let mut link = match link {
            Some(link) => link,
            None => {
                let limit = self.timing.connect;
                let connected = timeout(limit, connect(&self.config)).await;
                let server = || self.config.to_string();
                let silent =
                    |_| KubeError::Connect { server: server(), reason: format!("no answer in {limit:?}") };
                connected.map_err(silent)??
            }
        };
        let ready = link.sender.ready().await;
        ready.map_err(|error| broken(subject, &error))?;
        let response = link.sender.send_request(request).await.map_err(|error| broken(subject, &error))?;
        let code = response.status().as_u16();
        if !(200..300).contains(&code) {
            let headers = response.headers().clone();
            let text = Body { subject, response, link }.beginning(MAX_REFUSAL).await;
            return Err(refused(subject, code, &headers, &text, &self.config.token_file));
        }
        Ok(Body { subject, response, link })
    }

    fn request(&self, ask: &Ask) -> Result<Request<Full<Bytes>>, KubeError> {
        let mut request = Request::builder()
            .method(ask.subject.verb.method())
            .uri(&ask.path)
            .header(HOST, self.config.authority())
            .header(USER_AGENT, concat!("mtlsd/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, self.config.bearer()?);
        let body = match &ask.body {
            Some((content_type, body)) => {
                request = request.header(CONTENT_TYPE, *content_type);
                body.clone()
            }
            None => Bytes::new(),
        };
        let failed = |error: hyper::http::Error| KubeError::Malformed {
            subject: ask.subject,
            reason: format!("the request cannot be written: {error}"),
        };
        request.body(Full::new(body)).map_err(failed)
    }

    fn idle(&self) -> MutexGuard<'_, Option<Link>> {
        // Nothing panics while it is held.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(subject: Subject, object: &impl Serialize) -> Result<Bytes, KubeError> {
    let text = serde_json::to_vec(object).map_err(|error| KubeError::Malformed {
        subject,
        reason: format!("it cannot be written: {error}"),
    })?;
    Ok(Bytes::from(text))
}
