//! From the peer to the application.

use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::pieces::Pieces;
use super::{Flow, ROOM, Step};
use crate::datapath::PumpError;
use crate::datapath::buffer::with_scratch;
use crate::datapath::ends::{count, end, poll_read, taken, write};
use crate::datapath::tls::channel::Opened;
use crate::datapath::tls::open::{MAX_RECORD, record_length};
use crate::datapath::tls::seal::HEADER;

impl Flow<'_> {
    /// One step from the peer to the application; pending when nothing can be done now.
    pub(super) fn poll_inbound(
        &mut self,
        application: &TcpStream,
        peer: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Step {
        if !self.to_application.is_empty() {
            return write(application, &mut self.to_application, cx).map_err(PumpError::Application);
        }
        if self.told_application {
            return Poll::Pending;
        }
        if self.peer_ended {
            self.told_application = true;
            return Poll::Ready(end(application).map_err(PumpError::Application));
        }
        with_scratch(ROOM + MAX_RECORD, |scratch| {
            let kept = self.incoming.waiting().len();
            let wanted = if self.is_due() { self.to_end_of_record()? } else { ROOM };
            let room = scratch.get_mut(kept..kept + wanted).unwrap_or_default();
            let length = ready!(poll_read(peer, room, cx)).map_err(PumpError::Peer)?;
            if length == 0 {
                return Poll::Ready(Err(PumpError::Truncated));
            }
            self.note(length);
            self.rest.disturb();
            let bytes = scratch.get_mut(..kept + length).unwrap_or_default();
            if let Some(old) = bytes.get_mut(..kept) {
                old.copy_from_slice(self.incoming.waiting());
            }
            self.incoming.clear();
            let (pieces, done) = self.open(bytes)?;
            self.observed.add_received(count(pieces.length()));
            self.deliver(application, &pieces, bytes)?;
            let rest = bytes.get(done..).unwrap_or_default();
            if !rest.is_empty() && !self.peer_ended {
                self.incoming.tail().extend_from_slice(rest);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// What is left of the record that has begun, or of its header. Never 0.
    fn to_end_of_record(&self) -> Result<usize, PumpError> {
        let begun = self.incoming.waiting();
        let end = record_length(begun)?.unwrap_or(HEADER);
        Ok(end.saturating_sub(begun.len()).max(1))
    }

    /// Opens every whole record: where their data is, and how many bytes are done with.
    fn open(&mut self, bytes: &mut [u8]) -> Result<(Pieces, usize), PumpError> {
        let (mut pieces, mut done) = (Pieces::default(), 0);
        while let Some(length) = record_length(bytes.get(done..).unwrap_or_default())?
            && let Some(record) = bytes.get_mut(done..done + length)
        {
            let opened = self.channel.open(record)?;
            let data = done + HEADER;
            done += length;
            match opened {
                Opened::Data(length) => pieces.push(bytes, data..data + length),
                Opened::Nothing => {}
                Opened::End => {
                    // What comes behind is to be ignored (RFC 8446, section 6.1).
                    self.peer_ended = true;
                    break;
                }
            }
        }
        Ok((pieces, done))
    }

    /// Most of the time there is room, and nothing has to be kept.
    fn deliver(&mut self, application: &TcpStream, pieces: &Pieces, bytes: &[u8]) -> Result<(), PumpError> {
        let written = pieces.with_slices(bytes, |slices| match slices {
            [] => Ok(0),
            [one] => application.try_write(one),
            several => application.try_write_vectored(several),
        });
        let written = taken(written).map_err(PumpError::Application)?;
        for rest in pieces.rest(bytes, written) {
            self.to_application.tail().extend_from_slice(rest);
        }
        Ok(())
    }
}
