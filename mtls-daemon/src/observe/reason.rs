//! Why a connection was refused or cut: one closed list, used by the log, the metrics, `mtlsd explain`
//! and the message that travels to the peer. A reason cannot be added without its sentence and its mend.

use std::fmt;

use serde::Serialize;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $number:literal, $sentence:literal, $mend:literal;)*) => {
        /// Which check failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason that exists.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The stable label used in logs and metrics, in `snake_case`.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The stable number used on the wire between two daemons (see `handshake::preface`).
            #[must_use]
            pub const fn number(self) -> u8 {
                match self { $(Self::$name => $number,)* }
            }

            /// The reason for a number received from a peer; `None` for one this version does not know.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// The reason of a code read from a log; `None` for one this version does not know.
            #[must_use]
            pub fn from_code(code: &str) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }

            /// One plain sentence for people.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }

            /// What to do about it.
            #[must_use]
            pub const fn mend(self) -> &'static str {
                match self { $(Self::$name => $mend,)* }
            }
        }
    };
}

reasons! {
    /// Plain bytes on a strict port.
    Plaintext = "plaintext", 1,
        "The client sent plain bytes to a port that accepts only mutual TLS.",
        "Enrol the client with mtlsd, give it a certificate, or set this port to permissive while it moves.";
    /// The peer sent no complete handshake in time.
    HandshakeTimeout = "handshake_timeout", 2,
        "The peer did not complete a TLS handshake in time.",
        "Check that the peer speaks TLS 1.3 on this port and that the network between them is not losing packets; timeouts.handshake sets the limit.";
    /// A TLS message that cannot be decoded.
    MalformedTls = "malformed_tls", 3,
        "The peer sent something that is not valid TLS.",
        "Check what is connecting: a TLS 1.3 client or server with a certificate is expected here.";
    /// No common TLS version.
    TlsVersion = "tls_version", 4,
        "The peer offers no TLS version that is accepted here.",
        "Let the peer speak TLS 1.3, or set tls.min_version to \"1.2\" if it cannot.";
    /// No common cipher suite, group or signature scheme, or ALPN protocol.
    NoCommonParameters = "no_common_parameters", 5,
        "The peer and this workload share no cipher suite, key exchange group, signature algorithm or ALPN protocol.",
        "Compare the peer's TLS settings with those in the README.";
    /// The peer ended the handshake with a fatal alert.
    PeerAlert = "peer_alert", 6,
        "The peer ended the handshake with a TLS alert.",
        "Read the alert's name in the detail and look at the peer's log: it judged our certificate or our parameters.";
    /// The connection ended in the middle of the handshake.
    HandshakeClosed = "handshake_closed", 7,
        "The peer closed the connection in the middle of the handshake.",
        "Look at the peer's log; a server that does not speak TLS closes like this.";
    /// A TLS client without a certificate.
    NoCertificate = "no_certificate", 8,
        "The peer presented no certificate.",
        "Give the peer a certificate with a SPIFFE ID from an accepted trust domain.";
    /// A certificate that cannot be parsed.
    MalformedCertificate = "malformed_certificate", 9,
        "A certificate in the peer's chain cannot be parsed.",
        "Look at it with `openssl x509 -text` and issue it again.";
    /// More certificates, or larger ones, than the limit.
    ChainTooLarge = "chain_too_large", 10,
        "The peer's certificate chain is larger than the limit.",
        "Send only the leaf and its intermediates.";
    /// Signed by nobody that is trusted here.
    UnknownIssuer = "unknown_issuer", 11,
        "The peer's certificate was not issued by a CA that is trusted for its trust domain.",
        "Issue the certificate from the right CA, or add the issuing root to the trust bundle of that trust domain.";
    /// A signature in the chain or in the handshake is wrong.
    BadSignature = "bad_signature", 12,
        "A signature in the peer's chain or handshake is wrong.",
        "The peer does not hold the key of its certificate, or the certificate was altered: issue it again and look for tampering.";
    /// `notAfter` is in the past.
    CertificateExpired = "certificate_expired", 13,
        "The peer's certificate has expired.",
        "Renew it; if it was renewed, check the clocks of both nodes and that the peer has loaded the new one.";
    /// `notBefore` is in the future.
    CertificateNotYetValid = "certificate_not_yet_valid", 14,
        "The peer's certificate is not valid yet.",
        "Check the clocks of both nodes.";
    /// Key usage, extended key usage or basic constraints do not allow this use.
    CertificateUsage = "certificate_usage", 15,
        "The peer's certificate may not be used for this.",
        "Issue it with digitalSignature and with the extended key usages serverAuth and clientAuth.";
    /// No URI SAN (and no other name that the configuration accepts).
    NoSpiffeId = "no_spiffe_id", 16,
        "The peer's certificate carries no SPIFFE ID.",
        "Issue it with exactly one URI SAN of the form spiffe://<trust domain>/<path>.";
    /// More than one URI SAN.
    SeveralSpiffeIds = "several_spiffe_ids", 17,
        "The peer's certificate carries more than one URI SAN, so its identity is ambiguous.",
        "Issue it with exactly one URI SAN.";
    /// A URI SAN that is not a well-formed SPIFFE ID.
    MalformedSpiffeId = "malformed_spiffe_id", 18,
        "The peer's certificate carries a malformed SPIFFE ID.",
        "Issue it with a URI SAN that follows the SPIFFE-ID grammar.";
    /// No bundle for the peer's trust domain.
    TrustDomain = "trust_domain", 19,
        "The peer belongs to a trust domain that is not accepted here.",
        "Add that trust domain and its bundle under trust.bundles if the two are meant to talk.";
    /// The server is not the workload that the directory names.
    UnexpectedServer = "unexpected_server", 20,
        "The server is not the workload that the directory expects at this address.",
        "Check that the address belongs to the expected workload and that the directory lists its SPIFFE ID.";
    /// A critical extension, unsupported algorithm or name constraint in the chain.
    CertificateUnsupported = "certificate_unsupported", 21,
        "The peer's chain uses something that is not allowed or not supported.",
        "Read the detail: a name constraint, a critical extension, a path length or an algorithm stands in the way.";
    /// A deny rule matched.
    PolicyDenied = "policy_denied", 22,
        "A policy rule denies this connection.",
        "Change the rule that is named if the two are meant to talk.";
    /// No allow rule matched, and the default is to deny.
    PolicyDefault = "policy_default", 23,
        "No policy rule allows this connection, and a strict workload is closed by default.",
        "Add an allow rule for the client's SPIFFE ID, this workload and this port.";
    /// The destination is not in the directory and the workload may not leave it.
    UnknownDestination = "unknown_destination", 24,
        "The destination is not in the directory, and this workload may talk only to destinations that are.",
        "Add the destination to the directory or set unknown_destinations: passthrough; of an address in kubernetes.networks see in `mtlsd status` whether the API server is heard.";
    /// This workload has no usable identity of its own.
    NoIdentity = "no_identity", 25,
        "This workload has no valid certificate of its own.",
        "See `mtlsd workloads` for what its identity source says.";
    /// The TCP dial was refused.
    DialRefused = "dial_refused", 26,
        "The destination refused the TCP connection.",
        "Check that the destination program is running and listens on this address and port, and whether an mtlsd there refuses this address at the SYN: its record says so.";
    /// The TCP dial timed out.
    DialTimeout = "dial_timeout", 27,
        "The destination did not answer the TCP connection in time.",
        "Check the route and the firewall between the two.";
    /// No route to the destination, or an ICMP error.
    DialUnreachable = "dial_unreachable", 28,
        "The destination cannot be reached.",
        "Check the route from the workload's network namespace.";
    /// The verified peer could not be delivered to the local application.
    ApplicationRefused = "application_refused", 29,
        "The peer was accepted, but the application does not accept connections on this port.",
        "Start the application, or check the address it listens on.";
    /// Too many connections of one workload.
    WorkloadLimit = "workload_limit", 30,
        "The workload has reached its limit of connections.",
        "Raise limits.connections_per_workload or find out who opens so many.";
    /// Too many connections in all.
    TotalLimit = "total_limit", 31,
        "The daemon has reached its limit of connections.",
        "Raise limits.connections or find out who opens so many.";
    /// Too many handshakes at one time.
    HandshakeLimit = "handshake_limit", 32,
        "Too many handshakes are under way at the same time.",
        "Raise limits.handshakes or find out who opens so many.";
    /// EOF without close_notify.
    Truncated = "truncated", 33,
        "The peer's TLS stream ended without an authenticated end, so bytes may be missing.",
        "Look for a crash or a kill of the peer, or for something on the path that closes connections.";
    /// A record that fails authentication, or a fatal alert, after the handshake.
    RecordError = "record_error", 34,
        "A TLS record of the peer could not be authenticated, or the peer reported an error.",
        "Look for something on the path that alters bytes; read the peer's log.";
    /// No byte for longer than the idle limit.
    Idle = "idle", 35,
        "No byte was moved for longer than the idle limit.",
        "Raise timeouts.idle or let the application send keepalives.";
    /// One end reset the connection.
    Reset = "reset", 36,
        "The connection was reset.",
        "One of the two applications, or its kernel, sent RST: see which end the detail names.";
    /// The workload was removed or the daemon is stopping.
    ShuttingDown = "shutting_down", 37,
        "The workload was removed or the daemon is stopping.",
        "Connect again once the daemon is running.";
    /// A plaintext packet of a strict workload that no connection accounts for.
    Unaccounted = "unaccounted", 38,
        "A strict workload tried to send on a connection that mtlsd did not capture.",
        "Open the connection again: it was made before the workload was enrolled, or in a way that cannot be captured (MPTCP, raw socket).";
    /// Something failed in the daemon or in the kernel.
    Internal = "internal", 39,
        "The daemon could not carry the connection because a system call failed.",
        "Read the detail; if the system is not short of memory or descriptors, report it.";
    /// A key has protected as many records as it may, and the kernel cannot change it.
    KeyLimit = "key_limit", 40,
        "A key has protected as many records as it may, and this kernel cannot change it.",
        "Connect again; put TLS_CHACHA20_POLY1305_SHA256 first in tls.cipher_suites, or run Linux 6.14 or later.";
    /// The peer's KeyUpdate cannot be followed.
    KeyUpdate = "key_update", 41,
        "The peer updated its key, and this kernel cannot change keys.",
        "Run Linux 6.14 or later, or set datapath: relay-userspace for this workload.";
    /// A certificate, a key or an identity that is good no longer.
    Revoked = "revoked", 42,
        "A certificate of this connection was revoked.",
        "Issue a new certificate with a new key; if it was a mistake, see `mtlsd revoke --list` and `mtlsd unrevoke`.";
    /// `trust.crl_policy: require` and no fresh list, or `trust.ocsp_policy: require` and no fresh answer.
    RevocationUnknown = "revocation_unknown", 43,
        "It is not known whether a certificate of the peer was revoked, and this node requires that it is.",
        "Try again in a moment if an OCSP responder is being asked. Else see in the log why trust.crls has no fresh CRL or trust.ocsp no answer; trust.crl_policy or trust.ocsp_policy: prefer accepts without.";
    /// `unclassified`: a process that belongs to no workload, where every process must.
    Unclassified = "unclassified", 44,
        "A process that belongs to no workload tried to send where every process must belong to one.",
        "Try again in a moment if it was just started: its workload is enrolled once it is seen. Else add a workload for its cgroup or namespace (mode: disabled leaves it alone), or change `unclassified`.";
    /// The policy engine of `policy_external` denies it.
    ExternalDenied = "external_denied", 45,
        "The policy engine denies this connection, which the rules here allow.",
        "Change the policy of the engine under policy_external if the two are meant to talk.";
    /// The policy engine gives no answer, and `on_failure: deny`.
    ExternalUnavailable = "external_unavailable", 46,
        "The policy engine gave no answer, and without one nobody is let in.",
        "Mend what the detail names; policy_external.on_failure: allow would let in what the rules here allow.";
    /// A connection that was to become direct could not be armed.
    DirectFailed = "direct_failed", 47,
        "The connection was to become direct, and that failed when it could not be given to a relay any more.",
        "Try again: its workload and port go by a relay for a time (direct.unfit). If the detail comes again and again, set direct: never for them.";
}

/// A refusal: the reason and what was seen, for the log, `explain` and the peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// Which check failed.
    pub reason: Reason,
    /// What was compared with what; never holds key material. May be empty.
    pub detail: String,
}

impl Refusal {
    /// A refusal with its evidence.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: String::new() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.sentence())?;
        if !self.detail.is_empty() {
            write!(f, " {}.", self.detail.trim_end_matches('.'))?;
        }
        write!(f, " {}", self.reason.mend())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_its_own_code_and_number_and_says_what_to_do() {
        let codes: HashSet<_> = Reason::ALL.iter().map(|r| r.code()).collect();
        let numbers: HashSet<_> = Reason::ALL.iter().map(|r| r.number()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        assert_eq!(numbers.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_number(reason.number()), Some(*reason));
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
            assert!(reason.sentence().ends_with('.') && reason.mend().ends_with('.'), "{reason:?}");
            assert!(reason.code().chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        }
        assert_eq!(Reason::from_number(0), None);
        assert_eq!(Reason::from_code("no_such_reason"), None);
    }
}
