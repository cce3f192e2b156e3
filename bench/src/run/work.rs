//! What the processes in between do for one request: the kernel counts their system calls and context switches.

use std::time::Instant;

use anyhow::{Result, bail};
use mtls_tests::Process;

use super::measure::{generator, patience};
use crate::load::READY;
use crate::machine;
use crate::result::Work;
use crate::syscalls::Syscalls;
use crate::systems::{Kind, Running, server};

/// Requests that are counted, one after the other on one connection.
const REQUESTS: u32 = 2_000;

/// Of every system that has processes; what could not be counted is said on standard error.
pub fn run(running: &[Running]) -> Vec<Work> {
    let counted =
        running.iter().filter(|system| system.kind != Kind::Plain).filter_map(|system| {
            match system.checked(|| work(system)) {
                Ok(work) => {
                    eprintln!("work of {}: {work}", system.kind);
                    Some(work)
                }
                Err(error) => {
                    eprintln!("work of {}: {error:#}", system.kind);
                    None
                }
            }
        });
    counted.collect()
}

fn work(system: &Running) -> Result<Work> {
    let processes = system.processes()?;
    let syscalls =
        Syscalls::count().inspect_err(|error| eprintln!("system calls are not counted: {error:#}")).ok();
    let now = || -> Result<(Option<u64>, u64)> {
        let switches = processes.iter().map(|&process| machine::switches(process)).sum::<Result<u64>>()?;
        Ok((syscalls.as_ref().map(|syscalls| syscalls.of(&processes)).transpose()?, switches))
    };
    let mut client = client(system)?;
    // Whatever opening the connection has started is over when the same time was spent without a request.
    let (calls, switches, took) = between(now, || {
        client.write(b"\n");
        client.wait_long_for("done", patience());
        Ok(())
    })?;
    let (resting_calls, resting_switches, _) = between(now, || {
        std::thread::sleep(took);
        Ok(())
    })?;
    client.close_stdin();
    if client.ends_within(patience()).is_none() {
        bail!("the load generator did not end");
    }
    Ok(Work {
        system: system.kind.name().into(),
        requests: REQUESTS,
        syscalls: calls,
        switches,
        resting_syscalls: resting_calls,
        resting_switches,
    })
}

/// One that has its connection and waits for a word.
fn client(system: &Running) -> Result<Process> {
    let command = generator(system)?.args(["counted", &system.address().to_string(), &server::path(64)?]);
    let mut client = command.args(["--requests", &REQUESTS.to_string()]).piped().spawn().quiet();
    client.wait_long_for(READY, patience());
    std::thread::sleep(super::measure::SETTLE);
    Ok(client)
}

/// What was counted meanwhile, and how long it took.
fn between(
    now: impl Fn() -> Result<(Option<u64>, u64)>,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<(Option<u64>, u64, std::time::Duration)> {
    let (before, began) = (now()?, Instant::now());
    meanwhile()?;
    let took = began.elapsed();
    let after = now()?;
    let calls = after.0.zip(before.0).map(|(after, before)| after.saturating_sub(before));
    Ok((calls, after.1.saturating_sub(before.1), took))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_was_counted_before_does_not_count() {
        let count = Cell::new(5);
        let now = || Ok((Some(count.get()), 10 * count.get()));
        let (calls, switches, _) = between(now, || {
            count.set(7);
            Ok(())
        })
        .unwrap();
        assert_eq!((calls, switches), (Some(2), 20));
    }
}
