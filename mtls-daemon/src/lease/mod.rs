//! How long a verified identity keeps a live connection alive.
//!
//! Connections of one workload whose two ends proved the same identities, on the same port and from the same address, stand
//! and fall together: they are a *group*, with one switch that ends them all. Groups are found by their [`Mark`]s, so that
//! a change looks at those that it may concern and at no other ([`change`]), and a connection costs no more than its
//! place in a group. What a group is held by is asked of the snapshot in force ([`judge()`]).
//!
//! Whoever ends connections first changes what decides (the deny list, the snapshot, the stop of a workload) and then looks
//! here; whoever opens one first joins and then asks again what decides. So one of the two sees the other.

pub mod change;
pub mod fate;
mod groups;
pub mod judge;
mod leases;
pub mod parties;
#[cfg(test)]
mod tests;

pub use fate::{Ended, Now, Terms};
pub use groups::GroupId;
pub use judge::{Held, judge};
pub use leases::{Lease, Leases, OverdueCounts};
pub use parties::{Cover, Mark, Own, Parties};
