//! Working out what a restore would do: every table's difference, and what constraints and later transactions say to it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::Utc;

use super::catalog;
use super::desired::Desired;
use super::difference::Difference;
use super::options::PlanOptions;
use super::order::parents_first;
use super::plan::{FORMAT, Plan, PlanPoint, TablePlan};
use super::recreation::{self, Recreation};
use super::selection::{Found, Selected};
use super::undo::{self, Culprits, OnConflict, dependents};
use super::wanted::Wanted;
use super::workspace::{Differences, Mode, Workspace};
use super::{Goal, OnReject, Step, belonging, cascades, judgement, mapping, parents, policies};
use crate::failure::{Context as _, Failure, Result};
use crate::history::TableAt;
use crate::model::{Lsn, TableName};

/// Tables that belong to a restore though they were not named.
#[derive(Debug, Default)]
struct More {
    /// Those of which rows come back that others refer to.
    parents: BTreeSet<TableName>,
    /// Those from which foreign keys took along what transactions deleted.
    cascaded: BTreeSet<TableName>,
}

impl Workspace<'_> {
    /// Works out the difference of every table, and what the constraints say to it. For an undo that cascades, again and
    /// again, until no further transaction depends on it.
    pub(super) async fn plan(&self) -> Result<(Plan, Differences)> {
        let (mut undone, cascades) = match &self.request.goal {
            Goal::Undo { transactions, on_conflict } => {
                (transactions.iter().copied().collect::<BTreeSet<Lsn>>(), *on_conflict == OnConflict::Cascade)
            }
            Goal::Point | Goal::Quarantined => (BTreeSet::new(), false),
        };
        let mut more = More::default();
        loop {
            self.execute("SAVEPOINT afterimage_plan").await?;
            let (plan, differences) = self.plan_with(&undone, &more).await?;
            let conflicting = plan.conflicts.iter().filter(|_| cascades).map(|conflict| conflict.lsn);
            let dependent: Vec<Lsn> = conflicting.collect();
            let missing = parents::missing(self, &differences, &plan.rejections).await?;
            let along = cascades::missing(self, &differences).await?;
            if dependent.is_empty() && missing.is_empty() && along.is_empty() {
                return Ok((plan, differences));
            }
            undone.extend(dependent);
            more.parents.extend(missing);
            more.cascaded.extend(along);
            self.execute("ROLLBACK TO SAVEPOINT afterimage_plan").await?;
        }
    }

    /// One round of planning.
    async fn plan_with(&self, undone: &BTreeSet<Lsn>, more: &More) -> Result<(Plan, Differences)> {
        let mut notes = Vec::new();
        let mut culprits = Culprits::new();
        let mut skipped = BTreeMap::new();
        let selected = match self.request.goal {
            Goal::Point => self.select(&mut notes).await?.into_iter().map(Selected::Point).collect(),
            Goal::Quarantined => self.select_quarantined().await?.into_iter().map(Selected::Quarantine).collect(),
            Goal::Undo { .. } => {
                let found = undo::undo(self, undone, &mut notes).await?;
                notes.extend(undo::repeated(self, undone).await?);
                (culprits, skipped) = (found.culprits, found.conflicting);
                let dropped = found.dropped.into_iter().map(Selected::Point);
                let changed = found.tables.into_iter().map(|wanted| Selected::Ready(Box::new(wanted)));
                changed.chain(dropped).collect::<Vec<_>>()
            }
        };
        let mut selected: Vec<Selected> = selected;
        for name in &more.parents {
            selected.extend(self.then(name).await?.map(Selected::Point));
        }
        for name in more.cascaded.difference(&more.parents) {
            selected.extend(self.then(name).await?.map(Selected::Cascaded));
        }
        let mut gone = Vec::new();
        for relation in selected.iter().map(Selected::relation) {
            if self.locate(relation).await?.is_none() {
                gone.push(relation.clone());
            }
        }
        let recreation = recreation::make(self, self.archive, self.request.to.lsn, &gone).await?;
        let found = self.lock(selected).await?;
        let removals = cascades::removals(self, &found).await?;
        let mut staged = Vec::new();
        for (index, found) in found.into_iter().enumerate() {
            let name = found.name.clone();
            staged.push(self.desired(index, found, &removals).await.context(&name)?);
        }
        self.request.progress.enter(Step::Comparing, 0);
        self.lock_out_writers(&staged).await?;
        let mut tables = Vec::new();
        for desired in staged {
            let name = desired.name.clone();
            tables.push(Difference::find(self, desired).await.context(&name)?);
        }
        mapping::require_targets(self, &tables)?;
        if let Some(owner) = &self.request.owner {
            notes.extend(belonging::keep(self, &mut tables, owner).await?);
        }
        for table in tables.iter_mut().filter(|table| more.parents.contains(&table.name)) {
            self.execute(&format!("DELETE FROM {}", table.operations())).await?;
            table.recount(self).await?;
        }
        let mut differences = self.in_order(tables).await?;
        differences.recreation = recreation;
        notes.extend(cascades::keep(self, &mut differences, &more.cascaded).await?);
        self.require_unchanged(&differences, &mut skipped)?;
        policies::require_only_inserts(self, &differences)?;
        self.request.progress.enter(Step::Judging, 0);
        let mut rejections = judgement::judge(self, &differences).await?;
        while parents::pull(self, &mut differences, &rejections).await? {
            judgement::forget(self, &differences).await?;
            rejections = judgement::judge(self, &differences).await?;
        }
        if !undone.is_empty() {
            let more = dependents::culprits(self, &differences, &rejections, undone).await?;
            if self.skips_conflicts() && !more.is_empty() {
                dependents::leave_out(self, &mut differences, &mut skipped).await?;
                rejections.retain(|rejection| !rejection.kind.is_about_references());
            }
            culprits.extend(more);
        }
        let mut plans = Vec::new();
        for table in &differences.tables {
            let skipped = skipped.get(&table.name).copied().unwrap_or_default();
            plans.push(TablePlan { skipped, ..table.plan(self).await? });
            notes.extend(table.notes(self.request.disable_user_triggers));
        }
        let identity = self.archive.identity();
        let plan = Plan {
            format: FORMAT,
            system_identifier: identity.system_identifier.to_string(),
            database: identity.database.clone(),
            made_at: Utc::now(),
            to: PlanPoint::of(&self.request.to),
            now: PlanPoint::of(&self.request.now),
            options: PlanOptions::of(self.request),
            recreated: differences.recreation.tables.clone(),
            tables: plans,
            tenants: belonging::count(self, &differences.tables).await?,
            undone: undone.iter().copied().collect(),
            conflicts: undo::conflicts(self, &culprits).await?,
            rejections,
            notes,
        };
        Ok((plan, differences))
    }

    async fn then(&self, name: &TableName) -> Result<Option<TableAt>> {
        TableAt::find(self.archive, name, self.request.to.lsn).await
    }

    fn skips_conflicts(&self) -> bool {
        matches!(&self.request.goal, Goal::Undo { on_conflict: OnConflict::Skip, .. })
    }

    /// Rows that changed after the archive's last look are in conflict with nobody that could be named yet.
    fn require_unchanged(&self, differences: &Differences, skipped: &mut BTreeMap<TableName, u64>) -> Result<()> {
        for table in differences.tables.iter().filter(|table| table.changed_lately > 0) {
            if !self.skips_conflicts() {
                return Err(Failure::refused(format!(
                    "{} rows of {} were changed while the undo was worked out; nothing was changed",
                    table.changed_lately, table.name
                ))
                .remedy("run it again: the archive knows by then who changed them"));
            }
            *skipped.entry(table.name.clone()).or_default() += table.changed_lately;
        }
        Ok(())
    }

    async fn desired(&self, index: usize, found: Found, removals: &BTreeSet<Lsn>) -> Result<Desired> {
        let Found { selected, name, live } = found;
        let wanted = match selected {
            Selected::Point(then) => Wanted::of_point(self, then, (live.oid, &name)).await?,
            Selected::Cascaded(then) => Wanted::of_transactions(self, then, (live.oid, &name), removals).await?,
            Selected::Quarantine(now) => Wanted::of_quarantine(now),
            Selected::Ready(wanted) => *wanted,
        };
        Desired::load(self, index, &wanted, name, live).await
    }

    /// Locks tables that will be altered, before any row is locked: a session that waits for a row of ours and holds its table
    /// would be waited for in turn. Reading the archive is over by then.
    async fn lock_out_writers(&self, staged: &[Desired]) -> Result<()> {
        if self.mode == Mode::Look {
            return Ok(());
        }
        let silences = |table: &Desired| self.request.disable_user_triggers && !table.live.triggers.is_empty();
        let relaxes = self.request.on_reject == OnReject::NotValid;
        for table in staged.iter().filter(|table| table.live.owned && (silences(table) || relaxes)) {
            self.execute(&format!("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE", table.name.to_sql())).await?;
        }
        Ok(())
    }

    async fn in_order(&self, tables: Vec<Difference>) -> Result<Differences> {
        let oids: Vec<u32> = tables.iter().map(|table| table.live.oid).collect();
        let foreign_keys = catalog::foreign_keys(&self.session, &oids).await?;
        let position = |oid: u32| oids.iter().position(|&known| known == oid);
        let edges: Vec<(usize, usize)> =
            foreign_keys.iter().filter_map(|key| position(key.parent).zip(position(key.child))).collect();
        let names: Vec<TableName> = tables.iter().map(|table| table.name.clone()).collect();
        let order = parents_first(&names, &edges);
        let mut tables: Vec<(usize, Difference)> = tables
            .into_iter()
            .enumerate()
            .map(|(at, table)| (order.iter().position(|&other| other == at).unwrap_or(at), table))
            .collect();
        tables.sort_by_key(|(rank, _)| *rank);
        Ok(Differences {
            tables: tables.into_iter().map(|(_, table)| table).collect(),
            foreign_keys,
            recreation: Recreation::default(),
        })
    }
}
