//! The same rows on other engines: SQL that reads an archive's tables without this program.
//!
//! A statement reads nothing beyond the point that it was made for, so it stays true while the archive grows.

mod constant;
mod dialect;
mod place;
mod statement;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

pub use dialect::Engine;
use place::Root;
use statement::{Statement, TOLD, may_be_inexact};

use crate::archive::Location;
use crate::failure::{Failure, Result};
use crate::history::{BaseParts, ChangeParts, StateParts};
use crate::model::{Column, RelationVersion};

/// A statement that gives a table's rows; with `exact`, also the texts of values that a column cannot hold.
///
/// # Errors
/// Usage or refused where the engine cannot give them.
pub fn state(engine: Engine, location: Location, state: &StateParts, exact: bool) -> Result<String> {
    require_columns(&state.relation)?;
    let mut statement = Statement::new(engine, Root::new(engine, location)?, exact || needs_exact(state));
    let rows = statement.state(state)?;
    let mut list = Vec::new();
    for ((at, column), name) in (1..).zip(&state.relation.columns).zip(shown_names(engine, &state.relation)) {
        list.push(format!("c{at} AS {}", engine.name(&name)));
        if exact && may_be_inexact(column) {
            list.push(format!("x{at} AS {}", engine.name(&format!("{name}~exact"))));
        }
    }
    let body = format!("SELECT {}\nFROM {rows}", list.join(", "));
    Ok(finished(&statement, &body))
}

/// A statement that gives changes as the source sent them, in order, in the columns of a relation version; with `exact`,
/// also the texts of values that a column cannot hold. Old values are those that the source sent: the key where it
/// changed or the row was deleted, or the whole row.
///
/// # Errors
/// Usage or refused where the engine cannot give them.
pub fn changes(
    engine: Engine,
    location: Location,
    relation: &RelationVersion,
    parts: &[(Vec<Column>, ChangeParts)],
    exact: bool,
) -> Result<String> {
    require_columns(relation)?;
    let mut statement = Statement::new(engine, Root::new(engine, location)?, exact);
    let mut branches = Vec::new();
    for (columns, part) in parts {
        branches.extend(statement.told(columns, part)?);
    }
    if branches.is_empty() {
        return Err(Failure::refused(format!("{} has no changes between these points", relation.name))
            .remedy("name an earlier --from or a later --to"));
    }
    let told = statement.add("told", &branches.join("\nUNION ALL\n"));
    let mut list = TOLD.map(ToOwned::to_owned).to_vec();
    for ((at, column), name) in (1_usize..).zip(&relation.columns).zip(shown_names(engine, relation)) {
        let with_exact = exact && may_be_inexact(column);
        list.push(format!("c{at} AS {}", engine.name(&name)));
        list.extend(with_exact.then(|| format!("x{at} AS {}", engine.name(&format!("{name}~exact")))));
        if is_ever_old(at - 1, parts) {
            list.push(format!("o{at} AS {}", engine.name(&format!("{name}~old"))));
            list.extend(with_exact.then(|| format!("y{at} AS {}", engine.name(&format!("{name}~old~exact")))));
        }
    }
    let body = format!("SELECT {}\nFROM {told}\nORDER BY _lsn, _seq", list.join(", "));
    Ok(finished(&statement, &body))
}

fn finished(statement: &Statement, body: &str) -> String {
    let before: String = statement.root.before.iter().map(|line| format!("{line}\n")).collect();
    format!("{before}WITH {}\n{body}{};\n", statement.queries.join(",\n"), statement.engine.settings())
}

fn require_columns(relation: &RelationVersion) -> Result<()> {
    match relation.columns.is_empty() {
        true => Err(Failure::refused(format!("{} has no columns, so SQL has nothing to select", relation.name))),
        false => Ok(()),
    }
}

/// Whether the source may have sent what the column with this number was before a change.
fn is_ever_old(at: usize, parts: &[(Vec<Column>, ChangeParts)]) -> bool {
    let was_sent = |column: &Column, version: &RelationVersion| {
        let keys = version.key_positions();
        version.position_of(column).is_some_and(|at| keys.contains(&at))
    };
    let mut versions = parts.iter().flat_map(|(columns, part)| {
        let versions = part.by_file.iter().map(|part| &part.relation);
        columns.get(at).into_iter().flat_map(move |column| versions.clone().map(move |version| (column, version)))
    });
    versions.any(|(column, version)| was_sent(column, version))
}

/// Whether rows are told apart by values that a column cannot hold.
fn needs_exact(state: &StateParts) -> bool {
    let here = !state.unique || state.key.iter().any(may_be_inexact);
    // A partitioned table itself has no rows to tell apart.
    match &state.base {
        BaseParts::Leaves(leaves) => leaves.iter().any(needs_exact),
        BaseParts::State(before) => here || needs_exact(before),
        BaseParts::Nothing | BaseParts::Image(_) => here,
    }
}

/// The columns' names: the source's, or the stored ones where the engine could not tell two apart.
fn shown_names(engine: Engine, relation: &RelationVersion) -> Vec<String> {
    let folded = |name: &str| if engine.folds_case() { name.to_lowercase() } else { name.to_owned() };
    let mut seen = HashSet::new();
    let is_clear = relation.columns.iter().all(|column| seen.insert(folded(&column.name)));
    let shown = |column: &Column| if is_clear { column.name.clone() } else { column.stored.clone() };
    relation.columns.iter().map(shown).collect()
}
