//! The two halves of a connection: what is sent becomes records, records that come become [`Seen`](super::seen::Seen).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustls::Connection;

use super::handshake::{Done, read_record};
use super::keys::{self, Keys, kind};
use super::options::Layer;
use super::seen::Shared;

/// Handshake messages (RFC 8446, section 4).
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// How our bytes become the wire's.
enum Sealer {
    Plain,
    Own(Keys),
    Rustls(Arc<Mutex<Connection>>),
}

/// The sending half; the reading thread answers KeyUpdates with it.
pub struct Out {
    socket: TcpStream,
    sealer: Sealer,
    /// Size of the pieces that a write is cut into, and the pause after each.
    pub segments: (usize, Duration),
}

/// [`Out`] for the script and the reading thread.
pub type SharedOut = Arc<Mutex<Out>>;

/// Locks, also after a panic of the other thread.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn not_here(what: &str) -> io::Error {
    io::Error::other(format!("{what} needs a record layer of our own"))
}

impl Out {
    /// Application data, in one record.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.sealer {
            Sealer::Plain => self.write(bytes),
            Sealer::Own(_) => self.record(kind::APPLICATION_DATA, bytes, 0),
            Sealer::Rustls(connection) => {
                let connection = Arc::clone(connection);
                lock(&connection).writer().write_all(bytes)?;
                self.flush(&connection)
            }
        }
    }

    /// A record of our own.
    ///
    /// # Errors
    /// When the connection is gone, or has no record layer of our own.
    pub fn record(&mut self, kind: u8, content: &[u8], padding: usize) -> io::Result<()> {
        let record = self.keys()?.seal(kind, content, padding);
        self.write(&record)
    }

    /// A record of our own, changed by `spoil` before it goes.
    ///
    /// # Errors
    /// As [`Out::record`].
    pub fn spoilt(&mut self, content: &[u8], spoil: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut record = self.keys()?.seal(kind::APPLICATION_DATA, content, 0);
        spoil(&mut record);
        self.write(&record)
    }

    /// KeyUpdate, then new keys (section 4.6.3).
    ///
    /// # Errors
    /// As [`Out::record`].
    pub fn key_update(&mut self, request: bool) -> io::Result<()> {
        if let Sealer::Rustls(connection) = &self.sealer {
            let connection = Arc::clone(connection);
            lock(&connection).refresh_traffic_keys().map_err(io::Error::other)?;
            return self.flush(&connection);
        }
        self.record(kind::HANDSHAKE, &keys::message(KEY_UPDATE, &[u8::from(request)]), 0)?;
        self.keys()?.update();
        Ok(())
    }

    /// close_notify.
    ///
    /// # Errors
    /// When the connection is gone, or is plain.
    pub fn close_notify(&mut self) -> io::Result<()> {
        if let Sealer::Rustls(connection) = &self.sealer {
            let connection = Arc::clone(connection);
            lock(&connection).send_close_notify();
            return self.flush(&connection);
        }
        self.record(kind::ALERT, &[1, 0], 0)
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (size, pause) = self.segments;
        if size == 0 {
            return self.socket.write_all(bytes);
        }
        for piece in bytes.chunks(size) {
            self.socket.write_all(piece)?;
            thread::sleep(pause);
        }
        Ok(())
    }

    fn keys(&mut self) -> io::Result<&mut Keys> {
        match &mut self.sealer {
            Sealer::Own(keys) => Ok(keys),
            _ => Err(not_here("this action")),
        }
    }

    fn flush(&mut self, connection: &Mutex<Connection>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut connection = lock(connection);
        while connection.wants_write() {
            connection.write_tls(&mut bytes)?;
        }
        drop(connection);
        self.write(&bytes)
    }
}

/// Starts to read, and gives the sending half.
///
/// # Errors
/// When the system has no more descriptors.
pub fn start(
    socket: &TcpStream,
    layer: Layer,
    done: Option<Done>,
    seen: &Arc<Shared>,
) -> io::Result<SharedOut> {
    let shared = |sealer| {
        let out = Out { socket: socket.try_clone()?, sealer, segments: (0, Duration::ZERO) };
        io::Result::Ok(Arc::new(Mutex::new(out)))
    };
    let (socket, seen) = (socket.try_clone()?, Arc::clone(seen));
    let Some(Done { connection, keys: (ours, theirs) }) = done else {
        let out = shared(Sealer::Plain)?;
        thread::spawn(move || seen.end(read_plain(&socket, &seen)));
        return Ok(out);
    };
    if layer == Layer::Rustls {
        let connection = Arc::new(Mutex::new(connection));
        let out = shared(Sealer::Rustls(Arc::clone(&connection)))?;
        let replies = Arc::clone(&out);
        thread::spawn(move || seen.end(read_rustls(&socket, &connection, &seen, &replies)));
        return Ok(out);
    }
    let out = shared(Sealer::Own(ours))?;
    let replies = Arc::clone(&out);
    thread::spawn(move || seen.end(read_own(&socket, theirs, &seen, &replies)));
    Ok(out)
}

fn read_plain(mut socket: &TcpStream, seen: &Shared) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match socket.read(&mut buffer)? {
            0 => return Ok(()),
            length => seen.data(&buffer[..length]),
        }
    }
}

fn read_rustls(
    mut socket: &TcpStream,
    connection: &Mutex<Connection>,
    seen: &Shared,
    replies: &Mutex<Out>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 14];
    loop {
        let length = socket.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut bytes = &buffer[..length];
        while !bytes.is_empty() {
            let mut connection = lock(connection);
            connection.read_tls(&mut bytes)?;
            let state = connection.process_new_packets().map_err(io::Error::other)?;
            let mut data = vec![0; state.plaintext_bytes_to_read()];
            connection.reader().read_exact(&mut data)?;
            seen.data(&data);
            if state.peer_has_closed() {
                seen.note(|seen| seen.alerts.push(0));
            }
        }
        lock(replies).flush(connection)?;
    }
}

fn read_own(socket: &TcpStream, mut keys: Keys, seen: &Shared, replies: &Mutex<Out>) -> io::Result<()> {
    let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut handshake = Vec::new();
    while let Some((header, mut body)) = read_record(socket)? {
        if header[0] != kind::APPLICATION_DATA {
            return Err(bad(format!("a record of type {} after the handshake", header[0])));
        }
        let opened = keys.open(header, &mut body);
        let (kind, content) = opened.map_err(|_| bad("a record that does not authenticate".into()))?;
        if content.len() > keys::MAX_CONTENT {
            return Err(bad(format!("a record of {} bytes", content.len())));
        }
        match kind {
            kind::APPLICATION_DATA => seen.data(&content),
            kind::ALERT => {
                let description = content.get(1).copied().ok_or_else(|| bad("a short alert".into()))?;
                seen.note(|seen| seen.alerts.push(description));
            }
            kind::HANDSHAKE => handshake.extend(content),
            other => return Err(bad(format!("content of type {other}"))),
        }
        while let Some((kind, body)) = next_message(&mut handshake) {
            match (kind, &body[..]) {
                (NEW_SESSION_TICKET, _) => seen.note(|seen| seen.tickets += 1),
                (KEY_UPDATE, [request]) => {
                    keys.update();
                    if *request == 1 {
                        lock(replies).key_update(false)?;
                    }
                    let asked = usize::from(*request == 1);
                    seen.note(|seen| seen.key_updates = (seen.key_updates.0 + 1, seen.key_updates.1 + asked));
                }
                (other, _) => return Err(bad(format!("handshake message {other}"))),
            }
        }
    }
    Ok(())
}

/// Takes a whole message off the front.
fn next_message(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let &[kind, a, b, c] = bytes.first_chunk()?;
    let end = 4 + usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
    let body = bytes.get(4..end)?.to_vec();
    bytes.drain(..end);
    Some((kind, body))
}
