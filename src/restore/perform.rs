//! Carrying out a plan in the transaction that made it.

use std::time::Duration;

use serde_json::json;

use super::Step;
use super::batch;
use super::bulk::Bulk;
use super::classes::Class;
use super::difference::Difference;
use super::plan::Plan;
use super::quarantine;
use super::relaxation::Relaxation;
use super::report::{Marks, NotValid, Report};
use super::returned;
use super::sequences;
use super::triggers::Silenced;
use super::verify;
use super::workspace::{Differences, Workspace};
use crate::failure::{Context as _, Failure, Result};
use crate::model::{Lsn, quote_identifier};
use crate::postgres::Source;
use crate::transaction::{MARK_PREFIX, RESTORE_PREFIX};

/// What is done to all tables at a time, in this order. Deleting first frees values of unique columns for rows that come back;
/// deleting last moves children away from parents that go; inserting before updating gives them parents to move to.
type Sequence = [Class; 3];

const SEQUENCES: [Sequence; 3] = [
    [Class::Inserted, Class::Updated, Class::Deleted],
    [Class::Updated, Class::Deleted, Class::Inserted],
    [Class::Deleted, Class::Updated, Class::Inserted],
];

impl Workspace<'_> {
    /// Performs, verifies and commits.
    pub(super) async fn perform(self, source: &Source, plan: &Plan, differences: &mut Differences) -> Result<Report> {
        let mut left_out = Vec::new();
        for table in &mut differences.tables {
            left_out.push(quarantine::set_aside(&self, table, &plan.digest()).await?);
        }
        let postponed = match self.request.batch_rows {
            Some(rows) => batch::restrict(&self, differences, rows).await?,
            None => vec![0; differences.tables.len()],
        };
        for table in &mut differences.tables {
            table.settle(&self).await?;
        }
        let differences = &*differences;
        let rows = differences.tables.iter().map(|table| table.counts.rows()).sum::<u64>();
        self.request.progress.batch(rows, rows + postponed.iter().sum::<u64>());
        self.request.progress.enter(Step::Writing, 0);
        let silenced = Silenced::silence(&self, differences).await?;
        let marks = self.name_marks().await?;
        self.mark_before(source, &marks).await?;
        let mut relaxation = Relaxation::relax(&self, differences, &plan.relaxed()).await?;
        let proven = self.change_rows(differences, &mut relaxation).await?;
        // What was deferred is due now: it must not surface when the triggers are back on, nor at the commit.
        self.execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
        self.request.progress.enter(Step::Verifying, 0);
        verify::require_outcome(&self, differences, &proven).await?;
        let not_valid = relaxation.restore(&self).await?;
        let triggers = silenced.restore(&self).await?;
        let sequences = sequences::move_forward(&self, differences).await?;
        let incomplete = differences.recreation.complete(&self).await?;
        if plan.options.quarantined {
            quarantine::release(&self, differences).await?;
        }
        let mut report = Report::of(plan, differences, &left_out, &postponed)?;
        (report.sequences, report.triggers, report.marks) = (sequences, triggers, Some(marks));
        report.not_valid = not_valid.into_iter().map(|(table, name)| NotValid { table, name }).collect();
        report.recreated = plan.recreated.clone();
        report.notes.extend(incomplete);
        self.announce(&mut report).await?;
        self.commit(&report).await?;
        report.lsn = self.position().await;
        Ok(report)
    }

    /// Commits; where the answer is lost, asks whether it was done.
    async fn commit(&self, report: &Report) -> Result<()> {
        let Err(failure) = self.execute("COMMIT").await else { return Ok(()) };
        if !failure.is_transient() {
            return Err(failure.context("the commit failed; nothing was changed"));
        }
        let xid = report.full_xid.clone().unwrap_or_default();
        match self.outcome_of(&xid).await.as_deref() {
            Some("committed") => Ok(()),
            Some("aborted") => Err(failure.context("the connection was lost at the commit; nothing was changed")),
            _ => Err(failure
                .context("the connection was lost at the commit, and whether it was done is not known")
                .remedy(format!("ask once the server answers: SELECT pg_xact_status('{xid}'::xid8)"))),
        }
    }

    /// What became of a transaction; it may take the server a moment to see that its client is gone.
    async fn outcome_of(&self, xid: &str) -> Option<String> {
        const ASKED: u32 = 20;
        const PAUSE: Duration = Duration::from_millis(250);
        let session = self.source.connect("afterimage restore").await.ok()?;
        for _ in 0..ASKED {
            let row = session.query_one("SELECT pg_xact_status($1::text::xid8)", &[&xid]).await.ok()?;
            let status: Option<String> = row.get(0);
            if status.as_deref() != Some("in progress") {
                return status;
            }
            tokio::time::sleep(PAUSE).await;
        }
        None
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

    /// Tries one sequence after the other, as long as PostgreSQL objects; then again with foreign keys that are checked at the
    /// end. What it accepts in no order is not done. Returns the tables whose rows came back as they are to be.
    async fn change_rows(&self, differences: &Differences, relaxation: &mut Relaxation) -> Result<Vec<u32>> {
        let bulk = Bulk::find(self, differences, relaxation).await?;
        let stay = returned::stay(self, differences).await?;
        self.execute("SAVEPOINT afterimage_changes").await?;
        let mut first = None;
        for deferred in [false, true] {
            if deferred && !relaxation.defer_all(self, differences).await? {
                break;
            }
            if deferred {
                self.execute("SAVEPOINT afterimage_changes").await?;
            }
            for sequence in SEQUENCES {
                match self.change_in(differences, &bulk, stay, sequence).await {
                    Ok(proven) => return Ok(proven),
                    Err(failure) if failure.is_transient() || !mixes(differences) => return Err(failure),
                    // The first objection is the one to tell: it comes from the order that suits most.
                    Err(failure) => drop(first.get_or_insert(failure)),
                }
                self.session.batch_execute("ROLLBACK TO SAVEPOINT afterimage_changes").await?;
            }
        }
        first.map_or(Ok(Vec::new()), Err)
    }

    /// Tables in the order of their parents; to delete, in the reverse one.
    async fn change_in(
        &self,
        differences: &Differences,
        bulk: &Bulk<'_>,
        stay: bool,
        sequence: Sequence,
    ) -> Result<Vec<u32>> {
        let mut proven = Vec::new();
        for classes in sequence.chunk_by(|one, next| (*one, *next) == (Class::Updated, Class::Deleted)) {
            let deletes = classes == [Class::Inserted];
            let count = differences.tables.len();
            for at in 0..count {
                let table = &differences.tables[if deletes { count - 1 - at } else { at }];
                for class in classes {
                    if self.change_class(table, *class, bulk, stay).await? {
                        proven.push(table.live.oid);
                    }
                }
            }
        }
        bulk.require_parents(self).await?;
        Ok(proven)
    }

    /// Returns whether the rows are proven to be what they are to be.
    async fn change_class(&self, table: &Difference, class: Class, bulk: &Bulk<'_>, stay: bool) -> Result<bool> {
        let mut counts = table.counts;
        if *counts.of(class) == 0 {
            return Ok(false);
        }
        let in_bulk = class == Class::Deleted && bulk.has(table);
        if in_bulk {
            self.execute("SET LOCAL session_replication_role = replica").await?;
        }
        let (done, proven) = match class {
            Class::Inserted => (self.execute_as_application(&table.name, &delete_sql(table)).await?, false),
            Class::Updated => (self.execute_as_application(&table.name, &update_sql(table)).await?, false),
            Class::Deleted if stay && returned::can_be_compared(self, table) => returned::insert(self, table).await?,
            Class::Deleted => (self.execute_as_application(&table.name, &insert_sql(table)).await?, false),
        };
        require_all(table, class, done)?;
        if in_bulk {
            self.execute("SET LOCAL session_replication_role = origin").await?;
        }
        Ok(proven)
    }

    /// Tells the archive, in the same transaction, what this transaction is.
    async fn announce(&self, report: &mut Report) -> Result<()> {
        let rows = self
            .query("SELECT pg_current_xact_id()::xid::text, session_user::text, pg_current_xact_id()::text", &[])
            .await?;
        let row = rows.first().ok_or_else(|| Failure::failed("the transaction has no number"))?;
        let (xid, user): (String, String) = (row.get(0), row.get(1));
        report.xid = xid.parse().ok();
        report.full_xid = Some(row.get(2));
        let content = json!({
            "plan": report.plan, "to": report.to, "to_lsn": report.to_lsn, "user": user, "tables": report.tables,
            "sequences": report.sequences, "triggers": report.triggers, "marks": report.marks, "notes": report.notes,
            "rejections": report.rejections, "not_valid": report.not_valid, "on_reject": report.on_reject,
            "seconds": self.started.elapsed().as_secs_f64(), "recreated": report.recreated,
            "undone": report.undone, "conflicts": report.conflicts,
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

/// Requires that PostgreSQL did all that was planned.
fn require_all(table: &Difference, class: Class, done: u64) -> Result<()> {
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

/// Whether there is more than one kind of change, so that their order matters.
fn mixes(differences: &Differences) -> bool {
    let total = |count: fn(&Difference) -> u64| differences.tables.iter().map(count).sum::<u64>();
    let kinds =
        [total(|table| table.counts.insert), total(|table| table.counts.update), total(|table| table.counts.delete)];
    kinds.iter().filter(|count| **count > 0).count() > 1
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
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}",
        table.name.to_sql(),
        names.join(", "),
        values.join(", "),
        table.inserted()
    )
}
