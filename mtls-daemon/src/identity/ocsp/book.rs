//! What is known of each leaf: asked in a handshake, from memory; the questions that come of it wait in [`super::due`].

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::due::Queue;
use super::response::{Answer, MAX_RESPONSE, OcspError, Status};
use super::{Question, Responder, Rules};
use crate::identity::revocation::{ChainMarks, Sha256};
use crate::identity::{TrustDomain, when};
use crate::observe::metrics::OcspHealth;
use crate::observe::{Reason, Refusal};

/// Most leaves of which something is known; then those that were not used for longest are forgotten.
pub(super) const MAX_LEAVES: usize = 16_384;
/// A leaf that nobody uses is forgotten after it.
pub(super) const IDLE: Duration = Duration::from_secs(15 * 60);
/// Largest answer that is stapled, in bytes. It shares a handshake message with the chain, whose most is 64 KiB, and anybody on
/// the way from the responder can make it larger: the certificates in it are not signed.
pub(super) const MAX_STAPLE: usize = 16 * 1024;
/// The source of an answer that came in a handshake.
const STAPLED: &str = "stapled by the peer";

/// What came of a stapled answer that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stapled(pub OcspError);

/// An answer in force.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) answer: Answer,
    source: Arc<str>,
}

/// One leaf.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) question: Arc<Question>,
    pub(super) domain: TrustDomain,
    pub(super) known: Option<Known>,
    /// Is it the leaf of a workload of this node?
    pub(super) own: bool,
    /// For an own leaf, the last good answer as it came.
    der: Option<Arc<[u8]>>,
    /// Why the last question was not answered.
    pub(super) failure: Option<String>,
    pub(super) failures: u32,
    /// What the peer stapled last, which need not be read again.
    stapled: Option<Sha256>,
    complained: Option<OcspError>,
    used: Instant,
    /// When it is asked next; `None`: it is being asked.
    pub(super) due: Option<Instant>,
}

#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) leaves: HashMap<Sha256, Leaf>,
    pub(super) queue: Queue,
    /// Whose connections are to be cut.
    pub(super) revoked: Vec<Arc<Question>>,
    /// Questions that were answered, and that were not.
    pub(super) asked: BTreeMap<TrustDomain, (u64, u64)>,
}

/// The answers that there are. It asks nobody: that is done in the background by whoever waits on [`Ocsp::woken`].
#[derive(Debug, Default)]
pub struct Ocsp {
    pub(super) rules: ArcSwap<Rules>,
    pub(super) book: Mutex<Book>,
    wake: Notify,
}

impl Ocsp {
    /// Takes other rules into use; true if they are others.
    pub fn set_rules(&self, rules: Rules) -> bool {
        let before = self.rules.load();
        if **before == rules {
            return false;
        }
        let mut book = self.lock();
        let same = |domain: &TrustDomain| before.responders.get(domain) == rules.responders.get(domain);
        book.leaves.retain(|_, leaf| same(&leaf.domain) && rules.responders.contains_key(&leaf.domain));
        book.asked.retain(|domain, _| rules.responders.contains_key(domain));
        let waiting = book.leaves.iter().filter_map(|(key, leaf)| Some((leaf.due?, *key))).collect();
        book.queue.restart(waiting);
        self.rules.store(Arc::new(rules));
        true
    }

    /// Why a chain is good no longer, or not known to be good where that is required. A leaf that is new here will be asked
    /// about.
    pub(crate) fn refusal_of(&self, chain: &ChainMarks, now: SystemTime) -> Option<Refusal> {
        let rules = self.rules.load();
        let (domain, responder) = rules.of(chain)?;
        // Peers only: what is not known of an own certificate is for its peers to judge.
        let required = rules.required && chain.rooted;
        let Some(question) = &chain.question else {
            return required.then(|| unknown("its issuer is not known, so nobody can be asked about it"));
        };
        let mut book = self.lock();
        let leaf = self.leaf(&mut book, question, domain);
        leaf.refusal(responder, required, now)
    }

    /// Looks at what a server has stapled. A bad answer counts for nothing, a good one as if it had been asked for.
    ///
    /// # Errors
    /// Why it does not count.
    pub(crate) fn take_stapled(
        &self,
        chain: &ChainMarks,
        der: &[u8],
        now: SystemTime,
    ) -> Result<(), Stapled> {
        let rules = self.rules.load();
        let (false, Some((domain, responder)), Some(question)) =
            (der.is_empty(), rules.of(chain), &chain.question)
        else {
            return Ok(());
        };
        if der.len() > MAX_RESPONSE {
            return Err(Stapled(OcspError::TooLarge(der.len())));
        }
        let print = Sha256::of(der);
        let seen = |leaf: &Leaf| leaf.stapled == Some(print);
        if self.lock().leaves.get(question.key()).is_some_and(seen) {
            return Ok(());
        }
        // Two signatures, without the lock; each staple of a peer once.
        let read = question.read(der, now);
        let mut book = self.lock();
        let leaf = self.leaf(&mut book, question, domain);
        match read.and_then(|answer| leaf.accept(answer, STAPLED.into())) {
            Ok(()) => {
                leaf.stapled = Some(print);
                let due = leaf.refresh_at(responder, now);
                book.accepted(question, due);
                self.wake_if_revoked(&book);
                Ok(())
            }
            Err(error) => {
                if leaf.complained.as_ref() != Some(&error) {
                    let serial = question.serial();
                    tracing::warn!(%serial, %error, "an OCSP answer that a peer stapled was refused; the last good one stays");
                    leaf.complained = Some(error.clone());
                }
                Err(Stapled(error))
            }
        }
    }

    /// The answer to staple to this own chain: only one that is good and counts still.
    #[must_use]
    pub(crate) fn staple(&self, chain: &ChainMarks, now: SystemTime) -> Option<Arc<[u8]>> {
        self.rules.load().of(chain)?;
        let book = self.lock();
        let leaf = book.leaves.get(chain.question.as_ref()?.key())?;
        let known = leaf.known.as_ref()?;
        let good = known.answer.status == Status::Good && now <= known.answer.until;
        good.then(|| leaf.der.clone()).flatten()
    }

    /// These are the leaves of this node's workloads: answers about them are kept to be stapled.
    pub fn keep_own(&self, chains: &[Arc<ChainMarks>]) {
        let rules = self.rules.load();
        let mut book = self.lock();
        for chain in chains {
            let (Some((domain, _)), Some(question)) = (rules.of(chain), &chain.question) else { continue };
            let leaf = self.leaf(&mut book, question, domain);
            if !std::mem::replace(&mut leaf.own, true) && leaf.known.is_some() {
                // It is known as a peer's: the answer itself was not kept.
                book.ask_at(question.key(), Instant::now());
            }
        }
    }

    /// Forgets leaves that were not used for long, unless `lives` says that a connection has one.
    pub fn sweep(&self, now: Instant, lives: impl Fn(&Question) -> bool) {
        let is_idle = |leaf: &Leaf| now.saturating_duration_since(leaf.used) > IDLE;
        let idle: Vec<_> = self
            .lock()
            .leaves
            .values()
            .filter(|leaf| is_idle(leaf))
            .map(|leaf| leaf.question.clone())
            .collect();
        // Without the lock: whoever knows the connections may be asking here.
        let (used, unused): (Vec<_>, Vec<_>) = idle.into_iter().partition(|question| lives(question));
        let mut book = self.lock();
        for question in used {
            if let Some(leaf) = book.leaves.get_mut(question.key()) {
                leaf.used = now;
            }
        }
        for question in unused {
            if book.leaves.get(question.key()).is_some_and(is_idle) {
                book.forget(question.key());
            }
        }
    }

    /// Certificates that were found revoked since the last call.
    #[must_use]
    pub fn take_revoked(&self) -> Vec<Arc<Question>> {
        std::mem::take(&mut self.lock().revoked)
    }

    /// Until there may be something to ask or to cut.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// For the metrics: each trust domain that is asked about.
    #[must_use]
    pub fn health(&self, now: SystemTime) -> Vec<OcspHealth> {
        let rules = self.rules.load();
        let book = self.lock();
        let health = |domain: &TrustDomain| {
            let (answered, failed) = book.asked.get(domain).copied().unwrap_or_default();
            let leaves = || book.leaves.values().filter(|leaf| leaf.domain == *domain);
            let oldest = leaves().filter_map(|leaf| Some(leaf.known.as_ref()?.answer.this_update)).min();
            OcspHealth {
                trust_domain: domain.to_string(),
                answered,
                failed,
                stale: leaves().filter(|leaf| !leaf.is_known(now)).count(),
                age: oldest.map(|oldest| when::between(oldest, now)),
            }
        };
        rules.responders.keys().map(health).collect()
    }

    /// The one of this question, which is used now; made if it is new.
    fn leaf<'b>(&self, book: &'b mut Book, question: &Arc<Question>, domain: &TrustDomain) -> &'b mut Leaf {
        let now = Instant::now();
        if !book.leaves.contains_key(question.key()) {
            book.make_room();
            book.queue.put(now, *question.key());
            self.wake.notify_one();
        }
        let make = || Leaf {
            question: Arc::clone(question),
            domain: domain.clone(),
            known: None,
            own: false,
            der: None,
            failure: None,
            failures: 0,
            stapled: None,
            complained: None,
            used: now,
            due: Some(now),
        };
        let leaf = book.leaves.entry(*question.key()).or_insert_with(make);
        leaf.used = now;
        leaf
    }

    pub(super) fn wake_if_revoked(&self, book: &Book) {
        if !book.revoked.is_empty() {
            self.wake.notify_one();
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Book> {
        // Nothing in here panics half way.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// After an answer: when the next one is asked for, and whether it revokes.
    pub(super) fn accepted(&mut self, question: &Arc<Question>, due: Instant) {
        let revoked = self.leaves.get(question.key()).is_some_and(Leaf::is_revoked);
        if revoked {
            self.revoked.push(Arc::clone(question));
        }
        self.ask_at(question.key(), due);
    }

    /// A question that is being asked stays so.
    pub(super) fn ask_at(&mut self, key: &Sha256, due: Instant) {
        if let Some(leaf) = self.leaves.get_mut(key)
            && let Some(before) = leaf.due
        {
            self.queue.remove(before, key);
            leaf.due = Some(due);
            self.queue.put(due, *key);
        }
    }

    fn forget(&mut self, key: &Sha256) {
        if let Some(Leaf { due: Some(due), .. }) = self.leaves.remove(key) {
            self.queue.remove(due, key);
        }
    }

    /// An eighth at a time, so that a full book is not searched for each new leaf. What is revoked goes last, and own leaves
    /// only if there is nothing else.
    fn make_room(&mut self) {
        if self.leaves.len() < MAX_LEAVES {
            return;
        }
        let mut order: Vec<_> =
            self.leaves.iter().map(|(key, leaf)| (leaf.own, leaf.is_revoked(), leaf.used, *key)).collect();
        let some = order.len() / 8;
        order.select_nth_unstable(some);
        for (_, _, _, key) in order.into_iter().take(some) {
            self.forget(&key);
        }
        tracing::warn!(
            forgotten = some,
            most = MAX_LEAVES,
            "more certificates than OCSP answers are kept for"
        );
    }
}

impl Leaf {
    /// Takes an answer into force.
    pub(super) fn accept(&mut self, answer: Answer, source: Arc<str>) -> Result<(), OcspError> {
        if let Some(Known { answer: old, .. }) = &self.known {
            // Of the same second, `revoked` is the later one.
            let back =
                answer.this_update == old.this_update && answer.status == Status::Good && self.is_revoked();
            if back || answer.this_update < old.this_update {
                return Err(OcspError::Older(
                    when::rfc3339(answer.this_update),
                    when::rfc3339(old.this_update),
                ));
            }
        }
        self.known = Some(Known { answer, source });
        self.failure = None;
        self.failures = 0;
        self.complained = None;
        Ok(())
    }

    /// Keeps the bytes of the answer in force, for an own leaf.
    pub(super) fn keep(&mut self, der: Vec<u8>) {
        self.der = (self.own && der.len() <= MAX_STAPLE).then(|| der.into());
    }

    /// After half of the time that the answer counts, or the configured one if that is shorter.
    pub(super) fn refresh_at(&self, responder: &Responder, now: SystemTime) -> Instant {
        let left =
            self.known.as_ref().map(|known| when::between(now, known.answer.until)).unwrap_or_default();
        Instant::now() + (left / 2).min(responder.refresh).max(super::due::SOONEST)
    }

    pub(super) fn is_revoked(&self) -> bool {
        matches!(&self.known, Some(Known { answer: Answer { status: Status::Revoked(_), .. }, .. }))
    }

    fn is_known(&self, now: SystemTime) -> bool {
        let counts = |answer: &Answer| answer.status != Status::Unknown && answer.is_fresh(now);
        self.known.as_ref().is_some_and(|known| counts(&known.answer))
    }

    fn refusal(&self, responder: &Responder, required: bool, now: SystemTime) -> Option<Refusal> {
        let serial = self.question.serial();
        // Stale, it still revokes.
        if let Some(Known { answer: Answer { status: Status::Revoked(at), this_update, .. }, source }) =
            &self.known
        {
            let (at, of) = (when::rfc3339(*at), when::rfc3339(*this_update));
            let detail =
                format!("serial {serial} was revoked at {at}, says the OCSP answer of {of} ({source})");
            return Some(Refusal::new(Reason::Revoked, detail));
        }
        if !required || self.is_known(now) {
            return None;
        }
        let Some(url) = responder.url_for(&self.question) else {
            return Some(unknown(
                "no OCSP responder is configured, and the certificate names none (authorityInfoAccess)",
            ));
        };
        let what = match &self.known {
            None => format!("there is no OCSP answer about serial {serial} yet"),
            Some(Known { answer, source }) if answer.is_fresh(now) => {
                format!(
                    "its issuer's OCSP responder does not know serial {serial} (certStatus unknown, {source})"
                )
            }
            Some(Known { answer, source }) => {
                format!(
                    "the OCSP answer about serial {serial} {} ({source})",
                    when::expired(answer.until, now)
                )
            }
        };
        Some(unknown(&match &self.failure {
            Some(failure) => format!("{what}: {failure}; it is asked for again in the background"),
            None => format!(
                "{what}; {url} is being asked in the background, and a retry succeeds once it has said good"
            ),
        }))
    }
}

fn unknown(why: &str) -> Refusal {
    Refusal::new(Reason::RevocationUnknown, why.to_owned())
}
