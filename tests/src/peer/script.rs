//! The words of a script.

use std::time::Duration;

/// One step of a script; `Script` in the module's own words: see [`super`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Text in one record.
    Data(String),
    /// Bytes of the direction's pseudo-random stream, in records of a size.
    Send(usize, usize),
    /// That many bytes of the other direction's stream.
    Receive(usize),
    /// Records without content.
    Empty(usize),
    /// Text in one record with padding.
    Padded(usize, String),
    /// Text in records of one byte.
    Tiny(String),
    /// From now on every write is cut into pieces of a size, with pauses; 0: no longer.
    Segments(usize, Duration),
    /// KeyUpdates, with or without a request for the other side's, and new keys after each.
    KeyUpdate(usize, bool),
    /// NewSessionTicket, whole or cut in two records.
    Ticket(bool),
    /// An alert: level and description.
    Alert(u8, u8),
    /// close_notify.
    CloseNotify,
    /// shutdown(SHUT_WR).
    Fin,
    /// The script ends here, with RST.
    Rst,
    /// Text in a record of which one bit is wrong.
    Corrupt(String),
    /// A record of one byte too many.
    Oversize,
    /// An authentic record of a content type that does not exist; 0: without any type, nothing but padding.
    BadType(u8),
    /// The first half of a record.
    Half(String),
    /// An authentic handshake record that holds no such message.
    HandshakeGarbage,
    /// A record of this content type in plaintext.
    Plaintext(u8, String),
    /// An alert in plaintext: level and description.
    PlaintextAlert(u8, u8),
    /// mtlsd's preface that says ready, with text behind it in the same record.
    Preface(String),
    /// The same preface alone, in records of one byte.
    PrefaceTiny,
    /// Exactly this text.
    Expect(String),
    /// The preface that says ready.
    ExpectPreface,
    /// close_notify, and nothing before it.
    ExpectCloseNotify,
    /// An alert of one of these descriptions, and nothing before it.
    ExpectAlert(Vec<u8>),
    /// FIN, and nothing before it.
    ExpectEof,
    /// RST, and nothing before it.
    ExpectRst,
    /// FIN or RST, and nothing before it.
    ExpectEnd,
    /// Writing fails, sooner or later; true: because of RST.
    ExpectBroken(bool),
    /// At least so many KeyUpdates since the start.
    ExpectKeyUpdate(usize),
    /// Nothing for a while.
    Sleep(Duration),
    /// An action that may fail.
    Try(Box<Self>),
}

/// Descriptions of alerts (RFC 8446, section 6) that scripts name.
const ALERTS: [(&str, u8); 8] = [
    ("close_notify", 0),
    ("unexpected_message", 10),
    ("bad_record_mac", 20),
    ("record_overflow", 22),
    ("decode_error", 50),
    ("internal_error", 80),
    ("user_canceled", 90),
    ("certificate_revoked", 44),
];

/// An alert's name, or its number.
pub fn alert_name(description: u8) -> String {
    let known = ALERTS.iter().find(|(_, number)| *number == description);
    known.map_or_else(|| description.to_string(), |(name, _)| (*name).to_owned())
}

fn alert(text: &str) -> Option<u8> {
    let known = ALERTS.iter().find(|(name, _)| *name == text);
    known.map(|(_, number)| *number).or_else(|| text.parse().ok())
}

impl Action {
    /// Reads `name` or `name:ARGUMENTS`; `None` for what is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let words = |text: &str| text.to_owned();
        let number =
            |text: &str, default: usize| if text.is_empty() { Some(default) } else { text.parse().ok() };
        let millis = |text: &str| text.parse().ok().map(Duration::from_millis);
        let pair = || rest.split_once(':').unwrap_or((rest, ""));
        let bare = rest.is_empty();
        Some(match name {
            "data" => Self::Data(words(rest)),
            "send" => Self::Send(pair().0.parse().ok()?, number(pair().1, super::keys::MAX_CONTENT)?.max(1)),
            "receive" => Self::Receive(rest.parse().ok()?),
            "empty" => Self::Empty(number(rest, 1)?),
            "padded" => Self::Padded(pair().0.parse().ok()?, words(pair().1)),
            "tiny" => Self::Tiny(words(rest)),
            "segments" => Self::Segments(pair().0.parse().ok()?, millis(pair().1)?),
            "keyupdate" => Self::KeyUpdate(number(rest, 1)?, false),
            "keyupdate-requested" => Self::KeyUpdate(number(rest, 1)?, true),
            "ticket" if bare => Self::Ticket(false),
            "ticket-fragmented" if bare => Self::Ticket(true),
            "alert" => Self::Alert(pair().0.parse().ok()?, alert(pair().1)?),
            "close-notify" if bare => Self::CloseNotify,
            "fin" if bare => Self::Fin,
            "rst" if bare => Self::Rst,
            "corrupt" => Self::Corrupt(words(rest)),
            "oversize" if bare => Self::Oversize,
            "bad-type" => Self::BadType(rest.parse().ok()?),
            "half" => Self::Half(words(rest)),
            "handshake-garbage" if bare => Self::HandshakeGarbage,
            "plaintext-record" => Self::Plaintext(pair().0.parse().ok()?, words(pair().1)),
            "plaintext-alert" => Self::PlaintextAlert(pair().0.parse().ok()?, alert(pair().1)?),
            "preface" => Self::Preface(words(rest)),
            "preface-tiny" if bare => Self::PrefaceTiny,
            "expect" => Self::Expect(words(rest)),
            "expect-preface" if bare => Self::ExpectPreface,
            "expect-close-notify" if bare => Self::ExpectCloseNotify,
            "expect-alert" => Self::ExpectAlert(rest.split('|').map(alert).collect::<Option<_>>()?),
            "expect-eof" if bare => Self::ExpectEof,
            "expect-rst" if bare => Self::ExpectRst,
            "expect-end" if bare => Self::ExpectEnd,
            "expect-broken" if bare => Self::ExpectBroken(false),
            "expect-broken-by-rst" if bare => Self::ExpectBroken(true),
            "expect-keyupdate" => Self::ExpectKeyUpdate(number(rest, 1)?),
            "sleep" => Self::Sleep(millis(rest)?),
            "try" => Self::Try(Box::new(Self::parse(rest)?)),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_read_with_their_arguments_and_nothing_else_is() {
        let cases = [
            ("data:a:b", Action::Data("a:b".into())),
            ("send:5", Action::Send(5, 16_384)),
            ("send:5:1", Action::Send(5, 1)),
            ("padded:300:x", Action::Padded(300, "x".into())),
            ("segments:1:20", Action::Segments(1, Duration::from_millis(20))),
            ("keyupdate", Action::KeyUpdate(1, false)),
            ("keyupdate-requested:5", Action::KeyUpdate(5, true)),
            ("alert:2:internal_error", Action::Alert(2, 80)),
            ("alert:2:99", Action::Alert(2, 99)),
            ("expect-alert:bad_record_mac|99", Action::ExpectAlert(vec![20, 99])),
            ("try:fin", Action::Try(Box::new(Action::Fin))),
        ];
        for (text, action) in cases {
            assert_eq!(Action::parse(text), Some(action), "{text}");
        }
        for text in
            ["", "fin:now", "send:", "send:x", "sleep", "alert:2:no_such_alert", "try:nothing", "hello"]
        {
            assert_eq!(Action::parse(text), None, "{text}");
        }
    }
}
