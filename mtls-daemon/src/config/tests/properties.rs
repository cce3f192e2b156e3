//! No input makes the parser panic, and what is valid survives being written and read.

use proptest::prelude::*;

use super::super::*;
use super::generate::{config, document};
use super::{EVERYTHING, parse, source};

/// Reads anything and renders the outcome, which must not panic either.
fn read(text: &str) -> Result<Config, String> {
    let as_drop_in = Config::parse(&source("m", "trust_domain: a"), &[source("d", text)]);
    if let Err(error) = as_drop_in {
        assert!(!error.problems.is_empty() && !error.to_string().is_empty());
    }
    parse(text).map_err(|error| {
        assert!(!error.problems.is_empty());
        error.to_string()
    })
}

/// Bits of YAML and of this configuration.
fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(
            EVERYTHING.split_inclusive([' ', '\n', ',', '{', '[', ':']).collect::<Vec<_>>()
        )
        .prop_map(str::to_owned),
        proptest::sample::select(vec![
            "- ",
            ": ",
            "\n",
            "\n  ",
            "{",
            "}",
            "[",
            "]",
            "&a ",
            "*a",
            "<<: ",
            "!!int ",
            "~",
            "'",
            "\"",
            "|\n",
            ">-\n",
            "---\n",
            "...\n",
            "# ",
            "\t",
            "\0",
            "\u{feff}",
            "\u{85}",
            "%YAML 1.2\n",
            "? ",
            "0x",
            "-1",
            ".nan",
            "1e999",
        ])
        .prop_map(str::to_owned),
        ".{0,4}",
    ]
}

/// Shapes that make parsers recurse or work quadratically.
#[test]
fn a_large_hostile_document_costs_bounded_time() {
    let repeat = |text: &str, bytes: usize| text.repeat(bytes / text.len());
    let size = 4 << 20;
    let numbered = |make: fn(usize) -> String| (0..size / 16).map(make).collect::<String>();
    for (name, text) in [
        ("brackets", repeat("[", size)),
        ("braces", repeat("{", size)),
        ("dashes", repeat("- ", size)),
        ("question marks", repeat("? ", size)),
        ("mappings", format!("workloads: {}", repeat("{a: ", size))),
        ("quote", format!("trust_domain: \"{}", repeat("x", size))),
        ("block scalar", format!("trust_domain: |\n{}", repeat(" x\n", size))),
        ("spaces", repeat(" ", size)),
        ("comments", repeat("#\n", size)),
        ("documents", repeat("---\n", size)),
        ("keys", numbered(|n| format!("k{n}: 1\n"))),
        (
            "port keys",
            format!("workloads: [{{ name: w, ports: {{ {} }} }}]", numbered(|n| format!("{n}: strict, "))),
        ),
        ("bad ports", format!("exclude: {{ ports: [{}] }}", numbered(|_| "0,".to_owned()))),
        ("aliases", format!("trust_domain: &a x\ninclude: [{}]", repeat("*a,", size))),
        ("long line", format!("trust_domain: {}", repeat("a", size))),
    ] {
        let start = std::time::Instant::now();
        let refused = read(&text).is_err();
        println!("{name}: {:?}", start.elapsed());
        assert!(refused, "{name}");
        assert!(start.elapsed() < std::time::Duration::from_secs(30), "{name}: {:?}", start.elapsed());
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_fragments_never_panic(parts in proptest::collection::vec(fragment(), 0..60)) {
        let _ = read(&parts.concat());
    }

    #[test]
    fn a_mutated_document_never_panics(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0..12_usize, fragment()), 1..6),
    ) {
        let mut text: Vec<char> = EVERYTHING.chars().collect();
        for (at, remove, insert) in cuts {
            let at = at.index(text.len());
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(error) = read(&text) {
            prop_assert!(error.starts_with("F:"), "{error}");
        }
    }

    #[test]
    fn a_written_configuration_reads_back_equal(config in config()) {
        let document = document(&config);
        let flow = serde_json::to_string(&document).unwrap();
        let block = serde_saphyr::to_string(&document).unwrap();
        for text in [flow, block] {
            let mut read = parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
            (read.files, read.drop_in_directories, read.warnings) = Default::default();
            prop_assert_eq!(&read, &config, "{}", text);
        }
    }

    #[test]
    fn a_name_is_taken_exactly_if_it_has_the_stated_form(name in "[-a-zA-Z0-9._]{0,70}") {
        let inner = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.');
        let edge = |c: Option<char>| c.is_some_and(|c| matches!(c, 'a'..='z' | '0'..='9'));
        let valid = name.len() <= 63
            && name.chars().all(inner)
            && edge(name.chars().next())
            && edge(name.chars().last());
        prop_assert_eq!(super::super::scalar::name(&name).is_ok(), valid);
    }
}
