//! sendfile() and splice(): bytes that the application never has in its hands.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::sendfile::sendfile;

use super::part::{Part, Sink, Source};
use crate::bytes::Random;
use crate::flow::bad;

/// A pipe's size by default.
const PIPE: usize = 1 << 16;

/// A file without a name that has the part's bytes.
fn file(part: Part) -> io::Result<File> {
    static COUNTER: AtomicU32 = AtomicU32::new(1);
    let name = format!("manners-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let mut file = File::options().create_new(true).read(true).write(true).open(&path)?;
    fs::remove_file(&path)?;
    Source::new(Some(part)).drain(|bytes| file.write(bytes))?;
    Ok(file)
}

pub(super) fn send(stream: &TcpStream, part: Part) -> io::Result<()> {
    let file = file(part)?;
    let mut sizes = Random(!part.seed);
    let mut at = 0;
    let total = i64::try_from(part.total).unwrap_or(i64::MAX);
    while at < total {
        if sendfile(stream, &file, Some(&mut at), sizes.chunk())? == 0 {
            return Err(bad(format!("sendfile() gave 0 at {at} of {total} bytes")));
        }
    }
    Ok(())
}

pub(super) fn splice_out(stream: &TcpStream, part: Part) -> io::Result<()> {
    let file = file(part)?;
    let (from, into) = io::pipe()?;
    let mut at = 0;
    let total = i64::try_from(part.total).unwrap_or(i64::MAX);
    while at < total {
        let mut held = splice(&file, Some(&mut at), &into, None, PIPE, SpliceFFlags::SPLICE_F_MOVE)?;
        while held > 0 {
            let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_MORE;
            let flags = if at < total { flags } else { SpliceFFlags::SPLICE_F_MOVE };
            match splice(&from, None, stream, None, held, flags)? {
                0 => return Err(bad("splice() into the socket gave 0")),
                sent => held -= sent,
            }
        }
    }
    Ok(())
}

pub(super) fn splice_in(stream: &TcpStream, part: Part) -> io::Result<()> {
    let (mut from, into) = io::pipe()?;
    let mut sink = Sink::new(Some(part));
    sink.fill(|buffer| {
        let size = buffer.len().min(PIPE);
        let got = splice(stream, None, &into, None, size, SpliceFFlags::SPLICE_F_MOVE)?;
        from.read_exact(&mut buffer[..got])?;
        Ok(got)
    })
}
