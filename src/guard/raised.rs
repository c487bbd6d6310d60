//! Alerts about transactions that had not ended: what is committed later must not raise them again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::{AlertRecord, Xid};

/// The alerts of each transaction, by the rule.
#[derive(Debug, Clone, Default)]
pub(super) struct RaisedInFlight(Arc<Mutex<HashMap<Xid, Vec<AlertRecord>>>>);

impl RaisedInFlight {
    pub(super) fn add(&self, xid: Xid, alert: AlertRecord) {
        self.with(|alerts| alerts.entry(xid).or_default().push(alert));
    }

    /// Whether a rule has raised an alert about a transaction.
    pub(super) fn has(&self, xid: Xid, rule: &str) -> bool {
        self.with(|alerts| alerts.get(&xid).is_some_and(|alerts| alerts.iter().any(|alert| alert.rule == rule)))
    }

    /// The alerts of a transaction that has ended.
    pub(super) fn take(&self, xid: Xid) -> Vec<AlertRecord> {
        self.with(|alerts| alerts.remove(&xid).unwrap_or_default())
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<Xid, Vec<AlertRecord>>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
