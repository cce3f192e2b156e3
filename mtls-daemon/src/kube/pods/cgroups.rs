//! Where kubelet puts a pod's processes, by either of its cgroup drivers.

use std::path::PathBuf;

use crate::kube::objects::{Pod, QosClass};

/// The cgroups that may be the pod's, below the cgroup v2 mount; the first that is there is it. `root`: kubelet's `--cgroup-root`,
/// as its segments; in most clusters there is none.
///
/// Its ID changes when everything of the pod dies and is made anew: look it up again then.
#[must_use]
pub fn cgroups(pod: &Pod, root: &[&str]) -> Vec<PathBuf> {
    let own = format!("pod{}", pod.cgroup_uid());
    let classes: &[Option<&str>] = match pod.qos {
        Some(QosClass::Guaranteed) => &[None],
        Some(QosClass::Burstable) => &[Some("burstable")],
        Some(QosClass::BestEffort) => &[Some("besteffort")],
        None => &[Some("burstable"), Some("besteffort"), None],
    };
    let path = |class: &Option<&str>| {
        let names: Vec<&str> =
            root.iter().copied().chain(["kubepods"]).chain(*class).chain([own.as_str()]).collect();
        [by_systemd(&names), names.iter().collect()]
    };
    classes.iter().flat_map(path).collect()
}

/// The cgroups below which all pods are, by either driver.
#[must_use]
pub fn roots(root: &[&str]) -> Vec<PathBuf> {
    let names: Vec<&str> = root.iter().copied().chain(["kubepods"]).collect();
    vec![by_systemd(&names), names.iter().collect()]
}

/// Each slice has the names of those above it in its own; a `-` within a name would be one more level.
fn by_systemd(names: &[&str]) -> PathBuf {
    let mut slice = String::new();
    let level = |name: &&str| {
        if !slice.is_empty() {
            slice.push('-');
        }
        slice.push_str(&name.replace('-', "_"));
        format!("{slice}.slice")
    };
    names.iter().map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::good;
    use super::*;
    use serde_json::json;

    fn paths(qos: &str, mirror: Option<&str>, root: &[&str]) -> Vec<String> {
        let annotations = mirror.map_or(json!({}), |uid| json!({ "kubernetes.io/config.mirror": uid }));
        let pod: Pod = good(&json!({
            "metadata": { "name": "a", "namespace": "shop", "uid": "1a2b-3c", "annotations": annotations },
            "status": { "qosClass": qos },
        }));
        cgroups(&pod, root).into_iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn a_pod_is_where_either_driver_of_kubelet_puts_it() {
        assert_eq!(
            paths("Burstable", None, &[]),
            [
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a2b_3c.slice",
                "kubepods/burstable/pod1a2b-3c"
            ]
        );
        assert_eq!(
            paths("Guaranteed", None, &[]),
            ["kubepods.slice/kubepods-pod1a2b_3c.slice", "kubepods/pod1a2b-3c"]
        );
        assert_eq!(paths("", None, &[]).len(), 6, "all classes, where none is said yet");
    }

    #[test]
    fn a_static_pod_is_where_its_manifest_says_and_another_root_is_in_front() {
        assert_eq!(
            paths("BestEffort", Some("abcdef"), &["kubelet"]),
            [
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podabcdef.slice",
                "kubelet/kubepods/besteffort/podabcdef"
            ]
        );
    }
}
