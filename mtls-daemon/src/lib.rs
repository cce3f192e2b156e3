//! mtlsd as a library: one directory per word of the vocabulary (see ARCHITECTURE.md).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod capture;
pub mod cluster;
pub mod config;
pub mod control;
pub mod datapath;
pub mod diagnose;
pub mod directory;
pub mod fetch;
pub mod flows;
pub mod handshake;
pub mod identity;
pub mod kube;
pub mod lease;
pub mod lifecycle;
pub mod observe;
pub mod policy;
mod replace;
pub mod snapshot;
pub mod sys;
#[cfg(test)]
pub(crate) mod testing;
pub mod workload;
