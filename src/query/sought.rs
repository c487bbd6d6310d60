//! The row that a person names by its key.
//!
//! Rows are told apart by the table's replica identity, which says what of a row its changes have for certain. A table whose
//! identity is the whole row mostly has a primary key all the same: then each change says both rows whole, and is held
//! against the key.

use std::collections::{HashMap, HashSet};

use serde_json::Value as Json;

use super::Told;
use crate::archive::Archive;
use crate::columnar::RowText;
use crate::failure::{Failure, Result};
use crate::history::{Chronicle, KeySet, key_of_fields};
use crate::model::{Identity, RelationVersion};

/// The primary keys of tables whose identity is the whole row, by their oids.
pub struct PrimaryKeys(HashMap<u32, Vec<String>>);

impl PrimaryKeys {
    /// Those that are needed to tell rows of some tables apart.
    ///
    /// # Errors
    /// As the store says.
    pub async fn of<'r>(
        archive: &Archive,
        relations: impl IntoIterator<Item = &'r RelationVersion>,
    ) -> Result<PrimaryKeys> {
        let full: HashSet<u32> =
            relations.into_iter().filter(|one| one.identity == Identity::Full).map(|one| one.oid).collect();
        if full.is_empty() {
            return Ok(PrimaryKeys(HashMap::new()));
        }
        let mut records = archive.definitions(None).await?;
        records.retain(|record| full.contains(&record.relation.oid));
        // The latest says how it is now.
        let keys =
            records.into_iter().filter_map(|record| Some((record.relation.oid, primary_key(&record.definition?)?)));
        Ok(PrimaryKeys(keys.collect()))
    }

    /// The columns that tell a table's rows apart, in the order of the table's; none where there are no such.
    pub fn row_key<'r>(&self, relation: &'r RelationVersion) -> Vec<&'r str> {
        let primary = self.0.get(&relation.oid).filter(|_| relation.identity == Identity::Full);
        let names = relation.columns.iter().filter(|column| match primary {
            Some(primary) => primary.contains(&column.name),
            None => relation.has_unique_key() && column.key,
        });
        names.map(|column| column.name.as_str()).collect()
    }
}

/// The columns of the primary key in what the source said of a table.
fn primary_key(definition: &str) -> Option<Vec<String>> {
    let definition: Json = serde_json::from_str(definition).ok()?;
    let constraint = definition["constraints"].as_array()?.iter().find(|one| one["type"] == "p")?;
    let columns = constraint["definition"].as_str()?.strip_prefix("PRIMARY KEY (")?;
    Some(identifiers(columns))
}

/// The identifiers of a list up to its closing parenthesis, as PostgreSQL writes them.
fn identifiers(list: &str) -> Vec<String> {
    let (mut names, mut name, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = list.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => name.extend(characters.next()),
            '"' => quoted = !quoted,
            ',' | ')' if !quoted => {
                names.push(std::mem::take(&mut name));
                if character == ')' {
                    break;
                }
            }
            ' ' if !quoted => {}
            _ => name.push(character),
        }
    }
    names
}

/// The columns that tell the rows of a chronicle apart; none where there are no such.
///
/// # Errors
/// As the store says.
pub async fn row_key(chronicle: &Chronicle) -> Result<Vec<String>> {
    let relation = chronicle.relation();
    Ok(match chronicle.unique_key() {
        Some(key) => key.into_iter().map(|column| column.name).collect(),
        None if relation.identity != Identity::Full => Vec::new(),
        None => {
            let primary = PrimaryKeys::of(chronicle.archive(), [relation]).await?;
            primary.row_key(relation).into_iter().map(str::to_owned).collect()
        }
    })
}

/// See the module's documentation.
pub struct Sought {
    keys: Option<KeySet>,
    /// What the columns at these places must be, where no set of keys says it.
    values: Vec<(usize, String)>,
}

impl Sought {
    /// The row with these values of the key's columns, in their order.
    ///
    /// # Errors
    /// Usage where the table has no key, or another number of columns in it.
    pub async fn row(chronicle: &Chronicle, values: &[String]) -> Result<Sought> {
        let (name, key) = (&chronicle.relation().name, row_key(chronicle).await?);
        if key.is_empty() {
            return Err(Failure::usage(format!("{name} has no key, so its rows are not told apart by one")).remedy(
                format!("afterimage query \"SELECT * FROM changes('{name}') WHERE …\" finds them by any column"),
            ));
        }
        if key.len() != values.len() {
            return Err(Failure::usage(format!(
                "the key of {name} is {}: {} values were given",
                key.join(", "),
                values.len()
            ))
            .remedy(format!("give one value for each, in this order: {}", key.join(" "))));
        }
        if chronicle.unique_key().is_some() {
            let key = key_of_fields(values.iter().map(|value| Some(value.as_bytes())));
            return Ok(Sought { keys: Some(KeySet::from([key.into()])), values: Vec::new() });
        }
        let place = |name: &String| chronicle.columns().iter().position(|column| column.name == *name);
        let values = key.iter().zip(values).filter_map(|(name, value)| Some((place(name)?, value.clone())));
        Ok(Sought { keys: None, values: values.collect() })
    }

    /// What has to be told to find all of it.
    pub fn narrow(&self, chronicle: Chronicle) -> Chronicle {
        match &self.keys {
            Some(keys) => chronicle.with_keys(keys.clone()),
            None => chronicle,
        }
    }

    /// Whether a change of that is one of the row, of which the change before was `last`.
    pub fn is_in(&self, told: &Told, last: Option<&Told>) -> bool {
        let is_it = |row: &RowText| self.values.iter().all(|(at, value)| row.field(*at) == Some(value.as_bytes()));
        let truncated = told.old.is_none() && told.new.is_none() && last.is_some_and(|last| last.new.is_some());
        self.keys.is_some() || truncated || told.old.iter().chain(&told.new).any(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_key_is_read_as_postgresql_writes_it() {
        let key = |text: &str| {
            let constraints =
                serde_json::json!([{ "type": "c", "definition": "CHECK (a)" }, { "type": "p", "definition": text }]);
            primary_key(&serde_json::json!({ "constraints": constraints }).to_string())
        };
        assert_eq!(key("PRIMARY KEY (id)").unwrap(), ["id"]);
        assert_eq!(key("PRIMARY KEY (\"a \"\", b)\", c) INCLUDE (d)").unwrap(), ["a \", b)", "c"]);
        assert_eq!(key("UNIQUE (id)"), None);
        assert_eq!(primary_key("{}"), None);
    }
}
