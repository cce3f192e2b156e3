//! The access log: one JSON line per connection that ended or was refused.
//!
//! Connections hand their record to a bounded queue and go on; one thread writes. When the queue or the disk is
//! full, lines are lost and counted, never waited for.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;

use super::connection::ConnectionRecord;

/// Records that may wait for the writer.
const QUEUE: usize = 8192;
/// Bytes that are written at once.
const BATCH: usize = 64 * 1024;
/// How often the writer looks whether the file was renamed.
const RENAME_CHECK: Duration = Duration::from_secs(1);
/// How often losses are spoken of in the daemon's log.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// How long a line may wait for a non-blocking standard output, in steps.
const STALL_STEPS: u32 = 200;
const STALL_STEP: Duration = Duration::from_millis(5);

/// Where access log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to, made with mode 0640.
    File(PathBuf),
}

/// Why the access log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    /// The file cannot be opened.
    #[error(
        "cannot open the access log {path}: {source}; create its directory, or set access_log to another file"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Standard output is closed.
    #[error("cannot use standard output for the access log: {0}; set access_log to a file or to off")]
    Stdout(#[source] io::Error),
    /// No thread for the writer.
    #[error("cannot start the access log's thread: {0}; look at the limit of processes (ulimit -u)")]
    Thread(#[source] io::Error),
}

enum Message {
    Line(Arc<ConnectionRecord>),
    Flush(SyncSender<()>),
    Wake,
}

/// The face that connections see. Dropping it ends the writer once the queue is empty.
#[derive(Debug)]
pub struct AccessLog {
    queue: Option<SyncSender<Message>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The target, for people.
    name: String,
    reopen: AtomicBool,
    lost: Counter,
    /// Seconds after `epoch` at which a loss may be spoken of again.
    quiet_until: AtomicU64,
    epoch: Instant,
}

impl Shared {
    fn new(name: String, lost: Counter) -> Arc<Self> {
        Arc::new(Self {
            name,
            reopen: AtomicBool::new(false),
            lost,
            quiet_until: AtomicU64::new(0),
            epoch: Instant::now(),
        })
    }

    fn lose(&self, lines: u64, why: &dyn std::fmt::Display) {
        self.lost.inc_by(lines);
        let now = self.epoch.elapsed();
        let until = self.quiet_until.load(Ordering::Relaxed);
        let next = (now + WARN_EVERY).as_secs();
        if now.as_secs() >= until
            && self.quiet_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            tracing::warn!(
                lost_so_far = self.lost.get(),
                "access log {}: lines are being lost: {why}; free space or speed up its disk, it recovers by itself",
                self.name
            );
        }
    }
}

impl AccessLog {
    /// Opens the target and starts the writer; `lost` counts the lines that could not be written.
    ///
    /// # Errors
    /// When the target cannot be opened now. Once it is open, a failure only loses lines.
    pub fn start(target: Target, lost: Counter) -> Result<Self, AccessLogError> {
        Self::with_queue(target, lost, QUEUE)
    }

    fn with_queue(target: Target, lost: Counter, queue: usize) -> Result<Self, AccessLogError> {
        let name = match &target {
            Target::Off => "off".to_owned(),
            Target::Stdout => "on standard output".to_owned(),
            Target::File(path) => path.display().to_string(),
        };
        let shared = Shared::new(name, lost);
        let Some(sink) = Sink::open(target)? else { return Ok(Self { queue: None, shared }) };
        let (sender, receiver) = mpsc::sync_channel(queue);
        let writer = Writer { sink, shared: Arc::clone(&shared), torn: false, checked: Instant::now() };
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(AccessLogError::Thread)?;
        Ok(Self { queue: Some(sender), shared })
    }

    /// A log that writes nothing.
    #[must_use]
    pub fn off() -> Self {
        Self { queue: None, shared: Shared::new("off".to_owned(), Counter::default()) }
    }

    /// Queues a line. Never waits.
    pub fn write(&self, record: Arc<ConnectionRecord>) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(Message::Line(record)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.shared.lose(1, &"its queue is full"),
            Err(TrySendError::Disconnected(_)) => self.shared.lose(1, &"its writer has ended"),
        }
    }

    /// Opens the file anew before the next line, as log rotation asks with SIGHUP. Never waits.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        if let Some(queue) = &self.queue {
            // A full queue means that the writer is awake: it sees the flag anyway.
            let _full = queue.try_send(Message::Wake);
        }
    }

    /// Waits until what was queued before is written or lost; `false` if that took longer than `timeout`.
    /// Blocks: call it when the daemon stops, outside of the async tasks.
    #[must_use]
    pub fn flush(&self, timeout: Duration) -> bool {
        let Some(queue) = &self.queue else { return true };
        let deadline = Instant::now() + timeout;
        let (done, wait) = mpsc::sync_channel(1);
        let mut message = Message::Flush(done);
        loop {
            match queue.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => message = back,
                Err(TrySendError::Full(_)) => return false,
            }
            std::thread::sleep(STALL_STEP);
        }
        wait.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }
}

/// What the writer writes to. `path` is set for a file, which can be renamed under us.
struct Sink {
    file: File,
    path: Option<PathBuf>,
}

impl Sink {
    fn open(target: Target) -> Result<Option<Self>, AccessLogError> {
        match target {
            Target::Off => Ok(None),
            Target::Stdout => {
                // A duplicate without std's buffer: that one would keep half a line after an error.
                let file = io::stdout().as_fd().try_clone_to_owned().map_err(AccessLogError::Stdout)?.into();
                Ok(Some(Self { file, path: None }))
            }
            Target::File(path) => match open_append(&path) {
                Ok(file) => Ok(Some(Self { file, path: Some(path) })),
                Err(source) => Err(AccessLogError::Open { path, source }),
            },
        }
    }

    /// Whether the path now names another file than the one that is open, or none.
    fn was_renamed(&self) -> bool {
        let Some(path) = &self.path else { return false };
        match (std::fs::metadata(path), self.file.metadata()) {
            (Ok(there), Ok(here)) => (there.dev(), there.ino()) != (here.dev(), here.ino()),
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            (_, Err(_)) => true,
        }
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Appends the line of a record, with its newline.
///
/// # Errors
/// When a value has no JSON form, such as a time before the year 0. Nothing is appended then.
pub fn append_line(lines: &mut Vec<u8>, record: &ConnectionRecord) -> Result<(), serde_json::Error> {
    let start = lines.len();
    match serde_json::to_writer(&mut *lines, record) {
        Ok(()) => {
            lines.push(b'\n');
            Ok(())
        }
        Err(error) => {
            lines.truncate(start);
            Err(error)
        }
    }
}

struct Writer {
    sink: Sink,
    shared: Arc<Shared>,
    /// The last line was written in part: end it before the next one.
    torn: bool,
    checked: Instant,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Ok(first) = queue.recv() {
            batch.clear();
            let mut flushed = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Line(record) => self.append(&mut batch, &record),
                    Message::Flush(done) => flushed.push(done),
                    Message::Wake => {}
                }
                next = if batch.len() < BATCH { queue.try_recv().ok() } else { None };
            }
            self.follow_rotation();
            self.write(&batch);
            for done in flushed {
                // Who gave up waiting is gone, which is fine.
                let _gone = done.send(());
            }
        }
    }

    fn append(&self, batch: &mut Vec<u8>, record: &ConnectionRecord) {
        if let Err(error) = append_line(batch, record) {
            self.shared.lose(1, &error);
        }
    }

    fn follow_rotation(&mut self) {
        let asked = self.shared.reopen.swap(false, Ordering::Acquire);
        let due = self.checked.elapsed() >= RENAME_CHECK;
        if due {
            self.checked = Instant::now();
        }
        let Some(path) = &self.sink.path else { return };
        if !(asked || due && self.sink.was_renamed()) {
            return;
        }
        match open_append(path) {
            Ok(file) => {
                self.sink.file = file;
                self.torn = false;
            }
            // Lines keep going to the file that is open; the next batch tries again.
            Err(error) => {
                self.shared.reopen.store(true, Ordering::Release);
                self.shared.lose(0, &format_args!("cannot open {} anew: {error}", path.display()));
            }
        }
    }

    fn write(&mut self, batch: &[u8]) {
        if batch.is_empty() {
            return;
        }
        if self.torn {
            match write_part(&mut self.sink.file, b"\n") {
                (1, _) => self.torn = false,
                (_, error) => return self.lose(batch, error),
            }
        }
        let (written, error) = write_part(&mut self.sink.file, batch);
        let rest = batch.get(written..).unwrap_or_default();
        if !rest.is_empty() {
            self.torn = written > 0 && batch.get(written - 1) != Some(&b'\n');
            self.lose(rest, error);
        }
    }

    fn lose(&self, unwritten: &[u8], error: Option<io::Error>) {
        let lines = unwritten.iter().filter(|byte| **byte == b'\n').count();
        let error = error.unwrap_or_else(|| io::ErrorKind::WriteZero.into());
        self.shared.lose(lines as u64, &error);
    }
}

/// Writes as much as it can; how much that was, and what stopped it.
fn write_part(file: &mut File, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut written = 0;
    let mut stalled = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, None),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Whoever shares our standard output may have made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && stalled < STALL_STEPS => {
                stalled += 1;
                std::thread::sleep(STALL_STEP);
            }
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::super::connection::{ConnectionId, Ending, tests::live};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn record(id: u64) -> Arc<ConnectionRecord> {
        Arc::new(live(id).ended(Ending::Closed))
    }

    fn ids(path: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str::<ConnectionRecord>(line).unwrap().id.as_u64()).collect()
    }

    #[test]
    fn each_record_is_one_line_of_json_in_a_file_that_others_cannot_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.jsonl");
        let lost = Counter::default();
        let log = AccessLog::start(Target::File(path.clone()), lost.clone()).unwrap();
        for id in 0..1000 {
            log.write(record(id));
        }
        assert!(log.flush(PATIENCE));
        assert_eq!(ids(&path), (0..1000).collect::<Vec<_>>());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o007, 0);
        assert_eq!(lost.get(), 0);
    }

    #[test]
    fn a_record_that_has_no_line_leaves_the_others_as_they_were() {
        let mut lines = Vec::new();
        append_line(&mut lines, &record(1)).unwrap();
        let before = lines.clone();
        let mut bad = ConnectionRecord::clone(&record(2));
        bad.time = bad.time.replace_year(-1).unwrap();
        append_line(&mut lines, &bad).unwrap_err();
        assert_eq!(lines, before);
    }

    #[test]
    fn off_writes_nothing_and_loses_nothing() {
        let lost = Counter::default();
        let log = AccessLog::start(Target::Off, lost.clone()).unwrap();
        log.write(record(1));
        log.reopen();
        assert!(log.flush(Duration::ZERO));
        assert_eq!(lost.get(), 0);
    }

    #[test]
    fn standard_output_can_be_the_target() {
        let log = AccessLog::start(Target::Stdout, Counter::default()).unwrap();
        assert!(log.flush(PATIENCE));
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_refused_at_start_with_its_name_and_a_mend() {
        let path = PathBuf::from("/nonexistent/access.jsonl");
        let error = AccessLog::start(Target::File(path), Counter::default()).unwrap_err().to_string();
        assert!(
            error.contains("/nonexistent/access.jsonl") && error.contains("create its directory"),
            "{error}"
        );
    }

    #[test]
    fn a_full_disk_loses_lines_and_counts_them_and_the_log_recovers_by_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.jsonl");
        symlink("/dev/full", &path).unwrap();
        let lost = Counter::default();
        let log = AccessLog::start(Target::File(path.clone()), lost.clone()).unwrap();
        for id in 0..10 {
            log.write(record(id));
        }
        assert!(log.flush(PATIENCE));
        assert_eq!(lost.get(), 10);

        // Space again: the path names a real file, which the writer notices by itself.
        std::fs::remove_file(&path).unwrap();
        std::thread::sleep(RENAME_CHECK);
        log.write(record(10));
        assert!(log.flush(PATIENCE));
        assert_eq!(ids(&path), [10]);
        assert_eq!(lost.get(), 10);
    }

    #[test]
    fn a_writer_that_stands_still_fills_the_queue_and_no_connection_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // A pipe that is full of empty lines, and a reader that does not read: the first write blocks.
        let mut reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let size = nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        let size = usize::try_from(size).unwrap();
        reader.write_all(&vec![b'\n'; size]).unwrap();
        let lost = Counter::default();
        let log = AccessLog::with_queue(Target::File(path), lost.clone(), 16).unwrap();
        let total = 2000;
        let start = Instant::now();
        for id in 0..total {
            log.write(record(id));
        }
        assert!(start.elapsed() < Duration::from_secs(5), "write() waited");
        assert!(lost.get() > 0);
        assert!(!log.flush(Duration::from_millis(50)), "flush must give up on a writer that stands still");

        // The reader wakes up: every line that was not counted as lost arrives whole.
        let lost = lost.get();
        let mut text = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        let mut lines = 0;
        while lines < total - lost {
            let count = reader.read(&mut chunk).unwrap();
            text.extend_from_slice(&chunk[..count]);
            lines = (text.iter().filter(|b| **b == b'\n').count() - size.min(text.len())) as u64;
        }
        for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            serde_json::from_slice::<ConnectionRecord>(line).unwrap();
        }
        assert_eq!(lines, total - lost);
    }

    #[test]
    fn a_line_written_in_part_is_ended_before_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.jsonl");
        let shared = Arc::new(Shared {
            name: "log".to_owned(),
            reopen: AtomicBool::new(false),
            lost: Counter::default(),
            quiet_until: AtomicU64::new(0),
            epoch: Instant::now(),
        });
        let sink = Sink::open(Target::File(path.clone())).unwrap().unwrap();
        let mut writer = Writer { sink, shared, torn: false, checked: Instant::now() };
        // What a disk that fills up in the middle of a line leaves behind.
        writer.sink.file.write_all(b"{\"time\":\"20").unwrap();
        writer.torn = true;
        let mut batch = Vec::new();
        writer.append(&mut batch, &record(5));
        writer.write(&batch);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "{\"time\":\"20");
        assert_eq!(serde_json::from_str::<ConnectionRecord>(lines[1]).unwrap().id, ConnectionId::from_u64(5));
        assert!(!writer.torn);
    }

    #[test]
    fn reopen_and_rename_both_lead_to_the_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.jsonl");
        let log = AccessLog::start(Target::File(path.clone()), Counter::default()).unwrap();
        log.write(record(1));
        assert!(log.flush(PATIENCE));

        let first = directory.path().join("access.jsonl.1");
        std::fs::rename(&path, &first).unwrap();
        log.reopen();
        assert!(log.flush(PATIENCE));
        assert!(path.exists(), "SIGHUP makes the new file at once");
        log.write(record(2));
        assert!(log.flush(PATIENCE));
        assert_eq!((ids(&first), ids(&path)), (vec![1], vec![2]));

        let second = directory.path().join("access.jsonl.2");
        std::fs::rename(&path, &second).unwrap();
        std::thread::sleep(RENAME_CHECK);
        log.write(record(3));
        assert!(log.flush(PATIENCE));
        assert_eq!((ids(&second), ids(&path)), (vec![2], vec![3]));
    }

    #[test]
    fn a_reopen_that_fails_keeps_the_open_file_and_tries_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/access.jsonl");
        let (logs, moved) = (directory.path().join("logs"), directory.path().join("moved"));
        std::fs::create_dir(&logs).unwrap();
        let lost = Counter::default();
        let log = AccessLog::start(Target::File(path.clone()), lost.clone()).unwrap();
        std::fs::rename(&logs, &moved).unwrap();
        log.reopen();
        log.write(record(1));
        assert!(log.flush(PATIENCE));
        assert_eq!(ids(&moved.join("access.jsonl")), [1]);
        std::fs::create_dir(&logs).unwrap();
        log.write(record(2));
        assert!(log.flush(PATIENCE));
        assert_eq!(ids(&path), [2]);
        assert_eq!(lost.get(), 0);
    }

    #[test]
    fn losses_are_spoken_of_at_most_once_a_minute() {
        let shared = Shared {
            name: "log".to_owned(),
            reopen: AtomicBool::new(false),
            lost: Counter::default(),
            quiet_until: AtomicU64::new(0),
            epoch: Instant::now(),
        };
        let warnings = Counting::default();
        let count = Arc::clone(&warnings.0);
        tracing::subscriber::with_default(warnings, || {
            for _ in 0..1000 {
                shared.lose(1, &"the disk is full");
            }
        });
        assert_eq!((count.load(Ordering::Relaxed), shared.lost.get()), (1, 1000));
    }

    #[derive(Default)]
    struct Counting(Arc<AtomicU64>);

    impl tracing::Subscriber for Counting {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }
}
