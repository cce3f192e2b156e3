//! How long is waited for what.

use std::time::Duration;

/// How long is waited for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// For a connection, with its TLS handshake.
    pub connect: Duration,
    /// For a whole answer, and for the head of a watch's.
    pub answer: Duration,
    /// For the next byte of a watch: bookmarks come about each minute, so that silence means a dead connection.
    pub idle: Duration,
    /// How long a watch is asked to last, in whole seconds.
    pub watch: Duration,
    /// The shortest pause after a failure.
    pub min_pause: Duration,
    /// The longest pause after a failure.
    pub max_pause: Duration,
    /// Before a list that is much shorter than what is known is asked for again.
    pub second_look: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            answer: Duration::from_secs(60),
            idle: Duration::from_secs(90),
            watch: Duration::from_secs(290),
            min_pause: Duration::from_millis(800),
            max_pause: Duration::from_secs(30),
            second_look: Duration::from_secs(10),
        }
    }
}
