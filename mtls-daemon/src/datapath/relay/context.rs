//! What every connection of the relay needs.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;

use super::admission::Admission;
use crate::capture::Capture;
use crate::config::{DatapathChoice, Tls, Workload};
use crate::datapath::ktls::{Abilities, Suite, Terms, Unavailable};
use crate::flows::Flows;
use crate::handshake::{Agreed, Verdict};
use crate::identity::PeerIdentity;
use crate::lease::{Lease, Leases, Own, Parties, judge};
use crate::observe::Reason;
use crate::observe::connection::{CertificateInfo, Direction, TlsInfo};
use crate::observe::observer::{Observed, Observer};
use crate::policy::external::Calls;
use crate::snapshot::{Snapshot, WorkloadState};

/// The relay's surroundings.
pub struct Relay {
    /// The eBPF side.
    pub capture: Arc<Capture>,
    /// Where connections are reported.
    pub observer: Arc<Observer>,
    /// Where the daemon's own trials of strict ports are reported, so that nobody takes them for attacks.
    pub probes: Arc<Observer>,
    /// The view to decide on.
    pub snapshot: ArcSwap<Snapshot>,
    /// Limits.
    pub admission: ArcSwap<Admission>,
    /// Calls to the policy engine, across configurations.
    pub external: Arc<Calls>,
    /// The live connections by what keeps them alive.
    pub leases: Arc<Leases>,
    /// What connections there were.
    pub flows: Arc<Flows>,
    /// What the kernel's TLS can do, or why it cannot be used; it may become usable later.
    pub ktls: ArcSwap<KernelTls>,
}

const NO_REKEY: &str = "no relay-ktls: this kernel cannot change keys (Linux 6.14 and later can), so a KeyUpdate of the \
                        peer or many records would end the connection; `datapath: relay-ktls` accepts that";

/// What the probe found.
pub type KernelTls = Result<Arc<Abilities>, Unavailable>;

impl Relay {
    /// Do connections of this workload begin in the kernel?
    #[must_use]
    pub fn offloads_at_once(&self, settings: &Workload) -> bool {
        settings.datapath == DatapathChoice::RelayKtls && self.ktls.load().is_ok()
    }

    /// What keeps a connection alive from now on.
    #[must_use]
    pub fn lease(&self, workload: &WorkloadState, other: Other) -> Lease {
        let Other { direction, port, address, peer } = other;
        let identity = workload.identity.as_ref().ok().filter(|_| peer.is_some());
        let own = identity
            .map(|identity| Own { marks: Arc::clone(&identity.marks), not_after: identity.not_after });
        let workload_name = Arc::clone(workload.metrics.name());
        let parties = Parties { workload: workload_name, own, peer, direction, port, address };
        let mut lease = self.leases.join(parties);
        // Only now: what was decided since the handshake found no connection to end.
        if *workload.stopped.borrow() {
            lease.end(Reason::ShuttingDown.into());
            return lease;
        }
        loop {
            let snapshot = self.snapshot.load_full();
            let now = SystemTime::now();
            let settled =
                self.leases.settle(&lease, |parties, renewed| judge(&snapshot, parties, renewed, now));
            if let Err(refusal) = settled {
                lease.end(refusal);
                return lease;
            }
            // Its group was asked of this one; whoever puts the next in force finds it so.
            if Arc::ptr_eq(&snapshot, &self.snapshot.load()) {
                return lease;
            }
        }
    }

    /// On what terms may the records of this workload's connection move into the kernel? `suite`: what the
    /// handshake agreed; `None` for TLS 1.2.
    ///
    /// # Errors
    /// Why the connection stays `relay-userspace`, for the log and `mtlsd explain`.
    pub fn offload(
        &self,
        settings: &Workload,
        tls: &Tls,
        suite: Option<Suite>,
    ) -> Result<Offload, Cow<'static, str>> {
        let (suite, rekey) = offload(&self.ktls.load(), settings.datapath, suite)?;
        let terms = Terms { suite, rekey, records_per_key: tls.records_per_key(suite) };
        Ok(Offload { terms, at_once: settings.datapath == DatapathChoice::RelayKtls })
    }
}

/// The other end of an open connection.
pub struct Other {
    /// Who opened it.
    pub direction: Direction,
    /// The server's port.
    pub port: u16,
    /// Where the other end is.
    pub address: IpAddr,
    /// Who it proved to be; `None`: it proved nothing.
    pub peer: Option<Arc<PeerIdentity>>,
}

/// How a connection moves into the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Offload {
    /// On what terms.
    pub terms: Terms,
    /// From the first byte; otherwise when it carries much.
    pub at_once: bool,
}

fn offload(
    ktls: &KernelTls,
    datapath: DatapathChoice,
    suite: Option<Suite>,
) -> Result<(Suite, bool), Cow<'static, str>> {
    if datapath == DatapathChoice::RelayUserspace {
        return Err("datapath: relay-userspace is configured".into());
    }
    let abilities = ktls.as_ref().map_err(|why| format!("no relay-ktls: {why}"))?;
    if datapath == DatapathChoice::Auto && !abilities.serves_auto() {
        return Err(NO_REKEY.into());
    }
    let suite = suite.ok_or("TLS 1.2 was agreed; relay-ktls needs TLS 1.3")?;
    if !abilities.can(suite) {
        let why = abilities.missing.iter().find(|missing| missing.suite == suite);
        let why = why.map_or_else(|| suite.name().to_owned(), ToString::to_string);
        return Err(format!("this kernel's kTLS cannot do the agreed suite {why}").into());
    }
    Ok((suite, abilities.rekey))
}

/// Notes who the peer is, or at least claims to be, and what was agreed.
pub fn note_handshake(observed: &Observed, agreed: Option<&Agreed>, verdict: &Verdict) {
    let claim = verdict.claim();
    observed.connection().learn(|learned| {
        learned.tls = agreed.map(|agreed| Arc::new(tls_info(agreed)));
        if let Some(claim) = claim {
            learned.peer_certificate = Some(Arc::new(certificate_info(&claim.serial, claim.not_after)));
            learned.peer_identity = claim.name.map(Arc::from);
            learned.peer_proven = verdict.peer().is_some();
        }
    });
}

/// What was agreed, as the log shows it.
#[must_use]
pub fn tls_info(agreed: &Agreed) -> TlsInfo {
    TlsInfo { version: agreed.version.into(), suite: agreed.suite.into(), group: agreed.group.into() }
}

/// A certificate as the log shows it.
#[must_use]
pub fn certificate_info(serial: &str, not_after: SystemTime) -> CertificateInfo {
    CertificateInfo { serial: serial.to_owned(), not_after: not_after.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::ktls::Missing;

    fn able() -> KernelTls {
        Ok(Arc::new(Abilities {
            suites: vec![Suite::Aes128Gcm, Suite::Aes256Gcm],
            missing: vec![Missing { suite: Suite::ChaCha20Poly1305, why: "no such cipher".to_owned() }],
            rekey: true,
            why_no_rekey: None,
            defects: vec![],
        }))
    }

    fn cannot_rekey() -> KernelTls {
        able().map(|abilities| Arc::new(Abilities { rekey: false, ..Abilities::clone(&abilities) }))
    }

    #[test]
    fn what_the_kernel_can_do_is_offloaded_whether_auto_or_asked_for() {
        for datapath in [DatapathChoice::Auto, DatapathChoice::RelayKtls] {
            let agreed = offload(&able(), datapath, Some(Suite::Aes256Gcm)).unwrap();
            assert_eq!(agreed, (Suite::Aes256Gcm, true));
        }
        let agreed = offload(&cannot_rekey(), DatapathChoice::RelayKtls, Some(Suite::Aes256Gcm)).unwrap();
        assert_eq!(agreed, (Suite::Aes256Gcm, false));
    }

    #[test]
    fn what_is_not_offloaded_has_its_reason() {
        let none: KernelTls = Err(Unavailable::NoModule { may_load: true });
        let (auto, asked) = (DatapathChoice::Auto, DatapathChoice::RelayKtls);
        for (ktls, datapath, suite, part) in [
            (
                &able(),
                DatapathChoice::RelayUserspace,
                Some(Suite::Aes256Gcm),
                "relay-userspace is configured",
            ),
            (&none, DatapathChoice::RelayUserspace, None, "relay-userspace is configured"),
            (&none, auto, Some(Suite::Aes256Gcm), "no relay-ktls: this kernel has no kTLS"),
            (&none, asked, Some(Suite::Aes256Gcm), "modprobe tls"),
            (&able(), auto, None, "TLS 1.2 was agreed"),
            (&cannot_rekey(), auto, Some(Suite::Aes256Gcm), "cannot change keys"),
            (&able(), asked, Some(Suite::ChaCha20Poly1305), "TLS_CHACHA20_POLY1305_SHA256: no such cipher"),
        ] {
            let why = offload(ktls, datapath, suite).unwrap_err();
            assert!(why.contains(part), "{why} lacks {part}");
        }
    }
}
