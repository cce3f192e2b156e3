//! When a connection that carries much is handed to the kernel, and in which moment it may be.
//!
//! For small messages user space is faster, for large transfers the kernel is (SPECIFICATION.md has the numbers), so
//! that `auto` begins the one way and goes on the other.

use crate::datapath::relay::boundary::WholeRecords;

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
    /// rustls waits for the rest of a message, which may be a KeyUpdate.
    in_message: bool,
}

impl Handover {
    /// `worth`: see [`WORTH`]; less in tests. `answer_may_wait`: as the session knows it.
    #[must_use]
    pub fn after(worth: usize, answer_may_wait: bool) -> Self {
        Self { left: worth, answer_may_wait, in_message: false }
    }

    /// It has carried enough, and rustls has nothing to say. From now on no more is read than the record that is
    /// under way, so that soon nothing is undecrypted.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.left == 0 && !self.answer_may_wait
    }

    /// Data was sent, and before it whatever rustls kept back.
    pub fn sent(&mut self, length: usize) {
        self.answer_may_wait &= self.in_message;
        self.note(length);
    }

    /// Bytes were received that began with these whole records; TLS took `done` of them and made `produced` bytes of
    /// data.
    pub fn received(&mut self, length: usize, whole: WholeRecords, done: usize, produced: usize) {
        self.in_message = !whole.end_at(done);
        self.answer_may_wait |= !whole.were_data(done, produced);
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

    /// One record with so much content, and its header only for the next.
    fn record(content: u16) -> WholeRecords {
        let mut bytes = vec![23, 3, 3];
        bytes.extend((content + 17).to_be_bytes());
        bytes.resize(5 + 17 + usize::from(content), 0);
        bytes.extend([23, 3, 3, 1, 0]);
        WholeRecords::of(&bytes)
    }

    fn receive(handover: &mut Handover, length: usize) {
        handover.received(length, record(100), 122, 100);
    }

    #[test]
    fn only_large_reads_make_it_due() {
        let mut handover = Handover::after(WORTH, false);
        for _ in 0..1000 {
            receive(&mut handover, LARGE - 1);
        }
        assert!(!handover.is_due());
        for _ in 0..WORTH / LARGE / 2 {
            receive(&mut handover, LARGE);
            handover.sent(LARGE);
        }
        assert!(handover.is_due());
    }

    #[test]
    fn it_waits_while_an_answer_may_be_kept_back() {
        let mut handover = Handover::after(0, false);
        assert!(handover.is_due());
        // A KeyUpdate: a record without data.
        handover.received(10, record(5), 27, 0);
        receive(&mut handover, 10);
        assert!(!handover.is_due());
        handover.sent(1);
        assert!(handover.is_due());
        assert!(!Handover::after(0, true).is_due());
    }

    #[test]
    fn half_a_message_may_still_ask_for_an_answer() {
        let mut handover = Handover::after(0, false);
        handover.received(10, record(2), 0, 0);
        handover.sent(1);
        assert!(!handover.is_due());
        handover.received(10, record(3), 25, 0);
        assert!(!handover.is_due());
        handover.sent(1);
        assert!(handover.is_due());
    }
}
