//! Is this chain a peer that is trusted here, and who is it?
//!
//! X509-SVID sections 4 and 5 over RFC 5280 path validation by webpki. Everything a peer sends is hostile
//! until the end of [`verify_peer`]: the size of the chain is bounded before anything is parsed, the search
//! for a path is bounded before it starts, and foreign text is bounded before it reaches a message.

pub mod examine;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, Error as PkiError, KeyUsage, VerifiedPath};

use super::claim::shown_chain;
use crate::identity::bundle::Root;
use crate::identity::leaf::{Leaf, Unreadable, show};
use crate::identity::ocsp::Stapled;
use crate::identity::verified::{Fingerprint, Path, Validity};
use crate::identity::{
    Bundle, ChainMarks, PeerIdentity, PeerName, Revocations, SpiffeId, TrustBundles, TrustDomain, when,
};
use crate::observe::{Reason, Refusal};

/// Intermediates that may share one subject name. Each more multiplies the paths that webpki tries, so an
/// unauthenticated peer could buy seconds of work with a few kilobytes; a cross-signed CA needs two.
const MAX_SAME_SUBJECT: usize = 2;
/// Names of a certificate or of the directory that one message lists.
const MAX_LISTED: usize = 4;

/// Which names are accepted besides SPIFFE IDs, for legacy peers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PeerNameSettings {
    /// Take the DNS SAN of a certificate without a URI SAN.
    pub dns: bool,
    /// Take the common name of a certificate without URI and DNS SANs.
    pub common_name: bool,
}

/// Which end of the connection the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerRole {
    /// It connected to us.
    Client,
    /// We connected to it.
    Server,
}

impl PeerRole {
    /// A number of its own.
    fn purpose(self) -> u8 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
        }
    }
}

/// What is trusted by one workload.
#[derive(Debug, Clone)]
pub struct Trust {
    /// The accepted trust domains and their roots.
    pub bundles: Arc<TrustBundles>,
    /// The workload's own trust domain: only its roots vouch for DNS names and common names, which
    /// unlike a SPIFFE ID do not say who may issue them.
    pub trust_domain: TrustDomain,
    /// Names for legacy peers.
    pub names: PeerNameSettings,
    /// Most certificates in a peer's chain.
    pub max_certificates: usize,
    /// Most DER bytes in a peer's chain.
    pub max_bytes: usize,
    /// What is revoked; shared by all workloads.
    pub revocations: Arc<Revocations>,
    /// How much too early a peer's certificates may be, for issuers whose clock is ahead of ours. An end is an end: there is
    /// no such tolerance for `notAfter`.
    pub clock_skew: Duration,
}

impl Trust {
    /// The default of [`Trust::clock_skew`]: what issuers commonly allow for by dating `notBefore` back.
    pub const CLOCK_SKEW: Duration = when::CLOCK_SKEW;
}

/// What the directory says a server must be; one match is enough, and an empty value matches nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExpectedServer {
    /// Accepted SPIFFE IDs.
    pub ids: Vec<SpiffeId>,
    /// Accepted DNS names (and common names), for a legacy server.
    pub dns_names: Vec<String>,
}

/// Verifies a peer's chain, leaf first, and says who it is.
///
/// `expected` is what the server must be; `None` for a client, whom the policy judges afterwards.
/// The proof that the peer holds the key is the handshake's signature, which rustls checks.
pub fn verify_peer(
    chain: &[CertificateDer<'_>],
    role: PeerRole,
    trust: &Trust,
    expected: Option<&ExpectedServer>,
    now: SystemTime,
) -> Result<PeerIdentity, Refusal> {
    verify_stapled(chain, &[], role, trust, expected, now)
}

/// The same with the OCSP answer that the peer sent along, which may be empty.
pub(super) fn verify_stapled(
    chain: &[CertificateDer<'_>],
    staple: &[u8],
    role: PeerRole,
    trust: &Trust,
    expected: Option<&ExpectedServer>,
    now: SystemTime,
) -> Result<PeerIdentity, Refusal> {
    let Parsed { first, end_entity, leaf, intermediates } = parse(chain, trust)?;
    let name = peer_name(&leaf, trust.names, expected)?;
    let peer = Described { name: &name, leaf: &leaf, now };
    let domain = name.spiffe_id().map_or(&trust.trust_domain, SpiffeId::trust_domain);
    let bundle = trust.bundles.get(domain).ok_or_else(|| peer.foreign(domain, trust))?;
    if let Some(why) = leaf.wrong_usage() {
        return Err(peer.refuse(Reason::CertificateUsage, why));
    }
    let fingerprint = Fingerprint::of(role.purpose(), chain);
    let path = match bundle.verified().find(&fingerprint, now) {
        Some(path) => path,
        None => {
            let (root, used) = peer.path_now(&end_entity, intermediates, bundle, role, trust.clock_skew)?;
            let certificates = || std::iter::once(first).chain(&used).chain([root.der()]);
            let marks = ChainMarks::of(fingerprint, name.spiffe_id().cloned(), certificates(), true)
                .map_err(|Unreadable(why)| peer.refuse(Reason::MalformedCertificate, why))?;
            let shown = shown_chain(certificates(), true);
            let path = Path { marks: Arc::new(marks), shown: Arc::new(shown) };
            if let Some(validity) = validity_of(&leaf, intermediates, root) {
                bundle.verified().remember(&path, validity);
            }
            path
        }
    };
    let Path { marks, shown } = path;
    // Also for a chain that is remembered: it may have been revoked since.
    peer.not_revoked(&marks, staple, trust)?;
    if let Some(expected) = expected
        && !expected.matches(&name)
    {
        return Err(peer.refuse(Reason::UnexpectedServer, format!("expected {}", expected.listed())));
    }
    Ok(PeerIdentity {
        name,
        serial: leaf.serial,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        chain_len: chain.len(),
        attributes: Arc::new(leaf.attributes),
        marks,
        chain: shown,
    })
}

/// A chain whose certificates can be read.
struct Parsed<'a> {
    first: &'a CertificateDer<'a>,
    end_entity: EndEntityCert<'a>,
    leaf: Leaf,
    intermediates: &'a [CertificateDer<'a>],
}

fn parse<'a>(chain: &'a [CertificateDer<'a>], trust: &Trust) -> Result<Parsed<'a>, Refusal> {
    check_size(chain, trust)?;
    let Some((first, intermediates)) = chain.split_first() else {
        return Err(Reason::NoCertificate.into());
    };
    let end_entity = EndEntityCert::try_from(first).map_err(|error| unparsable(1, &error))?;
    let leaf = Leaf::read(first).map_err(|Unreadable(why)| {
        Refusal::new(Reason::MalformedCertificate, format!("certificate 1 of {}: {why}", chain.len()))
    })?;
    check_branches(intermediates)?;
    Ok(Parsed { first, end_entity, leaf, intermediates })
}

fn check_size(chain: &[CertificateDer<'_>], trust: &Trust) -> Result<(), Refusal> {
    let bytes: usize = chain.iter().map(|der| der.len()).sum();
    if chain.len() <= trust.max_certificates && bytes <= trust.max_bytes {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::ChainTooLarge,
        format!(
            "it has {} certificates and {bytes} bytes; at most {} and {} are read",
            chain.len(),
            trust.max_certificates,
            trust.max_bytes
        ),
    ))
}

fn check_branches(intermediates: &[CertificateDer<'_>]) -> Result<(), Refusal> {
    let mut subjects: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for (der, number) in intermediates.iter().zip(2..) {
        match EndEntityCert::try_from(der) {
            Ok(parsed) => {
                let seen = subjects.entry(parsed.subject().to_vec()).or_default();
                *seen += 1;
                if *seen > MAX_SAME_SUBJECT {
                    return Err(Refusal::new(
                        Reason::ChainTooLarge,
                        format!(
                            "more than {MAX_SAME_SUBJECT} of its {} certificates share one subject name",
                            intermediates.len() + 1
                        ),
                    ));
                }
            }
            Err(error @ (PkiError::BadDer | PkiError::BadDerTime | PkiError::TrailingData(_))) => {
                return Err(unparsable(number, &error));
            }
            // Well-formed but not usable, such as an old root sent along: webpki passes over it.
            Err(_) => {}
        }
    }
    Ok(())
}

fn unparsable(number: usize, error: &PkiError) -> Refusal {
    let reason = match error {
        PkiError::UnsupportedCriticalExtension | PkiError::UnsupportedCertVersion => {
            Reason::CertificateUnsupported
        }
        _ => Reason::MalformedCertificate,
    };
    Refusal::new(reason, format!("certificate {number} of the chain: {error:?}"))
}

/// The name in the leaf: the one URI SAN, else what the configuration accepts for legacy peers.
fn peer_name(
    leaf: &Leaf,
    settings: PeerNameSettings,
    expected: Option<&ExpectedServer>,
) -> Result<PeerName, Refusal> {
    let serial = &leaf.serial;
    let issuer = &leaf.issuer;
    let refuse = |reason, detail: String| {
        Err(Refusal::new(reason, format!("certificate {serial} issued by {issuer:?} {detail}")))
    };
    match leaf.uris.as_slice() {
        [] => {}
        [None] => return refuse(Reason::MalformedSpiffeId, "has a URI SAN that is not text".to_owned()),
        [Some(uri)] => {
            return match uri.parse::<SpiffeId>() {
                Ok(id) if id.path().is_empty() => refuse(
                    Reason::MalformedSpiffeId,
                    format!("has {id}, which names a whole trust domain and no workload in it"),
                ),
                Ok(id) => Ok(PeerName::Spiffe(id)),
                Err(why) => refuse(Reason::MalformedSpiffeId, format!("has {:?}: {why}", show(uri))),
            };
        }
        several => {
            let names = listed(several.iter().map(|uri| uri.as_deref().unwrap_or("(not text)")));
            return refuse(Reason::SeveralSpiffeIds, format!("has {} URI SANs: {names}", several.len()));
        }
    }
    if settings.dns && !leaf.dns.is_empty() {
        let usable: Vec<String> = leaf.dns.iter().filter_map(|name| dns_name(name)).collect();
        let wanted = |name: &&String| expected.is_some_and(|e| e.has_dns_name(name));
        return match usable.iter().find(wanted).or(usable.first()) {
            Some(name) => Ok(PeerName::Dns(name.clone())),
            None => refuse(
                Reason::NoSpiffeId,
                format!("has no URI SAN and no DNS SAN that names one host: {}", listed(leaf.dns.iter())),
            ),
        };
    }
    // RFC 6125 section 6.4.4: the common name counts only where there is no DNS SAN.
    if settings.common_name
        && leaf.dns.is_empty()
        && let Some(name) = leaf.common_name.as_deref().filter(|name| name.len() <= 64 && show(name) == *name)
    {
        return Ok(PeerName::CommonName(name.to_owned()));
    }
    let dns = if leaf.dns.is_empty() { "none".to_owned() } else { listed(leaf.dns.iter()) };
    let common_name = leaf.common_name.as_deref().map_or_else(|| "none".to_owned(), show);
    refuse(Reason::NoSpiffeId, format!("has no URI SAN (DNS SANs: {dns}; common name: {common_name})"))
}

/// A DNS SAN in lower case, if it names exactly one host: a wildcard is not an identity.
fn dns_name(name: &str) -> Option<String> {
    let parsed = rustls::pki_types::DnsName::try_from(name).ok()?;
    Some(parsed.to_lowercase_owned().as_ref().to_owned())
}

impl ExpectedServer {
    fn matches(&self, name: &PeerName) -> bool {
        match name {
            PeerName::Spiffe(id) => self.ids.contains(id),
            PeerName::Dns(name) | PeerName::CommonName(name) => self.has_dns_name(name),
        }
    }

    fn has_dns_name(&self, name: &str) -> bool {
        self.dns_names.iter().any(|expected| expected.eq_ignore_ascii_case(name))
    }

    fn listed(&self) -> String {
        listed(self.ids.iter().map(SpiffeId::as_str).chain(self.dns_names.iter().map(String::as_str)))
    }
}

/// The first few of some foreign names, safe to show.
pub(super) fn listed(names: impl Iterator<Item = impl AsRef<str>>) -> String {
    let mut names = names.map(|name| show(name.as_ref()));
    let mut text = names.by_ref().take(MAX_LISTED).collect::<Vec<_>>().join(", ");
    let more = names.count();
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    if text.is_empty() { "nothing".to_owned() } else { text }
}

/// The root that vouches for the chain, and the intermediates on the way to it.
fn verify_path<'b>(
    end_entity: &EndEntityCert<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &'b Bundle,
    role: PeerRole,
    now: SystemTime,
) -> Result<(&'b Root, Vec<CertificateDer<'static>>), PkiError> {
    let usage = match role {
        PeerRole::Client => KeyUsage::client_auth(),
        PeerRole::Server => KeyUsage::server_auth(),
    };
    let time = pki_time(now);
    // webpki takes a trust anchor as valid for ever; a root that has expired vouches for nobody here.
    let root_is_valid = |path: &VerifiedPath<'_>| match bundle.root_of(path.anchor()) {
        Some(root) if root.is_valid_at(now) => Ok(()),
        _ => Err(PkiError::CertDistrusted),
    };
    let path = end_entity.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        bundle.anchors(),
        intermediates,
        time,
        usage,
        None,
        Some(&root_is_valid),
    )?;
    let root = bundle.root_of(path.anchor()).ok_or(PkiError::CertDistrusted)?;
    Ok((root, path.intermediate_certificates().map(|used| used.der().into_owned()).collect()))
}

/// When the chain is judged: when its last certificate becomes valid, if that is soon enough, else now.
fn judged_at(
    leaf: &Leaf,
    intermediates: &[CertificateDer<'_>],
    now: SystemTime,
    skew: Duration,
) -> SystemTime {
    let starts = intermediates.iter().filter_map(|der| {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
        Some(when::from_unix(parsed.validity().not_before.timestamp()))
    });
    let latest = starts.fold(leaf.not_before, SystemTime::max);
    if when::between(now, latest) <= skew { latest.max(now) } else { now }
}

/// When everything in the chain is valid, also what the path does without. `None`: one cannot be read.
fn validity_of(leaf: &Leaf, intermediates: &[CertificateDer<'_>], root: &Root) -> Option<Validity> {
    let own = Validity { from: leaf.not_before, until: leaf.not_after };
    intermediates.iter().try_fold(own.and(root.validity()), |all, der| {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
        let (from, until) = (parsed.validity().not_before, parsed.validity().not_after);
        let (from, until) = (when::from_unix(from.timestamp()), when::from_unix(until.timestamp()));
        Some(all.and(Validity { from, until }))
    })
}

fn pki_time(now: SystemTime) -> UnixTime {
    // Before 1970 nothing is valid yet, which is what second 0 yields too.
    UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// A peer as a refusal describes it.
struct Described<'a> {
    name: &'a PeerName,
    leaf: &'a Leaf,
    now: SystemTime,
}

impl Described<'_> {
    fn refuse(&self, reason: Reason, detail: impl AsRef<str>) -> Refusal {
        let (name, serial, issuer) = (self.name, &self.leaf.serial, &self.leaf.issuer);
        Refusal::new(
            reason,
            format!("{name}, certificate {serial} issued by {issuer:?}: {}", detail.as_ref()),
        )
    }

    /// Nobody here vouches for its trust domain.
    fn foreign(&self, domain: &TrustDomain, trust: &Trust) -> Refusal {
        let accepted = listed(trust.bundles.iter().map(|(domain, _)| domain.as_str()));
        self.refuse(Reason::TrustDomain, format!("its trust domain is {domain}; accepted here: {accepted}"))
    }

    /// The path to a root that is valid now, or would be if this node's clock were ahead by no more than `skew`.
    fn path_now<'b>(
        &self,
        end_entity: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        bundle: &'b Bundle,
        role: PeerRole,
        skew: Duration,
    ) -> Result<(&'b Root, Vec<CertificateDer<'static>>), Refusal> {
        let verify_at = |at| verify_path(end_entity, intermediates, bundle, role, at);
        let verified = match verify_at(self.now) {
            Err(PkiError::CertNotValidYet { .. }) => {
                verify_at(judged_at(self.leaf, intermediates, self.now, skew))
            }
            verified => verified,
        };
        verified.map_err(|error| self.path_refusal(&error, end_entity, intermediates, bundle, skew))
    }

    /// Whether nothing of the path is revoked, going also by the OCSP answer that came along.
    fn not_revoked(&self, marks: &ChainMarks, staple: &[u8], trust: &Trust) -> Result<(), Refusal> {
        let stapled = trust.revocations.ocsp().take_stapled(marks, staple, self.now);
        let Some(mut revoked) = trust.revocations.refusal_of(marks, self.now) else { return Ok(()) };
        if let (Err(Stapled(error)), Reason::RevocationUnknown) = (stapled, revoked.reason) {
            revoked.detail.push_str(&format!("; what it stapled was refused: {error}"));
        }
        Err(self.refuse(revoked.reason, revoked.detail))
    }

    fn path_refusal(
        &self,
        error: &PkiError,
        end_entity: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        bundle: &Bundle,
        skew: Duration,
    ) -> Refusal {
        let now = self.now;
        let clocks = format!(
            "check the clocks of both nodes, {} are allowed for (trust.clock_skew)",
            when::span(skew)
        );
        match error {
            PkiError::CertExpired { .. } if now > self.leaf.not_after => {
                self.refuse(Reason::CertificateExpired, when::expired(self.leaf.not_after, now))
            }
            PkiError::CertExpired { not_after, .. } => {
                let not_after = when::from_pki(*not_after);
                self.refuse(
                    Reason::CertificateExpired,
                    format!("an intermediate of its chain {}", when::expired(not_after, now)),
                )
            }
            PkiError::CertNotValidYet { .. } if now < self.leaf.not_before => {
                let when = when::not_yet(self.leaf.not_before, now);
                self.refuse(Reason::CertificateNotYetValid, format!("{when}; {clocks}"))
            }
            PkiError::CertNotValidYet { not_before, .. } => {
                let not_before = when::from_pki(*not_before);
                self.refuse(
                    Reason::CertificateNotYetValid,
                    format!("an intermediate of its chain is {}; {clocks}", when::not_yet(not_before, now)),
                )
            }
            PkiError::CertDistrusted => self.root_refusal(bundle),
            PkiError::UnknownIssuer => self.unknown_issuer(intermediates, bundle),
            PkiError::InvalidSignatureForPublicKey | PkiError::SignatureAlgorithmMismatch => {
                if signed_by_sent_issuer(end_entity, intermediates, now) {
                    return self.unknown_issuer(intermediates, bundle);
                }
                self.refuse(
                    Reason::BadSignature,
                    "the signature on it was not made by the issuer it names, or the issuer's key was replaced",
                )
            }
            PkiError::RequiredEkuNotFoundContext(_) | PkiError::EmptyEkuExtension => self.refuse(
                Reason::CertificateUsage,
                format!("the extended key usage does not allow it: {error:?}"),
            ),
            PkiError::CaUsedAsEndEntity | PkiError::EndEntityUsedAsCa => {
                self.refuse(Reason::CertificateUsage, format!("basic constraints do not allow it: {error:?}"))
            }
            PkiError::BadDer
            | PkiError::BadDerTime
            | PkiError::TrailingData(_)
            | PkiError::MalformedExtensions
            | PkiError::ExtensionValueInvalid
            | PkiError::InvalidCertValidity
            | PkiError::InvalidSerialNumber => {
                self.refuse(Reason::MalformedCertificate, format!("{error:?}"))
            }
            PkiError::MaximumSignatureChecksExceeded
            | PkiError::MaximumPathBuildCallsExceeded
            | PkiError::MaximumNameConstraintComparisonsExceeded
            | PkiError::MaximumPathDepthExceeded => {
                self.refuse(Reason::ChainTooLarge, format!("the search for a path was given up: {error:?}"))
            }
            // Path lengths, name constraints, algorithms, critical extensions, and what webpki adds later.
            other => self.refuse(Reason::CertificateUnsupported, show(&format!("{other:?}"))),
        }
    }

    fn unknown_issuer(&self, intermediates: &[CertificateDer<'_>], bundle: &Bundle) -> Refusal {
        let roots = listed(bundle.roots().iter().map(|root| root.subject()));
        let sent = intermediates.len();
        self.refuse(Reason::UnknownIssuer, format!("{sent} intermediates sent, trusted roots: {roots}"))
    }

    fn root_refusal(&self, bundle: &Bundle) -> Refusal {
        let mut invalid = bundle.roots().iter().filter(|root| !root.is_valid_at(self.now)).peekable();
        if invalid.peek().is_none() {
            // webpki's own list of keys that nobody should trust.
            return self.refuse(Reason::UnknownIssuer, "the key of an issuer in its chain is distrusted");
        }
        let roots = listed(
            invalid.map(|root| format!("{} until {}", root.subject(), when::rfc3339(root.not_after()))),
        );
        self.refuse(Reason::CertificateExpired, format!("the trusted root is not valid now: {roots}"))
    }
}

/// Was the leaf signed by an issuer that the peer sent along? Then the leaf is as it was issued, and it is
/// that issuer whom our root of the same name did not sign: another CA, not tampering.
fn signed_by_sent_issuer(
    end_entity: &EndEntityCert<'_>,
    intermediates: &[CertificateDer<'_>],
    now: SystemTime,
) -> bool {
    let anchors: Vec<TrustAnchor<'_>> = intermediates
        .iter()
        .filter_map(|der| webpki::anchor_from_trusted_cert(der).ok())
        .filter(|anchor| anchor.subject.as_ref() == end_entity.issuer())
        .take(MAX_SAME_SUBJECT)
        .collect();
    let usages = [KeyUsage::client_auth(), KeyUsage::server_auth()];
    usages.into_iter().any(|usage| {
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        end_entity.verify_for_usage(algorithms, &anchors, &[], pki_time(now), usage, None, None).is_ok()
    })
}

#[cfg(test)]
mod tests;
