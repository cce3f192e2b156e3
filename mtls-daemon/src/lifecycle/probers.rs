//! Who probes workloads of this node: where the cgroups of probers are now. One that starts again has another cgroup.

use std::collections::BTreeSet;

use super::tables::Found;
use crate::config::{Config, Prober};
use crate::workload::Hierarchy;

/// Notes the probers that run now. `absent`: those that did not at the last look, so that each change is told once.
pub(super) fn find(
    config: &Config,
    hierarchy: Option<&Hierarchy>,
    absent: &mut BTreeSet<Prober>,
    found: &mut Found,
) {
    let before = std::mem::take(absent);
    for prober in &config.probers {
        match hierarchy.and_then(|hierarchy| hierarchy.prober(prober)) {
            Some(id) => {
                found.probers.insert(id);
            }
            None => {
                if !before.contains(prober) {
                    tracing::warn!(%prober, "a prober does not run here; until it does, what it asks of strict ports is refused");
                }
                absent.insert(prober.clone());
            }
        }
    }
    for prober in before.iter().filter(|prober| config.probers.contains(prober) && !absent.contains(prober)) {
        tracing::info!(%prober, "a prober runs");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    #[test]
    fn a_prober_is_known_while_its_cgroup_is_there() {
        let root = crate::capture::cgroup::mount_point().unwrap();
        let path = root.join(format!("mtlsd-prober-{}", std::process::id()));
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = format!(
            "trust_domain: a\nprobers: [ {{ cgroup: /{name} }}, {{ unit: mtlsd-no-such.service }} ]\n"
        );
        let config = Config::parse(&Source { path: "F".into(), text }, &[]).unwrap();
        let hierarchy = Hierarchy::of(&config);
        let mut absent = BTreeSet::new();
        let mut look = || {
            let mut found = Found::default();
            find(&config, hierarchy.as_ref(), &mut absent, &mut found);
            (found.probers, absent.len())
        };
        assert_eq!(look(), (BTreeSet::new(), 2));
        std::fs::create_dir(&path).unwrap();
        let (there, missing) = look();
        std::fs::remove_dir(&path).unwrap();
        assert_eq!((there.len(), missing), (1, 1));
        assert_eq!(look(), (BTreeSet::new(), 2));
        let mut found = Found::default();
        find(&config, None, &mut BTreeSet::new(), &mut found);
        assert!(found.probers.is_empty(), "no cgroup v2 is mounted");
    }
}
