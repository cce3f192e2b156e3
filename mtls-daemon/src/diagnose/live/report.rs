//! What a diagnosis found, question by question.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::step::Question;
use crate::diagnose::Answer;
use crate::observe::connection::{Datapath, RecordedReason};
use crate::observe::{Reason, Refusal};

/// What is said of a question that was not asked without a reason of its own.
pub const DOES_NOT_APPLY: &str = "It does not apply.";

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not: here it stops.
    Failed,
    /// It was asked, and there is no answer: never a yes.
    Unknown,
    /// It does not apply to this destination.
    NotAsked,
    /// Something before it failed.
    NotReached,
}

/// One question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveStep {
    /// Which.
    pub step: Question,
    /// As people ask it.
    pub question: String,
    /// What came of it.
    pub outcome: Outcome,
    /// The answer in a sentence.
    pub detail: String,
    /// What was looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// [`Reason::code`] with which a connection would be refused for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Microseconds of waiting; null where nothing was waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
}

/// The answer to `mtlsd diagnose`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveReport {
    /// The workload as which it was asked.
    pub workload: String,
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// Where to, as it was asked.
    pub to: String,
    /// The address that was tried, the last one if there were several.
    pub address: Option<SocketAddr>,
    /// `allowed`: a connection works. `denied`: a step fails. `unknown`: one has no answer.
    pub answer: Answer,
    /// Mutual TLS is spoken.
    pub protected: bool,
    /// Every question, in order.
    pub steps: Vec<LiveStep>,
    /// What the other node's daemon said; null if it said nothing.
    pub remote_reason: Option<RecordedReason>,
    /// The TLS alert with which the server refused, by its name in RFC 8446; null without one.
    pub alert: Option<String>,
    /// The datapath that a connection takes; null unless it works with mutual TLS.
    pub datapath: Option<Datapath>,
    /// Why not a better one.
    pub why_not_better: Option<String>,
    /// Generation of the configuration that this is by.
    pub generation: u64,
    /// All of it in a sentence.
    pub sentence: String,
    /// What to do.
    pub mend: String,
}

impl LiveReport {
    /// Whether everything passes.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.answer == Answer::Allowed
    }

    /// What came of a question.
    #[must_use]
    pub fn step(&self, question: Question) -> Option<&LiveStep> {
        self.steps.iter().find(|step| step.step == question)
    }
}

/// A report under way.
#[derive(Debug, Default)]
pub(super) struct Walk {
    steps: Vec<LiveStep>,
    mend: Option<String>,
    advice: Option<String>,
    pub address: Option<SocketAddr>,
    pub protected: bool,
    pub remote_reason: Option<RecordedReason>,
    pub alert: Option<String>,
    pub datapath: Option<(Datapath, Option<String>)>,
}

/// A step failed, or nothing after it applies.
#[derive(Debug)]
pub(super) struct Stopped;

/// What was looked at.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    pub lines: Vec<String>,
    pub took: Option<Duration>,
}

impl Evidence {
    pub fn of(lines: Vec<String>) -> Self {
        Self { lines, took: None }
    }

    pub fn after(took: Duration) -> Self {
        Self { lines: Vec::new(), took: Some(took) }
    }
}

impl Walk {
    pub fn passed(&mut self, step: Question, detail: impl Into<String>, evidence: Evidence) {
        self.note(step, Outcome::Passed, detail.into(), evidence, None);
    }

    /// It has no answer; what to do if nothing fails.
    pub fn unknown(&mut self, step: Question, detail: impl Into<String>, evidence: Evidence, mend: &str) {
        self.advice.get_or_insert_with(|| mend.to_owned());
        self.note(step, Outcome::Unknown, detail.into(), evidence, None);
    }

    pub fn not_asked(&mut self, step: Question, detail: impl Into<String>) {
        self.note(step, Outcome::NotAsked, detail.into(), Evidence::default(), None);
    }

    /// What to do though nothing fails.
    pub fn advise(&mut self, mend: &str) {
        self.advice.get_or_insert_with(|| mend.to_owned());
    }

    pub fn refused(&mut self, step: Question, refusal: &Refusal, evidence: Evidence) -> Stopped {
        let reason = refusal.reason;
        let seen = refusal.detail.trim_end_matches('.');
        let detail = match seen {
            "" => reason.sentence().to_owned(),
            seen => format!("{} Seen: {seen}.", reason.sentence()),
        };
        self.failed(step, detail, evidence, Some(reason), reason.mend())
    }

    pub fn failed(
        &mut self,
        step: Question,
        detail: impl Into<String>,
        evidence: Evidence,
        reason: Option<Reason>,
        mend: &str,
    ) -> Stopped {
        self.mend = Some(mend.to_owned());
        self.note(step, Outcome::Failed, detail.into(), evidence, reason);
        Stopped
    }

    fn note(
        &mut self,
        step: Question,
        outcome: Outcome,
        detail: String,
        evidence: Evidence,
        reason: Option<Reason>,
    ) {
        self.steps.push(LiveStep {
            step,
            question: step.text().to_owned(),
            outcome,
            detail: as_sentence(detail),
            evidence: evidence.lines,
            reason: reason.map(|reason| reason.code().to_owned()),
            took_us: evidence.took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        });
    }

    /// The report of all questions; `to`: as it was asked.
    pub fn report(mut self, workload: &str, spiffe_id: &str, to: &str, generation: u64) -> LiveReport {
        let answer = self.answer();
        let stopped = self.steps.iter().find(|step| step.outcome == Outcome::Failed).map(|step| step.step);
        // Only what is left alone comes to TCP without having asked for a certificate.
        let left_alone =
            stopped == Some(Question::Tcp) && self.steps.iter().all(|step| step.step != Question::Identity);
        let missing: Vec<_> = Question::ALL
            .iter()
            .filter(|question| self.steps.iter().all(|step| step.step != **question))
            .collect();
        for question in missing {
            let (outcome, detail) = match stopped {
                Some(stopped) if *question > stopped => {
                    (Outcome::NotReached, "A question before it stops here.")
                }
                _ => (Outcome::NotAsked, DOES_NOT_APPLY),
            };
            self.note(*question, outcome, detail.to_owned(), Evidence::default(), None);
        }
        self.steps.sort_by_key(|step| step.step);
        let protected = self.protected && answer == Answer::Allowed;
        let between = format!("{workload} ({spiffe_id}) to {to}");
        let failed = self.steps.iter().find(|step| step.outcome == Outcome::Failed);
        let unknown = self.steps.iter().find(|step| step.outcome == Outcome::Unknown);
        let sentence = match (answer, failed.or(unknown)) {
            (Answer::Denied, Some(step)) => {
                let what = if left_alone { "A connection" } else { "Mutual TLS" };
                format!("{what} from {between} does NOT work; it stops at: {}", step.question)
            }
            (Answer::Allowed, _) if protected => {
                format!("A connection from {between} works, with mutual TLS.")
            }
            (Answer::Allowed, _) => {
                format!(
                    "A connection from {between} goes out as it is, without mutual TLS: nobody is authenticated."
                )
            }
            (_, Some(step)) => {
                format!(
                    "Nothing stands in the way from {between}, but one question has no answer: {}",
                    step.question
                )
            }
            (_, None) => format!("Nothing is known of a connection from {between}."),
        };
        let mend = match answer {
            Answer::Denied => self.mend.or(self.advice),
            Answer::Allowed | Answer::Unknown => self.advice,
        };
        let (datapath, why_not_better) = match self.datapath {
            Some((datapath, why)) if protected => (Some(datapath), why),
            _ => (None, None),
        };
        LiveReport {
            workload: workload.to_owned(),
            spiffe_id: spiffe_id.to_owned(),
            to: to.to_owned(),
            address: self.address,
            answer,
            protected,
            steps: self.steps,
            remote_reason: self.remote_reason,
            alert: self.alert,
            datapath,
            why_not_better,
            generation,
            sentence,
            mend: mend.unwrap_or_else(|| "Nothing needs mending.".to_owned()),
        }
    }

    fn answer(&self) -> Answer {
        let any = |outcome| self.steps.iter().any(|step| step.outcome == outcome);
        match (any(Outcome::Failed), any(Outcome::Unknown)) {
            (true, _) => Answer::Denied,
            (false, true) => Answer::Unknown,
            // Having asked nothing proves nothing.
            (false, false) if self.steps.iter().any(|step| step.step == Question::Tcp) => Answer::Allowed,
            (false, false) => Answer::Unknown,
        }
    }
}

/// With a capital letter, unless it begins with our own name, and a full stop.
fn as_sentence(text: String) -> String {
    let text = if text.ends_with(['.', '?', '!']) { text } else { format!("{text}.") };
    if text.starts_with("mtlsd ") {
        return text;
    }
    let mut letters = text.chars();
    letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect()
}

#[cfg(test)]
impl LiveReport {
    /// For the tests of those who show it.
    pub(crate) fn example(works: bool) -> Self {
        let mut walk = Walk { protected: true, address: "10.1.0.7:5432".parse().ok(), ..Walk::default() };
        let took =
            Evidence { lines: vec!["a\u{1b}[31mb".to_owned()], took: Some(Duration::from_micros(1500)) };
        walk.passed(Question::Tcp, "10.1.0.7:5432 took the connection", took);
        if works {
            walk.datapath = Some((Datapath::RelayUserspace, Some("this kernel has no kTLS".to_owned())));
        } else {
            let _stopped =
                walk.refused(Question::Name, &Reason::UnexpectedServer.into(), Evidence::default());
        }
        walk.report("web", "spiffe://example.org/web", "db:5432", 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(walk: Walk) -> LiveReport {
        walk.report("web", "spiffe://a/web", "db:1", 3)
    }

    #[test]
    fn a_failure_stops_with_its_mend_and_the_rest_is_not_reached() {
        let mut walk = Walk::default();
        walk.passed(Question::Tcp, "it answers", Evidence::after(Duration::from_millis(2)));
        walk.advise("Other.");
        let refusal = Refusal::new(Reason::CertificateExpired, "serial 1");
        let _stopped = walk.refused(Question::Validity, &refusal, Evidence::default());
        let report = report(walk);
        assert!(!report.holds() && report.answer == Answer::Denied);
        assert_eq!(report.mend, Reason::CertificateExpired.mend());
        assert_eq!(report.steps.len(), Question::ALL.len());
        let failed = report.step(Question::Validity).unwrap();
        assert_eq!(failed.reason.as_deref(), Some("certificate_expired"));
        assert!(failed.detail.ends_with("Seen: serial 1."), "{}", failed.detail);
        let tcp = report.step(Question::Tcp).unwrap();
        assert_eq!((tcp.detail.as_str(), tcp.took_us), ("It answers.", Some(2000)));
        assert_eq!(report.step(Question::Name).unwrap().outcome, Outcome::NotReached);
        assert!(
            report.sentence.contains("does NOT work; it stops at: Is it valid now?"),
            "{}",
            report.sentence
        );
    }

    #[test]
    fn what_has_no_answer_is_no_success_and_having_asked_nothing_neither() {
        assert_eq!(report(Walk::default()).answer, Answer::Unknown);
        let mut walk = Walk { protected: true, ..Walk::default() };
        walk.passed(Question::Tcp, "it answers", Evidence::default());
        walk.unknown(Question::TrustedThere, "it says nothing", Evidence::default(), "Look there.");
        let report = report(walk);
        assert!(!report.holds() && !report.protected);
        assert_eq!((report.answer, report.mend.as_str()), (Answer::Unknown, "Look there."));
        assert!(report.sentence.ends_with("Are we trusted there?"));
    }

    #[test]
    fn the_report_is_the_same_after_json() {
        let mut walk = Walk { protected: true, ..Walk::default() };
        walk.passed(Question::Tcp, "it answers", Evidence::of(vec!["10.0.0.1:1".into()]));
        walk.datapath = Some((Datapath::RelayUserspace, Some("no".into())));
        let report = report(walk);
        assert!(report.holds() && report.protected && report.mend == "Nothing needs mending.");
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<LiveReport>(&json).unwrap(), report);
    }
}
