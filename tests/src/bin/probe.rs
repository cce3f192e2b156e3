//! One small TCP application that tells, as JSON lines, what the kernel told it.
//!
//! `probe connect ADDR [--nonblocking] [--mptcp] [--fastopen] [--send TEXT] [--ask] [--linger]`
//! `probe serve ADDR [--greet TEXT] [--mptcp]`

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Sends data in the SYN (linux/socket.h).
const MSG_FASTOPEN: i32 = 0x2000_0000;
/// Longer than any test waits for a result of connect().
const LIMIT: Duration = Duration::from_secs(30);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let options = Options(args.get(2..).unwrap_or_default());
    let address = args.get(1).and_then(|a| a.parse::<SocketAddr>().ok());
    match (args.first().map(String::as_str), address) {
        (Some("connect"), Some(to)) => connect(to, &options),
        (Some("serve"), Some(at)) => serve(at, &options),
        _ => {
            eprintln!("usage: probe connect|serve ADDR:PORT [options]");
            std::process::exit(2);
        }
    }
}

struct Options<'a>(&'a [String]);

impl Options<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|a| a == name)
    }

    fn value(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|a| a == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn socket(&self, to: SocketAddr) -> Socket {
        let protocol = if self.has("--mptcp") { Protocol::MPTCP } else { Protocol::TCP };
        Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol)).expect("socket()")
    }
}

fn say(value: &Value) {
    println!("{value}");
    io::stdout().flush().expect("stdout is open");
}

/// Connects, says how that went, talks, says what came back.
fn connect(to: SocketAddr, options: &Options<'_>) {
    let socket = options.socket(to);
    let start = Instant::now();
    let text = options.value("--send").unwrap_or_default();
    let result = if options.has("--fastopen") {
        socket.send_to_with_flags(text.as_bytes(), &to.into(), MSG_FASTOPEN).map(|_| ())
    } else if options.has("--nonblocking") {
        connect_nonblocking(&socket, &to.into())
    } else {
        socket.connect(&to.into())
    };
    let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    if let Err(error) = result {
        say(&json!({ "connect": name(&error), "ms": ms }));
        return;
    }
    let local = socket.local_addr().ok().and_then(|a| a.as_socket());
    let peer = socket.peer_addr().ok().and_then(|a| a.as_socket());
    say(&json!({ "connect": "ok", "ms": ms, "getsockname": local, "getpeername": peer }));

    // `--ask`: every line of standard input is sent when it comes; otherwise `--send` at once.
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false).expect("fcntl");
    stream.set_read_timeout(Some(mtls_tests::slow::stretched(LIMIT))).expect("setsockopt");
    let sent = if options.has("--ask") {
        send_lines(&stream)
    } else if options.has("--fastopen") {
        Ok(())
    } else {
        (&stream).write_all(text.as_bytes())
    };
    let closed = sent.and_then(|()| stream.shutdown(std::net::Shutdown::Write));
    let mut received = Vec::new();
    let read = (&stream).read_to_end(&mut received);
    say(&json!({
        "send": closed.err().map_or("ok".into(), |e| name(&e)),
        "receive": read.err().map_or("ok".into(), |e| name(&e)),
        "received": String::from_utf8_lossy(&received),
    }));
}

fn send_lines(mut stream: &TcpStream) -> io::Result<()> {
    for line in io::stdin().lines() {
        stream.write_all(line?.as_bytes())?;
    }
    Ok(())
}

/// As event-driven programs do it: EINPROGRESS, poll for writability, SO_ERROR.
fn connect_nonblocking(socket: &Socket, to: &SockAddr) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    match socket.connect(to) {
        Err(e) if e.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
        other => return other,
    }
    let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let timeout = PollTimeout::try_from(mtls_tests::slow::stretched(LIMIT)).unwrap_or(PollTimeout::MAX);
    if poll(&mut waiting, timeout)? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket.take_error()?.map_or(Ok(()), Err)
}

fn name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None => error.kind().to_string(),
    }
}

/// Accepts for ever; says for each connection which addresses it has and what it received, and echoes that.
fn serve(at: SocketAddr, options: &Options<'_>) {
    let listener = options.socket(at);
    listener.set_reuse_address(true).expect("setsockopt");
    listener.bind(&at.into()).expect("bind");
    listener.listen(1024).expect("listen");
    say(&json!({ "listening": at }));
    loop {
        let Ok((socket, from)) = listener.accept() else { continue };
        let greeting = options.value("--greet").unwrap_or_default().to_owned();
        std::thread::spawn(move || answer(&TcpStream::from(socket), from.as_socket(), &greeting));
    }
}

fn answer(mut stream: &TcpStream, from: Option<SocketAddr>, greeting: &str) {
    say(
        &json!({ "accept": from, "getpeername": stream.peer_addr().ok(), "getsockname": stream.local_addr().ok() }),
    );
    let mut received = Vec::new();
    let result = stream.write_all(greeting.as_bytes()).and_then(|()| stream.read_to_end(&mut received));
    say(&json!({
        "from": from,
        "receive": result.err().map_or("ok".into(), |e| name(&e)),
        "received": String::from_utf8_lossy(&received),
    }));
    let _ = stream.write_all(&received);
}
