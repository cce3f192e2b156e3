//! What is left of TLS 1.3 for user space once the kernel has the keys: alerts, KeyUpdate, tickets, how many
//! records a key has protected, and whether everything has really been handed to TCP.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use rustls::AlertDescription;

use super::keys::{RecordKeys, Suite};
use super::pipe;
use super::socket::TlsSocket;
use crate::datapath::ends::count;
use crate::datapath::tls::channel::Handed;
use crate::datapath::tls::control::{Control, ControlError, Reader, encode_alert, encode_key_update};
use crate::datapath::tls::tally::Tally;
use crate::datapath::tls::{ChannelError, ContentType};
use crate::handshake::KeySchedule;

/// What a record adds to its content: header, content type and tag (RFC 8446, section 5.2).
const RECORD_OVERHEAD: u64 = 5 + 1 + 16;
/// Largest content of a record.
const MAX_CONTENT: usize = 16 * 1024;
/// Records that one operation can make at most, and a KeyUpdate and an alert.
const MARGIN: u64 = pipe::MAX_PIECES as u64 + 3;

/// What a channel is made with.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The suite that was agreed.
    pub suite: Suite,
    /// The kernel can change keys.
    pub rekey: bool,
    /// How many records one key may protect; `None`: as many as there are.
    pub records_per_key: Option<u64>,
}

/// One TLS connection whose records are the kernel's.
#[derive(Debug)]
pub struct Channel {
    /// `None` where the kernel cannot change keys: nothing is kept that could derive them.
    schedule: Option<KeySchedule>,
    reader: Reader,
    suite: Suite,
    /// Records that one key may protect.
    limit: Option<u64>,
    /// At least as much as the sequence number of the next record to be sent.
    sequence_bound: u64,
    /// Sequence number of the first record sent with the current key.
    first_sequence: u64,
    /// Records sent with the keys before.
    records_before: u64,
    /// Content given to the kernel.
    content: u64,
    /// What TCP had been given when the kernel took over.
    base: u64,
    answer_due: bool,
    tally: Tally,
}

impl Channel {
    /// Hands the keys to the kernel. The socket is enabled, everything sent and received went through.
    ///
    /// # Errors
    /// The connection is lost then.
    pub fn install(socket: &impl AsFd, handed: Handed, terms: &Terms) -> Result<Self, ChannelError> {
        let Handed { role, schedule, tx, rx } = handed;
        let socket = TlsSocket::new(socket);
        let first_sequence = tx.0;
        let base = socket.bytes_given_to_tcp().map_err(|error| ChannelError::Install(errno(&error)))?;
        socket.install_tx(&RecordKeys::new(tx.0, &tx.1)).map_err(ChannelError::Install)?;
        socket.install_rx(&RecordKeys::new(rx.0, &rx.1)).map_err(ChannelError::Install)?;
        Ok(Self {
            schedule: terms.rekey.then_some(schedule),
            reader: Reader::new(role),
            suite: terms.suite,
            limit: terms.records_per_key,
            sequence_bound: first_sequence,
            first_sequence,
            records_before: 0,
            content: 0,
            base,
            answer_due: false,
            tally: Tally::default(),
        })
    }

    /// To be called before anything is sent: changes the key when it is due.
    ///
    /// # Errors
    /// The outer ones are the socket's (`EAGAIN`: call again when it is writable), the inner ones end the
    /// connection.
    pub fn prepare(&mut self, socket: TlsSocket<'_>) -> io::Result<Result<(), ChannelError>> {
        if !self.answer_due && self.limit.is_none_or(|limit| self.sequence_bound + MARGIN < limit) {
            return Ok(Ok(()));
        }
        self.sequence_bound = socket.next_sequence()?;
        let due = self.limit.is_some_and(|limit| self.sequence_bound + MARGIN >= limit);
        if !self.answer_due && !due {
            return Ok(Ok(()));
        }
        let Some(schedule) = &mut self.schedule else {
            return Ok(Err(ChannelError::KeyLimit(self.sequence_bound, self.suite.name())));
        };
        socket.send(ContentType::Handshake, &encode_key_update(false))?;
        self.answer_due = false;
        self.content += 5;
        self.records_before += self.sequence_bound + 1 - self.first_sequence;
        self.first_sequence = 0;
        self.sequence_bound = 0;
        let installed = schedule
            .next_tx()
            .map_err(ChannelError::Derive)
            .map(|next| RecordKeys::new(0, &next))
            .and_then(|keys| socket.install_tx(&keys).map_err(ChannelError::Install));
        Ok(installed)
    }

    /// Notes that the kernel took application data.
    pub fn sent(&mut self, length: usize, spliced: bool) {
        self.content += count(length);
        let pieces = if spliced { pipe::MAX_PIECES } else { 0 };
        self.sequence_bound += count(length.div_ceil(MAX_CONTENT) + pieces);
    }

    /// Notes that application data came.
    pub fn received(&mut self) {
        self.tally.data();
    }

    /// Notes an empty record.
    ///
    /// # Errors
    /// When there were too many.
    pub fn received_nothing(&mut self) -> Result<(), ChannelError> {
        self.tally.empty_record()
    }

    /// Deals with a record that is not application data. True when the peer has ended its direction.
    ///
    /// # Errors
    /// What ends the connection.
    pub fn control(
        &mut self,
        socket: TlsSocket<'_>,
        kind: ContentType,
        record: &[u8],
    ) -> Result<bool, ChannelError> {
        let requested = match self.reader.read(kind, record)? {
            Control::Nothing => return Ok(false),
            Control::CloseNotify => return Ok(true),
            Control::KeyUpdate { requested } => requested,
        };
        self.tally.key_update()?;
        let schedule = self.schedule.as_mut().ok_or(ChannelError::CannotFollow(Errno::EBUSY))?;
        let keys = RecordKeys::new(0, &schedule.next_rx()?);
        socket.install_rx(&keys).map_err(|errno| match errno {
            Errno::EBUSY => ChannelError::CannotFollow(errno),
            errno => ChannelError::Install(errno),
        })?;
        // However often it asks before we send: one new key answers all (RFC 8446, section 4.6.3).
        self.answer_due |= requested;
        Ok(false)
    }

    /// An application record in the middle of a handshake message is refused.
    ///
    /// # Errors
    /// If there is one.
    pub fn application_data_may_come(&self) -> Result<(), ChannelError> {
        if self.reader.is_inside_message() {
            return Err(ControlError::Unexpected("application data within a handshake message").into());
        }
        Ok(())
    }

    /// Says that a KeyUpdate of the peer waits for our answer.
    #[must_use]
    pub fn owes_answer(&self) -> bool {
        self.answer_due
    }

    /// Ends our direction.
    ///
    /// # Errors
    /// `EAGAIN` while there is no room.
    pub fn close_notify(&mut self, socket: TlsSocket<'_>) -> io::Result<()> {
        socket.send(ContentType::Alert, &encode_alert(AlertDescription::CloseNotify))?;
        self.content += 2;
        self.sequence_bound += 1;
        Ok(())
    }

    /// True when every record is TCP's. Until then a shutdown or close would lose what the kernel's TLS still
    /// holds: it counts neither as sent nor as waiting.
    ///
    /// # Errors
    /// When the socket cannot be asked.
    pub fn is_drained(&self, socket: TlsSocket<'_>) -> io::Result<bool> {
        let records = self.records_before + socket.next_sequence()? - self.first_sequence;
        let given = socket.bytes_given_to_tcp()?.wrapping_sub(self.base);
        Ok(given >= self.content + records * RECORD_OVERHEAD)
    }

    /// Tells the peer why the connection ends, if there is room at once.
    pub fn alert(socket: TlsSocket<'_>, description: AlertDescription) {
        let _too_late = socket.send(ContentType::Alert, &encode_alert(description));
    }
}

fn errno(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}
