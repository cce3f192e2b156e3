//! Bytes in one direction, a thread for each stream: what is measured is not how fast one thread turns from socket to
//! socket. Blocking reads of as much as iperf3 takes at once.

use std::io;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};

use super::paced::{Client, sleep_until};
use super::{Target, Told, seconds};
use crate::machine::cpu_seconds;

/// Bytes of one read.
const READ: usize = 128 * 1024;

/// What one thread found out.
#[derive(Default)]
struct Part {
    bytes: u64,
    error: Option<String>,
}

/// Counts the bytes that come between the warm-up and the end.
///
/// # Errors
/// Without /proc.
pub fn run(target: &Target, streams: u32) -> Result<Told> {
    let begin = Instant::now() + seconds(target.warm_up)?;
    let end = begin + seconds(target.seconds)?;
    let (parts, cpu) = thread::scope(|scope| {
        let threads: Vec<_> = (0..streams).map(|_| scope.spawn(|| part(target, begin, end))).collect();
        let cpu = (|| {
            sleep_until(begin);
            let before = cpu_seconds()?;
            sleep_until(end);
            Ok::<_, anyhow::Error>(cpu_seconds()? - before)
        })();
        (threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>(), cpu)
    });
    let mut told = Told {
        count: 0,
        seconds: end.duration_since(begin).as_secs_f64(),
        errors: 0,
        first_error: None,
        latency: None,
        cpu_seconds: cpu?,
    };
    for part in parts {
        let part = part.map_err(|_| anyhow!("a thread of the load generator panicked"))?;
        told.count += part.bytes;
        told.errors += u64::from(part.error.is_some());
        told.first_error = told.first_error.or(part.error);
    }
    Ok(told)
}

fn part(target: &Target, begin: Instant, end: Instant) -> Part {
    let mut part = Part::default();
    let mut over = false;
    let mut streamed = || {
        let mut client = Client::connect(target, READ)?;
        while !over {
            client.ask_while(|read| {
                let now = Instant::now();
                over = now >= end;
                if now >= begin && !over {
                    part.bytes += u64::try_from(read).unwrap_or(0);
                }
                !over
            })?;
        }
        Ok::<_, io::Error>(())
    };
    let ended = streamed();
    part.error = ended.err().map(|error| error.to_string());
    part
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;

    const ANSWER: usize = 1000;

    /// A server that gives each connection so many answers, one every 5 ms.
    fn served(answers: usize, streams: u32) -> Told {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    for _ in 0..answers {
                        if !stream.read(&mut [0; 512]).is_ok_and(|read| read > 0) {
                            return;
                        }
                        thread::sleep(Duration::from_millis(5));
                        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {ANSWER}\r\n\r\n");
                        let _ = stream.write_all(&[head.as_bytes(), &[7; ANSWER]].concat());
                    }
                });
            }
        });
        run(&Target { address, path: "/".into(), seconds: 0.3, warm_up: 0.05 }, streams).unwrap()
    }

    #[test]
    fn the_bytes_of_all_streams_count_and_those_before_and_after_do_not() {
        let told = served(usize::MAX, 2);
        assert_eq!((told.errors, told.first_error), (0, None));
        // At most one answer of each every 5 ms.
        let most = 2 * 60 * (u64::try_from(ANSWER).unwrap() + 50);
        assert!((2000..=most).contains(&told.count), "{} of {most}", told.count);
        assert!((told.seconds - 0.3).abs() < 1e-6);
    }

    #[test]
    fn a_stream_that_ends_early_is_an_error() {
        let told = served(2, 1);
        assert!(told.errors == 1 && told.first_error.is_some(), "{told:?}");
    }
}
