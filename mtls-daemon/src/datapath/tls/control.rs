//! What a peer may still say after the handshake that is not application data (RFC 8446, sections 4.6 and 6).

use rustls::AlertDescription;

use super::content::ContentType;

/// Handshake message types (RFC 8446, section 4).
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// Type and length.
const HEADER: usize = 4;

/// Which end of the TLS connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It opened the connection.
    Client,
    /// It accepted the connection.
    Server,
}

/// What a control record means for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Nothing.
    Nothing,
    /// The peer's direction has ended, all of it was received.
    CloseNotify,
    /// The peer seals with its next key from now on.
    KeyUpdate {
        /// And wants us to do the same.
        requested: bool,
    },
}

/// The peer broke the protocol, or says that we did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// A fatal alert.
    #[error("the peer sent the fatal alert {0:?}")]
    Alert(AlertDescription),
    /// A message that may not come now.
    #[error("the peer sent {0}, which may not come after the handshake")]
    Unexpected(&'static str),
    /// A message that cannot be decoded.
    #[error("the peer sent {0} that cannot be decoded")]
    Malformed(&'static str),
}

impl ControlError {
    /// What the peer is told; `None` when it has said so itself.
    #[must_use]
    pub fn alert(self) -> Option<AlertDescription> {
        match self {
            Self::Alert(_) => None,
            Self::Unexpected(_) => Some(AlertDescription::UnexpectedMessage),
            Self::Malformed(_) => Some(AlertDescription::DecodeError),
        }
    }
}

/// Reads control records. Session tickets are passed over, so that no message is ever kept.
#[derive(Debug)]
pub struct Reader {
    role: Role,
    header: [u8; HEADER],
    header_length: usize,
    /// What is left of a ticket that goes on in the next record.
    skip: usize,
}

impl Reader {
    /// For one end of a connection.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self { role, header: [0; HEADER], header_length: 0, skip: 0 }
    }

    /// Which end it reads for.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// True in the middle of a message: nothing else may come before its rest (RFC 8446, section 5.1).
    #[must_use]
    pub fn is_inside_message(&self) -> bool {
        self.header_length > 0 || self.skip > 0
    }

    /// Reads one record that is not application data.
    ///
    /// # Errors
    /// After one the connection is of no more use.
    pub fn read(&mut self, kind: ContentType, record: &[u8]) -> Result<Control, ControlError> {
        match kind {
            ContentType::Handshake => self.handshake(record),
            _ if self.is_inside_message() => Err(ControlError::Unexpected("half a handshake message")),
            ContentType::Alert => alert(record),
            ContentType::ApplicationData => Ok(Control::Nothing),
            ContentType::Other(_) => Err(ControlError::Unexpected("a record of an unknown type")),
        }
    }

    fn handshake(&mut self, mut record: &[u8]) -> Result<Control, ControlError> {
        if record.is_empty() {
            return Err(ControlError::Unexpected("an empty handshake record"));
        }
        while let Some((first, rest)) = record.split_first() {
            if self.skip > 0 {
                let skipped = self.skip.min(record.len());
                self.skip -= skipped;
                record = record.get(skipped..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.header.get_mut(self.header_length) {
                *place = *first;
                self.header_length += 1;
                record = rest;
            }
            if self.header_length < HEADER {
                continue;
            }
            self.header_length = 0;
            let [kind, a, b, c] = self.header;
            let length = u32::from_be_bytes([0, a, b, c]);
            match (kind, self.role) {
                (NEW_SESSION_TICKET, Role::Client) => {
                    self.skip = usize::try_from(length).unwrap_or(usize::MAX)
                }
                (KEY_UPDATE, _) => return key_update(length, record),
                (NEW_SESSION_TICKET, Role::Server) => {
                    return Err(ControlError::Unexpected("a session ticket from a client"));
                }
                _ => return Err(ControlError::Unexpected("a handshake message")),
            }
        }
        Ok(Control::Nothing)
    }
}

/// A KeyUpdate ends its record, because the next one has another key (RFC 8446, section 5.1).
fn key_update(length: u32, body: &[u8]) -> Result<Control, ControlError> {
    match (length, body) {
        (1, [0]) => Ok(Control::KeyUpdate { requested: false }),
        (1, [1]) => Ok(Control::KeyUpdate { requested: true }),
        (1, [_, _, ..]) => Err(ControlError::Unexpected("a message behind a KeyUpdate in one record")),
        _ => Err(ControlError::Malformed("a KeyUpdate")),
    }
}

/// All alerts are fatal except these two (RFC 8446, section 6); the level means nothing.
fn alert(record: &[u8]) -> Result<Control, ControlError> {
    match record {
        [_, description] => match AlertDescription::from(*description) {
            AlertDescription::CloseNotify => Ok(Control::CloseNotify),
            AlertDescription::UserCanceled => Ok(Control::Nothing),
            fatal => Err(ControlError::Alert(fatal)),
        },
        _ => Err(ControlError::Malformed("an alert")),
    }
}

/// A KeyUpdate message: our next record has our next key.
#[must_use]
pub fn encode_key_update(request: bool) -> [u8; 5] {
    [KEY_UPDATE, 0, 0, 1, u8::from(request)]
}

/// An alert: close_notify is a warning, all others are fatal.
#[must_use]
pub fn encode_alert(description: AlertDescription) -> [u8; 2] {
    let level = if description == AlertDescription::CloseNotify { 1 } else { 2 };
    [level, u8::from(description)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: ContentType = ContentType::Handshake;

    fn client() -> Reader {
        Reader::new(Role::Client)
    }

    fn ticket(length: usize) -> Vec<u8> {
        let mut message = vec![NEW_SESSION_TICKET];
        message.extend(&u32::try_from(length).unwrap().to_be_bytes()[1..]);
        message.resize(HEADER + length, 7);
        message
    }

    #[test]
    fn alerts_end_the_connection_cleanly_or_not() {
        let read = |record: &[u8]| client().read(ContentType::Alert, record);
        assert_eq!(read(&[1, 0]), Ok(Control::CloseNotify));
        assert_eq!(read(&[2, 0]), Ok(Control::CloseNotify), "the level means nothing");
        assert_eq!(read(&[1, 90]), Ok(Control::Nothing));
        assert_eq!(read(&[1, 20]), Err(ControlError::Alert(AlertDescription::BadRecordMac)));
        for record in [&[][..], &[1], &[1, 0, 1, 0]] {
            let error = read(record).unwrap_err();
            assert_eq!(error.alert(), Some(AlertDescription::DecodeError), "{error}");
        }
        assert_eq!(ControlError::Alert(AlertDescription::BadRecordMac).alert(), None);
    }

    #[test]
    fn key_updates_are_understood_whole_or_in_pieces_and_only_at_the_end_of_a_record() {
        assert_eq!(
            client().read(HANDSHAKE, &encode_key_update(false)),
            Ok(Control::KeyUpdate { requested: false })
        );
        assert_eq!(
            client().read(HANDSHAKE, &encode_key_update(true)),
            Ok(Control::KeyUpdate { requested: true })
        );
        let mut reader = client();
        assert_eq!(reader.read(HANDSHAKE, &[24, 0]), Ok(Control::Nothing));
        assert!(reader.is_inside_message());
        assert_eq!(reader.read(HANDSHAKE, &[0, 1, 1]), Ok(Control::KeyUpdate { requested: true }));
        assert!(!reader.is_inside_message());
        for (record, alert) in [
            (&[24, 0, 0, 1, 2][..], AlertDescription::DecodeError),
            (&[24, 0, 0, 2, 0, 0], AlertDescription::DecodeError),
            (&[24, 0, 0, 0], AlertDescription::DecodeError),
            (&[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], AlertDescription::UnexpectedMessage),
        ] {
            assert_eq!(client().read(HANDSHAKE, record).unwrap_err().alert(), Some(alert), "{record:?}");
        }
    }

    #[test]
    fn tickets_are_passed_over_however_they_are_cut() {
        let two = [ticket(300), ticket(0), ticket(5)].concat();
        for cut in 1..two.len() {
            let mut reader = client();
            for piece in two.chunks(cut) {
                assert_eq!(reader.read(HANDSHAKE, piece), Ok(Control::Nothing));
            }
            assert!(!reader.is_inside_message(), "cut at {cut}");
        }
        let together = [ticket(9), encode_key_update(true).to_vec()].concat();
        assert_eq!(client().read(HANDSHAKE, &together), Ok(Control::KeyUpdate { requested: true }));
    }

    #[test]
    fn what_may_not_come_is_refused() {
        let unexpected = |result: Result<Control, ControlError>| {
            assert_eq!(result.unwrap_err().alert(), Some(AlertDescription::UnexpectedMessage));
        };
        unexpected(Reader::new(Role::Server).read(HANDSHAKE, &ticket(3)));
        unexpected(client().read(HANDSHAKE, &[1, 0, 0, 0]));
        unexpected(client().read(HANDSHAKE, &[]));
        unexpected(client().read(ContentType::Other(20), &[1]));
        let mut reader = client();
        reader.read(HANDSHAKE, &ticket(9)[..6]).unwrap();
        unexpected(reader.read(ContentType::Alert, &[1, 0]));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            records in proptest::collection::vec((0..30_u8, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40)), 0..9)
        ) {
            for role in [Role::Client, Role::Server] {
                let mut reader = Reader::new(role);
                for (kind, bytes) in &records {
                    let _ = reader.read(ContentType::from(*kind), bytes);
                }
            }
        }
    }
}
