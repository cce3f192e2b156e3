//! The two ends of a connection, as a person names them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::directory::Destination;
use crate::identity::SpiffeId;
use crate::snapshot::{Snapshot, WorkloadState};

/// An end that cannot be made sense of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownParty {
    /// Who connects is nobody known here.
    #[error(
        "{0:?} is neither a workload of this node, nor one of its addresses, nor a SPIFFE ID; see `mtlsd workloads`"
    )]
    From(String),
    /// Neither a name nor an address.
    #[error(
        "{0:?} is neither a workload of this node, nor a name of the directory, nor a SPIFFE ID in it, nor an address"
    )]
    To(String),
    /// No port, and more than one is possible.
    #[error("{0:?} has no port; write --to {0}:PORT")]
    NoPort(String),
    /// Both are elsewhere.
    #[error("neither {from} nor {to} is a workload of this node; ask on the node of one of them")]
    Elsewhere {
        /// Who connects.
        from: String,
        /// Whereto.
        to: String,
    },
}

/// Who connects.
pub(super) enum From {
    /// A workload of this node.
    Local(Arc<WorkloadState>),
    /// Another node's.
    Remote(SpiffeId),
}

/// Where to. An address is missing only for a workload that has none configured.
pub(super) struct To<'a> {
    pub address: Option<IpAddr>,
    pub port: u16,
    /// The destination that was meant by its name; by address it is looked up.
    pub named: Option<&'a Destination>,
    /// The workload of this node that was meant by its name.
    pub workload: Option<Arc<WorkloadState>>,
}

pub(super) fn from(snapshot: &Snapshot, text: &str) -> Result<From, UnknownParty> {
    if let Some(workload) = snapshot.by_name(text).filter(|workload| workload.settings.name == text) {
        return Ok(From::Local(Arc::clone(workload)));
    }
    if let Ok(id) = text.parse::<SpiffeId>() {
        return Ok(workload_of_id(snapshot, &id).map_or(From::Remote(id), From::Local));
    }
    let address = text.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    let owner = address.ok().and_then(|address| owner_of(snapshot, address));
    owner.map(From::Local).ok_or_else(|| UnknownParty::From(text.to_owned()))
}

pub(super) fn to<'a>(snapshot: &'a Snapshot, text: &str) -> Result<To<'a>, UnknownParty> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        let workload = owner_of(snapshot, socket.ip());
        return Ok(To { address: Some(socket.ip()), port: socket.port(), named: None, workload });
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err(UnknownParty::NoPort(text.to_owned()));
    }
    let (name, port) = match text.rsplit_once(':').map(|(name, port)| (name, port.parse::<u16>())) {
        Some((name, Ok(port))) => (name, Some(port)),
        _ => (text, None),
    };
    let id = name.parse::<SpiffeId>().ok();
    let by_id = |id: &SpiffeId| snapshot.directory.destinations().iter().find(|d| d.expected.contains(id));
    let named = snapshot.directory.by_name(name).or_else(|| by_id(id.as_ref()?));
    let local = named.and_then(|destination| destination.local_workload.as_deref());
    let workload = local
        .and_then(|local| snapshot.by_name(local))
        .or_else(|| snapshot.by_name(name).filter(|workload| workload.settings.name == name))
        .cloned()
        .or_else(|| workload_of_id(snapshot, id.as_ref()?));
    // An entry of the directory hides a workload of the same name that has no address.
    let workload = workload.filter(|_| named.is_none() || local.is_some());
    if named.is_none() && workload.is_none() {
        return Err(UnknownParty::To(text.to_owned()));
    }
    let ports = named.and_then(|destination| destination.ports.as_ref());
    let only = ports.filter(|ports| ports.len() == 1).and_then(|ports| ports.first().copied());
    let port = port.or(only).ok_or_else(|| UnknownParty::NoPort(text.to_owned()))?;
    let address = named.and_then(|destination| Some(destination.addresses.first()?.addr()));
    Ok(To { address, port, named, workload })
}

fn workload_of_id(snapshot: &Snapshot, id: &SpiffeId) -> Option<Arc<WorkloadState>> {
    snapshot.workloads.values().find(|workload| workload.settings.spiffe_id == *id).cloned()
}

fn owner_of(snapshot: &Snapshot, address: IpAddr) -> Option<Arc<WorkloadState>> {
    let address = address.to_canonical();
    snapshot.workloads.values().find(|workload| workload.settings.addresses.contains(&address)).cloned()
}
