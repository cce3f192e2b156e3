//! The client and its copies against a double of the API (the package `mtls-kube-double`).

mod gaps;
mod requests;
mod shrink;
mod size;
mod state;
pub(crate) mod world;
