//! A double of the Kubernetes API for tests: a store with resource versions, lists in pages, watches with bookmarks, changes with
//! conflicts, discovery that kubectl is content with; over TLS, with bearer tokens; and every fault that a network or a server
//! can have, on command.
//!
//! ```
//! use mtls_kube_double::{Double, json};
//! let double = Double::start();
//! double.put("pods", json!({ "metadata": { "name": "web-1", "namespace": "shop" } }));
//! assert_eq!(double.get("pods", "shop", "web-1").unwrap()["metadata"]["namespace"], "shop");
//! ```

mod access;
mod answer;
mod change;
mod discovery;
mod double;
mod faults;
mod http;
mod object;
mod patch;
mod resource;
mod route;
mod select;
mod serve;
mod store;
mod tls;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

pub use self::double::{Double, TOKEN, USER};
pub use self::faults::{Act, InWatch};
pub use self::resource::{RESOURCES, Resource};
pub use self::store::Gone;
pub use self::tls::other_ca_pem;
pub use serde_json::json;
