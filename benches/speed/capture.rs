//! From WAL to a durable archive, against `pg_recvlogical` that throws the same stream away.

use std::path::Path;

use super::Result;
use super::lab::{Lab, Link, ROUNDS, ROW, compare_in, copy_slot, receiver, settle, slot_of};
use super::process::{self, Cost};
use super::report::Report;

/// Changes that are captured.
struct Workload {
    title: &'static str,
    database: &'static str,
    link: Link,
    changes: u64,
    per_transaction: u64,
    /// Rows that the table has before.
    present: u64,
    identity: &'static str,
    rounds: usize,
    /// What one transaction does; `first` and `last` bound its rows.
    statement: String,
}

/// Rows of a transaction that is sent while it runs.
const LARGE: u64 = 5_000_000;

/// Rows in short transactions: so many that starting and the last publication count for little.
const MANY: u64 = 1_000_000;

fn workloads() -> [Workload; 8] {
    let insert = format!("INSERT INTO items SELECT {ROW} FROM generate_series(first, last) n");
    let update = "UPDATE items SET changed_at = changed_at + interval '1 day',
                  details = jsonb_set(details, '{price}', to_jsonb(id % 77)) WHERE id BETWEEN first AND last";
    let delete = "DELETE FROM items WHERE id BETWEEN first AND last";
    let thousands = |title, database, present, statement: &str| Workload {
        title,
        database,
        link: Link::Tcp,
        changes: MANY,
        per_transaction: 1000,
        present,
        identity: "DEFAULT",
        rounds: ROUNDS,
        statement: statement.to_owned(),
    };
    [
        Workload {
            title: "capture, inserts in 1-row transactions",
            database: "singles",
            link: Link::Tcp,
            changes: 400_000,
            per_transaction: 1,
            present: 0,
            identity: "DEFAULT",
            rounds: ROUNDS,
            statement: insert.clone(),
        },
        thousands("capture, inserts in 1000-row transactions", "inserts", 0, &insert),
        Workload {
            title: "capture, inserts in one transaction",
            database: "large",
            link: Link::Tcp,
            changes: LARGE,
            per_transaction: LARGE,
            present: 0,
            identity: "DEFAULT",
            rounds: 1,
            statement: insert.clone(),
        },
        thousands("capture, updates in 1000-row transactions", "updates", MANY, update),
        thousands("capture, deletes in 1000-row transactions", "deletes", MANY, delete),
        Workload {
            identity: "FULL",
            rounds: 1,
            ..thousands("capture, updates with REPLICA IDENTITY FULL", "updates_full", MANY, update)
        },
        Workload {
            identity: "FULL",
            rounds: 1,
            ..thousands("capture, deletes with REPLICA IDENTITY FULL", "deletes_full", MANY, delete)
        },
        Workload {
            link: Link::Socket,
            ..thousands("the same inserts in 1000-row transactions, over a Unix socket", "socket", 0, &insert)
        },
    ]
}

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    workloads().iter().try_for_each(|workload| workload.measure(lab, report))?;
    GROWTH.iter().try_for_each(|changes| {
        let insert = format!("INSERT INTO items SELECT {ROW} FROM generate_series(first, last) n");
        Workload {
            title: "the same inserts in 1000-row transactions, to see what grows",
            database: "growth",
            link: Link::Tcp,
            changes: *changes,
            per_transaction: 1000,
            present: 0,
            identity: "DEFAULT",
            rounds: 1,
            statement: insert,
        }
        .measure(lab, report)
    })
}

/// So many changes at once, to show what grows with them.
const GROWTH: [u64; 2] = [100_000, 10_000_000];

/// A slot that is never moved, so that every run can have a copy of it at the same position.
const PRISTINE: &str = "pristine";

impl Workload {
    fn measure(&self, lab: &Lab, report: &mut Report) -> Result<()> {
        lab.database(self.database, self.present)?;
        lab.sql(self.database, &format!("ALTER TABLE items REPLICA IDENTITY {}", self.identity))?;
        let empty = lab.init(self.database)?;
        let slot = slot_of(self.database);
        copy_slot(lab, &slot, PRISTINE)?;
        lab.sql(self.database, &self.changing())?;
        let end = lab.position(self.database)?;
        let archive = lab.path("captured");
        let compared = compare_in(
            self.rounds,
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
        let mut command = receiver(lab, self.link, self.database, "yardstick");
        command.args(["--endpos", end]);
        settle()?;
        process::measure(&mut command)
    }

    fn capture(&self, lab: &Lab, archive: &Path, end: &str) -> Result<Cost> {
        settle()?;
        process::measure(lab.afterimage_over(self.link, self.database, archive).args(["run", "--until", end]))
    }
}
