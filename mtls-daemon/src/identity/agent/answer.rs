//! What an answer means: names, SVIDs and roots, each checked, and with the field named if it is not usable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use super::error::{Cause, Fault, Field};
use crate::identity::leaf::show;
use crate::identity::{Bundle, SpiffeId, TrustBundles, TrustDomain, X509Svid};

/// Most IDs that a message lists.
const MAX_LISTED: usize = 8;

/// Puts the field's name to a cause.
pub(super) fn at(field: impl Into<String>) -> impl FnOnce(Cause) -> Fault {
    let field = Field(field.into());
    move |cause| Fault { field, cause: Box::new(cause) }
}

/// One SVID that the agent gives out. One that is not usable is no reason to refuse the others.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub id: SpiffeId,
    pub svid: Result<Arc<X509Svid>, Fault>,
}

/// A certificate goes with one key only.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
            && match (&self.svid, &other.svid) {
                (Ok(ours), Ok(theirs)) => ours.chain == theirs.chain,
                (Err(ours), Err(theirs)) => ours == theirs,
                _ => false,
            }
    }
}

/// The IDs of entries, as a message lists them.
pub(super) fn listed<'a>(ids: impl ExactSizeIterator<Item = &'a SpiffeId>) -> String {
    let more = ids.len().saturating_sub(MAX_LISTED);
    let list: Vec<_> = ids.take(MAX_LISTED).map(SpiffeId::as_str).collect();
    match (list.is_empty(), more) {
        (true, _) => "none".to_owned(),
        (false, 0) => list.join(", "),
        (false, more) => format!("{} and {more} more", list.join(", ")),
    }
}

pub(super) fn spiffe_id(text: &str) -> Result<SpiffeId, Cause> {
    if text.is_empty() {
        return Err(Cause::Missing);
    }
    text.parse().map_err(|reason| Cause::Name { text: show(text), reason })
}

/// A trust domain by its ID, or by its bare name as SPIRE's definitions say and its agents do not.
pub(super) fn trust_domain(text: &str) -> Result<TrustDomain, Cause> {
    if !text.contains(':') {
        return text.parse().map_err(|reason| Cause::Name { text: show(text), reason });
    }
    let id = spiffe_id(text)?;
    match id.path() {
        "" => Ok(id.trust_domain().clone()),
        _ => Err(Cause::NotATrustDomain(id)),
    }
}

/// Certificates that stand one after the other.
pub(super) fn certificates(der: &[u8]) -> Result<Vec<CertificateDer<'static>>, Cause> {
    let mut list = Vec::new();
    let mut rest = der;
    while !rest.is_empty() {
        let number = list.len() + 1;
        let unreadable = |reason: String| Cause::Certificate { number, reason: show(&reason) };
        let (after, _) =
            x509_parser::parse_x509_certificate(rest).map_err(|error| unreadable(error.to_string()))?;
        let one = rest.get(..rest.len().saturating_sub(after.len())).unwrap_or_default();
        list.push(CertificateDer::from(one.to_vec()));
        rest = after;
    }
    if list.is_empty() { Err(Cause::Missing) } else { Ok(list) }
}

pub(super) fn bundle(der: &[u8]) -> Result<Bundle, Cause> {
    Ok(Bundle::from_der(certificates(der)?)?)
}

/// Bundles by trust domain, from the map `name`.
pub(super) fn bundles(name: &str, map: &BTreeMap<String, Vec<u8>>) -> Result<TrustBundles, Fault> {
    let mut bundles = TrustBundles::new();
    for (key, der) in map {
        let field = || format!("{name}[{:?}]", show(key));
        let domain = trust_domain(key).map_err(at(field()))?;
        if bundles.get(&domain).is_some() {
            return Err(at(field())(Cause::Twice(domain)));
        }
        bundles.add(domain, bundle(der).map_err(at(field()))?);
    }
    Ok(bundles)
}

/// Chain and key of `id`; the key is PKCS#8.
pub(super) fn svid(
    id: &SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    key: &[u8],
    now: SystemTime,
) -> Result<Arc<X509Svid>, Cause> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let svid = X509Svid::from_der(chain, &key, now)?;
    if svid.id != *id {
        return Err(Cause::OtherId { found: svid.id, wanted: id.clone() });
    }
    Ok(Arc::new(svid))
}

/// Do these roots vouch for the SVID? If not, no peer would believe it, and the last one is better.
pub(super) fn vouches(bundle: &Bundle, svid: &X509Svid, now: SystemTime) -> Result<(), Cause> {
    let refused =
        |reason: String| Cause::OtherRoots { domain: svid.id.trust_domain().clone(), reason: show(&reason) };
    let (leaf, intermediates) = svid.chain.split_first().ok_or(Cause::Missing)?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|error| refused(error.to_string()))?;
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    leaf.verify_for_usage(
        algorithms,
        bundle.anchors(),
        intermediates,
        now,
        KeyUsage::client_auth(),
        None,
        None,
    )
    .map(|_| ())
    .map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_ids_is_bounded() {
        let ids: Vec<SpiffeId> = (0..12).map(|n| format!("spiffe://a/{n}").parse().unwrap()).collect();
        assert_eq!(listed(ids.iter().take(0)), "none");
        assert_eq!(listed(ids.iter().take(2)), "spiffe://a/0, spiffe://a/1");
        let all = listed(ids.iter());
        assert!(all.ends_with("spiffe://a/7 and 4 more"), "{all}");
    }
}
