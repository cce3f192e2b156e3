//! Against engines on loopback, good and bad ones.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::circuit::FAILURES;
use super::*;
use crate::config::{ExternalCache, Mode};
use crate::policy::Peer;

/// Answers each request with what `says` makes of its text and its number, over connections that stay open.
struct Engine {
    url: String,
    asked: Arc<AtomicUsize>,
    opened: Arc<AtomicUsize>,
}

type Says = dyn Fn(&str, usize) -> Vec<u8> + Send + Sync;

impl Engine {
    fn new(says: impl Fn(&str, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::keeping(true, says)
    }

    /// `keeps`: connections stay open after an answer.
    fn keeping(keeps: bool, says: impl Fn(&str, usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/data/mtlsd/allow", listener.local_addr().unwrap());
        let engine = Self { url, asked: Arc::default(), opened: Arc::default() };
        let (says, asked, opened): (Arc<Says>, _, _) =
            (Arc::new(says), Arc::clone(&engine.asked), Arc::clone(&engine.opened));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                opened.fetch_add(1, Ordering::SeqCst);
                let (says, asked) = (Arc::clone(&says), Arc::clone(&asked));
                thread::spawn(move || serve(stream, &*says, &asked, keeps));
            }
        });
        engine
    }

    fn saying(answer: &'static str) -> Self {
        Self::new(move |_, _| ok(answer))
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, says: &Says, asked: &AtomicUsize, keeps: bool) {
    while let Some(request) = request(&mut stream) {
        let answer = says(&request, asked.fetch_add(1, Ordering::SeqCst));
        if stream.write_all(&answer).is_err() || !keeps {
            return;
        }
    }
}

/// Head and body; `None` at the end of the connection.
fn request(stream: &mut TcpStream) -> Option<String> {
    let (mut text, mut byte) = (Vec::new(), [0]);
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).unwrap();
    let length = head.to_lowercase();
    let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).ok()?;
    Some(head + std::str::from_utf8(&body).unwrap())
}

fn http(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn ok(body: &str) -> Vec<u8> {
    http("200 OK", body)
}

fn settings(url: &str) -> ExternalPolicy {
    let hour = Duration::from_secs(3_600);
    ExternalPolicy {
        url: url.to_owned(),
        timeout: Duration::from_secs(10),
        cache: ExternalCache { allow: hour, deny: hour, entries: 10_000 },
        on_failure: OnFailure::Deny,
        inbound: true,
        outbound: true,
        workloads: None,
        ca_file: None,
        token_file: None,
    }
}

fn external(url: &str) -> Arc<External> {
    Arc::new(External::new(settings(url)))
}

fn calls() -> Arc<Calls> {
    Arc::new(Calls::new(Arc::default()))
}

/// One of many that are not equal.
async fn ask(external: &Arc<External>, calls: &Arc<Calls>, number: u32) -> Ruling {
    external.decide(calls, &question(number)).await
}

fn question(number: u32) -> Question<'static> {
    let peer = Peer::unproven(std::net::Ipv4Addr::from(number).into());
    Question::inbound(End::peer(&peer), End::default(), Mode::Permissive, false)
}

fn said(allow: bool, cached: bool) -> Ruling {
    Ruling::Answered { answer: Answer { allow, rule: None, reason: None }, cached }
}

#[track_caller]
fn unavailable(ruling: Ruling) -> String {
    match ruling {
        Ruling::Unavailable(why) => why.to_string(),
        Ruling::Answered { .. } => panic!("{ruling:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_asked_as_opas_data_api_and_an_answer_counts_for_equal_questions() {
    let (tell, told) = mpsc::channel();
    let engine = Engine::new(move |request, _| {
        tell.send(request.to_owned()).unwrap();
        ok(if request.contains("0.0.0.1") { r#"{"result":true}"# } else { r#"{"result":{"allow":false}}"# })
    });
    let (external, calls) = (external(&engine.url), calls());
    assert_eq!(external.known(&question(1)), None);
    assert_eq!(ask(&external, &calls, 1).await, said(true, false));
    assert_eq!(ask(&external, &calls, 1).await, said(true, true));
    assert_eq!(ask(&external, &calls, 2).await, said(false, false));
    assert_eq!(ask(&external, &calls, 2).await, said(false, true));
    assert_eq!(external.known(&question(2)).map(|answer| answer.allow), Some(false));
    assert_eq!((engine.asked(), engine.opened.load(Ordering::SeqCst)), (2, 1), "over one connection");
    assert_eq!(calls.metrics.calls(), [2, 0]);
    let request = told.recv().unwrap();
    assert!(request.starts_with("POST /v1/data/mtlsd/allow HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains("content-type: application/json\r\n"), "{request}");
    assert!(!request.to_lowercase().contains("authorization"), "{request}");
    assert!(request.contains("\r\n\r\n{\"input\":{\"direction\":\"inbound\""), "{request}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_with_one_question_make_one_call() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let engine = Engine::new(move |_, _| {
        held.lock().unwrap().recv().unwrap();
        ok(r#"{"result":true}"#)
    });
    let (external, calls) = (external(&engine.url), calls());
    let mut asking = tokio::task::JoinSet::new();
    let begun = Arc::new(AtomicUsize::new(0));
    for _ in 0..1_000 {
        let (external, calls, begun) = (Arc::clone(&external), Arc::clone(&calls), Arc::clone(&begun));
        asking.spawn(async move {
            begun.fetch_add(1, Ordering::SeqCst);
            ask(&external, &calls, 7).await
        });
    }
    while begun.load(Ordering::SeqCst) < 1_000 {
        tokio::task::yield_now().await;
    }
    release.send(()).unwrap();
    let rulings = asking.join_all().await;
    assert!(rulings.iter().all(|ruling| matches!(ruling, Ruling::Answered { answer, .. } if answer.allow)));
    assert_eq!(engine.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_one_time_are_bounded_and_the_others_wait() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let (now, most) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&most);
    let engine = Engine::new(move |_, _| {
        let under_way = now.fetch_add(1, Ordering::SeqCst) + 1;
        seen.fetch_max(under_way, Ordering::SeqCst);
        held.lock().unwrap().recv().unwrap();
        now.fetch_sub(1, Ordering::SeqCst);
        ok(r#"{"result":true}"#)
    });
    let (external, calls) = (external(&engine.url), calls());
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..64 {
        let (external, calls) = (Arc::clone(&external), Arc::clone(&calls));
        asking.spawn(async move { ask(&external, &calls, number).await });
    }
    while most.load(Ordering::SeqCst) < MAX_CALLS {
        tokio::task::yield_now().await;
    }
    (0..64).for_each(|_| release.send(()).unwrap());
    assert_eq!(asking.join_all().await, vec![said(true, false); 64]);
    assert_eq!((most.load(Ordering::SeqCst), engine.asked()), (MAX_CALLS, 64));
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_wait_are_bounded() {
    let (_release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let engine = Engine::new(move |_, _| {
        let _never = held.lock().unwrap().recv();
        Vec::new()
    });
    let (external, calls) = (external(&engine.url), calls());
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..u32::try_from(MAX_QUESTIONS).unwrap() {
        let (external, calls) = (Arc::clone(&external), Arc::clone(&calls));
        asking.spawn(async move { ask(&external, &calls, number).await });
    }
    while external.state().flights.len() < MAX_QUESTIONS {
        tokio::task::yield_now().await;
    }
    let why = unavailable(ask(&external, &calls, u32::MAX).await);
    assert!(why.contains("1024 other questions wait"), "{why}");
    assert!(!external.is_failing(), "the engine is not to blame");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_none_is_told_with_its_reason_and_its_mend() {
    let long = format!("{{\"result\":true,\"x\":\"{}\"}}", "x".repeat(70_000));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (ok("<html>"), "not a JSON object"),
        (ok(r#"{"result":"yes"}"#), "its `result` is text"),
        (ok(&long), "more than 65536 bytes"),
        (
            http("500 Oops", r#"{"code":"internal_error","message":"no such plan\u001b"}"#),
            "HTTP status 500 (no such plan\\u{1b})",
        ),
        (http("404 Not Found", ""), "check the path in `url`"),
        (http("401 Unauthorized", ""), "check `token_file`"),
        (
            b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_vec(),
            "redirects are not followed",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"result\":true}".to_vec(), "cannot be reached"),
        (b"220 mail ready\r\n\r\n".to_vec(), "cannot be reached"),
        (Vec::new(), "cannot be reached"),
    ];
    for (answer, part) in cases {
        // Of half an answer, and of none, it is also the end.
        let engine = Engine::keeping(false, move |_, _| answer.clone());
        let external = external(&engine.url);
        let part = if part == "cannot be reached" { engine.url.clone() } else { part.to_owned() };
        let why = unavailable(ask(&external, &calls(), 1).await);
        assert!(why.contains(&part) && why.contains(&engine.url), "{why} lacks {part}");
        assert!(external.is_failing());
        assert_eq!(external.known(&question(1)), None, "a failure is not kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_drips_or_is_silent_costs_no_more_than_the_timeout() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let silent = Engine::new(move |_, _| {
        let _never = held.lock().unwrap().recv();
        Vec::new()
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let drips = format!("http://{}/v1/data/x", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut stream = stream;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n");
                while stream.write_all(b" ").is_ok() {
                    thread::sleep(Duration::from_millis(5));
                }
            });
        }
    });
    for url in [silent.url, drips] {
        let timeout = Duration::from_millis(100);
        let external = Arc::new(External::new(ExternalPolicy { timeout, ..settings(&url) }));
        let why = unavailable(ask(&external, &calls(), 1).await);
        assert!(why.contains("had not answered after 100ms") && why.contains(&url), "{why}");
    }
    drop(release);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_fails_is_left_alone_and_what_it_said_before_still_counts() {
    let engine = Engine::new(|_, number| match number {
        0 => ok(r#"{"result":true}"#),
        _ => http("503 Not now", ""),
    });
    let (external, calls) = (external(&engine.url), calls());
    assert_eq!(ask(&external, &calls, 0).await, said(true, false));
    for number in 1..=FAILURES {
        unavailable(ask(&external, &calls, number).await);
    }
    let asked = engine.asked();
    for number in 100..200 {
        let why = unavailable(ask(&external, &calls, number).await);
        // By the clock one of them may be the probe.
        assert!(why.contains("HTTP status 503"), "{why}");
    }
    assert!(engine.asked() < asked + 20, "{} calls for 100 connections", engine.asked() - asked);
    assert_eq!(ask(&external, &calls, 0).await, said(true, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_goes_away_takes_the_answer_from_nobody() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let engine = Engine::new(move |_, _| {
        held.lock().unwrap().recv().unwrap();
        ok(r#"{"result":true}"#)
    });
    let (external, calls) = (external(&engine.url), calls());
    let first = {
        let (external, calls) = (Arc::clone(&external), Arc::clone(&calls));
        tokio::spawn(async move { ask(&external, &calls, 1).await })
    };
    while engine.asked() == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    release.send(()).unwrap();
    assert!(matches!(ask(&external, &calls, 1).await, Ruling::Answered { answer, .. } if answer.allow));
    assert_eq!(engine.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_the_engine_closed_costs_nobody_an_answer() {
    // Each connection answers one request and then ends after it has read the next.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/data/x", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = request(&mut stream);
                let _ = stream.write_all(&ok(r#"{"result":true}"#));
                let _ = request(&mut stream);
            });
        }
    });
    let (external, calls) = (external(&url), calls());
    for number in 0..5 {
        assert_eq!(ask(&external, &calls, number).await, said(true, false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_read_at_each_call_and_one_that_is_none_asks_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let (tell, told) = mpsc::channel();
    let engine = Engine::new(move |request, _| {
        tell.send(request.to_lowercase()).unwrap();
        ok(r#"{"result":true}"#)
    });
    let settings = ExternalPolicy { token_file: Some(file.clone()), ..settings(&engine.url) };
    let (external, calls) = (Arc::new(External::new(settings)), calls());
    let why = unavailable(ask(&external, &calls, 0).await);
    assert!(why.contains("cannot read the token") && why.contains("/token"), "{why}");
    for (content, part) in [("", "is empty"), ("a b", "white space"), ("a\u{1}b", "white space")] {
        std::fs::write(&file, content).unwrap();
        let why = unavailable(ask(&external, &calls, 0).await);
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(engine.asked(), 0);
    for (number, token) in [(1, "first"), (2, "second")] {
        std::fs::write(&file, format!("{token}\n")).unwrap();
        assert_eq!(ask(&external, &calls, number).await, said(true, false));
        let request = told.recv().unwrap();
        assert!(request.contains(&format!("authorization: bearer {token}\r\n")), "{request}");
    }
    assert!(!external.is_failing());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_configuration_knows_nothing_of_what_was_answered() {
    let engine = Engine::saying(r#"{"result":true}"#);
    let calls = calls();
    for asked in 1..=3 {
        let external = external(&engine.url);
        assert_eq!(ask(&external, &calls, 1).await, said(true, false));
        assert_eq!(engine.asked(), asked);
    }
}
