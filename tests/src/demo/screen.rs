//! What the person sees: headings, commands, what programs said, and whether each claim holds.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::signals::Interrupt;

/// Columns that a line may take.
const WIDTH: usize = 100;
/// How long a person on a terminal gets to read one step.
const PAUSE: Duration = Duration::from_millis(1500);
/// Of what a program said, the most that a failed step shows.
const MOST_LINES: usize = 12;

/// Why the demonstration ends before its end.
#[derive(Debug)]
pub enum Stop {
    /// SIGINT, SIGTERM or SIGHUP.
    Interrupted,
    /// A claim does not hold.
    Failed(Box<Failure>),
    /// Nobody reads any more.
    Closed(io::Error),
}

/// A claim that does not hold.
#[derive(Debug)]
pub struct Failure {
    /// The claim.
    pub claim: String,
    /// What would have shown that it holds.
    pub expected: String,
    /// What was there.
    pub seen: String,
}

impl Stop {
    /// A claim that does not hold.
    pub fn failed(claim: &str, expected: impl Display, seen: impl Display) -> Self {
        Self::Failed(Box::new(Failure {
            claim: claim.into(),
            expected: expected.to_string(),
            seen: seen.to_string(),
        }))
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Closed(error)
    }
}

/// The style of a piece of text; the number is that of ECMA-48's SGR.
#[derive(Clone, Copy)]
enum Style {
    Bold = 1,
    Dim = 2,
    Red = 31,
    Green = 32,
    Cyan = 36,
}

/// Where everything is printed. Every method fails once the demonstration is interrupted.
pub struct Screen {
    out: Box<dyn Write + Send>,
    colour: bool,
    pauses: bool,
    interrupt: Interrupt,
    checks: usize,
    steps: usize,
}

impl Screen {
    /// Standard output. Colour and pauses only on a terminal; `NO_COLOR` (no-color.org) and `fast` take them away.
    pub fn stdout(fast: bool, interrupt: Interrupt) -> Self {
        let terminal = io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            out: Box::new(io::stdout()),
            colour: terminal && !no_colour,
            pauses: terminal && !fast,
            interrupt,
            checks: 0,
            steps: 0,
        }
    }

    /// How many claims held so far.
    pub fn checks(&self) -> usize {
        self.checks
    }

    /// How many steps were begun so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Begins the next of `of` steps.
    pub fn step(&mut self, of: usize, title: &str) -> Result<(), Stop> {
        if self.steps > 0 {
            self.pause()?;
        }
        self.steps += 1;
        let number = format!("[{}/{of}]", self.steps);
        self.line("")?;
        let line = format!("{} {}", self.styled(Style::Cyan, &number), self.styled(Style::Bold, title));
        self.line(&line)
    }

    /// Plain words.
    pub fn say(&mut self, text: &str) -> Result<(), Stop> {
        for line in wrap(text, WIDTH - 2) {
            self.line(&format!("  {line}"))?;
        }
        Ok(())
    }

    /// A text whose lines are meant as they are: a picture, a configuration.
    pub fn verbatim(&mut self, text: &str) -> Result<(), Stop> {
        for line in text.lines() {
            self.line(&format!("    {}", visible(line)))?;
        }
        Ok(())
    }

    /// A command, as it was run in `place`.
    pub fn command(&mut self, place: &str, argv: &[String]) -> Result<(), Stop> {
        let words: Vec<_> = argv.iter().map(|word| quote(word)).collect();
        let prompt = format!("{place}$ ");
        let lines = wrap(&words.join(" "), WIDTH - 6 - prompt.len());
        for (at, line) in lines.iter().enumerate() {
            let lead = if at == 0 { prompt.clone() } else { " ".repeat(prompt.len()) };
            let more = if at + 1 < lines.len() { " \\" } else { "" };
            let text =
                format!("  {}{}", self.styled(Style::Dim, &lead), self.styled(Style::Bold, &visible(line)));
            self.line(&format!("{text}{more}"))?;
        }
        Ok(())
    }

    /// What a program said, wrapped.
    pub fn said(&mut self, text: &str) -> Result<(), Stop> {
        for said in text.lines() {
            for (at, line) in wrap(&visible(said), WIDTH - 6).into_iter().enumerate() {
                let hang = if at == 0 { "" } else { "  " };
                self.line(&format!("    {hang}{line}"))?;
            }
        }
        Ok(())
    }

    /// Shows that a claim holds, or stops with what was expected and what was seen.
    pub fn check(
        &mut self,
        claim: &str,
        holds: bool,
        expected: impl Display,
        seen: impl Display,
    ) -> Result<(), Stop> {
        if !holds {
            return Err(Stop::failed(claim, expected, seen));
        }
        self.checks += 1;
        let mark = self.styled(Style::Green, "ok");
        for (at, line) in wrap(claim, WIDTH - 5).into_iter().enumerate() {
            let lead = if at == 0 { mark.clone() } else { "  ".into() };
            self.line(&format!("  {lead} {line}"))?;
        }
        Ok(())
    }

    /// Shows a failure. Interrupted or not: this is the last that is said.
    pub fn failure(&mut self, failure: &Failure) -> io::Result<()> {
        let title = self.styled(Style::Red, "FAILED");
        let mut text = format!("\n  {title} {}\n", visible(&failure.claim));
        for (lead, what) in [("expected: ", &failure.expected), ("seen:     ", &failure.seen)] {
            let mut lead = lead.to_owned();
            for part in what.lines().filter(|l| !l.trim().is_empty()).take(MOST_LINES) {
                for line in wrap(&visible(part), WIDTH - 4 - lead.len()) {
                    text.push_str(&format!("    {lead}{line}\n"));
                    lead = " ".repeat(lead.len());
                }
            }
        }
        self.last(&text)
    }

    /// Prints as it is, interrupted or not.
    pub fn last(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// A title in bold, for what is said by [`Screen::last`].
    pub fn bold(&self, text: &str) -> String {
        self.styled(Style::Bold, text)
    }

    fn line(&mut self, text: &str) -> Result<(), Stop> {
        if self.interrupt.happened() {
            return Err(Stop::Interrupted);
        }
        writeln!(self.out, "{}", text.trim_end())?;
        Ok(self.out.flush()?)
    }

    fn pause(&self) -> Result<(), Stop> {
        let end = Instant::now() + PAUSE;
        while self.pauses && Instant::now() < end {
            if self.interrupt.happened() {
                return Err(Stop::Interrupted);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.colour { format!("\x1b[{}m{text}\x1b[0m", style as u8) } else { text.to_owned() }
    }
}

/// Breaks a text at spaces into lines of at most `width` characters. A longer word stands on a line of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    if (1..=width).contains(&text.chars().count()) {
        return vec![text.to_owned()];
    }
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += length;
    }
    if used > 0 {
        lines.push(line);
    }
    lines
}

/// Characters that a terminal would obey are made visible: parts of what is shown come from the other side.
pub fn visible(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let (shown, escaped) =
                if c.is_control() { (None, Some(c.escape_default())) } else { (Some(c), None) };
            shown.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

/// A word as a shell takes it.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%?&[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A screen whose lines can be read.
    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Paper {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
        fn screen(&self, colour: bool) -> Screen {
            let out = Box::new(self.clone());
            Screen { out, colour, pauses: false, interrupt: Interrupt::default(), checks: 0, steps: 0 }
        }
    }

    #[test]
    fn no_line_is_wider_than_100_columns_and_no_word_is_lost() {
        let paper = Paper::default();
        let mut screen = paper.screen(false);
        let words = "lorem ipsum dolor sit amet ".repeat(20);
        let argv: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        screen.step(10, "A title").unwrap();
        screen.say(&words).unwrap();
        screen.said(&words).unwrap();
        screen.command("shop", &argv).unwrap();
        screen.check(&words, true, "", "").unwrap();
        screen.failure(&Failure { claim: "short".into(), expected: words.clone(), seen: words }).unwrap();
        let text = paper.text();
        let widest = text.lines().map(|l| l.chars().count()).max().unwrap();
        assert!(widest <= WIDTH, "{widest}:\n{text}");
        assert_eq!(text.matches("amet").count(), 6 * 20);
        assert!(!text.contains('\x1b'), "no colour was asked for");
    }

    #[test]
    fn a_claim_that_does_not_hold_stops_with_what_was_expected_and_seen() {
        let paper = Paper::default();
        let mut screen = paper.screen(true);
        screen.check("two is two", true, 2, 2).unwrap();
        assert_eq!(screen.checks(), 1);
        let Err(Stop::Failed(failure)) = screen.check("two is three", false, 3, 2) else {
            panic!("it stops")
        };
        screen.failure(&failure).unwrap();
        assert_eq!(screen.checks(), 1);
        let text = paper.text();
        for part in ["\x1b[32mok\x1b[0m two is two", "FAILED", "two is three", "expected: 3", "seen:     2"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn once_interrupted_nothing_more_is_shown() {
        let paper = Paper::default();
        let mut screen = paper.screen(false);
        screen.say("before").unwrap();
        screen.interrupt.set();
        assert!(matches!(screen.say("after"), Err(Stop::Interrupted)));
        assert!(matches!(screen.step(3, "after"), Err(Stop::Interrupted)));
        assert_eq!(paper.text(), "  before\n");
    }

    #[test]
    fn a_closed_pipe_stops_without_a_panic() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut screen = Screen { out: Box::new(Closed), ..Paper::default().screen(false) };
        assert!(matches!(screen.say("hello"), Err(Stop::Closed(_))));
    }

    #[test]
    fn commands_can_be_typed_and_nothing_commands_the_terminal() {
        assert_eq!(quote("X-Secret: tulip"), "'X-Secret: tulip'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote("http://10.77.0.11/"), "http://10.77.0.11/");
        assert_eq!(visible("a\x1b[31m\r"), "a\\u{1b}[31m\\r");
        let paper = Paper::default();
        paper.screen(false).said("\x1b]0;owned\x07").unwrap();
        assert!(!paper.text().contains('\x1b'));
    }
}
