//! Why the embedded CA refuses.

use std::path::PathBuf;

use super::Phase;
use crate::identity::{BundleError, SpiffeId, SvidError, TrustDomain};

/// Why the embedded CA cannot be used, or cannot issue.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A system call failed.
    #[error("cannot {action} {}: {source}; check that the path is right and that mtlsd may use it", path.display())]
    Io {
        /// What was tried: "read", "create", …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others may read a key or change the directory.
    #[error("{} has mode {mode:04o}, so others can get at the CA's keys; run chmod {want:o} {}", path.display(), path.display())]
    TooOpen {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        want: u32,
    },
    /// Some files of the CA are there and this one is not.
    #[error("{} is missing while other files of this CA exist; restore it from a backup, or remove the whole directory to make a new CA (every peer then needs the new root)", .0.display())]
    Missing(PathBuf),
    /// A file that is not what it should be.
    #[error("{} cannot be used: {reason}; restore it from a backup", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that is not the one of its certificate.
    #[error("{} is not the key of {}; restore the pair from one backup", key.display(), certificate.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The root's `notAfter` is in the past.
    #[error("the root {} {when}; remove the directory to make a new CA (every peer then needs the new root), or check this node's clock", path.display())]
    Expired {
        /// The root's file.
        path: PathBuf,
        /// How long ago.
        when: String,
    },
    /// The root's `notBefore` is in the future.
    #[error("the root {} is {when}; check this node's clock", path.display())]
    NotYetValid {
        /// The root's file.
        path: PathBuf,
        /// How much longer.
        when: String,
    },
    /// The CA in the directory was made for another trust domain.
    #[error("the CA in {} was made for trust domain {found}, and {wanted} is configured; set trust_domain: {found}, or give the CA another directory", directory.display())]
    OtherTrustDomain {
        /// The directory.
        directory: PathBuf,
        /// What its root says.
        found: TrustDomain,
        /// What the configuration says.
        wanted: TrustDomain,
    },
    /// What the CA issues would be refused by everyone who trusts its root.
    #[error("the intermediate {} was not issued by the root {}; restore both from one backup", intermediate.display(), root.display())]
    BrokenChain {
        /// The intermediate's file.
        intermediate: PathBuf,
        /// The root's file.
        root: PathBuf,
    },
    /// An ID of another trust domain, or of the trust domain itself.
    #[error("{id} cannot be issued by the CA of trust domain {domain}; use spiffe://{domain}/<path>")]
    ForeignId {
        /// The ID.
        id: SpiffeId,
        /// What the CA issues for.
        domain: TrustDomain,
    },
    /// A text that is no DNS name.
    #[error("{0:?} is not a DNS name; give dns_names as host names such as web.example.org")]
    DnsName(String),
    /// The root's key is kept elsewhere, and something needs it.
    #[error("the root's key is not in {}; give the directory that holds it with --root", .0.display())]
    RootElsewhere(PathBuf),
    /// A directory that holds another root than the CA's.
    #[error("the root in {} is not a root of the CA in {}; give the directory that was written with it", root.display(), directory.display())]
    OtherRoot {
        /// Where the other root is.
        root: PathBuf,
        /// The CA.
        directory: PathBuf,
    },
    /// A root would overwrite another.
    #[error("{} exists; a root is not written over another: choose an empty directory", .0.display())]
    RootExists(PathBuf),
    /// The root's key would be kept with the CA after all.
    #[error("{} is inside the CA's directory {}; an offline root is kept elsewhere: give another directory", root.display(), directory.display())]
    RootInside {
        /// Where the root was to be.
        root: PathBuf,
        /// The CA.
        directory: PathBuf,
    },
    /// `ca init --offline-root` stopped half-way.
    #[error("making the CA in {} with an offline root was interrupted, and nothing was issued; remove the directory and run `mtlsd ca init --offline-root` again", .0.display())]
    Interrupted(PathBuf),
    /// The intermediate's `notAfter` is in the past, and the root's key is elsewhere.
    #[error("the intermediate {} {when}; run `mtlsd ca renew-intermediate --directory {} --root DIRECTORY_OF_THE_ROOT`, or check this node's clock", path.display(), directory.display())]
    IntermediateExpired {
        /// The intermediate's file.
        path: PathBuf,
        /// The CA.
        directory: PathBuf,
        /// How long ago.
        when: String,
    },
    /// A step of a rotation at the wrong time.
    #[error("the rotation of {} is in phase {found}, and this step needs phase {wanted}; see `mtlsd ca list`", directory.display())]
    Phase {
        /// The CA.
        directory: PathBuf,
        /// Where it is.
        found: Phase,
        /// Where it must be.
        wanted: Phase,
    },
    /// Certificates of the old root are still valid.
    #[error(
        "{count} certificates under the old root are valid until {until}; wait until then, or give --force if nobody uses them"
    )]
    StillInUse {
        /// How many.
        count: usize,
        /// The last `notAfter`.
        until: String,
    },
    /// The issuance log cannot be written.
    #[error("cannot {action} the issuance log {}: {source}; no certificate is issued without its line: make room, and let mtlsd write there", path.display())]
    Log {
        /// What was tried.
        action: &'static str,
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A serial or an ID that was never issued, or has expired.
    #[error("{what} names no certificate of {} that is valid now; see `mtlsd ca list`", directory.display())]
    NotIssued {
        /// The serial or the ID.
        what: String,
        /// The CA.
        directory: PathBuf,
    },
    /// Key generation or signing failed.
    #[error("cannot {action}: {reason}; the system may be out of memory or random numbers")]
    Crypto {
        /// What was tried.
        action: &'static str,
        /// What the library said.
        reason: String,
    },
    /// The root is not a usable bundle.
    #[error("the root cannot be used as a trust bundle: {0}")]
    Bundle(#[from] BundleError),
    /// What was issued is not a usable SVID.
    #[error("what was issued cannot be used: {0}")]
    Svid(#[from] SvidError),
}
