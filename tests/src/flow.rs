//! Pseudo-random bytes over a TCP connection: sent in a style, received and compared, and how it ended.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::bytes::{Bytes, Random};

/// How bytes are written and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Chunks of random size.
    Chunks,
    /// The same, with random pauses of a few milliseconds.
    Pauses,
    /// One write for everything.
    Whole,
    /// One write for each byte.
    Single,
}

impl Style {
    /// The next chunk's size, and a pause where the style has any.
    fn next(self, sizes: &mut Random, left: u64) -> usize {
        if self == Self::Pauses && sizes.once_in(8) {
            thread::sleep(Duration::from_millis(sizes.next() % 8));
        }
        let size = match self {
            Self::Chunks | Self::Pauses => sizes.chunk(),
            Self::Whole => usize::MAX,
            Self::Single => 1,
        };
        size.min(usize::try_from(left).unwrap_or(usize::MAX))
    }
}

/// An error of the kind that means wrong bytes or a wrong end.
pub fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// Sends the first `total` bytes of a stream.
///
/// # Errors
/// When writing fails.
pub fn send(mut stream: &TcpStream, seed: u64, total: u64, style: Style) -> io::Result<()> {
    let (mut bytes, mut sizes) = (Bytes::new(seed), Random(!seed));
    let mut left = total;
    let mut buffer = Vec::new();
    while left > 0 {
        let size = style.next(&mut sizes, left);
        buffer.resize(size, 0);
        bytes.fill(&mut buffer);
        stream.write_all(&buffer)?;
        left -= size as u64;
    }
    Ok(())
}

/// Receives the first `total` bytes of a stream with buffers of random size and compares each.
///
/// # Errors
/// When a byte is wrong, or they end too early.
pub fn receive(mut stream: &TcpStream, seed: u64, total: u64, style: Style) -> io::Result<()> {
    let style = if style == Style::Pauses { style } else { Style::Chunks };
    let (mut bytes, mut sizes) = (Bytes::new(seed), Random(seed ^ 0x55));
    let mut buffer = Vec::new();
    let mut at = 0;
    while at < total {
        buffer.resize(style.next(&mut sizes, total - at), 0);
        let got = stream.read(&mut buffer)?;
        if got == 0 {
            return Err(bad(format!("ended after {at} of {total} bytes")));
        }
        if let Some(wrong) = bytes.differs(&buffer[..got]) {
            return Err(bad(format!("byte {} of {total} is wrong", at + wrong as u64)));
        }
        at += got as u64;
    }
    Ok(())
}

/// Receives part of the first `total` bytes, as much as comes before RST.
///
/// # Errors
/// When a byte is wrong, or the end is no RST.
pub fn receive_until_reset(mut stream: &TcpStream, seed: u64, total: u64) -> io::Result<()> {
    let mut bytes = Bytes::new(seed);
    let mut buffer = vec![0; 1 << 16];
    let mut at = 0;
    loop {
        let got = match stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            other => other?,
        };
        if got == 0 {
            return Err(bad(format!("a clean end after {at} of {total} bytes instead of a reset")));
        }
        if let Some(wrong) = bytes.differs(&buffer[..got]) {
            return Err(bad(format!("byte {} of {total} is wrong", at + wrong as u64)));
        }
        at += got as u64;
        if at > total {
            return Err(bad(format!("{at} bytes of {total}")));
        }
    }
}

/// FIN, and nothing before it.
///
/// # Errors
/// When there is something else.
pub fn clean_end(mut stream: &TcpStream) -> io::Result<()> {
    match stream.read(&mut [0; 16])? {
        0 => Ok(()),
        n => Err(bad(format!("{n} bytes too many"))),
    }
}

/// RST, and nothing before it.
///
/// # Errors
/// When there is something else.
pub fn reset_end(mut stream: &TcpStream) -> io::Result<()> {
    match stream.read(&mut [0; 16]) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        other => Err(bad(format!("a reset was expected, not {other:?}"))),
    }
}

/// SO_LINGER of 0: close() sends RST.
///
/// # Errors
/// When the socket has none.
pub fn arm_reset(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What `there` does meets what `here` expects.
    fn meet<T>(there: impl FnOnce(&TcpStream), here: impl FnOnce(&TcpStream) -> T) -> T {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        there(&far);
        drop(far);
        here(&near)
    }

    #[test]
    fn every_style_brings_the_same_bytes() {
        for style in [Style::Chunks, Style::Pauses, Style::Whole, Style::Single] {
            meet(
                |far| send(far, 3, 5000, style).unwrap(),
                |near| receive(near, 3, 5000, style).and_then(|()| clean_end(near)).unwrap(),
            );
        }
    }

    #[test]
    fn wrong_bytes_and_wrong_ends_are_told() {
        let told = |there: &dyn Fn(&TcpStream), here: &dyn Fn(&TcpStream) -> io::Result<()>| {
            meet(|far| there(far), |near| here(near).unwrap_err().to_string())
        };
        let some = |far: &TcpStream| send(far, 3, 100, Style::Whole).unwrap();
        let reset = |far: &TcpStream| arm_reset(far).unwrap();
        let receive = |near: &TcpStream, seed, total| receive(near, seed, total, Style::Chunks);
        assert_eq!(told(&some, &|near| receive(near, 4, 100)), "byte 0 of 100 is wrong");
        assert_eq!(told(&some, &|near| receive(near, 3, 101)), "ended after 100 of 101 bytes");
        assert!(told(&some, &clean_end).contains("bytes too many"));
        assert!(told(&some, &reset_end).contains("a reset was expected"));
        assert!(told(&reset, &clean_end).contains("reset"));
        assert!(told(&some, &|near| receive_until_reset(near, 3, 100)).contains("a clean end after 100"));
        assert!(told(&some, &|near| receive_until_reset(near, 4, 100)).contains("byte 0"));
        meet(reset, |near| {
            receive_until_reset(near, 3, 100).and_then(|()| reset_end(near).or(Ok(()))).unwrap()
        });
    }
}
