//! What one end sends in one direction, and how far it has come.

use std::io::{self, Read, Write};

use crate::bytes::{Bytes, Random};
use crate::flow::bad;

/// The first bytes of a seed's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Of the bytes.
    pub seed: u64,
    /// How many.
    pub total: u64,
}

/// Sends a part, in chunks of random size.
#[derive(Debug)]
pub(super) struct Source {
    bytes: Bytes,
    sizes: Random,
    left: u64,
    /// Made and not yet sent.
    chunk: Vec<u8>,
    sent: usize,
}

impl Source {
    pub(super) fn new(part: Option<Part>) -> Self {
        let Part { seed, total } = part.unwrap_or(Part { seed: 0, total: 0 });
        Self { bytes: Bytes::new(seed), sizes: Random(!seed), left: total, chunk: Vec::new(), sent: 0 }
    }

    pub(super) fn done(&self) -> bool {
        self.left == 0 && self.sent == self.chunk.len()
    }

    /// What is to be sent next; empty when all was.
    pub(super) fn next(&mut self) -> &[u8] {
        if self.sent == self.chunk.len() {
            let size = self.sizes.chunk().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.chunk.resize(size, 0);
            self.bytes.fill(&mut self.chunk);
            self.left -= size as u64;
            self.sent = 0;
        }
        &self.chunk[self.sent..]
    }

    /// So much of [`Source::next`] was sent.
    pub(super) fn advance(&mut self, by: usize) -> io::Result<()> {
        if by == 0 || by > self.chunk.len() - self.sent {
            return Err(bad(format!("a send of {} bytes gave {by}", self.chunk.len() - self.sent)));
        }
        self.sent += by;
        Ok(())
    }

    /// Sends everything by calls of `write`.
    pub(super) fn drain(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        while !self.done() {
            let sent = write(self.next())?;
            self.advance(sent)?;
        }
        Ok(())
    }

    /// Sends until all is sent or the socket takes no more.
    pub(super) fn push(&mut self, mut to: impl Write) -> io::Result<()> {
        would_block(self.drain(|bytes| to.write(bytes)))
    }
}

/// Receives a part and compares.
#[derive(Debug)]
pub(super) struct Sink {
    bytes: Bytes,
    sizes: Random,
    total: u64,
    at: u64,
}

impl Sink {
    pub(super) fn new(part: Option<Part>) -> Self {
        let Part { seed, total } = part.unwrap_or(Part { seed: 0, total: 0 });
        Self { bytes: Bytes::new(seed), sizes: Random(seed ^ 0x55), total, at: 0 }
    }

    pub(super) fn done(&self) -> bool {
        self.at == self.total
    }

    /// How much to ask for next.
    pub(super) fn want(&mut self) -> usize {
        self.sizes.chunk().min(usize::try_from(self.total - self.at).unwrap_or(usize::MAX))
    }

    /// These came.
    pub(super) fn take(&mut self, got: &[u8]) -> io::Result<()> {
        if got.is_empty() {
            return Err(bad(format!("ended after {} of {} bytes", self.at, self.total)));
        }
        if let Some(wrong) = self.bytes.differs(got) {
            let shown = got.iter().skip(wrong).take(16).collect::<Vec<_>>();
            return Err(bad(format!(
                "byte {} of {} is wrong: {shown:02x?}",
                self.at + wrong as u64,
                self.total
            )));
        }
        self.at += got.len() as u64;
        if self.at > self.total { Err(bad("more bytes than were asked for")) } else { Ok(()) }
    }

    /// Receives everything by calls of `read`.
    pub(super) fn fill(&mut self, mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
        let mut buffer = Vec::new();
        while !self.done() {
            buffer.resize(self.want(), 0);
            let got = read(&mut buffer)?;
            self.take(&buffer[..got])?;
        }
        Ok(())
    }

    /// Receives until all is there or the socket has no more.
    pub(super) fn pull(&mut self, mut from: impl Read) -> io::Result<()> {
        would_block(self.fill(|buffer| from.read(buffer)))
    }
}

fn would_block(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_in_any_pieces_is_what_is_expected() {
        let part = Some(Part { seed: 5, total: 100_000 });
        let mut wire = Vec::new();
        Source::new(part).drain(|bytes| wire.write(&bytes[..bytes.len().min(700)])).unwrap();
        assert_eq!(wire.len(), 100_000);
        Sink::new(part).fill(|buffer| wire.as_slice().read(buffer)).unwrap_err();
        let mut rest = wire.as_slice();
        Sink::new(part).fill(|buffer| rest.read(buffer)).unwrap();
        let mut short = &wire[..99_999];
        let told = Sink::new(part).fill(|buffer| short.read(buffer)).unwrap_err().to_string();
        assert_eq!(told, "ended after 99999 of 100000 bytes");
        wire[50_000] ^= 1;
        let mut rest = wire.as_slice();
        let told = Sink::new(part).fill(|buffer| rest.read(buffer)).unwrap_err().to_string();
        assert!(told.starts_with("byte 50000 of 100000 is wrong"), "{told}");
    }
}
