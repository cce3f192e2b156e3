//! As much of the shell's grammar as documents use.

use std::iter::Peekable;
use std::str::Chars;

/// The simple commands of a script, each as its words: quotes and comments are gone, here-documents and redirections are left out,
/// and what a command in quotes says (`sh -c '…'`, `vagrant ssh NAME -c '…'`) follows as commands of its own.
#[must_use]
pub fn commands(script: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for words in split(&without_here_documents(script)) {
        let nested = words.iter().position(|word| word == "-c").and_then(|at| words.get(at + 1));
        let nested = nested.filter(|_| !words.iter().any(|word| word == "python3")).cloned();
        all.push(words);
        all.extend(nested.iter().flat_map(|script| commands(script)));
    }
    all
}

/// The commands that run a program, without what stands before its name (`sudo`, `env`, `VARIABLE=…`), the name being the first word.
#[must_use]
pub fn of_program(program: &[&str], commands: &[Vec<String>]) -> Vec<Vec<String>> {
    let bare = |words: &Vec<String>| {
        let before = |word: &&String| {
            let assigns = word.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            });
            assigns
                || ["sudo", "env", "then", "do", "else", "if", "!", "until", "while"].contains(&word.as_str())
        };
        let skipped = words.iter().take_while(before).count();
        let mut words = words.get(skipped..)?.to_vec();
        let name = words.first()?.rsplit('/').next()?.to_owned();
        *words.first_mut()? = name;
        words.iter().zip(program).all(|(word, wanted)| word == wanted).then_some(())?;
        (words.len() >= program.len()).then_some(words)
    };
    commands.iter().filter_map(bare).collect()
}

/// The parts of a script that run by themselves, one after the other: lines, with what they go on with, and their here-documents. A
/// script with an interpreter is one part.
#[must_use]
pub fn chunks(script: &str) -> Vec<String> {
    if script.starts_with("#!") {
        return vec![script.to_owned()];
    }
    let mut all: Vec<String> = Vec::new();
    let mut open = false;
    let mut end: Option<String> = None;
    for line in script.lines() {
        let alone = line.trim().is_empty() || line.trim_start().starts_with('#');
        match all.last_mut().filter(|_| open || end.is_some()) {
            Some(chunk) => chunk.push_str(&format!("\n{line}")),
            None if alone => continue,
            None => all.push(line.to_owned()),
        }
        match &end {
            Some(word) if line.trim() == word => end = None,
            Some(_) => {}
            None => {
                end = here_document(line);
                open = line.ends_with('\\') || line.ends_with('|');
            }
        }
    }
    all
}

/// The word that ends the here-document that this line begins.
fn here_document(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("<<").filter(|(_, rest)| !rest.starts_with('<'))?;
    let word = rest.trim_start_matches('-').split_whitespace().next()?;
    Some(word.trim_matches(['\'', '"']).to_owned())
}

fn without_here_documents(script: &str) -> String {
    let mut out = String::new();
    let mut end: Option<String> = None;
    for line in script.lines() {
        match &end {
            Some(word) if line.trim() == word => end = None,
            Some(_) => {}
            None => {
                end = here_document(line);
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

fn split(script: &str) -> Vec<Vec<String>> {
    let mut reader =
        Reader { rest: script.chars().peekable(), all: Vec::new(), words: Vec::new(), word: None };
    while let Some(c) = reader.rest.next() {
        reader.take(c);
    }
    reader.end_command();
    reader.all
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    all: Vec<Vec<String>>,
    words: Vec<String>,
    word: Option<String>,
}

impl Reader<'_> {
    fn take(&mut self, c: char) {
        match c {
            '\\' => match self.rest.next() {
                Some('\n') | None => {}
                Some(c) => self.push(c),
            },
            '\'' => {
                self.word.get_or_insert_default();
                while let Some(c) = self.rest.next().filter(|c| *c != '\'') {
                    self.push(c);
                }
            }
            '"' => {
                self.word.get_or_insert_default();
                while let Some(c) = self.rest.next().filter(|c| *c != '"') {
                    let c = if c == '\\' { self.rest.next().unwrap_or('\\') } else { c };
                    self.push(c);
                }
            }
            // What it prints is part of a word; what it runs is not looked at.
            '$' if self.rest.peek() == Some(&'(') => {
                self.push('$');
                let mut depth = 0;
                while let Some(c) = self.rest.next() {
                    self.push(c);
                    depth += match c {
                        '(' => 1,
                        ')' => -1,
                        _ => 0,
                    };
                    if depth == 0 {
                        break;
                    }
                }
            }
            '#' if self.word.is_none() => while self.rest.next_if(|c| *c != '\n').is_some() {},
            '>' | '<' => {
                // A number before it belongs to it, and so does the word behind it.
                if self.word.as_ref().is_some_and(|word| word.chars().all(|c| c.is_ascii_digit())) {
                    self.word = None;
                }
                self.end_word();
                while self.rest.next_if(|c| ['>', '<', '&', '-', ' '].contains(c)).is_some() {}
                while self.rest.next_if(|c| !c.is_whitespace() && !";|&)".contains(*c)).is_some() {}
            }
            '\n' | ';' | '|' | '&' | '(' | ')' => self.end_command(),
            c if c.is_whitespace() => self.end_word(),
            c => self.push(c),
        }
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }

    fn end_command(&mut self) {
        self.end_word();
        if !self.words.is_empty() {
            self.all.push(std::mem::take(&mut self.words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_read(script: &str, wanted: &[&[&str]]) {
        assert_eq!(commands(script), wanted.iter().map(|c| c.to_vec()).collect::<Vec<_>>(), "{script}");
    }

    #[test]
    fn words_quotes_and_comments() {
        assert_read("a b # c\n# d\ne 'f g' \"h # i\" j#k\n", &[&["a", "b"], &["e", "f g", "h # i", "j#k"]]);
        assert_read("a \\\n  b\\ c \"d\\\"e\" ''", &[&["a", "b c", "d\"e", ""]]);
        assert_read("a $(b | c) \"$x\"", &[&["a", "$(b | c)", "$x"]]);
    }

    #[test]
    fn what_joins_commands_parts_them_and_redirections_are_left_out() {
        assert_read("a | b && c; (d)\n", &[&["a"], &["b"], &["c"], &["d"]]);
        assert_read("a > file b 2>&1\nc >file <in; d", &[&["a", "b"], &["c"], &["d"]]);
        assert_read("tee x <<'EOF'\nnot: a command\nEOF\nafter", &[&["tee", "x"], &["after"]]);
        assert_read("a <<< 'text'\nc", &[&["a"], &["c"]]);
    }

    #[test]
    fn a_script_has_parts() {
        let parts = chunks("a \\\n b\n# c\n\ntee x <<'E'\n# in\nE\nd | # e\nf |\ng\n");
        assert_eq!(parts, ["a \\\n b", "tee x <<'E'\n# in\nE", "d | # e", "f |\ng"]);
        assert_eq!(chunks("#!/bin/sh\na\nb\n").len(), 1);
    }

    #[test]
    fn a_command_in_quotes_is_read_too() {
        assert_read(
            "vagrant ssh x -c 'sudo a b'",
            &[&["vagrant", "ssh", "x", "-c", "sudo a b"], &["sudo", "a", "b"]],
        );
    }

    #[test]
    fn a_program_is_found_behind_sudo_and_variables_and_by_its_path() {
        let all =
            commands("sudo X=1 /usr/bin/mtlsd list\ncargo xtask demo\nmtlsd\nif ! mtlsd status; then x; fi");
        let words =
            |found: Vec<Vec<String>>| found.into_iter().map(|words| words.join(" ")).collect::<Vec<_>>();
        assert_eq!(words(of_program(&["mtlsd"], &all)), ["mtlsd list", "mtlsd", "mtlsd status"]);
        assert_eq!(words(of_program(&["cargo", "xtask"], &all)), ["cargo xtask demo"]);
    }
}
