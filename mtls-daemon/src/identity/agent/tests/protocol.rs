//! The messages are those of the published definitions.

use std::path::Path;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};

use crate::identity::agent::messages::*;

fn published() -> DescriptorPool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let compile = |files: &[&str], include: &Path| protox::compile(files, [include]).unwrap().file;
    let mut files = compile(&["workload.proto"], &root.join("spiffe"));
    files.extend(compile(&["spire/api/agent/delegatedidentity/v1/delegatedidentity.proto"], &root));
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_protos(files).unwrap();
    pool
}

/// Reads what we wrote by the published definition.
fn as_published(pool: &DescriptorPool, name: &str, message: &impl Message) -> DynamicMessage {
    let descriptor = pool.get_message_by_name(name).unwrap_or_else(|| panic!("no message {name}"));
    let read = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).unwrap();
    assert_eq!(read.unknown_fields().count(), 0, "{read:?}");
    read
}

fn field(message: &DynamicMessage, path: &[&str]) -> Value {
    let (first, rest) = path.split_first().unwrap();
    let value = message.get_field_by_name(first).unwrap().into_owned();
    let value = match &value {
        Value::List(list) => list[0].clone(),
        Value::Map(map) => map.values().next().unwrap().clone(),
        _ => value,
    };
    match (rest, &value) {
        ([], _) => value,
        (rest, Value::Message(inner)) => field(inner, rest),
        _ => panic!("{first} is no message"),
    }
}

fn bytes(text: &str) -> Value {
    Value::Bytes(text.to_owned().into())
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

#[test]
fn every_message_is_that_of_the_published_definition() {
    let pool = published();
    let svid = X509Svid {
        spiffe_id: "id".into(),
        x509_svid: b"chain".into(),
        x509_svid_key: b"key".into(),
        bundle: b"roots".into(),
    };
    let answer = X509SvidResponse {
        svids: vec![svid],
        crl: vec![b"crl".into()],
        federated_bundles: [("domain".to_owned(), b"foreign".to_vec())].into(),
    };
    let read = as_published(&pool, "X509SVIDResponse", &answer);
    for (path, value) in [
        (&["svids", "spiffe_id"][..], text("id")),
        (&["svids", "x509_svid"], bytes("chain")),
        (&["svids", "x509_svid_key"], bytes("key")),
        (&["svids", "bundle"], bytes("roots")),
        (&["crl"], bytes("crl")),
        (&["federated_bundles"], bytes("foreign")),
    ] {
        assert_eq!(field(&read, path), value, "{path:?}");
    }

    let selectors = vec![Selector { r#type: "unix".into(), value: "uid:0".into() }];
    let prefix = "spire.api.agent.delegatedidentity.v1.";
    let read = as_published(
        &pool,
        &format!("{prefix}SubscribeToX509SVIDsRequest"),
        &SubscribeToX509SvidsRequest { selectors },
    );
    assert_eq!(field(&read, &["selectors", "type"]), text("unix"));
    assert_eq!(field(&read, &["selectors", "value"]), text("uid:0"));

    let id = SpiffeIdParts { trust_domain: "domain".into(), path: "/path".into() };
    let x509_svid = Some(Certificates { cert_chain: vec![b"leaf".into()], id: Some(id) });
    let answer = SubscribeToX509SvidsResponse {
        x509_svids: vec![X509SvidWithKey { x509_svid, x509_svid_key: b"key".into() }],
        federates_with: vec!["partner".into()],
    };
    let read = as_published(&pool, &format!("{prefix}SubscribeToX509SVIDsResponse"), &answer);
    for (path, value) in [
        (&["x509_svids", "x509_svid", "cert_chain"][..], bytes("leaf")),
        (&["x509_svids", "x509_svid", "id", "trust_domain"], text("domain")),
        (&["x509_svids", "x509_svid", "id", "path"], text("/path")),
        (&["x509_svids", "x509_svid_key"], bytes("key")),
        (&["federates_with"], text("partner")),
    ] {
        assert_eq!(field(&read, path), value, "{path:?}");
    }

    let answer = SubscribeToX509BundlesResponse { ca_certificates: [("d".to_owned(), b"r".to_vec())].into() };
    let read = as_published(&pool, &format!("{prefix}SubscribeToX509BundlesResponse"), &answer);
    assert_eq!(field(&read, &["ca_certificates"]), bytes("r"));
}

#[test]
fn every_call_is_that_of_the_published_definition() {
    let pool = published();
    for (path, request, response) in [
        (FETCH_X509_SVID, "X509SVIDRequest", "X509SVIDResponse"),
        (SUBSCRIBE_TO_X509_SVIDS, "SubscribeToX509SVIDsRequest", "SubscribeToX509SVIDsResponse"),
        (SUBSCRIBE_TO_X509_BUNDLES, "SubscribeToX509BundlesRequest", "SubscribeToX509BundlesResponse"),
    ] {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap();
        let service = pool.get_service_by_name(service).unwrap_or_else(|| panic!("no service {service}"));
        let method = service.methods().find(|known| known.name() == method).unwrap();
        assert!(method.is_server_streaming() && !method.is_client_streaming());
        assert_eq!((method.input().name(), method.output().name()), (request, response));
    }
}

#[test]
fn a_key_is_not_shown() {
    let mut svid = X509Svid::default();
    svid.x509_svid_key = b"secret".into();
    let mut with_key = X509SvidWithKey::default();
    with_key.x509_svid_key = b"secret".into();
    for shown in [format!("{svid:?}"), format!("{with_key:?}")] {
        // As a list of numbers, or as text.
        assert!(!shown.contains("115, 101") && !shown.contains("secret"), "{shown}");
    }
}
