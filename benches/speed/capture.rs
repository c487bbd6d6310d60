//! From WAL to a durable archive, against `pg_recvlogical` that throws the same stream away.

use std::path::Path;

use super::Result;
use super::lab::{Lab, ROW, compare, settle, slot_of};
use super::process::{self, Cost};
use super::report::Report;

/// Changes that are captured.
struct Workload {
    title: &'static str,
    database: &'static str,
    changes: u64,
    per_transaction: u64,
    /// Rows that the table has before.
    present: u64,
    /// What one transaction does; `first` and `last` bound its rows.
    statement: String,
}

/// Rows of a transaction that is sent while it runs.
const LARGE: u64 = 2_000_000;

fn workloads() -> [Workload; 5] {
    let insert = format!("INSERT INTO items SELECT {ROW} FROM generate_series(first, last) n");
    let update = "UPDATE items SET changed_at = changed_at + interval '1 day',
                  details = jsonb_set(details, '{price}', to_jsonb(id % 77)) WHERE id BETWEEN first AND last";
    let delete = "DELETE FROM items WHERE id BETWEEN first AND last";
    let thousands = |title, database, present, statement: &str| Workload {
        title,
        database,
        changes: 500_000,
        per_transaction: 1000,
        present,
        statement: statement.to_owned(),
    };
    [
        Workload {
            title: "capture, inserts in 1-row transactions",
            database: "singles",
            changes: 200_000,
            per_transaction: 1,
            present: 0,
            statement: insert.clone(),
        },
        thousands("capture, inserts in 1000-row transactions", "inserts", 0, &insert),
        Workload {
            title: "capture, inserts in one transaction",
            database: "large",
            changes: LARGE,
            per_transaction: LARGE,
            present: 0,
            statement: insert.clone(),
        },
        thousands("capture, updates in 1000-row transactions", "updates", 500_000, update),
        thousands("capture, deletes in 1000-row transactions", "deletes", 500_000, delete),
    ]
}

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    workloads().iter().try_for_each(|workload| workload.measure(lab, report))
}

/// A slot that is never moved, so that every run can have a copy of it at the same position.
const PRISTINE: &str = "pristine";

impl Workload {
    fn measure(&self, lab: &Lab, report: &mut Report) -> Result<()> {
        lab.database(self.database, self.present)?;
        let empty = lab.init(self.database)?;
        let slot = slot_of(self.database);
        copy_slot(lab, &slot, PRISTINE)?;
        lab.sql(self.database, &self.changing())?;
        let end = lab.position(self.database)?;
        let archive = lab.path("captured");
        let compared = compare(
            || {
                copy_slot(lab, PRISTINE, "yardstick")?;
                self.receive(lab, &end)
            },
            || {
                copy_slot(lab, PRISTINE, &slot)?;
                lab.copy(&empty, &archive)?;
                self.capture(lab, &archive, &end)
            },
        )?;
        // A fast archiver that archives nothing must not win.
        let archived = lab.ask(&archive, "SELECT count(*) FROM changes.items")?;
        if archived != self.changes.to_string() {
            return Err(format!("{}: {archived} of {} changes are in the archive", self.title, self.changes).into());
        }
        report.compared(self.title, "pg_recvlogical -f /dev/null", self.changes, &compared);
        lab.remove(&archive)?;
        lab.forget(self.database, &empty)
    }

    fn changing(&self) -> String {
        let Workload { changes, per_transaction, statement, .. } = self;
        format!(
            "DO $do$ DECLARE first bigint; last bigint; BEGIN
                 FOR first IN 1..{changes} BY {per_transaction} LOOP
                     last := first + {per_transaction} - 1; {statement}; COMMIT;
                 END LOOP;
             END $do$"
        )
    }

    fn receive(&self, lab: &Lab, end: &str) -> Result<Cost> {
        let mut command = lab.client("pg_recvlogical", self.database);
        command.args(["--slot", "yardstick", "--start", "--file", "/dev/null", "--no-loop", "--endpos", end]);
        // As ours asks for it.
        let options =
            ["publication_names=afterimage", "messages=true", "proto_version=3", "streaming=on", "two_phase=on"];
        for option in options {
            command.args(["--option", option]);
        }
        settle()?;
        process::measure(&mut command)
    }

    fn capture(&self, lab: &Lab, archive: &Path, end: &str) -> Result<Cost> {
        settle()?;
        process::measure(lab.afterimage(self.database, archive).args(["run", "--until", end]))
    }
}

/// Makes a slot at another one's position, in place of the one that has the name.
fn copy_slot(lab: &Lab, from: &str, to: &str) -> Result<()> {
    lab.drop_slots(&format!("slot_name = '{to}'"))?;
    let database =
        lab.sql("postgres", &format!("SELECT database FROM pg_replication_slots WHERE slot_name = '{from}'"))?;
    lab.sql(&database, &format!("SELECT pg_copy_logical_replication_slot('{from}', '{to}')")).map(drop)
}
