//! What both ends of all connections said, brought together.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::Record;

use super::plan::BASE;

/// What one end said of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Every byte was right, and it ended as it was to end.
    pub whole: bool,
    /// Bytes of the application's that it read.
    pub received: usize,
    /// Otherwise what happened.
    pub what: String,
}

/// The ends by the connections' numbers.
pub type Ends = BTreeMap<u16, End>;

/// Reads a program's output.
///
/// # Panics
/// If a number comes twice, or the program met a stranger.
pub fn read(printed: &str) -> Ends {
    let mut ends = Ends::new();
    for line in printed.lines().filter(|line| !matches!(*line, "ready" | "done")) {
        let (number, end) = parse(line).unwrap_or_else(|| panic!("not a connection's line: {line}"));
        assert!(ends.insert(number, end).is_none(), "twice: {line}");
    }
    ends
}

fn parse(line: &str) -> Option<(u16, End)> {
    let mut words = line.splitn(5, ' ');
    let (number, how, _sent, received) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let what = words.next().unwrap_or_default().to_owned();
    let whole = match how {
        "whole" => true,
        "failed" => false,
        _ => return None,
    };
    Some((number.parse().ok()?, End { whole, received: received.parse().ok()?, what }))
}

/// Checks that each connection was whole at both ends, or that no byte of it was read and a record says why; gives how many
/// were whole.
///
/// # Errors
/// Every connection of which neither holds.
pub fn check(numbers: Range<u16>, client: &Ends, server: &Ends, records: &[Record]) -> Result<usize, String> {
    // Whose end this is it does not know itself: its peer's address was a wrong one.
    let strays = client.iter().chain(server).filter(|(number, _)| !numbers.contains(number));
    let mut wrong: Vec<_> = strays.map(|(number, end)| format!("{number}: nobody's: {end:?}")).collect();
    let mut whole = 0;
    for number in numbers {
        match (client.get(&number), server.get(&number)) {
            (Some(a), Some(b)) if a.whole && b.whole => whole += 1,
            (Some(a), b) if !a.whole && is_refused(a) && b.is_none_or(is_refused) => {
                let source = format!(":{}", BASE + number);
                let of_it = records.iter().filter(|record| record.source().ends_with(&source));
                if !of_it.clone().any(|record| !record.reason().is_empty()) {
                    let records: Vec<_> = of_it.map(|record| record.0.to_string()).collect();
                    wrong.push(format!("{number}: refused without a reason: {a:?} {b:?} {records:?}"));
                }
            }
            (a, b) => wrong.push(format!("{number}: client {a:?}, server {b:?}")),
        }
    }
    if wrong.is_empty() { Ok(whole) } else { Err(wrong.join("\n")) }
}

fn is_refused(end: &End) -> bool {
    !end.whole && end.received == 0 && !end.what.contains("STUCK") && !end.what.contains("WRONG")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(client: &str, server: &str, reason: &str) -> Result<usize, String> {
        let record = Record(json!({ "source": "10.0.0.1:20003", "reason": { "code": reason } }));
        check(3..4, &read(client), &read(server), &[record])
    }

    #[test]
    fn only_whole_at_both_ends_or_refused_with_a_reason_is_right() {
        assert_eq!(checked("ready\n3 whole 5 6\ndone", "3 whole 6 5", ""), Ok(1));
        assert_eq!(checked("3 failed 0 0 ECONNREFUSED", "", "direct_failed"), Ok(0));
        assert_eq!(checked("3 failed 9 0 ECONNRESET", "3 failed 0 0 ECONNABORTED", "direct_failed"), Ok(0));
        for (client, server, reason) in [
            ("3 failed 0 0 ECONNREFUSED", "", ""),
            ("3 failed 0 0 ECONNRESET", "3 failed 0 4 ECONNRESET", "direct_failed"),
            ("3 failed 0 0 STUCK", "", "direct_failed"),
            ("3 failed 0 0 WRONG BYTE 0", "", "direct_failed"),
            ("3 whole 5 6", "3 failed 6 5 EPIPE", "direct_failed"),
            ("3 whole 5 6", "", "direct_failed"),
            ("", "", "direct_failed"),
            ("3 whole 5 6", "3 whole 6 5\n12771 failed 9 0 EPIPE", ""),
        ] {
            assert!(checked(client, server, reason).is_err(), "{client} {server} {reason}");
        }
    }
}
