//! The SPIFFE Workload API: the SVIDs that mtlsd itself is entitled to, and the roots that go with them.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use super::answer::{self, Entry, at};
use super::error::{Cause, Fault};
use super::feed::{Call, Feed};
use super::messages::{self, X509SvidRequest, X509SvidResponse};
use super::{Agent, AgentError};
use crate::identity::{Bundle, Identity, IdentityError, IdentitySource, SpiffeId, TrustBundles, Wake};

/// `FetchX509SVID` (SPIFFE Workload API, section 5.2.1).
#[derive(Debug)]
pub(super) struct FetchX509Svid;

/// What mtlsd is entitled to.
#[derive(Debug, PartialEq)]
pub(super) struct Entitled {
    /// Each with the roots of its own trust domain.
    svids: Vec<(Entry, Bundle)>,
    federated: TrustBundles,
}

impl Call for FetchX509Svid {
    type Request = X509SvidRequest;
    type Response = X509SvidResponse;
    type Answer = Entitled;

    const PATH: &'static str = messages::FETCH_X509_SVID;

    fn request(&self) -> X509SvidRequest {
        X509SvidRequest {}
    }

    fn read(&self, response: X509SvidResponse, now: SystemTime) -> Result<Entitled, Fault> {
        if response.svids.is_empty() {
            return Err(at("svids")(Cause::Missing));
        }
        if !response.crl.is_empty() {
            tracing::debug!(crls = response.crl.len(), "CRLs of the Workload API are not used");
        }
        let mut svids = Vec::new();
        for (index, svid) in response.svids.iter().enumerate() {
            let field = |name: &str| format!("svids[{index}].{name}");
            let id = answer::spiffe_id(&svid.spiffe_id).map_err(at(field("spiffe_id")))?;
            let bundle = answer::bundle(&svid.bundle).map_err(at(field("bundle")))?;
            let read = || {
                let chain = answer::certificates(&svid.x509_svid).map_err(at(field("x509_svid")))?;
                if svid.x509_svid_key.is_empty() {
                    return Err(at(field("x509_svid_key"))(Cause::Missing));
                }
                let svid =
                    answer::svid(&id, chain, &svid.x509_svid_key, now).map_err(at(field("x509_svid")))?;
                answer::vouches(&bundle, &svid, now).map_err(at(field("bundle")))?;
                Ok(svid)
            };
            let svid = read();
            svids.push((Entry { id, svid }, bundle));
        }
        let federated = answer::bundles("federated_bundles", &response.federated_bundles)?;
        Ok(Entitled { svids, federated })
    }
}

/// The identity of one workload from the Workload API: of the SVIDs that mtlsd is entitled to, the one with the
/// workload's SPIFFE ID.
#[derive(Debug)]
pub struct WorkloadApiSource {
    agent: Arc<Agent>,
    id: SpiffeId,
    feed: OnceLock<Arc<Feed<FetchX509Svid>>>,
}

impl WorkloadApiSource {
    /// Nothing is asked before [`IdentitySource::connect`].
    #[must_use]
    pub fn new(agent: Arc<Agent>, id: SpiffeId) -> Self {
        Self { agent, id, feed: OnceLock::new() }
    }
}

impl IdentitySource for WorkloadApiSource {
    fn fetch(&self, _now: SystemTime) -> Result<Identity, IdentityError> {
        let Some(feed) = self.feed.get() else {
            return Err(Arc::new(AgentError::Pending { socket: self.agent.socket().to_owned() }).into());
        };
        let entitled = feed.current()?;
        let Some((entry, bundle)) = entitled.svids.iter().find(|(entry, _)| entry.id == self.id) else {
            return Err(IdentityError::Withdrawn(format!(
                "{}: the agent gives mtlsd the SVIDs of {}, and none of {}; check the registration entry",
                self.agent.socket().display(),
                answer::listed(entitled.svids.iter().map(|(entry, _)| &entry.id)),
                self.id
            )));
        };
        let svid = entry.svid.clone().map_err(|fault| feed.refuse(fault))?;
        let own = svid.id.trust_domain();
        let foreign = entitled.federated.iter().filter(|(domain, _)| *domain != own);
        let mut bundles: TrustBundles =
            foreign.map(|(domain, bundle)| (domain.clone(), bundle.clone())).collect();
        bundles.add(own.clone(), bundle.clone());
        Ok(Identity { svid, bundles })
    }

    fn version(&self) -> u64 {
        self.feed.get().map_or(0, |feed| feed.version())
    }

    fn connect(&self, wake: &Wake) {
        self.feed.get_or_init(|| self.agent.workload_api()).tell(wake);
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
        "workload_api"
    }

    fn describe(&self) -> String {
        format!("{} {}", self.agent.socket().display(), self.id)
    }
}
