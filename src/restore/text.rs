//! Plans and reports as people read them.

use std::fmt;

use super::plan::{Class, Counts, Note, Plan, Sample};
use super::report::Report;

impl Plan {
    /// The command that performs it.
    pub fn command(&self) -> String {
        let options = &self.options;
        let mut words: Vec<String> = vec!["afterimage".into(), "restore".into()];
        words.extend(options.tables.iter().map(|table| shell_quoted(table)));
        words.extend(["--to".into(), shell_quoted(&self.to.point)]);
        if !options.only.is_empty() {
            let only: Vec<&str> = options.only.iter().map(|class| class.as_str()).collect();
            words.extend(["--only".into(), only.join(",")]);
        }
        if let Some(filter) = &options.filter {
            words.extend(["--where".into(), shell_quoted(filter)]);
        }
        words.push("--apply".into());
        words.join(" ")
    }
}

/// Quoted for a shell where it has to be.
fn shell_quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Restore of the database {} to {}", self.database, self.to.description)?;
        writeln!(f)?;
        let total = self.total();
        let rows = self.tables.iter().map(|table| (table.name.to_string(), table.counts));
        write_table(f, ["insert", "update", "delete"], rows.collect(), total)?;
        for table in self.tables.iter().filter(|table| !table.samples.is_empty()) {
            writeln!(f, "\n{}, for example:", table.name)?;
            table.samples.iter().try_for_each(|sample| write_sample(f, sample))?;
        }
        write_notes(f, &self.notes)?;
        if total.rows() == 0 {
            return writeln!(f, "\nNothing to restore: these rows are as they were.");
        }
        writeln!(f, "\nNothing has been changed. To perform this plan:\n  {}", self.command())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        if total.rows() == 0 {
            writeln!(f, "Nothing to restore: these rows are as they were at {}.", self.to)?;
            return write_notes(f, &self.notes);
        }
        writeln!(f, "Restored {} rows to {} in {:.1} s", total.rows(), self.to, self.seconds)?;
        writeln!(f)?;
        let counts = |table: &super::TableReport| Counts {
            insert: table.inserted,
            update: table.updated,
            delete: table.deleted,
        };
        let rows = self.tables.iter().map(|table| (table.name.to_string(), counts(table)));
        write_table(f, ["inserted", "updated", "deleted"], rows.collect(), total)?;
        writeln!(f, "\nEvery row was compared with the archive before the commit.")?;
        for moved in &self.sequences {
            writeln!(f, "Sequence {} moved from {} to {}", moved.sequence, moved.from, moved.to)?;
        }
        for off in &self.triggers {
            writeln!(f, "Triggers of {} did not fire: {}", off.table, off.triggers.join(", "))?;
        }
        if let Some(xid) = self.xid {
            let position = self.lsn.map_or(String::new(), |lsn| format!(", committed before {lsn}"));
            writeln!(f, "Transaction {xid}{position}")?;
        }
        write_notes(f, &self.notes)?;
        if let Some(marks) = &self.marks {
            writeln!(f, "\nThe state before is mark:{}, the state after mark:{}", marks.before, marks.after)?;
        }
        Ok(())
    }
}

fn write_table(
    f: &mut fmt::Formatter<'_>,
    heads: [&str; 3],
    mut rows: Vec<(String, Counts)>,
    total: Counts,
) -> fmt::Result {
    if rows.len() > 1 {
        rows.push(("total".into(), total));
    }
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max("table".len());
    writeln!(f, "{:width$}  {:>12}  {:>12}  {:>12}", "table", heads[0], heads[1], heads[2])?;
    for (name, counts) in rows {
        writeln!(f, "{name:width$}  {:>12}  {:>12}  {:>12}", counts.insert, counts.update, counts.delete)?;
    }
    Ok(())
}

fn write_sample(f: &mut fmt::Formatter<'_>, sample: &Sample) -> fmt::Result {
    const VALUE: usize = 48;
    writeln!(f, "  {:6}  {}", sample.class.remedy(), one_line(&sample.key, 100))?;
    if sample.class == Class::Updated {
        let value = |text: &Option<String>| text.as_deref().map_or("NULL".to_owned(), |text| one_line(text, VALUE));
        for change in &sample.changes {
            writeln!(f, "          {}: {} → {}", change.column, value(&change.now), value(&change.then))?;
        }
    }
    Ok(())
}

/// Values come from rows, so control characters must not reach the terminal.
fn one_line(text: &str, most: usize) -> String {
    let shown: String = text.chars().map(|c| if c.is_control() { '\u{b7}' } else { c }).take(most).collect();
    if text.chars().nth(most).is_some() { shown + "…" } else { shown }
}

fn write_notes(f: &mut fmt::Formatter<'_>, notes: &[Note]) -> fmt::Result {
    if notes.is_empty() {
        return Ok(());
    }
    writeln!(f, "\nNote:")?;
    for note in notes {
        let table = note.table.as_ref().map_or(String::new(), |table| format!("{table}: "));
        let skipped = if note.skipped { "NOT COVERED: " } else { "" };
        writeln!(f, "  {skipped}{table}{}", note.text)?;
    }
    Ok(())
}
