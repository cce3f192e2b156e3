//! Many connections.
//!
//! `load serve ADDR`: answers every 16 bytes with the same 16.
//! `load hold ADDR N`: opens N connections, has all of them open at once, asks three times on each, closes.
//! `load short ADDR N PARALLEL`: N connections of one question each, PARALLEL at a time.
//! `load paced ADDR N RATE`: N connections of one question each, RATE of them begun in a second, whatever becomes of the others.
//! `load stream ADDR N SECONDS`: N connections that stay open; on each a question ten times a second.
//! `load idle ADDR N`: opens N connections, asks once on each, says `open`, and keeps them until it is killed.
//! The clients print one JSON object and end with 1 if anything failed.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// For one connect and for one answer.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| args.get(at).and_then(|a| a.parse::<u64>().ok());
    let address = args.get(1).and_then(|a| a.parse::<SocketAddr>().ok());
    let outcome = match (args.first().map(String::as_str), address, number(2), number(3)) {
        (Some("serve"), Some(at), None, None) => serve(at).await,
        (Some("hold"), Some(to), Some(count), None) => hold(to, count).await,
        (Some("idle"), Some(to), Some(count), None) => idle(to, count).await,
        (Some("short"), Some(to), Some(count), Some(parallel)) => short(to, count, parallel).await,
        (Some("paced"), Some(to), Some(count), Some(rate)) => paced(to, count, rate).await,
        (Some("stream"), Some(to), Some(count), Some(seconds)) => stream(to, count, seconds).await,
        _ => Err(io::Error::other(
            "usage: load serve ADDR | hold ADDR N | idle ADDR N | short ADDR N PARALLEL | paced ADDR N RATE | stream ADDR N SECONDS",
        )),
    };
    if let Err(error) = outcome {
        eprintln!("load: {error}");
        std::process::exit(1);
    }
}

async fn serve(at: SocketAddr) -> io::Result<()> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    let listener: TcpListener = socket.listen(4096)?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut question = [0; 16];
            while stream.read_exact(&mut question).await.is_ok() {
                if stream.write_all(&question).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn ask(stream: &mut TcpStream, id: u64) -> io::Result<()> {
    let question = [id.to_be_bytes(), (!id).to_be_bytes()].concat();
    let mut answer = [0; 16];
    stream.write_all(&question).await?;
    within(stream.read_exact(&mut answer)).await?;
    if answer[..] == question[..] { Ok(()) } else { Err(io::Error::other("wrong answer")) }
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(mtls_tests::slow::stretched(LIMIT), work)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn hold(to: SocketAddr, count: u64) -> io::Result<()> {
    let start = Instant::now();
    let all = Arc::new(Barrier::new(usize::try_from(count).unwrap_or(usize::MAX)));
    let mut tasks = JoinSet::new();
    for id in 0..count {
        let all = Arc::clone(&all);
        tasks.spawn(async move {
            let opened = match within(TcpStream::connect(to)).await {
                Ok(mut stream) => ask(&mut stream, id).await.map(|()| stream),
                failed => failed,
            };
            // Nobody closes before everybody is open; those who failed wait too, or the others would wait for ever.
            all.wait().await;
            let mut stream = opened?;
            ask(&mut stream, id + 1).await?;
            ask(&mut stream, id + 2).await
        });
    }
    let mut results = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        results.push(joined.unwrap_or_else(|e| Err(io::Error::other(e))));
    }
    report(results, start)
}

async fn idle(to: SocketAddr, count: u64) -> io::Result<()> {
    let mut open = Vec::new();
    for id in 0..count {
        let mut stream = within(TcpStream::connect(to)).await?;
        ask(&mut stream, id).await?;
        open.push(stream);
    }
    println!("open");
    std::future::pending().await
}

async fn short(to: SocketAddr, count: u64, parallel: u64) -> io::Result<()> {
    let start = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..parallel {
        let next = Arc::clone(&next);
        tasks.spawn(async move {
            let mut results = Vec::new();
            loop {
                let id = next.fetch_add(1, Ordering::Relaxed);
                if id >= count {
                    return results;
                }
                results.push(match within(TcpStream::connect(to)).await {
                    Ok(mut stream) => ask(&mut stream, id).await,
                    Err(error) => Err(error),
                });
            }
        });
    }
    let mut results = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        results.extend(joined.unwrap_or_else(|e| vec![Err(io::Error::other(e))]));
    }
    report(results, start)
}

/// Most connections of `paced` at one time: a machine that cannot do the rate gets less, not an endless heap.
const MOST_AT_ONCE: usize = 500;

async fn paced(to: SocketAddr, count: u64, rate: u64) -> io::Result<()> {
    let start = Instant::now();
    let mut ticks =
        tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate.max(1)).unwrap_or(u32::MAX));
    let mut tasks = JoinSet::new();
    let mut results = Vec::new();
    let joined = |joined: Result<io::Result<()>, tokio::task::JoinError>| {
        joined.unwrap_or_else(|e| Err(io::Error::other(e)))
    };
    for id in 0..count {
        ticks.tick().await;
        if tasks.len() >= MOST_AT_ONCE
            && let Some(ended) = tasks.join_next().await
        {
            results.push(joined(ended));
        }
        tasks.spawn(async move { ask(&mut within(TcpStream::connect(to)).await?, id).await });
        while let Some(ended) = tasks.try_join_next() {
            results.push(joined(ended));
        }
    }
    while let Some(ended) = tasks.join_next().await {
        results.push(joined(ended));
    }
    report(results, start)
}

async fn stream(to: SocketAddr, count: u64, seconds: u64) -> io::Result<()> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for id in 0..count {
        tasks.spawn(async move {
            let mut stream = within(TcpStream::connect(to)).await?;
            while start.elapsed() < Duration::from_secs(seconds) {
                ask(&mut stream, id).await?;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            ask(&mut stream, id).await
        });
    }
    let mut results = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        results.push(joined.unwrap_or_else(|e| Err(io::Error::other(e))));
    }
    report(results, start)
}

fn report(results: Vec<io::Result<()>>, start: Instant) -> io::Result<()> {
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    let total = results.len();
    for error in results.into_iter().filter_map(Result::err) {
        *errors.entry(error.to_string()).or_default() += 1;
    }
    let failed: u64 = errors.values().sum();
    let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    println!("{}", json!({ "total": total, "failed": failed, "errors": errors, "ms": ms }));
    if failed == 0 {
        Ok(())
    } else {
        Err(io::Error::other(format!("{failed} of {total} connections failed")))
    }
}
