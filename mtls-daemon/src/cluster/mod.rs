//! What the Kubernetes cluster says, as what the configuration understands: its pods as workloads, whom an address leads to,
//! and its policy objects.
//!
//! [`Cluster`] follows the resources; [`offer()`] turns what is known of them into an [`crate::config::Offer`], without a look at the
//! node or the network.

mod accounts;
mod directory;
mod follow;
mod offer;
mod report;
mod services;
mod standing;

pub use follow::{Cluster, ClusterError, NODE_NAME};
pub use offer::{Earlier, Notes, View, offer};
pub use report::Reports;
pub use services::{Left, MAX_BACKENDS, MAX_ENDPOINTS, MAX_SERVICES};
pub use standing::{ResourceStanding, STALE};

#[cfg(test)]
mod tests;
