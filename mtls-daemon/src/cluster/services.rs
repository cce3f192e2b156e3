//! Services whose address is turned to one of their endpoints at connect(), and those that are left to kube-proxy, with the reason.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::accounts::{Account, Accounts};
use super::offer::View;
use crate::config::{ResolvedService, is_never_captured};
use crate::kube::Key;
use crate::kube::objects::{
    Endpoint, EndpointSlice, InternalTraffic, Pod, PodRef, Protocol, Service, ServiceKind, ServicePort,
    SessionAffinity,
};

/// Most addresses and ports of Services that are resolved: half of what the kernel's table holds.
pub const MAX_SERVICES: usize = 16_384;
/// Most endpoints of all of them together, likewise.
pub const MAX_BACKENDS: usize = 65_536;
/// Most endpoints behind one address and port.
pub const MAX_ENDPOINTS: usize = 1_000;

/// Why a Service is left to kube-proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// A client shall come back to the endpoint that it had.
    Affinity,
    /// Only endpoints of the client's node are to be chosen.
    Local,
    /// It asks for something that this version does not know.
    NotKnown,
    /// Nobody serves at these of its addresses and ports.
    NoEndpoint(Vec<SocketAddr>),
    /// There are so many behind this address and port.
    TooManyEndpoints(SocketAddr, usize),
    /// The tables are full.
    Full,
    /// Another Service has this address and port, which happens for a moment when one is made anew.
    Taken(SocketAddr),
}

impl Left {
    /// Would it be resolved if it were smaller?
    #[must_use]
    pub fn is_for_its_size(&self) -> bool {
        matches!(self, Self::TooManyEndpoints(..) | Self::Full)
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Affinity => f.write_str("sessionAffinity is ClientIP"),
            Self::Local => f.write_str("internalTrafficPolicy is Local"),
            Self::NotKnown => {
                f.write_str("its sessionAffinity or internalTrafficPolicy is not known to this version")
            }
            Self::NoEndpoint(at) => {
                let at: Vec<_> = at.iter().map(ToString::to_string).collect();
                write!(f, "no serving endpoint for {}", at.join(", "))
            }
            Self::TooManyEndpoints(at, count) => {
                write!(f, "{at} has {count} endpoints, and at most {MAX_ENDPOINTS} are taken")
            }
            Self::Taken(at) => write!(f, "{at} is another service's"),
            Self::Full => {
                write!(
                    f,
                    "the table is full: at most {MAX_SERVICES} addresses and ports with {MAX_BACKENDS} endpoints"
                )
            }
        }
    }
}

/// What becomes of the Services.
#[derive(Debug, Default)]
pub(super) struct Resolution<'a> {
    /// Each address and port that is turned.
    pub services: Vec<ResolvedService>,
    /// Services of which kube-proxy turns nothing: all that somebody serves is turned here.
    whole: HashSet<&'a Key>,
    /// The others that have an address, and why.
    pub left: Vec<(String, Left)>,
}

impl<'a> Resolution<'a> {
    pub fn of(view: &'a View, accounts: &Accounts<'_>, owners: &BTreeMap<IpAddr, &Pod>) -> Self {
        let pods = Pods::new(view, accounts, owners);
        let slices = view.slices_by_service();
        let mut services: Vec<&Service> = view.services.iter().map(AsRef::as_ref).collect();
        services.sort_by(|a, b| a.key.cmp(&b.key));
        let (mut resolution, mut room) = (Self::default(), Room::default());
        for service in services {
            let behind = slices.get(&service.key).map_or(&[][..], Vec::as_slice);
            let closed = accounts.is_strict(&service.key);
            resolution.add(service, &Behind { slices: behind, pods: &pods, closed }, &mut room);
        }
        resolution
    }

    /// Is nothing of it left to kube-proxy?
    pub fn is_whole(&self, service: &Key) -> bool {
        self.whole.contains(service)
    }

    fn add(&mut self, service: &'a Service, behind: &Behind<'_>, room: &mut Room) {
        let ports: Vec<&ServicePort> =
            service.ports.iter().filter(|port| port.protocol == Protocol::Tcp && port.port != 0).collect();
        let addresses: Vec<IpAddr> =
            service.addresses.iter().copied().filter(|address| !is_never_captured(*address)).collect();
        if ports.is_empty() || addresses.is_empty() || service.kind == ServiceKind::ExternalName {
            return; // there is nothing to be turned
        }
        let name = service.key.to_string();
        let mut silent = Vec::new();
        let chosen = match choose(service, &addresses, &ports, behind, &mut silent) {
            Ok(chosen) => chosen,
            Err(why) => return self.left.push((name, why)),
        };
        if let Err(why) = room.take(&chosen) {
            return self.left.push((name, why));
        }
        if !chosen.is_empty() {
            self.whole.insert(&service.key);
        }
        let resolved = |(at, endpoints)| ResolvedService { name: name.clone(), at, endpoints };
        self.services.extend(chosen.into_iter().map(resolved));
        if !silent.is_empty() {
            self.left.push((name, Left::NoEndpoint(silent)));
        }
    }
}

type Chosen = Vec<(SocketAddr, Vec<SocketAddr>)>;

/// The endpoints of each of its addresses and ports that has any; those without are added to `silent`.
fn choose(
    service: &Service,
    addresses: &[IpAddr],
    ports: &[&ServicePort],
    behind: &Behind<'_>,
    silent: &mut Vec<SocketAddr>,
) -> Result<Chosen, Left> {
    match service.affinity {
        SessionAffinity::None => {}
        SessionAffinity::ClientIp => return Err(Left::Affinity),
        SessionAffinity::Other => return Err(Left::NotKnown),
    }
    match service.internal_traffic {
        InternalTraffic::Cluster => {}
        InternalTraffic::Local => return Err(Left::Local),
        InternalTraffic::Other => return Err(Left::NotKnown),
    }
    let mut chosen = Chosen::new();
    for address in addresses {
        for port in ports {
            let at = SocketAddr::new(*address, port.port);
            let endpoints = behind.endpoints(*address, &port.name);
            match endpoints.len() {
                0 => silent.push(at),
                count if count > MAX_ENDPOINTS => return Err(Left::TooManyEndpoints(at, count)),
                _ => chosen.push((at, endpoints.into_iter().collect())),
            }
        }
    }
    Ok(chosen)
}

/// What is behind a Service.
struct Behind<'a> {
    slices: &'a [&'a EndpointSlice],
    pods: &'a Pods<'a>,
    /// Its namespace is strict: an endpoint that is not enrolled is not chosen, or whoever adds one has clients speak plaintext.
    closed: bool,
}

impl Behind<'_> {
    /// Who serves and is not about to end; if nobody is, who still serves, as kube-proxy has it.
    fn endpoints(&self, address: IpAddr, port: &str) -> BTreeSet<SocketAddr> {
        let (mut ready, mut ending) = (BTreeSet::new(), BTreeSet::new());
        for slice in self.slices {
            let Some(number) = slice.target(port) else { continue };
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.serving) {
                // All of an endpoint's addresses lead to the same, so the first of the family is it.
                let same_family = |of: &&IpAddr| of.is_ipv4() == address.is_ipv4();
                let Some(ip) = endpoint.addresses.iter().find(same_family) else { continue };
                let at = SocketAddr::new(*ip, number);
                if !is_never_captured(*ip) && self.may_be_chosen(endpoint, at) {
                    let group = if endpoint.terminating { &mut ending } else { &mut ready };
                    group.insert(at);
                }
            }
        }
        if ready.is_empty() { ending } else { ready }
    }

    /// Not a pod of which nothing can be said yet: it may turn out to be enrolled.
    fn may_be_chosen(&self, endpoint: &Endpoint, at: SocketAddr) -> bool {
        let told = |of: &PodRef| self.pods.told.get(&of.key).is_some_and(|pod| of.is(pod));
        let is_told = endpoint.pod.as_ref().is_none_or(told);
        is_told && (!self.closed || self.pods.is_enrolled(at))
    }
}

/// Who is known.
struct Pods<'a> {
    /// Of which it can be said whether they are enrolled.
    told: HashMap<&'a Key, &'a Pod>,
    /// The addresses of those that are.
    enrolled: HashSet<IpAddr>,
    /// The same, of those on the network of their node.
    shared: HashSet<SocketAddr>,
}

impl<'a> Pods<'a> {
    fn new(view: &'a View, accounts: &Accounts<'_>, owners: &BTreeMap<IpAddr, &Pod>) -> Self {
        let mut pods = Self { told: HashMap::new(), enrolled: HashSet::new(), shared: HashSet::new() };
        for pod in &view.pods {
            let account = accounts.of(pod);
            if *account == Account::Unknown {
                continue;
            }
            pods.told.insert(&pod.key, pod.as_ref());
            if *account == Account::Bystander {
                continue;
            }
            for address in &pod.addresses {
                if owners.get(address).is_some_and(|owner| owner.uid == pod.uid) {
                    pods.enrolled.insert(*address);
                } else if pod.host_network {
                    pods.shared.extend(pod.ports.iter().map(|port| SocketAddr::new(*address, port.port)));
                }
            }
        }
        pods
    }

    fn is_enrolled(&self, at: SocketAddr) -> bool {
        self.enrolled.contains(&at.ip()) || self.shared.contains(&at)
    }
}

/// What the tables hold so far.
#[derive(Default)]
struct Room {
    backends: usize,
    taken: HashSet<SocketAddr>,
}

impl Room {
    /// A Service goes in whole, or not at all.
    fn take(&mut self, chosen: &Chosen) -> Result<(), Left> {
        if let Some((at, _)) = chosen.iter().find(|(at, _)| self.taken.contains(at)) {
            return Err(Left::Taken(*at));
        }
        let backends = chosen.iter().map(|(_, endpoints)| endpoints.len()).sum::<usize>();
        let backends = self.backends.saturating_add(backends);
        if self.taken.len().saturating_add(chosen.len()) > MAX_SERVICES || backends > MAX_BACKENDS {
            return Err(Left::Full);
        }
        self.taken.extend(chosen.iter().map(|(at, _)| *at));
        self.backends = backends;
        Ok(())
    }
}
