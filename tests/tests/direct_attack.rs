//! `direct` under attack over IPv4: somebody on the path between the nodes, a stranger on the network, and a node that lies.
//!
//! Needs kernel TLS and tracing programs: a virtual machine (`cargo xtask test --only integration --kernel 6.12=direct_attack`).

#[path = "direct_attack/all.rs"]
mod all;

const V6: bool = false;
