//! Whoever schedules badly: it stops programs, pins their threads, makes them idle, and sends them signals, at random.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::background::Background;
use crate::bytes::Random;

/// Whom it torments.
#[derive(Debug, Clone)]
pub struct Victims {
    /// Programs that have a handler for SIGUSR1.
    pub applications: Vec<u32>,
    /// Programs that have not.
    pub daemons: Vec<u32>,
}

/// What it did.
#[derive(Debug, Default)]
pub struct Deeds {
    /// SIGSTOP and SIGCONT.
    pub stops: usize,
    /// Signals that a handler took, or that nobody hears.
    pub signals: usize,
    /// Threads that got one processor.
    pub pins: usize,
    /// Threads that became SCHED_IDLE, or usual again.
    pub idles: usize,
}

/// It begins. Once it is ended nobody is stopped any more.
pub fn begin(victims: Victims, seed: u64) -> Background<Deeds> {
    Background::start([move |over: &AtomicBool| {
        let (mut random, mut deeds) = (Random(seed), Deeds::default());
        while !over.load(Ordering::Relaxed) {
            act(&victims, &mut random, &mut deeds);
            // At once, or after a while: neither is to be relied on.
            sleep(Duration::from_micros(random.next() % 15_000));
        }
        deeds
    }])
}

fn one<T: Copy>(of: &[T], random: &mut Random) -> Option<T> {
    let length = u64::try_from(of.len()).ok()?;
    of.get(usize::try_from(random.next().checked_rem(length)?).ok()?).copied()
}

fn act(victims: &Victims, random: &mut Random, deeds: &mut Deeds) {
    let everybody: Vec<u32> = victims.applications.iter().chain(&victims.daemons).copied().collect();
    match random.next() % 16 {
        0..=5 => {
            let Some(pid) = one(&everybody, random) else { return };
            deeds.stops += 1;
            stop(&[pid], random);
        }
        // Both daemons and an application, or another two.
        6 => {
            let several: Vec<_> = (0..3).filter_map(|_| one(&everybody, random)).collect();
            deeds.stops += 1;
            stop(&several, random);
        }
        7..=10 => {
            for _ in 0..=random.next() % 4 {
                if let Some(pid) = one(&victims.applications, random) {
                    deeds.signals += 1;
                    send(pid, Signal::SIGUSR1);
                }
            }
        }
        11 => {
            let signal = one(&[Signal::SIGURG, Signal::SIGWINCH], random);
            if let (Some(pid), Some(signal)) = (one(&everybody, random), signal) {
                deeds.signals += 1;
                send(pid, signal);
            }
        }
        12..=14 => {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            if let Some(thread) = one(&everybody, random).and_then(|pid| one(&threads(pid), random)) {
                let cpu = usize::try_from(random.next()).unwrap_or_default() % cpus;
                let mut set = CpuSet::new();
                // A thread may have ended meanwhile.
                if set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(thread), &set)).is_ok() {
                    deeds.pins += 1;
                }
            }
        }
        _ => {
            if let Some(thread) =
                one(&victims.applications, random).and_then(|pid| one(&threads(pid), random))
            {
                let policy = if random.once_in(3) { "--other" } else { "--idle" };
                let mut chrt = Command::new("chrt");
                chrt.args([policy, "-p", "0", &thread.to_string()]);
                if chrt_ends(&mut chrt) {
                    deeds.idles += 1;
                }
            }
        }
    }
}

fn chrt_ends(chrt: &mut Command) -> bool {
    let status = chrt.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.expect("chrt (util-linux) is installed").success()
}

fn stop(pids: &[u32], random: &mut Random) {
    pids.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
    // Now and then longer than an early release (20 ms) takes.
    let most = if random.once_in(6) { 120_000 } else { 8_000 };
    sleep(Duration::from_micros(random.next() % most));
    pids.iter().for_each(|pid| send(*pid, Signal::SIGCONT));
}

/// It may have ended meanwhile.
pub(super) fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
}

fn threads(pid: u32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
