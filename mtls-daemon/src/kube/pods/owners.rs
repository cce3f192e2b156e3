//! Whose an address is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::kube::objects::Pod;

/// The pod that has each address now. A pod that has ended keeps its addresses in its status while others have them already; of
/// two that live the younger has it. Pods on the node's own network have none of their own.
pub fn owners<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeMap<IpAddr, &'a Pod> {
    let mut owners: BTreeMap<IpAddr, &Pod> = BTreeMap::new();
    let rank = |pod: &'a Pod| (pod.created, !pod.terminating, &pod.uid);
    for pod in pods {
        if pod.is_over() || pod.host_network {
            continue;
        }
        for address in &pod.addresses {
            let owner = owners.entry(*address).or_insert(pod);
            if rank(pod) > rank(owner) {
                *owner = pod;
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::super::testing::good;
    use super::*;
    use serde_json::json;

    fn pod(name: &str, address: &str, second: u32, more: (&str, bool)) -> Pod {
        good(&json!({
            "metadata": { "name": name, "namespace": "shop", "uid": name, "creationTimestamp": format!("2026-11-29T10:00:{second:02}Z") },
            "spec": { "hostNetwork": more.1 },
            "status": { "phase": more.0, "podIP": address },
        }))
    }

    #[test]
    fn an_address_is_the_youngest_living_pods_in_whatever_order_they_are_heard_of() {
        let mut pods = vec![
            pod("old", "10.0.0.1", 1, ("Running", false)),
            pod("new", "10.0.0.1", 2, ("Pending", false)),
            pod("ended", "10.0.0.1", 3, ("Failed", false)),
            pod("host", "10.0.0.9", 4, ("Running", true)),
            pod("other", "fd00::1", 1, ("Running", false)),
        ];
        for _ in 0..2 {
            let owners = owners(&pods);
            let names: Vec<_> = owners.values().map(|pod| pod.key.name.as_str()).collect();
            assert_eq!(names, ["new", "other"]);
            pods.reverse();
        }
    }
}
