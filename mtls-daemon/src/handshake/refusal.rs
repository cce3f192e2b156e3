//! The reason behind an error of rustls that is not about a certificate.

use rustls::{AlertDescription, CertificateError, Error as TlsError, PeerIncompatible};

use crate::observe::{Reason, Refusal, alert};

/// The refusal that an error of the handshake stands for.
pub(super) fn of(error: &TlsError) -> Refusal {
    let reason = match error {
        TlsError::NoCertificatesPresented => Reason::NoCertificate,
        TlsError::AlertReceived(alert) => {
            let reason = match alert {
                AlertDescription::ProtocolVersion => Reason::TlsVersion,
                _ => Reason::PeerAlert,
            };
            return Refusal::new(reason, alert::detail((*alert).into()));
        }
        TlsError::PeerIncompatible(why) => incompatible(why),
        TlsError::NoApplicationProtocol => Reason::NoCommonParameters,
        TlsError::InvalidMessage(_)
        | TlsError::InappropriateMessage { .. }
        | TlsError::InappropriateHandshakeMessage { .. }
        | TlsError::PeerMisbehaved(_)
        | TlsError::PeerSentOversizedRecord
        | TlsError::UnsupportedNameType => Reason::MalformedTls,
        TlsError::DecryptError => Reason::RecordError,
        TlsError::InvalidCertificate(error) => certificate(error),
        _ => Reason::Internal,
    };
    Refusal::new(reason, error.to_string())
}

fn incompatible(why: &PeerIncompatible) -> Reason {
    match why {
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::Tls13RequiredForQuic
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired => Reason::TlsVersion,
        _ => Reason::NoCommonParameters,
    }
}

fn certificate(error: &CertificateError) -> Reason {
    match error {
        CertificateError::BadEncoding => Reason::MalformedCertificate,
        CertificateError::BadSignature => Reason::BadSignature,
        _ => Reason::CertificateUnsupported,
    }
}
