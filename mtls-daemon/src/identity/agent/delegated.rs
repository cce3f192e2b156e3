//! SPIRE's Delegated Identity API: the SVIDs of the workloads that this node hosts, by their selectors.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;

use super::answer::{self, Entry, at};
use super::error::{Cause, Fault};
use super::feed::{Call, Feed};
use super::messages::{
    self, Selector, SubscribeToX509BundlesRequest, SubscribeToX509BundlesResponse,
    SubscribeToX509SvidsRequest, SubscribeToX509SvidsResponse, X509SvidWithKey,
};
use super::{Agent, AgentError, SpireSelector};
use crate::identity::leaf::show;
use crate::identity::{Identity, IdentityError, IdentitySource, SpiffeId, TrustBundles, TrustDomain, Wake};

/// `SubscribeToX509SVIDs`, for one set of selectors.
#[derive(Debug)]
pub(super) struct SubscribeToX509Svids(pub BTreeSet<SpireSelector>);

/// What a workload with these selectors is entitled to.
#[derive(Debug, PartialEq)]
pub(super) struct Delegated {
    svids: Vec<Entry>,
    federates_with: BTreeSet<TrustDomain>,
}

impl Call for SubscribeToX509Svids {
    type Request = SubscribeToX509SvidsRequest;
    type Response = SubscribeToX509SvidsResponse;
    type Answer = Delegated;

    const PATH: &'static str = messages::SUBSCRIBE_TO_X509_SVIDS;

    fn request(&self) -> SubscribeToX509SvidsRequest {
        let selector = |selector: &SpireSelector| Selector {
            r#type: selector.kind().into(),
            value: selector.value().into(),
        };
        SubscribeToX509SvidsRequest { selectors: self.0.iter().map(selector).collect() }
    }

    fn read(&self, response: SubscribeToX509SvidsResponse, now: SystemTime) -> Result<Delegated, Fault> {
        let svids = response.x509_svids.iter().enumerate().map(|(index, svid)| entry(index, svid, now));
        let svids = svids.collect::<Result<_, _>>()?;
        let mut federates_with = BTreeSet::new();
        for (index, text) in response.federates_with.iter().enumerate() {
            let domain = answer::trust_domain(text).map_err(at(format!("federates_with[{index}]")))?;
            federates_with.insert(domain);
        }
        Ok(Delegated { svids, federates_with })
    }
}

fn entry(index: usize, message: &X509SvidWithKey, now: SystemTime) -> Result<Entry, Fault> {
    let field = |name: &str| format!("x509_svids[{index}].{name}");
    let svid = message.x509_svid.as_ref().ok_or_else(|| at(field("x509_svid"))(Cause::Missing))?;
    let parts = svid.id.as_ref().ok_or_else(|| at(field("x509_svid.id"))(Cause::Missing))?;
    // "The path SHOULD have a leading slash" (spiffeid.proto).
    let slash = if parts.path.starts_with('/') { "" } else { "/" };
    let id = answer::spiffe_id(&format!("spiffe://{}{slash}{}", parts.trust_domain, parts.path))
        .map_err(at(field("x509_svid.id")))?;
    let read = || {
        if svid.cert_chain.is_empty() {
            return Err(at(field("x509_svid.cert_chain"))(Cause::Missing));
        }
        if message.x509_svid_key.is_empty() {
            return Err(at(field("x509_svid_key"))(Cause::Missing));
        }
        let chain = svid.cert_chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
        answer::svid(&id, chain, &message.x509_svid_key, now).map_err(at(field("x509_svid")))
    };
    let svid = read();
    Ok(Entry { id, svid })
}

/// `SubscribeToX509Bundles`: the roots of every trust domain that the agent knows.
#[derive(Debug)]
pub(super) struct SubscribeToX509Bundles;

impl Call for SubscribeToX509Bundles {
    type Request = SubscribeToX509BundlesRequest;
    type Response = SubscribeToX509BundlesResponse;
    type Answer = TrustBundles;

    const PATH: &'static str = messages::SUBSCRIBE_TO_X509_BUNDLES;

    fn request(&self) -> SubscribeToX509BundlesRequest {
        SubscribeToX509BundlesRequest {}
    }

    fn read(&self, response: SubscribeToX509BundlesResponse, _: SystemTime) -> Result<TrustBundles, Fault> {
        answer::bundles("ca_certificates", &response.ca_certificates)
    }
}

/// The identity of one workload from the Delegated Identity API: of the SVIDs that its selectors entitle it to, the one
/// with its SPIFFE ID; with the roots of its trust domain, and of those that its registration entries federate with.
#[derive(Debug)]
pub struct DelegatedSource {
    agent: Arc<Agent>,
    id: SpiffeId,
    selectors: BTreeSet<SpireSelector>,
    feeds: OnceLock<Feeds>,
}

#[derive(Debug)]
struct Feeds {
    svids: Arc<Feed<SubscribeToX509Svids>>,
    bundles: Arc<Feed<SubscribeToX509Bundles>>,
}

impl DelegatedSource {
    /// Nothing is asked before [`IdentitySource::connect`].
    #[must_use]
    pub fn new(agent: Arc<Agent>, id: SpiffeId, selectors: BTreeSet<SpireSelector>) -> Self {
        Self { agent, id, selectors, feeds: OnceLock::new() }
    }

    fn shown_selectors(&self) -> String {
        let list: Vec<_> = self.selectors.iter().map(ToString::to_string).collect();
        list.join(", ")
    }
}

impl IdentitySource for DelegatedSource {
    fn fetch(&self, now: SystemTime) -> Result<Identity, IdentityError> {
        let Some(Feeds { svids, bundles }) = self.feeds.get() else {
            return Err(Arc::new(AgentError::Pending { socket: self.agent.socket().to_owned() }).into());
        };
        let delegated = svids.current()?;
        let Some(entry) = delegated.svids.iter().find(|entry| entry.id == self.id) else {
            return Err(IdentityError::Withdrawn(format!(
                "{}: for the selectors {} the agent has the SVIDs of {}, and none of {}; check the registration entry",
                self.agent.socket().display(),
                show(&self.shown_selectors()),
                answer::listed(delegated.svids.iter().map(|entry| &entry.id)),
                self.id
            )));
        };
        let svid = entry.svid.clone().map_err(|fault| svids.refuse(fault))?;
        let known = bundles.current()?;
        let own = svid.id.trust_domain();
        // It may have come after `now`; its own validity was checked then, and is again by who uses it.
        let now = now.max(svid.not_before);
        let roots = known.get(own).ok_or_else(|| Cause::NoRoots(own.clone()));
        let roots = roots.and_then(|roots| answer::vouches(roots, &svid, now).map(|()| roots));
        let roots = roots.map_err(|cause| bundles.refuse(at("ca_certificates")(cause)))?;
        let foreign = delegated.federates_with.iter().filter(|domain| *domain != own);
        let mut trusted: TrustBundles =
            foreign.filter_map(|domain| Some((domain.clone(), known.get(domain)?.clone()))).collect();
        trusted.add(own.clone(), roots.clone());
        Ok(Identity { svid, bundles: trusted })
    }

    fn version(&self) -> u64 {
        // Both only grow.
        self.feeds.get().map_or(0, |feeds| feeds.svids.version().wrapping_add(feeds.bundles.version()))
    }

    fn connect(&self, wake: &Wake) {
        let feeds = self.feeds.get_or_init(|| Feeds {
            svids: self.agent.x509_svids(&self.selectors),
            bundles: self.agent.x509_bundles(),
        });
        feeds.svids.tell(wake);
        feeds.bundles.tell(wake);
    }

    fn is_told(&self) -> bool {
        true
    }

    fn is_local(&self) -> bool {
        false
    }

    fn renews(&self) -> bool {
        false
    }

    fn kind(&self) -> &'static str {
        "delegated_identity"
    }

    fn describe(&self) -> String {
        format!("{} {} {:?}", self.agent.socket().display(), self.id, self.selectors)
    }
}
