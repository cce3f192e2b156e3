//! Trust bundles: the roots of each trust domain.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, TrustAnchor};

use super::leaf::{show, shown_name};
use super::revocation::Sha256;
use super::verified::{Validity, VerifiedChains};
use super::{TrustDomain, when};

/// Largest bundle that is read, in bytes.
pub const MAX_BUNDLE_BYTES: usize = 1 << 20;
/// Most roots in one bundle.
pub const MAX_BUNDLE_ROOTS: usize = 1_024;

/// Why bytes are not a trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// More than [`MAX_BUNDLE_BYTES`].
    #[error("the bundle has {0} bytes and at most {MAX_BUNDLE_BYTES} are read; keep only the roots in it")]
    TooLarge(usize),
    /// More than [`MAX_BUNDLE_ROOTS`].
    #[error("the bundle has more than {MAX_BUNDLE_ROOTS} certificates; keep only the roots in it")]
    TooManyRoots,
    /// No `BEGIN CERTIFICATE` block.
    #[error("the bundle holds no certificate; write each root as a -----BEGIN CERTIFICATE----- block")]
    Empty,
    /// A PEM block that is broken.
    #[error("the bundle is not valid PEM: {0}; write the file again")]
    Pem(String),
    /// A block of another kind, a private key for instance.
    #[error("block {number} of the bundle is a {kind}, not a certificate; remove it")]
    OtherBlock {
        /// Which block, counted from 1.
        number: usize,
        /// What it is.
        kind: String,
    },
    /// A certificate that cannot be parsed.
    #[error("certificate {number} of the bundle cannot be parsed: {reason}; export the root again")]
    Unreadable {
        /// Which certificate, counted from 1.
        number: usize,
        /// What the parser said.
        reason: String,
    },
    /// A certificate that may not issue others.
    #[error("certificate {number} of the bundle, {subject:?}, is not a CA; put the root there, not the leaf")]
    NotCa {
        /// Which certificate, counted from 1.
        number: usize,
        /// Its subject.
        subject: String,
    },
}

/// One trusted root.
#[derive(Clone, PartialEq, Eq)]
pub struct Root {
    der: CertificateDer<'static>,
    subject: String,
    key: Sha256,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Root {
    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Its common name, or its whole subject; safe to show.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// SHA-256 of its SubjectPublicKeyInfo.
    #[must_use]
    pub fn key(&self) -> &Sha256 {
        &self.key
    }

    /// Its `notAfter`.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// When it is valid.
    pub(crate) fn validity(&self) -> Validity {
        Validity { from: self.not_before, until: self.not_after }
    }

    /// Is `now` within the validity of the root?
    #[must_use]
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.validity().holds_at(now)
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({:?} until {})", self.subject, when::rfc3339(self.not_after))
    }
}

/// The roots of one trust domain; at least one.
#[derive(Debug, Clone)]
pub struct Bundle {
    roots: Vec<Root>,
    // webpki wants the anchors side by side; `anchors[i]` belongs to `roots[i]`.
    anchors: Vec<TrustAnchor<'static>>,
    // Shared by clones, which have the same roots; never by a bundle with others.
    verified: Arc<VerifiedChains>,
}

impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots
    }
}

impl Eq for Bundle {}

impl Bundle {
    /// Reads `CERTIFICATE` blocks; text between blocks is a comment.
    pub fn from_pem(pem: &[u8]) -> Result<Self, BundleError> {
        if pem.len() > MAX_BUNDLE_BYTES {
            return Err(BundleError::TooLarge(pem.len()));
        }
        let mut certificates = Vec::new();
        for (block, number) in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).zip(1..) {
            let (kind, der) = block.map_err(|error| BundleError::Pem(pem_reason(&error)))?;
            if kind != SectionKind::Certificate {
                return Err(BundleError::OtherBlock { number, kind: format!("{kind:?}") });
            }
            if certificates.len() == MAX_BUNDLE_ROOTS {
                return Err(BundleError::TooManyRoots);
            }
            certificates.push(CertificateDer::from(der));
        }
        Self::from_der(certificates)
    }

    /// Takes certificates as roots; each must be a CA. Duplicates are dropped.
    pub fn from_der(certificates: Vec<CertificateDer<'static>>) -> Result<Self, BundleError> {
        let mut bundle = Self { roots: Vec::new(), anchors: Vec::new(), verified: Arc::default() };
        for (der, number) in certificates.into_iter().zip(1..) {
            bundle.push(der, number)?;
        }
        if bundle.roots.is_empty() {
            return Err(BundleError::Empty);
        }
        Ok(bundle)
    }

    fn push(&mut self, der: CertificateDer<'static>, number: usize) -> Result<(), BundleError> {
        let unreadable = |reason: String| BundleError::Unreadable { number, reason: show(&reason) };
        let anchor =
            webpki::anchor_from_trusted_cert(&der).map_err(|error| unreadable(error.to_string()))?.to_owned();
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&der).map_err(|error| unreadable(error.to_string()))?;
        let subject = shown_name(parsed.subject());
        let basic = parsed.basic_constraints().map_err(|error| unreadable(error.to_string()))?;
        if !basic.is_some_and(|basic| basic.value.ca) {
            return Err(BundleError::NotCa { number, subject });
        }
        let not_before = when::from_unix(parsed.validity().not_before.timestamp());
        let not_after = when::from_unix(parsed.validity().not_after.timestamp());
        if !self.roots.iter().any(|root| root.der == der) {
            self.anchors.push(anchor);
            let key = Sha256::of(parsed.public_key().raw);
            self.roots.push(Root { der, subject, key, not_before, not_after });
        }
        Ok(())
    }

    /// The roots, in the order given.
    #[must_use]
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// As [`Self::from_pem`] reads it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let config = ::pem::EncodeConfig::new().set_line_ending(::pem::LineEnding::LF);
        let block =
            |root: &Root| ::pem::encode_config(&::pem::Pem::new("CERTIFICATE", root.der.as_ref()), config);
        self.roots.iter().map(block).collect()
    }

    /// The roots as webpki takes them.
    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// Chains that were verified under these roots.
    pub(crate) fn verified(&self) -> &VerifiedChains {
        &self.verified
    }

    /// The root that an anchor of this bundle was made from.
    pub(crate) fn root_of(&self, anchor: &TrustAnchor<'_>) -> Option<&Root> {
        self.anchors.iter().zip(&self.roots).find(|(ours, _)| *ours == anchor).map(|(_, root)| root)
    }

    /// This bundle's roots and then the other's.
    #[must_use]
    pub fn merged(mut self, other: &Self) -> Self {
        self.verified = Arc::default();
        for (root, anchor) in other.roots.iter().zip(&other.anchors) {
            if !self.roots.contains(root) {
                self.roots.push(root.clone());
                self.anchors.push(anchor.clone());
            }
        }
        self
    }
}

pub(super) fn pem_reason(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a block has no END line".to_owned(),
        pem::Error::IllegalSectionStart { line } => {
            format!("bad BEGIN line {:?}", show(&String::from_utf8_lossy(line)))
        }
        pem::Error::Base64Decode(_) => "a block is not base64".to_owned(),
        other => show(&other.to_string()),
    }
}

/// Every trust domain that is accepted, each with its own roots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustBundles {
    by_domain: BTreeMap<TrustDomain, Bundle>,
}

impl TrustBundles {
    /// No trust domain is accepted yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Accepts a trust domain; roots that it already has stay.
    pub fn add(&mut self, domain: TrustDomain, bundle: Bundle) {
        let merged = match self.by_domain.remove(&domain) {
            Some(existing) => existing.merged(&bundle),
            None => bundle,
        };
        self.by_domain.insert(domain, merged);
    }

    /// The roots of a trust domain, if it is accepted.
    #[must_use]
    pub fn get(&self, domain: &TrustDomain) -> Option<&Bundle> {
        self.by_domain.get(domain)
    }

    /// Roots that vouch for two trust domains, which are then not apart: each may issue the other's IDs.
    pub fn shared_roots(&self) -> impl Iterator<Item = (&Root, &TrustDomain, &TrustDomain)> {
        self.by_domain.iter().flat_map(move |(one, bundle)| {
            let others = (Bound::Excluded(one), Bound::Unbounded);
            let others = self.by_domain.range::<TrustDomain, _>(others);
            others.flat_map(move |(other, its)| {
                let shared = bundle.roots.iter().filter(|root| its.roots.contains(root));
                shared.map(move |root| (root, one, other))
            })
        })
    }

    /// Every accepted trust domain with its roots, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&TrustDomain, &Bundle)> {
        self.by_domain.iter()
    }
}

impl FromIterator<(TrustDomain, Bundle)> for TrustBundles {
    fn from_iter<I: IntoIterator<Item = (TrustDomain, Bundle)>>(bundles: I) -> Self {
        let mut all = Self::new();
        for (domain, bundle) in bundles {
            all.add(domain, bundle);
        }
        all
    }
}

#[cfg(test)]
mod tests;
