//! Markdown.

use std::fmt::Display;

/// A page that grows.
pub(super) struct Page(String);

impl Page {
    /// A page with its title and what it is about.
    pub fn new(title: &str, about: &str) -> Self {
        let mut page = Self(format!("# {title}\n"));
        page.paragraph("<!-- Made by `mtlsd reference`. Change the code, then: MTLSD_BLESS=1 cargo test -p mtls-daemon published_reference -->");
        page.paragraph(about);
        page
    }

    pub fn heading(&mut self, text: impl Display) {
        self.0.push_str(&format!("\n## {text}\n"));
    }

    pub fn paragraph(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    /// A text that is shown as it is.
    pub fn verbatim(&mut self, text: &str) {
        self.0.push_str(&format!("```text\n{text}\n```\n"));
    }

    pub fn table<const N: usize>(&mut self, head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
        self.0.push('\n');
        self.row(head.map(str::to_owned));
        self.row(head.map(|_| "---".to_owned()));
        for row in rows {
            self.row(row);
        }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push_str(&format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | ")));
    }

    pub fn text(self) -> String {
        self.0
    }
}

/// As code.
pub(super) fn code(text: impl Display) -> String {
    format!("`{text}`")
}

/// A doc comment as people read it: one line, and of a link to an item of the code its name.
pub(super) fn plain(text: &str) -> String {
    let mut words = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((item, after)) = link.split_once("`]") else { break };
        let name = item.rsplit("::").next().unwrap_or(item);
        words.push_str(&format!("{before}`{name}`"));
        rest = after;
    }
    words.push_str(rest);
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A text with the end of a sentence.
pub(super) fn sentence(text: &str) -> String {
    let text = text.trim_end_matches('.');
    if text.ends_with('?') { text.to_owned() } else { format!("{text}.") }
}
