//! Timelines: which of the log that one server wrote is another's too (PostgreSQL manual, 26.3.6 "Timelines").
//!
//! A server that is promoted, or restored to a point, goes on under a new number. Up to the switch its log is that of the
//! timeline before; behind it the same positions hold other records.

use super::replication::{ReplicationConnection, SystemIdentity};
use crate::failure::{Context as _, Failure, Result};
use crate::model::Lsn;

/// A server's timeline and where its log comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    pub number: u32,
    /// The timelines before, each with the position up to which its log is this one's.
    ancestors: Vec<(u32, Lsn)>,
}

impl Timeline {
    /// The timeline of the server that said this of itself.
    ///
    /// # Errors
    /// Where the server has no history of its timeline, or as the connection says.
    pub async fn of(server: &SystemIdentity, replication: &mut ReplicationConnection) -> Result<Timeline> {
        let number = server.timeline;
        // The first has no history.
        if number == 1 {
            return Ok(Timeline { number, ancestors: Vec::new() });
        }
        let rows = replication
            .simple_query(&format!("TIMELINE_HISTORY {number}"))
            .await
            .context(format_args!("cannot read the history of timeline {number}"))?;
        let content = rows.first().and_then(|row| row.get(1)?.as_deref());
        let ancestors = content.and_then(ancestors);
        let ancestors =
            ancestors.ok_or_else(|| Failure::failed(format!("timeline {number} has no readable history")))?;
        Ok(Timeline { number, ancestors })
    }

    /// Up to where the log of another timeline is this one's; `None` where this one does not come from it.
    pub fn shares(&self, other: u32) -> Option<Lsn> {
        if other == self.number {
            return Some(Lsn::MAX);
        }
        self.ancestors.iter().find(|(number, _)| *number == other).map(|(_, until)| *until)
    }
}

/// Lines of a number, the position of the switch and its reason; others are empty or comments.
fn ancestors(content: &str) -> Option<Vec<(u32, Lsn)>> {
    let lines = content.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_says_where_timelines_part() {
        let content =
            "1\t0/5000000\tno recovery target specified\n\n# a comment\n2\t1/A0\tbefore 2025-10-09 14:03:00+00\n";
        let timeline = Timeline { number: 4, ancestors: ancestors(content).unwrap() };
        assert_eq!(timeline.shares(1), Some(Lsn(0x500_0000)));
        assert_eq!(timeline.shares(2), Some(Lsn(0x1_0000_00A0)));
        assert_eq!(timeline.shares(3), None);
        assert_eq!(timeline.shares(4), Some(Lsn::MAX));
        assert_eq!(ancestors("1 here and there"), None);
    }
}
