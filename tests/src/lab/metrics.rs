//! Prometheus text, parsed as far as the tests need it, and the small HTTP client that fetches it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::slow;

/// One HTTP/1.1 GET; gives status and body.
///
/// # Errors
/// If the connection fails, stalls for 5 s, or the answer is not HTTP.
pub fn get(to: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&to, slow::limit(2))?;
    stream.set_read_timeout(Some(slow::limit(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(not_http)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(not_http)?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { unchunk(body).ok_or_else(not_http)? } else { body.to_owned() }))
}

fn not_http() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer")
}

fn unchunk(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        body = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}

/// One sample of the exposition.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric's name, with its `_total`, `_bucket` … suffix.
    pub name: String,
    /// Its labels.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// Whether it carries all of `labels`.
    pub fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(k, v)| self.labels.iter().any(|(name, value)| name == k && value == v))
    }
}

/// The sum of the samples named `name` that carry all of `labels`; 0 if there are none.
pub fn sum(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    samples(text).iter().filter(|s| s.name == name && s.has(labels)).map(|s| s.value).sum()
}

/// Every sample of an exposition; lines that are not samples are skipped.
pub fn samples(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inner) => labels(inner)?,
        None => (Vec::new(), rest),
    };
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut found = Vec::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((found, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, other) => value.push(other),
            }
        };
        found.push((name.to_owned(), value));
        text = rest.get(end + 1..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# HELP a_total Things.
# TYPE a_total counter
a_total{reason="plaintext",workload="db"} 2
a_total{reason="plaintext",workload="we\"b,}"} 3.5 1700000000
a_total{reason="idle"} 7
plain 1
"#;

    #[test]
    fn samples_are_summed_over_the_labels_that_are_not_named() {
        assert!((sum(TEXT, "a_total", &[("reason", "plaintext")]) - 5.5).abs() < 1e-9);
        assert!((sum(TEXT, "a_total", &[("workload", "we\"b,}")]) - 3.5).abs() < 1e-9);
        assert!((sum(TEXT, "plain", &[]) - 1.0).abs() < 1e-9);
        assert!(sum(TEXT, "absent", &[]).abs() < 1e-9);
        assert_eq!(samples(TEXT).len(), 4);
    }

    #[test]
    fn chunks_are_joined_and_torn_ones_refused() {
        assert_eq!(unchunk("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n").as_deref(), Some("abcde"));
        assert_eq!(unchunk("9\r\nabc\r\n0\r\n\r\n"), None);
    }
}
