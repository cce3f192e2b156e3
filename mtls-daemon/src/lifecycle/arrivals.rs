//! Looking at the node as soon as kubelet makes a cgroup for a pod, or the first process comes into one: what is not known yet may
//! not send, and a container may connect within a moment.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{CreateKind, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::daemon::{Daemon, lock};
use crate::config::Config;
use crate::kube::pods::roots;
use crate::workload::Hierarchy;

/// After an event: a container's first process is in its cgroup a moment before it is in its pod's namespace.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(0),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
];
/// How often it is looked whether kubelet has begun.
const POLL: Duration = Duration::from_secs(5);

/// Where kubelet's cgroups are, if this node is one of a cluster's.
fn places(config: &Config) -> Vec<PathBuf> {
    let (Some(settings), Some(hierarchy)) = (&config.kubernetes, Hierarchy::of(config)) else {
        return Vec::new();
    };
    let segments: Vec<&str> = settings.cgroup_root.iter().map(String::as_str).collect();
    roots(&segments).iter().map(|path| hierarchy.root().join(path)).collect()
}

/// Has the daemon look whenever something arrives. The regular looks go on beside it, so that whatever goes wrong here costs half a
/// second and no more.
pub(super) async fn watch(daemon: Arc<Daemon>) {
    let places = places(&lock(&daemon.changing).prepared.config);
    if places.is_empty() {
        return;
    }
    let mut arrivals = match Arrivals::new() {
        Ok(arrivals) => arrivals,
        Err(error) => {
            tracing::warn!(%error, "new pods are noticed only twice a second; raise fs.inotify.max_user_instances");
            return;
        }
    };
    loop {
        arrivals.watch(&places);
        tokio::select! {
            () = arrivals.next() => {
                for pause in PAUSES {
                    sleep(pause).await;
                    daemon.look_now.notify_one();
                }
            }
            () = sleep(POLL) => {}
        }
    }
}

/// Events below some cgroups.
struct Arrivals {
    watcher: RecommendedWatcher,
    watched: HashSet<PathBuf>,
    happened: Arc<Notify>,
    /// It was said that not all can be watched.
    told: bool,
}

impl Arrivals {
    fn new() -> notify::Result<Self> {
        let happened = Arc::new(Notify::new());
        let announce = Arc::clone(&happened);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_arrival(&event)) {
                announce.notify_one();
            }
        })?;
        Ok(Self { watcher, watched: HashSet::new(), happened, told: false })
    }

    /// Watches those that exist, and all below them.
    fn watch(&mut self, places: &[PathBuf]) {
        self.watched.retain(|place| place.exists());
        for place in places {
            if self.watched.contains(place) || !place.exists() {
                continue;
            }
            match self.watcher.watch(place, RecursiveMode::Recursive) {
                Ok(()) => drop(self.watched.insert(place.clone())),
                Err(error) if !self.told => {
                    self.told = true;
                    let place = place.display();
                    tracing::warn!(%error, %place, "new pods are noticed only twice a second; raise fs.inotify.max_user_watches");
                }
                Err(_) => {}
            }
        }
    }

    async fn next(&self) {
        self.happened.notified().await;
    }
}

/// A new cgroup, or one that has processes now and had none (cgroups(7): `cgroup.events` is modified).
fn is_arrival(event: &notify::Event) -> bool {
    let of_events = |path: &PathBuf| path.file_name().is_some_and(|name| name == Path::new("cgroup.events"));
    match event.kind {
        EventKind::Create(CreateKind::Folder) => true,
        EventKind::Modify(ModifyKind::Data(_)) => event.paths.iter().any(of_events),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::cgroup;

    /// A cgroup that is removed in the end, with those below it.
    struct Tree(PathBuf);

    impl Tree {
        fn new() -> Self {
            let name = format!("mtlsd-test-arrivals-{}", std::process::id());
            let tree = Self(cgroup::mount_point().unwrap().join(name));
            std::fs::create_dir(&tree.0).unwrap();
            tree
        }

        fn cgroup(&self, path: &str) -> PathBuf {
            let directory = self.0.join(path);
            std::fs::create_dir_all(&directory).unwrap();
            directory
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            for directory in crate::workload::directories_below(&self.0).iter().rev() {
                let _ = std::fs::remove_dir(directory);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_new_cgroup_and_its_first_process_are_noticed_however_deep_and_reading_is_not() {
        let tree = Tree::new();
        let places = [tree.0.join("kubepods.slice"), tree.0.join("kubepods")];
        let mut arrivals = Arrivals::new().unwrap();
        arrivals.watch(&places);
        assert!(arrivals.watched.is_empty(), "kubelet has not begun");
        tree.cgroup("kubepods.slice");
        arrivals.watch(&places);
        assert_eq!(arrivals.watched, [places[0].clone()].into());

        let noticed = async |arrivals: &Arrivals| {
            let limit = Duration::from_secs(30);
            tokio::time::timeout(limit, arrivals.next()).await.expect("it is noticed");
            // Whatever else the same step announces.
            while tokio::time::timeout(Duration::from_millis(300), arrivals.next()).await.is_ok() {}
        };
        let pod = tree.cgroup("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda.slice");
        noticed(&arrivals).await;
        let container = tree.cgroup(&format!("{}/cri-containerd-1.scope", pod.display()));
        noticed(&arrivals).await;
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        std::fs::write(container.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
        noticed(&arrivals).await;

        std::fs::read_to_string(container.join("cgroup.procs")).unwrap();
        std::fs::read_to_string(container.join("cgroup.events")).unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(300), arrivals.next()).await;
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(quiet.is_err(), "the daemon's own looks must not cause others");
    }
}
