//! What a run of all tests comes to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write as _;

use super::libtest::{Event, Outcome, Totals};

/// What became of a test, in the summary's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    Passed,
    Failed,
    /// It was started or should have been, and never gave a result.
    Unfinished,
    /// `#[ignore]`, with its reason.
    Ignored(Option<String>),
    /// It said itself that this machine cannot run it.
    CouldNotRun(String),
    /// It could not run on this kernel, and passed on another one in this run.
    RanElsewhere(String),
    /// `--exclude`
    Excluded,
}

/// One test program, or one crate's documentation tests.
#[derive(Debug, Default, Clone)]
pub struct Suite {
    tests: BTreeMap<String, Status>,
    /// What failed tests said, by name.
    said: BTreeMap<String, String>,
    totals: Option<Totals>,
    started: bool,
    checked: bool,
}

/// Everything that happened, in the order of the suites' names.
#[derive(Debug, Default, Clone)]
pub struct Report {
    suites: BTreeMap<String, Suite>,
    current: String,
    /// What went wrong outside any test: each counts as one failure.
    problems: Vec<String>,
}

impl Report {
    /// A test that is going to run, or that was excluded by name.
    pub fn expect(&mut self, suite: &str, test: &str, excluded: bool) {
        let status = if excluded { Status::Excluded } else { Status::Unfinished };
        self.suites.entry(suite.to_owned()).or_default().tests.insert(test.to_owned(), status);
    }

    /// Takes in one event of the output.
    pub fn event(&mut self, event: Event) {
        match event {
            Event::Suite(name) => {
                self.suites.entry(name.clone()).or_default().started = true;
                self.current = name;
            }
            Event::Test { name, outcome } => {
                let status = match outcome {
                    Outcome::Passed => Status::Passed,
                    Outcome::Failed => Status::Failed,
                    Outcome::Ignored(reason) => Status::Ignored(reason),
                };
                let suite = self.suites.entry(self.current.clone()).or_default();
                // rustdoc appends ` - compile fail` and the like to the listed name.
                let listed = if suite.tests.contains_key(&name) {
                    None
                } else {
                    suite.tests.keys().find(|listed| name.starts_with(&format!("{listed} - "))).cloned()
                };
                suite.tests.insert(listed.unwrap_or(name), status);
            }
            Event::Said { name, said } => {
                self.suites.entry(self.current.clone()).or_default().said.insert(name, said);
            }
            Event::Totals(totals) => {
                // rustdoc runs one crate's examples in several goes, each with its counts.
                let sum = self.suites.entry(self.current.clone()).or_default().totals.get_or_insert_default();
                sum.passed += totals.passed;
                sum.failed += totals.failed;
                sum.ignored += totals.ignored;
            }
        }
    }

    /// A test's own word that it could not run here, which weighs more than how it ended.
    pub fn could_not_run(&mut self, test: &str, reason: &str) {
        let mut known = false;
        for suite in self.suites.values_mut() {
            if let Some(status) = suite.tests.get_mut(test) {
                *status = Status::CouldNotRun(reason.to_owned());
                known = true;
            }
        }
        if !known {
            self.problem(format!("a test that is not known, `{test}`, says that it could not run: {reason}"));
        }
    }

    /// Something that went wrong outside any test.
    pub fn problem(&mut self, what: String) {
        self.problems.push(what);
    }

    /// Compares what was read line by line with libtest's own counts, for the suites that ran since the last call.
    pub fn cross_check(&mut self) {
        for (name, suite) in self.suites.iter_mut().filter(|(_, suite)| suite.started && !suite.checked) {
            suite.checked = true;
            let read = |status: fn(&Status) -> bool| suite.tests.values().filter(|s| status(s)).count();
            let ours = Totals {
                passed: read(|s| matches!(s, Status::Passed)),
                failed: read(|s| matches!(s, Status::Failed)),
                ignored: read(|s| matches!(s, Status::Ignored(_))),
            };
            match suite.totals {
                Some(totals) if totals != ours => self.problems.push(format!(
                    "{name}: libtest counts {totals:?}, its lines say {ours:?}; a result was lost"
                )),
                None => {
                    self.problems
                        .push(format!("{name}: the test program ended without a result (did it crash?)"));
                }
                Some(_) => {}
            }
        }
    }

    /// How much failed so far (not counting tests that have not ended).
    pub fn failures(&self) -> usize {
        self.problems.len() + self.count(|s| matches!(s, Status::Failed))
    }

    /// Whether everything ran and passed, here or on another kernel, but for what was excluded by name.
    pub fn is_success(&self) -> bool {
        let well =
            |status: &Status| matches!(status, Status::Passed | Status::RanElsewhere(_) | Status::Excluded);
        self.problems.is_empty() && self.statuses().all(well)
    }

    /// The tests that passed, by suite and name.
    pub fn passed(&self) -> impl Iterator<Item = (&str, &str)> {
        let tests =
            self.suites.iter().flat_map(|(suite, tests)| tests.tests.iter().map(move |test| (suite, test)));
        tests
            .filter(|(_, (_, status))| **status == Status::Passed)
            .map(|(suite, (test, _))| (suite.as_str(), test.as_str()))
    }

    /// What could not run here and is in `passed` did run, elsewhere.
    pub fn accept_elsewhere(&mut self, passed: &BTreeSet<(String, String)>) {
        for (suite, tests) in &mut self.suites {
            for (test, status) in &mut tests.tests {
                if let Status::CouldNotRun(reason) = status
                    && passed.contains(&(suite.clone(), test.clone()))
                {
                    *status = Status::RanElsewhere(std::mem::take(reason));
                }
            }
        }
    }

    /// Those of a suite's tests that could not run are excluded. False: there is no such suite.
    pub fn exclude_suite(&mut self, is_it: impl Fn(&str) -> bool) -> bool {
        let mut known = false;
        for (_, tests) in self.suites.iter_mut().filter(|(suite, _)| is_it(suite)) {
            known = true;
            for status in tests.tests.values_mut().filter(|status| matches!(status, Status::CouldNotRun(_))) {
                *status = Status::Excluded;
            }
        }
        known
    }

    /// How many passed, failed (problems are failures) and did not run.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::of(self.statuses());
        counts.failed += self.problems.len();
        counts
    }

    /// Every failure in a line or two, with what the test said.
    pub fn failed(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (suite, tests) in &self.suites {
            for (test, note) in tests.tests.iter().filter_map(|(test, status)| Some((test, failure(status)?)))
            {
                let said = tests.said.get(test).map(|said| format!("\n    {said}")).unwrap_or_default();
                lines.push(format!("{suite} :: {test}{note}{said}"));
            }
        }
        lines.extend(self.problems.iter().map(|problem| format!("problem: {problem}")));
        lines
    }

    fn statuses(&self) -> impl Iterator<Item = &Status> {
        self.suites.values().flat_map(|suite| suite.tests.values())
    }

    fn count(&self, which: fn(&Status) -> bool) -> usize {
        self.statuses().filter(|status| which(status)).count()
    }

    /// What happened on this machine, suite by suite, and everything that did not pass.
    pub fn summary(&self, machine: &str) -> String {
        let mut out = format!("{machine}\n\n");
        let width = self.suites.keys().map(String::len).max().unwrap_or(0).max("suite".len());
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{:width$}  passed  failed  skipped", "suite");
        for (name, suite) in &self.suites {
            let counts = Counts::of(suite.tests.values());
            if counts.total() == 0 {
                continue;
            }
            let _ = writeln!(
                out,
                "{name:width$}  {:6}  {:6}  {:7}",
                counts.passed, counts.failed, counts.skipped
            );
        }
        self.section(&mut out, "failed:", failure);
        for problem in &self.problems {
            let _ = writeln!(out, "  problem: {problem}");
        }
        self.section(&mut out, "did not run, which fails the run (accept by name: --exclude NAME):", not_run);
        self.section(&mut out, "did not run here, passed on another kernel:", |s| match s {
            Status::RanElsewhere(reason) => Some(format!(": {reason}")),
            _ => None,
        });
        self.section(&mut out, "did not run, excluded by name:", |s| {
            (*s == Status::Excluded).then(String::new)
        });
        out
    }

    fn section(&self, out: &mut String, title: &str, describe: fn(&Status) -> Option<String>) {
        let mut lines = String::new();
        for (suite, tests) in &self.suites {
            for (test, status) in &tests.tests {
                if let Some(note) = describe(status) {
                    let _ = writeln!(lines, "  {suite} :: {test}{note}");
                }
            }
        }
        if !lines.is_empty() || (title == "failed:" && !self.problems.is_empty()) {
            let _ = write!(out, "\n{title}\n{lines}");
        }
    }
}

fn failure(status: &Status) -> Option<String> {
    match status {
        Status::Failed => Some(String::new()),
        Status::Unfinished => Some(" (gave no result)".to_owned()),
        Status::Passed
        | Status::Ignored(_)
        | Status::CouldNotRun(_)
        | Status::RanElsewhere(_)
        | Status::Excluded => None,
    }
}

fn not_run(status: &Status) -> Option<String> {
    match status {
        Status::Ignored(Some(reason)) => Some(format!(": ignored, {reason}")),
        Status::Ignored(None) => Some(": ignored".to_owned()),
        Status::CouldNotRun(reason) => Some(format!(": {reason}")),
        Status::Passed | Status::Failed | Status::Unfinished | Status::RanElsewhere(_) | Status::Excluded => {
            None
        }
    }
}

/// Numbers of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: usize,
    /// With problems outside any test.
    pub failed: usize,
    pub skipped: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

impl Counts {
    fn of<'a>(statuses: impl Iterator<Item = &'a Status>) -> Self {
        let mut counts = Self::default();
        for status in statuses {
            match status {
                Status::Passed => counts.passed += 1,
                Status::Failed | Status::Unfinished => counts.failed += 1,
                Status::Ignored(_) | Status::CouldNotRun(_) | Status::RanElsewhere(_) | Status::Excluded => {
                    counts.skipped += 1;
                }
            }
        }
        counts
    }

    fn total(&self) -> usize {
        self.passed + self.failed + self.skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(events: &[(&str, Outcome)], totals: Option<(usize, usize, usize)>) -> Report {
        let mut report = Report::default();
        for (name, _) in events {
            report.expect("s src/lib.rs", name, false);
        }
        report.event(Event::Suite("s src/lib.rs".into()));
        for (name, outcome) in events {
            report.event(Event::Test { name: (*name).into(), outcome: outcome.clone() });
        }
        if let Some((passed, failed, ignored)) = totals {
            report.event(Event::Totals(Totals { passed, failed, ignored }));
        }
        report.cross_check();
        report
    }

    fn last_line(report: &Report) -> String {
        report.counts().to_string()
    }

    #[test]
    fn a_failure_is_told_with_what_the_test_said() {
        let mut report = run(&[("a", Outcome::Failed), ("b", Outcome::Passed)], Some((1, 1, 0)));
        report.event(Event::Said { name: "a".into(), said: "x.rs:1:2: no".into() });
        report.problem("the machine".into());
        assert_eq!(report.failed(), ["s src/lib.rs :: a\n    x.rs:1:2: no", "problem: the machine"]);
    }

    #[test]
    fn only_what_could_not_run_of_an_excluded_suite_is_excluded() {
        let mut report = run(&[("a", Outcome::Passed), ("b", Outcome::Failed)], Some((1, 1, 0)));
        report.could_not_run("a", "no kTLS");
        assert!(!report.exclude_suite(|suite| suite == "other"));
        assert!(report.exclude_suite(|suite| suite == "s src/lib.rs"));
        assert_eq!(report.counts().to_string(), "0 passed, 1 failed, 1 skipped");
        report.event(Event::Test { name: "b".into(), outcome: Outcome::Passed });
        assert!(report.is_success());
    }

    #[test]
    fn all_passed_is_a_success() {
        let report = run(&[("a", Outcome::Passed), ("b", Outcome::Passed)], Some((2, 0, 0)));
        assert!(report.is_success() && report.failures() == 0);
        assert_eq!(last_line(&report), "2 passed, 0 failed, 0 skipped");
        assert!(report.summary("kernel x").starts_with("kernel x\n"));
    }

    #[test]
    fn a_failed_test_fails_the_run_and_is_named() {
        let report = run(&[("a", Outcome::Failed)], Some((0, 1, 0)));
        assert!(!report.is_success() && report.failures() == 1);
        assert!(report.summary("k").contains("failed:\n  s src/lib.rs :: a\n"), "{}", report.summary("k"));
        assert_eq!(last_line(&report), "0 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn an_ignored_test_fails_the_run_with_its_reason() {
        let report = run(&[("a", Outcome::Ignored(Some("needs kTLS".into())))], Some((0, 0, 1)));
        assert!(!report.is_success());
        assert!(report.summary("k").contains(":: a: ignored, needs kTLS"), "{}", report.summary("k"));
        assert_eq!(last_line(&report), "0 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_test_excluded_by_name_is_named_and_does_not_fail_the_run() {
        let mut report = run(&[("a", Outcome::Passed)], Some((1, 0, 0)));
        report.expect("s src/lib.rs", "b", true);
        assert!(report.is_success());
        assert!(
            report.summary("k").contains("excluded by name:\n  s src/lib.rs :: b\n"),
            "{}",
            report.summary("k")
        );
        assert_eq!(last_line(&report), "1 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn a_test_that_could_not_run_fails_the_run_even_if_it_ended_well() {
        let mut report = run(&[("a", Outcome::Passed)], Some((1, 0, 0)));
        report.could_not_run("a", "no kTLS here");
        assert!(!report.is_success());
        assert!(report.summary("k").contains(":: a: no kTLS here"));
        assert_eq!(last_line(&report), "0 passed, 0 failed, 1 skipped");
    }

    #[test]
    fn an_unknown_test_that_could_not_run_is_a_problem() {
        let mut report = run(&[("a", Outcome::Passed)], Some((1, 0, 0)));
        report.could_not_run("z", "why");
        assert!(!report.is_success());
        assert_eq!(last_line(&report), "1 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_crashed_test_program_fails_the_run() {
        let mut report = Report::default();
        report.expect("s", "a", false);
        report.event(Event::Suite("s".into()));
        report.cross_check();
        assert!(!report.is_success());
        let summary = report.summary("k");
        assert!(
            summary.contains("s :: a (gave no result)") && summary.contains("did it crash?"),
            "{summary}"
        );
        assert_eq!(last_line(&report), "0 passed, 2 failed, 0 skipped");
    }

    #[test]
    fn lost_results_are_noticed() {
        let report = run(&[("a", Outcome::Passed)], Some((0, 1, 0)));
        assert!(!report.is_success());
        assert!(report.summary("k").contains("a result was lost"));
    }

    #[test]
    fn rustdoc_suffixes_belong_to_the_listed_test() {
        let mut report = Report::default();
        report.expect("p documentation", "src/lib.rs - f (line 1)", false);
        report.event(Event::Suite("p documentation".into()));
        report.event(Event::Test {
            name: "src/lib.rs - f (line 1) - compile fail".into(),
            outcome: Outcome::Passed,
        });
        report.event(Event::Totals(Totals { passed: 1, failed: 0, ignored: 0 }));
        report.cross_check();
        assert!(report.is_success(), "{}", report.summary("k"));
    }

    #[test]
    fn counts_of_several_goes_in_one_suite_add_up() {
        let mut report = Report::default();
        report.event(Event::Suite("p documentation".into()));
        for name in ["a", "b"] {
            report.expect("p documentation", name, false);
            report.event(Event::Test { name: name.into(), outcome: Outcome::Passed });
            report.event(Event::Totals(Totals { passed: 1, failed: 0, ignored: 0 }));
        }
        report.cross_check();
        assert!(report.is_success(), "{}", report.summary("k"));
    }
}
