//! Revocation: what was marked, and the CRLs (RFC 5280 section 5) that say so.

use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateRevocationListParams, Issuer, RevokedCertParams, SerialNumber};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::admin::Crls;
use super::authority::read;
use super::directory::{Directory, INTERMEDIATE_CRT, ROOT_CRT, ROOT_KEY};
use super::log::{Entry, whole};
use super::sign::{self, Signer, date};
use super::{CaError, crypto, key};
use crate::identity::key::OwnKey;

/// Apart from the number of CRLs: a daemon takes a change of it for a revocation.
pub(super) const FILE: &str = "revoked.json";
const NUMBER: &str = "crl.number";
/// How long after its end a certificate stays in the CRLs (RFC 5280 section 3.3 wants one CRL beyond it).
pub const CRL_KEEPS: Duration = Duration::from_secs(8 * 86_400);

/// Why a certificate was revoked (RFC 5280 section 5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RevocationReason {
    /// Nothing is said.
    Unspecified,
    /// Somebody else may have the key.
    KeyCompromise,
    /// The subject is no longer what the certificate says.
    AffiliationChanged,
    /// There is a new one.
    Superseded,
    /// The workload is gone.
    CessationOfOperation,
    /// It may no longer do what the certificate lets it do.
    PrivilegeWithdrawn,
}

impl RevocationReason {
    const ALL: [(&'static str, Self); 6] = [
        ("unspecified", Self::Unspecified),
        ("keyCompromise", Self::KeyCompromise),
        ("affiliationChanged", Self::AffiliationChanged),
        ("superseded", Self::Superseded),
        ("cessationOfOperation", Self::CessationOfOperation),
        ("privilegeWithdrawn", Self::PrivilegeWithdrawn),
    ];

    /// `unspecified` is said by saying nothing (RFC 5280 section 5.3.1).
    fn code(self) -> Option<rcgen::RevocationReason> {
        Some(match self {
            Self::Unspecified => return None,
            Self::KeyCompromise => rcgen::RevocationReason::KeyCompromise,
            Self::AffiliationChanged => rcgen::RevocationReason::AffiliationChanged,
            Self::Superseded => rcgen::RevocationReason::Superseded,
            Self::CessationOfOperation => rcgen::RevocationReason::CessationOfOperation,
            Self::PrivilegeWithdrawn => rcgen::RevocationReason::PrivilegeWithdrawn,
        })
    }
}

impl FromStr for RevocationReason {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|(name, _)| *name == text).map(|(_, reason)| reason).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("write one of: {}", names.join(", "))
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Revoked {
    serial: String,
    issuer: String,
    spiffe_id: String,
    #[serde(with = "time::serde::rfc3339")]
    not_after: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    revoked_at: OffsetDateTime,
    reason: RevocationReason,
}

/// Everything that was revoked and has not expired long ago.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Revocations {
    revoked: Vec<Revoked>,
}

impl Revocations {
    pub(super) fn read(directory: &Directory) -> Result<Self, CaError> {
        match directory.read(FILE)? {
            None => Ok(Self::default()),
            Some(content) => serde_json::from_slice(&content).map_err(|error| CaError::Unreadable {
                path: directory.path(FILE),
                reason: error.to_string(),
            }),
        }
    }

    pub(super) fn write(&self, directory: &Directory) -> Result<(), CaError> {
        let content = serde_json::to_vec_pretty(self).map_err(|error| CaError::Io {
            action: "encode",
            path: directory.path(FILE),
            source: error.into(),
        })?;
        directory.write_private(FILE, &content)
    }

    pub(super) fn has(&self, serial: &str) -> bool {
        self.revoked.iter().any(|revoked| revoked.serial == serial)
    }

    pub(super) fn add(&mut self, entry: &Entry, reason: RevocationReason, now: SystemTime) {
        if !self.has(&entry.serial) {
            self.revoked.push(Revoked {
                serial: entry.serial.clone(),
                issuer: entry.issuer.clone(),
                spiffe_id: entry.spiffe_id.clone(),
                not_after: entry.not_after,
                revoked_at: whole(now),
                reason,
            });
        }
    }

    /// Drops what has expired long ago; true if there was something.
    pub(super) fn forget(&mut self, now: SystemTime) -> bool {
        let since = whole(now.checked_sub(CRL_KEEPS).unwrap_or(now));
        let before = self.revoked.len();
        self.revoked.retain(|revoked| revoked.not_after > since);
        self.revoked.len() != before
    }
}

/// The number of the next CRL (RFC 5280 section 5.2.3), written down.
pub(super) fn next_number(directory: &Directory) -> Result<u64, CaError> {
    let last = match directory.read(NUMBER)? {
        None => 0,
        Some(text) => std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok())
            .ok_or_else(|| CaError::Unreadable {
                path: directory.path(NUMBER),
                reason: "it is not a number".to_owned(),
            })?,
    };
    let number = last.saturating_add(1);
    directory.write_private(NUMBER, format!("{number}\n").as_bytes())?;
    Ok(number)
}

/// Hex as people copy it: with colons, capitals and leading zeros.
pub(super) fn plain_serial(text: &str) -> String {
    let mut plain: String = text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
    while plain.len() > 2 && plain.starts_with("00") {
        plain.drain(..2);
    }
    plain
}

fn bytes(serial: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        serial.chars().filter_map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    digits.chunks(2).map(|pair| pair.iter().fold(0_u8, |byte, digit| (byte << 4) | digit)).collect()
}

/// The CRL of every intermediate, and of every root whose key is at hand.
pub(super) fn sign_all(
    ca: &Path,
    sets: &[Directory],
    root: Option<&Path>,
    revocations: &Revocations,
    number: u64,
    lifetime: Duration,
    now: SystemTime,
) -> Result<Crls, CaError> {
    let mut crls = Crls { pem: String::new(), number, issuers: Vec::new(), revoked: 0 };
    let elsewhere = root.map(Directory::at);
    let mut used = false;
    for set in sets {
        let (intermediate, _) = set.intermediate()?;
        let signing = Signing { directory: set, file: INTERMEDIATE_CRT, key: &key::of(set, &intermediate)? };
        sign_one(&signing, &intermediate, revocations, lifetime, now, &mut crls)?;
        let certificate = set.root_certificate()?;
        match &elsewhere {
            Some(home) if home.root_certificate()? == certificate => {
                used = true;
                let key = &home.key(ROOT_KEY, ROOT_CRT, &certificate)?;
                let signing = Signing { directory: home, file: ROOT_CRT, key };
                sign_one(&signing, &certificate, revocations, lifetime, now, &mut crls)?;
            }
            _ if !set.is_offline()? => {
                let key = &set.key(ROOT_KEY, ROOT_CRT, &certificate)?;
                let signing = Signing { directory: set, file: ROOT_CRT, key };
                sign_one(&signing, &certificate, revocations, lifetime, now, &mut crls)?;
            }
            _ => {}
        }
    }
    match root {
        Some(root) if !used => Err(CaError::OtherRoot { root: root.to_owned(), directory: ca.to_owned() }),
        _ => Ok(crls),
    }
}

/// Who signs a CRL.
struct Signing<'a> {
    directory: &'a Directory,
    file: &'static str,
    key: &'a OwnKey,
}

fn sign_one(
    by: &Signing<'_>,
    der: &CertificateDer<'_>,
    revocations: &Revocations,
    lifetime: Duration,
    now: SystemTime,
    crls: &mut Crls,
) -> Result<(), CaError> {
    let name = read(by.directory, by.file, der)?.common_name.unwrap_or_default();
    let revoked: Vec<_> = revocations.revoked.iter().filter(|revoked| revoked.issuer == name).collect();
    let issuer: Issuer<'_, &Signer> = sign::issuer(der, by.key)?;
    let until = now.checked_add(lifetime).unwrap_or(now);
    let params = CertificateRevocationListParams {
        this_update: date(now)?,
        next_update: date(until)?,
        crl_number: SerialNumber::from(crls.number),
        issuing_distribution_point: None,
        revoked_certs: revoked
            .iter()
            .map(|revoked| RevokedCertParams {
                serial_number: SerialNumber::from_slice(&bytes(&revoked.serial)),
                revocation_time: revoked.revoked_at,
                reason_code: revoked.reason.code(),
                invalidity_date: None,
            })
            .collect(),
        key_identifier_method: sign::key_identifier(der),
    };
    let crl = params.signed_by(&issuer).map_err(crypto("sign a CRL"));
    let crl = crl.map_err(|error| key::explained(by.key, error))?;
    crls.pem.push_str(&super::directory::pem_block("X509 CRL", crl.der()));
    crls.revoked += revoked.len();
    crls.issuers.push(name);
    Ok(())
}
