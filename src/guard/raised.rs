//! Alerts about transactions that had not ended: what is committed later must not raise them again, nor must they be raised
//! about what has ended meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::Utc;

use crate::model::{AlertEvent, AlertRecord, Xid};

/// The alerts of each transaction; `None` once it is known to have ended.
#[derive(Debug, Clone, Default)]
pub(super) struct RaisedInFlight(Arc<Mutex<HashMap<Xid, Option<Vec<AlertRecord>>>>>);

/// Transactions of before this are not running any more, and others may have their numbers.
const LONGEST: chrono::Duration = chrono::Duration::days(7);

impl RaisedInFlight {
    /// What an earlier guard raised about transactions of whose end nobody heard.
    pub(super) fn of_before(alerts: Vec<AlertRecord>) -> RaisedInFlight {
        let since = Utc::now() - LONGEST;
        let mut open: HashMap<String, AlertRecord> = HashMap::new();
        for alert in alerts.into_iter().filter(|alert| alert.time >= since) {
            match alert.event {
                AlertEvent::Raised if alert.lsn.is_none() => drop(open.insert(alert.id.clone(), alert)),
                AlertEvent::Committed | AlertEvent::RolledBack => drop(open.remove(&alert.id)),
                _ => {}
            }
        }
        let mut known: HashMap<Xid, Option<Vec<AlertRecord>>> = HashMap::new();
        for (xid, alert) in open.into_values().filter_map(|alert| Some((alert.xid?, alert))) {
            known.entry(xid).or_default().get_or_insert_default().push(alert);
        }
        RaisedInFlight(Arc::new(Mutex::new(known)))
    }

    /// The alerts of a transaction that runs.
    pub(super) fn about(&self, xid: Xid) -> Vec<AlertRecord> {
        self.with(|known| known.get(&xid).cloned().flatten().unwrap_or_default())
    }

    /// Adds an alert, unless the transaction has ended: then it is not to be raised.
    #[must_use]
    pub(super) fn add(&self, xid: Xid, alert: &AlertRecord) -> bool {
        self.with(|known| match known.entry(xid).or_insert_with(|| Some(Vec::new())) {
            Some(alerts) => {
                alerts.push(alert.clone());
                true
            }
            None => false,
        })
    }

    /// The alerts of a transaction that has ended. No more are added.
    pub(super) fn end(&self, xid: Xid) -> Vec<AlertRecord> {
        self.with(|known| known.insert(xid, None).flatten().unwrap_or_default())
    }

    /// Forgets the transactions that have ended and that nobody takes for running any more.
    pub(super) fn forget_ended(&self, runs: impl Fn(Xid) -> bool) {
        self.with(|known| known.retain(|xid, alerts| alerts.is_some() || runs(*xid)));
    }

    fn with<T>(&self, work: impl FnOnce(&mut HashMap<Xid, Option<Vec<AlertRecord>>>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::finding::Finding;
    use crate::guard::judge::Judged;
    use crate::guard::rule::Rule;

    /// An alert about a transaction that runs.
    fn about(xid: Xid) -> AlertRecord {
        let (table, judged) = ("t".to_owned(), Judged::default());
        let (lsn, since, transactions, rows, context, note) = (None, None, 1, 1, None, None);
        let finding = Finding { table, xid: Some(xid), lsn, since, transactions, rows, judged, context, note };
        finding.alert(&Rule::over_deletions("s"))
    }

    #[test]
    fn nothing_is_raised_about_what_has_ended() {
        let raised = RaisedInFlight::default();
        let alert = about(7);
        assert!(raised.add(7, &alert));
        assert_eq!(raised.end(7).len(), 1);
        assert!(!raised.add(7, &alert), "it has ended");
        raised.forget_ended(|xid| xid == 7);
        assert!(!raised.add(7, &alert), "somebody takes it for running");
        assert!(raised.add(8, &alert));
        raised.forget_ended(|_| false);
        assert_eq!(raised.end(8).len(), 1, "it has not ended");
        assert!(raised.add(7, &alert), "the number is used again");
    }

    #[test]
    fn what_an_earlier_guard_raised_is_known_until_its_transaction_has_ended() {
        let one = about(1);
        let ended = AlertRecord { event: AlertEvent::Committed, ..about(2) };
        let mut long_ago = about(3);
        long_ago.time -= LONGEST * 2;
        let stopped = AlertRecord { event: AlertEvent::Stopped, ..one.clone() };
        let raised = AlertRecord { event: AlertEvent::Raised, ..ended.clone() };
        let known = RaisedInFlight::of_before(vec![one.clone(), raised, stopped, ended, long_ago]);
        assert_eq!(known.about(1), [one]);
        assert_eq!(known.about(2), []);
        assert_eq!(known.about(3), []);
    }
}
