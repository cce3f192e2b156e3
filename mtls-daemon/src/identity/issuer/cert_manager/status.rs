//! What a CertificateRequest says of itself.

use serde::Deserialize;

use super::error::Pending;
use crate::identity::leaf::show;
use crate::kube::or_default;

/// A CertificateRequest, as far as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct Object {
    #[serde(default, deserialize_with = "or_default")]
    status: Status,
}

#[derive(Debug, Default, Deserialize)]
struct Status {
    #[serde(default, deserialize_with = "or_default")]
    conditions: Vec<Condition>,
    #[serde(default, deserialize_with = "or_default")]
    certificate: String,
}

#[derive(Debug, Default, Deserialize)]
struct Condition {
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    status: String,
    #[serde(default, deserialize_with = "or_default")]
    reason: String,
    #[serde(default, deserialize_with = "or_default")]
    message: String,
}

/// What has become of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State<'a> {
    /// The chain, PEM in base64.
    Signed(&'a str),
    /// An approver said no.
    Denied(String),
    /// The controller cannot sign it.
    Failed(String),
    /// Not decided yet.
    Pending(Pending),
}

impl Object {
    /// What has become of it. A refusal goes before a certificate that is there all the same.
    pub fn state(&self) -> State<'_> {
        let said = |condition: &Condition| show(&condition.message);
        if let Some(denied) = self.is("Denied") {
            return State::Denied(said(denied));
        }
        if let Some(invalid) = self.is("InvalidRequest") {
            return State::Failed(said(invalid));
        }
        let ready = self.status.conditions.iter().find(|condition| condition.kind == "Ready");
        match ready {
            Some(ready) if ready.reason == "Failed" => State::Failed(said(ready)),
            Some(ready) if ready.reason == "Denied" => State::Denied(said(ready)),
            Some(ready) if ready.status == "True" && !self.status.certificate.is_empty() => {
                State::Signed(&self.status.certificate)
            }
            _ if self.is("Approved").is_some() => State::Pending(Pending::NotSigned),
            _ => State::Pending(Pending::NotApproved),
        }
    }

    fn is(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.kind == kind && condition.status == "True")
    }
}
