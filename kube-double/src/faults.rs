//! What goes wrong on command.

use std::time::Duration;

/// What becomes of a request instead of its answer, or before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// This HTTP status, with `Retry-After` in seconds.
    Status(u16, Option<u32>),
    /// The answer comes later.
    Delay(Duration),
    /// The answer never comes; the connection stays.
    Never,
    /// The answer comes in pieces, with such a pause between them.
    Trickle(Duration),
    /// Half of the answer comes, and the connection ends.
    Half,
    /// 200, with this body.
    Body(String),
    /// Everything until now is compacted away first.
    Compact,
}

/// What happens in the watches that are open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InWatch {
    /// An ERROR event, 410.
    Gone,
    /// An ERROR event with this code.
    Error(u16),
    /// A line as it is.
    Line(String),
    /// The beginning of a line, and the end of the connection.
    HalfLine,
    /// So many bytes without an end of line.
    Flood(usize),
    /// A bookmark at once.
    Bookmark,
    /// A clean end, as after `timeoutSeconds`.
    End,
}

/// A fault that waits for its request.
#[derive(Debug, Clone)]
struct Waiting {
    verb: String,
    plural: String,
    times: usize,
    act: Act,
}

/// Those that wait.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Waiting>);

impl Faults {
    pub fn add(&mut self, verb: &str, plural: &str, times: usize, act: Act) {
        self.0.push(Waiting { verb: verb.to_owned(), plural: plural.to_owned(), times, act });
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The fault of a request, if one waits for it.
    pub fn take(&mut self, verb: &str, plural: &str) -> Option<Act> {
        let here = |fault: &Waiting| fault.verb == verb && fault.plural == plural;
        let index = self.0.iter().position(here)?;
        let fault = &mut self.0[index];
        fault.times -= 1;
        let act = fault.act.clone();
        if fault.times == 0 {
            self.0.remove(index);
        }
        Some(act)
    }
}
