//! `direct` under attack: somebody on the path between the nodes, a stranger on the network, and a node that lies. Over IPv6 on
//! kernels from 7.0 on, over IPv4 on the others: both were too much for one run.
//!
//! Needs kernel TLS and tracing programs: a virtual machine (`cargo xtask test --only integration --kernel 6.12=direct_attack`).

#[path = "direct_attack/all.rs"]
mod all;
