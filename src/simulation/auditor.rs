//! Holds what a reader of the archive finds against what the source's users did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;

use super::accounts;
use super::model::{Committed, Row, State};
use super::store;
use super::workload::rows_of;
use super::world::World;
use crate::archive::Archive;
use crate::columnar::RowText;
use crate::failure::{Category, Result};
use crate::history::{Resolver, TableAt, resolve};
use crate::model::{GapRecord, Lsn, Point, TableName};
use crate::verification::{verify, verify_chain};

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// At some places, while everything goes on.
    Passing,
    /// At everything, when all has been archived.
    Final,
}

/// Reads the archive as anybody would, and says what is wrong.
pub(super) async fn audit(world: &Arc<World>, look: Look, dice: &mut StdRng) {
    if let Err(failure) = Audit::of(world, look, dice).await {
        world.violation(format!("6: reading the archive failed: {failure}"));
    }
}

struct Audit<'a> {
    world: &'a World,
    archive: Archive,
    watermark: Lsn,
    /// What had been committed when the reader began, and what there was before any of it.
    commits: Vec<Committed>,
    beginning: State,
    gaps: Vec<GapRecord>,
}

impl Audit<'_> {
    async fn of(world: &Arc<World>, look: Look, dice: &mut StdRng) -> Result<()> {
        let store = store::open(world, None);
        let Some(archive) = Archive::find(&store).await? else { return Ok(()) };
        let watermark = archive.watermark().await?.lsn;
        let known = Lsn(world.watermark.load(Ordering::Relaxed));
        if watermark > known {
            world.violation(format!("3: a reader sees the watermark {watermark}, it is {known}"));
        }
        let start = archive.identity().start_lsn;
        let all = world.database().commits.clone();
        let beginning = all.iter().rfind(|commit| commit.lsn < start).map_or_else(State::new, |one| one.state.clone());
        let within = |commit: &Committed| commit.lsn >= start && commit.lsn < watermark;
        let commits: Vec<Committed> = all.into_iter().filter(within).collect();
        let gaps = archive.gaps(watermark).await?;
        let audit = Audit { world, archive, watermark, commits, beginning, gaps };
        audit.transactions().await?;
        let mut cuts = vec![watermark];
        let places = if look == Look::Final { 4 } else { 1 };
        for _ in 0..places.min(audit.commits.len()) {
            cuts.push(audit.commits[dice.random_range(0..audit.commits.len())].lsn);
        }
        for cut in cuts {
            audit.states(cut).await?;
        }
        if look == Look::Final {
            audit.accounts().await?;
            audit.files().await?;
        }
        Ok(())
    }

    /// Invariant 2: every transaction once, in commit order, and no other; and what each did to which table.
    async fn transactions(&self) -> Result<()> {
        let found = self.archive.transactions(self.watermark).await?;
        // What had nothing to say may have been sent or not.
        let empty = |lsn: Lsn| self.commits.iter().any(|one| one.lsn == lsn && one.changes.is_empty());
        let ours = |lsn: Lsn| !empty(lsn) && !self.is_in_gap(lsn);
        let found: Vec<_> = found.into_iter().filter(|one| ours(one.commit.lsn)).collect();
        let wanted: Vec<&Committed> = self.commits.iter().filter(|one| ours(one.lsn)).collect();
        let lsns: Vec<Lsn> = found.iter().map(|one| one.commit.lsn).collect();
        let committed: Vec<Lsn> = wanted.iter().map(|one| one.lsn).collect();
        if lsns != committed {
            self.world.violation(format!(
                "2: below {} the archive has the transactions {lsns:?}, the source committed {committed:?}",
                self.watermark
            ));
            return Ok(());
        }
        for (found, wanted) in found.iter().zip(wanted) {
            let (commit, counts) = (&found.commit, wanted.counts());
            let alike = commit.end_lsn == wanted.end_lsn
                && commit.xid == wanted.xid
                && commit.time.timestamp_micros() == wanted.time;
            if !alike {
                self.world.violation(format!("4: {commit:?} is not what was committed at {}", wanted.lsn));
            }
            if found.tables != counts {
                let (tables, lsn) = (&found.tables, wanted.lsn);
                self.world.violation(format!("2: {lsn} changed {counts:?}, the archive says {tables:?}"));
            }
        }
        Ok(())
    }

    /// Whether nobody saw what was committed there.
    fn is_in_gap(&self, lsn: Lsn) -> bool {
        self.gaps.iter().any(|gap| gap.lsn <= lsn && lsn < gap.end_lsn)
    }

    /// Invariants 2, 3 and 4: all tables as they were before a commit; invariant 6 where a gap is.
    async fn states(&self, cut: Lsn) -> Result<()> {
        if self.gaps.iter().any(|gap| gap.lsn < cut && cut < gap.end_lsn) {
            return self.refused(cut).await;
        }
        let before = self.commits.iter().rfind(|commit| commit.lsn < cut);
        let state = before.map_or(&self.beginning, |commit| &commit.state);
        for table in state.values() {
            let name = table.shape.table();
            let columns: Vec<String> = table.shape.columns.iter().map(|column| column.name.clone()).collect();
            match read(&self.archive, &name, cut).await? {
                None => self.world.violation(format!("6: {name} is not there before {cut}")),
                Some((found, _)) if found != columns => {
                    self.world.violation(format!("4: {name} has the columns {found:?} before {cut}, not {columns:?}"));
                }
                Some((_, rows)) => self.compare(&name, cut, rows, rows_of(state, table.shape.oid)),
            }
        }
        let there: BTreeSet<TableName> = state.values().map(|table| table.shape.table()).collect();
        for name in self.names().difference(&there) {
            if TableAt::find(&self.archive, name, cut).await?.is_some() {
                self.world.violation(format!("2: {name} is there before {cut}, where it was not"));
            }
        }
        Ok(())
    }

    /// Every name that a table ever had.
    fn names(&self) -> BTreeSet<TableName> {
        let states = self.commits.iter().map(|commit| &commit.state).chain([&self.beginning]);
        states.flat_map(State::values).map(|table| table.shape.table()).collect()
    }

    /// Whether a name was always that of one table, all of whose rows came by changes.
    fn is_its_own(&self, name: &TableName, oid: u32) -> bool {
        let states = self.commits.iter().map(|commit| &commit.state).chain([&self.beginning]);
        let mut tables = states.flat_map(State::values);
        !self.world.database().told.contains(&oid)
            && tables.all(|table| (table.shape.table() == *name) == (table.shape.oid == oid))
    }

    /// Invariant 6: whoever asks for a point inside of a gap is refused.
    async fn refused(&self, cut: Lsn) -> Result<()> {
        let resolver = Resolver { archive: &self.archive, source: None, wait: Duration::ZERO };
        match resolve(&resolver, &Point::Lsn(cut)).await {
            Err(failure) if failure.category() == Category::Refused => {}
            answered => self.world.violation(format!("6: {cut}, in a gap, is answered with {answered:?}")),
        }
        Ok(())
    }

    fn compare(&self, name: &TableName, cut: Lsn, found: Vec<Row>, wanted: Vec<Row>) {
        if found == wanted {
            return;
        }
        let lacking: Vec<&Row> = wanted.iter().filter(|row| !found.contains(row)).collect();
        let more: Vec<&Row> = found.iter().filter(|row| !wanted.contains(row)).collect();
        self.world.violation(format!(
            "2: {name} before {cut} has {} rows, not {}: it lacks {lacking:?} and has {more:?}",
            found.len(),
            wanted.len()
        ));
    }

    /// Invariants 2 and 4 once more, change by change: what each row was before and after.
    async fn accounts(&self) -> Result<()> {
        // What a gap did is told by comparing, and in no order that anybody knows.
        if !self.gaps.is_empty() {
            return Ok(());
        }
        let tables: BTreeMap<TableName, u32> = self
            .commits
            .last()
            .map_or(&self.beginning, |commit| &commit.state)
            .values()
            .map(|table| (table.shape.table(), table.shape.oid))
            .collect();
        for (name, oid) in tables.into_iter().filter(|(name, oid)| self.is_its_own(name, *oid)) {
            let start = self.archive.identity().start_lsn;
            let found = accounts::archived(&self.archive, &name, start, self.watermark).await?;
            let wanted = accounts::committed(&self.commits, oid, &self.beginning);
            if found != wanted {
                let at = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted);
                let at = at.unwrap_or(found.len().min(wanted.len()));
                self.world.violation(format!(
                    "2: change {at} of {} of {name} is {:?} in the archive, it was {:?} of {}",
                    found.len(),
                    found.get(at),
                    wanted.get(at),
                    wanted.len()
                ));
            }
        }
        Ok(())
    }
}

impl Audit<'_> {
    /// What `afterimage verify` says.
    async fn files(&self) -> Result<()> {
        let verified = verify(&self.archive).await?;
        if verified.findings.count > 0 {
            self.world.violation(format!("2: verify finds {:?}", verified.findings.told));
        }
        if verified.transactions > 0 {
            let chained = verify_chain(&self.archive, &[]).await?;
            if chained.findings.count > 0 || chained.transactions != verified.transactions {
                self.world.violation(format!("2: verify --chain finds {:?} in {chained:?}", chained.findings.told));
            }
        }
        Ok(())
    }
}

/// A table's columns and rows before a commit, in order.
async fn read(archive: &Archive, name: &TableName, cut: Lsn) -> Result<Option<(Vec<String>, Vec<Row>)>> {
    let Some(table) = TableAt::find(archive, name, cut).await? else { return Ok(None) };
    let columns = table.relation().columns.iter().map(|column| column.name.clone()).collect();
    let mut rows: Vec<Row> = Vec::new();
    let text = |field: Option<&[u8]>| field.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let mut take = |row: &RowText| {
        rows.push(row.fields().map(text).collect());
        Ok(())
    };
    table.for_each_row(None, &mut take).await?;
    rows.sort();
    Ok(Some((columns, rows)))
}
