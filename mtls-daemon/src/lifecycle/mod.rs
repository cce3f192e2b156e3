//! The daemon's life: start, reload, namespaces that come and go, stop, removal.

mod alarms;
mod arrivals;
pub mod build;
mod cluster;
pub mod commands;
mod crls;
pub mod daemon;
mod diagnose;
mod direct;
pub mod drill;
mod enclosures;
mod enroll;
mod error;
mod flows;
mod inhabited;
mod leases;
pub mod lock;
pub mod logging;
mod ocsp;
mod offload;
mod ports;
mod probers;
pub mod reconcile;
pub mod registry;
mod revoke;
pub mod secrets;
pub mod serve;
mod supervisor;
pub mod tables;
pub mod verify;
pub mod view;
pub mod watch;

pub use daemon::run;
pub use error::DaemonError;
