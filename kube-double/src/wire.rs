//! A TCP connection that can go silent: nothing more is read or written, and nobody is told.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What silences connections.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    /// Those that begin now are silent from their first byte.
    now: AtomicBool,
    /// How often it began: whoever was there before is silent for good, as behind a router that forgot him.
    times: AtomicUsize,
}

impl Silence {
    pub fn begin(&self) {
        self.now.store(true, Ordering::SeqCst);
        self.times.fetch_add(1, Ordering::SeqCst);
    }

    /// For new connections.
    pub fn end(&self) {
        self.now.store(false, Ordering::SeqCst);
    }
}

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    silence: Arc<Silence>,
    /// How often there had been silence when this began.
    born: usize,
    silent: bool,
}

impl Wire {
    pub fn new(stream: TcpStream, silence: Arc<Silence>) -> Self {
        let born = silence.times.load(Ordering::SeqCst);
        let silent = silence.now.load(Ordering::SeqCst);
        Self { stream, silence, born, silent }
    }

    fn is_silent(&mut self) -> bool {
        self.silent |= self.silence.times.load(Ordering::SeqCst) != self.born;
        self.silent
    }
}

// Nobody is woken out of a silence: it ends with the connection.
impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_silent() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_silent() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_silent() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_silent() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
