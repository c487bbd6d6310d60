//! Live rows against the rows of the point, set by set in SQL.
//!
//! Rows are compared as the text of a whole record, which every type's own output function writes: json
//! keeps its blanks, floats their last digit, numerics their scale, and NULL differs from an empty text.

use super::Goal;
use super::catalog::LiveTable;
use super::desired::{Desired, Matching, Shared};
use super::expected;
use super::mapping;
use super::objection;
use super::plan::{Change, Class, Counts, Note, SAMPLE_LENGTH, Sample, TablePlan};
use super::quarantine;
use super::workspace::{Mode, Workspace};
use crate::failure::Result;
use crate::model::{TableName, quote_identifier};

/// How one table differs; its temporary tables live as long as the transaction.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) index: usize,
    pub(super) name: TableName,
    pub(super) live: LiveTable,
    pub(super) columns: Vec<Shared>,
    pub(super) matching: Matching,
    pub(super) counts: Counts,
    digest: String,
    /// Rows that somebody has written since the archive's last look at them.
    pub(super) changed_lately: u64,
    /// What was left out on the way.
    left_out: Option<Note>,
    desired: Desired,
}

/// Sample rows of each class.
const SAMPLES: usize = 3;

impl Difference {
    /// Compares; in [`Mode::Change`] the live rows are locked first.
    pub(super) async fn find(workspace: &Workspace<'_>, desired: Desired) -> Result<Difference> {
        let mut difference = Difference::of(desired);
        workspace.execute(&difference.live_sql(workspace.mode)).await?;
        workspace.execute(&format!("ANALYZE {}", difference.live_rows())).await?;
        workspace.execute(&difference.difference_sql(&workspace.request.only)).await?;
        if let Some(filter) = &workspace.request.filter {
            difference.filter(workspace, filter).await?;
        }
        if workspace.request.goal == Goal::Quarantined {
            difference.left_out = quarantine::leave_out_changed(workspace, &difference).await?;
        }
        difference.changed_lately = expected::leave_out_changed(workspace, &difference).await?;
        mapping::map(workspace, &difference).await?;
        workspace.execute(&format!("ANALYZE {}", difference.operations())).await?;
        difference.recount(workspace).await?;
        Ok(difference)
    }

    fn of(desired: Desired) -> Difference {
        Difference {
            index: desired.index,
            name: desired.name.clone(),
            live: desired.live.clone(),
            columns: desired.columns.clone(),
            matching: desired.matching.clone(),
            counts: Counts::default(),
            digest: String::new(),
            changed_lately: 0,
            left_out: None,
            desired,
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests(desired: Desired) -> Difference {
        Difference::of(desired)
    }

    /// The temporary table of the rows of the point, columns `c0`, `c1`, ….
    pub(super) fn rows(&self) -> String {
        self.desired.rows()
    }

    /// The temporary table of the live rows under the same keys: `afterimage_tid`, then columns `c0`, `c1`, ….
    pub(super) fn live_rows(&self) -> String {
        format!("pg_temp.afterimage_live_{}", self.index)
    }

    /// The temporary table of what is to be done: `afterimage_class`, `afterimage_then` (row of the point) and `afterimage_live`
    /// (live row) by their places.
    pub(super) fn operations(&self) -> String {
        format!("pg_temp.afterimage_operations_{}", self.index)
    }

    /// The temporary table of the operations that a constraint forbids: `operation` (its place), `kind`, `name`, `reason`, and
    /// whether it `falls` for that.
    pub(super) fn rejected(&self) -> String {
        format!("pg_temp.afterimage_rejected_{}", self.index)
    }

    /// The temporary table of what the live rows must be equal to.
    pub(super) fn expected_rows(&self) -> String {
        self.desired.expected_rows()
    }

    pub(super) fn has_expected_rows(&self) -> bool {
        self.desired.expects
    }

    /// Whether the rows of the point have texts and objections besides values.
    pub(super) fn read_as_text(&self) -> bool {
        self.desired.as_text
    }

    /// The types that the texts of the columns are of.
    pub(super) fn types(&self) -> &[String] {
        &self.desired.types
    }

    /// Whether rows find each other by a column.
    pub(super) fn matched_by(&self, at: usize) -> bool {
        matches!(&self.matching, Matching::Key(parts) if parts.iter().any(|part| part.0 == at))
    }

    /// The columns by which rows find each other, where it is not all of them.
    pub(super) fn matched_columns(&self) -> Vec<String> {
        match &self.matching {
            Matching::Key(parts) => parts.iter().map(|part| self.columns[part.0].name.clone()).collect(),
            Matching::WholeRow => Vec::new(),
        }
    }

    /// What a sample shows of a row: its key, or its first columns.
    pub(super) fn shown_positions(&self) -> Vec<usize> {
        match &self.matching {
            Matching::Key(parts) => parts.iter().map(|part| part.0).collect(),
            Matching::WholeRow => (0..self.columns.len().min(4)).collect(),
        }
    }

    /// The text of a record of the columns at these positions, of a temporary table.
    pub(super) fn staged_text(&self, alias: &str, positions: &[usize]) -> String {
        let columns: Vec<String> = positions.iter().map(|at| format!("{alias}.c{at}")).collect();
        format!("ROW({})::text", columns.join(", "))
    }

    /// The same of the live table.
    pub(super) fn live_text(&self, alias: &str, positions: &[usize]) -> String {
        let columns: Vec<String> =
            positions.iter().map(|&at| format!("{alias}.{}", quote_identifier(&self.columns[at].name))).collect();
        format!("ROW({})::text", columns.join(", "))
    }

    /// Positions of the columns that decide whether rows are equal: those that an update can make so.
    pub(super) fn compared(&self) -> Vec<usize> {
        let whole = self.matching == Matching::WholeRow;
        (0..self.columns.len()).filter(|&at| whole || self.matched_by(at) || !self.columns[at].insert_only).collect()
    }

    pub(super) fn live_sql(&self, mode: Mode) -> String {
        let mut columns = vec!["l.ctid AS afterimage_tid".to_owned()];
        let others: Vec<String> =
            self.desired.added.iter().map(|name| format!("l.{}", quote_identifier(name))).collect();
        columns.push(format!("ROW({})::text AS afterimage_rest", others.join(", ")));
        let shared = self.columns.iter().enumerate();
        columns.extend(shared.map(|(at, column)| format!("l.{} AS c{at}", quote_identifier(&column.name))));
        let condition = if self.desired.everything { String::new() } else { self.concerned() };
        let lock = if mode == Mode::Change { " FOR UPDATE OF l" } else { "" };
        format!(
            "CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {} FROM ONLY {} AS l{condition}{lock}",
            self.live_rows(),
            columns.join(", "),
            self.name.to_sql()
        )
    }

    /// The condition that a live row is under one of the keys that changed.
    fn concerned(&self) -> String {
        let keys = self.desired.keys();
        match &self.matching {
            Matching::Key(parts) => {
                let equal = parts.iter().enumerate().map(|(key, (at, equals))| {
                    format!("l.{} {equals} k.k{key}", quote_identifier(&self.columns[*at].name))
                });
                let equal: Vec<String> = equal.collect();
                format!(" WHERE EXISTS (SELECT FROM {keys} AS k WHERE {})", equal.join(" AND "))
            }
            Matching::WholeRow => {
                let of_keys: Vec<String> = (0..self.desired.key_columns.len()).map(|key| format!("k.k{key}")).collect();
                let live = self.live_text("l", &self.desired.key_columns);
                format!(" WHERE {live} IN (SELECT ROW({})::text FROM {keys} AS k)", of_keys.join(", "))
            }
        }
    }

    pub(super) fn difference_sql(&self, only: &[Class]) -> String {
        let join = match &self.matching {
            Matching::Key(parts) => self.join_by_key(parts),
            Matching::WholeRow => self.join_by_text(),
        };
        let classes: Vec<String> = only.iter().map(|class| format!("'{}'", class.as_str())).collect();
        let only = if only.is_empty() { String::new() } else { format!(" AND d.class IN ({})", classes.join(", ")) };
        format!(
            "CREATE TEMPORARY TABLE {operations} ON COMMIT DROP AS \
             SELECT d.class AS afterimage_class, d.place AS afterimage_then, d.live AS afterimage_live, \
             pg_catalog.hashtextextended(d.class || COALESCE('>' || d.then_text, '') || COALESCE('<' || d.live_text || d.rest, ''), 0) \
             AS afterimage_hash \
             FROM (SELECT *, CASE WHEN j.live IS NULL THEN 'deleted' WHEN j.place IS NULL THEN 'inserted' \
             ELSE 'updated' END AS class FROM ({join}) AS j) AS d \
             WHERE d.then_text IS DISTINCT FROM d.live_text{only}",
            operations = self.operations()
        )
    }

    fn join_by_key(&self, parts: &[(usize, String)]) -> String {
        let on: Vec<String> = parts.iter().map(|(at, equals)| format!("t.c{at} {equals} l.c{at}")).collect();
        let compared = self.compared();
        format!(
            "SELECT t.ctid AS place, l.afterimage_tid AS live, l.afterimage_rest AS rest, \
             CASE WHEN t.ctid IS NOT NULL THEN {then} END AS then_text, \
             CASE WHEN l.afterimage_tid IS NOT NULL THEN {live} END AS live_text \
             FROM {rows} AS t FULL JOIN {live_rows} AS l ON {on}",
            then = self.staged_text("t", &compared),
            live = self.staged_text("l", &compared),
            rows = self.rows(),
            live_rows = self.live_rows(),
            on = on.join(" AND ")
        )
    }

    /// Of rows that are equal, the first meets the first, the second the second.
    fn join_by_text(&self) -> String {
        let compared = self.compared();
        let numbered = |table: &str, place: &str, rest: &str| {
            let text = self.staged_text("s", &compared);
            format!(
                "(SELECT s.{place} AS place, {rest} AS rest, {text} AS row_text, \
                 row_number() OVER (PARTITION BY {text} ORDER BY s.{place}) AS copy FROM {table} AS s)"
            )
        };
        format!(
            "SELECT t.place, l.place AS live, l.rest, t.row_text AS then_text, l.row_text AS live_text \
             FROM {} AS t FULL JOIN {} AS l ON t.row_text = l.row_text AND t.copy = l.copy",
            numbered(&self.rows(), "ctid", "''"),
            numbered(&self.live_rows(), "afterimage_tid", "s.afterimage_rest")
        )
    }

    /// Leaves out what the user's condition does not hold for: over the row of the point where there is one,
    /// over the live row otherwise. Sent as a prepared statement, of which there can be only one.
    async fn filter(&self, workspace: &Workspace<'_>, filter: &str) -> Result<()> {
        workspace.enter_application_path(&self.name).await?;
        let judge = |error| objection::judge_filter(error, workspace.request.lock_timeout);
        // With parentheses around it a condition could close ours, without them it could go on after its end. What
        // PostgreSQL reads both ways is a condition and no more.
        let bare = format!(
            "SELECT FROM ONLY {} AS {} WHERE\n{filter}\n",
            self.name.to_sql(),
            quote_identifier(&self.name.table)
        );
        workspace.session.prepare(&bare).await.map_err(judge)?;
        for sql in [self.filter_by_then(filter), self.filter_by_live(filter)] {
            workspace.session.execute(&sql, &[]).await.map_err(judge)?;
        }
        workspace.leave_application_path().await
    }

    fn filter_by_then(&self, filter: &str) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| format!("t.c{at} AS {}", quote_identifier(&column.name)))
            .collect();
        format!(
            "DELETE FROM {operations} AS afterimage_o WHERE afterimage_o.afterimage_then IS NOT NULL AND NOT EXISTS \
             (SELECT FROM (SELECT t.ctid AS afterimage_place, {columns} FROM {rows} AS t) AS {alias} \
             WHERE {alias}.afterimage_place = afterimage_o.afterimage_then AND (\n{filter}\n))",
            operations = self.operations(),
            columns = columns.join(", "),
            rows = self.rows(),
            alias = quote_identifier(&self.name.table)
        )
    }

    fn filter_by_live(&self, filter: &str) -> String {
        format!(
            "DELETE FROM {operations} AS afterimage_o WHERE afterimage_o.afterimage_then IS NULL AND NOT EXISTS \
             (SELECT FROM ONLY {table} AS {alias} \
             WHERE {alias}.ctid = afterimage_o.afterimage_live AND (\n{filter}\n))",
            operations = self.operations(),
            table = self.name.to_sql(),
            alias = quote_identifier(&self.name.table)
        )
    }

    /// Counts, and sums hashes: the sum does not depend on the order of rows.
    pub(super) async fn recount(&mut self, workspace: &Workspace<'_>) -> Result<()> {
        let sql = format!(
            "SELECT afterimage_class, count(*), sum(afterimage_hash::numeric)::text FROM {} GROUP BY 1 ORDER BY 1",
            self.operations()
        );
        let mut digest = Vec::new();
        self.counts = Counts::default();
        for row in workspace.query(&sql, &[]).await? {
            let (class, rows, sum): (String, i64, String) = (row.get(0), row.get(1), row.get(2));
            if let Some(class) = Class::parse(&class) {
                *self.counts.of(class) = rows.unsigned_abs();
            }
            digest.push(format!("{class} {sum}"));
        }
        self.digest = digest.join(", ");
        Ok(())
    }

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
        Some(Note::about(&self.name, format!("triggers fire, {why}: {}", names.join(", "))))
    }
}
