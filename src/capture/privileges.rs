//! What the connecting role lacks on the tables that it is to archive: all of it at once, as the statements to run.

use std::collections::BTreeSet;

use super::catalog::SourceTable;
use crate::failure::{Failure, Result};
use crate::model::quote_identifier;

/// So many tables are named in a cause; its remedy names them all.
const NAMED: usize = 3;

/// Whether the role may read and publish every table.
///
/// # Errors
/// Failed, with the exact statements that give the role what it lacks.
pub(super) fn require_privileges(tables: &[SourceTable], role: &str) -> Result<()> {
    let lacking = |has: fn(&SourceTable) -> bool| tables.iter().filter(|table| !has(table)).collect::<Vec<_>>();
    let (unreadable, foreign) = (lacking(|table| table.readable), lacking(|table| table.owned));
    let role = quote_identifier(role);
    if !unreadable.is_empty() {
        return Err(Failure::failed(format!("the role {role} may not read {}", named(&unreadable)))
            .remedy(grants_to_read(&unreadable, &role)));
    }
    if !foreign.is_empty() {
        return Err(Failure::failed(format!(
            "the role {role} may not publish {}: only a table's owner may",
            named(&foreign)
        ))
        .remedy(ways_to_own(&foreign, &role)));
    }
    Ok(())
}

fn named(tables: &[&SourceTable]) -> String {
    let names: Vec<String> = tables.iter().take(NAMED).map(|table| table.name.to_string()).collect();
    match tables.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

fn grants_to_read(tables: &[&SourceTable], role: &str) -> String {
    let schemas: BTreeSet<String> = tables.iter().map(|table| quote_identifier(&table.name.schema)).collect();
    let schemas: Vec<String> = schemas.into_iter().collect();
    let tables: Vec<String> = tables.iter().map(|table| table.name.to_sql()).collect();
    format!("GRANT USAGE ON SCHEMA {} TO {role}; GRANT SELECT ON {} TO {role};", schemas.join(", "), tables.join(", "))
}

fn ways_to_own(tables: &[&SourceTable], role: &str) -> String {
    // A member of a superuser could become one.
    let (handed_over, shared): (Vec<&SourceTable>, Vec<_>) = tables.iter().partition(|table| table.owner_is_superuser);
    let owners: BTreeSet<String> = shared.iter().map(|table| quote_identifier(&table.owner)).collect();
    let membership = owners.iter().map(|owner| format!("GRANT {owner} TO {role};"));
    let handed_over = handed_over.iter().map(|table| format!("ALTER TABLE {} OWNER TO {role};", table.name.to_sql()));
    membership.chain(handed_over).collect::<Vec<_>>().join(" ")
}
