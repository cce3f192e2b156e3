//! What a capture proves, as a value that can be shown, or what speaks against it.

use crate::wire::{Stream, Traffic};

use super::records::{self, Record};

/// The port of nginx.
pub const PORT: u16 = 80;
/// What the request carries and nobody on the way may read.
pub const SECRET: &str = "tulip-4711";
/// What nginx answers.
pub const ANSWER: &str = "hello from api";

/// A request and its answer as nothing but TLS records.
#[derive(Debug)]
pub struct Sealed<'a> {
    /// The client's first record.
    pub first: Record<'a>,
    /// The client's first record of application data.
    pub data: Record<'a>,
    /// How many records, in words, and how many bytes.
    pub summary: String,
}

/// The first bytes from the client, of a request that went in the clear.
///
/// # Errors
/// Why the capture does not show one.
pub fn readable(traffic: &Traffic) -> Result<&[u8], String> {
    let request = requests(traffic).find(|s| contains(&s.bytes, SECRET));
    let request = request.ok_or("no captured request with the secret in it")?;
    if traffic.find(ANSWER.as_bytes()).is_none() {
        return Err("the request was captured, the answer was not".into());
    }
    Ok(&request.bytes)
}

/// Checks that every byte from and to nginx's port is part of a TLS record, that the server chose TLS 1.3, and that
/// neither the secret nor the answer is anywhere.
///
/// # Errors
/// What speaks against it.
pub fn sealed(traffic: &Traffic) -> Result<Sealed<'_>, String> {
    for marker in [SECRET, ANSWER] {
        if let Some(place) = traffic.find(marker.as_bytes()) {
            return Err(format!("\"{marker}\" was readable in {place}"));
        }
    }
    let mut counts = std::collections::BTreeMap::new();
    let mut bytes = 0;
    for stream in traffic.of_port(PORT) {
        let place = format!("{} -> {}", stream.from, stream.to);
        if stream.beyond_gap > 0 || !stream.from_start {
            return Err(format!("{place}: packets are missing from the capture, so it proves nothing"));
        }
        for record in records::records(&stream.bytes).map_err(|fault| format!("{place}: {fault}"))? {
            *counts.entry(record.kind).or_insert(0_usize) += 1;
        }
        bytes += stream.bytes.len();
    }
    let client = requests(traffic).next().ok_or("no byte of a client was captured: nothing was proved")?;
    let back = |s: &&Stream| (s.from, s.to) == (client.to, client.from);
    let server = traffic.streams.iter().find(back).ok_or("no byte of the server was captured")?;
    match records::chosen_version(&server.bytes) {
        Some(records::TLS13) => {}
        Some(other) => return Err(format!("the server chose version {other:#06x} and not TLS 1.3")),
        None => return Err(format!("the server began with no ServerHello: {}", records::hex(&server.bytes))),
    }
    let mut sent = records::records(&client.bytes)?.into_iter();
    let first = sent.next().filter(|r| r.kind == records::HANDSHAKE).ok_or("no handshake came first")?;
    let data = sent.find(|r| r.kind == records::APPLICATION_DATA).ok_or("no application data followed")?;
    let counted = counts.iter().map(|(kind, count)| format!("{count} {}", records::kind_name(*kind)));
    let summary = format!(
        "{bytes} bytes captured, all of them TLS records: {}",
        counted.collect::<Vec<_>>().join(", ")
    );
    Ok(Sealed { first, data, summary })
}

/// Checks that not one payload byte went from or to nginx's port; gives how many packets were seen at all.
///
/// # Errors
/// What was carried.
pub fn silent(traffic: &Traffic) -> Result<usize, String> {
    if let Some(place) = traffic.find(SECRET.as_bytes()) {
        return Err(format!("\"{SECRET}\" was readable in {place}"));
    }
    if traffic.of_port(PORT).next().is_none() {
        return Err("not even an attempt to connect was captured: nothing was proved".into());
    }
    match traffic.of_port(PORT).find(|s| !s.bytes.is_empty() || s.beyond_gap > 0) {
        Some(s) => Err(format!("{} -> {} carried: {}", s.from, s.to, records::hex(&s.bytes))),
        None => Ok(traffic.frames.len()),
    }
}

fn requests(traffic: &Traffic) -> impl Iterator<Item = &Stream> {
    traffic.streams.iter().filter(|s| s.to.port() == PORT && !s.bytes.is_empty())
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::records::tests::server_hello;
    use super::*;

    const HELLO: &[u8] = b"\x16\x03\x01\0\x02\x01\0";
    const DATA: &[u8] = b"\x17\x03\x03\0\x03xyz";

    fn stream(client: bool, parts: &[&[u8]]) -> Stream {
        let (web, nginx) = ("10.0.0.1:4000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let (from, to) = if client { (web, nginx) } else { (nginx, web) };
        Stream { from, to, bytes: parts.concat(), beyond_gap: 0, from_start: true, ended: true }
    }

    fn traffic(client: &[&[u8]], server: &[&[u8]]) -> Traffic {
        Traffic { frames: Vec::new(), streams: vec![stream(true, client), stream(false, server)] }
    }

    #[test]
    fn a_tls_1_3_conversation_is_sealed_and_shown() {
        let hello = server_hello([3, 4]);
        let traffic = traffic(&[HELLO, DATA], &[&hello, DATA, DATA]);
        let sealed = sealed(&traffic).unwrap();
        assert_eq!((sealed.first.bytes, sealed.data.bytes), (HELLO, DATA));
        assert!(sealed.summary.ends_with("2 handshake, 3 application data"), "{}", sealed.summary);
        assert!(readable(&traffic).is_err());
        assert!(silent(&traffic).unwrap_err().contains("16 03 01"));
    }

    #[test]
    fn whatever_is_not_tls_1_3_through_and_through_is_found() {
        let hello = server_hello([3, 4]);
        let old = server_hello([3, 3]);
        let secret = [DATA, SECRET.as_bytes()].concat();
        for (client, server, fault) in [
            (vec![HELLO, DATA], vec![&hello[..], ANSWER.as_bytes()], "\"hello from api\" was readable"),
            (vec![HELLO, &secret], vec![&hello], "\"tulip-4711\" was readable"),
            (vec![HELLO, DATA, b"plain"], vec![&hello], "no TLS record at byte 15"),
            (vec![HELLO, DATA], vec![&old], "version 0x0303"),
            (vec![HELLO, DATA], vec![DATA], "no ServerHello"),
            (vec![DATA], vec![&hello], "no handshake came first"),
            (vec![HELLO], vec![&hello], "no application data"),
            (vec![], vec![], "nothing was proved"),
        ] {
            let traffic = traffic(&client, &server);
            let seen = sealed(&traffic).unwrap_err();
            assert!(seen.contains(fault), "{fault}: {seen}");
        }
        let mut torn = traffic(&[HELLO, DATA], &[&hello]);
        torn.streams[0].beyond_gap = 1;
        assert!(sealed(&torn).unwrap_err().contains("missing"));
    }

    #[test]
    fn a_plain_request_is_readable_and_is_not_silence() {
        let request = format!("GET / HTTP/1.1\r\nX-Secret: {SECRET}\r\n\r\n");
        let plain = traffic(&[request.as_bytes()], &[ANSWER.as_bytes()]);
        assert_eq!(readable(&plain).unwrap(), request.as_bytes());
        assert!(sealed(&plain).is_err() && silent(&plain).is_err());
        assert!(readable(&traffic(&[request.as_bytes()], &[])).unwrap_err().contains("answer"));
        assert_eq!(silent(&traffic(&[], &[])), Ok(0));
        assert!(silent(&Traffic::default()).unwrap_err().contains("nothing was proved"));
    }
}
