//! Running a command while reading every line it prints, and not waiting for ever.

use std::io::{BufRead, BufReader, PipeReader};
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::run::Cmd;

/// How a streamed command ended.
#[derive(Debug)]
pub enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// It printed nothing for this long and was killed with all its descendants.
    Silent(Duration),
}

/// Runs `cmd`, standard output and error in one stream so that their order is kept, and hands over every line.
pub fn run(cmd: Cmd, patience: Duration, mut on_line: impl FnMut(&str)) -> Result<Ended> {
    let line = cmd.line();
    let (reader, writer) = std::io::pipe().context("a pipe cannot be made")?;
    let mut command = cmd.into_inner();
    let errors = writer.try_clone().context("a pipe cannot be made")?;
    let mut child =
        command.stdout(writer).stderr(errors).spawn().with_context(|| format!("`{line}` cannot start"))?;
    // The command holds the pipe's writing end too: with it alive the reader would never see the end.
    drop(command);
    let lines = read_lines(reader);
    let mut last = Instant::now();
    loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                on_line(&line);
                last = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Ok(Ended::Exited(
                    child.wait().with_context(|| format!("`{line}` cannot be waited for"))?,
                ));
            }
            Err(RecvTimeoutError::Timeout) => {
                // A process left behind by a test may hold the pipe open after cargo has gone.
                if let Some(status) =
                    child.try_wait().with_context(|| format!("`{line}` cannot be waited for"))?
                {
                    return Ok(Ended::Exited(status));
                }
                if last.elapsed() >= patience {
                    kill_tree(&mut child)?;
                    return Ok(Ended::Silent(patience));
                }
            }
        }
    }
}

fn read_lines(reader: PipeReader) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut bytes = Vec::new();
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
            let text = String::from_utf8_lossy(&bytes);
            if sender.send(text.trim_end_matches(['\n', '\r']).to_owned()).is_err() {
                break;
            }
            bytes.clear();
        }
    });
    receiver
}

/// Kills the child and its descendants, by number.
fn kill_tree(child: &mut Child) -> Result<()> {
    let mut pids = vec![child.id()];
    let parents = parents();
    let mut next = 0;
    while let Some(&parent) = pids.get(next) {
        pids.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    let numbers = pids.iter().map(u32::to_string);
    // One of them may be gone already: `kill` then complains, and the others are dead all the same.
    let _ = Cmd::new("sh").args(["-c", "kill -KILL \"$@\" 2>/dev/null", "sh"]).args(numbers).status()?;
    child.wait().context("a killed command cannot be waited for")?;
    Ok(())
}

/// (process, its parent) for everything in /proc.
fn parents() -> Vec<(u32, u32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The second field is the name in parentheses and may hold anything: read behind the last one.
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Cmd {
        Cmd::new("sh").args(["-c", script])
    }

    #[test]
    fn lines_of_both_outputs_keep_their_order() {
        let mut lines = Vec::new();
        let ended = run(shell("echo a; echo b >&2; printf 'c'; exit 3"), Duration::from_secs(60), |line| {
            lines.push(line.to_owned());
        });
        assert!(matches!(ended.unwrap(), Ended::Exited(status) if status.code() == Some(3)));
        assert_eq!(lines, ["a", "b", "c"]);
    }

    #[test]
    fn a_silent_command_is_killed_with_its_children() {
        let mut lines = Vec::new();
        let ended = run(shell("sleep 600 & echo $!; wait"), Duration::from_secs(1), |line| {
            lines.push(line.to_owned())
        });
        assert!(matches!(ended.unwrap(), Ended::Silent(_)));
        let child = format!("/proc/{}/stat", lines.first().unwrap());
        // The kernel takes a moment to end a killed process, and its new parent one to collect it.
        let gone = || std::fs::read_to_string(&child).map_or(true, |stat| stat.contains(") Z "));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !gone() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(gone());
    }

    #[test]
    fn a_process_left_behind_does_not_hold_the_run() {
        let started = Instant::now();
        let ended = run(shell("sleep 20 & echo started"), Duration::from_secs(60), |_| {});
        assert!(matches!(ended.unwrap(), Ended::Exited(status) if status.success()));
        assert!(started.elapsed() < Duration::from_secs(15));
    }
}
