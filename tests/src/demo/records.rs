//! Reading captured bytes: as hexadecimal, as text, and as TLS records (RFC 8446, 5.1 and 4.1.3).

/// `application_data`.
pub const APPLICATION_DATA: u8 = 23;
/// `handshake`.
pub const HANDSHAKE: u8 = 22;
/// TLS 1.3 as it stands in `supported_versions`.
pub const TLS13: u16 = 0x0304;
/// Bytes that one line of hexadecimal shows.
const SHOWN: usize = 16;
/// Plaintext of 2^14 bytes and at most 256 bytes of expansion.
const MAX_RECORD: usize = 16_384 + 256;

/// One TLS record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Content type.
    pub kind: u8,
    /// With its header.
    pub bytes: &'a [u8],
}

/// Takes a stream apart.
///
/// # Errors
/// What stands where a record should begin or end.
pub fn records(stream: &[u8]) -> Result<Vec<Record<'_>>, String> {
    let mut rest = stream;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let at = stream.len() - rest.len();
        let fault = |what: &str| Err(format!("{what} at byte {at}: {}", hex(rest)));
        let &[kind @ 20..=24, 3, 1 | 3, high, low, ref body @ ..] = rest else {
            return fault("no TLS record");
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_RECORD || body.len() < length {
            return fault("a TLS record that is too large or cut off");
        }
        let (record, next) = rest.split_at(5 + length);
        found.push(Record { kind, bytes: record });
        rest = next;
    }
    Ok(found)
}

/// The version that the server chose: `selected_version` of its ServerHello.
pub fn chosen_version(from_server: &[u8]) -> Option<u16> {
    let records = records(from_server).ok()?;
    let hello = records.first().filter(|record| record.kind == HANDSHAKE)?;
    // Record header, handshake type and length, legacy_version, random.
    let (head, rest) = hello.bytes.split_at_checked(5 + 4 + 2 + 32)?;
    if head.get(5) != Some(&2) {
        return None;
    }
    let (session, rest) = rest.split_first()?;
    // Session id, cipher suite, compression method, length of the extensions.
    let mut rest = rest.get(usize::from(*session) + 2 + 1 + 2..)?;
    while let &[kind_high, kind_low, length_high, length_low, ref body @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([length_high, length_low]));
        let (extension, next) = body.split_at_checked(length)?;
        if (kind_high, kind_low) == (0, 43) {
            return Some(u16::from_be_bytes(extension.try_into().ok()?));
        }
        rest = next;
    }
    None
}

/// The name of a content type.
pub fn kind_name(kind: u8) -> &'static str {
    match kind {
        20 => "change cipher spec",
        21 => "alert",
        HANDSHAKE => "handshake",
        APPLICATION_DATA => "application data",
        _ => "other",
    }
}

/// The first bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(SHOWN).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

/// The same bytes as text, with a dot for what is none.
pub fn text(bytes: &[u8]) -> String {
    let shown = |b: &u8| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' };
    bytes.iter().take(SHOWN).map(shown).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A ServerHello with a session id, key_share (51) and supported_versions (43).
    pub fn server_hello(version: [u8; 2]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([4, 1, 2, 3, 4, 0x13, 0x02, 0]);
        let extensions = [&[0, 51, 0, 3, 9, 9, 9, 0, 43, 0, 2][..], &version].concat();
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let mut hello = vec![2, 0, 0, u8::try_from(body.len()).unwrap()];
        hello.extend(body);
        let mut record = vec![22, 3, 3, 0, u8::try_from(hello.len()).unwrap()];
        record.extend(hello);
        record
    }

    #[test]
    fn a_stream_of_records_is_taken_apart() {
        let stream = [server_hello([3, 4]), b"\x14\x03\x03\0\x01\x01\x17\x03\x03\0\x02ab".to_vec()].concat();
        let kinds: Vec<_> = records(&stream).unwrap().iter().map(|r| kind_name(r.kind)).collect();
        assert_eq!(kinds, ["handshake", "change cipher spec", "application data"]);
        assert_eq!(records(b"").unwrap(), []);
    }

    #[test]
    fn one_plain_byte_among_records_is_found() {
        let plain = records(b"\x17\x03\x03\0\x02abGET / HTTP").unwrap_err();
        assert_eq!(plain, "no TLS record at byte 7: 47 45 54 20 2f 20 48 54 54 50");
        for torn in [&b"\x17\x03\x03\0\x03ab"[..], b"\x17\x03", b"\x17\x03\x03\xff\xff", b"\x17\x02\x03\0\0"]
        {
            assert!(records(torn).is_err(), "{torn:?}");
        }
    }

    #[test]
    fn the_version_is_what_the_server_chose_and_nothing_is_guessed() {
        assert_eq!(chosen_version(&server_hello([3, 4])), Some(TLS13));
        assert_eq!(chosen_version(&server_hello([3, 3])), Some(0x0303));
        let whole = server_hello([3, 4]);
        for end in 0..whole.len() {
            assert_eq!(chosen_version(&whole[..end]), None, "{end}");
        }
        let mut client_hello = whole;
        client_hello[5] = 1;
        assert_eq!(chosen_version(&client_hello), None);
    }

    #[test]
    fn bytes_are_shown_as_hexadecimal_and_text() {
        assert_eq!(hex(b"GET / HTTP/1.1\r\nHost"), "47 45 54 20 2f 20 48 54 54 50 2f 31 2e 31 0d 0a");
        assert_eq!(text(b"GET / HTTP/1.1\r\nHost"), "GET / HTTP/1.1..");
    }
}
