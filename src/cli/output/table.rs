//! Aligned columns, as psql prints them.

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
    terminal_width: Option<usize>,
    stage: Stage,
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
}

impl TableForm {
    pub(super) fn new(schema: SchemaRef, terminal_width: Option<usize>) -> Self {
        TableForm {
            names: schema.fields().iter().map(|field| visible(field.name())).collect(),
            right: schema.fields().iter().map(|field| is_number(field)).collect(),
            terminal_width,
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
            Stage::Printing(widths) => widths.line(&row, &self.right),
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
        let widths = fit(self.widths(&rows), self.terminal_width);
        let mut text = self.header(&widths);
        rows.iter().for_each(|row| text.push_str(&widths.line(row, &self.right)));
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
fn fit(widths: Vec<usize>, terminal_width: Option<usize>) -> Widths {
    let Some(room) = terminal_width else { return Widths { padded: widths, most: None } };
    let line = |most: usize| widths.iter().map(|width| width.min(&most) + 3).sum::<usize>().saturating_sub(1);
    let most = (NARROWEST..=room.max(NARROWEST)).rev().find(|most| line(*most) <= room).unwrap_or(NARROWEST);
    Widths { padded: widths.into_iter().map(|width| width.min(most)).collect(), most: Some(most) }
}

impl Widths {
    fn line(&self, row: &[String], right: &[bool]) -> String {
        let cells = row.iter().zip(&self.padded).zip(right).map(|((cell, width), right)| {
            let cell = self.clip(cell);
            let padding = " ".repeat(width.saturating_sub(cell.width()));
            if *right { format!(" {padding}{cell} ") } else { format!(" {cell}{padding} ") }
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("|").trim_end_matches(' '))
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
fn visible(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    let spell = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(spell).collect()
}
