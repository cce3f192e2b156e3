//! The decisions of the `direct` datapath, without IO.
//!
//! Two daemons arm one TCP connection between two applications: [`Client`] beside the application that called
//! connect(), [`Server`] beside the one that listens. Each takes one [`Input`] at a time and says which
//! [`Action`]s to carry out, in that order. Both are total: no input in any state panics; what does not belong is
//! ignored with a [`Stated reason`](Ignored) or ends the connection. `docs/design/direct-machine.md` has the tables.
//!
//! `tests/explore.rs` runs both machines through every interleaving with kernels, applications and an attacker.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod address;
mod by_name;
mod client;
mod half;
mod io;
mod message;
mod reason;
mod recover;
mod room;
mod server;
mod table;
#[cfg(test)]
mod tests;

pub use address::Address;
pub use by_name::{ByName, Named};
pub use client::{Client, ClientState};
pub use half::{Half, Session};
pub use io::{Action, By, Ignored, Input, Outcome, Step, Timer};
pub use message::{Body, ConnectionId, Counts, FourTuple, Message, Nonce};
pub use reason::Reason;
pub use recover::{Mark, Recovery, recover, stray};
pub use room::{LARGEST_RECORD, unsent_limit};
pub use server::{Server, ServerState};
pub use table::{About, Command, Decision, Key, Limits, Owner, Role, Socket, Table};
