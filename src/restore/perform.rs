//! Carrying out a plan in the transaction that made it.

use serde_json::json;

use super::cascades;
use super::difference::Difference;
use super::plan::{Class, Plan};
use super::report::{Marks, Report, TableReport};
use super::sequences;
use super::triggers::Silenced;
use super::verify;
use super::workspace::{Differences, Workspace};
use crate::failure::{Context as _, Failure, Result};
use crate::model::{Lsn, quote_identifier};
use crate::postgres::Source;
use crate::transaction::{MARK_PREFIX, RESTORE_PREFIX};

/// Which comes first. Deleting first frees values of unique columns for rows that come back; writing first moves
/// children away from parents that go. One that PostgreSQL accepts may not exist; then nothing is done.
#[derive(Debug, Clone, Copy)]
enum Sequence {
    DeletesFirst,
    WritesFirst,
}

impl Workspace<'_> {
    /// Performs, verifies and commits.
    pub(super) async fn perform(self, source: &Source, plan: &Plan, differences: &Differences) -> Result<Report> {
        let silenced = Silenced::silence(&self, differences).await?;
        let marks = self.name_marks().await?;
        self.mark_before(source, &marks).await?;
        self.change_rows(differences).await?;
        // What was deferred is due now: it must not surface when the triggers are back on, nor at the commit.
        self.execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
        verify::require_outcome(&self, differences).await?;
        let triggers = silenced.restore(&self).await?;
        let sequences = sequences::move_forward(&self, differences).await?;
        let mut report = Report {
            plan: plan.digest(),
            to: plan.to.point.clone(),
            to_lsn: plan.to.lsn,
            tables: differences.tables.iter().map(|table| TableReport::of(&table.name, table.counts)).collect(),
            sequences,
            triggers,
            marks: Some(marks),
            xid: None,
            lsn: None,
            seconds: 0.0,
            notes: plan.notes.clone(),
        };
        self.announce(&mut report).await?;
        self.execute("COMMIT").await.context("the commit failed; nothing was changed")?;
        report.lsn = self.position().await;
        Ok(report)
    }

    async fn name_marks(&self) -> Result<Marks> {
        let rows = self
            .query("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYYMMDD\"T\"HH24MISS\"Z\"')", &[])
            .await?;
        let stamp: String = rows.first().map(|row| row.get(0)).unwrap_or_default();
        Ok(Marks { before: format!("restore-{stamp}-before"), after: format!("restore-{stamp}-after") })
    }

    /// Marks the present in a transaction of its own, which ends while ours holds the rows locked: what the mark
    /// names is what the restore found.
    async fn mark_before(&self, source: &Source, marks: &Marks) -> Result<()> {
        let session = source.connect("afterimage restore").await?;
        let sql = emit(MARK_PREFIX, true);
        session.execute(&sql, &[&mark_content(&marks.before)]).await.context("marking the state before")?;
        Ok(())
    }

    /// Tries one sequence, and where PostgreSQL objects the other.
    async fn change_rows(&self, differences: &Differences) -> Result<()> {
        self.execute("SAVEPOINT afterimage_changes").await?;
        let Err(first) = self.change_in(differences, Sequence::DeletesFirst).await else { return Ok(()) };
        let mixes = {
            let total = |count: fn(&Difference) -> u64| differences.tables.iter().map(count).sum::<u64>();
            total(|table| table.counts.delete) > 0 && total(|table| table.counts.insert + table.counts.update) > 0
        };
        if !mixes || first.category() != crate::failure::Category::Refused {
            return Err(first);
        }
        self.session.batch_execute("ROLLBACK TO SAVEPOINT afterimage_changes").await?;
        // The first objection is the one to tell: it comes from the order that suits most.
        self.change_in(differences, Sequence::WritesFirst).await.map_err(|_| first)
    }

    async fn change_in(&self, differences: &Differences, sequence: Sequence) -> Result<()> {
        match sequence {
            Sequence::DeletesFirst => {
                self.delete_all(differences).await?;
                self.write_all(differences).await
            }
            Sequence::WritesFirst => {
                self.write_all(differences).await?;
                self.delete_all(differences).await
            }
        }
    }

    /// Children before parents.
    async fn delete_all(&self, differences: &Differences) -> Result<()> {
        for table in differences.tables.iter().rev().filter(|table| table.counts.delete > 0) {
            cascades::refuse_after_deletes(self, differences, table).await?;
            self.change(table, Class::Inserted, &delete_sql(table)).await?;
        }
        Ok(())
    }

    /// Parents before children.
    async fn write_all(&self, differences: &Differences) -> Result<()> {
        for table in &differences.tables {
            if table.counts.update > 0 {
                cascades::refuse_after_updates(self, differences, table).await?;
                self.change(table, Class::Updated, &update_sql(table)).await?;
            }
            if table.counts.insert > 0 {
                self.change(table, Class::Deleted, &insert_sql(table)).await?;
            }
        }
        Ok(())
    }

    async fn change(&self, table: &Difference, class: Class, sql: &str) -> Result<()> {
        let done = self.execute_as_application(&table.name, sql).await?;
        let mut counts = table.counts;
        let planned = *counts.of(class);
        if done == planned {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "PostgreSQL did {done} of {planned} {}s in {}; nothing was changed",
            class.remedy(),
            table.name
        ))
        .remedy("a trigger that stays on suppresses rows: restore as the table's owner, so that triggers can be off"))
    }

    /// Tells the archive, in the same transaction, what this transaction is.
    async fn announce(&self, report: &mut Report) -> Result<()> {
        let rows = self.query("SELECT pg_current_xact_id()::xid::text, session_user::text", &[]).await?;
        let row = rows.first().ok_or_else(|| Failure::failed("the transaction has no number"))?;
        let (xid, user): (String, String) = (row.get(0), row.get(1));
        report.xid = xid.parse().ok();
        let content = json!({
            "plan": report.plan, "to": report.to, "to_lsn": report.to_lsn, "user": user, "tables": report.tables,
            "sequences": report.sequences, "triggers": report.triggers, "marks": report.marks, "notes": report.notes,
        });
        self.query(&emit(RESTORE_PREFIX, false), &[&content.to_string()]).await?;
        if let Some(marks) = &report.marks {
            self.query(&emit(MARK_PREFIX, true), &[&mark_content(&marks.after)]).await?;
        }
        Ok(())
    }

    /// The position after the commit. The restore is done, so that it cannot be read is no failure.
    async fn position(&self) -> Option<Lsn> {
        let row = self.session.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.ok()?;
        row.get::<_, String>(0).parse().ok()
    }
}

/// A statement that puts a message into the log with this transaction; a mark gets whom the source authenticated.
fn emit(prefix: &str, with_user: bool) -> String {
    let content = if with_user {
        "($1::text::jsonb || jsonb_build_object('user', session_user::text))::text"
    } else {
        "$1::text"
    };
    // Nothing converts a message's bytes on their way.
    format!("SELECT pg_logical_emit_message(true, '{prefix}', convert_to({content}, 'UTF8'))")
}

fn mark_content(name: &str) -> String {
    json!({ "name": name }).to_string()
}

pub(super) fn delete_sql(table: &Difference) -> String {
    format!(
        "DELETE FROM ONLY {} AS x USING {} AS o WHERE x.ctid = o.afterimage_live AND o.afterimage_class = 'inserted'",
        table.name.to_sql(),
        table.operations()
    )
}

pub(super) fn update_sql(table: &Difference) -> String {
    let settable = table.columns.iter().enumerate().filter(|(_, column)| !column.insert_only);
    let set: Vec<String> =
        settable.map(|(at, column)| format!("{} = t.c{at}", quote_identifier(&column.name))).collect();
    format!(
        "UPDATE ONLY {} AS x SET {} FROM {} AS o JOIN {} AS t ON t.ctid = o.afterimage_then \
         WHERE x.ctid = o.afterimage_live AND o.afterimage_class = 'updated'",
        table.name.to_sql(),
        set.join(", "),
        table.operations(),
        table.rows()
    )
}

pub(super) fn insert_sql(table: &Difference) -> String {
    let names: Vec<String> = table.columns.iter().map(|column| quote_identifier(&column.name)).collect();
    let values: Vec<String> = (0..table.columns.len()).map(|at| format!("t.c{at}")).collect();
    format!(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS o JOIN {} AS t ON t.ctid = o.afterimage_then \
         WHERE o.afterimage_class = 'deleted'",
        table.name.to_sql(),
        names.join(", "),
        values.join(", "),
        table.operations(),
        table.rows()
    )
}
