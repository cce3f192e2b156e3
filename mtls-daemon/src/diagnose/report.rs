//! What would become of a connection, step by step and in sentences.

use serde::{Deserialize, Serialize};

use crate::observe::connection::{ConnectionRecord, Datapath, Event};
use crate::observe::explain::Outcome;
use crate::observe::explain::near::NearMisses;
use crate::observe::reason::Reason;

/// What would become of it, as far as this node decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Every step on this node lets it pass.
    Allowed,
    /// A step refuses it.
    Denied,
    /// It depends on something that is not known here.
    Unknown,
}

/// One step of the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStep {
    /// What is asked.
    pub step: String,
    /// The answer; `skipped`: it is decided on another node.
    pub outcome: Outcome,
    /// What was found, in a sentence.
    pub detail: String,
    /// [`Reason::code`] with which the connection would be refused here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer to `mtlsd explain --from A --to B:PORT`; `sentences` ends with the mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReport {
    /// What would become of it.
    pub answer: Answer,
    /// Mutual TLS would be spoken.
    pub protected: bool,
    /// The way, for people; the last sentence says what to do.
    pub sentences: Vec<String>,
    /// The way, step by step, up to the first that refuses.
    pub steps: Vec<PathStep>,
    /// Rules that nearly decide otherwise; left out where policy of this node does not decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near_misses: Option<NearMisses>,
    /// The datapath that is expected; null where mtlsd does not carry it or it is not opened here.
    pub datapath: Option<Datapath>,
    /// Why not a better one.
    pub why_not_better: Option<String>,
    /// Generation of the configuration that this is by.
    pub generation: u64,
    /// The last connections between the two, newest first.
    pub recent: Vec<ConnectionRecord>,
    /// What to do.
    pub mend: String,
}

/// A report under way.
#[derive(Default)]
pub(super) struct Walk {
    pub steps: Vec<PathStep>,
    pub near_misses: Option<NearMisses>,
    pub datapath: Option<(Datapath, Option<String>)>,
    pub protected: bool,
    mend: Option<String>,
}

/// A step refuses: nothing after it matters.
pub(super) struct Refused;

impl Walk {
    pub fn passed(&mut self, step: &str, detail: impl Into<String>) {
        self.step(step, Outcome::Passed, detail.into(), None);
    }

    pub fn elsewhere(&mut self, step: &str, detail: impl Into<String>) {
        self.step(step, Outcome::Skipped, detail.into(), None);
    }

    pub fn unknown(&mut self, step: &str, detail: impl Into<String>, mend: &str) {
        self.mend.get_or_insert_with(|| mend.to_owned());
        self.step(step, Outcome::Open, detail.into(), None);
    }

    pub fn refused(&mut self, step: &str, detail: impl Into<String>, reason: Reason) -> Refused {
        self.mend = Some(reason.mend().to_owned());
        self.step(step, Outcome::Failed, detail.into(), Some(reason));
        Refused
    }

    /// Refused by something that is no [`Reason`].
    pub fn broken(&mut self, step: &str, detail: impl Into<String>, mend: &str) -> Refused {
        self.mend = Some(mend.to_owned());
        self.step(step, Outcome::Failed, detail.into(), None);
        Refused
    }

    /// What to do even if nothing stands in the way.
    pub fn advise(&mut self, mend: &str) {
        self.mend.get_or_insert_with(|| mend.to_owned());
    }

    fn step(&mut self, step: &str, outcome: Outcome, detail: String, reason: Option<Reason>) {
        let reason = reason.map(|reason| reason.code().to_owned());
        self.steps.push(PathStep { step: step.to_owned(), outcome, detail, reason });
    }

    fn answer(&self) -> Answer {
        let any = |outcome| self.steps.iter().any(|step| step.outcome == outcome);
        match (any(Outcome::Failed), any(Outcome::Open), any(Outcome::Passed)) {
            (true, _, _) => Answer::Denied,
            (false, false, true) => Answer::Allowed,
            // Having checked nothing proves nothing.
            (false, _, _) => Answer::Unknown,
        }
    }

    pub fn report(self, between: &str, generation: u64) -> PathReport {
        let answer = self.answer();
        let (datapath, why_not_better) = match (answer, self.datapath) {
            (Answer::Denied, _) | (_, None) => (None, None),
            (_, Some((datapath, why))) => (Some(datapath), why),
        };
        let protected = self.protected && answer != Answer::Denied;
        let headline = match (answer, protected) {
            (Answer::Allowed, true) => "would be allowed, with mutual TLS",
            (Answer::Allowed, false) => "would be let through, without mutual TLS: nobody is authenticated",
            (Answer::Denied, _) => "would be REFUSED",
            (Answer::Unknown, _) => "cannot be foretold: something that decides is not known here",
        };
        let mend = self.mend.unwrap_or_else(|| "Nothing needs mending.".to_owned());
        PathReport {
            answer,
            protected,
            sentences: vec![format!("A connection {between} {headline}.")],
            steps: self.steps,
            near_misses: self.near_misses,
            datapath,
            why_not_better,
            generation,
            recent: Vec::new(),
            mend,
        }
        .told()
    }
}

impl PathReport {
    /// Whether it would be allowed.
    #[must_use]
    pub fn allowed(&self) -> bool {
        self.answer == Answer::Allowed
    }

    /// With the last connections between the two, newest first.
    #[must_use]
    pub fn with_recent(mut self, recent: Vec<ConnectionRecord>) -> Self {
        self.recent = recent;
        self.sentences.truncate(1);
        self.told()
    }

    fn told(mut self) -> Self {
        let mut sentences = std::mem::take(&mut self.sentences);
        sentences.extend(self.steps.iter().map(|step| step.detail.clone()));
        sentences.extend(self.near_misses.iter().flat_map(NearMisses::sentences));
        let why = self.why_not_better.as_deref().map(|why| why.trim_end_matches('.'));
        match (self.datapath, why) {
            (None, _) => {}
            (Some(path), None) => {
                sentences.push(format!("Expected datapath {path}: {}.", path.sentence()));
            }
            (Some(path), Some(why)) => sentences.push(format!(
                "Expected datapath {path}: {}; not a better one, because {why}.",
                path.sentence()
            )),
        }
        sentences.extend(self.recent.iter().map(one_line));
        if self.recent.is_empty() {
            sentences.push("No connection between the two is recorded.".to_owned());
        }
        sentences.push(match self.answer {
            Answer::Allowed => self.mend.clone(),
            Answer::Denied | Answer::Unknown => format!("What to do: {}", self.mend),
        });
        self.sentences = sentences;
        self
    }
}

fn one_line(record: &ConnectionRecord) -> String {
    let what = match (record.event, &record.reason) {
        (Event::Open, _) => "is open".to_owned(),
        (Event::Closed, None) => "was closed by the applications".to_owned(),
        (Event::Closed, Some(reason)) => format!("was cut ({})", reason.code),
        (Event::Refused, Some(reason)) => format!("was refused ({})", reason.code),
        (Event::Refused, None) => "was refused".to_owned(),
    };
    let time = record.time.replace_nanosecond(0).unwrap_or(record.time);
    let time = time
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_else(|_| "an unknown time".to_owned());
    let path = record.datapath.map(|path| format!(", {path}")).unwrap_or_default();
    format!(
        "Recorded: connection {} {what} at {time}{path}; `mtlsd explain {}` tells more.",
        record.id, record.id
    )
}
