//! Who a workload is and who a peer proves to be.
//!
//! Data flows one way: a [`source`] yields an [`X509Svid`] and a [`Bundle`] for a workload, the
//! [`store`] keeps the current one and renews it, and `handshake` reads it.

pub mod agent;
pub mod alarm;
pub mod attributes;
pub mod bundle;
pub mod ca;
pub mod files;
pub mod issuer;
mod key;
pub(crate) mod leaf;
pub mod ocsp;
pub mod peer;
pub mod pkcs11;
pub mod revocation;
pub mod source;
pub mod spiffe;
pub mod store;
pub mod subject;
pub mod svid;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod verified;
pub(crate) mod when;

pub use agent::{Agent, AgentError, DelegatedSource, SpireSelector, WorkloadApiSource};
pub use attributes::CertificateAttributes;
pub use bundle::{Bundle, BundleError, TrustBundles};
pub use ca::{CaError, CaStatus, EmbeddedCa, EmbeddedCaSettings};
pub use files::{FilesError, IdentityFiles};
pub use issuer::{Issuer, IssuerError, IssuerSource};
pub use peer::{PeerIdentity, PeerName};
pub use pkcs11::{Pkcs11Error, TokenIdentity};
pub use revocation::{ChainMarks, Revocations};
pub use source::{EmbeddedSource, Identity, IdentityError, IdentitySource, Wake};
pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
pub use store::{IdentityStatus, IdentityStore};
pub use subject::{Subject, SubjectAttribute, SubjectError};
pub use svid::{SvidError, X509Svid};
