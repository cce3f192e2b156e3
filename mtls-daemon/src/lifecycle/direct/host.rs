//! This node, as the driver of direct connections sees it.

use std::num::NonZeroU64;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use mtls_direct::{
    About, By, ByName, ConnectionId, Counts, Decision, FourTuple, Key, Limits, Message, Named as _, Nonce,
    Outcome, Reason as Why, Role, Socket,
};
use rustls::crypto::{SecureRandom, aws_lc_rs};

use super::client::Syns;
use super::destroy::destroy;
use super::journal::Journal;
use super::leased::Leased;
use super::links::Links;
use super::opened::{Name, Opened, ending, errno_of, is_of_identity};
use super::recovery::Left;
use super::unheard::Unheard;
use super::waiting::Waiting;
use crate::capture::{Inbound, Phase, ReleaseNoteError};
use crate::datapath::direct::drive::{LinkId, Node, NotInstalled, NotTaken, Session, Teller, Told};
use crate::datapath::direct::hands::arm::ArmError;
use crate::datapath::direct::hands::{self, Taken};
use crate::datapath::direct::session::pool::{Pair as SessionPair, Pool};
use crate::datapath::direct::session::{Link, LinkEnd, SocketKeys, fresh_nonce};
use crate::datapath::direct::unfit::{Memory, Pair, Side};
use crate::datapath::relay::admission::ConnectionPermit;
use crate::datapath::relay::{Other, Place, Relay};
use crate::identity::PeerIdentity;
use crate::lease::Lease;
use crate::lifecycle::daemon::{Daemon, lock};
use crate::observe::connection::{Datapath, Direction, Ending};
use crate::observe::observer::{Captured, Observed};
use crate::observe::{Reason, Refusal};
use crate::snapshot::{Snapshot, WorkloadState};
use crate::sys::pidfd::TakeError;
use crate::sys::tcp_info::TcpInfo;

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

/// Bytes of a full record (RFC 8446, section 5.1).
const RECORD: u64 = 1 << 14;

/// The kernel and the policy of this node.
pub(super) struct Host {
    pub daemon: Arc<Daemon>,
    pub links: Links,
    pub unfit: Mutex<Memory>,
    pub syns: Syns,
    pub waiting: Waiting,
    pub left: Left,
    pub unheard: Unheard,
    pub journal: Journal,
    random: &'static dyn SecureRandom,
    mount: PathBuf,
    pub limits: Limits,
    leased: Leased<Key>,
    opened: Mutex<ByName<Opened>>,
    /// Both are set once, right after they are made.
    pub teller: OnceLock<Teller<DaemonLink>>,
    pub pool: OnceLock<Pool>,
}

impl Host {
    pub fn new(daemon: Arc<Daemon>, mount: PathBuf, journal: Journal, limits: Limits) -> Self {
        let unfit = Memory::new(daemon.relay.snapshot.load().config.direct.unfit);
        Self {
            daemon,
            links: Links::default(),
            unfit: Mutex::new(unfit),
            syns: Syns::default(),
            waiting: Waiting::default(),
            left: Left::default(),
            unheard: Unheard::default(),
            journal,
            random: aws_lc_rs::default_provider().secure_random,
            mount,
            limits,
            leased: Leased::default(),
            opened: Mutex::default(),
            teller: OnceLock::new(),
            pool: OnceLock::new(),
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

    /// What there is, for people.
    pub fn in_words(&self) -> String {
        let connections = lock(&self.opened).iter().filter(|opened| opened.established).count();
        let (connecting, sessions) = (self.syns.count(), self.links.count());
        let unfit = lock(&self.unfit).list(Instant::now()).len();
        format!(
            "{connections} connections, {connecting} connecting, {sessions} sessions with other nodes' daemons, {unfit} pairs left to a relay for a time"
        )
    }

    /// The guard has closed for good; the kernel's socket is ended too.
    pub fn cut(&self, socket: Socket, tuple: FourTuple, why: Refusal) {
        let (client, server) = (tuple.client.into(), tuple.server.into());
        let ends = [(client, server), (server, client)];
        // Before the event of its end, which comes by the same ring.
        for opened in lock(&self.opened).iter_mut() {
            let opening = opened.observed.connection().opening();
            if ends.contains(&(opening.source, opening.destination)) {
                opened.guard = Some(Box::new(why.clone()));
            }
        }
        self.destroy(socket.netns, Some(socket.cookie), tuple, Why::Protocol);
    }

    pub fn with<T>(&self, about: &About<LinkId>, f: impl FnOnce(&mut Opened) -> T) -> Option<T> {
        lock(&self.opened).get_mut(&about.name()).map(f)
    }

    /// Begins to observe a connection; `tuple` as its client sees it.
    pub fn observe(&self, workload: &Arc<WorkloadState>, direction: Direction, tuple: FourTuple) -> Observed {
        let captured = Captured {
            direction,
            local_identity: Some(Arc::clone(&workload.spiffe_id)),
            source: tuple.client,
            destination: tuple.server,
        };
        self.relay().observer.begin(&workload.metrics, captured)
    }

    /// What keeps it alive.
    ///
    /// # Errors
    /// Why it may not be.
    pub fn lease(
        &self,
        workload: &WorkloadState,
        direction: Direction,
        tuple: FourTuple,
        peer: Arc<PeerIdentity>,
    ) -> Result<Lease, Refusal> {
        let address = match direction {
            Direction::Outbound => tuple.server.ip(),
            Direction::Inbound => tuple.client.ip(),
        };
        let other = Other { direction, port: tuple.server.port(), address, peer: Some(peer) };
        let lease = self.relay().lease(workload, other);
        match lease.refusal() {
            Some(refusal) => Err(Refusal::clone(&refusal)),
            None => Ok(lease),
        }
    }

    /// This end's part of a connection's keys.
    pub fn nonce(&self) -> Option<Nonce> {
        fresh_nonce(self.random).ok()
    }

    /// Leave for one more connection.
    pub fn permit(&self, snapshot: &Snapshot, workload: &WorkloadState) -> Result<ConnectionPermit, Refusal> {
        let (total, own) = (snapshot.config.limits.connections, workload.settings.max_connections);
        self.relay().admission.load().connection(total, &workload.live, own)
    }

    /// A connection begins.
    pub fn enter(&self, opened: Opened) {
        self.links.enter(opened.name().0);
        lock(&self.opened).insert(opened);
    }

    /// It is over. `key`: where the driver knew it.
    pub fn leave(&self, name: Name, key: Option<Key>) -> Option<Opened> {
        let opened = lock(&self.opened).remove(&name)?;
        if let Some(key) = key {
            self.leased.forget(&opened.lease, key);
        }
        if self.links.leave(name.0) {
            self.journal.forget(name.0.0);
        }
        Some(opened)
    }

    /// Whether there is a session of the pair or one is being made.
    pub fn makes_session(&self, pair: &SessionPair) -> bool {
        self.pool.get().is_some_and(|pool| pool.get(pair).is_some() || pool.is_making(pair))
    }

    /// Notes why; the machine's own reason is a general one.
    pub fn note(&self, about: &About<LinkId>, reason: Reason, detail: String) {
        tracing::debug!(key = about.key.0, detail, "a direct connection failed");
        self.with(about, |opened| {
            opened.refusal.get_or_insert_with(|| Box::new(Refusal::new(reason, detail)));
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

    /// From now on the connection lives as long as its lease. False: that is over.
    fn keep(&self, about: &About<LinkId>) -> bool {
        let Some(teller) = self.teller.get() else { return false };
        let key = about.key;
        let refusal = self.with(about, |opened| {
            let tell = teller.clone();
            self.leased.watch(&opened.lease, key, move |key| tell.tell(Told::LeaseEnded(key)));
            let refusal = opened.lease.refusal();
            if refusal.is_none() {
                opened.established = true;
                opened.observed.handshake_done(opened.observed.connection().age());
                opened.observed.established(Datapath::Direct, None);
                let standing = opened.lease.standing();
                opened.observed.connection().learn(|learned| learned.standing = standing);
            }
            refusal
        });
        match refusal {
            Some(None) => true,
            Some(Some(_)) => {
                teller.tell(Told::LeaseEnded(key));
                false
            }
            None => false,
        }
    }

    /// For a daemon that starts again.
    fn note_released(&self, about: &About<LinkId>) -> Result<(), ReleaseNoteError> {
        if let Some(link) = self.links.to_note(about.link)
            && let Err(error) = self.journal.note(about.link.0, &link.chain())
        {
            tracing::warn!(%error, "direct connections of this session will be cut when the daemon starts again");
        }
        let cookie = about.cookie.unwrap_or_default();
        self.relay().capture.note_released(cookie, about.link.0)
    }

    /// The daemon stops. What flows goes on; what does not yet never will.
    pub fn stop(&self) {
        // First: with its last member a group is over, which must end no connection now.
        self.leased.forget_all();
        self.leave_left();
        let all = lock(&self.opened).take_all();
        for opened in all {
            if opened.established {
                opened.observed.left_open();
            } else {
                self.links.end(opened.name().0, LinkEnd::ShuttingDown);
                opened.observed.end(Ending::Refused(Reason::ShuttingDown.into()));
            }
        }
        self.syns.refuse_all(Reason::ShuttingDown);
        for live in self.relay().capture.direct_sockets() {
            if live.phase == Phase::Held {
                let tuple = FourTuple { client: live.local, server: live.remote };
                self.destroy(live.netns, Some(live.cookie), tuple, Why::Recovered);
            }
        }
    }

    /// What the memory of failures calls it.
    fn pair(&self, about: &About<LinkId>) -> Option<Pair> {
        let to = about.id.tuple.server;
        let side = match about.role {
            Role::Client => Side::Outbound(to),
            Role::Server => Side::Inbound(to.port()),
        };
        self.with(about, |opened| Pair { workload: opened.workload.settings.name.as_str().into(), side })
    }
}

impl Node for Host {
    type Session = DaemonLink;
    type Taken = Taken;

    fn duplicate(&self, about: &About<LinkId>) -> Result<Taken, NotTaken> {
        let (owner, cookie) = about.owner.zip(about.cookie).ok_or(NotTaken::Failed)?;
        Taken::take(owner.pid, owner.fd, cookie, &self.mount).map_err(|error| {
            self.note(about, Reason::DirectFailed, error.to_string());
            match error {
                TakeError::Gone { .. } => NotTaken::ApplicationGone,
                _ => NotTaken::Failed,
            }
        })
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
        // Longer than the client waits for the handshake.
        let syn_comes = self.limits.handshake + Duration::from_secs(1);
        let expected = self.relay().capture.expect(inbound, workload, syn_comes);
        expected.inspect_err(|error| tracing::warn!(%error, "a direct connection cannot be expected")).is_ok()
    }

    fn unexpect(&self, netns: u64, tuple: FourTuple) {
        self.relay().capture.unexpect(Inbound { netns, client: tuple.client, server: tuple.server });
    }

    fn release_syn(&self, about: &About<LinkId>) {
        if let Some(socket) = about.socket()
            && let Err(error) = self.syns.let_go(socket)
        {
            tracing::warn!(%error, "the SYN of a direct connection could not be let go");
        }
    }

    fn refuse_connect(&self, socket: Socket, _: FourTuple, reason: Why) {
        if let Err(error) = self.syns.refuse(socket, errno_of(reason)) {
            tracing::warn!(%error, "a held connect() could not be answered");
        }
    }

    fn install(&self, about: &About<LinkId>, taken: &Taken, keys: SocketKeys) -> Result<(), NotInstalled> {
        let records = self.relay().snapshot.load().config.tls.records_per_key(keys.suite);
        // Full records: the limit is one of blocks, and smaller records have fewer.
        let key_limit = records.and_then(|records| NonZeroU64::new(records.saturating_mul(RECORD)));
        self.with(about, |opened| opened.key_limit = key_limit);
        // TCP is established: what opened it is not needed any more.
        if let Some(socket) = about.socket() {
            self.syns.forget(socket);
        }
        let armed = hands::arm::enable(taken).and_then(|()| hands::arm::install(taken, &keys.rx, &keys.tx));
        let why = match armed {
            Err(ArmError::NotEstablished) => NotInstalled::NotEstablished,
            _ => NotInstalled::Failed,
        };
        self.well(about, armed).then_some(()).ok_or(why)
    }

    fn empty(&self, about: &About<LinkId>, taken: &Taken) -> bool {
        // Most of what arming may take as a whole.
        self.well(about, hands::kick::empty_blocking(taken, self.limits.arming / 5 * 4).map(drop))
    }

    fn open_guard(&self, about: &About<LinkId>, taken: &Taken) -> bool {
        let key_limit = self.with(about, |opened| opened.key_limit).flatten();
        let opened = self.relay().capture.open_guard(taken.as_fd(), key_limit);
        let wish = *opened.as_ref().unwrap_or(&None);
        self.with(about, |opened| opened.wish = wish);
        self.well(about, opened.map(drop))
    }

    fn release_writer(&self, about: &About<LinkId>, taken: &Taken) -> bool {
        let wish = self.with(about, |opened| opened.wish).flatten();
        // First the lease: what it forbids shall not flow. Its end is told already.
        if !self.keep(about) {
            return true;
        }
        match self.note_released(about) {
            Ok(()) => {}
            // Over meanwhile: nobody waits to be let go, and its end is an event of its own.
            Err(ReleaseNoteError::Gone(_)) if TcpInfo::of(taken).is_ok_and(|info| info.is_over()) => {
                return true;
            }
            Err(error) => return self.well(about, Err(error)),
        }
        let released = hands::release::release(taken, hands::release::USUAL_GSO, wish);
        let well = self.well(about, released.map(drop));
        if well && let Some(pair) = self.pair(about) {
            lock(&self.unfit).succeeded(&pair);
        }
        well
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
        let (Some(pair), Some(number)) = (self.pair(about), self.with(about, |o| o.workload.number)) else {
            return;
        };
        let workload = Arc::clone(&pair.workload);
        if !lock(&self.unfit).failed(pair, reason, Instant::now()) {
            return;
        }
        let detail =
            self.with(about, |opened| opened.refusal.as_ref().map(|why| why.detail.clone())).flatten();
        let detail = detail.unwrap_or_default();
        tracing::warn!(%workload, %reason, detail, "a connection could not be direct: a relay carries the next ones for a time");
        if about.role == Role::Client {
            self.relay().capture.withdraw_direct(number, about.id.tuple.server);
        }
    }

    fn carried(&self, about: &About<LinkId>, counts: Counts) {
        self.with(about, |opened| {
            opened.observed.add_sent(counts.sent);
            opened.observed.add_received(counts.received);
        });
    }

    fn report(&self, about: &About<LinkId>, outcome: Outcome) {
        if let Some(socket) = about.socket() {
            self.syns.forget(socket);
        }
        let Some(opened) = self.leave(about.name(), Some(about.key)) else { return };
        let refusal = opened
            .lease
            .refusal()
            .map(|refusal| Refusal::clone(&refusal))
            .or(opened.refusal.map(|refusal| *refusal));
        if let Some(refusal) = refusal.as_ref().filter(|refusal| is_of_identity(refusal.reason)) {
            tracing::debug!(why = %refusal, "the session of such a connection ends too");
            self.links.end(about.link, LinkEnd::LeaseEnded);
        }
        let (outcome, refusal) = match opened.guard {
            Some(why) => (Outcome::Failed(By::Us, Why::Protocol), Some(*why)),
            None => (outcome, refusal),
        };
        opened.observed.end(ending(outcome, opened.established, refusal));
    }
}
