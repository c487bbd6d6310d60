//! Triggers of users do not fire during a restore, where the role may decide that.
//!
//! `session_replication_role` would silence them with less ado, but the foreign keys' own triggers too (see [`super::bulk`]).

use super::catalog::Trigger;
use super::report::TriggersOff;
use super::workspace::{Differences, Workspace};
use crate::failure::Result;
use crate::model::{TableName, quote_identifier};

/// Triggers that are off until [`Silenced::restore`]; a rollback brings them back as well.
pub(super) struct Silenced {
    tables: Vec<(TableName, Vec<Trigger>)>,
}

impl Silenced {
    /// Disables what would fire. Writers of these tables wait until the restore is over.
    pub(super) async fn silence(workspace: &Workspace<'_>, differences: &Differences) -> Result<Silenced> {
        let mut tables = Vec::new();
        for table in &differences.tables {
            let may = workspace.request.disable_user_triggers && table.live.owned;
            if may && table.counts.rows() > 0 && !table.live.triggers.is_empty() {
                let verb = |trigger: &Trigger| format!("DISABLE TRIGGER {}", quote_identifier(&trigger.name));
                alter(workspace, &table.name, &table.live.triggers, verb).await?;
                tables.push((table.name.clone(), table.live.triggers.clone()));
            }
        }
        Ok(Silenced { tables })
    }

    /// Gives every trigger the state that it had.
    pub(super) async fn restore(self, workspace: &Workspace<'_>) -> Result<Vec<TriggersOff>> {
        let mut off = Vec::new();
        for (table, triggers) in self.tables {
            alter(workspace, &table, &triggers, enable).await?;
            let triggers = triggers.into_iter().map(|trigger| trigger.name).collect();
            off.push(TriggersOff { table, triggers });
        }
        Ok(off)
    }
}

fn enable(trigger: &Trigger) -> String {
    let always = if trigger.always { "ALWAYS " } else { "" };
    format!("ENABLE {always}TRIGGER {}", quote_identifier(&trigger.name))
}

async fn alter(
    workspace: &Workspace<'_>,
    table: &TableName,
    triggers: &[Trigger],
    action: impl Fn(&Trigger) -> String,
) -> Result<()> {
    let actions: Vec<String> = triggers.iter().map(action).collect();
    workspace.execute(&format!("ALTER TABLE ONLY {} {}", table.to_sql(), actions.join(", "))).await?;
    Ok(())
}
