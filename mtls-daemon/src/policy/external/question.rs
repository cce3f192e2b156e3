//! What is asked: everything that is known of a connection and that makes one answer good for the next like it.
//!
//! So there is no time, no source port and no serial number in it: each connection would be another question.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aws_lc_rs::digest;
use serde::Serialize;
use serde_json::{Value, json};

use super::cache::Key;
use crate::config::{Mode, Workload};
use crate::identity::{PeerName, SpiffeId};
use crate::observe::connection::Direction;
use crate::policy::Peer;

/// A connection that the rules allow. docs/policy-external.md describes each key.
#[derive(Debug, Clone, Serialize)]
pub struct Question<'a> {
    direction: Direction,
    /// Of the port; only inbound.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    /// The peer proved who it is.
    authenticated: bool,
    source: End<'a>,
    destination: End<'a>,
    /// The same in the words of Envoy's external authorisation.
    attributes: Value,
}

/// One end of it. What is not known is left out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct End<'a> {
    /// Of a local workload its name; of another destination the directory's name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trust_domain: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_account: Option<&'a str>,
    /// Of a peer that proved another name than a SPIFFE ID.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    organizations: Option<&'a [Box<str>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    organizational_units: Option<&'a [Box<str>]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extensions: Option<BTreeMap<&'a str, Vec<&'a str>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

impl<'a> End<'a> {
    /// A workload of this node, at this address.
    #[must_use]
    pub fn local(workload: &'a Workload, address: IpAddr) -> Self {
        let end = Self {
            workload: Some(&workload.name),
            labels: Some(&workload.labels),
            address: Some(address),
            ..Self::default()
        };
        end.named(&workload.spiffe_id)
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(peer: &Peer<'a>) -> Self {
        let end = Self { address: peer.address, ..Self::default() };
        let Some(name) = peer.name else { return end };
        let attributes = peer.attributes;
        let mut extensions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (oid, value) in attributes.into_iter().flat_map(|attributes| &attributes.extensions) {
            extensions.entry(oid).or_default().push(value);
        }
        let end = Self {
            organizations: attributes.map(|attributes| &*attributes.organizations),
            organizational_units: attributes.map(|attributes| &*attributes.organizational_units),
            extensions: attributes.map(|_| extensions),
            ..end
        };
        match name {
            PeerName::Spiffe(id) => end.named(id),
            PeerName::Dns(_) | PeerName::CommonName(_) => Self { name: Some(name.to_string()), ..end },
        }
    }

    /// How the directory calls it.
    #[must_use]
    pub fn called(self, name: &'a str) -> Self {
        Self { workload: Some(name), ..self }
    }

    /// The port that is connected to.
    #[must_use]
    pub fn at(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }

    fn named(self, id: &'a SpiffeId) -> Self {
        let account = id.service_account();
        Self {
            spiffe_id: Some(id.as_str()),
            trust_domain: Some(id.trust_domain().as_str()),
            namespace: account.map(|(namespace, _)| namespace),
            service_account: account.map(|(_, name)| name),
            ..self
        }
    }

    /// As Envoy's `AttributeContext.Peer` has it in JSON.
    fn envoy(&self) -> Value {
        let mut socket = serde_json::Map::new();
        socket.extend(self.address.map(|address| ("address".to_owned(), json!(address))));
        socket.extend(self.port.map(|port| ("portValue".to_owned(), json!(port))));
        let mut end = serde_json::Map::new();
        end.insert("address".to_owned(), json!({ "socketAddress": socket }));
        let principal = self.spiffe_id.or(self.name.as_deref());
        end.extend(principal.map(|principal| ("principal".to_owned(), json!(principal))));
        Value::Object(end)
    }
}

impl<'a> Question<'a> {
    /// A connection of a peer to a local workload.
    #[must_use]
    pub fn inbound(peer: End<'a>, to: End<'a>, mode: Mode, authenticated: bool) -> Self {
        let mode = Some(mode.to_string());
        Self::new(Direction::Inbound, mode, authenticated, peer, to)
    }

    /// A connection of a local workload to a server that has proved who it is.
    #[must_use]
    pub fn outbound(from: End<'a>, peer: End<'a>) -> Self {
        Self::new(Direction::Outbound, None, true, from, peer)
    }

    fn new(
        direction: Direction,
        mode: Option<String>,
        authenticated: bool,
        source: End<'a>,
        destination: End<'a>,
    ) -> Self {
        let attributes = json!({ "source": source.envoy(), "destination": destination.envoy() });
        Self { direction, mode, authenticated, source, destination, attributes }
    }

    /// The request's body, and what an equal question has too.
    pub(super) fn document(&self) -> Result<(Vec<u8>, Key), serde_json::Error> {
        #[derive(Serialize)]
        struct Request<'q, 'a> {
            input: &'q Question<'a>,
        }
        let document = serde_json::to_vec(&Request { input: self })?;
        let mut key = Key::default();
        let hash = digest::digest(&digest::SHA256, &document);
        for (byte, of_hash) in key.iter_mut().zip(hash.as_ref()) {
            *byte = *of_hash;
        }
        Ok((document, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::CertificateAttributes;
    use crate::snapshot::testing::config;

    fn value(question: &Question<'_>) -> Value {
        serde_json::from_slice(&question.document().unwrap().0).unwrap()
    }

    #[test]
    fn the_document_is_the_one_that_is_documented() {
        let config = config(
            "workloads: [{ name: db, select: { netns: db }, labels: { tier: data }, spiffe_id: spiffe://example.org/ns/shop/sa/db }]\n",
        );
        let db = config.workload("db").unwrap();
        let name = PeerName::Spiffe("spiffe://example.org/ns/shop/sa/web".parse().unwrap());
        let attributes = CertificateAttributes {
            organizations: vec!["Shop".into()],
            organizational_units: vec![],
            extensions: vec![
                ("1.3.6.1.4.1.99999.1".into(), "blue".into()),
                ("1.3.6.1.4.1.99999.1".into(), "green".into()),
            ],
        };
        let (from, to) = ("10.0.0.2".parse().unwrap(), "10.1.0.7".parse().unwrap());
        let peer = Peer { name: Some(&name), attributes: Some(&attributes), address: Some(from) };
        let question = Question::inbound(End::peer(&peer), End::local(db, to).at(5432), Mode::Strict, true);
        // The same text stands in docs/policy-external.md.
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy-external.md");
        let document = std::fs::read_to_string(document).unwrap();
        let (_, example) = document.split_once("```json\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        assert_eq!(value(&question), serde_json::from_str::<Value>(example).unwrap());
    }

    #[test]
    fn what_is_not_known_is_left_out_and_other_names_are_no_spiffe_ids() {
        let config = config("workloads: [{ name: db, select: { netns: db } }]\n");
        let db = config.workload("db").unwrap();
        let (from, to) = ("10.0.0.2".parse().unwrap(), "10.1.0.7".parse().unwrap());
        let nobody = Peer::unproven(from);
        let question =
            Question::inbound(End::peer(&nobody), End::local(db, to).at(80), Mode::Permissive, false);
        let said = value(&question);
        assert_eq!(said["input"]["source"], json!({ "address": "10.0.0.2" }));
        assert_eq!(said["input"]["authenticated"], json!(false));
        assert_eq!(said["input"]["mode"], json!("permissive"));
        assert!(said["input"]["attributes"]["source"].get("principal").is_none());

        let name = PeerName::Dns("db.legacy.example".into());
        let peer = Peer::expected(&name, Some(to));
        let question = Question::outbound(End::local(db, from), End::peer(&peer).called("legacy").at(5432));
        let said = value(&question);
        let destination = json!({ "workload": "legacy", "name": "dns:db.legacy.example", "address": "10.1.0.7", "port": 5432 });
        assert_eq!(said["input"]["destination"], destination);
        assert_eq!(said["input"]["source"]["workload"], json!("db"));
        assert!(said["input"].get("mode").is_none());
    }

    #[test]
    fn equal_questions_have_one_key_and_others_another() {
        let config = config("workloads: [{ name: db, select: { netns: db } }]\n");
        let db = config.workload("db").unwrap();
        let (from, to) = ("10.0.0.2".parse().unwrap(), "10.1.0.7".parse().unwrap());
        let nobody = Peer::unproven(from);
        let ask = |port, mode| {
            Question::inbound(End::peer(&nobody), End::local(db, to).at(port), mode, false)
                .document()
                .unwrap()
                .1
        };
        assert_eq!(ask(80, Mode::Permissive), ask(80, Mode::Permissive));
        assert_ne!(ask(80, Mode::Permissive), ask(81, Mode::Permissive));
        assert_ne!(ask(80, Mode::Permissive), ask(80, Mode::Strict));
    }
}
