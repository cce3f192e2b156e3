//! The Kubernetes API, as far as mtlsd uses it: a small client, and a copy of each resource that follows the cluster and outlives
//! an API server that is away.
//!
//! What comes from the API server is taken as hostile until `objects` has read it: every object alone, so that one that
//! is refused never stops the others. `cluster` turns them into what the configuration understands.

mod answer;
mod backoff;
mod body;
mod changes;
mod client;
mod config;
mod connect;
mod error;
mod json;
mod lines;
mod list;
mod names;
pub mod objects;
mod page;
pub mod pods;
mod reflector;
mod resource;
pub mod rights;
mod scope;
mod state;
mod store;
mod timing;
mod watch;

pub use self::changes::{Changes, MIN_GAP};
pub use self::client::{Client, MAX_OBJECT};
pub use self::config::{ClusterConfig, ConfigError, MAX_TOKEN, SERVICE_ACCOUNT};
pub use self::error::{KubeError, Subject, Verb};
pub(crate) use self::json::or_default;
pub use self::lines::{LineTooLong, MAX_LINE, Splitter};
pub use self::list::PAGE;
pub use self::names::{Key, MAX_NAME, MAX_NAMESPACE, MAX_UID, Name, NameError, NamespaceName, Uid};
pub use self::page::MAX_PAGE_BYTES;
pub use self::reflector::Reflector;
pub use self::resource::{
    AUTHORIZATION_POLICIES, CERTIFICATE_REQUESTS, MUTUAL_TLS_POLICIES, PEER_AUTHENTICATIONS, Resource,
};
pub use self::scope::Scope;
pub use self::state::{Kept, MAX_STATE_BYTES, Remembered, StateFile, StateFileError};
pub use self::store::{MAX_OBJECTS, MAX_REFUSED, Refused, Standing};
pub use self::timing::Timing;
pub use self::watch::object_in_line;

#[cfg(test)]
pub(crate) mod tests;
