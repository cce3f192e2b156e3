//! Micro-benchmarks of the daemon: `cargo bench -p mtls-daemon` for times, `cargo xtask bench --micro` for instructions.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod directory;
mod events;
mod flows;
mod handshake;
mod observe;
mod policy;
mod suite;
mod verify;
mod world;

use std::process::ExitCode;

use suite::Suite;

fn main() -> ExitCode {
    let mut suite = Suite::from_args();
    handshake::add(&mut suite);
    verify::add(&mut suite);
    policy::add(&mut suite);
    directory::add(&mut suite);
    events::add(&mut suite);
    observe::add(&mut suite);
    flows::add(&mut suite);
    suite.finish()
}
