//! When a connection that carries much is handed to the kernel, and in which moment it may be.
//!
//! For small messages user space is faster, for large transfers the kernel is (SPECIFICATION.md has the numbers), so
//! that `auto` begins the one way and goes on the other.

use super::Flow;

/// A read that brought at least this much was limited by the connection and not by the message.
const LARGE: usize = 16 * 1024;
/// What large reads must have brought before the handover, which costs as much as some ten thousand bytes do.
pub const WORTH: usize = 1024 * 1024;

/// One connection that may be handed over.
#[derive(Debug)]
pub struct Handover {
    /// What large reads are still to bring.
    left: usize,
}

impl Handover {
    /// `worth`: see [`WORTH`]; less in tests.
    #[must_use]
    pub fn after(worth: usize) -> Self {
        Self { left: worth }
    }

    /// It has carried enough. From now on no more is read than the record that is under way, so that soon nothing is
    /// undecrypted.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.left == 0
    }

    /// One read brought so many bytes.
    pub fn note(&mut self, length: usize) {
        if length >= LARGE.min(self.left) {
            self.left = self.left.saturating_sub(length);
        }
    }
}

impl Flow<'_> {
    /// Everything received is decrypted, everything to be sent was sent, and nobody has ended.
    pub(super) fn may_hand_over(&self) -> bool {
        self.is_due()
            && self.incoming.is_empty()
            && self.to_peer.is_empty()
            && !self.application_ended
            && !self.peer_ended
            && self.channel.is_whole()
    }

    pub(super) fn is_due(&self) -> bool {
        self.handover.as_ref().is_some_and(Handover::is_due)
    }

    pub(super) fn note(&mut self, length: usize) {
        if let Some(handover) = &mut self.handover {
            handover.note(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_reads_make_it_due() {
        let mut handover = Handover::after(WORTH);
        for _ in 0..1000 {
            handover.note(LARGE - 1);
        }
        assert!(!handover.is_due());
        for _ in 0..WORTH / LARGE {
            assert!(!handover.is_due());
            handover.note(LARGE);
        }
        assert!(handover.is_due());
        assert!(Handover::after(0).is_due());
    }
}
