//! The messages of both APIs as they travel, without what mtlsd does not use. A test compares them with the published
//! definitions in `proto/`.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroize;

/// `SpiffeWorkloadAPI.FetchX509SVID`.
pub(super) const FETCH_X509_SVID: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
/// `DelegatedIdentity.SubscribeToX509SVIDs`.
pub(super) const SUBSCRIBE_TO_X509_SVIDS: &str =
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509SVIDs";
/// `DelegatedIdentity.SubscribeToX509Bundles`.
pub(super) const SUBSCRIBE_TO_X509_BUNDLES: &str =
    "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/SubscribeToX509Bundles";

/// A private key, PKCS#8. Wiped when dropped; the buffers of the HTTP/2 library, which it was copied from, are not.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct X509Svid {
    #[prost(string, tag = "1")]
    pub spiffe_id: String,
    /// The chain, leaf first, one DER certificate after the other.
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub x509_svid_key: Vec<u8>,
    /// The roots of its trust domain, one DER certificate after the other.
    #[prost(bytes = "vec", tag = "4")]
    pub bundle: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct X509SvidRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    pub svids: Vec<X509Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub crl: Vec<Vec<u8>>,
    /// By the ID of the trust domain; values as [`X509Svid::bundle`].
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub federated_bundles: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Selector {
    #[prost(string, tag = "1")]
    pub r#type: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SubscribeToX509SvidsRequest {
    #[prost(message, repeated, tag = "1")]
    pub selectors: Vec<Selector>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SpiffeIdParts {
    #[prost(string, tag = "1")]
    pub trust_domain: String,
    #[prost(string, tag = "2")]
    pub path: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Certificates {
    /// One DER certificate each, leaf first.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub cert_chain: Vec<Vec<u8>>,
    #[prost(message, optional, tag = "2")]
    pub id: Option<SpiffeIdParts>,
}

/// The key is wiped as that of [`X509Svid`].
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct X509SvidWithKey {
    #[prost(message, optional, tag = "1")]
    pub x509_svid: Option<Certificates>,
    #[prost(bytes = "vec", tag = "2")]
    pub x509_svid_key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SubscribeToX509SvidsResponse {
    #[prost(message, repeated, tag = "1")]
    pub x509_svids: Vec<X509SvidWithKey>,
    #[prost(string, repeated, tag = "2")]
    pub federates_with: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SubscribeToX509BundlesRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SubscribeToX509BundlesResponse {
    /// By trust domain; values as [`X509Svid::bundle`].
    #[prost(btree_map = "string, bytes", tag = "1")]
    pub ca_certificates: BTreeMap<String, Vec<u8>>,
}

impl Drop for X509Svid {
    fn drop(&mut self) {
        self.x509_svid_key.zeroize();
    }
}

impl Drop for X509SvidWithKey {
    fn drop(&mut self) {
        self.x509_svid_key.zeroize();
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for X509SvidWithKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509SvidWithKey").field("x509_svid", &self.x509_svid).finish_non_exhaustive()
    }
}
