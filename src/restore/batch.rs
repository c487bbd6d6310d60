//! `--batch-rows`: very large damage in several transactions, each with the guarantees of one.
//!
//! Every batch is worked out anew, so that whoever stops in between only has to begin again. Rows come back parents first, then
//! others change, then rows go, children first: in between there is more than there was at the point, and never a row that
//! refers to nothing. Within a table that refers to itself it is the same, row by row. What refers to each other in a circle
//! comes and goes in one batch, however large that is.

use super::catalog::ForeignKey;
use super::classes::Class;
use super::difference::{Difference, staged};
use super::order;
use super::workspace::{Differences, Workspace};
use crate::failure::Result;

/// Leaves the operations of one batch, and says for each table how many wait for later ones.
pub(super) async fn restrict(workspace: &Workspace<'_>, differences: &mut Differences, rows: u64) -> Result<Vec<u64>> {
    let before: Vec<u64> = differences.tables.iter().map(|table| table.counts.rows()).collect();
    if before.iter().sum::<u64>() > rows {
        let groups = groups(differences);
        let mut left = rows;
        for class in [Class::Deleted, Class::Updated, Class::Inserted] {
            for at in 0..groups.len() {
                let at = if class == Class::Inserted { groups.len() - 1 - at } else { at };
                let taken = take(workspace, differences, &groups[at], class, left).await?;
                left = left.saturating_sub(taken);
            }
        }
        for table in &mut differences.tables {
            table.recount(workspace).await?;
        }
    }
    Ok(before.iter().zip(&differences.tables).map(|(before, table)| before - table.counts.rows()).collect())
}

/// The tables in their order, those of a circle together at the place of the first.
fn groups(differences: &Differences) -> Vec<Vec<usize>> {
    let at = |oid: u32| differences.tables.iter().position(|table| table.live.oid == oid && table.counts.rows() > 0);
    let edges = differences.foreign_keys.iter().filter_map(|key| Some((at(key.parent)?, at(key.child)?)));
    let edges: Vec<(usize, usize)> = edges.filter(|(parent, child)| parent != child).collect();
    order::groups(differences.tables.len(), &edges)
}

/// Leaves so many operations of a class at most, or all of a circle, and says how many there are.
async fn take(
    workspace: &Workspace<'_>,
    differences: &Differences,
    group: &[usize],
    class: Class,
    most: u64,
) -> Result<u64> {
    let tables = || group.iter().map(|at| &differences.tables[*at]);
    let count_of = |table: &Difference| *table.counts.clone().of(class);
    let count: u64 = tables().map(count_of).sum();
    if count <= most || group.len() > 1 && most > 0 {
        return Ok(count);
    }
    let mut left = count;
    for table in tables().filter(|table| count_of(table) > 0) {
        let own = |key: &&ForeignKey| key.child == table.live.oid && key.parent == table.live.oid;
        let keys: Vec<&ForeignKey> = differences.foreign_keys.iter().filter(own).collect();
        let kept = match edges_sql(table, &keys) {
            Some(edges) if class != Class::Updated => kept_in_order_sql(table, class, &edges, most),
            _ => format!(
                "SELECT o.ctid FROM {} AS o WHERE o.afterimage_class = '{}' ORDER BY o.ctid LIMIT {most}",
                table.operations(),
                class.as_str()
            ),
        };
        let sql = format!(
            "DELETE FROM {} WHERE afterimage_class = '{}' AND ctid NOT IN ({kept})",
            table.operations(),
            class.as_str()
        );
        left -= workspace.execute(&sql).await?;
    }
    Ok(left)
}

/// Pairs of planned rows of which the second refers to the first; `None` where the table does not refer to itself.
fn edges_sql(table: &Difference, keys: &[&ForeignKey]) -> Option<String> {
    let pairs = keys.iter().filter_map(|key| {
        let (parent, child) = (table.positions(key.referenced())?, table.positions(key.referring())?);
        let equal = key.refers(staged("p", &parent), staged("c", &child));
        Some(format!(
            "SELECT p.operation AS parent, c.operation AS child FROM planned AS p JOIN planned AS c ON {equal} \
             WHERE p.operation <> c.operation"
        ))
    });
    let pairs: Vec<String> = pairs.collect();
    (!pairs.is_empty()).then(|| pairs.join(" UNION "))
}

/// The operations that come first: rows that come back after those that they refer to, rows that go before. Those that no
/// order reaches, because they hang on a circle, come all at once when nothing else is left.
fn kept_in_order_sql(table: &Difference, class: Class, edges: &str, most: u64) -> String {
    let (rows, place, at, direction) = match class {
        Class::Inserted => (table.live_rows(), "afterimage_tid", "afterimage_live", "DESC"),
        _ => (table.rows(), "ctid", "afterimage_then", "ASC"),
    };
    format!(
        "WITH RECURSIVE planned AS MATERIALIZED (\
           SELECT o.ctid AS operation, s.* FROM {operations} AS o JOIN {rows} AS s ON s.{place} = o.{at} \
           WHERE o.afterimage_class = '{class}'), \
         edges AS MATERIALIZED ({edges}), \
         reached(operation, depth) AS (\
           SELECT p.operation, 0 FROM planned AS p WHERE NOT EXISTS (SELECT FROM edges AS e WHERE e.child = p.operation) \
           UNION SELECT e.child, r.depth + 1 FROM reached AS r JOIN edges AS e ON e.parent = r.operation \
           WHERE r.depth < (SELECT count(*) FROM planned)), \
         ranked AS MATERIALIZED (\
           SELECT p.operation, max(r.depth) AS depth FROM planned AS p LEFT JOIN reached AS r ON r.operation = p.operation \
           GROUP BY 1) \
         (SELECT k.operation FROM ranked AS k WHERE k.depth IS NOT NULL ORDER BY k.depth {direction}, k.operation \
          LIMIT {most}) \
         UNION ALL SELECT k.operation FROM ranked AS k WHERE k.depth IS NULL \
           AND (SELECT count(*) FROM ranked AS other WHERE other.depth IS NOT NULL) < {most}",
        operations = table.operations(),
        class = class.as_str()
    )
}
