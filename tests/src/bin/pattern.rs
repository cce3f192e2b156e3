//! Byte-exactness: both ends send pseudo-random bytes and check what they receive, and how it ends.
//!
//! `pattern serve ADDR` prints one JSON line for each connection.
//! `pattern send ADDR MODE SEED UP DOWN [DELAY]`: UP and DOWN are bytes; receivers sleep for DELAY ms first.
//! `pattern each ADDR MODE SEED SIZE...`: one connection for each size, the same both ways.
//! `pattern random ADDR SEED COUNT PARALLEL`: connections with everything about them drawn from SEED; prints one JSON line.
//! MODE: see [`Mode::ALL`]. Exit code 0 if everything was as it should be.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use mtls_tests::bytes::Random;
use mtls_tests::flow::{self, Style, arm_reset, bad, clean_end, receive, reset_end, send};
use mtls_tests::slow;
use serde_json::json;

/// What the two ends do; both know it from the client's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Both send at the same time, then both close.
    Duplex = 1,
    /// The client ends its direction first; the server answers only after it has seen that end.
    HalfClose = 2,
    /// The client resets after its bytes: the server must not see a clean end.
    Reset = 3,
    /// The server resets after its bytes: the client must not see a clean end.
    ServerReset = 4,
    /// The server ends its direction first; the client answers only after it has seen that end.
    ServerHalfClose = 5,
    /// Both send, and both end when they have everything: the two FINs cross.
    Simultaneous = 6,
    /// The client resets while its bytes are on the way: some may be lost, but the end is a reset.
    Abort = 7,
    /// The server resets while its bytes are on the way.
    ServerAbort = 8,
    /// As `HalfClose`, with one write for all of each direction.
    Whole = 9,
    /// As `Duplex`, with one write for each byte.
    Single = 10,
}

impl Mode {
    const ALL: [(Self, &'static str); 10] = [
        (Self::Duplex, "duplex"),
        (Self::HalfClose, "half-close"),
        (Self::Reset, "reset"),
        (Self::ServerReset, "server-reset"),
        (Self::ServerHalfClose, "server-half-close"),
        (Self::Simultaneous, "simultaneous"),
        (Self::Abort, "abort"),
        (Self::ServerAbort, "server-abort"),
        (Self::Whole, "whole"),
        (Self::Single, "single"),
    ];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(mode, _)| *mode)
    }

    fn numbered(number: u64) -> Option<Self> {
        Self::ALL.iter().find(|(mode, _)| *mode as u64 == number).map(|(mode, _)| *mode)
    }
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    mode: Mode,
    seed: u64,
    up: u64,
    down: u64,
    /// For which receivers sleep first.
    delay: Duration,
    /// Writers and readers pause at random.
    pauses: bool,
}

/// Of the header.
const WORDS: usize = 6;

impl Plan {
    fn write(&self, mut stream: &TcpStream) -> io::Result<()> {
        let delay = u64::try_from(self.delay.as_millis()).unwrap_or(u64::MAX);
        let words: [u64; WORDS] =
            [self.mode as u64, self.seed, self.up, self.down, delay, u64::from(self.pauses)];
        stream.write_all(&words.map(u64::to_be_bytes).concat())
    }

    fn read(mut stream: &TcpStream) -> io::Result<Self> {
        let mut words = [0; WORDS];
        for word in &mut words {
            let mut bytes = [0; 8];
            stream.read_exact(&mut bytes)?;
            *word = u64::from_be_bytes(bytes);
        }
        let mode = Mode::numbered(words[0]).ok_or_else(|| bad("the header was altered"))?;
        let [_, seed, up, down, delay, pauses] = words;
        Ok(Self { mode, seed, up, down, delay: Duration::from_millis(delay), pauses: pauses == 1 })
    }

    fn style(&self) -> Style {
        match self.mode {
            Mode::Whole => Style::Whole,
            Mode::Single => Style::Single,
            _ if self.pauses => Style::Pauses,
            _ => Style::Chunks,
        }
    }

    /// Everything about a connection, drawn from a seed.
    fn random(seed: u64) -> Self {
        let mut random = Random(seed);
        let modes = [
            Mode::Duplex,
            Mode::HalfClose,
            Mode::ServerHalfClose,
            Mode::Simultaneous,
            Mode::Reset,
            Mode::ServerReset,
        ];
        let pick = usize::try_from(random.next() % modes.len() as u64).unwrap_or_default();
        let mode = modes[pick];
        let (mut up, mut down) = (size(&mut random), size(&mut random));
        // Whoever is reset says first that it has everything, in at least one byte.
        match mode {
            Mode::Reset => down = down.max(1),
            Mode::ServerReset => up = up.max(1),
            _ => {}
        }
        let seed = random.next();
        Self { mode, seed, up, down, delay: Duration::ZERO, pauses: random.once_in(3) }
    }
}

/// Mostly small, up to 200 KiB, once in a while 1 to 4 MiB.
fn size(random: &mut Random) -> u64 {
    if random.once_in(60) {
        return (1 << 20) + random.next() % (3 << 20);
    }
    let most = if random.once_in(8) { 200 << 10 } else { 1 << (random.next() % 15) };
    random.next() % (most + 1)
}

/// One end of a connection: its socket, and what it sends and receives.
struct End<'a> {
    stream: &'a TcpStream,
    plan: Plan,
    /// Seed and length of what this end sends.
    out: (u64, u64),
    /// Of what it receives.
    inward: (u64, u64),
}

impl End<'_> {
    fn send(&self) -> io::Result<()> {
        send(self.stream, self.out.0, self.out.1, self.plan.style())
    }

    fn receive(&self) -> io::Result<()> {
        thread::sleep(self.plan.delay);
        receive(self.stream, self.inward.0, self.inward.1, self.plan.style())
    }

    fn finish(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Sends on a thread of its own while the caller receives; FIN after the last byte, or when both are done.
    fn both(&self, fin_at_once: bool) -> io::Result<()> {
        let result = thread::scope(|scope| {
            let sender = scope.spawn(|| {
                self.send()?;
                if fin_at_once { self.finish() } else { Ok(()) }
            });
            let received = self.receive();
            let sent = sender.join().unwrap_or_else(|_| Err(bad("the sender panicked")));
            received.and(sent)
        });
        result?;
        if !fin_at_once {
            self.finish()?;
        }
        clean_end(self.stream)
    }

    /// Ends its direction first and is answered after that.
    fn first(&self) -> io::Result<()> {
        self.send()?;
        self.finish()?;
        self.receive()?;
        clean_end(self.stream)
    }

    /// Answers after the other end's FIN; its own direction stays open for as long as it wants.
    fn second(&self) -> io::Result<()> {
        self.receive()?;
        clean_end(self.stream)?;
        thread::sleep(Duration::from_millis(20));
        self.send()?;
        self.finish()
    }

    /// Resets once the other end has said, with its bytes, that it has everything.
    fn resets(&self) -> io::Result<()> {
        self.send()?;
        self.receive()?;
        arm_reset(self.stream)
    }

    fn is_reset(&self) -> io::Result<()> {
        self.receive()?;
        self.send()?;
        reset_end(self.stream)
    }

    /// Resets with its bytes on the way. Before the other end's bytes have come, nobody might know of the connection.
    fn aborts(&self) -> io::Result<()> {
        self.receive()?;
        self.send()?;
        arm_reset(self.stream)
    }

    fn is_aborted(&self) -> io::Result<()> {
        self.send()?;
        flow::receive_until_reset(self.stream, self.inward.0, self.inward.1)
    }
}

fn client(stream: &TcpStream, plan: Plan) -> io::Result<()> {
    limits(stream, plan.delay)?;
    plan.write(stream)?;
    let end = End { stream, plan, out: (plan.seed, plan.up), inward: (plan.seed ^ 1, plan.down) };
    match plan.mode {
        Mode::Duplex | Mode::Single => end.both(true),
        Mode::Simultaneous => end.both(false),
        Mode::HalfClose | Mode::Whole => end.first(),
        Mode::ServerHalfClose => end.second(),
        Mode::Reset => end.resets(),
        Mode::ServerReset => end.is_reset(),
        Mode::Abort => end.aborts(),
        Mode::ServerAbort => end.is_aborted(),
    }
}

fn server(stream: &TcpStream) -> io::Result<Plan> {
    let plan = Plan::read(stream)?;
    limits(stream, plan.delay)?;
    let end = End { stream, plan, out: (plan.seed ^ 1, plan.down), inward: (plan.seed, plan.up) };
    match plan.mode {
        Mode::Duplex | Mode::Single => end.both(true),
        Mode::Simultaneous => end.both(false),
        Mode::HalfClose | Mode::Whole => end.second(),
        Mode::ServerHalfClose => end.first(),
        Mode::Reset => end.is_reset(),
        Mode::ServerReset => end.resets(),
        Mode::Abort => end.is_aborted(),
        Mode::ServerAbort => end.aborts(),
    }?;
    Ok(plan)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["serve", at] => serve(at),
        ["send", to, mode, seed, up, down] => one(to, mode, [seed, up, down, "0"]),
        ["send", to, mode, seed, up, down, delay] => one(to, mode, [seed, up, down, delay]),
        ["each", to, mode, seed, ref sizes @ ..] => {
            sizes.iter().try_for_each(|size| one(to, mode, [seed, size, size, "0"]))
        }
        ["random", to, seed, count, parallel] => random(to, [seed, count, parallel]),
        _ => Err(bad("usage: see the source's first lines")),
    };
    if let Err(error) = outcome {
        eprintln!("pattern: {error}");
        std::process::exit(1);
    }
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|e| bad(format!("{text}: {e}")))
}

fn address(text: &str) -> io::Result<SocketAddr> {
    text.parse().map_err(|e| bad(format!("{text}: {e}")))
}

fn one(to: &str, mode: &str, [seed, up, down, delay]: [&str; 4]) -> io::Result<()> {
    let plan = Plan {
        mode: Mode::named(mode).ok_or_else(|| bad(format!("no mode {mode}")))?,
        seed: number(seed)?,
        up: number(up)?,
        down: number(down)?,
        delay: Duration::from_millis(number(delay)?),
        pauses: false,
    };
    let stream = TcpStream::connect(address(to)?)?;
    client(&stream, plan).map_err(|e| io::Error::new(e.kind(), format!("{plan:?}: {e}")))
}

fn random(to: &str, numbers: [&str; 3]) -> io::Result<()> {
    let [seed, count, parallel] = numbers.map(number);
    let (to, seed, count, parallel) = (address(to)?, seed?, count?, parallel?);
    let [next, failed, bytes] = [0; 3].map(AtomicU64::new);
    thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    let plan = Plan::random(seed.wrapping_add(index));
                    let outcome = TcpStream::connect(to).and_then(|stream| client(&stream, plan));
                    bytes.fetch_add(WORDS as u64 * 8 + plan.up + plan.down, Ordering::Relaxed);
                    if let Err(error) = outcome {
                        failed.fetch_add(1, Ordering::Relaxed);
                        eprintln!("connection {index} of seed {seed}, {plan:?}: {error}");
                    }
                }
            });
        }
    });
    let [failed, bytes] = [failed, bytes].map(AtomicU64::into_inner);
    println!("{}", json!({ "seed": seed, "connections": count, "failed": failed, "bytes": bytes }));
    if failed == 0 { Ok(()) } else { Err(bad(format!("{failed} of {count} connections failed"))) }
}

/// A stalled connection is a failure, not a hang.
fn limits(stream: &TcpStream, delay: Duration) -> io::Result<()> {
    let stall = slow::limit(30) + delay;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(stall))?;
    stream.set_write_timeout(Some(stall))
}

fn serve(at: &str) -> io::Result<()> {
    let listener = TcpListener::bind(at)?;
    for stream in listener.incoming() {
        let stream = stream?;
        limits(&stream, Duration::ZERO)?;
        thread::spawn(move || {
            let line = match server(&stream) {
                Ok(plan) => json!({ "seed": plan.seed, "result": "ok" }),
                Err(error) => json!({ "result": error.to_string() }),
            };
            println!("{line}");
        });
    }
    Ok(())
}
