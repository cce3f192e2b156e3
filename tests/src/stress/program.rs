//! The application: `client AT SEED FIRST COUNT AT_ONCE LIMIT_MS`, or `server AT SEED LIMIT_MS`. It prints a line for each
//! connection: `NUMBER whole`, or `NUMBER failed SENT RECEIVED what happened`.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use socket2::{Domain, SockAddr, Socket, Type};

use super::duplex::{Progress, play};
use super::plan::{BASE, Plan};

/// Runs it.
///
/// # Panics
/// If its arguments are wrong, or a server cannot listen.
pub fn run() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    catch_signals();
    match words[..] {
        ["client", at, seed, first, count, at_once, limit] => {
            // Before this a signal would have ended it.
            say("ready");
            let (first, count): (u16, u16) = (number(first), number(count));
            let next = Arc::new(AtomicU16::new(first));
            let (at, seed, limit) = (number(at), number(seed), Duration::from_millis(number(limit)));
            let worker = |_| {
                let next = Arc::clone(&next);
                worker(move || {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= first + count {
                            return;
                        }
                        client(at, seed, number, limit);
                    }
                })
            };
            let workers: Vec<_> = (0..number::<u16>(at_once)).map(worker).collect();
            workers.into_iter().for_each(|worker| worker.join().expect("a worker ends"));
            say("done");
        }
        ["server", at, seed, limit] => {
            server(number(at), number(seed), Duration::from_millis(number(limit)));
        }
        _ => panic!("not a command: {words:?}"),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("not a number or address: {text}"))
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())
        .and_then(|()| out.flush())
        .expect("standard output is open");
}

/// SIGUSR1 has a handler (with SA_RESTART), and interrupts the threads that do IO, not those that wait for them.
fn catch_signals() {
    usr1().thread_block().expect("a mask");
    let (ready, is_ready) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut signals = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined1())
                .expect("a handler");
            ready.send(()).expect("somebody waits");
            while signals.recv().await.is_some() {}
        });
    });
    is_ready.recv().expect("a handler");
}

fn usr1() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGUSR1);
    set
}

fn worker(body: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        usr1().thread_unblock().expect("a mask");
        body();
    })
}

fn client(at: SocketAddr, seed: u64, number: u16, limit: Duration) {
    let progress = Arc::new(Progress::default());
    let result =
        dial(at, number).and_then(|socket| watched(socket, Plan::new(seed, number, true), &progress, limit));
    report(number, &progress, result);
}

/// A connect() that was interrupted goes on by itself (connect(2)): then poll() says when it is over.
fn dial(at: SocketAddr, number: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), BASE + number)))?;
    match socket.connect(&at.into()) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        other => return other.map(|()| socket),
    }
    loop {
        let mut polled = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::OUT)];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    socket.take_error()?.map_or(Ok(socket), Err)
}

fn server(at: SocketAddr, seed: u64, limit: Duration) {
    let listener = Socket::new(Domain::for_address(at), Type::STREAM, None).expect("a socket");
    listener.set_reuse_address(true).expect("an option");
    listener.bind(&at.into()).and_then(|()| listener.listen(256)).expect("a free port");
    say("ready");
    // The acceptor is interrupted as the others are.
    let acceptor = worker(move || {
        loop {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => panic!("accept(): {error}"),
            };
            // Asked of the socket: where a relay delivered it, only that has the true client.
            let port = socket.peer_addr().ok().and_then(|peer| peer.as_socket()).map(|peer| peer.port());
            let Some(number) = port.and_then(|port| port.checked_sub(BASE)) else {
                say(&format!("stranger {port:?}"));
                continue;
            };
            worker(move || {
                let progress = Arc::new(Progress::default());
                let result = watched(socket, Plan::new(seed, number, false), &progress, limit);
                report(number, &progress, result);
            });
        }
    });
    acceptor.join().expect("it does not end");
}

/// Plays it, and shuts the socket down if that takes too long: a blocking call would wait for ever.
fn watched(socket: Socket, plan: Plan, progress: &Arc<Progress>, limit: Duration) -> io::Result<()> {
    let socket = Arc::new(socket);
    let (over, is_over) = mpsc::channel();
    let player = worker({
        let (socket, progress) = (Arc::clone(&socket), Arc::clone(progress));
        move || {
            let result = play(&socket, &plan, &progress, Instant::now() + limit);
            let _ = over.send(result);
        }
    });
    let result = is_over.recv_timeout(limit + limit / 2).unwrap_or_else(|_| {
        let _ = socket.shutdown(std::net::Shutdown::Both);
        Err(io::Error::other("STUCK"))
    });
    let _ = player.join();
    result
}

fn report(number: u16, progress: &Progress, result: io::Result<()>) {
    let (sent, received) = (&progress.sent, &progress.received);
    let (sent, received) = (sent.load(Ordering::Relaxed), received.load(Ordering::Relaxed));
    match result {
        Ok(()) => say(&format!("{number} whole {sent} {received}")),
        Err(error) => {
            let what = match error.raw_os_error() {
                Some(errno) => format!("{:?}", Errno::from_raw(errno)),
                None => error.to_string(),
            };
            say(&format!("{number} failed {sent} {received} {what}"));
        }
    }
}
