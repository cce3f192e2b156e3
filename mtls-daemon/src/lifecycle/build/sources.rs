//! Where each workload's identity comes from.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{self, Config, IssuerKind, Workload, WorkloadIdentity};
use crate::identity::issuer::Request;
use crate::identity::issuer::cert_manager::CertManagerIssuer;
use crate::identity::issuer::exec::ExecIssuer;
use crate::identity::issuer::vault::VaultIssuer;
use crate::identity::pkcs11::TokenKeySettings;
use crate::identity::{
    Agent, DelegatedSource, EmbeddedCa, EmbeddedSource, IdentityFiles, IdentitySource, Issuer, IssuerSource,
    WorkloadApiSource,
};

type Issuers = BTreeMap<String, Arc<dyn Issuer>>;

/// The source of each workload's identity. `ca`: the embedded one, if a workload needs it.
pub(super) fn of(config: &Config, ca: Option<&Arc<EmbeddedCa>>) -> BTreeMap<String, Arc<dyn IdentitySource>> {
    let issuers = issuers(config);
    let of = |workload: &Workload| Some((workload.name.clone(), source(config, workload, ca, &issuers)?));
    config.workloads.iter().filter_map(of).collect()
}

fn source(
    config: &Config,
    workload: &Workload,
    ca: Option<&Arc<EmbeddedCa>>,
    issuers: &Issuers,
) -> Option<Arc<dyn IdentitySource>> {
    match &workload.identity {
        WorkloadIdentity::Files(files) => Some(Arc::new(IdentityFiles {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            bundle: files.bundle.clone(),
        })),
        WorkloadIdentity::EmbeddedCa => Some(Arc::new(EmbeddedSource {
            ca: Arc::clone(ca?),
            id: workload.spiffe_id.clone(),
            dns_names: workload.dns_names.clone(),
            subject: workload.subject.clone(),
            workload: workload.name.clone(),
        })),
        WorkloadIdentity::Delegated { issuer, selectors } => {
            let issuer = config.issuers.iter().find(|known| known.name == *issuer)?;
            let IssuerKind::DelegatedIdentity { socket } = &issuer.kind else { return None };
            let (id, selectors) = (workload.spiffe_id.clone(), selectors.clone());
            Some(Arc::new(DelegatedSource::new(Agent::at(socket), id, selectors)))
        }
        WorkloadIdentity::Issuer(issuer) => from_issuer(config, workload, issuer, None, issuers),
        WorkloadIdentity::IssuerWithToken { issuer, key } => {
            from_issuer(config, workload, issuer, Some(key.clone()), issuers)
        }
        WorkloadIdentity::Token(identity) => Some(Arc::new(identity.clone())),
    }
}

fn from_issuer(
    config: &Config,
    workload: &Workload,
    name: &str,
    key: Option<TokenKeySettings>,
    issuers: &Issuers,
) -> Option<Arc<dyn IdentitySource>> {
    let issuer = config.issuers.iter().find(|issuer| issuer.name == name)?;
    if let IssuerKind::WorkloadApi { socket } = &issuer.kind {
        return Some(Arc::new(WorkloadApiSource::new(Agent::at(socket), workload.spiffe_id.clone())));
    }
    Some(Arc::new(IssuerSource {
        name: name.to_owned(),
        issuer: Arc::clone(issuers.get(name)?),
        request: Request {
            workload: workload.name.clone(),
            id: workload.spiffe_id.clone(),
            dns_names: workload.dns_names.clone(),
            subject: workload.subject.clone(),
            lifetime: issuer.lifetime,
        },
        key,
        bundle: issuer.bundle.clone(),
    }))
}

/// One of each, whatever the number of its workloads: an issuer may have a token to look after.
fn issuers(config: &Config) -> Issuers {
    config.issuers.iter().filter_map(|issuer| Some((issuer.name.clone(), signer(issuer)?))).collect()
}

/// `None`: it gives whole identities and signs nothing.
fn signer(settings: &config::Issuer) -> Option<Arc<dyn Issuer>> {
    let name = settings.name.clone();
    match &settings.kind {
        IssuerKind::Exec { program, timeout } => {
            Some(Arc::new(ExecIssuer { name, program: program.clone(), timeout: *timeout }))
        }
        IssuerKind::Vault(vault) => Some(Arc::new(VaultIssuer::new(name, vault.clone()))),
        IssuerKind::CertManager(settings) => Some(Arc::new(CertManagerIssuer::new(name, settings.clone()))),
        IssuerKind::WorkloadApi { .. } | IssuerKind::DelegatedIdentity { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::config;

    #[test]
    fn all_workloads_of_an_issuer_share_it_and_its_token() {
        let vault = "vault: { address: 'https://vault', role: r, auth: { token: { file: /t } } }";
        let text = format!(
            "identity:\n  issuer: v\n  issuers: [{{ name: v, {vault} }}, {{ name: e, exec: {{ shell: x }} }}]\nworkloads:\n\
         - {{ name: web, select: {{ netns: web }} }}\n- {{ name: db, select: {{ netns: db }} }}\n\
         - {{ name: own, select: {{ netns: own }}, identity: {{ issuer: e }} }}\n"
        );
        let config = config(&text);
        let issuers = issuers(&config);
        let kinds: Vec<_> =
            config.workloads.iter().map(|w| source(&config, w, None, &issuers).unwrap()).collect();
        assert_eq!(kinds.iter().map(|source| source.kind()).collect::<Vec<_>>(), ["vault", "vault", "exec"]);
        assert_eq!((Arc::strong_count(&issuers["v"]), Arc::strong_count(&issuers["e"])), (3, 2));
    }

    #[test]
    fn workloads_of_one_identity_share_its_certificate_unless_the_issuer_is_told_whose_it_is() {
        let vault = "vault: { address: 'https://vault', role: r, auth: { token: { file: /t } } }";
        let text = format!(
            "identity:\n  issuer: v\n  issuers: [{{ name: v, {vault} }}, {{ name: e, exec: {{ shell: x }} }}]\nworkloads:\n\
         - {{ name: a, select: {{ netns: a }}, dns_names: [x], spiffe_id: 'spiffe://example.org/x' }}\n\
         - {{ name: b, select: {{ netns: b }}, dns_names: [x], spiffe_id: 'spiffe://example.org/x' }}\n\
         - {{ name: c, select: {{ netns: c }}, dns_names: [x], spiffe_id: 'spiffe://example.org/y' }}\n\
         - {{ name: d, select: {{ netns: d }}, dns_names: [x], spiffe_id: 'spiffe://example.org/x', identity: {{ issuer: e }} }}\n\
         - {{ name: e, select: {{ netns: e }}, dns_names: [x], spiffe_id: 'spiffe://example.org/x', identity: {{ issuer: e }} }}\n"
        );
        let sources = of(&config(&text), None);
        let says = |name: &str| sources[name].describe();
        assert_eq!(says("a"), says("b"));
        assert_ne!(says("a"), says("c"));
        assert_ne!(says("d"), says("e"), "the program has the workload's name in its environment");
    }
}
