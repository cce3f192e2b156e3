//! Requests at a fixed rate: one thread for each connection, because the kernel's own sleep is exact to some ten
//! microseconds and tokio's timers count in milliseconds, longer than most requests take.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::histogram::Times;
use super::http::{Head, READ, parse, request, some};
use super::{LOST, Target, Told, seconds};
use crate::machine::cpu_seconds;

/// What one thread found out.
struct Part {
    times: Times,
    error: Option<String>,
}

/// `rate`: requests per second, all connections together. Latency counts from when a request was due, also when the
/// one before it was late.
///
/// # Errors
/// When a connection cannot be made.
pub fn run(target: &Target, connections: u32, rate: f64) -> Result<Told> {
    if !rate.is_finite() || rate <= 0.0 {
        bail!("--rate {rate}: it has to be above 0");
    }
    let interval = seconds(f64::from(connections) / rate)?;
    let mut clients = Vec::new();
    for number in 0..connections {
        let client = Client::open(target);
        clients.push(client.with_context(|| format!("connection {number} to {}", target.address))?);
    }
    let start = Instant::now();
    let begin = start + seconds(target.warm_up)?;
    let end = begin + seconds(target.seconds)?;
    let (parts, cpu) = thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, client) in (0_u32..).zip(clients) {
            // Not all at the same moment.
            let first = start + interval * number / connections.max(1);
            threads.push(scope.spawn(move || client.ask_until(first, interval, begin, end)));
        }
        let cpu = (|| {
            sleep_until(begin);
            let before = cpu_seconds()?;
            sleep_until(end);
            Ok::<_, anyhow::Error>(cpu_seconds()? - before)
        })();
        (threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>(), cpu)
    });
    let mut all = Part { times: Times::new()?, error: None };
    let mut errors = 0;
    for part in parts {
        let part = part.map_err(|_| anyhow::anyhow!("a thread of the load generator panicked"))??;
        all.times.merge(&part.times)?;
        errors += u64::from(part.error.is_some());
        all.error = all.error.or(part.error);
    }
    let latency = all.times.summary();
    Ok(Told {
        count: latency.as_ref().map_or(0, |latency| latency.count),
        seconds: end.duration_since(begin).as_secs_f64(),
        errors,
        first_error: all.error,
        latency,
        cpu_seconds: cpu?,
    })
}

/// Returns at that time.
pub fn sleep_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

/// One connection.
pub struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    room: Vec<u8>,
}

impl Client {
    /// Connects, and asks once.
    ///
    /// # Errors
    /// The socket's, and an answer that is not 200 with a length.
    pub fn open(target: &Target) -> io::Result<Self> {
        let mut client = Self::connect(target, READ)?;
        client.ask()?;
        Ok(client)
    }

    /// Connects; `room` bytes are read at once.
    ///
    /// # Errors
    /// The socket's.
    pub fn connect(target: &Target, room: usize) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&target.address, Duration::from_secs(LOST))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(LOST)))?;
        let request = request(target.address, &target.path);
        Ok(Self { stream, request, room: vec![0; room] })
    }

    fn ask(&mut self) -> io::Result<()> {
        self.ask_while(|_| true)
    }

    /// Asks, and reads as long as `more` says so, which gets the length of each read.
    ///
    /// # Errors
    /// The socket's, and an answer that is not 200 with a length.
    pub fn ask_while(&mut self, mut more: impl FnMut(usize) -> bool) -> io::Result<()> {
        let Self { stream, request, room } = self;
        stream.write_all(request)?;
        let mut filled = 0;
        let mut left = loop {
            let read = some(stream.read(room.get_mut(filled..).unwrap_or_default())?)?;
            filled += read;
            if !more(read) {
                return Ok(());
            }
            if let Head::Complete(head, body) = parse(room.get(..filled).unwrap_or_default())? {
                break (head + body).saturating_sub(filled);
            }
        };
        while left > 0 {
            let read = some(stream.read(room)?)?;
            left = left.saturating_sub(read);
            if !more(read) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn ask_until(mut self, first: Instant, interval: Duration, begin: Instant, end: Instant) -> Result<Part> {
        let mut part = Part { times: Times::new()?, error: None };
        let mut due = first;
        while due < end {
            // One that is late is asked at once, and its waiting counts.
            sleep_until(due);
            if let Err(error) = self.ask() {
                part.error = Some(error.to_string());
                break;
            }
            let now = Instant::now();
            if due >= begin && now < end {
                part.times.add(now.duration_since(due));
            }
            // A system that cannot keep up would be asked long after the end.
            if now >= end {
                break;
            }
            due += interval;
        }
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A server that takes `pause` for each answer.
    fn served(pause: Duration, rate: f64) -> Told {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut room = [0; 512];
            while stream.read(&mut room).is_ok_and(|read| read > 0) {
                thread::sleep(pause);
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
            }
        });
        let target = Target { address, path: "/".into(), seconds: 0.4, warm_up: 0.05 };
        let told = run(&target, 1, rate).unwrap();
        server.join().unwrap();
        told
    }

    #[test]
    fn the_waiting_of_a_request_that_is_asked_late_counts() {
        let told = served(Duration::from_millis(20), 200.0);
        let latency = told.latency.unwrap();
        assert!(latency.max > 100_000_000, "20 ms for each, due every 5 ms: the queue grows: {latency:?}");
        assert_eq!((told.errors, told.first_error), (0, None));
    }

    #[test]
    fn no_more_is_asked_than_the_rate_says() {
        let told = served(Duration::ZERO, 50.0);
        assert!((1..=21).contains(&told.count), "{told:?}");
    }

    #[test]
    fn a_rate_that_is_none_is_refused() {
        let target =
            Target { address: "127.0.0.1:1".parse().unwrap(), path: "/".into(), seconds: 0.1, warm_up: 0.0 };
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(run(&target, 1, rate).unwrap_err().to_string().contains("above 0"));
        }
        assert!(format!("{:#}", run(&target, 1, 1.0).unwrap_err()).contains("connection 0 to 127.0.0.1:1"));
    }
}
