//! The double over the wire, as a client sees it.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Act, Double, Gone, InWatch, TOKEN};

const PODS: &str = "/api/v1/pods";

async fn ask(double: &Double, method: &str, path: &str, body: Option<Value>) -> Response<Incoming> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(double.ca_pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(double.address()).await.unwrap();
    let name = ServerName::IpAddress(double.address().ip().into());
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let body = body.map_or(Bytes::new(), |body| Bytes::from(body.to_string()));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "kubernetes")
        .header("content-type", "application/merge-patch+json")
        .header("authorization", format!("Bearer {TOKEN}"));
    sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap()
}

async fn whole(response: Response<Incoming>) -> (u16, Value) {
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&body).unwrap())
}

async fn get(double: &Double, path: &str) -> (u16, Value) {
    whole(ask(double, "GET", path, None).await).await
}

/// The next events of a watch: type and name, or type and code.
async fn events(body: &mut Incoming, count: usize) -> Vec<String> {
    let mut events = Vec::new();
    let mut text = String::new();
    while events.len() < count {
        let frame = tokio::time::timeout(Duration::from_secs(10), body.frame()).await.expect("in time");
        let Some(frame) = frame else { break };
        text.push_str(std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap());
        while let Some((line, rest)) = text.split_once('\n') {
            let event: Value = serde_json::from_str(line).unwrap();
            let (kind, object) = (event["type"].as_str().unwrap(), &event["object"]);
            events.push(match kind {
                "ERROR" => format!("{kind} {}", object["code"]),
                "BOOKMARK" => format!("{kind} {}", object["metadata"]["resourceVersion"].as_str().unwrap()),
                _ => format!("{kind} {}", object["metadata"]["name"].as_str().unwrap()),
            });
            text = rest.to_owned();
        }
    }
    events
}

fn pod(name: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "shop" } })
}

#[tokio::test]
async fn a_list_comes_in_pages_and_a_watch_goes_on_from_its_version() {
    let double = Double::start();
    for name in ["a", "b", "c"] {
        double.put("pods", pod(name));
    }
    let (_, first) = get(&double, &format!("{PODS}?limit=2")).await;
    assert_eq!(
        (first["items"].as_array().unwrap().len(), &first["metadata"]["remainingItemCount"]),
        (2, &json!(1))
    );
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = get(&double, &format!("{PODS}?limit=2&continue={token}")).await;
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);

    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{PODS}?watch=1&allowWatchBookmarks=true&resourceVersion={version}");
    let mut watch = ask(&double, "GET", &path, None).await.into_body();
    double.put("pods", pod("d"));
    double.delete("pods", "shop", "a");
    assert_eq!(events(&mut watch, 2).await, ["ADDED d", "DELETED a"]);
    assert_eq!(double.in_watches(InWatch::Bookmark), 1);
    assert_eq!(events(&mut watch, 1).await, [format!("BOOKMARK {}", double.version())]);
    double.in_watches(InWatch::End);
    assert!(events(&mut watch, 1).await.is_empty());
    assert_eq!((double.count("list", "pods"), double.count("page", "pods")), (1, 1));
}

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_is_there_and_ends_in_time() {
    let double = Double::start();
    double.put("pods", pod("a"));
    double.bookmarks_each(Duration::from_millis(300));
    let path = format!("{PODS}?watch=true&allowWatchBookmarks=true&timeoutSeconds=1");
    let mut watch = ask(&double, "GET", &path, None).await.into_body();
    let all = events(&mut watch, 99).await;
    assert!(all[0] == "ADDED a" && all[1].starts_with("BOOKMARK") && all.len() < 6, "{all:?}");
}

#[tokio::test]
async fn what_is_compacted_is_told_as_a_status_or_in_the_stream() {
    let double = Double::start();
    double.put("pods", pod("a"));
    double.compact();
    let path = format!("{PODS}?watch=true&resourceVersion=1000");
    let (code, status) = get(&double, &path).await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
    double.gone_as(Gone::Event);
    let mut watch = ask(&double, "GET", &path, None).await.into_body();
    assert_eq!(events(&mut watch, 9).await, ["ERROR 410"]);
}

#[tokio::test]
async fn a_request_without_a_good_token_or_against_a_rule_is_refused() {
    let double = Double::start();
    double.forbid("watch", "pods");
    let (code, status) = get(&double, &format!("{PODS}?watch=true")).await;
    assert!(code == 403 && status["message"].as_str().unwrap().contains("cannot watch resource \"pods\""));
    double.tokens(&["another"]);
    assert_eq!(get(&double, PODS).await.0, 401);
}

#[tokio::test]
async fn changes_over_the_wire_are_told_to_watches() {
    let double = Double::start();
    let mut watch = ask(&double, "GET", &format!("{PODS}?watch=1"), None).await.into_body();
    let path = "/api/v1/namespaces/shop/pods";
    let (code, _) = whole(ask(&double, "POST", path, Some(pod("a"))).await).await;
    assert_eq!(code, 201);
    let status = json!({ "status": { "phase": "Running" } });
    let (code, object) = whole(ask(&double, "PATCH", &format!("{path}/a/status"), Some(status)).await).await;
    assert_eq!((code, &object["status"]["phase"]), (200, &json!("Running")));
    assert_eq!(whole(ask(&double, "DELETE", &format!("{path}/a"), None).await).await.0, 200);
    assert_eq!(get(&double, &format!("{path}/a")).await.0, 404);
    assert_eq!(events(&mut watch, 3).await, ["ADDED a", "MODIFIED a", "DELETED a"]);
}

#[tokio::test]
async fn faults_happen_to_the_next_requests_and_then_no_more() {
    let mut double = Double::start();
    double.next("list", "pods", 1, Act::Status(429, Some(7)));
    let response = ask(&double, "GET", PODS, None).await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "7"));
    double.next("list", "pods", 1, Act::Half);
    assert!(ask(&double, "GET", PODS, None).await.into_body().collect().await.is_err());
    assert_eq!(get(&double, PODS).await.0, 200);

    let mut watch = ask(&double, "GET", &format!("{PODS}?watch=1"), None).await.into_body();
    double.cut();
    assert!(watch.frame().await.unwrap().is_err());
    double.stop();
    assert!(TcpStream::connect(double.address()).await.is_err());
    double.restart();
    assert_eq!(get(&double, PODS).await.0, 200);
    let mut watch = ask(&double, "GET", &format!("{PODS}?watch=1"), None).await.into_body();
    double.silence();
    double.put("pods", pod("a"));
    let heard = tokio::time::timeout(Duration::from_millis(200), watch.frame()).await;
    assert!(heard.is_err(), "nothing is heard, and no end");
    double.speak();
    assert_eq!(get(&double, PODS).await.0, 200);
}
