//! `mtlsd policy replay`: asks the daemon what connections there were, and a configuration what it says of them.

use std::io::Write;

use super::CommandError;
use crate::config::Config;
use crate::control::client::AdminClient;
use crate::control::replay::{ReplayArgs, report};
use crate::directory::Directory;
use crate::flows::judge::Ground;
use crate::flows::replay::replay;
use crate::policy::Policy;

/// Runs the command; true if nothing that was let through would be refused.
///
/// # Errors
/// When the configuration is wrong, the daemon does not answer, or nothing can be printed.
pub async fn run(arguments: &ReplayArgs, out: &mut impl Write) -> Result<bool, CommandError> {
    let config = Config::load(&arguments.with)?;
    let (record, since) = AdminClient::new(&arguments.options.socket).flows(arguments.since).await?;
    let (policy, directory) = (Policy::from_config(&config), Directory::from_config(&config));
    let ground = Ground { config: &config, policy: &policy, directory: &directory };
    let replayed = replay(&record, &ground, since);
    if arguments.options.output.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&replayed)?)?;
    } else {
        out.write_all(report(&replayed).as_bytes())?;
    }
    Ok(replayed.holds())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::control::admin::tests::serve;
    use crate::control::cli::{AskOptions, Output};

    async fn replayed(config: &str, healthy: bool, json: bool) -> (Result<bool, CommandError>, String) {
        let served = serve(healthy);
        let directory = tempfile::tempdir().unwrap();
        let with = directory.path().join("new.yaml");
        fs::write(&with, format!("trust_domain: a\n{config}")).unwrap();
        let options = AskOptions { output: Output { json }, socket: served.path.clone() };
        let arguments = ReplayArgs { with, since: std::time::Duration::from_secs(60), options };
        let mut printed = Vec::new();
        let outcome = run(&arguments, &mut printed).await;
        (outcome, String::from_utf8(printed).unwrap())
    }

    const OPEN: &str = "workloads: [{ name: w, select: { netns: w }, mode: permissive }]\n";

    // The daemon of the test remembers one plaintext client that was let in to w:1 by the rule `open`.
    #[tokio::test]
    async fn what_would_be_refused_is_told_and_is_not_a_success() {
        let (outcome, printed) = replayed(OPEN, true, false).await;
        assert!(outcome.unwrap(), "{printed}");
        assert!(printed.starts_with("1 flows (4 connections) seen since"), "{printed}");
        assert!(printed.contains("No decision would change.\n1 more would be decided the same"), "{printed}");
        let strict = OPEN.replace("permissive", "strict");
        let (outcome, printed) = replayed(&strict, true, false).await;
        assert!(
            !outcome.unwrap() && printed.contains("1 flows would be REFUSED, 0 would be let"),
            "{printed}"
        );
        assert!(printed.contains("10.0.0.2") && printed.contains("w:1"), "{printed}");
        assert!(
            printed.contains("allowed by open") && printed.contains("refused by mode strict"),
            "{printed}"
        );
        let (outcome, printed) = replayed(&strict, true, true).await;
        let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
        assert!(!outcome.unwrap() && printed["changes"][0]["after"]["rule"] == "mode strict", "{printed}");
        let dry = format!("{OPEN}policy: [{{ name: no, action: deny, dry_run: true }}]\n");
        let (outcome, printed) = replayed(&dry, true, false).await;
        assert!(outcome.unwrap() && printed.contains("1 would change if the dry-run rules"), "{printed}");
    }

    #[tokio::test]
    async fn nothing_to_judge_no_answer_and_a_wrong_configuration_are_no_success() {
        let (outcome, printed) = replayed("workloads: []", true, false).await;
        assert!(!outcome.unwrap() && printed.contains("nothing is known"), "{printed}");
        assert!(printed.contains("1 flows were not judged: w is not a workload"), "{printed}");
        let (outcome, _) = replayed(OPEN, false, false).await;
        assert!(matches!(outcome, Err(CommandError::Client(_))));
        let (outcome, printed) = replayed("workloads: 1", true, false).await;
        assert!(matches!(outcome, Err(CommandError::Config(_))) && printed.is_empty());
    }

    #[test]
    fn the_text_is_not_endless() {
        use crate::control::rollout::tests::record;
        let config = crate::snapshot::testing::config("workloads: [{ name: w, select: { netns: w } }]");
        let (policy, directory) = (Policy::from_config(&config), Directory::from_config(&config));
        let ground = Ground { config: &config, policy: &policy, directory: &directory };
        let mut record = record();
        record.flows = vec![record.flows[0].clone(); 60];
        let text = report(&replay(&record, &ground, record.begun));
        assert!(text.contains("60 flows would be REFUSED") && text.contains("… and 10 more"), "{text}");
        assert_eq!(text.matches("mode strict").count(), 50);
    }
}
