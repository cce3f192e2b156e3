//! Noticing that a file changed: events on its directory, and a stamp to compare.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{Context, Digest, SHA256};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use zeroize::Zeroizing;

use crate::identity::Wake;

/// Times of files are coarser than changes: two within one tick look the same. The coarsest file systems count in 2 s.
const TICK: Duration = Duration::from_secs(3);
/// So much of a file that has just changed is read: more than the largest that is taken, a CRL.
const MAX_READ: u64 = 17 << 20;

/// What `stat` says about each file, and what is in those that it cannot vouch for; `None` for one that is not there. Follows
/// symlinks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stamp(BTreeMap<PathBuf, Option<FileStamp>>);

#[derive(Debug, Clone)]
struct FileStamp {
    times: Times,
    /// Of what changed so shortly before it was looked at that `stat` would not tell of another change; empty if it cannot
    /// be read.
    content: Option<Vec<u8>>,
    /// Another change would have another time.
    settled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Times {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Unlike the other, nobody can set it.
    changed: (i64, i64),
}

/// Whether it has settled is no difference: the same file settles by itself.
impl PartialEq for FileStamp {
    fn eq(&self, other: &Self) -> bool {
        self.times == other.times && self.content == other.content
    }
}

impl Eq for FileStamp {}

impl Stamp {
    /// As the files are now.
    pub(crate) fn of(paths: &[PathBuf]) -> Self {
        Self::default().again(paths)
    }

    /// As the files are now, to be compared with this one: what has settled since is not read again.
    pub(crate) fn again(&self, paths: &[PathBuf]) -> Self {
        let look = |path: &PathBuf| {
            let before = self.0.get(path).and_then(Option::as_ref);
            (path.clone(), FileStamp::of(path, before, SystemTime::now()))
        };
        Self(paths.iter().map(look).collect())
    }
}

impl FileStamp {
    /// `now`: before the file is looked at.
    fn of(path: &Path, before: Option<&Self>, now: SystemTime) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        let times = Times::of(&data);
        let before = before.filter(|before| before.times == times);
        if let Some(before) = before.filter(|before| before.settled) {
            return Some(before.clone());
        }
        let settled = times.are_settled(now);
        let known = before.is_some_and(|before| before.content.is_some());
        let content = (!settled || known).then(|| match data.is_file() {
            true => digest(path).map(|digest| digest.as_ref().to_vec()).unwrap_or_default(),
            false => Vec::new(),
        });
        Some(Self { times, content, settled })
    }
}

impl Times {
    fn of(data: &Metadata) -> Self {
        Self {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }

    /// Whether a change from `now` on would have another time. After a clock that was set back one would perhaps not.
    fn are_settled(&self, now: SystemTime) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let since = Duration::new(
            u64::try_from(seconds).unwrap_or_default(),
            u32::try_from(nanoseconds).unwrap_or_default(),
        );
        now.duration_since(UNIX_EPOCH).is_ok_and(|now| now > since.saturating_add(TICK))
    }
}

/// It may be a private key: nothing of it stays.
fn digest(path: &Path) -> io::Result<Digest> {
    // A FIFO in its place would have it wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    let mut file = file.take(MAX_READ);
    let mut context = Context::new(&SHA256);
    let mut buffer = Zeroizing::new([0; 8192]);
    loop {
        match file.read(buffer.as_mut_slice()) {
            Ok(0) => return Ok(context.finish()),
            Ok(read) => context.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Other content in the same inode, with the size and the times of before: as when a file is replaced within a tick, and the
    /// number of the inode is used again.
    fn replace_within_a_tick(path: &Path, content: &[u8], stamp: &Stamp) -> Stamp {
        fs::write(path, content).unwrap();
        let mut now = stamp.again(&[path.to_owned()]);
        let [before, after] = [stamp, &now].map(|stamp| stamp.0[path].clone().unwrap());
        assert_eq!(before.times.size, after.times.size);
        now.0.insert(path.to_owned(), Some(FileStamp { times: before.times, ..after }));
        now
    }

    #[test]
    fn another_content_within_a_tick_is_another_stamp() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tls.crt");
        fs::write(&path, b"one").unwrap();
        let first = Stamp::of(std::slice::from_ref(&path));
        assert_eq!(first.again(std::slice::from_ref(&path)), first);
        assert_ne!(replace_within_a_tick(&path, b"two", &first), first);
        fs::remove_file(&path).unwrap();
        assert_ne!(first.again(std::slice::from_ref(&path)), first);
    }

    #[test]
    fn what_has_settled_is_not_read_again_and_what_was_read_before_is_once_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tls.crt");
        fs::write(&path, b"one").unwrap();
        let (now, later) = (SystemTime::now(), SystemTime::now() + 2 * TICK);
        let young = FileStamp::of(&path, None, now).unwrap();
        assert!(young.content.is_some() && !young.settled);
        let settled = FileStamp::of(&path, Some(&young), later).unwrap();
        assert!(settled == young && settled.settled);
        let other = FileStamp { content: Some(vec![1]), ..settled.clone() };
        assert_eq!(FileStamp::of(&path, Some(&other), later).unwrap(), other, "not read");
        let old = FileStamp::of(&path, None, later).unwrap();
        assert!(old.content.is_none() && old.settled, "never read");
        let back = FileStamp::of(&path, None, now - Duration::from_secs(3600)).unwrap();
        assert!(!back.settled, "the clock was set back");
    }

    #[test]
    fn what_is_no_file_is_not_waited_for_and_of_a_large_one_little_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let large = directory.path().join("large");
        File::create(&large).unwrap().set_len(1 << 40).unwrap();
        let paths = [fifo, large, directory.path().to_owned(), directory.path().join("gone")];
        let stamp = Stamp::of(&paths);
        assert_eq!(stamp.again(&paths), stamp);
        assert!(stamp.0[&paths[3]].is_none());
    }
}
