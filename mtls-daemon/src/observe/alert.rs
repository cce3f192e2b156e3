//! What a peer's TLS alert says about us: which of its checks failed, and what to mend at our end.

use std::borrow::Cow;

/// How a refusal's detail begins that holds an alert.
const DETAIL: &str = "the peer's alert: ";

macro_rules! alerts {
    ($($name:ident = $number:literal, $code:literal, $sentence:literal, $mend:literal;)*) => {
        /// An alert of RFC 8446 section 6, or of one of the documents that IANA's registry of TLS alerts names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[expect(missing_docs, reason = "their sentences say what they are")]
        pub enum Alert {
            $($name,)*
        }

        impl Alert {
            /// Every alert that is known.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The alert of a number on the wire.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Its number on the wire.
            #[must_use]
            pub const fn number(self) -> u8 {
                match self { $(Self::$name => $number,)* }
            }

            /// The name that its document gives it.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What the peer says about us, in a sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }

            /// What to do at our end, or where else to look.
            #[must_use]
            pub const fn mend(self) -> &'static str {
                match self { $(Self::$name => $mend,)* }
            }
        }
    };
}

alerts! {
    CloseNotify = 0, "close_notify",
        "The peer ended the connection by itself, without a reason.",
        "Look at the peer's log.";
    UnexpectedMessage = 10, "unexpected_message",
        "The peer's check of the order of messages failed: it expected another TLS message from us.",
        "See whether something between the two changes or repeats bytes, or whether the peer expects another protocol on this port.";
    BadRecordMac = 20, "bad_record_mac",
        "The peer's check of a record failed: it could not authenticate what we sent.",
        "Look for something on the path that alters bytes.";
    DecryptionFailed = 21, "decryption_failed",
        "The peer could not decrypt what we sent (an alert of old versions of TLS).",
        "Look for something on the path that alters bytes; bring the peer's TLS up to date.";
    RecordOverflow = 22, "record_overflow",
        "The peer's check of a record's length failed.",
        "Look for something on the path that alters bytes; report it if the peer is sound.";
    DecompressionFailure = 30, "decompression_failure",
        "The peer could not decompress what we sent, and mtlsd compresses nothing.",
        "Look for something on the path that alters bytes.";
    HandshakeFailure = 40, "handshake_failure",
        "The peer's choice of parameters failed: it shares no cipher suite, group or signature scheme with us, or wants a certificate of another kind.",
        "Compare the peer's TLS settings with tls.cipher_suites here, and its accepted signature schemes with the key of our certificate.";
    NoCertificate = 41, "no_certificate",
        "The peer has no certificate (an alert of SSL 3.0).",
        "Give the peer a certificate and a current TLS.";
    BadCertificate = 42, "bad_certificate",
        "The peer's check of our certificate failed: it could not be parsed, a signature in it is wrong, or it lacks a name that the peer wants.",
        "Look at our certificate (`mtlsd workloads` names it): let its SAN say who we are and its chain be complete, or issue it again.";
    UnsupportedCertificate = 43, "unsupported_certificate",
        "The peer's check of our certificate's kind failed: its key, its usages or an extension is not accepted there.",
        "Issue our certificate with digitalSignature, serverAuth and clientAuth, and a key of a kind that the peer takes.";
    CertificateRevoked = 44, "certificate_revoked",
        "The peer's check of revocation failed: a certificate of our chain is revoked there.",
        "Issue our workload a new certificate with a new key; if it was a mistake, take it off the peer's deny list or CRL.";
    CertificateExpired = 45, "certificate_expired",
        "The peer's check of validity failed: our certificate has expired by its clock, or is not valid yet.",
        "Renew our certificate (`mtlsd workloads` shows its end), and compare the clocks of both nodes.";
    CertificateUnknown = 46, "certificate_unknown",
        "The peer's check of our certificate failed for a reason that no other alert names.",
        "Look at the peer's log; often our certificate carries no name that the peer accepts: let it have exactly one SPIFFE ID.";
    IllegalParameter = 47, "illegal_parameter",
        "The peer's check of a field in the handshake failed.",
        "Compare the versions of both ends; report it if the peer follows RFC 8446.";
    UnknownCa = 48, "unknown_ca",
        "The peer's check of our chain failed: it does not trust our issuer.",
        "Add our root there: to the peer's trust bundle for our trust domain; or issue our certificate from a CA that the peer trusts.";
    AccessDenied = 49, "access_denied",
        "The peer's access control failed us: our certificate is good, and its policy does not let our identity in.",
        "Add a rule at the peer that allows our SPIFFE ID on this port.";
    DecodeError = 50, "decode_error",
        "The peer could not decode a message of ours.",
        "Look for something on the path that alters bytes, and whether the peer speaks TLS 1.3.";
    DecryptError = 51, "decrypt_error",
        "The peer's check of a signature in the handshake failed: it does not believe that we hold the key of our certificate.",
        "See that our certificate and our key belong together; issue both again.";
    ExportRestriction = 60, "export_restriction",
        "The peer refuses our parameters by a rule of the 1990s.",
        "Bring the peer's TLS up to date.";
    ProtocolVersion = 70, "protocol_version",
        "The peer's check of the version failed: it does not speak the TLS version that we offer.",
        "Let the peer speak TLS 1.3, or set tls.min_version to \"1.2\" here.";
    InsufficientSecurity = 71, "insufficient_security",
        "The peer's check of strength failed: it wants stronger parameters than we offer.",
        "Compare tls.cipher_suites here and the key of our certificate with what the peer asks for.";
    InternalError = 80, "internal_error",
        "Something failed inside the peer, which has nothing to do with us.",
        "Look at the peer's log.";
    InappropriateFallback = 86, "inappropriate_fallback",
        "The peer suspects that the version of TLS was brought down by somebody in between.",
        "Look for something on the path that interferes with handshakes.";
    UserCanceled = 90, "user_canceled",
        "The peer gave up the handshake for a reason of its own.",
        "Look at the peer's log.";
    NoRenegotiation = 100, "no_renegotiation",
        "The peer does not renegotiate, and mtlsd never asks for it.",
        "Look for something on the path that alters bytes.";
    MissingExtension = 109, "missing_extension",
        "The peer's check of our extensions failed: it wants one that we did not send.",
        "See in the peer's log which one: often it wants a server name (SNI), which mtlsd does not send to an address.";
    UnsupportedExtension = 110, "unsupported_extension",
        "The peer's check of our extensions failed: we sent one that it did not ask for.",
        "Compare the versions of both ends; report it if the peer follows RFC 8446.";
    CertificateUnobtainable = 111, "certificate_unobtainable",
        "The peer could not fetch our certificate from a URL, and mtlsd gives none.",
        "Look at the peer's log.";
    UnrecognizedName = 112, "unrecognized_name",
        "The peer's check of the server name failed: it serves nobody of that name.",
        "Check that the address belongs to the expected workload, and the peer's configured names.";
    BadCertificateStatusResponse = 113, "bad_certificate_status_response",
        "The peer's check of our stapled OCSP answer failed.",
        "See in the log what the OCSP responder of our certificate answers; trust.ocsp_policy at the peer says how strict it is.";
    BadCertificateHashValue = 114, "bad_certificate_hash_value",
        "The peer fetched our certificate from a URL and found another one; mtlsd gives no URL.",
        "Look at the peer's log.";
    UnknownPskIdentity = 115, "unknown_psk_identity",
        "The peer does not know the pre-shared key that we named; mtlsd resumes no session.",
        "Look for something on the path that alters bytes.";
    CertificateRequired = 116, "certificate_required",
        "The peer's check for a certificate failed: it requires one from us and got none.",
        "See in `mtlsd workloads` that our workload has an identity; a peer that lists accepted CAs must list ours.";
    NoApplicationProtocol = 120, "no_application_protocol",
        "The peer's choice of ALPN failed: it shares no application protocol with us.",
        "Let the peer take connections without ALPN or with mtlsd/1 (docs/protocol.md).";
    EncryptedClientHelloRequired = 121, "ech_required",
        "The peer takes only an encrypted ClientHello, which mtlsd does not send.",
        "Let the peer take a plain ClientHello on this port.";
}

impl Alert {
    /// The alert in a refusal's detail that [`detail`] made.
    #[must_use]
    pub fn in_detail(detail: &str) -> Option<Self> {
        let code = detail.strip_prefix(DETAIL)?;
        Self::ALL.iter().copied().find(|alert| alert.code() == code)
    }
}

/// The detail of a refusal that an alert of the peer brought about: its name, as RFC 8446 section 6 writes it, or its number.
#[must_use]
pub fn detail(number: u8) -> String {
    let name = Alert::from_number(number)
        .map_or_else(|| Cow::Owned(format!("number {number}")), |alert| Cow::Borrowed(alert.code()));
    format!("{DETAIL}{name}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rustls::AlertDescription;

    use super::*;

    #[test]
    fn every_alert_that_rustls_knows_has_a_sentence_and_a_mend_and_is_read_back_from_a_detail() {
        let mut codes = HashSet::new();
        for number in 0..=u8::MAX {
            let known = AlertDescription::from(number).as_str();
            let alert = Alert::from_number(number);
            assert_eq!(alert.is_some(), known.is_some(), "alert {number}, {known:?}");
            let Some(alert) = alert else {
                assert_eq!(Alert::in_detail(&detail(number)), None);
                continue;
            };
            assert_eq!(alert.number(), number);
            assert_eq!(Alert::in_detail(&detail(number)), Some(alert));
            assert!(codes.insert(alert.code()));
            assert!(alert.sentence().ends_with('.') && alert.mend().ends_with('.'), "{alert:?}");
            assert!(alert.code().chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        }
        assert_eq!(codes.len(), Alert::ALL.len());
        assert_eq!(detail(255), "the peer's alert: number 255");
    }

    #[test]
    fn alerts_about_our_certificate_say_which_check_of_the_peer_it_is_and_mend_our_side() {
        for (description, check, mend) in [
            (AlertDescription::UnknownCA, "does not trust our issuer", "Add our root there"),
            (AlertDescription::CertificateExpired, "validity", "Renew our certificate"),
            (AlertDescription::CertificateRevoked, "revocation", "new certificate with a new key"),
            (AlertDescription::AccessDenied, "its policy", "allows our SPIFFE ID"),
            (AlertDescription::BadCertificate, "our certificate", "our certificate"),
            (AlertDescription::CertificateRequired, "requires one from us", "has an identity"),
            (AlertDescription::ProtocolVersion, "version", "tls.min_version"),
        ] {
            let alert = Alert::from_number(description.into()).unwrap();
            assert!(alert.sentence().contains(check), "{alert:?}: {}", alert.sentence());
            assert!(alert.mend().contains(mend), "{alert:?}: {}", alert.mend());
        }
    }

    #[test]
    fn what_is_no_detail_of_an_alert_holds_none() {
        for text in ["", "unknown_ca", "the peer's alert: ", "the peer's alert: unknown_ca and more"] {
            assert_eq!(Alert::in_detail(text), None, "{text}");
        }
    }
}
