//! Ports, as containers, services and slices name them.

use serde::{Deserialize, Serialize};

/// A transport protocol. mtlsd protects TCP only, and must know the others to leave them out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP, which is meant where nothing is said.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
    /// Any that came later.
    #[serde(other)]
    Other,
}

/// A port that a container says that it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPort {
    /// Empty: it has no name.
    pub name: Box<str>,
    /// In the pod's namespace.
    pub port: u16,
    /// The port of the node that leads here; 0: none.
    pub host_port: u16,
    /// Of which protocol.
    pub protocol: Protocol,
}

/// A port by number or by the name that a container gives it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum PortRef {
    Number(u16),
    Name(String),
}

impl Default for PortRef {
    fn default() -> Self {
        Self::Number(0)
    }
}
