//! io_uring. Its calls on a blocking socket that cannot go on wait in the kernel by poll, and no thread is inside.

use std::io;
use std::net::TcpStream;
use std::rc::Rc;

use tokio_uring::net::TcpStream as Ring;

use super::part::{Part, Sink, Source};
use crate::flow::bad;

pub(super) fn carry(stream: &TcpStream, out: Option<Part>, inward: Option<Part>) -> io::Result<()> {
    let ring = Ring::from_std(stream.try_clone()?);
    tokio_uring::start(async {
        let ring = Rc::new(ring);
        let sender = tokio_uring::spawn(send(Rc::clone(&ring), out));
        let received = receive(&ring, inward).await;
        let sent = sender.await.unwrap_or_else(|_| Err(bad("the sender panicked")));
        sent.and(received)
    })
}

async fn send(ring: Rc<Ring>, part: Option<Part>) -> io::Result<()> {
    let mut source = Source::new(part);
    while !source.done() {
        let (sent, _) = ring.write(source.next().to_vec()).submit().await;
        source.advance(sent?)?;
    }
    Ok(())
}

async fn receive(ring: &Ring, part: Option<Part>) -> io::Result<()> {
    let mut sink = Sink::new(part);
    while !sink.done() {
        let (got, buffer) = ring.read(vec![0; sink.want()]).await;
        sink.take(&buffer[..got?])?;
    }
    Ok(())
}
