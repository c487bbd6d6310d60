//! Row-level security that binds the role: which rows it may write, and which it would see afterwards.
//!
//! What is hidden cannot be compared, so that under policies only rows that are gone come back: whether a row is hidden or
//! gone shows by what the archive says. A hidden row that has the key makes PostgreSQL refuse the whole restore.

use tokio_postgres::{Client, Row};

use super::desired::Matching;
use super::difference::Difference;
use super::workspace::{Differences, Workspace};
use crate::failure::{Failure, Result};

/// The policies of a table that bind the role.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies(Vec<Policy>);

#[derive(Debug, Clone)]
struct Policy {
    /// As `pg_policy.polcmd` has it: `*` is every command.
    command: String,
    permissive: bool,
    qualification: Option<String>,
    check: Option<String>,
}

const POLICIES: &str = "
SELECT p.polcmd::text, p.polpermissive, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)
FROM pg_policy p
WHERE p.polrelid = $1
  AND EXISTS (SELECT FROM unnest(p.polroles) AS r(role) WHERE r.role = 0 OR pg_has_role(r.role, 'USAGE'))
ORDER BY p.polname";

/// The policies of a table, where any bind the role.
pub(super) async fn of_table(client: &Client, oid: u32) -> Result<Option<Policies>> {
    let active = client.query_one("SELECT row_security_active($1::oid)", &[&oid]).await?;
    if !active.get::<_, bool>(0) {
        return Ok(None);
    }
    let rows = client.query(POLICIES, &[&oid]).await?;
    Ok(Some(Policies(rows.iter().map(policy).collect())))
}

fn policy(row: &Row) -> Policy {
    Policy { command: row.get(0), permissive: row.get(1), qualification: row.get(2), check: row.get(3) }
}

impl Policies {
    /// What they demand of a row that is inserted, each with the command for which they demand it.
    pub(super) fn demands(&self) -> [(&'static str, String); 2] {
        [("INSERT", self.condition("a", true)), ("SELECT", self.condition("r", false))]
    }

    /// Any of those that permit, and all of those that restrict.
    fn condition(&self, command: &str, checks: bool) -> String {
        let conditions = |permissive: bool| {
            let concerned = move |policy: &&Policy| {
                policy.permissive == permissive && (policy.command == "*" || policy.command == command)
            };
            self.0.iter().filter(concerned).map(move |policy| {
                let check = policy.check.as_ref().filter(|_| checks);
                let condition = check.or(policy.qualification.as_ref());
                condition.map_or("true".to_owned(), |condition| format!("COALESCE(({condition}), false)"))
            })
        };
        let permitting: Vec<String> = conditions(true).collect();
        let any = if permitting.is_empty() { "false".to_owned() } else { permitting.join(" OR ") };
        let all: Vec<String> = std::iter::once(format!("({any})")).chain(conditions(false)).collect();
        all.join(" AND ")
    }
}

/// Refuses what cannot be judged where rows may be hidden.
pub(super) fn require_only_inserts(workspace: &Workspace<'_>, differences: &Differences) -> Result<()> {
    let is_bound = |table: &&Difference| table.live.policies.is_some();
    let Some(bound) = differences.tables.iter().find(is_bound) else { return Ok(()) };
    let keyless = |table: &&Difference| is_bound(table) && table.matching == Matching::WholeRow;
    if let Some(table) = differences.tables.iter().find(keyless) {
        return Err(Failure::refused(format!(
            "row-level security may hide rows of {}, which has no key by which they would show",
            table.name
        ))
        .remedy("connect as a role with BYPASSRLS, or as one that the policies do not bind"));
    }
    let changes = |table: &&Difference| table.counts.update + table.counts.delete > 0;
    let Some(changed) = differences.tables.iter().find(changes) else { return Ok(()) };
    let hint = if workspace.request.only.is_empty() { "restore with --only deleted, or " } else { "" };
    Err(Failure::refused(format!(
        "row-level security may hide rows of {} from the role, and rows of {} would be updated or deleted",
        bound.name, changed.name
    ))
    .remedy(format!("{hint}connect as a role with BYPASSRLS, or as one that the policies do not bind")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(command: &str, permissive: bool, qualification: Option<&str>, check: Option<&str>) -> Policy {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Policy { command: command.into(), permissive, qualification: owned(qualification), check: owned(check) }
    }

    #[test]
    fn one_permission_is_enough_and_every_restriction_counts() {
        assert_eq!(Policies::default().demands(), [("INSERT", "(false)".into()), ("SELECT", "(false)".into())]);
        let policies = Policies(vec![
            policy("*", true, Some("a = 1"), None),
            policy("a", true, None, Some("b")),
            policy("r", false, Some("c"), None),
            policy("d", true, Some("never"), None),
        ]);
        let [(_, insert), (_, select)] = policies.demands();
        assert_eq!(insert, "(COALESCE((a = 1), false) OR COALESCE((b), false))");
        assert_eq!(select, "(COALESCE((a = 1), false)) AND COALESCE((c), false)");
    }
}
