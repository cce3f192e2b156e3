//! `mtlsd ca …`: works on the directory of a CA, whether a daemon runs with it or not.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::CommandError;
use crate::control::ca_cli::{CaCommand, IssueArgs, RotationStep};
use crate::control::render;
use crate::identity::ca::admin::{CaDirectory, Listing, Which, by};
use crate::identity::ca::{Order, site};
use crate::identity::pkcs11::TokenKeySettings;
use crate::identity::{EmbeddedCa, EmbeddedCaSettings, Subject, TrustDomain, when};

/// Of a CA that is opened to be made, not to issue.
const UNUSED_LIFETIME: Duration = Duration::from_secs(3600);

/// Does what the command line says.
///
/// # Errors
/// When the CA refuses, or a file cannot be written.
pub fn run(command: &CaCommand, out: &mut impl Write) -> Result<(), CommandError> {
    let now = SystemTime::now();
    match command {
        CaCommand::Init { ca, trust_domain, offline_root, token, output } => {
            init(&ca.directory, trust_domain, offline_root.as_deref(), token.key(), output.json, out)
        }
        CaCommand::Csr { ca, trust_domain, renew, key, out: target, output } => {
            let csr = match renew {
                true => site::request_renewal(open(&ca.directory)?.path(), now)?,
                false => site::request(&ca.directory, trust_domain.as_ref(), &key.new_key(), now)?,
            };
            say_csr(&csr, target.as_deref(), output.json, out)
        }
        CaCommand::Import { ca, chain, root, output } => {
            let answer = site::Answer { chain, root: root.as_deref() };
            let imported = site::import(&ca.directory, &answer, now)?;
            let listing = open(&ca.directory)?.list(now)?;
            let (what, text) = match imported {
                site::Imported::First => ("first", "the intermediate is in force"),
                site::Imported::Second => (
                    "second",
                    "a rotation has begun: go on with `mtlsd ca rotate --switch` when every peer has its root",
                ),
                site::Imported::Renewed => ("renewed", "the intermediate was renewed"),
            };
            let answer = json!({ "imported": what, "embedded_ca": listing.ca });
            let about = render::certificate_authority(&listing.ca);
            say(out, output.json, &answer, &format!("{text}\n{}", about.trim_end()))
        }
        CaCommand::Issue(request) => issue(request, out),
        CaCommand::RenewIntermediate { ca, root, output } => {
            let until = open(&ca.directory)?.renew_intermediate(root.as_deref(), now)?;
            let until = when::rfc3339(until);
            let text = format!("the intermediate of {} is valid until {until}", ca.directory.display());
            say(out, output.json, &json!({ "intermediate_not_after": until }), &text)
        }
        CaCommand::List { ca, all, output } => list(&open(&ca.directory)?.list(now)?, *all, output.json, out),
        CaCommand::Revoke { ca, serial, spiffe_id, reason, output } => {
            let which = match (serial, spiffe_id) {
                (_, Some(id)) => Which::SpiffeId(id.to_string()),
                // clap lets only one of them through.
                (serial, None) => Which::Serial(serial.clone().unwrap_or_default()),
            };
            let revoked = open(&ca.directory)?.revoke(&which, *reason, now)?;
            let serials: Vec<_> = revoked.iter().map(|entry| entry.serial.as_str()).collect();
            let text =
                format!("revoked {}; peers know it from the next `mtlsd ca crl` on", serials.join(", "));
            say(out, output.json, &json!({ "revoked": revoked }), &text)
        }
        CaCommand::Crl { ca, root, lifetime, out: target, output } => {
            let crls = open(&ca.directory)?.crl(root.as_deref(), *lifetime, now)?;
            match target {
                Some(path) => {
                    write(path, crls.pem.as_bytes(), 0o644)?;
                    let issuers = crls.issuers.join(", ");
                    let text = format!(
                        "wrote {} with number {} and {} certificates, of {issuers}",
                        path.display(),
                        crls.number,
                        crls.revoked
                    );
                    let answer = json!({
                        "file": path, "number": crls.number, "issuers": crls.issuers, "revoked": crls.revoked,
                    });
                    say(out, output.json, &answer, &text)
                }
                None if output.json => {
                    let answer = json!({
                        "pem": crls.pem, "number": crls.number, "issuers": crls.issuers, "revoked": crls.revoked,
                    });
                    say(out, true, &answer, "")
                }
                None => Ok(out.write_all(crls.pem.as_bytes())?),
            }
        }
        CaCommand::Rotate { ca, step, offline_root, key, force, output } => {
            let directory = open(&ca.directory)?;
            match step.step() {
                RotationStep::Begin => directory.begin(offline_root.as_deref(), &key.new_key(), now)?,
                RotationStep::Switch => directory.switch(now)?,
                RotationStep::Finish => directory.finish(*force, now)?,
            }
            let listing = directory.list(now)?;
            say(out, output.json, &json!(listing.ca), render::certificate_authority(&listing.ca).trim_end())
        }
    }
}

fn open(path: &Path) -> Result<CaDirectory, CommandError> {
    if !path.join("root.crt").exists() {
        return Err(CommandError::NoCa(path.to_owned()));
    }
    Ok(CaDirectory::open(path)?)
}

fn say(out: &mut impl Write, as_json: bool, answer: &Value, text: &str) -> Result<(), CommandError> {
    if as_json {
        writeln!(out, "{answer}")?
    } else {
        writeln!(out, "{text}")?
    }
    Ok(())
}

fn init(
    directory: &Path,
    trust_domain: &TrustDomain,
    offline_root: Option<&Path>,
    token: Option<TokenKeySettings>,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    if std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(CommandError::NotEmpty(directory.to_owned()));
    }
    let settings = EmbeddedCaSettings {
        directory: directory.to_owned(),
        lifetime: UNUSED_LIFETIME,
        trust_domain: trust_domain.clone(),
        key: token.clone(),
    };
    match offline_root {
        Some(root) => EmbeddedCa::init_offline(settings, root, SystemTime::now())?,
        None => EmbeddedCa::open(settings, SystemTime::now())?,
    };
    let root = directory.join("root.crt");
    let key = offline_root.unwrap_or(directory).join("root.key");
    let mut text =
        format!("made a CA for trust domain {trust_domain}; its root certificate is {}", root.display());
    if offline_root.is_some() {
        text += &format!(", and its root's key is in {} only: take it off this node", key.display());
    }
    if let Some(key) = &token {
        text += &format!("; it issues with key {key}");
    }
    let answer = json!({
        "trust_domain": trust_domain.to_string(), "root": root, "root_key": key,
        "key_in_token": token.map(|key| key.to_string()),
    });
    say(out, as_json, &answer, &text)
}

fn say_csr(
    csr: &site::Csr,
    target: Option<&Path>,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    if let Some(path) = target {
        write(path, csr.pem.as_bytes(), 0o644)?;
    }
    let place = target.map(Path::to_owned).or_else(|| csr.kept.clone());
    let answer = json!({ "csr": csr.pem, "file": place, "trust_domain": csr.trust_domain.to_string() });
    match target {
        Some(path) => {
            let text = format!(
                "wrote {}; have your PKI sign it as a CA with path length 0, then run `mtlsd ca import`",
                path.display()
            );
            say(out, as_json, &answer, &text)
        }
        None if as_json => say(out, true, &answer, ""),
        None => Ok(out.write_all(csr.pem.as_bytes())?),
    }
}

fn issue(request: &IssueArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let directory = &request.ca.directory;
    drop(open(directory)?);
    let settings = EmbeddedCaSettings {
        directory: directory.clone(),
        lifetime: request.lifetime,
        trust_domain: request.spiffe_id.trust_domain().clone(),
        key: None,
    };
    let ca = EmbeddedCa::open(settings, SystemTime::now())?;
    let subject = Subject {
        organization: request.organization.clone(),
        organizational_unit: request.organizational_unit.clone(),
        common_name: request.common_name.clone(),
    };
    let order = Order {
        id: &request.spiffe_id,
        dns_names: &request.dns_names,
        subject: &subject,
        requested_by: &by("issue"),
    };
    let issued = ca.issue_pem(&order, SystemTime::now())?;
    let target = &request.out;
    std::fs::create_dir_all(target).map_err(|source| CommandError::Write { path: target.clone(), source })?;
    write(&target.join("tls.key"), issued.key.as_bytes(), 0o600)?;
    write(&target.join("tls.crt"), issued.chain.as_bytes(), 0o644)?;
    write(&target.join("ca.crt"), ca.bundle().to_pem().as_bytes(), 0o644)?;
    let answer = json!({
        "id": request.spiffe_id.to_string(), "directory": target, "serial": issued.entry.serial,
        "not_after": when::rfc3339(issued.entry.not_after.into()),
    });
    let text = format!("issued {} into {}: tls.crt, tls.key, ca.crt", request.spiffe_id, target.display());
    say(out, request.output.json, &answer, &text)
}

fn list(listing: &Listing, all: bool, as_json: bool, out: &mut impl Write) -> Result<(), CommandError> {
    let mut listing = listing.clone();
    listing.certificates.retain(|listed| all || !listed.expired);
    let text = render::certificates(&listing);
    say(out, as_json, &json!(listing), text.trim_end())
}

fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), CommandError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(mode);
    options
        .open(path)
        .and_then(|mut file| {
            // The mode of open() counts for a new file only; an old one may let others read the key.
            file.set_permissions(Permissions::from_mode(mode))?;
            file.write_all(contents)
        })
        .map_err(|source| CommandError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
