//! `--where`: the user's own condition over a row.

use super::difference::Difference;
use super::objection;
use super::workspace::Workspace;
use crate::failure::Result;
use crate::model::quote_identifier;

impl Difference {
    /// Leaves out what the user's condition does not hold for: over the row of the point where there is one,
    /// over the live row otherwise. Sent as a prepared statement, of which there can be only one.
    pub(super) async fn filter(&self, workspace: &Workspace<'_>, filter: &str) -> Result<()> {
        workspace.enter_application_path(&self.name).await?;
        let judge = |error| objection::judge_filter(error, workspace.request.lock_timeout);
        // With parentheses around it a condition could close ours, without them it could go on after its end. What
        // PostgreSQL reads both ways is a condition and no more.
        let bare = format!(
            "SELECT FROM ONLY {} AS {} WHERE\n{filter}\n",
            self.name.to_sql(),
            quote_identifier(&self.name.table)
        );
        workspace.session.prepare(&bare).await.map_err(judge)?;
        for sql in [self.filter_by_then(filter), self.filter_by_live(filter)] {
            workspace.session.execute(&sql, &[]).await.map_err(judge)?;
        }
        workspace.leave_application_path().await
    }

    fn filter_by_then(&self, filter: &str) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| format!("t.c{at} AS {}", quote_identifier(&column.name)))
            .collect();
        format!(
            "DELETE FROM {operations} AS afterimage_o WHERE afterimage_o.afterimage_then IS NOT NULL AND NOT EXISTS \
             (SELECT FROM (SELECT t.ctid AS afterimage_place, {columns} FROM {rows} AS t) AS {alias} \
             WHERE {alias}.afterimage_place = afterimage_o.afterimage_then AND (\n{filter}\n))",
            operations = self.operations(),
            columns = columns.join(", "),
            rows = self.rows(),
            alias = quote_identifier(&self.name.table)
        )
    }

    fn filter_by_live(&self, filter: &str) -> String {
        format!(
            "DELETE FROM {operations} AS afterimage_o WHERE afterimage_o.afterimage_then IS NULL AND NOT EXISTS \
             (SELECT FROM ONLY {table} AS {alias} \
             WHERE {alias}.ctid = afterimage_o.afterimage_live AND (\n{filter}\n))",
            operations = self.operations(),
            table = self.name.to_sql(),
            alias = quote_identifier(&self.name.table)
        )
    }
}
