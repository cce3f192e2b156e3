//! An attacker on the path: between a pod and the lab's bridge, where it sees every frame, may change or keep it, and adds
//! frames of its own.
//!
//! What it adds towards its pod does not cross the bridge, so that a capture there shows what the applications' nodes sent.

mod segment;
mod wires;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::lab::{Lab, Pod, eventually};
use crate::slow;
pub use segment::{Segment, flag};
use wires::Wires;

/// What becomes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes on, perhaps changed.
    Pass,
    /// It goes on when the rule ends.
    Keep,
    /// It is lost.
    Lose,
}

type Rule = Box<dyn FnMut(&mut Segment) -> Fate + Send>;

/// The attacker. Dropped, it takes its pod off the network.
pub struct Middle {
    shared: Arc<Shared>,
    forwarder: Option<JoinHandle<()>>,
}

struct Shared {
    wires: Wires,
    state: Mutex<State>,
    over: AtomicBool,
}

#[derive(Default)]
struct State {
    rule: Option<Rule>,
    seen: Vec<Segment>,
    kept: Vec<Segment>,
}

impl std::fmt::Debug for Middle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Middle")
    }
}

impl Middle {
    /// Goes between this pod and the bridge.
    ///
    /// # Panics
    /// If it cannot.
    pub fn before(lab: &Lab, pod: &Pod) -> Self {
        let wires = Wires::between(lab, pod);
        let shared = Arc::new(Shared { wires, state: Mutex::default(), over: AtomicBool::new(false) });
        let forwarder = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.forward()
        });
        Self { shared, forwarder: Some(forwarder) }
    }

    /// From now on this decides.
    pub fn rule(&self, rule: impl FnMut(&mut Segment) -> Fate + Send + 'static) {
        self.shared.state().rule = Some(Box::new(rule));
    }

    /// Nothing is changed any more, and what was kept goes on.
    pub fn let_go(&self) {
        let kept = {
            let mut state = self.shared.state();
            state.rule = None;
            std::mem::take(&mut state.kept)
        };
        kept.iter().for_each(|segment| self.inject(segment));
    }

    /// How many segments are kept.
    pub fn kept(&self) -> usize {
        self.shared.state().kept.len()
    }

    /// Every TCP segment so far, as it came.
    pub fn seen(&self) -> Vec<Segment> {
        self.shared.state().seen.clone()
    }

    /// The client's address of the newest connection to `server`.
    #[track_caller]
    pub fn newest(&self, server: SocketAddr) -> SocketAddr {
        eventually(slow::limit(20), &format!("a SYN to {server}"), || {
            let seen = self.seen();
            let mut syns = seen.iter().rev().filter(|s| s.to == server && s.has(flag::SYN));
            syns.next().map(|segment| segment.from)
        })
    }

    /// The payloads that were sent from one to the other, each once and in order.
    pub fn payloads(&self, from: SocketAddr, to: SocketAddr) -> Vec<Vec<u8>> {
        let mut segments = self.seen();
        segments.retain(|s| (s.from, s.to) == (from, to) && !s.payload.is_empty());
        segments.sort_by_key(|segment| segment.sequence);
        segments.dedup_by_key(|segment| segment.sequence);
        segments.into_iter().map(|segment| segment.payload).collect()
    }

    /// Waits for a payload from one to the other, the first or a later one.
    #[track_caller]
    pub fn payload(&self, from: SocketAddr, to: SocketAddr, number: usize) -> Vec<u8> {
        eventually(slow::limit(20), &format!("payload {number} from {from}"), || {
            self.payloads(from, to).into_iter().nth(number)
        })
    }

    /// The next sequence number of one end, by what was seen.
    #[track_caller]
    pub fn next(&self, from: SocketAddr, to: SocketAddr) -> u32 {
        let seen = self.seen();
        let ends = seen.iter().filter(|s| (s.from, s.to) == (from, to) && !s.has(flag::RST));
        let ends = ends.map(|s| s.sequence.wrapping_add(s.length()));
        // The numbers wrap; a connection of a test is much shorter than half of them.
        let later = |a: u32, b: u32| if b.wrapping_sub(a).cast_signed() > 0 { b } else { a };
        ends.reduce(later).unwrap_or_else(|| panic!("nothing was seen from {from} to {to}"))
    }

    /// The segment that would come next from `from`, with this payload.
    #[track_caller]
    pub fn forged(&self, from: SocketAddr, to: SocketAddr, flags: u8, payload: &[u8]) -> Segment {
        let (sequence, acknowledged) = (self.next(from, to), self.next(to, from));
        let (options, payload) = (Vec::new(), payload.to_vec());
        Segment { from, to, sequence, acknowledged, flags, window: 500, options, payload }
    }

    /// Sends a segment to its receiver.
    pub fn inject(&self, segment: &Segment) {
        self.shared.wires.send(segment);
    }

    /// Sends plaintext that looks like the next bytes of `from`.
    #[track_caller]
    pub fn inject_plaintext(&self, from: SocketAddr, to: SocketAddr, text: &[u8]) {
        self.inject(&self.forged(from, to, flag::PSH | flag::ACK, text));
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(forwarder) = self.forwarder.take() {
            let ended = forwarder.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the attacker's thread failed");
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forward(&self) {
        while !self.over.load(Ordering::Relaxed) {
            for (from, to) in self.wires.ready() {
                self.pass(from, to);
            }
        }
    }

    fn pass(&self, from: &OwnedFd, to: &OwnedFd) {
        let Some(frame) = Wires::read(from) else { return };
        let Some(mut segment) = Segment::read(&frame) else { return Wires::write(to, &frame) };
        let fate = {
            let mut state = self.state();
            state.seen.push(segment.clone());
            let fate = state.rule.as_mut().map_or(Fate::Pass, |rule| rule(&mut segment));
            if fate == Fate::Keep {
                state.kept.push(segment.clone());
            }
            fate
        };
        if fate == Fate::Pass {
            self.wires.send(&segment);
        }
    }
}
