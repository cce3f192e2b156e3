//! What a report is made of. Markdown and HTML are both rendered from it, so that they cannot differ.

/// A report.
#[derive(Debug, Default)]
pub struct Document {
    /// Above everything.
    pub title: String,
    /// In order.
    pub blocks: Vec<Block>,
}

/// A part of a report. All text is plain: the renderers escape it.
#[derive(Debug)]
pub enum Block {
    /// Level 2 or 3.
    Heading(u8, String),
    /// Running text.
    Paragraph(String),
    /// Something that must not be overlooked.
    Note(String),
    /// One line for each.
    List(Vec<String>),
    /// Lines to be copied as they are.
    Code(Vec<String>),
    /// Figures.
    Table(Table),
    /// A picture.
    Plot(Plot),
}

impl Block {
    /// Running text.
    pub fn paragraph(text: impl Into<String>) -> Self {
        Self::Paragraph(text.into())
    }

    /// A chapter.
    pub fn chapter(text: impl Into<String>) -> Self {
        Self::Heading(2, text.into())
    }

    /// A part of a chapter.
    pub fn section(text: impl Into<String>) -> Self {
        Self::Heading(3, text.into())
    }
}

/// Figures in rows and columns.
#[derive(Debug, Default)]
pub struct Table {
    /// From the left.
    pub columns: Vec<Column>,
    /// From the top.
    pub rows: Vec<Line>,
}

/// The head of a column.
#[derive(Debug, Clone)]
pub struct Column {
    /// What is in it, with the unit.
    pub title: String,
    /// Numbers stand at the right, so that their digits are below each other.
    pub number: bool,
}

/// A row of a table.
#[derive(Debug, Default)]
pub struct Line {
    /// One for each column; if there is a reason, only the first ones.
    pub cells: Vec<String>,
    /// In place of the other cells: why there are no figures.
    pub reason: Option<String>,
}

impl Table {
    /// A table without rows: columns of text, then columns of numbers.
    pub fn new(texts: &[&str], numbers: &[&str]) -> Self {
        let column = |title: &&str, number| Column { title: (*title).to_owned(), number };
        let columns = texts.iter().map(|title| column(title, false));
        Self {
            columns: columns.chain(numbers.iter().map(|title| column(title, true))).collect(),
            rows: vec![],
        }
    }

    /// Adds a row of figures.
    pub fn push<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(Line { cells: cells.into(), reason: None });
    }

    /// Adds a row with a reason in place of figures.
    pub fn push_reason<const N: usize>(&mut self, cells: [String; N], reason: impl Into<String>) {
        self.rows.push(Line { cells: cells.into(), reason: Some(reason.into()) });
    }
}

/// A picture.
#[derive(Debug)]
pub struct Plot {
    /// Its name in the directory of the report.
    pub file: String,
    /// What it shows.
    pub title: String,
    /// The picture itself.
    pub svg: String,
}
