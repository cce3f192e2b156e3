//! From the application to the peer.

use std::io::{self, IoSliceMut};
use std::task::{Context, Poll, ready};

use rustls::AlertDescription;
use tokio::net::TcpStream;

use super::{Flow, RECORDS, ROOM, Step};
use crate::datapath::PumpError;
use crate::datapath::buffer::with_scratch;
use crate::datapath::ends::{count, end, poll_read, poll_read_vectored, taken, write};
use crate::datapath::tls::ChannelError;
use crate::datapath::tls::seal::{HEADER, MAX_CONTENT, MAX_SEALED, TRAILER};

impl Flow<'_> {
    /// One step from the application to the peer; pending when nothing can be done now.
    pub(super) fn poll_outbound(
        &mut self,
        application: &TcpStream,
        peer: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Step {
        if !self.to_peer.is_empty() {
            return write(peer, &mut self.to_peer, cx).map_err(PumpError::Peer);
        }
        if self.told_peer {
            return Poll::Pending;
        }
        if self.application_ended {
            self.told_peer = true;
            return Poll::Ready(end(peer).map_err(PumpError::Peer));
        }
        if self.channel.owes_key_update() {
            return Poll::Ready(Ok(self.channel.update_key(self.to_peer.tail())?));
        }
        with_scratch(ROOM, |scratch| {
            let room = scratch.get_mut(..ROOM).unwrap_or_default();
            let length = ready!(read(application, room, self.bulk, cx)).map_err(PumpError::Application)?;
            self.observed.add_sent(count(length));
            self.bulk = length >= MAX_CONTENT;
            self.note(length);
            self.rest.disturb();
            if length == 0 {
                self.application_ended = true;
                let said = self.channel.alert(AlertDescription::CloseNotify, self.to_peer.tail());
                return Poll::Ready(Ok(said?));
            }
            let wire = self.seal(room, length)?;
            // Most of the time there is room, and nothing has to be kept.
            let sent = taken(peer.try_write(wire)).map_err(PumpError::Peer)?;
            let rest = wire.get(sent..).unwrap_or_default();
            if !rest.is_empty() {
                self.to_peer.tail().extend_from_slice(rest);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Makes records of so many bytes, which lie where [`read`] has put them.
    fn seal<'r>(&mut self, room: &'r mut [u8], length: usize) -> Result<&'r [u8], PumpError> {
        let (mut left, mut sealed) = (length, 0);
        while left > 0 {
            let content = left.min(MAX_CONTENT);
            let end = sealed + HEADER + content + TRAILER;
            self.channel.seal(room.get_mut(sealed..end).ok_or(ChannelError::Seal)?)?;
            (left, sealed) = (left - content, end);
        }
        Ok(room.get(..sealed).unwrap_or_default())
    }
}

/// Reads into the places of the contents of records that lie one behind the other: of one, or of as many as there is room
/// for.
fn read(
    application: &TcpStream,
    room: &mut [u8],
    bulk: bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    if !bulk {
        let place = room.get_mut(HEADER..HEADER + MAX_CONTENT).unwrap_or_default();
        return poll_read(application, place, cx);
    }
    let mut places = [const { None }; RECORDS];
    for (place, record) in places.iter_mut().zip(room.chunks_mut(MAX_SEALED)) {
        *place = record.get_mut(HEADER..HEADER + MAX_CONTENT);
    }
    let mut places = places.map(|place: Option<&mut [u8]>| IoSliceMut::new(place.unwrap_or_default()));
    poll_read_vectored(application, &mut places, RECORDS * MAX_CONTENT, cx)
}
