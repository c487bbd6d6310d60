//! What should stand in a table, against the columns that it has now.
//!
//! Rows and keys go into temporary tables with the live columns' own types, so that PostgreSQL reads the values as it
//! read them once, and joins by the key's own index.

use super::catalog::LiveTable;
use super::columns::LiveColumn;
use super::wanted::Wanted;
use super::workspace::Workspace;
use crate::failure::{Failure, Result};
use crate::model::{Column, Identity, TableName, quote_identifier};

/// How rows of the point and live rows find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Matching {
    /// By a unique key: positions among the shared columns, each with its equality.
    Key(Vec<(usize, String)>),
    /// By their whole text; of several equal rows each stands for one.
    WholeRow,
}

/// A column that the table had at the point and has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shared {
    /// What it is called now.
    pub(super) name: String,
    /// Its position in the rows of the archive.
    pub(super) position: usize,
    /// No update can set it.
    pub(super) insert_only: bool,
}

#[cfg(test)]
impl Shared {
    pub(super) fn for_tests(name: &str, position: usize, insert_only: bool) -> Shared {
        Shared { name: name.into(), position, insert_only }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Desired {
    /// Tells the temporary tables apart.
    pub(super) index: usize,
    /// What the table is called now.
    pub(super) name: TableName,
    pub(super) live: LiveTable,
    pub(super) columns: Vec<Shared>,
    pub(super) matching: Matching,
    /// Every row counts, not only those under keys that changed.
    pub(super) everything: bool,
    /// Positions among the shared columns of what the table of keys holds.
    pub(super) key_columns: Vec<usize>,
    /// Columns that are gone.
    pub(super) dropped: Vec<String>,
    /// Columns that are new.
    pub(super) added: Vec<String>,
    /// Columns that PostgreSQL computes.
    pub(super) generated: Vec<String>,
    /// The rows were read as text, because not all of them fit the present types: see [`super::reading`].
    pub(super) as_text: bool,
    /// The types that the texts of the shared columns are of, as SQL spells them.
    pub(super) types: Vec<String>,
    /// There are rows that the live ones must be equal to.
    pub(super) expects: bool,
    /// How many keys changed, where that is known.
    pub(super) sought: u64,
    /// The keys that changed are those of the rows of the point, and there is no table of them.
    pub(super) keys_of_rows: bool,
}

impl Desired {
    /// Reads the archive into the workspace's temporary tables.
    pub(super) async fn load(
        workspace: &Workspace<'_>,
        index: usize,
        wanted: &Wanted,
        name: TableName,
        live: LiveTable,
    ) -> Result<Desired> {
        if let Some(rule) = live.rules.first() {
            return Err(Failure::refused(format!("the rule {rule} would turn the restore into something else"))
                .remedy(format!("ALTER TABLE {} DISABLE RULE {};", name.to_sql(), quote_identifier(rule))));
        }
        let mut desired = Desired::describe(index, wanted, name, live)?;
        desired.stage(workspace, wanted).await?;
        Ok(desired)
    }

    fn describe(index: usize, wanted: &Wanted, name: TableName, live: LiveTable) -> Result<Desired> {
        let relation = &wanted.relation;
        let same_table = relation.oid == live.oid;
        let mut columns: Vec<Shared> = Vec::new();
        let mut dropped = Vec::new();
        for (position, column) in relation.columns.iter().enumerate() {
            match live_column(&live, column, same_table) {
                Some(live) if live.generated => {}
                Some(live) => {
                    columns.push(Shared { name: live.name.clone(), position, insert_only: live.always_identity })
                }
                None => dropped.push(column.name.clone()),
            }
        }
        let at = |name: &str| columns.iter().position(|column| column.name == name);
        let keys: Vec<&str> = wanted
            .key
            .iter()
            .filter_map(|key| live_column(&live, key, same_table))
            .map(|column| column.name.as_str())
            .collect();
        let everything = wanted.everything;
        let is_archive_key = |name: &str| everything || keys.contains(&name);
        let usable = live
            .keys
            .iter()
            .find(|key| key.iter().all(|column| at(&column.name).is_some() && is_archive_key(&column.name)));
        let matching = match usable {
            Some(key) => Matching::Key(
                key.iter().filter_map(|column| at(&column.name).zip(Some(column.equals.clone()))).collect(),
            ),
            None if everything || relation.identity == Identity::Full => Matching::WholeRow,
            None => return Err(no_unique_key(wanted, &name)),
        };
        let key_columns = match &matching {
            Matching::Key(parts) => parts.iter().map(|(at, _)| *at).collect(),
            Matching::WholeRow => keys.iter().filter_map(|key| at(key)).collect(),
        };
        let is_shared = |name: &str| at(name).is_some();
        let added = live.columns.iter().filter(|column| !column.generated && !is_shared(&column.name));
        let added = added.map(|column| column.name.clone()).collect();
        let generated = live.columns.iter().filter(|column| column.generated);
        let generated = generated.map(|column| column.name.clone()).collect();
        let type_of = |column: &Shared| live.columns.iter().find(|live| live.name == column.name);
        let types = columns.iter().map(|column| type_of(column).map_or(String::new(), |live| live.type_sql.clone()));
        let types = types.collect();
        Ok(Desired {
            index,
            types,
            name,
            live,
            columns,
            matching,
            everything,
            key_columns,
            dropped,
            added,
            generated,
            as_text: false,
            expects: wanted.expected.is_some(),
            sought: wanted.keys.len() as u64,
            keys_of_rows: false,
        })
    }

    /// The live column of a shared one.
    pub(super) fn live_column(&self, at: usize) -> Option<&LiveColumn> {
        self.live.columns.iter().find(|live| live.name == self.columns[at].name)
    }

    /// A live row's value of a shared column, of the type that temporary tables have: without what a domain demands.
    pub(super) fn live_value(&self, alias: &str, at: usize) -> String {
        let column = format!("{alias}.{}", quote_identifier(&self.columns[at].name));
        match self.live_column(at).filter(|live| live.domain.is_some()) {
            Some(live) => format!("CAST({column} AS {})", live.type_sql),
            None => column,
        }
    }

    /// What can stand behind FROM to give the keys that changed, columns `k0`, `k1`, ….
    pub(super) fn concerned_keys(&self) -> String {
        match self.keys_of_rows {
            true => {
                let columns = self.key_columns.iter().enumerate().map(|(key, at)| format!("t.c{at} AS k{key}"));
                format!("(SELECT {} FROM {} AS t)", columns.collect::<Vec<_>>().join(", "), self.rows())
            }
            false => self.keys(),
        }
    }

    /// The temporary table of the keys that changed, columns `k0`, `k1`, ….
    pub(super) fn keys(&self) -> String {
        format!("pg_temp.afterimage_keys_{}", self.index)
    }

    /// The temporary table of the rows of the point, columns `c0`, `c1`, …, then `afterimage_hash`.
    pub(super) fn rows(&self) -> String {
        format!("pg_temp.afterimage_rows_{}", self.index)
    }

    /// The temporary table of the rows that the live ones must be equal to, columns `c0`, `c1`, ….
    pub(super) fn expected_rows(&self) -> String {
        format!("pg_temp.afterimage_expected_{}", self.index)
    }
}

/// What a table has now of an archived column: by its number where it is the same table, else by its name.
fn live_column<'l>(live: &'l LiveTable, column: &Column, same_table: bool) -> Option<&'l LiveColumn> {
    live.columns.iter().find(|known| match same_table && column.number != 0 {
        true => known.number == column.number,
        false => known.name == column.name,
    })
}

fn no_unique_key(wanted: &Wanted, name: &TableName) -> Failure {
    let columns: Vec<String> = wanted.key.iter().map(|column| quote_identifier(&column.name)).collect();
    let columns = columns.join(", ");
    Failure::failed(format!("it has no unique key any more on the columns ({columns}) that tell its rows apart"))
        .remedy(format!("ALTER TABLE {} ADD UNIQUE ({columns});", name.to_sql()))
}
