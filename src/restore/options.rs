//! What was asked for, as a plan keeps it, and the request that it came from.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::belonging::Owner;
use super::classes::Class;
use super::judgement::OnReject;
use super::mapping::Mapping;
use super::plan::Plan;
use super::undo::OnConflict;
use super::{Goal, RestoreRequest};
use crate::failure::Result;
use crate::model::{Lsn, TableName, TablePattern};

/// What was asked for besides the point.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanOptions {
    pub tables: Vec<String>,
    #[serde(default)]
    pub only: Vec<Class>,
    #[serde(default)]
    pub filter: Option<String>,
    /// Commit LSNs of transactions that are undone.
    #[serde(default)]
    pub undo: Vec<Lsn>,
    #[serde(default)]
    pub on_conflict: OnConflict,
    /// Rows of an earlier restore's quarantine.
    #[serde(default)]
    pub quarantined: bool,
    #[serde(default)]
    pub tenant: Option<String>,
    #[serde(default)]
    pub tenant_columns: Vec<String>,
    /// One row of a table, and all below it.
    #[serde(default)]
    pub entity: Option<(TableName, String)>,
    #[serde(default)]
    pub with_parents: bool,
    #[serde(default)]
    pub on_reject: OnReject,
    #[serde(default)]
    pub maps: Vec<String>,
    pub lock_timeout_ms: u64,
    #[serde(default)]
    pub statement_timeout_ms: Option<u64>,
    pub disable_user_triggers: bool,
}

impl PlanOptions {
    pub(super) fn of(request: &RestoreRequest) -> PlanOptions {
        let mut only = request.only.clone();
        only.sort_unstable();
        only.dedup();
        let (undo, on_conflict) = match &request.goal {
            Goal::Undo { transactions, on_conflict } => (transactions.clone(), *on_conflict),
            _ => (Vec::new(), OnConflict::default()),
        };
        let (tenant, entity) = match &request.owner {
            Some(Owner::Tenant(tenant)) => (Some(tenant.clone()), None),
            Some(Owner::Entity { table, key }) => (None, Some((table.clone(), key.clone()))),
            None => (None, None),
        };
        PlanOptions {
            tenant,
            entity,
            tenant_columns: request.tenant_columns.clone(),
            with_parents: request.with_parents,
            undo,
            on_conflict,
            tables: request.tables.iter().map(ToString::to_string).collect(),
            only,
            filter: request.filter.clone(),
            quarantined: request.goal == Goal::Quarantined,
            on_reject: request.on_reject,
            maps: request.maps.iter().map(ToString::to_string).collect(),
            statement_timeout_ms: request.statement_timeout.and_then(|timeout| u64::try_from(timeout.as_millis()).ok()),
            lock_timeout_ms: u64::try_from(request.lock_timeout.as_millis()).unwrap_or(u64::MAX),
            disable_user_triggers: request.disable_user_triggers,
        }
    }
}

impl Plan {
    /// The request that leads to this plan.
    ///
    /// # Errors
    /// Usage where the saved request cannot be read.
    pub fn request(&self) -> Result<RestoreRequest> {
        let tables = self.options.tables.iter().map(|text| TablePattern::parse(text)).collect::<Result<_>>()?;
        Ok(RestoreRequest {
            tables,
            to: self.to.cut()?,
            now: self.now.cut()?,
            only: self.options.only.clone(),
            filter: self.options.filter.clone(),
            goal: match &self.options {
                options if options.quarantined => Goal::Quarantined,
                options if options.undo.is_empty() => Goal::Point,
                options => Goal::Undo { transactions: options.undo.clone(), on_conflict: options.on_conflict },
            },
            owner: match (&self.options.tenant, &self.options.entity) {
                (Some(tenant), _) => Some(Owner::Tenant(tenant.clone())),
                (None, Some((table, key))) => Some(Owner::Entity { table: table.clone(), key: key.clone() }),
                (None, None) => None,
            },
            tenant_columns: self.options.tenant_columns.clone(),
            with_parents: self.options.with_parents,
            on_reject: self.options.on_reject,
            maps: self.options.maps.iter().map(|text| Mapping::parse(text)).collect::<Result<_>>()?,
            max_rows: None,
            batch_rows: None,
            throttle: None,
            lock_timeout: Duration::from_millis(self.options.lock_timeout_ms),
            statement_timeout: self.options.statement_timeout_ms.map(Duration::from_millis),
            disable_user_triggers: self.options.disable_user_triggers,
            progress: Arc::default(),
        })
    }
}
