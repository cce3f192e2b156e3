//! Responders over HTTP, and connections that their answers cut.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use super::*;
use crate::identity::ChainMarks;
use crate::identity::ocsp::testing::{good, revoked};
use crate::identity::testing::{HOUR, LeafSpec, TestCa, TestLeaf};
use crate::identity::verified::Fingerprint;

/// Answers each request with the next of these, and gives back what was asked.
fn serve(answers: Vec<(&'static str, Vec<u8>)>) -> (String, JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/ocsp", listener.local_addr().unwrap());
    let serving = move || {
        let answer = |(status, body): (&str, Vec<u8>)| {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut asked, mut byte) = (Vec::new(), [0]);
            let length = |asked: &[u8]| {
                let head = String::from_utf8_lossy(asked).to_lowercase();
                let (_, rest) = head.split_once("content-length: ").unwrap();
                rest.split("\r\n").next().unwrap().parse::<usize>().unwrap()
            };
            while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                asked.push(byte[0]);
            }
            let mut body_asked = vec![0; length(&asked)];
            stream.read_exact(&mut body_asked).unwrap();
            asked.append(&mut body_asked);
            let head =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            // Whoever asks may have had enough of it.
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
            asked
        };
        answers.into_iter().map(answer).collect()
    };
    (url, std::thread::spawn(serving))
}

fn marks(leaf: &TestLeaf, ca: &TestCa) -> Arc<ChainMarks> {
    let id = "spiffe://example.org/web".parse().unwrap();
    let path = leaf.chain.iter().chain([&ca.der]);
    Arc::new(ChainMarks::of(Fingerprint::of(1, &leaf.chain), Some(id), path, true).unwrap())
}

fn revocations(url: &str) -> Revocations {
    let revocations = Revocations::in_memory();
    let yaml = format!(
        "trust_domain: example.org\nworkloads: []\ntrust: {{ ocsp: [ {{ trust_domain: example.org, responder: '{url}' }} ], \
         ocsp_policy: require }}\n"
    );
    let source = crate::config::Source { path: "mtlsd.yaml".into(), text: yaml };
    revocations.ocsp().set_rules(rules(&Config::parse(&source, &[]).unwrap()));
    revocations
}

/// Asks the one question that is due, however long it was to wait.
fn ask_one(revocations: &Revocations) {
    let [due] = &revocations.ocsp().due(Instant::now() + 24 * HOUR)[..] else { panic!("one is due") };
    revocations.ocsp().answered(due, ask(due), SystemTime::now());
}

fn said(revocations: &Revocations, chain: &ChainMarks) -> Option<(Reason, String)> {
    revocations.refusal_of(chain, SystemTime::now()).map(|refusal| (refusal.reason, refusal.detail))
}

#[test]
fn a_responder_is_asked_by_post_and_what_it_says_wrongly_is_told() {
    let ca = TestCa::root("root");
    let leaf = ca.leaf(&LeafSpec::default());
    let chain = marks(&leaf, &ca);
    let (url, asked) = serve(vec![
        ("503 Service Unavailable", b"no".to_vec()),
        ("200 OK", b"<html>".to_vec()),
        ("200 OK", vec![0; MAX_RESPONSE + 1]),
        ("302 Found", vec![]),
        ("200 OK", good().about(&leaf.chain[0], &ca)),
    ]);
    let revocations = revocations(&url);
    let (_, detail) = said(&revocations, &chain).unwrap();
    assert!(detail.contains("being asked"), "{detail}");
    for part in [
        "HTTP status 503",
        "OCSPResponse of the OCSP response cannot be parsed",
        "more than 65536 bytes",
        "HTTP status 302",
    ] {
        ask_one(&revocations);
        let (reason, detail) = said(&revocations, &chain).unwrap();
        assert_eq!(reason, Reason::RevocationUnknown);
        assert!(detail.contains(part) && detail.contains(&url), "{part}: {detail}");
    }
    ask_one(&revocations);
    assert_eq!(said(&revocations, &chain), None);
    let question = chain.question.as_ref().unwrap().request().unwrap();
    for asked in asked.join().unwrap() {
        let text = String::from_utf8_lossy(&asked).to_lowercase();
        assert!(text.starts_with("post /ocsp http/1.1\r\n"), "{text}");
        assert!(text.contains("content-type: application/ocsp-request\r\n"), "{text}");
        assert!(asked.ends_with(&question));
    }
    // Nobody is there any more: what is known stays.
    ask_one(&revocations);
    assert_eq!(said(&revocations, &chain), None);
    assert_eq!(revocations.ocsp().health(SystemTime::now())[0].failed, 5);
}

#[tokio::test]
async fn an_answer_that_says_revoked_cuts_the_connections_of_that_certificate_and_no_others() {
    let ca = TestCa::root("root");
    let (good_leaf, bad) = (ca.leaf(&LeafSpec::default()), ca.leaf(&LeafSpec::default()));
    let (url, _) = serve(vec![
        ("200 OK", good().about(&bad.chain[0], &ca)),
        ("200 OK", revoked().about(&bad.chain[0], &ca)),
    ]);
    let (leases, revocations) = (Arc::new(Leases::default()), revocations(&url));
    let join = |peer| leases.join(Parties::of_peer("db", Some(peer)));
    let (stays, goes) = (marks(&good_leaf, &ca), marks(&bad, &ca));
    let (mut staying, mut going) = (join(Arc::clone(&stays)), join(Arc::clone(&goes)));
    let now = SystemTime::now();
    said(&revocations, &goes);
    ask_one(&revocations);
    assert_eq!(cut(&revocations, &leases, now), 0);
    ask_one(&revocations);
    assert_eq!(cut(&revocations, &leases, now), 1);
    let refusal = going.over().await;
    assert_eq!(refusal.reason, Reason::Revoked);
    assert!(refusal.detail.contains("of the peer") && refusal.detail.contains(&url), "{}", refusal.detail);
    assert!(
        tokio::time::timeout(Duration::ZERO, staying.over()).await.is_err(),
        "nobody is cut for what is unknown"
    );
    let question = |chain: &ChainMarks| chain.question.clone().unwrap();
    assert!(lives(&leases, &question(&stays)) && !lives(&leases, &question(&goes)));
}
