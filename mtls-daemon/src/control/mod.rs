//! How people and their tools talk to the daemon: the admin socket, the command line, metrics over HTTP.

pub mod admin;
pub mod ca_cli;
pub mod cli;
pub mod client;
pub mod diagnose;
#[cfg(test)]
mod documented;
pub mod drill;
pub mod enroll;
pub mod http;
pub mod render;
pub mod replay;
pub mod revoke;
pub mod rollout;
pub mod socket;
pub mod token_args;
pub mod view;

pub use admin::serve_admin;
pub use cli::{Cli, Command};
pub use http::{HttpServer, Readiness};
pub use socket::AdminSocket;
pub use view::{DaemonView, ReloadReport, Status, VerifyReport, WorkloadStatus};
