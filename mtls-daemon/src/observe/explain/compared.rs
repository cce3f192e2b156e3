//! What each refusal compares with what.

use crate::observe::reason::Reason;

/// The two things that the check behind a reason compares, as the middle of a sentence. No wildcard: a reason without it does
/// not build.
#[must_use]
pub const fn compared(reason: Reason) -> &'static str {
    match reason {
        Reason::Plaintext => "the client's first bytes with the beginning of a TLS ClientHello",
        Reason::HandshakeTimeout => "the time since the first packet with timeouts.handshake",
        Reason::MalformedTls => "the peer's bytes with the formats of RFC 8446",
        Reason::TlsVersion => "the peer's TLS versions with tls.min_version and those above it",
        Reason::NoCommonParameters => {
            "the peer's cipher suites, groups, signature schemes and ALPN protocols with those accepted here"
        }
        Reason::PeerAlert => "at the peer: what we sent with what it accepts",
        Reason::HandshakeClosed => "the end of the peer's bytes with the end of the handshake",
        Reason::NoCertificate => "the peer's Certificate message with the certificate that is required of it",
        Reason::MalformedCertificate => "the peer's certificates with the formats of RFC 5280",
        Reason::ChainTooLarge => {
            "the size of the peer's chain with limits.chain_certificates and limits.chain_bytes"
        }
        Reason::UnknownIssuer => "the issuers of the peer's chain with the roots of its trust domain here",
        Reason::BadSignature => "a signature with the key that should have made it",
        Reason::CertificateExpired => "notAfter of each certificate of the chain with this node's clock",
        Reason::CertificateNotYetValid => {
            "notBefore of each certificate of the chain with this node's clock and trust.clock_skew"
        }
        Reason::CertificateUsage => "the usages in the peer's certificates with those of a TLS peer",
        Reason::NoSpiffeId | Reason::SeveralSpiffeIds => {
            "the URI SANs of the peer's leaf with the one that a SPIFFE ID needs"
        }
        Reason::MalformedSpiffeId => "the URI SAN of the peer's leaf with the grammar of SPIFFE IDs",
        Reason::TrustDomain => "the peer's trust domain with those that have a bundle here",
        Reason::UnexpectedServer => "the server's name with those that the directory expects at this address",
        Reason::CertificateUnsupported => {
            "the extensions, path lengths, name constraints and algorithms of the chain with what is supported"
        }
        Reason::PolicyDenied | Reason::PolicyDefault => {
            "the peer, the workload and the port with the rules: deny first, then allow, then the default"
        }
        Reason::ExternalDenied => {
            "what is known of both ends with the policy of the engine under policy_external"
        }
        Reason::ExternalUnavailable => {
            "the policy engine's answer with a decision in policy_external.timeout"
        }
        Reason::DirectFailed => {
            "what this kernel, the application and the other daemon did with what direct needs of them"
        }
        Reason::UnknownDestination => "the destination's address and port with the directory",
        Reason::NoIdentity => {
            "the workload's own certificate with this node's clock, or its source with what it should yield"
        }
        Reason::DialRefused => "the destination's answer to a SYN with a SYN-ACK",
        Reason::DialTimeout => "the time since the SYN with that in which a destination answers",
        Reason::DialUnreachable => "the destination with the routes of the workload's namespace",
        Reason::ApplicationRefused => "the application's answer to the local connection with a SYN-ACK",
        Reason::WorkloadLimit => "the workload's live connections with limits.connections_per_workload",
        Reason::TotalLimit => "the live connections of this node with limits.connections",
        Reason::HandshakeLimit => "the handshakes under way with limits.handshakes",
        Reason::Truncated => "the end of the peer's stream with an authenticated close_notify",
        Reason::RecordError => "a record's authentication tag with its content",
        Reason::Idle => "the time since the last byte with timeouts.idle",
        Reason::Reset => "the end of the connection with an orderly one: an end sent RST",
        Reason::ShuttingDown => "the workload with those that the running daemon looks after",
        Reason::Unaccounted => "a packet's socket with those that mtlsd has seen connect()",
        Reason::Unclassified => "the process's cgroups and its network namespace with those of workloads",
        Reason::Internal => "the result of a system call with success",
        Reason::KeyLimit => {
            "the records under one key with how many a key may protect (RFC 8446, section 5.5)"
        }
        Reason::KeyUpdate => "the peer's KeyUpdate with what this kernel can do",
        Reason::Revoked => {
            "serials, keys and the SPIFFE ID of the chain with the deny list, the CRLs and the OCSP answers"
        }
        Reason::RevocationUnknown => "the CRLs and OCSP answers at hand with those that this node requires",
    }
}
