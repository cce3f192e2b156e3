//! `mtlsd policy`: looks at rules without a daemon.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::CommandError;
use crate::config::{Config, load_policy_tests};
use crate::control::cli::PolicyCommand;
use crate::policy::check;
use crate::policy::expect::{self, Outcome};

/// Runs the command; true if what was asked holds.
///
/// # Errors
/// When the configuration or a file of tests is wrong, or nothing can be printed.
pub fn run(command: &PolicyCommand, out: &mut impl Write) -> Result<bool, CommandError> {
    match command {
        PolicyCommand::Check { config, output } => check_rules(&config.config, output.json, out),
        PolicyCommand::Test { files, config, output } => test(&config.config, files, output.json, out),
        // It asks a daemon: `replay::run`.
        PolicyCommand::Replay(_) => Ok(false),
    }
}

fn check_rules(path: &Path, as_json: bool, out: &mut impl Write) -> Result<bool, CommandError> {
    let config = Config::load(path)?;
    let findings = check::check(&config);
    let rules = config.policy.len() + config.outbound_policy.len();
    if as_json {
        writeln!(out, "{}", json!({ "rules": rules, "findings": findings }))?;
        return Ok(findings.is_empty());
    }
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    writeln!(out, "{}: {rules} rules, {} that are probably not meant so", path.display(), findings.len())?;
    Ok(findings.is_empty())
}

fn test(path: &Path, files: &[PathBuf], as_json: bool, out: &mut impl Write) -> Result<bool, CommandError> {
    let config = Config::load(path)?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    for file in files {
        outcomes.extend(expect::run(&config, &load_policy_tests(file)?));
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    if as_json {
        writeln!(
            out,
            "{}",
            json!({ "passed": outcomes.len() - failed, "failed": failed, "tests": outcomes })
        )?;
        return Ok(failed == 0);
    }
    for Outcome { name, passed, text } in &outcomes {
        writeln!(out, "{} {name}: {text}", if *passed { "ok    " } else { "FAILED" })?;
    }
    writeln!(out, "{} passed, {failed} failed", outcomes.len() - failed)?;
    Ok(failed == 0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::Value;

    use super::*;
    use crate::control::cli::{ConfigFile, Output};

    fn run_on(config: &str, tests: Option<&str>, json: bool) -> (Result<bool, CommandError>, String) {
        let directory = tempfile::tempdir().unwrap();
        let (path, file) = (directory.path().join("mtlsd.yaml"), directory.path().join("tests.yaml"));
        fs::write(&path, format!("trust_domain: a\n{config}")).unwrap();
        let (config, output) = (ConfigFile { config: path }, Output { json });
        let command = match tests {
            None => PolicyCommand::Check { config, output },
            Some(tests) => {
                fs::write(&file, tests).unwrap();
                PolicyCommand::Test { files: vec![file], config, output }
            }
        };
        let mut printed = Vec::new();
        let outcome = run(&command, &mut printed);
        (outcome, String::from_utf8(printed).unwrap())
    }

    const OPEN: &str =
        "workloads: [{ name: w, select: { netns: w } }]\npolicy: [{ name: open, action: allow }]\n";

    #[test]
    fn a_finding_is_told_and_is_not_a_success() {
        let (outcome, printed) = run_on(OPEN, None, false);
        assert!(!outcome.unwrap() && printed.contains("rule open: it lets in every peer"), "{printed}");
        assert!(printed.ends_with("1 rules, 1 that are probably not meant so\n"), "{printed}");
        let (outcome, printed) = run_on(OPEN, None, true);
        let printed: Value = serde_json::from_str(&printed).unwrap();
        assert!(!outcome.unwrap() && printed["findings"][0]["kind"] == "allow-all", "{printed}");
        let (outcome, printed) = run_on(&OPEN.replace("action: allow", "action: deny"), None, false);
        assert!(outcome.unwrap() && printed.contains("0 that are"), "{printed}");
        let (outcome, _) = run_on("policy: 1", None, false);
        assert!(matches!(outcome, Err(CommandError::Config(_))));
    }

    #[test]
    fn tests_that_fail_are_told_and_are_not_a_success() {
        let tests = |expect: &str| {
            format!(
                "tests: [{{ name: t, from: {{ spiffe_id: spiffe://a/x }}, to: {{ workload: w, port: 1 }}, expect: {expect} }}]"
            )
        };
        let (outcome, printed) = run_on(OPEN, Some(&tests("allow")), false);
        assert!(outcome.unwrap());
        assert_eq!(printed, "ok     t: allowed by open\n1 passed, 0 failed\n");
        let (outcome, printed) = run_on(OPEN, Some(&tests("deny")), false);
        assert!(
            !outcome.unwrap() && printed.starts_with("FAILED t: allowed by open; it shall be denied"),
            "{printed}"
        );
        let (outcome, printed) = run_on(OPEN, Some(&tests("deny")), true);
        let printed: Value = serde_json::from_str(&printed).unwrap();
        assert!(
            !outcome.unwrap() && printed["failed"] == 1 && printed["tests"][0]["passed"] == false,
            "{printed}"
        );
        let (outcome, _) = run_on(OPEN, Some("tests: []"), false);
        assert!(matches!(outcome, Err(CommandError::Config(_))));
    }
}
