//! Noticing that a file changed: events on its directory, and a stamp to compare.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::identity::Wake;

/// What `stat` says about each file; `None` for one that is not there. Follows symlinks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<Option<FileStamp>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(paths: &[PathBuf]) -> Self {
        let stat = |path: &PathBuf| {
            let data = std::fs::metadata(path).ok()?;
            Some(FileStamp {
                device: data.dev(),
                inode: data.ino(),
                size: data.size(),
                modified: (data.mtime(), data.mtime_nsec()),
            })
        };
        Self(paths.iter().map(stat).collect())
    }
}

/// Watches directories (a file that is replaced by rename loses a watch of its own).
pub(super) struct Directories {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl Directories {
    pub(super) fn new(wake: Wake) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reads are events too.
            if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                wake.wake();
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "no file events (raise fs.inotify.max_user_instances); identity files are looked at every 5 s");
        }
        Self { watcher: watcher.ok(), watched: BTreeSet::new() }
    }

    /// Watches exactly these directories; one that cannot be watched is tried again at the next call.
    pub(super) fn watch(&mut self, wanted: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.watched.difference(wanted) {
            // Fails if the directory itself is gone, which is as good.
            let _ = watcher.unwatch(gone);
        }
        self.watched.retain(|directory| wanted.contains(directory));
        for directory in wanted {
            if !self.watched.contains(directory)
                && watcher.watch(directory, RecursiveMode::NonRecursive).is_ok()
            {
                self.watched.insert(directory.clone());
            }
        }
    }
}
