//! Why the embedded CA refuses.

use std::path::PathBuf;

use super::Phase;
use crate::identity::{BundleError, Pkcs11Error, SpiffeId, SvidError, TrustDomain};

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
    /// The intermediate, one above it or the root has expired, and a PKI elsewhere has signed it.
    #[error("{name} in the chain {} {when}; run `mtlsd ca csr --renew --directory {}`, have it signed by your PKI and `mtlsd ca import` the answer, or check this node's clock", path.display(), directory.display())]
    SiteExpired {
        /// The chain's file.
        path: PathBuf,
        /// CN of what has expired.
        name: String,
        /// The CA.
        directory: PathBuf,
        /// How long ago.
        when: String,
    },
    /// The root of this CA is not ours.
    #[error("the intermediate in {} was signed by your PKI, not by a root of mtlsd's; run `mtlsd ca csr --renew`, have it signed and `mtlsd ca import` the answer", .0.display())]
    SignedElsewhere(PathBuf),
    /// A renewal by a PKI elsewhere of what our own root has signed.
    #[error("the intermediate in {} was signed by mtlsd's own root: run `mtlsd ca renew-intermediate`, or `mtlsd ca csr` without --renew to move to your PKI", .0.display())]
    NotOfSite(PathBuf),
    /// `mtlsd ca csr` was run, and the answer was not imported yet.
    #[error("a key in {} waits for its certificate, so no other CA is made there; have requested/intermediate.csr signed and run `mtlsd ca import`, or remove the directory requested", .0.display())]
    AwaitsImport(PathBuf),
    /// An import without a request.
    #[error("{} does not exist, so nothing waits there for a certificate; run `mtlsd ca csr` first, or give --directory", .0.display())]
    NothingRequested(PathBuf),
    /// `mtlsd ca csr` is run again.
    #[error("{} waits to be signed; `mtlsd ca import` the answer, or remove {} to begin anew", csr.display(), directory.display())]
    AlreadyRequested {
        /// The request.
        csr: PathBuf,
        /// Its directory.
        directory: PathBuf,
    },
    /// A directory without CA, and nobody says for whom it shall vouch.
    #[error("there is no CA in {} yet; say with --trust-domain for which trust domain it shall issue", .0.display())]
    NoTrustDomain(PathBuf),
    /// The second CA would have the first one's key.
    #[error("{0} is the key in force; a rotation needs another one: give another --label")]
    KeyInForce(String),
    /// What a PKI elsewhere has signed cannot be used.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The key in the token cannot be made or used.
    #[error(transparent)]
    Pkcs11(#[from] Pkcs11Error),
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

/// Why `mtlsd ca import` refuses. Certificates are counted from 1, the intermediate; the root comes last.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// A file without the certificates that should be in it.
    #[error("{} cannot be imported: {reason}; give the certificates as PEM, the intermediate first and then those above it", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody said what is believed.
    #[error("which root shall peers believe? give it with --root FILE, from a source that you trust")]
    NoRoot,
    /// A renewal under another root.
    #[error("{} is not the root in force; a new root needs a new key, so that both are believed for a while: run `mtlsd ca csr` without --renew", .0.display())]
    OtherRoot(PathBuf),
    /// A certificate for a key that is not ours.
    #[error("the first certificate of {} is for another key than {wanted}; have the request signed that `mtlsd ca csr` wrote last", path.display())]
    OtherKey {
        /// The chain's file.
        path: PathBuf,
        /// Which keys there are.
        wanted: String,
    },
    /// A certificate that may not sign others.
    #[error(
        "certificate {number} ({name}) is no CA certificate (basicConstraints CA:TRUE is missing); have it signed with the extensions that the request asks for"
    )]
    NotCa {
        /// Which.
        number: usize,
        /// Its subject.
        name: String,
    },
    /// Its key usage forbids what it is for.
    #[error(
        "certificate {number} ({name}) may not be used: its key usage lacks {lacks}; have it signed with keyCertSign and cRLSign"
    )]
    KeyUsage {
        /// Which.
        number: usize,
        /// Its subject.
        name: String,
        /// The missing bit.
        lacks: &'static str,
    },
    /// Its extended key usage forbids what its leaves are for.
    #[error(
        "certificate {number} ({name}) limits what is below it to an extended key usage without {lacks}; leave that extension out, or add serverAuth and clientAuth"
    )]
    ExtendedUsage {
        /// Which.
        number: usize,
        /// Its subject.
        name: String,
        /// The missing usage.
        lacks: &'static str,
    },
    /// The path length constraint of one above leaves no room.
    #[error(
        "certificate {number} ({name}) has a path length of {allowed}, and {below} CA certificates are below it; have the intermediate signed by a CA that may do so"
    )]
    PathLength {
        /// Which.
        number: usize,
        /// Its subject.
        name: String,
        /// Its pathLenConstraint.
        allowed: u32,
        /// How many there are.
        below: usize,
    },
    /// A certificate out of its validity.
    #[error("certificate {number} ({name}) {when}; have it issued again, or check this node's clock")]
    Validity {
        /// Which.
        number: usize,
        /// Its subject.
        name: String,
        /// By how much.
        when: String,
    },
    /// The issuer is not the next certificate.
    #[error(
        "certificate {number} ({name}) was issued by {issuer}, and the next one is {next}; put the chain in order, and give the root that it ends at"
    )]
    Order {
        /// Which.
        number: usize,
        /// Its subject.
        name: String,
        /// Its issuer.
        issuer: String,
        /// The subject of the next one.
        next: String,
    },
    /// It vouches for another trust domain.
    #[error(
        "certificate {number} ({name}) is for {found}, and this CA issues for spiffe://{wanted}; have it signed with that URI SAN, or without one"
    )]
    TrustDomain {
        /// Which.
        number: usize,
        /// Its subject.
        name: String,
        /// Its URI SANs.
        found: String,
        /// The CA's.
        wanted: TrustDomain,
    },
    /// A constraint that no program with rustls takes.
    #[error(
        "certificate {number} ({name}) has a name constraint on {kind}, which mtlsd's verifier (webpki) does not implement and refuses; have it signed without (docs/embedded-ca.md)"
    )]
    NameConstraint {
        /// Which.
        number: usize,
        /// Its subject.
        name: String,
        /// On what.
        kind: &'static str,
    },
    /// A subject that cannot be repeated byte by byte as the issuer of leaves.
    #[error(
        "the subject of certificate 1 ({name}) cannot be used: {reason}; have it signed with the subject of the request"
    )]
    Subject {
        /// The subject.
        name: String,
        /// What about it.
        reason: &'static str,
    },
    /// CRLs and the log name an issuer by its CN.
    #[error(
        "certificate 1 has no CN of its own in its subject ({0}); the log and the CRLs need one: have it signed with the subject of the request"
    )]
    NoName(String),
    /// Two CAs of one name.
    #[error(
        "certificate 1 has the name of the intermediate in force ({0}), and another key; have it signed with the subject of the request, which is another one"
    )]
    SameName(String),
    /// A renewal under another name.
    #[error(
        "certificate 1 is of {found}, and the intermediate in force is {wanted}; a renewal keeps the subject, since CRLs go by it: have it signed with the subject of the request"
    )]
    Renamed {
        /// Its subject.
        found: String,
        /// That of the intermediate in force.
        wanted: String,
    },
    /// Not a chain.
    #[error(
        "a certificate of this chain would be refused by peers: {0}; check that each was signed by the next one, up to the root that was given"
    )]
    Refused(String),
}
