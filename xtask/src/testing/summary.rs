//! What a run on several kernels comes to.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::report::{Counts, Report};

/// One kernel's part of the run.
#[derive(Debug)]
pub struct Part {
    /// The kernel and the machine, in words.
    pub machine: String,
    /// What happened there.
    pub report: Report,
}

/// A test that said it could not run on one kernel, and passed on another, did run.
pub fn accept_elsewhere(parts: &mut [Part]) {
    let passed = parts.iter().flat_map(|part| part.report.passed());
    let passed: BTreeSet<_> = passed.map(|(suite, test)| (suite.to_owned(), test.to_owned())).collect();
    for part in parts {
        part.report.accept_elsewhere(&passed);
    }
}

/// Whether every part is as it should be.
pub fn is_success(parts: &[Part]) -> bool {
    parts.iter().all(|part| part.report.is_success())
}

/// The summary; its last line is `N passed, N failed, N skipped`.
pub fn text(parts: &[Part]) -> String {
    let mut out = String::new();
    let mut all = Counts::default();
    // Writing to a String cannot fail.
    for part in parts {
        let _ = writeln!(out, "{}", part.report.summary(&part.machine));
        let counts = part.report.counts();
        all.passed += counts.passed;
        all.failed += counts.failed;
        all.skipped += counts.skipped;
    }
    if parts.len() > 1 {
        out += "on each kernel:\n";
        for part in parts {
            let _ = writeln!(out, "  {}: {}", part.machine, part.report.counts());
        }
        out.push('\n');
    }
    // Once more and last: whoever sees only the end of a long output sees what failed.
    for part in parts {
        for failure in part.report.failed() {
            let _ = writeln!(out, "FAILED on {}: {failure}", part.machine);
        }
    }
    let _ = writeln!(out, "{all}");
    out
}

#[cfg(test)]
mod tests {
    use super::super::libtest::{Event, Outcome, Totals};
    use super::*;

    fn part(machine: &str, outcome: Outcome, not_run: Option<&str>) -> Part {
        let mut report = Report::default();
        report.expect("ktls tests/ktls.rs", "rekey", false);
        report.event(Event::Suite("ktls tests/ktls.rs".into()));
        let (passed, failed) = if outcome == Outcome::Passed { (1, 0) } else { (0, 1) };
        report.event(Event::Test { name: "rekey".into(), outcome });
        report.event(Event::Totals(Totals { passed, failed, ignored: 0 }));
        report.cross_check();
        if let Some(reason) = not_run {
            report.could_not_run("rekey", reason);
        }
        Part { machine: machine.to_owned(), report }
    }

    #[test]
    fn what_cannot_run_on_one_kernel_counts_as_run_when_another_passed_it() {
        let mut parts =
            [part("kernel a", Outcome::Passed, Some("no kTLS")), part("kernel b", Outcome::Passed, None)];
        accept_elsewhere(&mut parts);
        assert!(is_success(&parts));
        let text = text(&parts);
        assert!(
            text.contains("passed on another kernel:\n  ktls tests/ktls.rs :: rekey: no kTLS\n"),
            "{text}"
        );
        assert!(text.contains("  kernel a: 0 passed, 0 failed, 1 skipped\n"), "{text}");
        assert!(text.ends_with("\n1 passed, 0 failed, 1 skipped\n"), "{text}");
    }

    #[test]
    fn what_ran_nowhere_or_failed_elsewhere_fails_the_run() {
        for other in [part("b", Outcome::Passed, Some("nor here")), part("b", Outcome::Failed, None)] {
            let mut parts = [part("a", Outcome::Passed, Some("no kTLS")), other];
            accept_elsewhere(&mut parts);
            assert!(!parts[0].report.is_success());
            assert!(!is_success(&parts));
        }
    }

    #[test]
    fn what_failed_is_named_once_more_before_the_last_line() {
        let text = text(&[part("kernel a", Outcome::Failed, None), part("kernel b", Outcome::Passed, None)]);
        let end = "FAILED on kernel a: ktls tests/ktls.rs :: rekey\n1 passed, 1 failed, 0 skipped\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn a_single_kernel_needs_no_table_of_kernels() {
        let text = text(&[part("kernel a", Outcome::Passed, None)]);
        assert!(text.starts_with("kernel a\n") && !text.contains("on each kernel"), "{text}");
        assert!(text.ends_with("\n1 passed, 0 failed, 0 skipped\n"), "{text}");
    }
}
