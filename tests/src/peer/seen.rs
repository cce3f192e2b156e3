//! What came from the other side, as a thread that reads all the time saw it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::script::alert_name;
use crate::slow;

/// How a direction ended on the TCP connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// FIN.
    Eof,
    /// RST.
    Reset,
    /// The other side broke the rules, or the system failed.
    Failed(String),
}

/// Everything so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// Application data that the script has not taken yet.
    pub data: VecDeque<u8>,
    /// Bytes of application data.
    pub total: u64,
    /// KeyUpdates, and how many of them asked for ours.
    pub key_updates: (usize, usize),
    /// NewSessionTickets.
    pub tickets: usize,
    /// Descriptions of alerts; close_notify is one.
    pub alerts: Vec<u8>,
    /// The end.
    pub end: Option<End>,
}

impl Seen {
    /// For the report.
    pub fn report(&self) -> Value {
        json!({
            "received": self.total,
            "not_expected": self.data.len(),
            "key_updates": self.key_updates.0,
            "key_update_requests": self.key_updates.1,
            "tickets": self.tickets,
            "alerts": self.alerts.iter().map(|a| alert_name(*a)).collect::<Vec<_>>(),
            "end": match &self.end {
                None => "open".to_owned(),
                Some(End::Eof) => "eof".to_owned(),
                Some(End::Reset) => "rst".to_owned(),
                Some(End::Failed(why)) => why.clone(),
            },
        })
    }
}

/// [`Seen`] between the thread that reads and the script.
#[derive(Debug, Default)]
pub struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Shared {
    /// A look.
    pub fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes something.
    pub fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Notes application data.
    pub fn data(&self, bytes: &[u8]) {
        self.note(|seen| {
            seen.data.extend(bytes);
            seen.total += bytes.len() as u64;
        });
    }

    /// Notes how reading ended.
    pub fn end(&self, result: io::Result<()>) {
        let end = match result {
            Ok(()) => End::Eof,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => End::Reset,
            Err(error) => End::Failed(error.to_string()),
        };
        self.note(|seen| seen.end = Some(end));
    }

    /// Waits until `ready` gives something, at most until nothing new can come or for 60 s.
    ///
    /// # Errors
    /// What was seen instead of `what`.
    pub fn wait<T>(&self, what: &str, mut ready: impl FnMut(&mut Seen) -> Option<T>) -> io::Result<T> {
        let limit = slow::limit(60);
        let deadline = Instant::now() + limit;
        let mut seen = self.lock();
        loop {
            if let Some(value) = ready(&mut seen) {
                return Ok(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if seen.end.is_some() || left.is_zero() {
                return Err(io::Error::other(format!("{what} was expected, not {}", seen.report())));
            }
            seen = self.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes the next `length` bytes of application data.
    ///
    /// # Errors
    /// If they do not come.
    pub fn take(&self, length: usize) -> io::Result<Vec<u8>> {
        let what = format!("{length} bytes of data");
        self.wait(&what, |seen| (seen.data.len() >= length).then(|| seen.data.drain(..length).collect()))
    }
}
