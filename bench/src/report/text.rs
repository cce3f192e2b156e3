//! Text from other programs made fit to print.

/// Characters of a reason that are shown: it may be all that a program printed.
const LONGEST: usize = 2000;

/// Without colours and other control characters of a terminal, which XML forbids too.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.trim().chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_sequence(&mut chars),
            '\n' => out.push('\n'),
            '\r' => {}
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A reason, not longer than anybody reads.
pub fn reason(text: &str) -> String {
    let text = clean(text);
    match text.char_indices().nth(LONGEST).and_then(|(end, _)| text.get(..end)) {
        Some(start) => format!("{start}… (the rest is in the JSON)"),
        None => text,
    }
}

/// Clean text in one line.
pub fn line(text: &str) -> String {
    clean(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The same in one line of at most so many characters.
pub fn short(text: &str, most: usize) -> String {
    let text = line(text);
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// Of `ESC [ 3 1 m` all that is behind the ESC.
fn skip_sequence(chars: &mut std::str::Chars<'_>) {
    let mut ahead = chars.clone();
    if ahead.next() != Some('[') {
        return;
    }
    *chars = ahead;
    while let Some(c) = chars.clone().next() {
        if !matches!(c, ' '..='~') {
            return;
        }
        chars.next();
        if matches!(c, '@'..='~') {
            return;
        }
    }
}

/// Escapes text for HTML, between tags or in an attribute.
pub fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_and_control_characters_go() {
        assert_eq!(clean("\u{1b}[1;31merror\u{1b}[0m: a\tb\u{0}c\r\nnext\u{1b}"), "error: a b c\nnext");
        assert_eq!(clean("\u{1b}[31"), "");
        assert_eq!(clean("\u{1b}[3\u{e9}x"), "\u{e9}x");
        assert_eq!(line("a\n  b\n"), "a b");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(short("relay-userspace", 6), "relay…");
        assert_eq!(short("envoy", 5), "envoy");
        assert_eq!(reason(&"é".repeat(2000)).chars().count(), 2000);
        assert_eq!(html(&"x".repeat(5000)).len(), 5000);
        assert!(reason(&"é".repeat(5000)).ends_with("é… (the rest is in the JSON)"));
    }

    #[test]
    fn html_is_escaped() {
        assert_eq!(html("<b a=\"x\" c='y'>&"), "&lt;b a=&quot;x&quot; c=&#39;y&#39;&gt;&amp;");
    }
}
