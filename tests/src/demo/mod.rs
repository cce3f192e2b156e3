//! The demonstration: unmodified curl and nginx over mutual TLS, three refusals, and a daemon that is killed.
//!
//! Everything shown is said by the programs themselves or was captured on the wire, and every claim is checked: the
//! exit code is 0 only if all of them hold. 1: one does not; 2: the command line is wrong; 130: interrupted.

mod identities;
mod judge;
mod records;
mod refusals;
mod screen;
mod signals;
mod steps;
mod world;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use screen::{Failure, Screen, Stop};
use signals::Interrupt;
use world::World;

const USAGE: &str = "\
Shows mtlsd at work: curl and nginx over mutual TLS that neither knows about.
Usage: demo [--fast]
  --fast  do not pause between the steps
Exit codes: 0 everything shown holds, 1 something does not, 2 wrong usage, 130 interrupted.
MTLSD_BIN names the mtlsd to show; otherwise it is the one beside this program.
";

/// What to read after the demonstration, if it is there.
const READ_NEXT: [(&str, &str); 5] = [
    ("README.md", "what mtlsd is, and how to use it"),
    ("docs/demo.md", "this demonstration, step by step"),
    ("ARCHITECTURE.md", "how a connection flows through the code"),
    ("docs/access-log.md", "what is recorded of every connection"),
    ("docs/metrics.md", "what to watch"),
];

/// The whole program.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let fast = match options(args) {
        Ok(Some(fast)) => fast,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(argument) => {
            eprintln!("error: {argument:?} is no option\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("error: this makes network namespaces and loads eBPF programs; run it as root");
        return ExitCode::FAILURE;
    }
    let interrupt = match Interrupt::install() {
        Ok(interrupt) => interrupt,
        Err(error) => {
            eprintln!("error: signals cannot be handled, so nothing could be cleaned up: {error}");
            return ExitCode::FAILURE;
        }
    };
    let began = Instant::now();
    let mut screen = Screen::stdout(fast, interrupt.clone());
    let ending = demonstrate(&mut screen, &interrupt);
    let left = world::leftovers(&interrupt);
    conclude(&mut screen, &ending, &left, began)
}

/// Whether to go fast; `None` if only help is wanted.
fn options(args: impl Iterator<Item = String>) -> Result<Option<bool>, String> {
    let mut fast = false;
    for arg in args {
        match arg.as_str() {
            "--fast" => fast = true,
            "--help" | "-h" => return Ok(None),
            _ => return Err(arg),
        }
    }
    Ok(Some(fast))
}

/// Makes the world, shows everything, and takes the world down again, whatever happens.
fn demonstrate(screen: &mut Screen, interrupt: &Interrupt) -> Result<(), Stop> {
    let panicked = catch_panics();
    crate::lab::silence();
    let mut world = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let world = world.insert(World::new(interrupt));
        steps::all(screen, world)
    }));
    let outcome = outcome.unwrap_or_else(|_| {
        let said = panicked.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        Err(Stop::failed("the demonstration can go on", "programs that start, answer and end", said))
    });
    let outcome = match outcome {
        Err(Stop::Failed(_)) if interrupt.happened_just_now() => Err(Stop::Interrupted),
        other => other,
    };
    // Nobody may be left to read this: cleaning up goes on.
    let _ = match &outcome {
        Ok(()) => Ok(()),
        Err(Stop::Closed(_)) => Ok(()),
        Err(Stop::Interrupted) => screen.last("\n  Interrupted. Cleaning up ...\n"),
        Err(Stop::Failed(failure)) => {
            let words = world.as_ref().map(World::last_words).unwrap_or_default();
            screen.failure(failure).and_then(|()| screen.last(&words))
        }
    };
    drop(world);
    outcome
}

/// The lab panics when a program does not do what it should; here that is a failed step, shown like any other.
fn catch_panics() -> Arc<Mutex<Option<String>>> {
    let said = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&said);
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or("a panic without words");
        let place = info.location().map(|at| format!("\n({}:{})", at.file(), at.line())).unwrap_or_default();
        *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(format!("{text}{place}"));
    }));
    said
}

fn conclude(
    screen: &mut Screen,
    ending: &Result<(), Stop>,
    left: &[std::path::PathBuf],
    began: Instant,
) -> ExitCode {
    let seconds = began.elapsed().as_secs_f64();
    let (steps, checks) = (screen.steps(), screen.checks());
    let mut text = String::new();
    let mut code = match ending {
        Ok(()) => {
            let title = screen.bold(&format!("{steps} steps shown, all {checks} checks hold"));
            text.push_str(&format!("\n{title} ({seconds:.1} s)\n"));
            0
        }
        Err(Stop::Interrupted) => 130,
        Err(Stop::Failed(_)) => {
            let title = screen.bold(&format!("Step {steps} of {} does not hold", steps::COUNT));
            text.push_str(&format!("\n{title} ({checks} checks held before; {seconds:.1} s)\n"));
            1
        }
        // A closed pipe is how `| head` ends, but what was not shown does not hold.
        Err(Stop::Closed(error)) => {
            let _ = writeln!(std::io::stderr(), "error: the output cannot be written: {error}");
            1
        }
    };
    if left.is_empty() {
        text.push_str("  Cleaned up: no namespace, cgroup, eBPF program or file of this run is left.\n");
    } else {
        let list: Vec<_> = left.iter().map(|path| format!("    {}\n", path.display())).collect();
        let failure = Failure {
            claim: "everything is cleaned up".into(),
            expected: "nothing left of this run".into(),
            seen: list.concat(),
        };
        let _ = screen.failure(&failure);
        text.push_str("  The next run tries again to remove what is left.\n");
        code = if code == 0 { 1 } else { code };
    }
    if code == 0 {
        text.push_str(&read_next());
    }
    let _ = screen.last(&text);
    ExitCode::from(code)
}

fn read_next() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let there = READ_NEXT.iter().filter(|(file, _)| root.join(file).is_file());
    let lines: Vec<_> = there.map(|(file, what)| format!("    {file:<20} {what}\n")).collect();
    if lines.is_empty() { String::new() } else { format!("  Read next:\n{}", lines.concat()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_options_are_taken() {
        let parse = |args: &[&str]| options(args.iter().map(|a| (*a).to_owned()));
        assert_eq!(parse(&[]), Ok(Some(false)));
        assert_eq!(parse(&["--fast"]), Ok(Some(true)));
        assert_eq!(parse(&["--fast", "--help"]), Ok(None));
        assert_eq!(parse(&["--slow"]), Err("--slow".into()));
    }
}
