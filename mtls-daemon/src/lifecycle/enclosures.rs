//! Where every process must belong to a workload (`unclassified`): what the programs need to know of the node, and the
//! record of whom they refused.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::serve::unspecified;
use super::tables::Found;
use crate::capture::namespace::cookie;
use crate::capture::{CaptureEvent, cgroup};
use crate::config::{Config, Selector, UnclassifiedNamespaces, UnclassifiedPods};
use crate::datapath::relay::Relay;
use crate::observe::connection::{Direction, Ending};
use crate::observe::observer::Captured;
use crate::observe::{Reason, Refusal};
use crate::sys::netns::Netns;
use crate::workload::{self, Hierarchy};

/// What metrics and records call the workload of a process that has none: no workload can be named so.
pub const NO_WORKLOAD: &str = "(none)";

/// The configuration names any.
pub fn any(config: &Config) -> bool {
    let unclassified = &config.unclassified;
    !unclassified.cgroups.is_empty() || unclassified.namespaces == UnclassifiedNamespaces::Refuse
}

/// Notes the enclosures that exist now, and what the daemon itself is in.
pub fn find(config: &Config, mount: Option<&Path>, found: &mut Found) {
    if !any(config) {
        return;
    }
    if let Some(mount) = mount {
        let cgroups = config.unclassified.cgroups.iter();
        found.enclosed = cgroups.filter_map(|path| cgroup::find(mount, path)).collect();
        // The daemon asks issuers and responders from where it is.
        found.known = cgroup::own_below(mount, &config.unclassified.cgroups).into_iter().collect();
    }
    let namespaces = config.unclassified.namespaces == UnclassifiedNamespaces::Refuse;
    let of_pods =
        config.kubernetes.as_ref().is_some_and(|settings| settings.unclassified == UnclassifiedPods::Refuse);
    if !namespaces && !of_pods {
        return;
    }
    let own = Netns::open(Path::new("/proc/self/ns/net")).ok().and_then(|own| cookie(&own).ok());
    if of_pods {
        // The API server, etcd and the network plug-in are pods on the node's network: a daemon that is away must not keep them
        // from coming back.
        found.left_alone.extend(own);
    }
    if namespaces {
        found.own_netns = own;
        if own.is_none() {
            tracing::error!(
                "unclassified.namespaces is not in force: the daemon's own namespace has no cookie"
            );
        }
    }
}

/// Notes where a workload that is left alone is: its processes are known, though nothing is captured.
pub fn know(
    select: &Selector,
    hierarchy: Option<&Hierarchy>,
    cookies: &mut HashMap<(u64, u64), u64>,
    found: &mut Found,
) {
    if let (Some(_), Some(hierarchy)) = (&select.pod, hierarchy) {
        let directory = hierarchy.directory(select).ok().flatten();
        found.known.extend(directory.and_then(|directory| cgroup::find(hierarchy.mount(), &directory)));
        return;
    }
    let Ok(here) = workload::find(select, hierarchy) else { return };
    if let Some(cgroup) = here.cgroup {
        found.known.push(cgroup);
        return;
    }
    for netns in here.namespaces {
        let known = cookies.get(&netns.identity()).copied().or_else(|| cookie(&netns).ok());
        if let Some(known) = known {
            cookies.insert(netns.identity(), known);
            if let Some(uid) = select.uid {
                found.users.insert((known, uid), 0);
                continue;
            }
            found.left_alone.insert(known);
        }
    }
}

/// Records what the programs refused to a process without workload.
pub fn refused(relay: &Arc<Relay>, event: &CaptureEvent, pid: Option<u32>, from: Option<SocketAddr>) {
    let to = event.destination;
    let observed = relay.observer.begin(
        &relay.observer.metrics().workload(NO_WORKLOAD),
        Captured {
            direction: Direction::Outbound,
            local_identity: None,
            source: from.unwrap_or_else(|| unspecified(to)),
            destination: to,
        },
    );
    let who = pid.map_or_else(|| "a process without a captured connect()".to_owned(), describe);
    observed.end(Ending::Refused(Refusal::new(Reason::Unclassified, format!("{who} to {to}"))));
}

/// Name and cgroup of a process, as far as it is still there.
fn describe(pid: u32) -> String {
    let proc = Path::new("/proc").join(pid.to_string());
    let read = |file: &str| std::fs::read_to_string(proc.join(file)).ok();
    let name = read("comm").unwrap_or_else(|| "it has ended".to_owned());
    let cgroup =
        read("cgroup").and_then(|text| cgroup::own_path(&text).map(|path| format!(", cgroup /{path}")));
    format!("process {pid} ({}{})", name.trim_end(), cgroup.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    fn found(text: &str) -> Found {
        let text = format!("trust_domain: a\n{text}\n");
        let config = Config::parse(&Source { path: "F".into(), text }, &[]).unwrap();
        let mut found = Found::default();
        find(&config, None, &mut found);
        found
    }

    #[test]
    fn the_nodes_own_network_is_never_closed_by_what_closes_pods() {
        let own = cookie(&Netns::open(Path::new("/proc/self/ns/net")).unwrap()).unwrap();
        assert_eq!(found("kubernetes: {}").left_alone, [own].into());
        assert!(found("kubernetes: { unclassified: allow }").left_alone.is_empty());
        let both = found("kubernetes: {}\nunclassified: { namespaces: refuse }");
        assert_eq!((both.left_alone, both.own_netns), ([own].into(), Some(own)));
        assert!(found("unclassified: { cgroups: [/a] }").left_alone.is_empty());
    }
}
