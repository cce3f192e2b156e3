//! Against servers on loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::identity::testing::{LeafSpec, TestCa};

fn fetch(ca_file: Option<PathBuf>) -> Fetch {
    Fetch::new(FetchSettings { ca_file, timeout: Duration::from_secs(20), max_bytes: 1000 })
}

/// Answers one request with these bytes, and returns what was asked.
fn serve(mut stream: impl Read + Write, answer: &[u8]) -> String {
    let (mut asked, mut byte) = (Vec::new(), [0]);
    while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        asked.push(byte[0]);
    }
    stream.write_all(answer).unwrap();
    String::from_utf8(asked).unwrap()
}

fn server(answer: &'static [u8]) -> (SocketAddr, thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, thread::spawn(move || serve(listener.accept().unwrap().0, answer)))
}

#[test]
fn every_status_is_an_answer_and_headers_arrive() {
    let (address, asked) = server(
        b"HTTP/1.1 503 No\r\nContent-Type: Text/Plain; charset=utf-8\r\nContent-Length: 6\r\n\r\nsealed",
    );
    let answer = fetch(None).get(&format!("http://{address}/v1/x?y=z"), &[("X-Vault-Token", "t")]).unwrap();
    let body = b"sealed".to_vec();
    assert_eq!(answer, Answer { status: 503, content_type: Some("text/plain".into()), body });
    let asked = asked.join().unwrap().to_lowercase();
    assert!(
        asked.starts_with("get /v1/x?y=z http/1.1\r\n") && asked.contains("x-vault-token: t\r\n"),
        "{asked}"
    );
}

#[test]
fn a_redirect_is_not_followed() {
    let (address, asked) =
        server(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
    let answer = fetch(None).post(&format!("http://{address}/"), &[], b"body").unwrap();
    assert_eq!(answer.status, 302);
    assert!(asked.join().unwrap().starts_with("POST / "));
}

#[test]
fn what_does_not_answer_in_time_or_says_too_much_is_an_error_that_names_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let quick = Fetch::new(FetchSettings { timeout: Duration::from_millis(100), ..fetch(None).settings });
    let error = quick.get(&url, &[]).unwrap_err();
    assert!(matches!(error, FetchError::Timeout { .. }) && error.to_string().contains(&url), "{error}");

    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n{}", "x".repeat(2000));
    let (address, _) = server(long.leak().as_bytes());
    let error = fetch(None).get(&format!("http://{address}/"), &[]).unwrap_err();
    assert!(matches!(error, FetchError::TooLarge { limit: 1000, .. }), "{error}");
    let (address, _) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf");
    assert!(fetch(None).get(&format!("http://{address}/"), &[]).is_err(), "half an answer is none");
}

#[test]
fn nobody_there_garbage_and_bad_urls_are_errors() {
    let bound = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = bound.local_addr().unwrap();
    drop(bound);
    let error = fetch(None).get(&format!("http://{address}/"), &[]).unwrap_err();
    assert!(matches!(error, FetchError::Transport { .. }), "{error}");
    let (address, _) = server(b"SSH-2.0-OpenSSH_9.2\r\n\r\n");
    let error = fetch(None).get(&format!("http://{address}/"), &[]).unwrap_err();
    assert!(matches!(error, FetchError::Transport { .. }), "{error}");
    for (url, headers) in [("nonsense", vec![]), ("http://127.0.0.1:1/", vec![("X-Token", "a\nb")])] {
        let error = fetch(None).get(url, &headers).unwrap_err();
        assert!(matches!(error, FetchError::Request { .. }), "{url}: {error}");
    }
}

/// A server whose certificate names 127.0.0.1's DNS name `localhost`.
fn https(ca: &TestCa) -> SocketAddr {
    let leaf = ca.leaf(&LeafSpec { dns: vec!["localhost".into()], ..LeafSpec::default() });
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(leaf.chain.clone(), leaf.private_key())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::new(config.clone())).unwrap();
            let mut tls: StreamOwned<ServerConnection, TcpStream> =
                StreamOwned::new(connection, stream.unwrap());
            // A client that does not believe the certificate ends it.
            let _ = tls.read(&mut [0; 1000]);
            let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    address
}

#[test]
fn https_needs_a_root_that_vouches_for_the_name() {
    let (ca, other) = (TestCa::root("root"), TestCa::root("other"));
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, ca: &TestCa| {
        let path = directory.path().join(name);
        let block = pem::Pem::new("CERTIFICATE", ca.der.as_ref());
        std::fs::write(&path, pem::encode(&block)).unwrap();
        Some(path)
    };
    let address = https(&ca);
    let url = format!("https://localhost:{}/", address.port());
    let good = fetch(file("root.pem", &ca));
    assert_eq!(good.get(&url, &[]).unwrap().body, b"ok");
    let error = fetch(file("other.pem", &other)).get(&url, &[]).unwrap_err();
    assert!(matches!(error, FetchError::Transport { .. }), "{error}");
    let error = good.get(&format!("https://{address}/"), &[]).unwrap_err();
    assert!(matches!(error, FetchError::Transport { .. }), "it does not name the address: {error}");
    for (name, content) in [("none.pem", None), ("empty.pem", Some("nothing here"))] {
        let path = directory.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let error = fetch(Some(path)).get(&url, &[]).unwrap_err();
        assert!(matches!(&error, FetchError::Roots { .. }) && error.to_string().contains(name), "{error}");
    }
}
