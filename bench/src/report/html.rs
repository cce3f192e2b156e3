//! A report as one HTML file that needs nothing else: no script, no font, no other file.

use super::document::{Block, Document, Line, Table};
use super::text;
use super::text::html as escape;

const STYLE: &str = include_str!("report.css");

/// The whole page.
pub fn render(document: &Document) -> String {
    let title = line(&document.title);
    let blocks: Vec<String> =
        document.blocks.iter().enumerate().map(|(number, block)| self::block(number, block)).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{}{}\n</body>\n</html>\n",
        contents(document),
        blocks.join("\n")
    )
}

fn contents(document: &Document) -> String {
    let chapters = document.blocks.iter().enumerate().filter_map(|(number, block)| match block {
        Block::Heading(2, text) => Some(format!("<a href=\"#b{number}\">{}</a>", line(text))),
        _ => None,
    });
    let chapters: Vec<String> = chapters.collect();
    if chapters.is_empty() { String::new() } else { format!("<nav><p>{}</p></nav>\n", chapters.join(" · ")) }
}

fn block(number: usize, block: &Block) -> String {
    match block {
        Block::Heading(level, text) => format!("<h{level} id=\"b{number}\">{}</h{level}>", line(text)),
        Block::Paragraph(text) => format!("<p>{}</p>", line(text)),
        Block::Note(text) => format!("<p class=\"note\"><strong>Note:</strong> {}</p>", line(text)),
        Block::List(items) => {
            let items: String = items.iter().map(|item| format!("<li>{}</li>\n", line(item))).collect();
            format!("<ul>\n{items}</ul>")
        }
        Block::Code(lines) => {
            let lines: Vec<String> = lines.iter().map(|line| escape(line)).collect();
            format!("<pre><code>{}</code></pre>", lines.join("\n"))
        }
        Block::Table(table) => self::table(table),
        Block::Plot(plot) => format!("<figure>\n{}</figure>", plot.svg),
    }
}

fn table(table: &Table) -> String {
    let heads: String = table
        .columns
        .iter()
        .map(|column| format!("<th scope=\"col\"{}>{}</th>", class(column.number), escape(&column.title)))
        .collect();
    let rows: String = table.rows.iter().map(|line| format!("<tr>{}</tr>\n", cells(line, table))).collect();
    format!(
        "<div class=\"wide\"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>"
    )
}

fn cells(line: &Line, table: &Table) -> String {
    let given = line.cells.iter().zip(&table.columns);
    let mut out: String =
        given.map(|(cell, column)| format!("<td{}>{}</td>", class(column.number), breaks(cell))).collect();
    if let Some(reason) = &line.reason {
        let span = table.columns.len().saturating_sub(line.cells.len()).max(1);
        out += &format!("<td class=\"why\" colspan=\"{span}\">{}</td>", escape(reason));
    }
    out
}

fn class(number: bool) -> &'static str {
    if number { " class=\"n\"" } else { "" }
}

fn breaks(text: &str) -> String {
    escape(text).replace('\n', "<br>")
}

fn line(text: &str) -> String {
    escape(&text::line(text))
}

#[cfg(test)]
mod tests {
    use super::super::document::Plot;
    use super::*;

    #[test]
    fn nothing_can_leave_its_place() {
        let hostile = "</td><script>alert('x')</script>\n& \"";
        let mut table = Table::new(&[hostile], &["n"]);
        table.push([hostile.to_owned(), "1".to_owned()]);
        table.push_reason([hostile.to_owned()], hostile);
        let blocks = vec![
            Block::chapter(hostile),
            Block::paragraph(hostile),
            Block::Note(hostile.to_owned()),
            Block::List(vec![hostile.to_owned()]),
            Block::Code(vec![hostile.to_owned()]),
            Block::Table(table),
        ];
        let page = render(&Document { title: hostile.to_owned(), blocks });
        assert!(!page.contains("<script"), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 12, "{page}");
        assert!(page.contains("<td class=\"why\" colspan=\"1\">&lt;/td&gt;"), "{page}");
    }

    #[test]
    fn a_page_needs_no_other_file() {
        let plot = Plot { file: "a.svg".to_owned(), title: "A".to_owned(), svg: "<svg></svg>".to_owned() };
        let page =
            render(&Document { title: "T".to_owned(), blocks: vec![Block::chapter("C"), Block::Plot(plot)] });
        assert!(page.contains("<figure>\n<svg></svg></figure>"));
        assert!(page.contains("<a href=\"#b0\">C</a>"));
        for reference in ["src=", "url(", "@import", "<link", "<script", "a.svg"] {
            assert!(!page.contains(reference), "{reference}");
        }
    }
}
