//! An open connection whose records are sealed and opened here: keys, KeyUpdate, alerts.

use rustls::AlertDescription;

use super::content::ContentType;
use super::control::{Control, ControlError, Reader, Role, encode_alert, encode_key_update};
use super::error::ChannelError;
use super::open::Opener;
use super::seal::Sealer;
use super::tally::Tally;
use crate::handshake::{KeySchedule, RecordSecrets, Records};

/// Records that one operation makes at most, and a KeyUpdate.
const MARGIN: u64 = 64;

/// What a record of the peer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Data; this many bytes behind the record's header, at least one.
    Data(usize),
    /// Nothing for the application.
    Nothing,
    /// close_notify: the peer's direction has ended.
    End,
}

/// What another carrier of the same connection needs.
pub struct Handed {
    /// Which end this is.
    pub role: Role,
    /// What later keys are derived from.
    pub schedule: KeySchedule,
    /// Next sequence number and key of what we send.
    pub tx: (u64, RecordSecrets),
    /// Next sequence number and key of what we receive.
    pub rx: (u64, RecordSecrets),
}

/// One TLS 1.3 connection after its handshake.
pub struct UserChannel {
    schedule: KeySchedule,
    sealer: Sealer,
    opener: Opener,
    reader: Reader,
    tally: Tally,
    /// Records that one key may protect.
    limit: Option<u64>,
    answer_due: bool,
}

impl UserChannel {
    /// Takes the keys out of rustls. Everything sent and received went through it before.
    ///
    /// # Errors
    /// The connection is lost then.
    pub fn new(records: Records, records_per_key: Option<u64>) -> Result<Self, ChannelError> {
        let Handed { role, schedule, tx, rx } = Handed::of(records)?;
        Ok(Self {
            schedule,
            sealer: Sealer::new(tx.0, &tx.1)?,
            opener: Opener::new(rx.0, &rx.1)?,
            reader: Reader::new(role),
            tally: Tally::default(),
            limit: records_per_key,
            answer_due: false,
        })
    }

    /// For another carrier to go on; see [`UserChannel::is_whole`].
    ///
    /// # Errors
    /// The connection is lost then.
    pub fn hand_over(self) -> Result<Handed, ChannelError> {
        let tx = (self.sealer.sequence(), self.schedule.tx()?);
        let rx = (self.opener.sequence(), self.schedule.rx()?);
        Ok(Handed { role: self.reader.role(), schedule: self.schedule, tx, rx })
    }

    /// Nothing is half said: another carrier may go on.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.answer_due && !self.reader.is_inside_message()
    }

    /// A KeyUpdate is to be sent before anything else: as an answer, or because the key has sealed enough.
    #[must_use]
    pub fn owes_key_update(&self) -> bool {
        self.answer_due || self.limit.is_some_and(|limit| self.sealer.sequence() + MARGIN >= limit)
    }

    /// Gives back what can be made of the secrets again, as soon as somebody speaks: for a connection without traffic.
    pub fn rest(&mut self) {
        self.sealer.cipher.give_back();
        self.opener.cipher.give_back();
    }

    /// Both ciphers were given back.
    #[must_use]
    pub fn is_resting(&self) -> bool {
        [&self.sealer.cipher, &self.opener.cipher].iter().all(|cipher| cipher.get().is_none())
    }

    fn sealer(&mut self) -> Result<&mut Sealer, ChannelError> {
        self.sealer.cipher.fetch(|| self.schedule.tx())?;
        Ok(&mut self.sealer)
    }

    /// Appends a KeyUpdate; what is sealed from now on has the next key.
    ///
    /// # Errors
    /// The connection is lost then.
    pub fn update_key(&mut self, out: &mut Vec<u8>) -> Result<(), ChannelError> {
        self.sealer()?.append(ContentType::Handshake, &encode_key_update(false), out)?;
        self.sealer = Sealer::new(0, &self.schedule.next_tx()?)?;
        self.answer_due = false;
        Ok(())
    }

    /// Makes a record of data, as [`Sealer::seal`].
    ///
    /// # Errors
    /// As [`Sealer::seal`].
    pub fn seal(&mut self, room: &mut [u8]) -> Result<(), ChannelError> {
        self.sealer()?.seal(ContentType::ApplicationData, room)
    }

    /// Appends an alert.
    ///
    /// # Errors
    /// As [`Sealer::seal`].
    pub fn alert(&mut self, description: AlertDescription, out: &mut Vec<u8>) -> Result<(), ChannelError> {
        self.sealer()?.append(ContentType::Alert, &encode_alert(description), out)
    }

    /// Opens one whole record of the peer, in place.
    ///
    /// # Errors
    /// What ends the connection.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Opened, ChannelError> {
        self.opener.cipher.fetch(|| self.schedule.rx())?;
        let (kind, length) = self.opener.open(record)?;
        if kind == ContentType::ApplicationData {
            if self.reader.is_inside_message() {
                return Err(ControlError::Unexpected("application data within a handshake message").into());
            }
            if length == 0 {
                self.tally.empty_record()?;
                return Ok(Opened::Nothing);
            }
            self.tally.data();
            return Ok(Opened::Data(length));
        }
        let content = record.get(super::seal::HEADER..).and_then(|content| content.get(..length));
        match self.reader.read(kind, content.unwrap_or_default())? {
            Control::Nothing => Ok(Opened::Nothing),
            Control::CloseNotify => Ok(Opened::End),
            Control::KeyUpdate { requested } => {
                self.tally.key_update()?;
                self.opener = Opener::new(0, &self.schedule.next_rx()?)?;
                // However often it asks before we send: one new key answers all (RFC 8446, section 4.6.3).
                self.answer_due |= requested;
                Ok(Opened::Nothing)
            }
        }
    }
}

impl Handed {
    /// Takes a connection out of rustls after its handshake.
    ///
    /// # Errors
    /// The connection is lost then.
    pub fn of(records: Records) -> Result<Self, ChannelError> {
        let role = if records.is_client() { Role::Client } else { Role::Server };
        let (secrets, schedule) = records.into_secrets()?;
        let tx = (secrets.tx.0, secrets.tx.1.try_into()?);
        let rx = (secrets.rx.0, secrets.rx.1.try_into()?);
        Ok(Self { role, schedule, tx, rx })
    }
}

#[cfg(test)]
mod tests;
