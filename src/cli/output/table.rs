//! Aligned columns, as psql prints them, wide cells cut or wrapped where there is a width.

use std::borrow::Cow;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::cells::{Cells, is_number, printable};
use super::human;
use crate::failure::Result;

/// So many rows decide the widths; what comes later and is wider sticks out.
const ROWS_FOR_WIDTHS: usize = 1000;

/// No column is made narrower than this to fit a terminal.
const NARROWEST: usize = 8;

#[derive(Debug)]
pub(super) struct TableForm {
    names: Vec<String>,
    right: Vec<bool>,
    fit: Fit,
    stage: Stage,
}

/// What becomes of rows that are wider than so many columns.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fit {
    Whole,
    Cut(usize),
    Wrap(usize),
}

/// Rows are held back until the widths are known.
#[derive(Debug)]
enum Stage {
    Measuring(Vec<Vec<String>>),
    Printing(Widths),
}

/// How wide columns are padded, and how wide a cell may be.
#[derive(Debug)]
struct Widths {
    padded: Vec<usize>,
    most: Option<usize>,
    /// What is wider goes on in the next line.
    wrapped: bool,
}

impl TableForm {
    pub(super) fn new(schema: SchemaRef, fit: Fit) -> Self {
        TableForm {
            names: schema.fields().iter().map(|field| visible(field.name())).collect(),
            right: schema.fields().iter().map(|field| is_number(field)).collect(),
            fit,
            stage: Stage::Measuring(Vec::new()),
        }
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<String> {
        let batch = printable(batch)?;
        let cells = Cells::new(&batch)?;
        let mut text = String::new();
        for row in 0..batch.num_rows() {
            let row = cells.row(row)?.into_iter().map(|cell| visible(&cell.unwrap_or_default())).collect();
            text.push_str(&self.row(row));
        }
        Ok(text)
    }

    fn row(&mut self, row: Vec<String>) -> String {
        match &mut self.stage {
            Stage::Printing(widths) => widths.row(&row, &self.right),
            Stage::Measuring(rows) => {
                rows.push(row);
                if rows.len() < ROWS_FOR_WIDTHS { String::new() } else { self.release() }
            }
        }
    }

    /// The header and the rows held back; nothing where they are out already.
    pub(super) fn release(&mut self) -> String {
        let Stage::Measuring(rows) = &mut self.stage else { return String::new() };
        let rows = std::mem::take(rows);
        let widths = fit(self.widths(&rows), self.fit);
        let mut text = self.header(&widths);
        rows.iter().for_each(|row| text.push_str(&widths.row(row, &self.right)));
        self.stage = Stage::Printing(widths);
        text
    }

    pub(super) fn finish(&mut self, rows: u64) -> String {
        format!("{}({})\n", self.release(), human::rows(rows))
    }

    fn widths(&self, rows: &[Vec<String>]) -> Vec<usize> {
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].width());
            cells.chain([self.names[column].width()]).max().unwrap_or(0)
        };
        (0..self.names.len()).map(width).collect()
    }

    fn header(&self, widths: &Widths) -> String {
        let names = self.names.iter().zip(&widths.padded);
        let names = names.map(|(name, width)| format!(" {} ", centered(&widths.clip(name), *width)));
        let rules = widths.padded.iter().map(|width| "-".repeat(width + 2));
        format!(
            "{}\n{}\n",
            names.collect::<Vec<_>>().join("|").trim_end_matches(' '),
            rules.collect::<Vec<_>>().join("+")
        )
    }
}

/// Shortens the widest columns until a line fits, or every column is as narrow as it may be.
fn fit(widths: Vec<usize>, fit: Fit) -> Widths {
    let (room, wrapped) = match fit {
        Fit::Whole => return Widths { padded: widths, most: None, wrapped: false },
        Fit::Cut(room) => (room, false),
        Fit::Wrap(room) => (room, true),
    };
    let line = |most: usize| widths.iter().map(|width| width.min(&most) + 3).sum::<usize>().saturating_sub(1);
    let most = (NARROWEST..=room.max(NARROWEST)).rev().find(|most| line(*most) <= room).unwrap_or(NARROWEST);
    Widths { padded: widths.into_iter().map(|width| width.min(most)).collect(), most: Some(most), wrapped }
}

impl Widths {
    /// A row in one line, or in several where its cells are wrapped.
    fn row(&self, row: &[String], right: &[bool]) -> String {
        let parts: Vec<Vec<Cow<'_, str>>> = row.iter().map(|cell| self.parts(cell)).collect();
        let lines = parts.iter().map(Vec::len).max().unwrap_or(1);
        (0..lines).map(|line| self.line(&parts, line, right)).collect()
    }

    /// psql has a dot where a cell goes on, and where it went on.
    fn line(&self, parts: &[Vec<Cow<'_, str>>], line: usize, right: &[bool]) -> String {
        let cells = parts.iter().zip(&self.padded).zip(right).map(|((cell, width), right)| {
            let part = cell.get(line).map_or("", AsRef::as_ref);
            let padding = " ".repeat(width.saturating_sub(part.width()));
            let begin = if line > 0 && line < cell.len() { '.' } else { ' ' };
            let end = if line + 1 < cell.len() { '.' } else { ' ' };
            if *right { format!("{begin}{padding}{part}{end}") } else { format!("{begin}{part}{padding}{end}") }
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("|").trim_end_matches(' '))
    }

    fn parts<'a>(&self, cell: &'a str) -> Vec<Cow<'a, str>> {
        match self.most {
            Some(most) if self.wrapped && cell.width() > most => wrapped(cell, most),
            _ => vec![self.clip(cell)],
        }
    }

    fn clip<'a>(&self, cell: &'a str) -> Cow<'a, str> {
        match self.most {
            Some(most) if cell.width() > most => clipped(cell, most).into(),
            _ => cell.into(),
        }
    }
}

fn centered(text: &str, width: usize) -> String {
    let missing = width.saturating_sub(text.width());
    format!("{}{text}{}", " ".repeat(missing / 2), " ".repeat(missing - missing / 2))
}

/// Pieces of a text that are no wider than this.
fn wrapped(text: &str, width: usize) -> Vec<Cow<'_, str>> {
    let (mut parts, mut from, mut taken) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        let needed = c.width().unwrap_or(0);
        if taken + needed > width && at > from {
            parts.push(Cow::from(&text[from..at]));
            (from, taken) = (at, 0);
        }
        taken += needed;
    }
    parts.push(Cow::from(&text[from..]));
    parts
}

fn clipped(text: &str, width: usize) -> String {
    let mut room = width.saturating_sub(1);
    let kept = text.chars().take_while(|c| {
        let needed = c.width().unwrap_or(0);
        let fits = needed <= room;
        room = room.saturating_sub(needed);
        fits
    });
    kept.chain(['…']).collect()
}

/// Control characters are spelled out: a cell is one line, and no value can command the terminal.
pub(super) fn visible(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let spell = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(spell).collect()
}
