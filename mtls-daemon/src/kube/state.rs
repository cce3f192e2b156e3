//! What was heard last, on disk: `kubernetes.json` in the state directory, for its owner only. A daemon that starts while the API
//! server is away goes on with it.

use std::fs::{self, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::objects::{
    AuthorizationPolicy, EndpointSlice, MutualTlsPolicy, Namespace, Node, PeerAuthentication, Pod, Service,
};
use crate::identity::leaf::show;
use crate::replace::{ReplaceError, replace_file};

const FILE: &str = "kubernetes.json";
/// What cannot be read is renamed to this; the one before it is lost.
const BROKEN: &str = "kubernetes.json.broken";
/// Largest file that is read, in bytes.
pub const MAX_STATE_BYTES: u64 = 256 << 20;
/// The format that this version reads and writes. It changes with the form of any object that is kept.
const VERSION: u32 = 2;

/// Why it is not on disk, or cannot be read from it.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The kernel said no.
    #[error("cannot {what} {path}: {source}; check the state directory and its disk", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not what this version writes.
    #[error("{path} cannot be used: {why}", path = .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The objects of one resource, and when the API server last said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept<K> {
    /// In seconds of Unix time.
    heard: u64,
    objects: Vec<Arc<K>>,
}

impl<K> Kept<K> {
    /// As of so long ago.
    pub(super) fn new(objects: Vec<Arc<K>>, age: Duration) -> Self {
        Self { heard: now().saturating_sub(age.as_secs()), objects }
    }

    /// The objects, and how old they are.
    pub(super) fn into_parts(self) -> (Vec<Arc<K>>, Duration) {
        (self.objects, Duration::from_secs(now().saturating_sub(self.heard)))
    }

    /// The objects.
    #[must_use]
    pub fn objects(&self) -> &[Arc<K>] {
        &self.objects
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Everything that is kept. What is not there was never heard.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Remembered {
    /// Namespaces.
    pub namespaces: Option<Kept<Namespace>>,
    /// Nodes.
    pub nodes: Option<Kept<Node>>,
    /// Pods of this node.
    pub pods: Option<Kept<Pod>>,
    /// Services.
    pub services: Option<Kept<Service>>,
    /// What is behind services.
    pub endpoint_slices: Option<Kept<EndpointSlice>>,
    /// Istio's modes.
    pub peer_authentications: Option<Kept<PeerAuthentication>>,
    /// Istio's rules.
    pub authorization_policies: Option<Kept<AuthorizationPolicy>>,
    /// mtlsd's own modes and rules.
    pub mutual_tls_policies: Option<Kept<MutualTlsPolicy>>,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    remembered: &'a Remembered,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content<T> {
    version: u32,
    remembered: T,
}

/// Where it is.
#[derive(Debug, Clone)]
pub struct StateFile {
    directory: PathBuf,
}

impl StateFile {
    /// In this state directory.
    #[must_use]
    pub fn of(state: &Path) -> Self {
        Self { directory: state.to_owned() }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// What was written last; `None`: nothing yet.
    ///
    /// # Errors
    /// It cannot be read, or is not what this version writes.
    pub fn read(&self) -> Result<Option<Remembered>, StateFileError> {
        let Some(text) = self.text()? else { return Ok(None) };
        // The version first: another one may have other fields.
        let version = self.content::<serde::de::IgnoredAny>(&text)?.version;
        if version != VERSION {
            return Err(self.broken(format!("it has version {version}, and {VERSION} is understood")));
        }
        Ok(Some(self.content::<Remembered>(&text)?.remembered))
    }

    /// What was written last. What cannot be used is set aside and warned of; then nothing is known until the API server
    /// answers.
    #[must_use]
    pub fn read_or_set_aside(&self) -> Option<Remembered> {
        let error = match self.read() {
            Ok(remembered) => return remembered,
            Err(error) => error,
        };
        let aside = self.directory.join(BROKEN);
        let renamed = fs::rename(self.path(), &aside);
        tracing::warn!(
            %error, aside = %aside.display(), renamed = renamed.is_ok(),
            "what the API server said last is not known any more; nothing is known of the cluster until it answers"
        );
        None
    }

    /// Writes beside the file and renames: whoever reads, after a power cut too, sees the old one or the new.
    ///
    /// # Errors
    /// What the kernel said; the old file is still there.
    pub fn write(&self, remembered: &Remembered) -> Result<(), StateFileError> {
        let written = replace_file(&self.directory, FILE, |file| {
            let mut output = io::BufWriter::new(file);
            serde_json::to_writer(&mut output, &Written { version: VERSION, remembered })?;
            output.write_all(b"\n")?;
            output.flush()
        });
        written.map_err(|ReplaceError { what, path, source }| StateFileError::Io { what, path, source })
    }

    fn text(&self) -> Result<Option<String>, StateFileError> {
        let path = self.path();
        // Not held up by a pipe of that name, and not led elsewhere.
        let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOFOLLOW;
        let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateFileError::Io { what: "read", path, source }),
        };
        let failed = |source| StateFileError::Io { what: "read", path: path.clone(), source };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(self.broken("it is not a file".to_owned()));
        }
        if metadata.len() > MAX_STATE_BYTES {
            return Err(self.broken(format!("it has more than {MAX_STATE_BYTES} bytes")));
        }
        let mut text = String::new();
        match BufReader::new(file.take(MAX_STATE_BYTES)).read_to_string(&mut text) {
            Ok(_) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(self.broken("it is not text".to_owned()))
            }
            Err(source) => Err(failed(source)),
        }
    }

    fn content<T: DeserializeOwned>(&self, text: &str) -> Result<Content<T>, StateFileError> {
        serde_json::from_str(text).map_err(|error| self.broken(show(&error.to_string())))
    }

    fn broken(&self, why: String) -> StateFileError {
        StateFileError::Broken { path: self.path(), why }
    }
}
