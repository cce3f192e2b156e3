//! The double itself, as tests hold it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::access::Access;
use crate::faults::{Act, InWatch};
use crate::object::{Key, text};
use crate::resource::Resource;
use crate::serve::Server;
use crate::store::Gone;
use crate::tls;

/// The bearer token that is good until [`Double::tokens`] says others.
pub const TOKEN: &str = "a-token-of-the-double";
/// Whose it is.
pub const USER: &str = "system:serviceaccount:mtlsd:mtlsd";

/// A server on loopback. It ends when it is dropped; its objects outlive [`Double::stop`].
pub struct Double {
    server: Arc<Server>,
    runtime: Option<Runtime>,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    ca: String,
    cut: broadcast::Sender<()>,
    listening: Option<JoinHandle<()>>,
}

impl Double {
    /// Starts one, empty.
    ///
    /// # Panics
    /// If there is no port on loopback.
    #[must_use]
    pub fn start() -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Starts one at an address of loopback, such as `[::1]:0`.
    ///
    /// # Panics
    /// If that cannot be bound.
    #[must_use]
    pub fn start_at(address: SocketAddr) -> Self {
        let (config, ca) = tls::server();
        let tokens = [TOKEN.to_owned()].into();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("kube-double")
            .enable_all()
            .build()
            .expect("a runtime");
        let mut double = Self {
            server: Arc::new(Server::new(Access { tokens, ..Access::default() })),
            runtime: Some(runtime),
            address,
            acceptor: TlsAcceptor::from(config),
            ca,
            cut: broadcast::channel(4).0,
            listening: None,
        };
        double.listen();
        double
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The root that vouches for it, as PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca
    }

    /// Puts a whole object, with its status, under the name and namespace in it; there may be one already.
    ///
    /// # Panics
    /// If the resource is unknown, or the object has no name.
    #[track_caller]
    pub fn put(&self, plural: &str, object: Value) {
        let resource = Resource::named(plural);
        let key = Key::new(resource, text(&object, "namespace"), text(&object, "name"));
        assert!(!key.name.is_empty(), "the object has a name");
        self.server.state().store.put(resource, key, object);
        self.server.tell();
    }

    /// Takes an object away.
    ///
    /// # Panics
    /// If it is not there.
    #[track_caller]
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) {
        let key = Key::new(Resource::named(plural), namespace, name);
        let deleted = self.server.state().store.delete(&key, &Value::Null);
        assert!(deleted.is_ok(), "the object is there");
        self.server.tell();
    }

    /// An object as it is now.
    ///
    /// # Panics
    /// If the resource is unknown.
    #[must_use]
    #[track_caller]
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = Key::new(Resource::named(plural), namespace, name);
        self.server.state().store.find(&key).ok().map(|object| (*object).clone())
    }

    /// All objects of a resource as they are now.
    #[must_use]
    pub fn all(&self, plural: &str) -> Vec<Value> {
        let state = self.server.state();
        let these = state.store.objects.iter().filter(|(key, _)| key.plural == plural);
        these.map(|(_, object)| (**object).clone()).collect()
    }

    /// Takes all objects of a resource away without a word to anybody, as a store does that was restored from nothing.
    pub fn lose(&self, plural: &str) {
        let mut state = self.server.state();
        state.store.objects.retain(|key, _| key.plural != plural);
        state.store.version += 1;
        state.store.compact();
    }

    /// The version of the last change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.server.state().store.version
    }

    /// Forgets the changes until now: watches from before are told 410, and pages that are left expire.
    pub fn compact(&self) {
        self.server.state().store.compact();
    }

    /// How a watch hears of that.
    pub fn gone_as(&self, gone: Gone) {
        self.server.state().gone = gone;
    }

    /// Only these tokens are good.
    pub fn tokens(&self, tokens: &[&str]) {
        self.server.state().access.tokens = tokens.iter().map(|token| (*token).to_owned()).collect();
    }

    /// Answers a verb on a resource with 403.
    pub fn forbid(&self, verb: &str, plural: &str) {
        self.server.state().access.forbidden.insert((verb.to_owned(), plural.to_owned()));
    }

    /// Ends that.
    pub fn allow(&self, verb: &str, plural: &str) {
        self.server.state().access.forbidden.remove(&(verb.to_owned(), plural.to_owned()));
    }

    /// How often watches get a bookmark; as the real server, about each minute.
    pub fn bookmarks_each(&self, pause: Duration) {
        self.server.state().bookmark_pause = pause;
    }

    /// What becomes of the next requests with this verb, which is that of an access rule, or `page` for a list that goes on.
    pub fn next(&self, verb: &str, plural: &str, times: usize, act: Act) {
        self.server.state().faults.add(verb, plural, times, act);
    }

    /// No fault waits any more.
    pub fn mend(&self) {
        self.server.state().faults.clear();
    }

    /// Something happens in all watches that are open; returns how many there are.
    pub fn in_watches(&self, what: InWatch) -> usize {
        self.server.in_watch.send(what).unwrap_or(0)
    }

    /// How many watches are open.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.server.in_watch.receiver_count()
    }

    /// How many requests with a verb came since the beginning, answered or not.
    #[must_use]
    pub fn count(&self, verb: &str, plural: &str) -> usize {
        let state = self.server.state();
        state.seen.iter().filter(|seen| seen.verb == verb && seen.plural == plural).count()
    }

    /// Path and query of the requests with a verb, in the order in which they came.
    #[must_use]
    pub fn paths(&self, verb: &str, plural: &str) -> Vec<String> {
        let state = self.server.state();
        let these = state.seen.iter().filter(|seen| seen.verb == verb && seen.plural == plural);
        these.map(|seen| seen.path.clone()).collect()
    }

    /// How many connections there were.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.server.state().connections
    }

    /// Ends every connection at once, in the middle of whatever it does.
    pub fn cut(&self) {
        let before = self.server.cuts.load(Ordering::SeqCst);
        // Who is away has cut them already.
        if self.listening.is_none() || self.cut.send(()).is_err() {
            return;
        }
        while self.server.cuts.load(Ordering::SeqCst) == before {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Every connection goes silent without ending, and so do new ones until [`Double::speak`].
    pub fn silence(&self) {
        self.server.silence.begin();
    }

    /// New connections are served again.
    pub fn speak(&self) {
        self.server.silence.end();
    }

    /// Away: connections are cut, and new ones refused.
    pub fn stop(&mut self) {
        let Some(listening) = self.listening.take() else { return };
        listening.abort();
        // Not by blocking on it: the caller may be a runtime's own thread.
        while !listening.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Back, at the same address.
    ///
    /// # Panics
    /// If somebody else has it meanwhile.
    pub fn restart(&mut self) {
        self.stop();
        self.listen();
    }

    fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).expect("the port is free");
        self.address = listener.local_addr().expect("it is bound");
        listener.set_nonblocking(true).expect("a socket can be");
        let runtime = self.runtime.as_ref().expect("it lives until the double is dropped");
        let _in = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener).expect("a socket can be polled");
        let serve = Arc::clone(&self.server).run(listener, self.acceptor.clone(), self.cut.subscribe());
        self.listening = Some(runtime.spawn(serve));
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        // Also where it is dropped inside of another runtime, which must not block.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
