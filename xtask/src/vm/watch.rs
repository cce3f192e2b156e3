//! Running a guest to its verdict, and telling what happened when none comes.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::run::Cmd;

/// How a guest ended without a verdict, and its last words.
#[derive(Debug, thiserror::Error)]
#[error("{what}\nthe last lines of its console:\n{tail}")]
pub struct Lost {
    what: String,
    tail: String,
}

/// Time limits.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the kernel to boot and the command to start.
    pub boot: Duration,
    /// For everything.
    pub total: Duration,
    /// For QEMU to end after the verdict.
    pub grace: Duration,
}

/// What the guest said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The command was started.
    pub ready: bool,
    /// The command's exit code.
    pub verdict: Option<u8>,
    /// What could not be set up.
    pub problems: Vec<String>,
}

/// Reads what the control port wrote. An unfinished line is not read yet.
pub fn said(text: &str) -> Said {
    let mut said = Said::default();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        match line.split_once(' ') {
            None if line == "ready" => said.ready = true,
            Some(("verdict", code)) => said.verdict = code.parse().ok(),
            Some(("problem", what)) => said.problems.push(what.to_owned()),
            _ => said.problems.push(format!("the control port said `{line}`")),
        }
    }
    said
}

/// What came of a guest.
#[derive(Debug)]
pub struct Done {
    /// The command's exit code.
    pub code: u8,
    /// From QEMU's start to the command's.
    pub boot: Duration,
}

/// A guest that is killed when this value goes.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It has ended, mostly; a guest that cannot be killed cannot be helped either.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs QEMU in `dir` (where it writes `console.log` and `control`); what the command prints goes to `out` and `err`.
pub fn run(
    cmd: Cmd,
    dir: &Path,
    limits: Limits,
    out: impl Write + Send + 'static,
    err: impl Write + Send + 'static,
) -> Result<Done> {
    let started = Instant::now();
    let line = cmd.line();
    let mut command = cmd.into_inner();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("`{line}` cannot start"))?;
    let mut guest = Guest(child);
    let copies = [
        guest.0.stdout.take().map(|from| copy(from, out)),
        guest.0.stderr.take().map(|from| copy(from, err)),
    ];
    let ended = watch(&mut guest, dir, limits, started)?;
    drop(guest);
    for copy in copies.into_iter().flatten() {
        // A reader that went away (`| head`) is no failure of the guest.
        let _ = copy.join();
    }
    let (ready_after, ended) = ended;
    let said = said(&read(&dir.join("control")));
    match said.verdict {
        Some(code) => Ok(Done { code, boot: ready_after.unwrap_or_default() }),
        None => Err(lost(&read(&dir.join("console.log")), ended, ready_after, limits).into()),
    }
}

/// Why the watching ended.
#[derive(Debug, Clone, Copy)]
enum Ended {
    Verdict,
    Exited(ExitStatus),
    NotReady,
    TimedOut,
}

fn watch(
    guest: &mut Guest,
    dir: &Path,
    limits: Limits,
    started: Instant,
) -> Result<(Option<Duration>, Ended)> {
    let mut ready = None;
    let mut verdict: Option<Instant> = None;
    let mut reported = 0;
    loop {
        // Before the control port is read: what it said last counts.
        let status = guest.0.try_wait().context("QEMU cannot be waited for")?;
        let said = said(&read(&dir.join("control")));
        for problem in said.problems.iter().skip(reported) {
            eprintln!("vm: {problem}");
        }
        reported = said.problems.len();
        if said.ready && ready.is_none() {
            ready = Some(started.elapsed());
        }
        if let Some(status) = status {
            return Ok((ready, Ended::Exited(status)));
        }
        if said.verdict.is_some() && verdict.get_or_insert_with(Instant::now).elapsed() > limits.grace {
            return Ok((ready, Ended::Verdict));
        }
        if verdict.is_none() {
            if ready.is_none() && started.elapsed() > limits.boot {
                return Ok((ready, Ended::NotReady));
            }
            if started.elapsed() > limits.total {
                return Ok((ready, Ended::TimedOut));
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn copy(mut from: impl Read + Send + 'static, mut to: impl Write + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        // After a failed write the guest must still be drained, or it would wait for us for ever.
        let mut reader_is_there = true;
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let bytes = buffer.get(..read).unwrap_or_default();
            reader_is_there = reader_is_there && to.write_all(bytes).and_then(|()| to.flush()).is_ok();
        }
    })
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

fn lost(console: &str, ended: Ended, ready: Option<Duration>, limits: Limits) -> Lost {
    const TAIL: usize = 40;
    let during = if ready.is_some() { "while the command ran" } else { "before the command was started" };
    let panic = console.lines().find(|line| line.contains("Kernel panic - not syncing"));
    let what = match (panic, ended) {
        (Some(line), _) => format!("the guest's kernel panicked {during}: {}", line.trim()),
        (None, Ended::Exited(status)) if status.success() => {
            format!("the guest powered off {during} and gave no verdict")
        }
        (None, Ended::Exited(status)) => format!("QEMU failed {during} ({status})"),
        (None, Ended::NotReady) => {
            format!("the guest did not start the command within {} s and was killed", limits.boot.as_secs())
        }
        (None, Ended::TimedOut | Ended::Verdict) => format!(
            "the guest gave no verdict within {} s and was killed; a longer time is `--timeout`",
            limits.total.as_secs()
        ),
    };
    let lines: Vec<_> = console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let tail = lines.iter().skip(lines.len().saturating_sub(TAIL)).map(|line| format!("  | {line}"));
    let tail = tail.collect::<Vec<_>>().join("\n");
    Lost { what, tail: if tail.is_empty() { "  (it printed nothing)".to_owned() } else { tail } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const SOON: Limits = Limits {
        boot: Duration::from_millis(300),
        total: Duration::from_millis(600),
        grace: Duration::from_millis(300),
    };
    const LATE: Limits = Limits {
        boot: Duration::from_secs(30),
        total: Duration::from_secs(30),
        grace: Duration::from_secs(1),
    };

    #[derive(Clone, Default)]
    struct Text(Arc<Mutex<Vec<u8>>>);

    impl Write for Text {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Text {
        fn read(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    /// A stand-in for QEMU, which prints and writes what the script says.
    fn guest(script: &str, limits: Limits) -> (Result<Done>, String, String) {
        let dir = tempfile::tempdir().unwrap();
        let cmd = Cmd::new("sh").args(["-c", script]).dir(dir.path());
        let (out, err) = (Text::default(), Text::default());
        let done = run(cmd, dir.path(), limits, out.clone(), err.clone());
        (done, out.read(), err.read())
    }

    fn lost(script: &str, limits: Limits) -> String {
        format!("{:#}", guest(script, limits).0.unwrap_err())
    }

    #[test]
    fn the_verdict_is_the_commands_code_and_both_outputs_pass_through() {
        let script = "echo ready >>control; echo o; echo e >&2; printf 'verdict 3\\n' >>control";
        let (done, out, err) = guest(script, LATE);
        assert_eq!((done.unwrap().code, out.as_str(), err.as_str()), (3, "o\n", "e\n"));
    }

    #[test]
    fn a_guest_that_stays_after_its_verdict_is_ended() {
        let script = "printf 'ready\\nverdict 0\\n' >control; exec sleep 600";
        let started = Instant::now();
        assert_eq!(guest(script, LATE).0.unwrap().code, 0);
        assert!(started.elapsed() < Duration::from_secs(25));
    }

    #[test]
    fn a_panic_is_reported_with_its_line_and_the_last_lines() {
        let script = "echo ready >control; for i in $(seq 50); do echo line $i; done >console.log; \
                      echo '[ 1.5] Kernel panic - not syncing: Fatal exception' >>console.log";
        let text = lost(script, LATE);
        assert!(
            text.contains("panicked while the command ran: [ 1.5] Kernel panic - not syncing: Fatal"),
            "{text}"
        );
        assert!(text.contains("| line 50\n") && text.contains("| line 12\n"), "{text}");
        assert!(!text.contains("| line 10\n"), "{text}");
    }

    #[test]
    fn a_missing_verdict_is_a_failure() {
        let text = lost("echo mounting >console.log", LATE);
        assert!(text.contains("powered off before the command was started and gave no verdict"), "{text}");
        assert!(text.contains("| mounting"), "{text}");
        let text = lost("printf 'ready\\nverdict 0' >control", LATE);
        assert!(text.contains("powered off while the command ran and gave no verdict"), "{text}");
        assert!(text.contains("(it printed nothing)"), "{text}");
    }

    #[test]
    fn a_qemu_that_fails_is_told_from_a_guest_that_does() {
        let (done, _, err) = guest("echo 'no such device' >&2; exit 1", LATE);
        let text = format!("{:#}", done.unwrap_err());
        assert!(text.contains("QEMU failed before the command was started (exit status: 1)"), "{text}");
        assert_eq!(err, "no such device\n");
    }

    #[test]
    fn a_hang_at_boot_and_one_of_the_command_are_told_apart() {
        let text = lost("echo Booting >console.log; exec sleep 600", SOON);
        assert!(text.contains("did not start the command within 0 s and was killed"), "{text}");
        assert!(text.contains("| Booting"), "{text}");
        let text = lost("echo ready >control; exec sleep 600", SOON);
        assert!(
            text.contains("no verdict within 0 s and was killed; a longer time is `--timeout`"),
            "{text}"
        );
    }

    #[test]
    fn a_program_that_cannot_start_is_named() {
        let cmd = Cmd::new("no-such-qemu-here");
        let error = run(cmd, Path::new("/"), LATE, std::io::sink(), std::io::sink()).unwrap_err();
        assert!(format!("{error:#}").contains("`no-such-qemu-here` cannot start"), "{error:#}");
    }

    #[test]
    fn a_reader_that_goes_away_does_not_stop_the_guest() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let script = "head -c 1000000 /dev/zero; printf 'ready\\nverdict 7\\n' >control";
        let cmd = Cmd::new("sh").args(["-c", script]).dir(dir.path());
        assert_eq!(run(cmd, dir.path(), LATE, Gone, std::io::sink()).unwrap().code, 7);
    }

    #[test]
    fn the_control_port_is_read_line_by_line() {
        assert_eq!(said(""), Said::default());
        assert_eq!(said("read"), Said::default());
        let all = said("problem no bpf\nready\nverdict 255\n");
        assert_eq!(all, Said { ready: true, verdict: Some(255), problems: vec!["no bpf".into()] });
        assert_eq!(said("verdict 256\n").verdict, None);
        assert_eq!(said("hello\n").problems, ["the control port said `hello`"]);
    }
}
