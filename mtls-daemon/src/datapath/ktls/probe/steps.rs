//! What is tried, one function each, on a pair of its own: nothing left of one step can spoil the next.

use std::fs::File;
use std::io::Write;
use std::net::{Shutdown, TcpStream};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;
use rustls::crypto::SecureRandom;
use socket2::SockRef;

use super::answer::Failure;
use super::pair::{Pair, Pipe, RECORD, Spliced, fresh};
use crate::datapath::ktls::keys::Suite;
use crate::datapath::ktls::socket::TlsSocket;
use crate::datapath::tls::ContentType;
use crate::sys::tcp_info::TcpInfo;

/// An alert that asks for nothing (user_canceled; RFC 8446, section 6.1).
const HARMLESS_ALERT: &[u8] = &[1, 90];
/// RFC 8446, section 6.1.
const CLOSE_NOTIFY: &[u8] = &[1, 0];
/// KeyUpdate, update_not_requested (RFC 8446, section 4.6.3).
const KEY_UPDATE: &[u8] = &[24, 0, 0, 1, 0];
/// One byte, one that fills a record, and one more.
const SIZES: [usize; 4] = [1, 333, RECORD, RECORD + 1];

type Step<T = ()> = Result<T, Failure>;

/// Data of several sizes in both directions, records counted.
pub fn suite(suite: Suite, random: &dyn SecureRandom) -> Step {
    let pair = Pair::with_keys(suite, random)?;
    for size in SIZES {
        pair.transfer(&pair.near, &pair.far, &bytes(random, size)?)?;
        pair.transfer(&pair.far, &pair.near, &bytes(random, size)?)?;
    }
    // Five: the last size needs two. Counting them is how the limit of a key is kept.
    expect_sequence(&pair.near, 5)
}

/// Out of TLS and into TLS through a pipe that is empty each time.
pub fn splice(suite: Suite, random: &dyn SecureRandom) -> Step {
    let pair = Pair::with_keys(suite, random)?;
    let sent = bytes(random, 2 * RECORD + 1)?;
    let pipe = Pipe::new()?;
    let mut rest = sent.as_slice();
    while !rest.is_empty() {
        let mut left = pipe.write(rest)?;
        rest = rest.get(left..).unwrap_or_default();
        while left > 0 {
            match pipe.drain_into(&pair.near, left)? {
                Some(moved) => left = left.saturating_sub(moved),
                None => pair.wait_to_write(&pair.near)?,
            }
        }
    }
    let mut received = Vec::new();
    splice_out(&pair, &pipe, &mut received, sent.len())?;
    compare(&sent, &received)
}

/// An alert between data: splice stops before it, recvmsg gets it with its type, splice goes on.
pub fn control(suite: Suite, random: &dyn SecureRandom) -> Step {
    let pair = Pair::with_keys(suite, random)?;
    let sent = bytes(random, 1000)?;
    let (before, after) = sent.split_at(400);
    pair.send_all(&pair.near, before)?;
    pair.send_control(&pair.near, ContentType::Alert, HARMLESS_ALERT)?;
    pair.send_all(&pair.near, after)?;
    let pipe = Pipe::new()?;
    let mut received = Vec::new();
    splice_out(&pair, &pipe, &mut received, before.len())?;
    loop {
        match pipe.fill(&pair.far)? {
            Spliced::Control => break,
            Spliced::WouldBlock => pair.wait_to_read(&pair.far)?,
            Spliced::Bytes(length) => {
                return Err(Failure::Wrong(format!("splice() took {length} bytes of an alert for data")));
            }
        }
    }
    pair.expect_control(&pair.far, ContentType::Alert, HARMLESS_ALERT)?;
    splice_out(&pair, &pipe, &mut received, sent.len())?;
    compare(&sent, &received)
}

/// close_notify comes after all data, and then the end.
pub fn close(suite: Suite, random: &dyn SecureRandom) -> Step {
    let pair = Pair::with_keys(suite, random)?;
    pair.transfer(&pair.near, &pair.far, &bytes(random, 2 * RECORD)?)?;
    pair.send_control(&pair.near, ContentType::Alert, CLOSE_NOTIFY)?;
    pair.near.shutdown(Shutdown::Write).map_err(Failure::io("shutdown()"))?;
    pair.expect_control(&pair.far, ContentType::Alert, CLOSE_NOTIFY)?;
    pair.expect_eof(&pair.far)?;
    // The other direction goes on.
    pair.transfer(&pair.far, &pair.near, &bytes(random, 100)?)
}

/// A KeyUpdate, and new keys on both ends.
pub fn rekey(suite: Suite, random: &dyn SecureRandom) -> Step {
    let pair = Pair::with_keys(suite, random)?;
    pair.transfer(&pair.near, &pair.far, &bytes(random, 100)?)?;
    pair.send_control(&pair.near, ContentType::Handshake, KEY_UPDATE)?;
    let keys = fresh(suite, random)?;
    TlsSocket::new(&pair.near).install_tx(&keys).map_err(|errno| match errno {
        Errno::EBUSY => Failure::Wrong("a second TLS_TX says EBUSY; Linux 6.14 can do it".to_owned()),
        errno => Failure::Call("a second setsockopt(TLS_TX)", errno),
    })?;
    pair.expect_control(&pair.far, ContentType::Handshake, KEY_UPDATE)?;
    TlsSocket::new(&pair.far).install_rx(&keys).map_err(Failure::call("a second setsockopt(TLS_RX)"))?;
    pair.transfer(&pair.near, &pair.far, &bytes(random, 100)?)?;
    expect_sequence(&pair.near, 1)
}

/// The defect of Linux 6.12: a pipe that is full but for one page, again and again, as a slow reader leaves it.
pub fn splice_into_filled_pipe(suite: Suite, random: &dyn SecureRandom) -> Step {
    const PAGE: usize = 4096;
    let pair = Pair::with_keys(suite, random)?;
    let sent = bytes(random, 2 * RECORD)?;
    pair.send_all(&pair.near, &sent)?;
    // So that the end of what is left is known without waiting for it.
    pair.send_control(&pair.near, ContentType::Alert, CLOSE_NOTIFY)?;
    let pipe = Pipe::new()?;
    let filling = bytes(random, 4 * RECORD)?;
    let filled = pipe.write(&filling)?;
    let mut received = Vec::new();
    loop {
        let taken = pipe.take(PAGE, &mut received)?;
        match pipe.fill(&pair.far)? {
            Spliced::Bytes(_) => {}
            Spliced::WouldBlock if taken == 0 => pair.wait_to_read(&pair.far)?,
            Spliced::WouldBlock => {}
            Spliced::Control => break,
        }
    }
    pipe.empty(&mut received)?;
    let expected: Vec<u8> = filling.into_iter().take(filled).chain(sent).collect();
    compare(&expected, &received)
}

/// The defect of Linux up to 6.4: sendfile() of four records where one may wait. What was taken must be on its way, at least in
/// part, or nothing would ever make room. A verdict without waiting: loopback sends within the call.
pub fn sendfile_under_a_limit(suite: Suite, random: &dyn SecureRandom) -> Step {
    // Less than a record, which loopback's own is not: a part of a segment may well be kept back for a moment.
    const MSS: u32 = 1448;
    let pair = Pair::with_keys_and_segments(suite, random, Some(MSS))?;
    SockRef::from(&pair.near).set_tcp_notsent_lowat(1).map_err(Failure::io("TCP_NOTSENT_LOWAT"))?;
    let sent = bytes(random, 4 * RECORD)?;
    let mut file = File::from(
        memfd_create(c"mtlsd-probe", MFdFlags::MFD_CLOEXEC).map_err(Failure::call("memfd_create()"))?,
    );
    file.write_all(&sent).map_err(Failure::io("write()"))?;
    let taken = sendfile(&pair.near, &file, Some(&mut 0), sent.len()).map_err(Failure::call("sendfile()"))?;
    let info = TcpInfo::of(&pair.near).map_err(Failure::io("getsockopt(TCP_INFO)"))?;
    if info.carried().sent == 0 {
        return Err(Failure::Wrong(format!("sendfile() took {taken} bytes and sent none")));
    }
    Ok(())
}

/// Splices out of TLS until so much is there or something else than data comes; the pipe is emptied each time.
fn splice_out(pair: &Pair, pipe: &Pipe, received: &mut Vec<u8>, until: usize) -> Step {
    while received.len() < until {
        match pipe.fill(&pair.far)? {
            Spliced::Bytes(_) => pipe.empty(received)?,
            Spliced::WouldBlock => pair.wait_to_read(&pair.far)?,
            Spliced::Control => return Ok(()),
        }
    }
    Ok(())
}

fn compare(sent: &[u8], received: &[u8]) -> Step {
    if sent == received { Ok(()) } else { Err(Failure::Wrong("splice() altered the data".to_owned())) }
}

fn expect_sequence(socket: &TcpStream, expected: u64) -> Step {
    match TlsSocket::new(socket).next_sequence().map_err(Failure::io("getsockopt(TLS_TX)"))? {
        found if found == expected => Ok(()),
        found => Err(Failure::Wrong(format!(
            "getsockopt(TLS_TX) says that record {found} is next, where {expected} is"
        ))),
    }
}

fn bytes(random: &dyn SecureRandom, length: usize) -> Step<Vec<u8>> {
    let mut bytes = vec![0; length];
    random.fill(&mut bytes).map_err(|_| Failure::Wrong("there is no randomness".to_owned()))?;
    Ok(bytes)
}
