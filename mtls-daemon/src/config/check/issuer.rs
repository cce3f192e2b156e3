//! Issuers, and which of them a workload asks.

use std::time::Duration;

use crate::config::at::{At, Given, Spot};
use crate::config::error::{Fault, Quoted};
use crate::config::raw;
use crate::config::types::{IdentityFiles, Issuer, IssuerKind, Pkcs11Token, WorkloadIdentity};
use crate::identity::TokenIdentity;
use crate::identity::issuer::DEFAULT_TIMEOUT;
use crate::identity::issuer::cert_manager::CertManagerSettings;
use crate::identity::issuer::exec::Program;
use crate::kube::{Name, NamespaceName, SERVICE_ACCOUNT};

use super::{Check, Seen, pkcs11, unless_refused, vault};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The kinds, as a message lists them.
const KINDS: &str = "`exec`, `vault`, `cert_manager`, `workload_api`, `delegated_identity`";

/// The issuers, and what a workload without an identity of its own has.
pub(super) fn check(check: &mut Check, raw: raw::Identity) -> (Vec<Issuer>, WorkloadIdentity) {
    let mut names = Seen::new("issuer name", "rename one");
    let issuers: Vec<_> = raw.issuers.iter().filter_map(|at| issuer(check, &mut names, at)).collect();
    let default = match &raw.issuer.0 {
        Some(at) => of_issuer(check, &issuers, at, None),
        None => None,
    };
    (issuers, default.unwrap_or(WorkloadIdentity::EmbeddedCa))
}

/// An issuer that there is.
pub(super) fn known<'a>(check: &mut Check, issuers: &'a [Issuer], at: &At<String>) -> Option<&'a Issuer> {
    let found = issuers.iter().find(|issuer| issuer.name == at.value);
    if found.is_none() {
        let names: Vec<_> = issuers.iter().map(|issuer| issuer.name.as_str()).collect();
        let known = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
        check.fault(at.spot, Fault::UnknownIssuer { text: Quoted::new(&at.value), known });
    }
    found
}

/// An issuer, with selectors if its kind needs them.
fn of_issuer(
    check: &mut Check,
    issuers: &[Issuer],
    at: &At<String>,
    selectors: Option<&At<Vec<At<String>>>>,
) -> Option<WorkloadIdentity> {
    let issuer = known(check, issuers, at)?;
    let name = issuer.name.clone();
    match (&issuer.kind, selectors) {
        (IssuerKind::DelegatedIdentity { .. }, Some(list)) if list.value.is_empty() => {
            check.fault(list.spot, Fault::EmptyList("write at least one selector"));
            None
        }
        (IssuerKind::DelegatedIdentity { .. }, Some(list)) => {
            let selectors = check.distinct("selector", &list.value, str::parse, Fault::SpireSelector);
            Some(WorkloadIdentity::Delegated { issuer: name, selectors: selectors.into_iter().collect() })
        }
        (IssuerKind::DelegatedIdentity { .. }, None) => {
            check.fault(at.spot, Fault::NoSelectors(Quoted::new(&name)));
            None
        }
        (_, Some(list)) => {
            check.fault(list.spot, Fault::SelectorsUnused(Quoted::new(&name)));
            None
        }
        (_, None) => Some(WorkloadIdentity::Issuer(name)),
    }
}

/// The name of an issuer that signs CSRs.
fn signs(check: &mut Check, issuers: &[Issuer], at: &At<String>) -> Option<String> {
    let issuer = known(check, issuers, at)?;
    match issuer.kind {
        IssuerKind::Exec { .. } | IssuerKind::Vault(_) | IssuerKind::CertManager(_) => {
            Some(issuer.name.clone())
        }
        IssuerKind::WorkloadApi { .. } | IssuerKind::DelegatedIdentity { .. } => {
            check.fault(at.spot, Fault::NotForAgents("pkcs11"));
            None
        }
    }
}

fn issuer(check: &mut Check, names: &mut Seen<String>, at: &At<raw::Issuer>) -> Option<Issuer> {
    let raw = &at.value;
    let name = check.name(&raw.name);
    if let Some(name) = &name {
        names.note(check, name, name, raw.name.spot);
    }
    let kinds = [
        raw.exec.0.as_ref().map(|at| exec(check, &at.value, at.spot)),
        raw.vault.0.as_ref().map(|at| vault::check(check, &at.value).map(IssuerKind::Vault)),
        raw.cert_manager.0.as_ref().map(|at| cert_manager(check, &at.value).map(IssuerKind::CertManager)),
        raw.workload_api.0.as_ref().map(|at| {
            let socket = check.path(&at.value.socket)?;
            Some(IssuerKind::WorkloadApi { socket })
        }),
        raw.delegated_identity.0.as_ref().map(|at| {
            let socket = check.path(&at.value.socket)?;
            Some(IssuerKind::DelegatedIdentity { socket })
        }),
    ];
    let mut kinds = kinds.into_iter().flatten();
    let kind = match (kinds.next(), kinds.next()) {
        (Some(kind), None) => kind,
        _ => {
            check.fault(at.spot, Fault::IssuerKind(KINDS));
            None
        }
    };
    if raw.workload_api.0.is_some() || raw.delegated_identity.0.is_some() {
        let given = [("bundle", &raw.bundle), ("lifetime", &raw.lifetime)];
        for (key, at) in given.into_iter().filter_map(|(key, given)| Some((key, given.0.as_ref()?))) {
            check.fault(at.spot, Fault::NotForAgents(key));
        }
    }
    let bundle = check.optional_path(raw.bundle.0.as_ref());
    let lifetime = raw.lifetime.0.as_ref().map(|_| check.duration(&raw.lifetime, SECOND, YEAR));
    Some(Issuer { name: name?, kind: kind?, bundle: bundle?, lifetime: unless_refused(lifetime)? })
}

fn exec(check: &mut Check, raw: &raw::Exec, spot: Spot) -> Option<IssuerKind> {
    let program = match (&raw.command.0, &raw.shell.0) {
        (Some(words), None) => command(check, words),
        (None, Some(line)) if line.value.trim().is_empty() => {
            check.fault(line.spot, Fault::EmptyText("write the line that /bin/sh is to run"));
            None
        }
        (None, Some(line)) => Some(Program::Shell(line.value.clone())),
        _ => {
            check.fault(spot, Fault::ExecProgram);
            None
        }
    };
    let timeout = timeout(check, &raw.timeout);
    Some(IssuerKind::Exec { program: program?, timeout: timeout? })
}

fn cert_manager(check: &mut Check, raw: &raw::CertManager) -> Option<CertManagerSettings> {
    let namespace = check.text(&raw.namespace, str::parse::<NamespaceName>, Fault::KubernetesName);
    let issuer = check.text(&raw.issuer, str::parse::<Name>, Fault::KubernetesName);
    let word = |given: &Given<String>, default: &str| {
        given.0.as_ref().map_or_else(|| default.to_owned(), |at| at.value.clone())
    };
    let timeout = timeout(check, &raw.timeout);
    Some(CertManagerSettings {
        namespace: namespace?,
        issuer: issuer?,
        kind: word(&raw.kind, "ClusterIssuer"),
        group: word(&raw.group, "cert-manager.io"),
        service_account: check.path_or(&raw.service_account, SERVICE_ACCOUNT),
        timeout: timeout?,
    })
}

fn command(check: &mut Check, words: &At<Vec<At<String>>>) -> Option<Program> {
    let Some((first, rest)) = words.value.split_first() else {
        check.fault(words.spot, Fault::EmptyList("write the program and its arguments"));
        return None;
    };
    // Not looked for in a PATH, which is not in the configuration.
    let program = check.path(first)?;
    let program = program.to_str().map(str::to_owned).unwrap_or_default();
    Some(Program::Command(std::iter::once(program).chain(rest.iter().map(|at| at.value.clone())).collect()))
}

/// Of one command or request.
pub(super) fn timeout(check: &mut Check, raw: &Given<String>) -> Option<Duration> {
    match raw.0 {
        None => Some(DEFAULT_TIMEOUT),
        Some(_) => check.duration(raw, SECOND / 10, HOUR),
    }
}

/// A workload's own.
pub(super) fn of_workload(
    check: &mut Check,
    issuers: &[Issuer],
    tokens: &[Pkcs11Token],
    at: &At<raw::WorkloadIdentity>,
) -> Option<WorkloadIdentity> {
    let raw = &at.value;
    let files_only = raw.selectors.0.is_none();
    match (&raw.issuer.0, &raw.certificate.0, &raw.key.0, &raw.pkcs11.0, &raw.bundle.0) {
        (Some(issuer), None, None, None, None) => of_issuer(check, issuers, issuer, raw.selectors.0.as_ref()),
        (Some(issuer), None, None, Some(key), None) if files_only => {
            let (issuer, key) = (signs(check, issuers, issuer), pkcs11::key(check, tokens, key));
            Some(WorkloadIdentity::IssuerWithToken { issuer: issuer?, key: key? })
        }
        (None, Some(certificate), Some(key), None, bundle) if files_only => {
            let (certificate, key) = (check.path(certificate), check.path(key));
            let bundle = check.optional_path(bundle.as_ref());
            Some(WorkloadIdentity::Files(IdentityFiles {
                certificate: certificate?,
                key: key?,
                bundle: bundle?,
            }))
        }
        (None, Some(certificate), None, Some(key), bundle) if files_only => {
            let (certificate, key) = (check.path(certificate), pkcs11::key(check, tokens, key));
            let bundle = check.optional_path(bundle.as_ref());
            Some(WorkloadIdentity::Token(TokenIdentity {
                certificate: certificate?,
                key: key?,
                bundle: bundle?,
            }))
        }
        _ => {
            check.fault(at.spot, Fault::WorkloadIdentity);
            None
        }
    }
}
