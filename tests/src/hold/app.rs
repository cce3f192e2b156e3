//! The application: client or server, one command a line on standard input, `SERIAL THREAD VERB ARGUMENTS`.
//!
//! Every named thread does its commands one after another and prints `#SERIAL ANSWER`: what the call gave, or the
//! errno's name. Nothing is repeated after EINTR, so that the test sees it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::select::{FdSet, select};
use nix::sys::sendfile::sendfile;
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::thread::{NanosleepRelativeResult, futex, nanosleep};
use socket2::{Domain, SockAddr, Socket, Type};

use super::bulk::{Waiting, stream_file};
use crate::bytes::Random;
use crate::flow::bad;

type Sockets = Arc<Mutex<HashMap<String, Arc<Socket>>>>;

/// Does what standard input says until it ends.
///
/// # Panics
/// If a line is not a command.
pub fn run() {
    let sockets = Sockets::default();
    let mut workers: HashMap<String, Sender<(String, String)>> = HashMap::new();
    say("ready");
    for line in io::stdin().lines() {
        let line = line.expect("standard input is readable");
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        let (Some(serial), Some(name), Some(command)) = (words.next(), words.next(), words.next()) else {
            panic!("not a command: {line}");
        };
        let worker = workers.entry(name.clone()).or_insert_with(|| worker(name, Arc::clone(&sockets)));
        worker.send((serial, command)).expect("workers do not end");
    }
}

fn say(line: &str) {
    // One write for the whole line, whoever else prints.
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())
        .and_then(|()| out.flush())
        .expect("standard output is open");
}

fn worker(name: String, sockets: Sockets) -> Sender<(String, String)> {
    let (sender, commands) = channel::<(String, String)>();
    thread::spawn(move || {
        say(&format!("tid {name} {}", nix::unistd::gettid()));
        for (serial, command) in commands {
            let answer = match obey(&sockets, &command) {
                Ok(answer) => answer,
                Err(error) => match error.raw_os_error() {
                    Some(errno) => format!("{:?}", Errno::from_raw(errno)),
                    None => error.to_string(),
                },
            };
            say(&format!("#{serial} {answer}"));
        }
    });
    sender
}

/// What a web server answers, on one line; connect() and all else by io_uring.
fn uring_get(to: &str) -> io::Result<String> {
    let to: SocketAddr = to.parse().map_err(io::Error::other)?;
    tokio_uring::start(async {
        let stream = tokio_uring::net::TcpStream::connect(to).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n".to_vec()).await.0?;
        let mut answer = Vec::new();
        loop {
            let (got, buffer) = stream.read(vec![0; 4096]).await;
            match got? {
                0 => return Ok(String::from_utf8_lossy(&answer).replace(['\r', '\n'], " ")),
                got => answer.extend_from_slice(&buffer[..got]),
            }
        }
    })
}

fn obey(sockets: &Sockets, command: &str) -> io::Result<String> {
    let words: Vec<&str> = command.split(' ').collect();
    let named = |name: &str| {
        let sockets = sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.get(name).cloned().ok_or_else(|| bad(format!("no socket {name}")))
    };
    let keep = |name: &str, socket: Socket| {
        sockets.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::new(socket));
    };
    let done = || Ok("ok".to_owned());
    match words[..] {
        ["connect", name, to] => {
            let (socket, to) = made(to)?;
            // Known before it is connected: its descriptor can be asked for meanwhile.
            keep(name, socket);
            named(name)?.connect(&to)?;
            done()
        }
        ["connect-small", name, to, window] => {
            let (socket, to) = made(to)?;
            socket.set_recv_buffer_size(count(window)?)?;
            keep(name, socket);
            named(name)?.connect(&to)?;
            done()
        }
        ["connect-nb", name, to] => {
            let (socket, to) = made(to)?;
            socket.set_nonblocking(true)?;
            keep(name, socket);
            named(name)?.connect(&to)?;
            done()
        }
        ["uring-get", to] => uring_get(to),
        ["make", name, at] => {
            keep(name, made(at)?.0);
            done()
        }
        ["dial", name, to] => {
            named(name)?.connect(&made(to)?.1)?;
            done()
        }
        ["reset", name] => {
            named(name)?.set_linger(Some(Duration::ZERO))?;
            drop(sockets.lock().unwrap_or_else(PoisonError::into_inner).remove(name));
            done()
        }
        ["listen", name, at] => {
            let (socket, at) = made(at)?;
            socket.set_reuse_address(true)?;
            socket.bind(&at)?;
            socket.listen(64)?;
            keep(name, socket);
            done()
        }
        ["accept", name, listener] => {
            keep(name, named(listener)?.accept()?.0);
            done()
        }
        ["fd", name] => Ok(named(name)?.as_raw_fd().to_string()),
        ["nonblocking", name] => named(name)?.set_nonblocking(true).and_then(|()| done()),
        ["timeouts", name, ms] => {
            let socket = named(name)?;
            socket.set_read_timeout(Some(time(ms)?))?;
            socket.set_write_timeout(Some(time(ms)?))?;
            done()
        }
        ["lowat", name, bytes] => {
            named(name)?.set_tcp_notsent_lowat(u32::try_from(number(bytes)?).map_err(io::Error::other)?)?;
            done()
        }
        ["lowat", name] => Ok(named(name)?.tcp_notsent_lowat()?.to_string()),
        ["fin", name] => named(name)?.shutdown(Shutdown::Write).and_then(|()| done()),
        ["close", name] => {
            drop(sockets.lock().unwrap_or_else(PoisonError::into_inner).remove(name));
            done()
        }
        ["send", name, text] => Ok((&*named(name)?).write(text.as_bytes())?.to_string()),
        ["recv", name] => {
            let mut buffer = [0; 4096];
            let got = (&*named(name)?).read(&mut buffer)?;
            Ok(format!("{got} {}", buffer[..got].escape_ascii()))
        }
        ["flood", name, seed] => {
            let socket = named(name)?;
            socket.set_nonblocking(true)?;
            flood(&socket, number(seed)?).map(|bytes| bytes.to_string())
        }
        ["drain", name] => {
            let socket = named(name)?;
            Ok(io::copy(&mut &*socket, &mut io::sink())?.to_string())
        }
        ["drain", name, bytes] => {
            let socket = named(name)?;
            Ok(io::copy(&mut (&*socket).take(number(bytes)?), &mut io::sink())?.to_string())
        }
        ["cat", name] => {
            // Inherits the socket as its standard input and reads it until EOF.
            let socket: OwnedFd = named(name)?.as_fd().try_clone_to_owned()?;
            let child = Command::new("cat").stdin(Stdio::from(socket)).stdout(Stdio::piped()).spawn()?;
            say(&format!("child {name} {}", child.id()));
            let output = child.wait_with_output()?;
            Ok(format!("{} {}", output.stdout.len(), output.stdout.escape_ascii()))
        }
        ["write", name, waiting, seed, total, piece] => {
            let socket = named(name)?;
            let waiting = Waiting::named(waiting, &socket)?;
            waiting.write(&socket, number(seed)?, count(total)?, count(piece)?).and_then(|()| done())
        }
        ["sendfile", name, waiting, seed, total] => {
            let socket = named(name)?;
            let waiting = Waiting::named(waiting, &socket)?;
            waiting.send_file(&socket, number(seed)?, count(total)?).and_then(|()| done())
        }
        // One call, as a non-blocking program makes it.
        ["sendfile-once", name, total] => {
            let socket = named(name)?;
            socket.set_nonblocking(true)?;
            let file = stream_file(1, count(total)?)?;
            Ok(sendfile(&*socket, &file, Some(&mut 0), count(total)?)?.to_string())
        }
        ["nodelay", name] => named(name)?.set_tcp_nodelay(true).and_then(|()| done()),
        ["check", name, waiting, seed, total, end] => {
            let socket = named(name)?;
            let waiting = Waiting::named(waiting, &socket)?;
            waiting.check(&socket, number(seed)?, count(total)?, end == "end").and_then(|()| done())
        }
        ["ping", name, waiting, seed, times] => {
            let socket = named(name)?;
            let waiting = Waiting::named(waiting, &socket)?;
            waiting.ping(&socket, number(seed)?, count(times)?).and_then(|()| done())
        }
        ["echo", name, waiting] => {
            let socket = named(name)?;
            Waiting::named(waiting, &socket)?.echo(&socket).and_then(|()| done())
        }
        ref waits => wait(waits, named),
    }
}

/// The calls that wait for something else than a socket's bytes.
fn wait(words: &[&str], named: impl Fn(&str) -> io::Result<Arc<Socket>>) -> io::Result<String> {
    match *words {
        ["poll", name, what, ms] => {
            let (socket, span) = (named(name)?, span(ms)?);
            let flags = if what == "out" { PollFlags::OUT } else { PollFlags::IN };
            let mut polled = [PollFd::new(&*socket, flags)];
            let ready = poll(&mut polled, Some(&span))?;
            Ok(format!("{ready} {}", shown(polled[0].revents())))
        }
        ["epoll", name, edge, what, ms] => {
            let (socket, span) = (named(name)?, span(ms)?);
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let mut flags = if what == "out" { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            if edge == "edge" {
                flags |= epoll::EventFlags::ET;
            }
            epoll::add(&epoll, &*socket, epoll::EventData::new_u64(0), flags)?;
            let mut events = Vec::with_capacity(4);
            Ok(epoll::wait(&epoll, spare_capacity(&mut events), Some(&span))?.to_string())
        }
        ["select", name, what, ms] => {
            let socket = named(name)?;
            let mut set = FdSet::new();
            set.insert(socket.as_fd());
            let mut limit = TimeVal::milliseconds(i64::try_from(number(ms)?).map_err(io::Error::other)?);
            let ready = match what {
                "out" => select(None, None, Some(&mut set), None, Some(&mut limit))?,
                _ => select(None, Some(&mut set), None, None, Some(&mut limit))?,
            };
            Ok(ready.to_string())
        }
        ["sleep", ms] => match nanosleep(&span(ms)?) {
            NanosleepRelativeResult::Ok => Ok("ok".to_owned()),
            NanosleepRelativeResult::Interrupted(_) => Ok("EINTR".to_owned()),
            NanosleepRelativeResult::Err(error) => Err(error.into()),
        },
        ["spin", ms] => {
            let (start, limit) = (Instant::now(), time(ms)?);
            while start.elapsed() < limit {
                std::hint::spin_loop();
            }
            Ok("ok".to_owned())
        }
        ["futex", ms] => {
            futex::wait(&AtomicU32::new(0), futex::Flags::PRIVATE, 0, Some(&span(ms)?))?;
            Ok("woken".to_owned())
        }
        _ => Err(bad(format!("not a command: {words:?}"))),
    }
}

/// Sends until the socket takes no more; gives how many bytes it took.
fn flood(mut socket: &Socket, seed: u64) -> io::Result<usize> {
    let (bytes, mut sizes, mut taken) = (vec![b'x'; 1 << 17], Random(seed), 0);
    loop {
        match socket.write(&bytes[..sizes.chunk()]) {
            Ok(bytes) => taken += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(taken),
            Err(error) => return Err(error),
        }
    }
}

fn shown(flags: PollFlags) -> String {
    let names =
        [(PollFlags::IN, "in"), (PollFlags::OUT, "out"), (PollFlags::ERR, "err"), (PollFlags::HUP, "hup")];
    let shown: Vec<_> =
        names.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| *name).collect();
    shown.join("+")
}

fn made(address: &str) -> io::Result<(Socket, SockAddr)> {
    let address: SocketAddr = address.parse().map_err(|e| bad(format!("{address}: {e}")))?;
    Ok((Socket::new(Domain::for_address(address), Type::STREAM, None)?, address.into()))
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|e| bad(format!("{text}: {e}")))
}

fn count(text: &str) -> io::Result<usize> {
    text.parse().map_err(|e| bad(format!("{text}: {e}")))
}

fn time(ms: &str) -> io::Result<Duration> {
    Ok(Duration::from_millis(number(ms)?))
}

fn span(ms: &str) -> io::Result<Timespec> {
    Timespec::try_from(time(ms)?).map_err(io::Error::other)
}
