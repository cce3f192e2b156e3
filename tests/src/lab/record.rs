//! One line of the access log. The field names are those of mtls-daemon/src/observe/connection.rs.

use serde_json::Value;

/// A connection that ended or was refused.
#[derive(Debug, Clone)]
pub struct Record(pub Value);

impl Record {
    fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn number(&self, pointer: &str) -> u64 {
        self.0.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
    }

    /// The connection's id.
    pub fn id(&self) -> &str {
        self.text("/id")
    }

    /// The local workload's name.
    pub fn workload(&self) -> &str {
        self.text("/workload")
    }

    /// Whether the peer opened it.
    pub fn inbound(&self) -> bool {
        self.text("/direction") == "inbound"
    }

    /// Whether no byte of the application was carried.
    pub fn refused(&self) -> bool {
        self.text("/event") == "refused"
    }

    /// The reason's code, or "".
    pub fn reason(&self) -> &str {
        self.text("/reason/code")
    }

    /// What was seen, or "".
    pub fn detail(&self) -> &str {
        self.text("/reason/detail")
    }

    /// What is to be done about the reason, or "".
    pub fn mend(&self) -> &str {
        self.text("/reason/mend")
    }

    /// What the peer's daemon gave as its reason, or "".
    pub fn remote_reason(&self) -> &str {
        self.text("/remote_reason/code")
    }

    /// The local workload's identity.
    pub fn local(&self) -> &str {
        self.text("/local_identity")
    }

    /// The identity that the peer proved or claimed.
    pub fn peer(&self) -> &str {
        self.text("/peer_identity")
    }

    /// Whether the peer proved that identity.
    pub fn peer_proven(&self) -> bool {
        self.0.pointer("/peer_proven").and_then(Value::as_bool).expect("always present")
    }

    /// The client's address and port.
    pub fn source(&self) -> &str {
        self.text("/source")
    }

    /// The address and port that the client connected to.
    pub fn destination(&self) -> &str {
        self.text("/destination")
    }

    /// The policy rule that decided, or "".
    pub fn policy(&self) -> &str {
        self.text("/policy")
    }

    /// `relay-userspace`, `relay-ktls`, `direct`, `passthrough`, `plaintext` or "".
    pub fn datapath(&self) -> &str {
        self.text("/datapath")
    }

    /// Why it is not a better datapath, or "".
    pub fn why_not_better(&self) -> &str {
        self.text("/why_not_better")
    }

    /// The cipher suite, such as `TLS13_AES_256_GCM_SHA384`, or "".
    pub fn suite(&self) -> &str {
        self.text("/tls/suite")
    }

    /// `TLSv1.3`, `TLSv1.2` or "".
    pub fn tls_version(&self) -> &str {
        self.text("/tls/version")
    }

    /// The serial number of the peer's certificate, lower-case hexadecimal, or "".
    pub fn peer_serial(&self) -> &str {
        self.text("/peer_certificate/serial")
    }

    /// Bytes from the local workload to the peer.
    pub fn sent(&self) -> u64 {
        self.number("/bytes/sent")
    }

    /// Bytes from the peer to the local workload.
    pub fn received(&self) -> u64 {
        self.number("/bytes/received")
    }

    /// Bytes in both directions.
    pub fn bytes(&self) -> u64 {
        self.sent() + self.received()
    }
}
