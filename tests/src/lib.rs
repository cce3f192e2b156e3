//! The lab: mtlsd against real programs in network namespaces. See `lab::Lab` for how a test is written.

pub mod booted;
pub mod bytes;
pub mod certs;
pub mod container;
pub mod copy;
pub mod demo;
pub mod direct;
pub mod direct_watch;
pub mod documented;
pub mod flow;
pub mod flows;
pub mod foreign;
pub mod hold;
pub mod hosts;
pub mod kube;
pub mod lab;
pub mod manifests;
pub mod manners;
pub mod middle;
mod not_run;
pub mod peer;
pub mod pods;
pub mod programs;
pub mod rogue;
pub mod scenario;
pub mod slow;
pub mod stress;
pub mod volume;
pub mod wire;

pub use lab::{Cmd, Daemon, Lab, Output, Pod, Process, Record, eventually};
pub use not_run::could_not_run;
pub use scenario::{Pair, STRICT_PAIR};
