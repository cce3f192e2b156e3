//! Objects of the API, each read on its own: only the fields that are used, checked once and then carried as types.
//!
//! Fields that are unknown are ignored, since servers of all versions shall be understood; a field that is used and is wrong
//! makes the whole object refused, with the field and the reason.

mod bad;
mod namespace;
mod node;
mod pairs;
mod pod;
mod policy;
mod port;
mod probes;
mod service;
mod slice;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::bad::BadObject;
pub use self::namespace::Namespace;
pub use self::node::Node;
pub use self::pairs::{MAX_PAIRS, Pairs};
pub use self::pod::{MAX_ADDRESSES, MAX_PORTS, Phase, Pod, QosClass};
pub use self::policy::{AuthorizationPolicy, MAX_SPEC, MutualTlsPolicy, PeerAuthentication, Policy};
pub use self::port::{ContainerPort, Protocol};
pub use self::service::{InternalTraffic, Service, ServiceKind, ServicePort, SessionAffinity};
pub use self::slice::{Endpoint, EndpointSlice, MAX_ENDPOINTS, PodRef, SlicePort};

use super::json::{Head, Ident};
use super::names::{Key, NameError, Uid};
use super::resource::Resource;
use crate::identity::leaf::show;

/// A resource of which a copy is kept.
pub trait Kind: Sized + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Where it is in the API.
    const RESOURCE: Resource;

    /// Reads an object whose names are read already.
    ///
    /// # Errors
    /// The first field that is wrong.
    fn read(identity: Identity, json: &str) -> Result<Self, BadObject>;

    /// Its name.
    fn key(&self) -> &Key;

    /// What makes it another one than an earlier one of its name.
    fn uid(&self) -> &Uid;
}

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub key: Key,
    /// What makes it another one than an earlier one of its name.
    pub uid: Uid,
}

/// An object, or what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read<K> {
    Good(K),
    Bad(Identity, BadObject),
    /// Not even its name is known.
    Nameless(BadObject),
}

/// Reads an object.
pub(super) fn read<K: Kind>(json: &str) -> Read<K> {
    let identity = match head(json).and_then(|ident| identity(&ident)) {
        Ok(identity) => identity,
        Err(bad) => return Read::Nameless(bad),
    };
    K::read(identity.clone(), json).map_or_else(|bad| Read::Bad(identity, bad), Read::Good)
}

/// What every object says of itself.
pub(super) fn head(json: &str) -> Result<Ident, BadObject> {
    parse::<Head>(json).map(|head| head.metadata)
}

/// Its names, as types.
pub(super) fn identity(ident: &Ident) -> Result<Identity, BadObject> {
    let namespace = match ident.namespace.as_str() {
        "" => None,
        text => Some(name("metadata.namespace", text)?),
    };
    let key = Key { namespace, name: name("metadata.name", &ident.name)? };
    Ok(Identity { key, uid: name("metadata.uid", &ident.uid)? })
}

/// The fields of a raw form.
fn parse<T: DeserializeOwned>(json: &str) -> Result<T, BadObject> {
    serde_json::from_str(json).map_err(|error| BadObject::Json(show(&error.to_string())))
}

fn name<T: std::str::FromStr<Err = NameError>>(field: &'static str, text: &str) -> Result<T, BadObject> {
    text.parse().map_err(|reason| BadObject::Name { field, text: show(text), reason })
}

/// A name that need not be there.
fn maybe_name<T: std::str::FromStr<Err = NameError>>(
    field: &'static str,
    text: &str,
) -> Result<Option<T>, BadObject> {
    if text.is_empty() { Ok(None) } else { name(field, text).map(Some) }
}

fn address(field: &'static str, text: &str) -> Result<std::net::IpAddr, BadObject> {
    let address = text.parse::<std::net::IpAddr>();
    address.map(|address| address.to_canonical()).map_err(|_| BadObject::Address { field, text: show(text) })
}

/// A bound on what one object brings.
fn at_most(field: &'static str, count: usize, max: usize) -> Result<(), BadObject> {
    if count > max { Err(BadObject::TooMany { field, count, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
