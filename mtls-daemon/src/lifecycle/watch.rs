//! Reacting to files: new identities and a new configuration.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::build::BundleFiles;
use super::daemon::{Daemon, lock};

/// Time for a writer to finish, from the first event on.
const SETTLE: Duration = Duration::from_millis(300);
/// How often bundle files are looked at even if nothing announced a change: one may be a link to elsewhere.
const POLL: Duration = Duration::from_secs(5);

/// Puts every change of an identity into force.
pub async fn identities(daemon: Arc<Daemon>) {
    let mut changes = daemon.store.subscribe();
    while changes.changed().await.is_ok() {
        daemon.refresh_identities();
    }
}

/// Reloads when the configuration's files change.
pub async fn configuration(daemon: Arc<Daemon>) {
    let changed = Arc::new(Notify::new());
    let announce = Arc::clone(&changed);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            announce.notify_one();
        }
    });
    let mut watcher = match watcher {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "configuration files cannot be watched; send SIGHUP after a change");
            return;
        }
    };
    let mut watched = HashSet::new();
    let mut seen = bundle_files(&daemon, &BundleFiles::default());
    loop {
        for directory in directories(&daemon) {
            // The default drop-in directory need not exist; it is looked for again at each event.
            if watched.contains(&directory) || !directory.exists() {
                continue;
            }
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => drop(watched.insert(directory)),
                Err(error) => {
                    let directory = directory.display();
                    tracing::warn!(%error, %directory, "cannot watch; send SIGHUP after a change");
                }
            }
        }
        loop {
            tokio::select! {
                () = changed.notified() => break tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep(POLL) => {}
            }
            let now = bundle_files(&daemon, &seen);
            let changed = now != seen;
            seen = now;
            if changed {
                break;
            }
        }
        seen = bundle_files(&daemon, &seen);
        // One that was removed and made again is another directory, which is watched anew.
        watched.retain(|directory: &PathBuf| directory.exists());
        let relevant = Arc::clone(&daemon);
        let _ = tokio::task::spawn_blocking(move || relevant.reload_if_changed()).await;
    }
}

fn bundle_files(daemon: &Daemon, before: &BundleFiles) -> BundleFiles {
    let config = Arc::clone(&lock(&daemon.changing).prepared.config);
    before.again(&config)
}

/// Directories, not files: editors and Kubernetes replace files by renaming.
fn directories(daemon: &Daemon) -> Vec<PathBuf> {
    let config = Arc::clone(&lock(&daemon.changing).prepared.config);
    let bundles = config.trust.bundles.iter().map(|bundle| bundle.file.as_path());
    let files = bundles.chain([daemon.config_file.as_path()]);
    let parents = files.filter_map(|file| match file.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Some(PathBuf::from(".")),
        parent => parent.map(PathBuf::from),
    });
    parents.chain(config.drop_in_directories.iter().cloned()).collect()
}
