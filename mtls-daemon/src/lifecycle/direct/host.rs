//! This node, as the driver of direct connections sees it.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mtls_direct::{
    About, ConnectionId, Counts, Decision, FourTuple, Key, Message, Nonce, Outcome, Reason as Why, Role,
    Socket,
};

use super::destroy::destroy;
use super::links::Links;
use super::opened::{Opened, ending, errno_of};
use crate::capture::Inbound;
use crate::datapath::direct::drive::{LinkId, Node, Session, Teller, Told};
use crate::datapath::direct::hands::{self, Taken};
use crate::datapath::direct::session::{Link, SocketKeys};
use crate::datapath::direct::unfit::{Memory, Pair, Side};
use crate::datapath::relay::{Other, Place, Relay};
use crate::lifecycle::daemon::{Daemon, lock};
use crate::observe::connection::{Datapath, Direction};
use crate::observe::{Reason, Refusal};

/// How long the moving of threads may take.
const EMPTYING: Duration = Duration::from_millis(500);
/// How long a SYN may take to come; longer than the client's handshake timer.
pub(super) const SYN_COMES: Duration = Duration::from_secs(6);

/// A session of ours, for the driver.
pub(super) struct DaemonLink(pub Link);

impl Session for DaemonLink {
    type Keys = SocketKeys;

    fn send(&self, message: Message) {
        if let Err(why) = self.0.send(message) {
            tracing::debug!(%why, "a message about a direct connection was not sent");
        }
    }

    fn keys(&self, id: &ConnectionId, server: Nonce) -> Option<SocketKeys> {
        self.0
            .keys(id, server)
            .inspect_err(|why| tracing::warn!(%why, "no keys for a direct connection"))
            .ok()
    }
}

/// The kernel and the policy of this node.
pub(super) struct Host {
    pub daemon: Arc<Daemon>,
    pub links: Links,
    pub unfit: Mutex<Memory>,
    mount: PathBuf,
    pub opened: Mutex<HashMap<(LinkId, ConnectionId), Opened>>,
    /// Set once, right after the driver is made.
    pub teller: std::sync::OnceLock<Teller<DaemonLink>>,
}

impl Host {
    pub fn new(daemon: Arc<Daemon>, mount: PathBuf) -> Self {
        let unfit = Memory::new(daemon.relay.snapshot.load().config.direct.unfit);
        Self {
            daemon,
            links: Links::default(),
            unfit: Mutex::new(unfit),
            mount,
            opened: Mutex::default(),
            teller: std::sync::OnceLock::new(),
        }
    }

    pub fn relay(&self) -> &Arc<Relay> {
        &self.daemon.relay
    }

    pub fn place(&self, netns: u64) -> Option<Arc<Place>> {
        lock(&self.daemon.node).place(netns)
    }

    pub fn tell(&self, told: Told<DaemonLink>) {
        if let Some(teller) = self.teller.get() {
            teller.tell(told);
        }
    }

    /// The guard has cut it; the kernel's socket is ended too.
    pub fn violated(&self, socket: Socket, tuple: FourTuple) {
        self.destroy(socket.netns, Some(socket.cookie), tuple, Why::Protocol);
    }

    pub fn with<T>(&self, about: &About<LinkId>, f: impl FnOnce(&mut Opened) -> T) -> Option<T> {
        lock(&self.opened).get_mut(&(about.link, about.id)).map(f)
    }

    /// Notes why; the machine's own reason is a general one.
    pub fn note(&self, about: &About<LinkId>, reason: Reason, detail: String) {
        tracing::debug!(key = about.key.0, detail, "a direct connection failed");
        self.with(about, |opened| {
            opened.refusal.get_or_insert_with(|| Refusal::new(reason, detail));
        });
    }

    /// True, or the error is noted.
    fn well<E: std::fmt::Display>(&self, about: &About<LinkId>, result: Result<(), E>) -> bool {
        match result {
            Ok(()) => true,
            Err(error) => {
                self.note(about, Reason::DirectFailed, error.to_string());
                false
            }
        }
    }

    /// From now on the connection lives as long as its lease.
    fn keep(&self, about: &About<LinkId>) {
        let Some((workload, peer)) = self.with(about, |o| (Arc::clone(&o.workload), Arc::clone(&o.peer)))
        else {
            return;
        };
        let (direction, address) = match about.role {
            Role::Client => (Direction::Outbound, about.id.tuple.server.ip()),
            Role::Server => (Direction::Inbound, about.id.tuple.client.ip()),
        };
        let port = about.id.tuple.server.port();
        let mut lease = self.relay().lease(&workload, Other { direction, port, address, peer: Some(peer) });
        let standing = lease.standing();
        let Some(teller) = self.teller.get().cloned() else { return };
        let (daemon, key, name): (Arc<Daemon>, Key, _) =
            (Arc::clone(&self.daemon), about.key, (about.link, about.id));
        let task = tokio::spawn(async move {
            let refusal = lease.over().await;
            if let Some(host) = daemon.direct.get()
                && let Some(opened) = lock(&host.host.opened).get_mut(&name)
            {
                opened.refusal = Some(Refusal::clone(&refusal));
            }
            teller.tell(Told::LeaseEnded(key));
        });
        self.with(about, |opened| {
            opened.lease = Some(task.abort_handle());
            opened.syn = None;
            opened.established = true;
            opened.observed.handshake_done(opened.started.elapsed());
            opened.observed.established(Datapath::Direct, None);
            opened.observed.connection().learn(|learned| learned.standing = standing);
        });
    }
}

impl Node for Host {
    type Session = DaemonLink;
    type Taken = Taken;

    fn duplicate(&self, about: &About<LinkId>) -> Option<Taken> {
        let (owner, cookie) = about.owner.zip(about.cookie)?;
        Taken::take(owner.pid, owner.fd, cookie, &self.mount)
            .inspect_err(|error| self.note(about, Reason::DirectFailed, error.to_string()))
            .ok()
    }

    async fn decide(&self, about: About<LinkId>) -> Decision {
        match self.judge(about).await {
            Ok((netns, nonce)) => Decision::Allow(netns, nonce),
            Err(why) => Decision::Refuse(why),
        }
    }

    fn expect(&self, netns: u64, tuple: FourTuple) -> bool {
        let Some(workload) = self.place(netns).and_then(|place| place.owners.load().of(tuple.server.port()))
        else {
            return false;
        };
        let inbound = Inbound { netns, client: tuple.client, server: tuple.server };
        let expected = self.relay().capture.expect(inbound, workload, SYN_COMES);
        expected.inspect_err(|error| tracing::warn!(%error, "a direct connection cannot be expected")).is_ok()
    }

    fn unexpect(&self, netns: u64, tuple: FourTuple) {
        self.relay().capture.unexpect(Inbound { netns, client: tuple.client, server: tuple.server });
    }

    fn release_syn(&self, about: &About<LinkId>) {
        let sent =
            self.with(about, |opened| opened.syn.take().map(|(place, syn)| place.release_direct(&syn)));
        if let Some(Some(Err(error))) = sent {
            tracing::warn!(%error, "the SYN of a direct connection could not be let go");
        }
    }

    fn refuse_connect(&self, socket: Socket, tuple: FourTuple, reason: Why) {
        let Some(place) = self.place(socket.netns) else { return };
        let mut opened = lock(&self.opened);
        let held =
            opened.values_mut().find_map(|opened| opened.syn.take_if(|(_, syn)| syn.source == tuple.client));
        if let Some((_, syn)) = held
            && let Err(error) = place.answer_direct(&syn, errno_of(reason))
        {
            tracing::warn!(%error, "a held connect() could not be answered");
        }
    }

    fn install(&self, about: &About<LinkId>, taken: &Taken, keys: SocketKeys) -> bool {
        let armed = hands::arm::enable(taken).and_then(|()| hands::arm::install(taken, &keys.rx, &keys.tx));
        self.well(about, armed)
    }

    fn empty(&self, about: &About<LinkId>, taken: &Taken) -> bool {
        self.well(about, hands::kick::empty_blocking(taken, EMPTYING).map(drop))
    }

    fn open_guard(&self, about: &About<LinkId>, taken: &Taken) -> bool {
        let opened = self.relay().capture.open_guard(taken.as_fd());
        let wish = *opened.as_ref().unwrap_or(&None);
        self.with(about, |opened| opened.wish = wish);
        self.well(about, opened.map(drop))
    }

    fn release_writer(&self, about: &About<LinkId>, taken: &Taken) -> bool {
        let wish = self.with(about, |opened| opened.wish).flatten();
        // First the lease: what it forbids shall not flow.
        self.keep(about);
        let released = hands::release::release(taken, hands::release::USUAL_GSO, wish);
        self.well(about, released.map(drop))
    }

    fn destroy(&self, netns: u64, cookie: Option<u64>, tuple: FourTuple, reason: Why) {
        let Some(place) = self.place(netns) else { return };
        match place.netns.run(|| destroy(cookie, tuple)) {
            Ok(ended) => tracing::debug!(%reason, ended, client = %tuple.client, "ended a direct connection"),
            Err(error) => tracing::error!(
                %error,
                client = %tuple.client,
                server = %tuple.server,
                "a direct connection cannot be ended (SOCK_DESTROY, CONFIG_INET_DIAG_DESTROY); its guard stays closed"
            ),
        }
    }

    fn remember(&self, about: &About<LinkId>, reason: Why) {
        let Some(workload) = self.with(about, |opened| Arc::clone(&opened.workload)) else { return };
        let to = about.id.tuple.server;
        let side = match about.role {
            Role::Client => Side::Outbound(to),
            Role::Server => Side::Inbound(to.port()),
        };
        let pair = Pair { workload: workload.settings.name.as_str().into(), side };
        lock(&self.unfit).failed(pair, reason, Instant::now());
        if about.role == Role::Client {
            self.relay().capture.withdraw_direct(workload.number, to);
        }
    }

    fn carried(&self, about: &About<LinkId>, counts: Counts) {
        self.with(about, |opened| {
            opened.observed.add_sent(counts.sent);
            opened.observed.add_received(counts.received);
        });
    }

    fn report(&self, about: &About<LinkId>, outcome: Outcome) {
        let Some(opened) = lock(&self.opened).remove(&(about.link, about.id)) else { return };
        if let Some(lease) = &opened.lease {
            lease.abort();
        }
        let Opened { observed, established, refusal, .. } = opened;
        observed.end(ending(outcome, established, refusal));
    }
}
