//! Connections and requests.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::access::Access;
use crate::answer::Failure;
use crate::change::list;
use crate::discovery;
use crate::faults::{Act, Faults, InWatch};
use crate::http::{Broken, Manner, Pieces, channel, json, refusal, respond, whole};
use crate::route::Route;
use crate::store::{Gone, Store};
use crate::watch::Watch;
use crate::wire::{Silence, Wire};

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub verb: &'static str,
    pub plural: &'static str,
    pub path: String,
}

/// What changes.
pub(crate) struct State {
    pub store: Store,
    pub access: Access,
    pub faults: Faults,
    pub gone: Gone,
    pub seen: Vec<Seen>,
    pub connections: usize,
    pub bookmark_pause: Duration,
}

/// All that the requests share.
pub(crate) struct Server {
    state: Mutex<State>,
    /// The version of now.
    pub versions: watch::Sender<u64>,
    pub in_watch: broadcast::Sender<InWatch>,
    pub silence: Arc<Silence>,
    /// How often all connections were ended.
    pub cuts: AtomicUsize,
}

impl Server {
    pub fn new(access: Access) -> Self {
        let store = Store::new();
        let versions = watch::channel(store.version).0;
        let state = State {
            store,
            access,
            faults: Faults::default(),
            gone: Gone::Status,
            seen: Vec::new(),
            connections: 0,
            bookmark_pause: Duration::from_secs(60),
        };
        let silence = Arc::default();
        Self {
            state: Mutex::new(state),
            versions,
            in_watch: broadcast::channel(64).0,
            silence,
            cuts: AtomicUsize::new(0),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the watches, if anything changed.
    pub fn tell(&self) {
        let now = self.state().store.version;
        self.versions.send_if_modified(|version| std::mem::replace(version, now) != now);
    }

    /// Takes connections until it is aborted, or `cut` says that those that are there shall end.
    pub async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        tls: TlsAcceptor,
        mut cut: broadcast::Receiver<()>,
    ) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    self.state().connections += 1;
                    connections.spawn(Arc::clone(&self).connection(stream, tls.clone()));
                },
                _ = cut.recv() => {
                    connections.shutdown().await;
                    self.cuts.fetch_add(1, Ordering::SeqCst);
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, tls: TlsAcceptor) {
        // Whatever ends a connection is the client's to tell.
        let _ = stream.set_nodelay(true);
        let Ok(stream) = tls.accept(Wire::new(stream, Arc::clone(&self.silence))).await else { return };
        let service = service_fn(move |request| Arc::clone(&self).answer(request));
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Pieces>, Broken> {
        match self.decide(request).await {
            Ok(response) => Ok(response),
            Err(failure) => Ok(refusal(&failure)),
        }
    }

    async fn decide(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Pieces>, Failure> {
        let (head, body) = request.into_parts();
        let text =
            |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let query = head.uri.query().unwrap_or_default();
        let route = Route::parse(head.method.as_str(), head.uri.path(), query)?;
        if let Some((verb, plural)) = route.aim() {
            self.state().seen.push(Seen { verb, plural, path: head.uri.to_string() });
        }
        self.state().access.check(text("authorization"), route.subject())?;
        let act = route.aim().and_then(|(verb, plural)| self.state().faults.take(verb, plural));
        let mut manner = Manner::Whole;
        match act {
            None => {}
            Some(Act::Status(code, retry_after)) => {
                let message = "a failure of the double".to_owned();
                return Err(Failure { retry_after, ..Failure::new(code, "InternalError", message) });
            }
            Some(Act::Delay(pause)) => tokio::time::sleep(pause).await,
            Some(Act::Never) => std::future::pending().await,
            Some(Act::Trickle(pause)) => manner = Manner::Trickle(pause),
            Some(Act::Half) => manner = Manner::Half,
            Some(Act::Body(text)) => return Ok(whole(200, text, manner)),
            Some(Act::Compact) => self.state().store.compact(),
        }
        let body = body.collect().await.map_err(|_| Failure::bad("the body did not come"))?.to_bytes();
        let told = || match body.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_slice::<Value>(&body)
                .map_err(|error| Failure::bad(&format!("the body is no JSON: {error}"))),
        };
        if let Route::Patch(..) = &route
            && !text("content-type").starts_with("application/merge-patch+json")
        {
            let message = "the double merges patches: application/merge-patch+json".to_owned();
            return Err(Failure::new(415, "UnsupportedMediaType", message));
        }
        let response = match route {
            Route::Discovery(path) => json(200, &discovery::answer(&path)?, manner),
            Route::Watch(scope, query) => {
                let watch = Watch::new(&self, scope, &query)?;
                let (sender, pieces) = channel();
                tokio::spawn(watch.run(Arc::clone(&self), sender));
                respond(200, pieces)
            }
            Route::List(scope, query) => {
                let limit = usize::try_from(query.number("limit")?).unwrap_or(usize::MAX);
                let page = self.state().store.page(&scope, limit, query.text("continue"))?;
                let mut value = list(scope.resource, page.version, &page.objects);
                if let Some((token, left)) = page.next {
                    value["metadata"]["continue"] = token.into();
                    value["metadata"]["remainingItemCount"] = left.into();
                }
                json(200, &value, manner)
            }
            Route::Get(_, key) => {
                let object = self.state().store.find(&key)?;
                json(200, &object, manner)
            }
            Route::Create(resource, namespace) => {
                let object = self.state().store.create(resource, &namespace, told()?)?;
                json(201, &object, manner)
            }
            Route::Replace(resource, key, status) => {
                let object = self.state().store.replace(resource, key, &told()?, status)?;
                json(200, &object, manner)
            }
            Route::Patch(resource, key, status) => {
                let object = self.state().store.patch(resource, key, &told()?, status)?;
                json(200, &object, manner)
            }
            Route::Delete(_, key) => {
                let object = self.state().store.delete(&key, &told()?)?;
                json(200, &object, manner)
            }
        };
        self.tell();
        Ok(response)
    }
}
