//! The command line: its definition, and the commands that ask a running daemon.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use super::ca_cli::CaCommand;
use super::client::{AdminClient, ClientError, Which};
use super::diagnose::DiagnoseArgs;
use super::drill::DrillCommand;
use super::enroll::args::{EnrolArgs, UnenrolArgs, WaitArgs};
use super::replay::ReplayArgs;
use super::revoke::args::{CertificateFileError, RevokeArgs, UnrevokeArgs};
use super::rollout::{RolloutArgs, RolloutCommand};
use super::socket::DEFAULT_SOCKET;
use super::{diagnose, drill, enroll, render, revoke, rollout};
use crate::observe::connection::ConnectionId;

/// Exit code: what was asked holds.
pub const EXIT_HOLDS: u8 = 0;
/// Exit code: it does not hold, or there is no answer.
pub const EXIT_DOES_NOT_HOLD: u8 = 1;
/// Exit code: the command line is wrong (clap's own).
pub const EXIT_USAGE: u8 = 2;

const DEFAULT_CONFIG: &str = "/etc/mtlsd/mtlsd.yaml";

/// Transparent mutual TLS for unmodified workloads.
#[derive(Debug, Parser)]
#[command(
    name = "mtlsd",
    version,
    after_help = "Exit codes: 0 it holds, 1 it does not hold or there is no answer, 2 the command line is wrong."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Run(ConfigFile),
    /// Ask a running daemon.
    #[command(flatten)]
    Ask(Ask),
    /// Look at a configuration without using it
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at the rules without using them
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// The embedded certificate authority, for demos and small sites
    #[command(subcommand)]
    Ca(CaCommand),
    /// Remove everything that the daemon attached or pinned on this node
    Uninstall(UninstallArgs),
    /// Print completions for a shell, as a package installs them
    #[command(hide = true)]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the man pages into a directory, as a package installs them
    #[command(hide = true)]
    Man {
        /// Where; it is made if it is absent
        directory: PathBuf,
    },
    /// Write the reference into a directory: every key, metric, label, reason and command (docs/reference)
    #[command(hide = true)]
    Reference {
        /// Where; it is made if it is absent
        directory: PathBuf,
    },
}

/// Which configuration.
#[derive(Debug, Clone, Args)]
pub struct ConfigFile {
    /// The configuration file; its drop-ins are in the directory of the same name with `.d`
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

/// How to answer.
#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `mtlsd uninstall`.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    /// Which configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// How to answer.
    #[command(flatten)]
    pub output: Output,
}

/// `mtlsd config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say whether a configuration is valid, and warn of what does not exist now
    Check {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Print the JSON schema of the configuration
    Schema,
}

/// `mtlsd policy …`
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Find contradictions, rules without effect, and rules that let in everybody
    Check {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Decide on the connections of a file, and compare with what it expects
    Test {
        /// Files of tests: who, to whom, allow or deny
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Which configuration.
        #[command(flatten)]
        config: ConfigFile,
        /// How to answer.
        #[command(flatten)]
        output: Output,
    },
    /// Decide on recorded connections by another configuration, and print every decision that would change
    ///
    /// Asks the running daemon for the connections that it recorded (docs/rollout.md). Exit code 0: nothing that was
    /// let through would be refused; 1: something would be, or there was nothing to judge.
    Replay(ReplayArgs),
}

/// Where the daemon is and how to show its answer.
#[derive(Debug, Args)]
pub struct AskOptions {
    /// How to answer.
    #[command(flatten)]
    pub output: Output,
    /// The daemon's admin socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// Questions to a running daemon.
#[derive(Debug, Subcommand)]
pub enum Ask {
    /// Is the daemon ready, and what can it do on this node?
    Status(AskOptions),
    /// Which connections are live, and which were the last?
    Connections {
        /// Only those of this workload
        #[arg(long, value_name = "NAME")]
        workload: Option<String>,
        /// At most so many
        #[arg(long, value_name = "NUMBER", default_value_t = super::admin::DEFAULT_LIMIT)]
        limit: usize,
        /// Where and how.
        #[command(flatten)]
        options: AskOptions,
    },
    /// Which workloads are enrolled, with which identity?
    Workloads(AskOptions),
    /// What happened to a connection, why, and what to do about it?
    Explain(ExplainArgs),
    /// Try a connection from a workload: at which question does mutual TLS fail?
    Diagnose(DiagnoseArgs),
    /// Is everything captured that should be?
    Verify(AskOptions),
    /// Load the configuration anew: all of it, or none
    Reload(AskOptions),
    /// Make a systemd unit a workload, from now on and after a restart
    ///
    /// Writes a drop-in of the configuration and has it in force at once, or says why it would be refused. With --confirm-within it is
    /// undone unless `mtlsd confirm` is run in time, also across a restart of the daemon or the host.
    Enroll(EnrolArgs),
    /// Take back what `mtlsd enroll` did
    Unenroll(UnenrolArgs),
    /// Have the last `mtlsd enroll` stay
    Confirm(AskOptions),
    /// Which units were enrolled by `mtlsd enroll`?
    List(AskOptions),
    /// Wait until a workload is enrolled: for ExecStartPre= of its unit, so that no packet of it is earlier
    WaitEnrolled(WaitArgs),
    /// Revoke a certificate, a key or an identity on this node at once, and cut its connections
    Revoke(RevokeArgs),
    /// Take back what was revoked
    Unrevoke(UnrevokeArgs),
    /// Try on the running daemon what one has to rely on
    #[command(subcommand)]
    Drill(DrillCommand),
    /// Moving from permissive to strict
    #[command(subcommand)]
    Rollout(RolloutCommand),
}

/// Arguments of `mtlsd explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The connection, as `mtlsd connections` and the access log show it
    #[arg(required_unless_present_any = ["from", "last_refused"], conflicts_with_all = ["from", "to", "last_refused"])]
    pub id: Option<ConnectionId>,
    /// What would become of a connection from here: a workload of this node, one of its addresses, or a SPIFFE ID
    #[arg(long, value_name = "WHO", requires = "to", conflicts_with = "last_refused")]
    pub from: Option<String>,
    /// ... to there: a workload, a name or SPIFFE ID of the directory, or an address, with the port: NAME:PORT
    #[arg(long, value_name = "WHO:PORT", requires = "from")]
    pub to: Option<String>,
    /// The last one that was refused
    #[arg(long)]
    pub last_refused: bool,
    /// Also for a connection that was let in: the rules that nearly denied it
    #[arg(long, conflicts_with = "from")]
    pub near: bool,
    /// Where and how.
    #[command(flatten)]
    pub options: AskOptions,
}

impl ExplainArgs {
    fn which(&self) -> Which {
        // clap lets nothing else through.
        self.id.map_or(Which::LastRefused, Which::Id)
    }
}

/// Why a question could not be put or its answer not be shown.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The question needs a file that cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateFileError),
    /// The answer could not be written.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
    /// The answer could not be made into JSON.
    #[error("cannot write the answer as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Ask {
    fn options(&self) -> &AskOptions {
        match self {
            Self::Status(options)
            | Self::Workloads(options)
            | Self::Verify(options)
            | Self::Confirm(options)
            | Self::List(options)
            | Self::Reload(options) => options,
            Self::Connections { options, .. } => options,
            Self::Explain(arguments) => &arguments.options,
            Self::Diagnose(arguments) => &arguments.options,
            Self::Enroll(arguments) => &arguments.options,
            Self::Unenroll(arguments) => &arguments.options,
            Self::WaitEnrolled(arguments) => &arguments.options,
            Self::Revoke(arguments) => &arguments.options,
            Self::Unrevoke(arguments) => &arguments.options,
            Self::Drill(DrillCommand::Revoke(options)) => options,
            Self::Rollout(RolloutCommand::Status(arguments)) => &arguments.options,
        }
    }

    /// Asks the daemon and writes its answer; the exit code says whether what was asked holds: `status` that
    /// the daemon is ready, `verify` that every check holds, `drill` that every step does, `rollout status` that every port is strict or may become so, `reload` that the configuration is in force, `explain --from --to`
    /// that the connection would be allowed, `diagnose` that it works, `wait-enrolled` that it is enrolled, and the others that there is an answer.
    ///
    /// # Errors
    /// When there is no answer; the exit code is then [`EXIT_DOES_NOT_HOLD`].
    pub async fn run(&self, out: &mut impl Write) -> Result<u8, AskError> {
        let options = self.options();
        let client = AdminClient::new(&options.socket);
        let json = options.output.json;
        let holds = match self {
            Self::Status(_) => {
                let status = client.status().await?;
                show(out, json, &status, render::status)?;
                status.ready()
            }
            Self::Connections { workload, limit, .. } => {
                let records = client.connections(workload.as_deref(), *limit).await?;
                show(out, json, &records, |records| render::connections(records))?;
                true
            }
            Self::Workloads(_) => {
                show(out, json, &client.workloads().await?, |workloads| render::workloads(workloads))?;
                true
            }
            Self::Explain(ExplainArgs { from: Some(from), to: Some(to), .. }) => {
                let report = client.path(from, to).await?;
                show(out, json, &report, render::path)?;
                report.allowed()
            }
            Self::Explain(arguments) => {
                let explanation = client.explain(&arguments.which(), arguments.near).await?;
                show(out, json, &explanation, render::explanation)?;
                true
            }
            Self::Diagnose(arguments) => {
                let report = client.diagnose(&arguments.request()).await?;
                show(out, json, &report, diagnose::report)?;
                report.holds()
            }
            Self::Verify(_) => {
                let report = client.verify().await?;
                show(out, json, &report, render::verify)?;
                report.holds()
            }
            Self::Reload(_) => {
                let report = client.reload().await?;
                show(out, json, &report, render::reload)?;
                report.applied
            }
            Self::Enroll(arguments) => {
                let ssh = std::env::var("SSH_CONNECTION").ok();
                show(out, json, &client.enroll(&arguments.request(ssh.as_deref())).await?, enroll::enrolled)?;
                true
            }
            Self::Unenroll(arguments) => {
                show(out, json, &client.unenroll(&arguments.request()).await?, enroll::unenrolled)?;
                true
            }
            Self::Confirm(_) => {
                show(out, json, &client.confirm().await?, enroll::confirmed)?;
                true
            }
            Self::WaitEnrolled(arguments) => {
                let waited = arguments.wait(&client).await?;
                show(out, json, &waited, enroll::waited)?;
                waited.holds()
            }
            Self::List(_) => {
                show(out, json, &client.enrolled().await?, |all| enroll::list(all))?;
                true
            }
            Self::Revoke(arguments) => {
                match arguments.request()? {
                    Some(request) => show(out, json, &client.revoke(&request).await?, revoke::revoked)?,
                    None => show(out, json, &client.revocations().await?, |list| revoke::entries(list))?,
                }
                true
            }
            Self::Drill(DrillCommand::Revoke(_)) => {
                let report = client.drill_revoke().await?;
                show(out, json, &report, drill::report)?;
                report.holds()
            }
            Self::Rollout(RolloutCommand::Status(RolloutArgs { workload, since, .. })) => {
                let report = client.rollout(workload.as_deref(), *since).await?;
                show(out, json, &report, rollout::report)?;
                report.holds()
            }
            Self::Unrevoke(arguments) => match arguments.request()? {
                Some(request) => {
                    show(out, json, &client.unrevoke(&request).await?, revoke::unrevoked)?;
                    true
                }
                None => false,
            },
        };
        Ok(if holds { EXIT_HOLDS } else { EXIT_DOES_NOT_HOLD })
    }
}

fn show<T: Serialize>(
    out: &mut impl Write,
    json: bool,
    answer: &T,
    render: impl Fn(&T) -> String,
) -> Result<(), AskError> {
    let text = if json { serde_json::to_string_pretty(answer)? + "\n" } else { render(answer) };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `mtlsd connections | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::{CommandFactory, error::ErrorKind};

    use super::super::admin::tests::serve;
    use super::*;

    fn parse(arguments: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(arguments.split_whitespace()).map(|cli| cli.command)
    }

    async fn ask(arguments: &str, socket: &Path) -> (Result<u8, AskError>, String) {
        let Ok(Command::Ask(ask)) = parse(&format!("mtlsd {arguments} --socket {}", socket.display())) else {
            panic!("{arguments} is not a question")
        };
        let mut out = Vec::new();
        let code = ask.run(&mut out).await;
        (code, String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_daemon_parses() {
        for line in [
            "mtlsd run --config /x.yaml",
            "mtlsd run",
            "mtlsd status --json --socket /x",
            "mtlsd connections --workload web --limit 5",
            "mtlsd workloads",
            "mtlsd explain 00000000000000ab",
            "mtlsd explain --from web --to 10.0.0.1:80 --json",
            "mtlsd explain --last-refused",
            "mtlsd explain 00000000000000ab --near",
            "mtlsd diagnose db:5432 --as web --json",
            "mtlsd diagnose 10.0.0.1:80 --expect spiffe://a/b --timeout 100",
            "mtlsd verify",
            "mtlsd reload",
            "mtlsd drill revoke --json",
            "mtlsd enroll unit:nginx.service",
            "mtlsd enroll unit:a@1.service --name a --mode strict --listen-ports 80,443 --confirm-within 2m --dry-run --json",
            "mtlsd enroll unit:a.slice --confirm-within off",
            "mtlsd unenroll nginx",
            "mtlsd confirm --json",
            "mtlsd list --json",
            "mtlsd wait-enrolled nginx --timeout 5s",
            "mtlsd completions bash",
            "mtlsd man /x",
            "mtlsd rollout status",
            "mtlsd rollout status --workload db --since 7d --json",
            "mtlsd policy replay --since 24h --with /x.yaml --socket /s --json",
            "mtlsd config check --config /x.yaml --json",
            "mtlsd config schema",
            "mtlsd ca init --trust-domain example.org",
            "mtlsd ca issue --spiffe-id spiffe://example.org/a --dns a --dns b --lifetime 30m --out /x",
            "mtlsd ca init --trust-domain example.org --offline-root /mnt/usb --directory /x",
            "mtlsd ca issue --spiffe-id spiffe://a/b --out /x --organization Shop --organizational-unit Web --common-name b",
            "mtlsd ca init --trust-domain a --pkcs11-module /m --token t --pin-file /p --label l",
            "mtlsd ca csr --trust-domain a --out /x.csr --pkcs11-module /m --token t --pin-file /p --label l",
            "mtlsd ca csr --renew",
            "mtlsd ca csr --key-in-file --json",
            "mtlsd ca import /x.pem --root /root.pem --directory /x --json",
            "mtlsd ca rotate --begin --pkcs11-module /m --token t --pin-file /p --label l",
            "mtlsd ca rotate --begin --key-in-file",
            "mtlsd ca renew-intermediate --root /mnt/usb --json",
            "mtlsd ca list --all --json",
            "mtlsd ca revoke --serial 0a:1b --reason keyCompromise",
            "mtlsd ca revoke --spiffe-id spiffe://a/b",
            "mtlsd ca crl --out /x.pem --root /mnt/usb --lifetime 7d",
            "mtlsd ca rotate --begin --offline-root /mnt/usb",
            "mtlsd ca rotate --switch",
            "mtlsd ca rotate --finish --force --json",
            "mtlsd uninstall --config /x.yaml",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
        let Ok(Command::Ask(Ask::Status(options))) = parse("mtlsd status") else { panic!("not status") };
        assert_eq!(options.socket, Path::new("/run/mtlsd/admin.sock"));
    }

    #[test]
    fn wrong_usage_is_refused_with_the_usage_code() {
        for line in [
            "mtlsd",
            "mtlsd frobnicate",
            "mtlsd explain",
            "mtlsd explain xyz",
            "mtlsd explain --from web",
            "mtlsd explain --to web",
            "mtlsd explain --from web --to db:1 --near",
            "mtlsd explain 00000000000000ab --last-refused",
            "mtlsd explain 00000000000000ab --from a --to b",
            "mtlsd explain --last-refused --from a --to b",
            "mtlsd connections --limit -1",
            "mtlsd diagnose",
            "mtlsd enroll",
            "mtlsd enroll nginx.service",
            "mtlsd enroll unit:nginx",
            "mtlsd enroll unit:a.service --mode disabled",
            "mtlsd enroll unit:a.service --listen-ports 70000",
            "mtlsd enroll unit:a.service --confirm-within soon",
            "mtlsd unenroll",
            "mtlsd completions cmd.exe",
            "mtlsd diagnose db:1 --as",
            "mtlsd diagnose db:1 --expect http://x",
            "mtlsd diagnose db:1 --timeout 99",
            "mtlsd diagnose db:1 --timeout 12001",
            "mtlsd rollout",
            "mtlsd rollout status --since soon",
            "mtlsd policy replay",
            "mtlsd ca init",
            "mtlsd ca init --trust-domain a --pkcs11-module /m --token t",
            "mtlsd ca init --trust-domain a --label l",
            "mtlsd ca init --trust-domain a --pkcs11-module m.so --token t --pin-file /p --label l",
            "mtlsd ca csr --renew --trust-domain a",
            "mtlsd ca csr --renew --key-in-file",
            "mtlsd ca rotate --begin --key-in-file --pkcs11-module /m --token t --pin-file /p --label l",
            "mtlsd ca import",
            "mtlsd ca rotate --switch --key-in-file",
            "mtlsd ca init --trust-domain Example",
            "mtlsd ca issue --spiffe-id http://x --out /x",
            "mtlsd ca issue --spiffe-id spiffe://a/b --out /x --lifetime 1y",
            "mtlsd ca issue --spiffe-id spiffe://a/b --out /x --organization=",
            "mtlsd ca revoke",
            "mtlsd ca revoke --serial 0a --spiffe-id spiffe://a/b",
            "mtlsd ca revoke --serial xyz",
            "mtlsd ca revoke --serial 0a --reason bored",
            "mtlsd ca rotate",
            "mtlsd ca rotate --begin --switch",
            "mtlsd ca rotate --switch --force",
            "mtlsd ca rotate --finish --offline-root /x",
        ] {
            let error = parse(line).unwrap_err();
            let code = u8::try_from(error.exit_code()).unwrap();
            assert_eq!(code, EXIT_USAGE, "{line}: {error}");
            assert_ne!(error.kind(), ErrorKind::DisplayHelp);
        }
    }

    #[tokio::test]
    async fn what_holds_exits_with_0_and_what_does_not_with_1() {
        let (good, bad) = (serve(true), serve(false));
        for (line, good_code, bad_code) in [
            ("status", 0, 1),
            ("connections", 0, 0),
            ("workloads", 0, 0),
            ("explain --last-refused", 0, 0),
            ("explain --from web --to 10.1.0.7:5432", 0, 1),
            ("diagnose db:5432 --as web", 0, 1),
            ("verify", 0, 1),
            ("reload", 0, 1),
            ("drill revoke", 0, 1),
            ("list", 0, 0),
            ("wait-enrolled db --timeout 1s", 0, 1),
            ("rollout status", 0, 1),
        ] {
            assert_eq!(ask(line, &good.path).await.0.unwrap(), good_code, "{line}");
            assert_eq!(ask(line, &bad.path).await.0.unwrap(), bad_code, "{line}");
        }
    }

    #[tokio::test]
    async fn each_answer_comes_as_text_and_as_json() {
        let served = serve(true);
        for (line, text, pointer) in [
            ("status", "Ready.", "/connections/live"),
            ("connections --workload db", "policy_denied", "/0/id"),
            ("workloads", "enrolled", "/0/spiffe_id"),
            ("explain 0000000000000001", "Nothing needs mending.", "/sentences/0"),
            ("explain --from web --to 10.1.0.7:5432", "Nothing needs mending.", "/answer"),
            ("diagnose db:5432 --as web", "works, with mutual TLS.", "/steps/0/question"),
            ("verify", "All 1 checks hold.", "/checks/0/ok"),
            ("reload", "generation 2", "/applied"),
            ("drill revoke", "Revocation works on this node.", "/steps/0/took_us"),
            ("enroll unit:nginx.service --dry-run", "Would enrol nginx", "/spiffe_id"),
            ("unenroll nginx", "nginx is no workload any more", "/name"),
            ("confirm", "nginx stays as it is", "/name"),
            ("list", "unit nginx.service", "/0/undone_in"),
            ("wait-enrolled db", "db is enrolled", "/state"),
            ("rollout status --workload db", "1 of 1 permissive ports", "/ports/0/peers/0/channel"),
        ] {
            let (_, human) = ask(line, &served.path).await;
            assert!(human.contains(text), "{line}: {human}");
            let (_, json) = ask(&format!("{line} --json"), &served.path).await;
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert!(value.pointer(pointer).is_some(), "{line}: {json}");
        }
    }

    #[tokio::test]
    async fn without_a_daemon_or_a_match_there_is_an_error_with_a_mend() {
        let (none, _) = ask("status", Path::new("/nonexistent/admin.sock")).await;
        assert!(none.unwrap_err().to_string().contains("mtlsd run"));
        let served = serve(true);
        let (unknown, out) = ask("explain 00000000000000ff", &served.path).await;
        assert!(unknown.unwrap_err().to_string().contains("mtlsd connections"));
        assert!(out.is_empty());
        let unhealthy = serve(false);
        for (line, why, mend) in [
            ("enroll unit:nginx.service", "taken already", "nothing was changed"),
            ("unenroll apache", "was not enrolled", "mtlsd list"),
            ("confirm", "nothing waits", "mtlsd list"),
        ] {
            let error = ask(line, &unhealthy.path).await.0.unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(mend), "{line}: {error}");
        }
    }

    #[tokio::test]
    async fn a_closed_pipe_is_not_an_error_but_a_full_disk_is() {
        struct Failing(io::ErrorKind);
        impl Write for Failing {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let served = serve(true);
        let line = format!("mtlsd workloads --socket {}", served.path.display());
        let Ok(Command::Ask(ask)) = parse(&line) else { panic!("not a question") };
        assert_eq!(ask.run(&mut Failing(io::ErrorKind::BrokenPipe)).await.unwrap(), EXIT_HOLDS);
        let full = ask.run(&mut Failing(io::ErrorKind::StorageFull)).await;
        assert!(matches!(full, Err(AskError::Output(_))));
    }
}
