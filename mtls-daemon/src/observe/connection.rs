//! One connection as people see it: its id, what is known while it lives, and the record it leaves.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mtls_direct::Address;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::chain::PeerChain;
use super::reason::{Reason, Refusal};
use super::standing::{Overdue, Standing};

/// Longest text of a peer that a record keeps, in bytes: a hostile peer must not fill the recorder.
pub const MAX_PEER_TEXT: usize = 2048;

/// The name of one connection, shown as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// The id of a number, such as one found in an eBPF event.
    #[must_use]
    pub const fn from_u64(value: u64) -> Self {
        Self(value)
    }

    /// The number behind the id.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that is not a connection id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a connection id; give the 16 hexadecimal digits that `mtlsd connections` shows")]
pub struct ConnectionIdError(String);

impl FromStr for ConnectionId {
    type Err = ConnectionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ConnectionIdError(text.chars().take(32).collect());
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| bad())
    }
}

impl Serialize for ConnectionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ConnectionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hands out ids that no other connection of this daemon, or of an earlier run of it, has had.
///
/// The first id is the start time in units of 2⁻³² seconds, as in an NTP timestamp: an earlier run can only
/// have reached it by opening 2³² connections a second. (A clock that is set back can repeat ids of old logs.)
#[derive(Debug)]
pub struct ConnectionIds(AtomicU64);

impl ConnectionIds {
    /// Ids of a daemon that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self::starting_at(SystemTime::now())
    }

    /// Ids of a daemon that starts at a given time.
    #[must_use]
    pub fn starting_at(start: SystemTime) -> Self {
        let since = start.duration_since(UNIX_EPOCH).unwrap_or_default();
        let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
        Self(AtomicU64::new((since.as_secs() << 32) | fraction))
    }

    /// The next id.
    pub fn next(&self) -> ConnectionId {
        ConnectionId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

impl Default for ConnectionIds {
    fn default() -> Self {
        Self::new()
    }
}

/// Who opened the connection, seen from the local workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The local workload connected.
    Outbound,
    /// The peer connected to the local workload.
    Inbound,
}

impl Direction {
    /// Both directions.
    pub const ALL: [Self; 2] = [Self::Outbound, Self::Inbound];

    /// The label used in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the bytes of a connection travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Datapath {
    /// The application's own socket carries kTLS records; the daemon is not on the path.
    Direct,
    /// The daemon splices; the kernel makes the records.
    RelayKtls,
    /// The daemon copies and makes the records.
    RelayUserspace,
    /// The application's own TLS, or a destination outside the directory, carried unchanged.
    Passthrough,
    /// Plain bytes, accepted because the port is permissive or disabled.
    Plaintext,
}

impl Datapath {
    /// Every datapath, best first.
    pub const ALL: [Self; 5] =
        [Self::Direct, Self::RelayKtls, Self::RelayUserspace, Self::Passthrough, Self::Plaintext];

    /// The label used in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::RelayKtls => "relay-ktls",
            Self::RelayUserspace => "relay-userspace",
            Self::Passthrough => "passthrough",
            Self::Plaintext => "plaintext",
        }
    }

    /// One sentence on what this datapath does.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Direct => "the application's own socket carries TLS records made by the kernel",
            Self::RelayKtls => "the daemon splices and the kernel makes the TLS records",
            Self::RelayUserspace => "the daemon relays the bytes and makes the TLS records itself",
            Self::Passthrough => {
                "the daemon carries the application's bytes unchanged and proves no identity"
            }
            Self::Plaintext => "plain bytes, neither encrypted nor authenticated",
        }
    }
}

impl fmt::Display for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a record tells about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// It is live. Never in the access log, only in answers of the admin API.
    Open,
    /// It was established and has ended; with a reason when it was cut.
    Closed,
    /// No byte of the application was carried.
    Refused,
}

impl Event {
    /// The text used in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Refused => "refused",
        }
    }
}

/// What a log says about a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateInfo {
    /// Serial number in lower-case hexadecimal.
    pub serial: String,
    /// End of validity, RFC 3339.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub not_after: OffsetDateTime,
}

/// What was agreed in the TLS handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TlsInfo {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: Cow<'static, str>,
    /// Cipher suite, such as `TLS13_AES_128_GCM_SHA256`.
    pub suite: Cow<'static, str>,
    /// Key exchange group, such as `X25519MLKEM768`.
    pub group: Cow<'static, str>,
}

/// Bytes of the application, without TLS overhead.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bytes {
    /// From the local workload to the peer.
    pub sent: u64,
    /// From the peer to the local workload.
    pub received: u64,
}

/// A refusal as it stands in a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecordedReason {
    /// One of the reasons below.
    pub code: Cow<'static, str>,
    /// What happened, for people.
    pub sentence: Cow<'static, str>,
    /// What was seen, and what it was compared with; of plain bytes at most the first one. May be empty.
    pub detail: String,
    /// What to do.
    pub mend: Cow<'static, str>,
}

impl RecordedReason {
    /// The reason behind the code; `None` when the record was written by a newer daemon.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        Reason::from_code(&self.code)
    }

    /// What a peer's daemon said with a number from the wire, which this version may not know.
    #[must_use]
    pub fn from_peer(number: u8, detail: &str) -> Self {
        match Reason::from_number(number) {
            Some(reason) => Refusal::new(reason, detail).into(),
            None => Self {
                code: format!("unknown_{number}").into(),
                sentence: "The peer's daemon gave a reason that this version does not know.".into(),
                detail: bounded(detail),
                mend: "Look at the peer's log, and bring both daemons to the same version.".into(),
            },
        }
    }
}

impl From<Refusal> for RecordedReason {
    fn from(refusal: Refusal) -> Self {
        Self {
            code: refusal.reason.code().into(),
            sentence: refusal.reason.sentence().into(),
            detail: bounded(&refusal.detail),
            mend: refusal.reason.mend().into(),
        }
    }
}

/// One connection: a line of the access log, an entry of the flight recorder, an answer of the admin API.
/// Field names are stable, and their docs are what docs/reference/access-log.md says of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionRecord {
    /// When it ended or was refused, RFC 3339, UTC; of a live one, when the record was made.
    #[serde(with = "time::serde::rfc3339")]
    #[schemars(with = "String")]
    pub time: OffsetDateTime,
    /// 16 hexadecimal digits, unique across restarts; give it to `mtlsd explain`.
    #[schemars(with = "String")]
    pub id: ConnectionId,
    /// What happened.
    pub event: Event,
    /// Who opened it.
    pub direction: Direction,
    /// Name of the local workload.
    pub workload: Arc<str>,
    /// SPIFFE ID of the local workload.
    pub local_identity: Option<Arc<str>>,
    /// The directory's name for the destination; only outbound and only when the directory has it.
    pub destination_name: Option<Arc<str>>,
    /// Who the peer is; see `peer_proven`. A name that is not a SPIFFE ID begins with `dns:` or `cn:`. Null if none was seen.
    pub peer_identity: Option<String>,
    /// True: the peer's chain was accepted and it holds the certificate's key. False: `peer_identity` is only what the presented
    /// certificate says (all its URI SANs, else its DNS SANs, else its common name; the text is cut and escaped), or, where the
    /// refusal came before any certificate, what the directory expects. Never trust it.
    pub peer_proven: bool,
    /// Address and port of the client, as the server application sees it.
    pub source: SocketAddr,
    /// Address and port that the client application connected to.
    pub destination: SocketAddr,
    /// Certificate of the local workload, once it was used.
    pub local_certificate: Option<CertificateInfo>,
    /// The certificate that the peer presented, proven or not; null if it presented none, or none that can be read.
    pub peer_certificate: Option<CertificateInfo>,
    /// How the bytes travelled; null if it was refused before any datapath was chosen.
    pub datapath: Option<Datapath>,
    /// Why the datapath is not a better one; null for the best one.
    pub why_not_better: Option<Cow<'static, str>>,
    /// What the TLS handshake agreed, also of one that failed after that; null without one.
    pub tls: Option<TlsInfo>,
    /// Bytes of the applications, without TLS overhead.
    pub bytes: Bytes,
    /// Microseconds from capture to the end.
    pub duration_us: u64,
    /// Microseconds that the TLS handshake took; null if it was not completed.
    pub handshake_us: Option<u64>,
    /// The policy rule that decided, or the default: `default of MODE`, `policy_default: …`, `outbound_default: …`; null if policy
    /// was not reached.
    pub policy: Option<Arc<str>>,
    /// Names of the `audit` rules that match, at most 8; left out where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audit: Vec<String>,
    /// What policy would say if its `dry_run` rules were in force; left out where it would be the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<DryRun>,
    /// What the policy engine of `policy_external` said; left out where it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalNote>,
    /// Why it was refused or cut; null when the applications closed it.
    pub reason: Option<RecordedReason>,
    /// The same as the peer's daemon gave it; null if it said nothing.
    pub remote_reason: Option<RecordedReason>,
    /// It goes on though it would not be let in any more. Only of live connections (`mtlsd connections --json`, `explain --json`),
    /// and left out where nothing is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overdue: Option<Overdue>,
    /// The peer's certificates; for `mtlsd explain` only, the log does without.
    #[serde(skip)]
    pub peer_chain: Option<Arc<PeerChain>>,
}

/// What is known when a connection is captured.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Its id.
    pub id: ConnectionId,
    /// Who opened it.
    pub direction: Direction,
    /// Name of the local workload.
    pub workload: Arc<str>,
    /// SPIFFE ID of the local workload, if it has one.
    pub local_identity: Option<Arc<str>>,
    /// Address of the client as the applications see it.
    pub source: Address,
    /// Address that the client application connected to.
    pub destination: Address,
}

/// What becomes known on the way. Fields are those of [`ConnectionRecord`].
#[derive(Debug, Clone, Default)]
pub struct Learned {
    /// The client's address on the wire, once the daemon has dialled for it.
    pub source: Option<Address>,
    /// The directory's name for the destination.
    pub destination_name: Option<Arc<str>>,
    /// The identity that the peer proved or claimed; cut to [`MAX_PEER_TEXT`].
    pub peer_identity: Option<Arc<str>>,
    /// Whether it proved it.
    pub peer_proven: bool,
    /// Certificate of the local workload; shared by all of its connections.
    pub local_certificate: Option<Arc<CertificateInfo>>,
    /// Certificate that the peer presented, where `peer_chain` does not say it.
    pub peer_certificate: Option<Arc<CertificateInfo>>,
    /// Certificates that the peer presented; of a verified peer shared by all of its connections.
    pub peer_chain: Option<Arc<PeerChain>>,
    /// How the bytes travel.
    pub datapath: Option<Datapath>,
    /// Why not a better one.
    pub why_not_better: Option<Cow<'static, str>>,
    /// What the handshake agreed.
    pub tls: Option<Arc<TlsInfo>>,
    /// How long the handshake took.
    pub handshake: Option<Duration>,
    /// The policy rule that decided.
    pub policy: Option<Arc<str>>,
    /// What else policy said.
    pub notes: Option<Box<PolicyNotes>>,
    /// What the peer's daemon said.
    pub remote_reason: Option<Box<RecordedReason>>,
    /// Whether it would still be let in, while it lives.
    pub standing: Option<Arc<Standing>>,
}

/// What policy said besides its decision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyNotes {
    /// Audit rules that match.
    pub audited: Vec<String>,
    /// What the dry-run rules would have made of it.
    pub dry_run: Option<DryRun>,
    /// What the policy engine said.
    pub external: Option<ExternalNote>,
}

/// What the policy engine said, or what held without its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExternalNote {
    /// The connection may be.
    pub allow: bool,
    /// How the engine calls what decided; left out where it did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<str>>,
    /// Where this is from.
    pub from: ExternalSource,
}

/// Where the word of the policy engine is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExternalSource {
    /// It was asked.
    Answer,
    /// It had answered an equal question.
    Cache,
    /// It gave no answer: `policy_external.on_failure`.
    OnFailure,
}

/// What policy would say if its dry-run rules were in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DryRun {
    /// The connection would be allowed.
    pub allow: bool,
    /// The rule that would decide, or the default.
    pub rule: String,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The applications closed it, and both ends were authenticated.
    Closed,
    /// It was established, and then something ended it.
    Cut(Refusal),
    /// It was never established.
    Refused(Refusal),
}

/// A connection under way: shared by the task that carries it and those who look at it.
#[derive(Debug)]
pub struct LiveConnection {
    opening: Opening,
    started: Instant,
    sent: AtomicU64,
    received: AtomicU64,
    // Written a handful of times in a connection's life; bytes are counted outside of it.
    learned: Mutex<Learned>,
}

impl LiveConnection {
    /// A connection that was captured now.
    #[must_use]
    pub fn new(opening: Opening) -> Self {
        Self {
            opening,
            started: Instant::now(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            learned: Mutex::default(),
        }
    }

    /// What was known when it was captured.
    #[must_use]
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.opening.id
    }

    /// Notes what became known.
    pub fn learn(&self, note: impl FnOnce(&mut Learned)) {
        note(&mut self.learned.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The datapath, once it is chosen.
    #[must_use]
    pub fn datapath(&self) -> Option<Datapath> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner).datapath
    }

    /// Counts bytes that went from the local workload to the peer.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that went from the peer to the local workload.
    pub fn add_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes carried so far.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        Bytes { sent: self.sent.load(Ordering::Relaxed), received: self.received.load(Ordering::Relaxed) }
    }

    /// Time since it was captured.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// The record of a connection that is still live.
    #[must_use]
    pub fn snapshot(&self) -> ConnectionRecord {
        self.to_record(Event::Open, None)
    }

    /// The record that it leaves.
    #[must_use]
    pub fn ended(&self, ending: Ending) -> ConnectionRecord {
        match ending {
            Ending::Closed => self.to_record(Event::Closed, None),
            Ending::Cut(refusal) => self.to_record(Event::Closed, Some(refusal)),
            Ending::Refused(refusal) => self.to_record(Event::Refused, Some(refusal)),
        }
    }

    fn to_record(&self, event: Event, refusal: Option<Refusal>) -> ConnectionRecord {
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let PolicyNotes { audited: audit, dry_run, external } =
            learned.notes.map(|notes| *notes).unwrap_or_default();
        let opening = &self.opening;
        ConnectionRecord {
            time: OffsetDateTime::now_utc(),
            id: opening.id,
            event,
            direction: opening.direction,
            workload: Arc::clone(&opening.workload),
            local_identity: opening.local_identity.clone(),
            destination_name: learned.destination_name,
            peer_proven: learned.peer_proven && learned.peer_identity.is_some(),
            peer_identity: learned.peer_identity.map(|text| bounded(&text)),
            source: learned.source.unwrap_or(opening.source).into(),
            destination: opening.destination.into(),
            local_certificate: learned.local_certificate.map(Arc::unwrap_or_clone),
            peer_certificate: learned
                .peer_certificate
                .map(Arc::unwrap_or_clone)
                .or_else(|| leaf(learned.peer_chain.as_deref()?))
                .map(|info| CertificateInfo { serial: bounded(&info.serial), ..info }),
            datapath: learned.datapath,
            why_not_better: learned.why_not_better,
            tls: learned.tls.map(Arc::unwrap_or_clone),
            bytes: self.bytes(),
            duration_us: micros(self.age()),
            handshake_us: learned.handshake.map(micros),
            policy: learned.policy,
            audit,
            dry_run,
            external,
            reason: refusal.map(RecordedReason::from),
            remote_reason: learned.remote_reason.map(|reason| *reason),
            overdue: learned.standing.filter(|_| event == Event::Open).and_then(|standing| standing.now()),
            peer_chain: learned.peer_chain,
        }
    }
}

fn leaf(chain: &PeerChain) -> Option<CertificateInfo> {
    let leaf = chain.certificates.first()?;
    Some(CertificateInfo { serial: leaf.serial.clone(), not_after: leaf.not_after })
}

/// Microseconds, saturating (584,000 years).
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// At most [`MAX_PEER_TEXT`] bytes of a text, cut between two characters.
fn bounded(text: &str) -> String {
    match text.get(..text.floor_char_boundary(MAX_PEER_TEXT)) {
        Some(head) if head.len() < text.len() => format!("{head}…"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashSet;

    use super::*;

    /// An inbound connection from web to db, for the tests of this and the neighbouring files.
    pub(crate) fn live(id: u64) -> LiveConnection {
        LiveConnection::new(Opening {
            id: ConnectionId::from_u64(id),
            direction: Direction::Inbound,
            workload: "db".into(),
            local_identity: Some("spiffe://example.org/db".into()),
            source: "10.0.0.2:41000".parse().unwrap(),
            destination: "10.1.0.7:5432".parse().unwrap(),
        })
    }

    /// What every live connection costs here (SPECIFICATION.md, "Direct").
    #[test]
    fn a_live_connection_is_small() {
        assert!(size_of::<LiveConnection>() <= 296, "{}", size_of::<LiveConnection>());
    }

    #[test]
    fn ids_are_unique_within_a_run_and_across_restarts_in_the_same_second() {
        let start = UNIX_EPOCH + Duration::new(1_700_000_000, 0);
        let first = ConnectionIds::starting_at(start);
        let again = ConnectionIds::starting_at(start + Duration::from_millis(20));
        let mut seen = HashSet::new();
        for _ in 0..10_000 {
            assert!(seen.insert(first.next()));
        }
        for _ in 0..10_000 {
            assert!(seen.insert(again.next()));
        }
        // Before 1970 is a broken clock, not a crash.
        assert_eq!(ConnectionIds::starting_at(UNIX_EPOCH - Duration::from_secs(1)).next().as_u64(), 0);
    }

    #[test]
    fn an_id_is_sixteen_hex_digits_and_reads_back() {
        let id = ConnectionId::from_u64(0xab);
        assert_eq!(id.to_string(), "00000000000000ab");
        assert_eq!("00000000000000ab".parse(), Ok(id));
        for bad in ["", "ab", "+0000000000000ab", "00000000000000ag", "00000000000000abc", "é000000000000ab"]
        {
            let error = bad.parse::<ConnectionId>().unwrap_err();
            assert!(error.to_string().contains("mtlsd connections"), "{error}");
        }
    }

    #[test]
    fn a_record_reads_back_from_its_json_and_keeps_its_field_names() {
        let live = live(7);
        live.add_sent(10);
        live.add_received(20);
        live.learn(|l| {
            l.peer_identity = Some("spiffe://example.org/web".into());
            l.peer_proven = true;
            l.datapath = Some(Datapath::RelayUserspace);
            l.why_not_better = Some("the kernel has no kTLS".into());
            l.handshake = Some(Duration::from_micros(1500));
            l.policy = Some("web-to-db".into());
            l.peer_certificate =
                Some(CertificateInfo { serial: "0a".into(), not_after: OffsetDateTime::UNIX_EPOCH }.into());
        });
        let record = live.ended(Ending::Cut(Refusal::new(Reason::Truncated, "after 20 bytes")));
        let json = serde_json::to_string(&record).unwrap();
        assert!(!json.contains('\n'));
        assert_eq!(serde_json::from_str::<ConnectionRecord>(&json).unwrap(), record);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["id"], "0000000000000007");
        assert_eq!(value["event"], "closed");
        assert_eq!(value["direction"], "inbound");
        assert_eq!(value["datapath"], "relay-userspace");
        assert_eq!(value["bytes"]["received"], 20);
        assert_eq!(value["peer_proven"], true);
        assert_eq!(value["handshake_us"], 1500);
        assert_eq!(value["reason"]["code"], "truncated");
        assert_eq!(value["peer_certificate"]["not_after"], "1970-01-01T00:00:00Z");
        assert!(value["local_certificate"].is_null() && value["remote_reason"].is_null());
    }

    #[test]
    fn nobody_is_proven_unless_it_was_said() {
        let live = live(1);
        assert!(!live.snapshot().peer_proven);
        live.learn(|l| l.peer_identity = Some("spiffe://example.org/web".into()));
        assert!(!live.snapshot().peer_proven);
        live.learn(|l| (l.peer_identity, l.peer_proven) = (None, true));
        assert!(!live.snapshot().peer_proven, "proof of what?");
    }

    #[test]
    fn each_ending_gives_its_event_and_reason() {
        let refusal = Refusal::from(Reason::Plaintext);
        let live = live(1);
        assert_eq!(live.snapshot().event, Event::Open);
        let closed = live.ended(Ending::Closed);
        assert_eq!((closed.event, closed.reason), (Event::Closed, None));
        let cut = live.ended(Ending::Cut(refusal.clone()));
        assert_eq!((cut.event, cut.reason.unwrap().reason()), (Event::Closed, Some(Reason::Plaintext)));
        let refused = live.ended(Ending::Refused(refusal));
        assert_eq!(
            (refused.event, refused.reason.unwrap().reason()),
            (Event::Refused, Some(Reason::Plaintext))
        );
    }

    #[test]
    fn what_a_hostile_peer_can_put_into_a_record_is_bounded() {
        let live = live(1);
        live.learn(|l| {
            l.peer_identity = Some("é".repeat(1_000_000).into());
            l.peer_certificate = Some(Arc::new(CertificateInfo {
                serial: "ab".repeat(1_000_000),
                not_after: OffsetDateTime::UNIX_EPOCH,
            }));
            l.remote_reason = Some(RecordedReason::from_peer(255, &"x".repeat(1_000_000)).into());
        });
        let record = live.ended(Ending::Refused(Refusal::new(Reason::PeerAlert, "x".repeat(1_000_000))));
        assert!(serde_json::to_vec(&record).unwrap().len() < 5 * MAX_PEER_TEXT);
    }

    #[test]
    fn a_reason_number_of_a_newer_peer_is_kept_and_said_to_be_unknown() {
        let known = RecordedReason::from_peer(Reason::PolicyDenied.number(), "rule x");
        assert_eq!((known.reason(), known.detail.as_str()), (Some(Reason::PolicyDenied), "rule x"));
        let unknown = RecordedReason::from_peer(255, "");
        assert_eq!(unknown.code, "unknown_255");
        assert_eq!(unknown.reason(), None);
        assert!(unknown.mend.contains("same version"));
    }

    #[test]
    fn labels_match_their_serialised_form() {
        for datapath in Datapath::ALL {
            assert_eq!(serde_json::to_value(datapath).unwrap(), datapath.as_str());
        }
        for direction in Direction::ALL {
            assert_eq!(serde_json::to_value(direction).unwrap(), direction.as_str());
        }
        for event in [Event::Open, Event::Closed, Event::Refused] {
            assert_eq!(serde_json::to_value(event).unwrap(), event.as_str());
        }
    }

    #[test]
    fn the_examples_of_the_document_are_real_records() {
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/access-log.md");
        let document = std::fs::read_to_string(document).unwrap();
        let examples: Vec<_> = document.lines().filter(|line| line.starts_with('{')).collect();
        assert_eq!(examples.len(), 3);
        for example in examples {
            let record: ConnectionRecord = serde_json::from_str(example).unwrap();
            assert_eq!(serde_json::to_string(&record).unwrap(), example);
        }
    }
}
