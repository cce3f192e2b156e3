//! Many random connections between applications, and somebody who schedules them badly. Everything follows from one seed.

pub mod adversary;
mod background;
mod duplex;
mod plan;
mod program;
pub mod steps;
pub mod verdict;

pub use plan::{BASE, Plan};
pub use program::run;

/// The seed: `MTLSD_SEED`, or one of the clock's, which the test prints.
///
/// # Panics
/// If it is no number.
pub fn seed() -> u64 {
    let now = || {
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(time.as_micros()).unwrap_or_default()
    };
    number("MTLSD_SEED").unwrap_or_else(now)
}

/// How many connections: `MTLSD_STRESS`, or a few.
///
/// # Panics
/// If it is no number, or more than there are ports for.
pub fn count() -> u16 {
    let count = number("MTLSD_STRESS").unwrap_or(60);
    u16::try_from(count).ok().filter(|count| *count <= 10_000).expect("at most 10000 connections")
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a whole number")))
}
