//! A report as Markdown, of the kind that GitHub and GitLab show.

use super::document::{Block, Document, Line, Table};
use super::text;

/// The whole text.
pub fn render(document: &Document) -> String {
    let mut parts = vec![format!("# {}", inline(&document.title))];
    parts.extend(document.blocks.iter().map(block));
    parts.join("\n\n") + "\n"
}

fn block(block: &Block) -> String {
    match block {
        Block::Heading(level, text) => format!("{} {}", "#".repeat(usize::from(*level)), inline(text)),
        Block::Paragraph(text) => start(&inline(text)),
        Block::Note(text) => format!("> **Note:** {}", inline(text)),
        Block::List(items) => {
            items.iter().map(|item| format!("- {}", start(&inline(item)))).collect::<Vec<_>>().join("\n")
        }
        Block::Code(lines) => code(lines),
        Block::Table(table) => self::table(table),
        Block::Plot(plot) => format!("![{}]({})", inline(&plot.title), plot.file),
    }
}

fn code(lines: &[String]) -> String {
    let body = lines.iter().map(|line| text::clean(line)).collect::<Vec<_>>().join("\n");
    let longest = body.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(3.max(longest + 1));
    format!("{fence}text\n{body}\n{fence}")
}

fn table(table: &Table) -> String {
    let titles: Vec<String> = table.columns.iter().map(|column| cell(&column.title)).collect();
    let rules = table.columns.iter().map(|column| if column.number { "---:" } else { "---" });
    let mut lines = vec![row(titles), row(rules.map(str::to_owned).collect())];
    lines.extend(table.rows.iter().map(|line| row(cells(line, table.columns.len()))));
    lines.join("\n")
}

/// A reason takes the first cell of the figures: Markdown has no cells over several columns.
fn cells(line: &Line, columns: usize) -> Vec<String> {
    let mut cells: Vec<String> = line.cells.iter().chain(&line.reason).map(|text| cell(text)).collect();
    cells.resize(columns, String::new());
    cells
}

fn row(cells: Vec<String>) -> String {
    format!("| {} |", cells.join(" | "))
}

fn cell(text: &str) -> String {
    escape(&text::clean(text)).replace('\n', "<br>")
}

fn inline(text: &str) -> String {
    escape(&text::line(text))
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '$' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// What would begin a list, a heading or a rule at the start of a line is made a letter.
fn start(text: &str) -> String {
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    match text.chars().nth(digits) {
        Some('.' | ')') if digits > 0 => {
            let (number, rest) = text.split_at_checked(digits).unwrap_or((text, ""));
            format!("{number}\\{rest}")
        }
        Some('#' | '-' | '+' | '=') if digits == 0 => format!("\\{text}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let hostile = Block::Paragraph("# a_b *c* [d](e) `f` <g> & h\nnew ~~i~~ $j$ \\".to_owned());
        let escaped = "\\# a\\_b \\*c\\* \\[d\\](e) \\`f\\` &lt;g&gt; &amp; h new \\~\\~i\\~\\~ \\$j\\$ \\\\";
        assert_eq!(block(&hostile), escaped);
        assert_eq!(block(&Block::List(vec!["1. x".to_owned(), "- y".to_owned()])), "- 1\\. x\n- \\- y");
        assert_eq!(block(&Block::paragraph("10 rounds")), "10 rounds");
    }

    #[test]
    fn a_reason_keeps_the_table_in_shape() {
        let mut table = Table::new(&["System"], &["a", "b"]);
        table.push(["plain".to_owned(), "1".to_owned(), "2".to_owned()]);
        table.push_reason(["envoy".to_owned()], "no | <b>\nluck");
        let text = "| System | a | b |\n| --- | ---: | ---: |\n| plain | 1 | 2 |\n\
                    | envoy | no \\| &lt;b&gt;<br>luck |  |";
        assert_eq!(block(&Block::Table(table)), text);
    }

    #[test]
    fn code_cannot_leave_its_fence() {
        let text = block(&Block::Code(vec!["a".to_owned(), "````".to_owned()]));
        assert_eq!(text, "`````text\na\n````\n`````");
    }
}
