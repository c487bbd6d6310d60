//! What the plan says of a table: samples, and what cannot be covered.

use super::classes::Class;
use super::difference::Difference;
use super::plan::{Change, Note, SAMPLE_LENGTH, Sample, TablePlan};
use super::workspace::Workspace;
use crate::failure::Result;

/// Sample rows of each class.
const SAMPLES: usize = 3;

impl Difference {
    /// What the plan says of the table.
    pub(super) async fn plan(&self, workspace: &Workspace<'_>) -> Result<TablePlan> {
        let mut samples = Vec::new();
        for class in Class::ALL {
            if *self.counts.clone().of(class) > 0 {
                samples.extend(self.samples(workspace, class).await?);
            }
        }
        Ok(TablePlan { name: self.name.clone(), counts: self.counts, skipped: 0, digest: self.digest.clone(), samples })
    }

    async fn samples(&self, workspace: &Workspace<'_>, class: Class) -> Result<Vec<Sample>> {
        let width = self.columns.len();
        let texts = |alias: &str| {
            (0..width).map(|at| format!("left({alias}.c{at}::text, {SAMPLE_LENGTH})")).collect::<Vec<_>>()
        };
        // What differs beyond the length shown must still show as a change.
        let same = (0..width).map(|at| format!("t.c{at}::text IS NOT DISTINCT FROM l.c{at}::text"));
        let columns: Vec<String> = texts("t").into_iter().chain(texts("l")).chain(same).collect();
        let sql = format!(
            "SELECT {} FROM {} AS o LEFT JOIN {} AS t ON t.ctid = o.afterimage_then \
             LEFT JOIN {} AS l ON l.afterimage_tid = o.afterimage_live WHERE o.afterimage_class = '{}' LIMIT {SAMPLES}",
            if columns.is_empty() { "1".to_owned() } else { columns.join(", ") },
            self.operations(),
            self.rows(),
            self.live_rows(),
            class.as_str()
        );
        let rows = workspace.query(&sql, &[]).await?;
        Ok(rows.iter().map(|row| self.sample(class, row)).collect())
    }

    fn sample(&self, class: Class, row: &tokio_postgres::Row) -> Sample {
        let width = self.columns.len();
        let then = |at: usize| row.get::<_, Option<String>>(at);
        let now = |at: usize| row.get::<_, Option<String>>(width + at);
        let same = |at: usize| row.get::<_, bool>(2 * width + at);
        let shown = |at: usize| if class == Class::Inserted { now(at) } else { then(at) };
        let pair = |&at: &usize| format!("{}={}", self.columns[at].name, shown(at).unwrap_or_else(|| "NULL".into()));
        let key: Vec<String> = self.shown_positions().iter().map(pair).collect();
        let changed = (0..width).filter(|&at| class == Class::Updated && !same(at));
        let change = |at: usize| Change { column: self.columns[at].name.clone(), now: now(at), then: then(at) };
        Sample { class, key: key.join(", "), changes: changed.map(change).collect() }
    }

    /// What cannot be covered, and what else to know, where anything is to be done.
    pub(super) fn notes(&self, disable_triggers: bool) -> Vec<Note> {
        let mut notes: Vec<Note> = self.left_out.iter().cloned().collect();
        let written = self.counts.insert + self.counts.update > 0;
        let list = |columns: &[String]| columns.join(", ");
        if written && !self.desired.dropped.is_empty() {
            let text = format!("columns that are gone stay gone: {}", list(&self.desired.dropped));
            notes.push(Note::skipped(&self.name, text));
        }
        if self.counts.insert > 0 && !self.desired.added.is_empty() {
            let text =
                format!("columns added since take their default in inserted rows: {}", list(&self.desired.added));
            notes.push(Note::about(&self.name, text));
        }
        if written && !self.desired.generated.is_empty() {
            let text = format!("columns that PostgreSQL computes anew: {}", list(&self.desired.generated));
            notes.push(Note::about(&self.name, text));
        }
        let objects = self.live.columns.iter().filter(|column| column.names_objects).map(|column| column.name.clone());
        let objects: Vec<String> = objects.collect();
        if written && !objects.is_empty() {
            let text =
                format!("large objects are not archived, and may be gone where these name them: {}", list(&objects));
            notes.push(Note::about(&self.name, text));
        }
        if self.counts.update > 0 && self.compared().len() < self.columns.len() {
            let unset = self.columns.iter().filter(|column| column.insert_only).map(|column| column.name.clone());
            let unset: Vec<String> = unset.collect();
            let text = format!("GENERATED ALWAYS AS IDENTITY, so not set in updated rows: {}", list(&unset));
            notes.push(Note::skipped(&self.name, text));
        }
        if self.live.policies.is_some() {
            let text = "row-level security binds the role: rows that it hides are not compared";
            notes.push(Note::about(&self.name, text));
        }
        if self.counts.rows() > 0 {
            notes.extend(self.trigger_note(disable_triggers));
        }
        notes
    }

    fn trigger_note(&self, disable: bool) -> Option<Note> {
        if self.live.triggers.is_empty() || (disable && self.live.owned) {
            return None;
        }
        let why = if disable { "the role does not own the table" } else { "as asked" };
        let names: Vec<&str> = self.live.triggers.iter().map(|trigger| trigger.name.as_str()).collect();
        Some(Note::about(
            &self.name,
            format!("triggers fire, {why}; what they refuse shows only with --apply: {}", names.join(", ")),
        ))
    }
}
