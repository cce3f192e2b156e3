//! YAML text to a raw document; the parser's errors become [`Fault`]s with a place and a mend.

use serde::de::DeserializeOwned;

use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{Error, Location, MergeKeyPolicy, UserMessageFormatter};

use super::at::Spot;
use super::error::{Fault, Quoted};

/// Enough for some 60,000 rules; a document beyond it is refused before it costs memory.
const MAX_NODES: usize = 2_000_000;
/// The deepest valid document has 8 levels.
const MAX_DEPTH: usize = 32;

/// Parses one document strictly: no unknown or doubled keys, one document, no anchors, aliases, merge
/// keys or tags.
pub(super) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, (Spot, Fault)> {
    let options = serde_saphyr::options! {
        // Aliases are refused altogether: a short file could otherwise expand into gigabytes, and a
        // value's place would not be where it is written.
        budget: serde_saphyr::budget! {
            max_aliases: 0,
            max_anchors: 0,
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_depth: MAX_DEPTH,
            max_documents: 2,
        },
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| translate(text, &error))
}

fn translate(text: &str, error: &Error) -> (Spot, Fault) {
    let location = error.location();
    let spot = match location {
        Some(location) if location.line() > 0 => Spot { line: location.line(), column: location.column() },
        _ => Spot::START,
    };
    (spot, fault(text, location, error))
}

fn fault(text: &str, location: Option<Location>, error: &Error) -> Fault {
    let found = offending(text, location);
    let wrong = |expected: &str| match found.as_str() {
        "" | "null" | "~" => Fault::NoValue(expected.to_owned()),
        found => Fault::WrongType { found: Quoted::new(found), expected: expected.to_owned() },
    };
    match error {
        Error::SerdeUnknownField { field, expected, .. } => Fault::UnknownKey {
            key: Quoted::new(field),
            nearest: nearest(field, expected),
            known: expected.clone(),
        },
        Error::SerdeUnknownVariant { variant, expected, .. }
            if matches!(variant.as_str(), "" | "~" | "null") =>
        {
            Fault::NoValue(format!("one of: {}", expected.join(", ")))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => Fault::UnknownWord {
            word: Quoted::new(variant),
            nearest: nearest(variant, expected),
            known: expected.clone(),
        },
        Error::SerdeMissingField { field, .. } => Fault::MissingKey(field),
        Error::DuplicateMappingKey { key, .. } => {
            Fault::DuplicateKey(Quoted::new(key.as_deref().unwrap_or(&found)))
        }
        Error::MultipleDocuments { .. } => Fault::SecondDocument,
        Error::MergeKeyNotAllowed { .. } => Fault::MergeKey,
        Error::Budget { breach: BudgetBreach::Aliases { .. } | BudgetBreach::Anchors { .. }, .. }
        | Error::UnknownAnchor { .. }
        | Error::AliasError { .. } => Fault::AnchorOrAlias,
        Error::Budget { .. } => Fault::DocumentTooLarge(plain(error)),
        Error::TaggedEnumMismatch { .. } | Error::UnsupportedTag { .. } => Fault::Tag(Quoted::new(&found)),
        // Its place is the key's then.
        Error::SerdeInvalidType { unexpected, expected, .. } if unexpected.contains("unit") => {
            Fault::NoValue(expected.clone())
        }
        Error::SerdeInvalidType { expected, .. } | Error::SerdeInvalidValue { expected, .. } => {
            wrong(expected)
        }
        Error::NullIntoString { .. } => wrong("text"),
        Error::InvalidBooleanStrict { .. } => wrong("true or false"),
        Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => wrong("one word"),
        Error::Unexpected { expected, .. } => wrong(match *expected {
            "sequence start" => "a list",
            "mapping start" => "a mapping (key: value)",
            "string scalar" => "text",
            other => other,
        }),
        other => Fault::Syntax(plain(other)),
    }
}

/// The parser's own words, without its place, on one line.
fn plain(error: &Error) -> String {
    let text = error.render_with_formatter(&UserMessageFormatter);
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The text that the error is about; empty if there is none.
fn offending(text: &str, location: Option<Location>) -> String {
    let byte = |n: Option<u64>| usize::try_from(n?).ok();
    let Some(span) = location.map(|location| location.span()) else { return String::new() };
    let (Some(start), Some(len)) = (byte(span.byte_offset()), byte(span.byte_len())) else {
        return String::new();
    };
    let rest = text.get(start..).unwrap_or_default();
    let slice = rest.get(..len).unwrap_or_default().trim();
    let line = rest.lines().next().unwrap_or_default();
    match slice {
        "[" => "a list".to_owned(),
        "{" => "a mapping".to_owned(),
        // A block list or mapping starts here but has no text of its own; a null's place is the colon.
        "" if line.starts_with("- ") || line == "-" => "a list".to_owned(),
        "" if line.contains(':') && !line.starts_with(':') => "a mapping".to_owned(),
        slice => slice.to_owned(),
    }
}

/// The known word that was probably meant.
fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    // Longer than every known word: not worth the quadratic comparison.
    if word.len() > 40 {
        return None;
    }
    let close = |candidate: &&'static str| {
        let far = distance(word, candidate);
        (far <= 2 && far < candidate.len()).then_some((far, *candidate))
    };
    known.iter().filter_map(close).min().map(|(_, candidate)| candidate)
}

/// Edit distance (Levenshtein) in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let here = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}
