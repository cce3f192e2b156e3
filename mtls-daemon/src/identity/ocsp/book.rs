//! What is known of each leaf: asked in a handshake, from memory; the questions that come of it wait in [`super::due`].

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::due::Queue;
use super::leaf::{Leaf, unknown};
use super::response::{MAX_RESPONSE, OcspError, Status};
use super::{Question, Rules};
use crate::identity::revocation::{ChainMarks, Sha256};
use crate::identity::{TrustDomain, when};
use crate::observe::Refusal;
use crate::observe::metrics::OcspHealth;

/// Most leaves of which something is known; then those that were not used for longest are forgotten.
pub(super) const MAX_LEAVES: usize = 16_384;
/// A leaf that nobody uses is forgotten after it.
pub(super) const IDLE: Duration = Duration::from_secs(15 * 60);
/// The source of an answer that came in a handshake.
const STAPLED: &str = "stapled by the peer";

/// What came of a stapled answer that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stapled(pub OcspError);

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

    /// What is known of a chain's leaf, for people; asks nothing.
    pub(crate) fn known_of(&self, chain: &ChainMarks, now: SystemTime) -> String {
        let rules = self.rules.load();
        let (Some(_), Some(question)) = (rules.of(chain), &chain.question) else {
            return "no OCSP responder is configured for its trust domain (trust.ocsp)".to_owned();
        };
        self.lock()
            .leaves
            .get(question.key())
            .map_or_else(|| "no OCSP responder has been asked about it".to_owned(), |leaf| leaf.told(now))
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
        let make = || Leaf::new(Arc::clone(question), domain.clone(), now);
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
