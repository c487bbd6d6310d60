//! Alerts about transactions that had not ended: what is committed later must not raise them again, nor must they be raised
//! about what has ended meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::{AlertRecord, Xid};

/// The alerts of each transaction; `None` once it is known to have ended.
#[derive(Debug, Clone, Default)]
pub(super) struct RaisedInFlight(Arc<Mutex<HashMap<Xid, Option<Vec<AlertRecord>>>>>);

impl RaisedInFlight {
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

    #[test]
    fn nothing_is_raised_about_what_has_ended() {
        let raised = RaisedInFlight::default();
        let (table, judged) = ("t".to_owned(), Judged::default());
        let (xid, lsn, since, transactions, rows, context, note) = (Some(7), None, None, 1, 1, None, None);
        let alert = Finding { table, xid, lsn, since, transactions, rows, judged, context, note };
        let alert = alert.alert(&Rule::over_deletions("s"));
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
}
