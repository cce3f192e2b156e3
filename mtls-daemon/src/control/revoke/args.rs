//! The command line of `mtlsd revoke` and `mtlsd unrevoke`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{RevokeRequest, UnrevokeRequest};
use crate::control::ca_cli::lifetime;
use crate::control::cli::AskOptions;
use crate::identity::SpiffeId;
use crate::identity::leaf::Unreadable;
use crate::identity::revocation::{CertificateMarks, Serial, Sha256, Target};

/// Largest certificate file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A certificate file that names nothing to revoke.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFileError {
    /// The disk.
    #[error("cannot read {path}: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its content.
    #[error("{path}: {why}; give one certificate in PEM or DER", path = .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// What a command is about; one of them.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").args(["serial", "spiffe_id", "key", "certificate"]))]
pub struct TargetArgs {
    /// Every certificate with this serial number, in hex
    #[arg(long, value_name = "HEX")]
    pub serial: Option<Serial>,
    /// Every certificate with this SPIFFE ID
    #[arg(long, value_name = "ID")]
    pub spiffe_id: Option<SpiffeId>,
    /// Every certificate of the key whose SubjectPublicKeyInfo has this SHA-256
    #[arg(long, value_name = "SHA256HEX")]
    pub key: Option<Sha256>,
    /// The first certificate in this file, by its serial and issuer
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,
}

/// Arguments of `mtlsd revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// What to revoke.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Why, for those who look at the refused connections
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,
    /// For how long: a number with s, m, h or d; otherwise until `mtlsd unrevoke`
    #[arg(long = "for", value_name = "DURATION", value_parser = lifetime)]
    pub duration: Option<Duration>,
    /// Show what is revoked
    #[arg(long, required_unless_present = "target", conflicts_with_all = ["target", "reason", "duration"])]
    pub list: bool,
    /// Where and how.
    #[command(flatten)]
    pub options: AskOptions,
}

/// Arguments of `mtlsd unrevoke`.
#[derive(Debug, Args)]
#[command(mut_group("target", |group| group.required(true)))]
pub struct UnrevokeArgs {
    /// What to take back.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Where and how.
    #[command(flatten)]
    pub options: AskOptions,
}

impl TargetArgs {
    /// `None` if none is given.
    fn target(&self) -> Result<Option<Target>, CertificateFileError> {
        if let Some(path) = &self.certificate {
            return of_file(path).map(Some);
        }
        let serial = self.serial.clone().map(|serial| Target::Serial { serial, issuer: None });
        let id = || self.spiffe_id.clone().map(|id| Target::SpiffeId { id });
        let key = || self.key.map(|sha256| Target::Key { sha256 });
        Ok(serial.or_else(id).or_else(key))
    }
}

impl RevokeArgs {
    /// What to ask of the daemon; `None`: the list.
    pub(in crate::control) fn request(&self) -> Result<Option<RevokeRequest>, CertificateFileError> {
        let seconds = self.duration.map(|duration| duration.as_secs());
        let request = |target| RevokeRequest { target, reason: self.reason.clone(), seconds };
        Ok(self.target.target()?.map(request))
    }
}

impl UnrevokeArgs {
    /// What to ask of the daemon; clap lets nothing through without a target.
    pub(in crate::control) fn request(&self) -> Result<Option<UnrevokeRequest>, CertificateFileError> {
        Ok(self.target.target()?.map(|target| UnrevokeRequest { target }))
    }
}

fn of_file(path: &Path) -> Result<Target, CertificateFileError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|source| CertificateFileError::Read { path: path.to_owned(), source })?;
    let content = |why: String| CertificateFileError::Content { path: path.to_owned(), why };
    let der = match CertificateDer::pem_slice_iter(&bytes).next() {
        Some(Ok(der)) => der,
        Some(Err(error)) => return Err(content(format!("the PEM in it is broken: {error}"))),
        None => CertificateDer::from(bytes.as_slice()),
    };
    let (marks, issuer) = CertificateMarks::read_named(&der)
        .map_err(|Unreadable(why)| content(format!("there is no certificate that can be read: {why}")))?;
    Ok(Target::Serial { serial: marks.serial, issuer: Some(issuer) })
}
