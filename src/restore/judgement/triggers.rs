//! What triggers that stay on make of rows: each row is written by itself and taken back at once.

use super::super::difference::Difference;
use super::super::perform::{insert_sql, update_sql};
use super::super::workspace::{Mode, Workspace};
use super::RuleKind;
use crate::failure::Result;
use crate::model::quote_literal;

/// Finds the rows that triggers refuse or suppress. Only where rows are locked: to look at a plan writes nothing.
pub(super) async fn judge(workspace: &Workspace<'_>, table: &Difference) -> Result<()> {
    let silenced = workspace.request.disable_user_triggers && table.live.owned;
    let written = table.counts.insert + table.counts.update > 0;
    if workspace.mode == Mode::Look || silenced || table.live.triggers.is_empty() || !written {
        return Ok(());
    }
    let sql = trial_sql(table);
    workspace.execute_as_application(&table.name, &sql).await?;
    Ok(())
}

fn trial_sql(table: &Difference) -> String {
    let names: Vec<&str> = table.live.triggers.iter().map(|trigger| trigger.name.as_str()).collect();
    let one = |sql: String| {
        let all = format!("FROM {} AS o", table.operations());
        let one = format!("FROM (SELECT p.* FROM {} AS p WHERE p.ctid = $1) AS o", table.operations());
        quote_literal(&sql.replacen(&all, &one, 1))
    };
    // A constraint has been asked already, and may only want a row that is not written yet.
    let body = format!(
        "DECLARE operation tid; class text; written bigint; BEGIN \
         FOR operation, class IN SELECT o.ctid, o.afterimage_class FROM {operations} AS o \
           WHERE o.afterimage_then IS NOT NULL AND NOT EXISTS (\
             SELECT FROM {rejected} AS r WHERE r.operation = o.ctid AND r.falls) LOOP \
         BEGIN \
           IF class = 'deleted' THEN EXECUTE {insert} USING operation; ELSE EXECUTE {update} USING operation; END IF; \
           GET DIAGNOSTICS written = ROW_COUNT; \
           RAISE EXCEPTION USING ERRCODE = 'AFTER', MESSAGE = written::text; \
         EXCEPTION WHEN SQLSTATE 'AFTER' THEN \
           IF SQLERRM = '0' THEN INSERT INTO {rejected} VALUES (operation, '{kind}', {name}, 'it suppresses the row', true); END IF; \
         WHEN integrity_constraint_violation THEN NULL; \
         WHEN OTHERS THEN INSERT INTO {rejected} VALUES (operation, '{kind}', {name}, SQLERRM, true); END; END LOOP; END",
        operations = table.operations(),
        rejected = table.rejected(),
        insert = one(insert_sql(table)),
        update = one(update_sql(table)),
        kind = RuleKind::Trigger.as_str(),
        name = quote_literal(&names.join(", ")),
    );
    format!("DO {}", quote_literal(&body))
}
