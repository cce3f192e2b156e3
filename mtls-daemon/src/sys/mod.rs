//! The only modules that make raw system calls. Everything here has a safe face.

pub mod bpf;
pub mod ktls;
pub mod memory;
pub mod netns;
pub mod pidfd;
pub mod poll;
pub mod sock_diag;
pub mod socket;
pub mod tcp_info;
pub mod thread;
