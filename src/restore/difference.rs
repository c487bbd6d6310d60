//! Live rows against the rows of the point, set by set in SQL.
//!
//! Rows are compared as the text of a whole record, which every type's own output function writes: json
//! keeps its blanks, floats their last digit, numerics their scale, and NULL differs from an empty text. Where the bytes of
//! all values are the same, so are the texts, and none is made.

use super::Goal;
use super::catalog::LiveTable;
use super::classes::{Class, Counts};
use super::desired::{Desired, Matching, Shared};
use super::expected;
use super::mapping;
use super::plan::Note;
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
    pub(super) digest: String,
    /// Rows that somebody has written since the archive's last look at them.
    pub(super) changed_lately: u64,
    /// What was left out on the way.
    pub(super) left_out: Option<Note>,
    /// Every row of the point is inserted, and nothing else is done: there is no need to ask which.
    pub(super) only_inserts: bool,
    pub(super) desired: Desired,
}

/// Spells columns of a staged row, which stand at these positions.
pub(super) fn staged(alias: &str, positions: &[usize]) -> impl Fn(usize) -> String {
    move |at| format!("{alias}.c{}", positions[at])
}

impl Difference {
    /// Compares; in [`Mode::Change`] the live rows are locked first.
    pub(super) async fn find(workspace: &Workspace<'_>, desired: Desired) -> Result<Difference> {
        let mut difference = Difference::of(desired);
        let by_key = !difference.desired.everything && difference.matching != Matching::WholeRow;
        if by_key {
            workspace.join_for(difference.desired.sought, difference.live.oid).await?;
        }
        workspace.execute(&difference.live_sql(workspace.mode)).await?;
        workspace.join_as_ever().await?;
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
            only_inserts: false,
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

    /// The position of a column among those of the restore.
    pub(super) fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|shared| shared.name == column)
    }

    /// The positions of columns; `None` where one of them is not in the restore.
    pub(super) fn positions<'c>(&self, columns: impl Iterator<Item = &'c str>) -> Option<Vec<usize>> {
        columns.map(|column| self.position(column)).collect()
    }

    /// The rows of the point that are inserted, `t`, as what follows `FROM`; more conditions can follow.
    pub(super) fn inserted(&self) -> String {
        match self.only_inserts {
            true => format!("{} AS t WHERE true", self.rows()),
            false => format!(
                "{} AS o JOIN {} AS t ON t.ctid = o.afterimage_then WHERE o.afterimage_class = 'deleted'",
                self.operations(),
                self.rows()
            ),
        }
    }

    /// Finds out whether [`Difference::only_inserts`], when what is to be done is settled.
    pub(super) async fn settle(&mut self, workspace: &Workspace<'_>) -> Result<()> {
        let Counts { insert, update, delete } = self.counts;
        self.only_inserts = insert > 0
            && update + delete == 0
            && workspace.count(&format!("SELECT count(*) FROM {}", self.rows())).await? == insert;
        Ok(())
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

    /// The condition that two rows differ: of a table (`x`) with the columns `c0`, `c1`, …, and one with the values that
    /// `other` gives for the positions.
    pub(super) fn differs(&self, positions: &[usize], one: &str, other: impl Fn(usize) -> String) -> String {
        let ones: Vec<String> = positions.iter().map(|at| format!("{one}.c{at}")).collect();
        let others: Vec<String> = positions.iter().map(|&at| other(at)).collect();
        let (one, other) = (format!("ROW({})", ones.join(", ")), format!("ROW({})", others.join(", ")));
        format!("(NOT pg_catalog.record_image_eq({one}, {other}) AND {one}::text IS DISTINCT FROM {other}::text)")
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
        columns.extend(shared.map(|(at, _)| format!("{} AS c{at}", self.desired.live_value("l", at))));
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
        let keys = self.desired.concerned_keys();
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
             CASE WHEN d.live IS NULL THEN d.then_hash \
             ELSE pg_catalog.hashtextextended(d.live_text || COALESCE(d.rest, ''), COALESCE(d.then_hash, 0)) END AS afterimage_hash \
             FROM (SELECT *, CASE WHEN j.live IS NULL THEN 'deleted' WHEN j.place IS NULL THEN 'inserted' \
             ELSE 'updated' END AS class FROM ({join}) AS j) AS d \
             WHERE d.differs{only}",
            operations = self.operations()
        )
    }

    fn join_by_key(&self, parts: &[(usize, String)]) -> String {
        let on: Vec<String> = parts.iter().map(|(at, equals)| format!("t.c{at} {equals} l.c{at}")).collect();
        let compared = self.compared();
        format!(
            "SELECT t.ctid AS place, t.afterimage_hash AS then_hash, l.afterimage_tid AS live, l.afterimage_rest AS rest, \
             CASE WHEN l.afterimage_tid IS NOT NULL THEN {live} END AS live_text, \
             t.ctid IS NULL OR l.afterimage_tid IS NULL OR {differs} AS differs \
             FROM {rows} AS t FULL JOIN {live_rows} AS l ON {on}",
            live = self.staged_text("l", &compared),
            differs = self.differs(&compared, "t", |at| format!("l.c{at}")),
            rows = self.rows(),
            live_rows = self.live_rows(),
            on = on.join(" AND ")
        )
    }

    /// Of rows that are equal, the first meets the first, the second the second.
    fn join_by_text(&self) -> String {
        let compared = self.compared();
        let numbered = |table: &str, place: &str, more: &str| {
            let text = self.staged_text("s", &compared);
            format!(
                "(SELECT s.{place} AS place, {more}, {text} AS row_text, \
                 row_number() OVER (PARTITION BY {text} ORDER BY s.{place}) AS copy FROM {table} AS s)"
            )
        };
        format!(
            "SELECT t.place, t.hash AS then_hash, l.place AS live, l.rest, l.row_text AS live_text, \
             t.place IS NULL OR l.place IS NULL AS differs FROM {} AS t FULL JOIN {} AS l ON t.row_text = l.row_text AND t.copy = l.copy",
            numbered(&self.rows(), "ctid", "s.afterimage_hash AS hash"),
            numbered(&self.live_rows(), "afterimage_tid", "s.afterimage_rest AS rest")
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
}
