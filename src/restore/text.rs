//! Plans and reports as people read them.

use std::fmt;

use super::classes::{Class, Counts};
use super::judgement::{OnReject, Rejection};
use super::plan::{Note, Plan, Sample};
use super::report::{Report, TableReport};
use super::undo::{Conflict, OnConflict};
use crate::history::shown_time;
use crate::model::TableName;

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
        if options.quarantined {
            words.truncate(2 + options.tables.len());
            words.push("--quarantined".into());
        }
        if !options.undo.is_empty() {
            words.truncate(2 + options.tables.len());
            let undo: Vec<String> = options.undo.iter().map(ToString::to_string).collect();
            words.extend(["--undo".into(), undo.join(",")]);
            if options.on_conflict != OnConflict::Abort {
                words.extend(["--on-conflict".into(), options.on_conflict.as_str().into()]);
            }
        }
        if let Some(tenant) = &options.tenant {
            words.extend(["--tenant".into(), shell_quoted(tenant)]);
        }
        if let Some((table, key)) = &options.entity {
            words.extend(["--entity".into(), shell_quoted(&table.to_string()), shell_quoted(key)]);
        }
        if options.with_parents {
            words.push("--with-parents".into());
        }
        if options.on_reject != OnReject::Abort {
            words.extend(["--on-reject".into(), options.on_reject.as_str().into()]);
        }
        for map in &options.maps {
            words.extend(["--map".into(), shell_quoted(map)]);
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
        match self.undone.is_empty() {
            true => writeln!(f, "Restore of the database {} to {}", self.database, self.to.description)?,
            false => {
                let undone: Vec<String> = self.undone.iter().map(ToString::to_string).collect();
                writeln!(f, "Undo in the database {} of {}", self.database, undone.join(", "))?;
            }
        }
        writeln!(f)?;
        let total = self.total();
        let rows = self.tables.iter().map(|table| (table.name.to_string(), table.counts));
        write_table(f, ["insert", "update", "delete"], rows.collect(), total)?;
        write_recreated(f, &self.recreated)?;
        for table in self.tables.iter().filter(|table| !table.samples.is_empty()) {
            writeln!(f, "\n{}, for example:", table.name)?;
            table.samples.iter().try_for_each(|sample| write_sample(f, sample))?;
        }
        write_conflicts(f, &self.conflicts)?;
        match self.options.on_conflict {
            OnConflict::Abort if !self.conflicts.is_empty() => writeln!(
                f,
                "To go on: --on-conflict skip (leave those rows), or --on-conflict cascade (undo those transactions too)"
            )?,
            _ => {}
        }
        write_rejections(f, self)?;
        write_notes(f, &self.notes)?;
        if total.rows() == 0 && self.recreated.is_empty() {
            return writeln!(f, "\nNothing to restore: these rows are as they were.");
        }
        if self.is_blocked() {
            return writeln!(f, "\nNothing has been changed, and nothing would be as it stands.");
        }
        writeln!(f, "\nNothing has been changed. To perform this plan:\n  {}", self.command())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        if self.marks.is_none() {
            writeln!(f, "Nothing to restore: these rows are as they were at {}.", self.to)?;
            write_skipped(f, &self.tables)?;
            write_conflicts(f, &self.conflicts)?;
            return write_notes(f, &self.notes);
        }
        let what = match self.undone.len() {
            0 => format!("to {}", self.to),
            1 => "by undoing 1 transaction".to_owned(),
            many => format!("by undoing {many} transactions"),
        };
        writeln!(f, "Restored {} rows {what} in {:.1} s", total.rows(), self.seconds)?;
        writeln!(f)?;
        let counts =
            |table: &TableReport| Counts { insert: table.inserted, update: table.updated, delete: table.deleted };
        let rows = self.tables.iter().map(|table| (table.name.to_string(), counts(table)));
        write_table(f, ["inserted", "updated", "deleted"], rows.collect(), total)?;
        write_recreated(f, &self.recreated)?;
        writeln!(f, "\nEvery row was compared with the archive before the commit.")?;
        for moved in &self.sequences {
            writeln!(f, "Sequence {} moved from {} to {}", moved.sequence, moved.from, moved.to)?;
        }
        for table in self.tables.iter().filter(|table| table.quarantined > 0) {
            let rows = table.quarantined;
            writeln!(f, "{rows} rows of {} are in quarantine (afterimage_quarantine.rows)", table.name)?;
        }
        if self.left_out() > 0 && !self.rejections.is_empty() {
            writeln!(f, "\nForbidden today:")?;
            self.rejections.iter().try_for_each(|rejection| write_rejection(f, rejection))?;
        }
        write_skipped(f, &self.tables)?;
        write_conflicts(f, &self.conflicts)?;
        for table in self.tables.iter().filter(|table| table.kept > 0) {
            writeln!(f, "{} rows of {} could not go, because others refer to them", table.kept, table.name)?;
        }
        if self.tables.iter().any(|table| table.quarantined > 0) {
            writeln!(f, "Once the rule admits them: afterimage restore --quarantined --apply")?;
        }
        for one in &self.not_valid {
            writeln!(
                f,
                "{}: {} is NOT VALID now: it holds for what is written from now on, an update of these rows included",
                one.table, one.name
            )?;
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

fn write_recreated(f: &mut fmt::Formatter<'_>, tables: &[TableName]) -> fmt::Result {
    if tables.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
    writeln!(f, "\nMade again, with all that belongs to them: {}", names.join(", "))
}

fn write_skipped(f: &mut fmt::Formatter<'_>, tables: &[TableReport]) -> fmt::Result {
    for table in tables.iter().filter(|table| table.skipped > 0) {
        writeln!(f, "{} rows of {} stay as later transactions left them", table.skipped, table.name)?;
    }
    Ok(())
}

/// The later transactions that depend on undone ones, the oldest first.
fn write_conflicts(f: &mut fmt::Formatter<'_>, conflicts: &[Conflict]) -> fmt::Result {
    if conflicts.is_empty() {
        return Ok(());
    }
    const SHOWN: usize = 20;
    writeln!(f, "\nLater transactions that depend on it:")?;
    for conflict in conflicts.iter().take(SHOWN) {
        let xid = conflict.xid.map_or(String::new(), |xid| format!(" xid {xid}"));
        let time = conflict.time.map_or(String::new(), |time| format!(", {}", shown_time(time)));
        let (rows, how) = (conflict.rows, conflict.how.as_str());
        writeln!(f, "  {}{xid}{time}: {how}, {rows} of {}", conflict.lsn, conflict.table)?;
    }
    match conflicts.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => writeln!(f, "  and {more} more (--json has all)"),
        _ => Ok(()),
    }
}

/// What forbids rows: the most rows first, each rule with its origin and examples.
fn write_rejections(f: &mut fmt::Formatter<'_>, plan: &Plan) -> fmt::Result {
    if plan.rejections.is_empty() {
        return Ok(());
    }
    writeln!(f, "\nForbidden today:")?;
    for rejection in &plan.rejections {
        write_rejection(f, rejection)?;
    }
    let blocking = plan.blocking();
    match plan.options.on_reject {
        OnReject::Abort => writeln!(
            f,
            "To go on: --on-reject quarantine (these rows into a side table), {}or --map 'column = SQL expression'",
            match blocking.iter().all(|rejection| rejection.can_be_not_valid) {
                true => "--on-reject not-valid (the rules stay, for new rows), ",
                false => "",
            }
        ),
        OnReject::Quarantine => writeln!(f, "These rows go into quarantine."),
        OnReject::NotValid if blocking.is_empty() => writeln!(f, "These rules become NOT VALID."),
        OnReject::NotValid => {
            let names: Vec<String> = blocking.iter().map(|one| format!("{} {}", one.kind.as_str(), one.name)).collect();
            writeln!(f, "These cannot be NOT VALID: {}", names.join(", "))
        }
    }
}

fn write_rejection(f: &mut fmt::Formatter<'_>, rejection: &Rejection) -> fmt::Result {
    let (rows, kind, name) = (rejection.rows, rejection.kind.as_str(), &rejection.name);
    writeln!(f, "  {}: {rows} rows by {kind} {name}", rejection.table)?;
    if let Some(definition) = &rejection.definition {
        writeln!(f, "      {}", one_line(definition, 160))?;
    }
    if let Some(since) = &rejection.since {
        let xid = since.xid.map_or(String::new(), |xid| format!(", xid {xid}"));
        let time = since.time.map_or(String::new(), |time| format!(", {}", shown_time(time)));
        let user = since.user.as_ref().map_or(String::new(), |user| format!(", by {user}"));
        let statement =
            since.statement.as_ref().map_or(String::new(), |text| format!(": {}", one_line(text.trim(), 120)));
        writeln!(f, "      since transaction {}{xid}{time}{user}{statement}", since.lsn)?;
    }
    for sample in &rejection.samples {
        let reason = sample.reason.as_ref().map_or(String::new(), |reason| format!(": {}", one_line(reason, 120)));
        writeln!(f, "      {}{reason}", one_line(&sample.key, 100))?;
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
