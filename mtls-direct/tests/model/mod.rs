//! Two kernels, two applications, a wire, an attacker and a session around both machines.
//!
//! What is left out keeps the number of states small and hides nothing (docs/design/direct-machine.md says why): a call
//! through TLS is one step, threads of one application are interchangeable, a lost segment is one not delivered yet.
mod actions;
mod kernel;
mod props;
mod world;

pub use props::{ANSWERS, END, LEAK, LEAVES, LEFT, LIVES, PREFIX, REACHED, READ, STUCK};
pub use world::{Direct, Flaw};
