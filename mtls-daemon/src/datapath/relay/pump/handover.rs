//! When a connection that carries much is handed to the kernel, and in which moment it may be.
//!
//! For small messages user space is faster, for large transfers the kernel is (SPECIFICATION.md has the numbers), so
//! that `auto` begins the one way and goes on the other.

/// A read that brought at least this much was limited by the connection and not by the message.
const LARGE: usize = 16 * 1024;
/// What large reads must have brought before the handover, which costs as much as some ten thousand bytes do.
pub const WORTH: usize = 1024 * 1024;

/// One connection that may be handed over.
#[derive(Debug)]
pub struct Handover {
    /// What large reads are still to bring.
    left: usize,
    /// rustls may keep back the answer to a KeyUpdate until we send something.
    answer_may_wait: bool,
}

impl Handover {
    /// `worth`: see [`WORTH`]; less in tests. `answer_may_wait`: as the session knows it.
    #[must_use]
    pub fn after(worth: usize, answer_may_wait: bool) -> Self {
        Self { left: worth, answer_may_wait }
    }

    /// From now on no more is read than the record that is under way.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.left == 0
    }

    /// Nothing that rustls has to say would be lost.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        !self.answer_may_wait
    }

    /// Data was sent, and before it whatever rustls kept back. `halfway`: in the middle of a record or message of
    /// the peer, whose rest may again ask for something.
    pub fn sent(&mut self, length: usize, halfway: bool) {
        self.answer_may_wait &= halfway;
        self.note(length);
    }

    /// Records were received.
    pub fn received(&mut self, length: usize, only_data: bool) {
        self.answer_may_wait |= !only_data;
        self.note(length);
    }

    fn note(&mut self, length: usize) {
        if length >= LARGE.min(self.left) {
            self.left = self.left.saturating_sub(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_reads_make_it_due() {
        let mut handover = Handover::after(WORTH, false);
        for _ in 0..1000 {
            handover.received(LARGE - 1, true);
        }
        assert!(!handover.is_due());
        for _ in 0..WORTH / LARGE / 2 {
            handover.received(LARGE, true);
            handover.sent(LARGE, false);
        }
        assert!(handover.is_due());
    }

    #[test]
    fn it_waits_while_an_answer_may_be_kept_back() {
        let mut handover = Handover::after(0, false);
        assert!(handover.is_due() && handover.is_safe());
        handover.received(10, false);
        handover.received(10, true);
        assert!(!handover.is_safe());
        handover.sent(1, true);
        assert!(!handover.is_safe());
        handover.sent(1, false);
        assert!(handover.is_safe());
    }
}
