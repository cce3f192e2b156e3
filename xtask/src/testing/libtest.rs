//! Reading what cargo and libtest print. The text form is the only one that stable Rust has.

/// What became of one test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// `ok`
    Passed,
    /// `FAILED`
    Failed,
    /// `ignored`, with the attribute's reason if it has one.
    Ignored(Option<String>),
}

/// The counts of a `test result:` line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub passed: usize,
    pub failed: usize,
    pub ignored: usize,
}

/// What a line of output tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Cargo starts a test program or the documentation tests of a crate.
    Suite(String),
    /// A test came to its end.
    Test { name: String, outcome: Outcome },
    /// Why a test failed: the place and the first line of its first panic.
    Said { name: String, said: String },
    /// The suite came to its end.
    Totals(Totals),
}

/// Reads the output of `cargo test` line by line.
#[derive(Debug, Default)]
pub struct Parser {
    /// A test whose line was cut by output that nobody captured (a child process).
    pending: Option<String>,
    /// Between `failures:` and `test result:` stands captured output, which may look like anything.
    in_failures: bool,
    /// The failed test whose output is being read, and the place of its panic once that was seen.
    failed: Option<(String, Option<String>)>,
}

impl Parser {
    /// One line, without its line end.
    pub fn line(&mut self, line: &str) -> Option<Event> {
        if let Some(suite) = suite(line) {
            *self = Self::default();
            return Some(Event::Suite(suite));
        }
        if let Some(totals) = line.strip_prefix("test result: ").and_then(totals) {
            *self = Self::default();
            return Some(Event::Totals(totals));
        }
        if line == "failures:" {
            self.in_failures = true;
        }
        if self.in_failures {
            return self.said(line);
        }
        if let Some((name, rest)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            let name = name.strip_suffix(" - should panic").unwrap_or(name).to_owned();
            let outcome = outcome(rest);
            self.pending = if outcome.is_none() { Some(name.clone()) } else { None };
            return outcome.map(|outcome| Event::Test { name, outcome });
        }
        // libtest runs single-threaded: the result follows, on a line of its own or behind a child's last words.
        let outcome = match line {
            _ if line.ends_with("FAILED") => Outcome::Failed,
            _ if line.ends_with("ok") => Outcome::Passed,
            _ => return None,
        };
        self.pending.take().map(|name| Event::Test { name, outcome })
    }
}

impl Parser {
    /// A line of what failed tests printed.
    fn said(&mut self, line: &str) -> Option<Event> {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.failed = Some((name.to_owned(), None));
            return None;
        }
        let (name, place) = self.failed.take()?;
        if let Some(place) = place {
            return Some(Event::Said { name, said: format!("{place} {line}") });
        }
        let place = line.starts_with("thread '").then(|| line.split_once(" panicked at ")).flatten();
        self.failed = Some((name, place.map(|(_, place)| place.to_owned())));
        None
    }
}

fn outcome(text: &str) -> Option<Outcome> {
    // `--report-time` appends ` <0.001s>`; a failure may carry ` (time limit exceeded)`.
    let word = text.split([' ', ',']).next().unwrap_or_default();
    match word {
        "ok" => Some(Outcome::Passed),
        "FAILED" => Some(Outcome::Failed),
        "ignored" => Some(Outcome::Ignored(text.strip_prefix("ignored, ").map(str::to_owned))),
        _ => None,
    }
}

/// `     Running unittests src/lib.rs (target/debug/deps/mtls_daemon-0123456789abcdef)` or `   Doc-tests mtls_daemon`.
fn suite(line: &str) -> Option<String> {
    let text = line.strip_prefix("   ")?.trim_start();
    if let Some(name) = text.strip_prefix("Doc-tests ") {
        return Some(format!("{name} documentation"));
    }
    let (source, program) = text.strip_prefix("Running ")?.split_once(" (")?;
    let source = source.strip_prefix("unittests ").unwrap_or(source);
    let (name, hash) = program.strip_suffix(')')?.rsplit('/').next()?.rsplit_once('-')?;
    let is_hash = hash.len() == 16 && hash.chars().all(|c| c.is_ascii_hexdigit());
    is_hash.then(|| format!("{name} {source}"))
}

/// `ok. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.10s`
fn totals(text: &str) -> Option<Totals> {
    let (_, counts) = text.split_once(". ")?;
    let count = |what: &str| {
        counts.split("; ").find_map(|part| part.strip_suffix(what)?.trim_end().parse::<usize>().ok())
    };
    Some(Totals { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
}

/// The tests of `cargo test -- --list --format terse`: (suite, name) pairs.
pub fn listed(output: &str) -> Vec<(String, String)> {
    let mut current = String::new();
    let mut tests = Vec::new();
    for line in output.lines() {
        if let Some(name) = suite(line) {
            current = name;
        } else if let Some(name) = line.strip_suffix(": test") {
            tests.push((current.clone(), name.to_owned()));
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Vec<Event> {
        let mut parser = Parser::default();
        text.lines().filter_map(|line| parser.line(line)).collect()
    }

    fn test(name: &str, outcome: Outcome) -> Event {
        Event::Test { name: name.into(), outcome }
    }

    const OUTPUT: &str = "   Compiling p v0.1.0 (/tmp/p)
    Finished `test` profile [unoptimized + debuginfo] target(s) in 5.31s
     Running unittests src/lib.rs (/tmp/target/debug/deps/mtls_daemon-ae7c778de61e0f5b)

running 5 tests
test tests::a ... ok
test tests::b ... ignored, needs kTLS, or so
test tests::bad ... FAILED
test tests::c ... ignored
test tests::sp - should panic ... ok

failures:

---- tests::bad stdout ----
test tests::faked ... ok
thread 'tests::bad' (16444) panicked at src/lib.rs:5:130:
x

failures:
    tests::bad

test result: FAILED. 2 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.10s

error: test failed, to rerun pass `--lib`
   Doc-tests p

running 1 test
test src/lib.rs - f (line 1) ... ok

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn a_whole_run_is_read() {
        assert_eq!(
            parse(OUTPUT),
            [
                Event::Suite("mtls_daemon src/lib.rs".into()),
                test("tests::a", Outcome::Passed),
                test("tests::b", Outcome::Ignored(Some("needs kTLS, or so".into()))),
                test("tests::bad", Outcome::Failed),
                test("tests::c", Outcome::Ignored(None)),
                test("tests::sp", Outcome::Passed),
                Event::Said { name: "tests::bad".into(), said: "src/lib.rs:5:130: x".into() },
                Event::Totals(Totals { passed: 2, failed: 1, ignored: 2 }),
                Event::Suite("p documentation".into()),
                test("src/lib.rs - f (line 1)", Outcome::Passed),
                Event::Totals(Totals { passed: 1, failed: 0, ignored: 0 }),
            ]
        );
    }

    #[test]
    fn a_result_behind_a_childs_output_is_found() {
        let events = parse("test a ... from child\nno newlineok\ntest b ... more\nFAILED\ntest c ... ok\n");
        assert_eq!(
            events,
            [test("a", Outcome::Passed), test("b", Outcome::Failed), test("c", Outcome::Passed)]
        );
    }

    #[test]
    fn words_that_end_like_results_count_only_for_a_cut_test() {
        assert_eq!(parse("a look\nit FAILED\nok\n"), []);
    }

    #[test]
    fn a_slow_test_is_no_result() {
        assert_eq!(parse("test a has been running for over 60 seconds\n"), []);
    }

    #[test]
    fn times_and_limits_behind_a_result_do_not_matter() {
        let events = parse("test a ... ok <0.100s>\ntest b ... FAILED (time limit exceeded)\n");
        assert_eq!(events, [test("a", Outcome::Passed), test("b", Outcome::Failed)]);
    }

    #[test]
    fn output_that_only_resembles_a_suite_is_none() {
        assert_eq!(parse("     Running the server (on port-80)\nRunning x (a/b-0123456789abcdef)\n"), []);
    }

    #[test]
    fn a_result_line_without_counts_is_none() {
        assert_eq!(parse("test result: ok. all fine\ntest result: \n"), []);
    }

    #[test]
    fn the_list_names_tests_with_their_suites() {
        let text = "     Running tests/http.rs (target/debug/deps/http-0123456789abcdef)\na::b: test\nc: benchmark\n   \
                    Doc-tests p\nsrc/lib.rs - f (line 1): test\nall doctests ran in 0.24s\n";
        assert_eq!(
            listed(text),
            [
                ("http tests/http.rs".to_owned(), "a::b".to_owned()),
                ("p documentation".to_owned(), "src/lib.rs - f (line 1)".to_owned()),
            ]
        );
    }
}
