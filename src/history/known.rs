//! The archived definitions as they were at a point.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value as Json;

use crate::archive::Archive;
use crate::failure::Result;
use crate::model::{Lsn, RelationEvent, RelationRecord, TableName};

/// See the module's documentation.
#[derive(Debug)]
pub struct Known {
    /// Tables and partitioned tables by their numbers, as the source described them.
    pub tables: BTreeMap<u32, Json>,
    /// What is no table, by kind and name: `type`, `function`, `schema`, `sequence`, `view`.
    objects: BTreeMap<(String, String), Json>,
    /// What sequences stood at: the latest value and whether it had been given out.
    samples: HashMap<TableName, (i64, bool)>,
}

impl Known {
    /// Reads what was known before a cut.
    ///
    /// # Errors
    /// As the archive says.
    pub async fn before(archive: &Archive, cut: Lsn) -> Result<Known> {
        let start = archive.identity().start_lsn;
        let holds = |lsn: Lsn| lsn < cut || lsn <= start;
        let mut tables = BTreeMap::new();
        for record in archive.definitions(None).await?.iter().filter(|record| holds(record.position.lsn)) {
            note_table(&mut tables, record);
        }
        let mut objects = BTreeMap::new();
        for record in archive.ddl(Lsn(u64::MAX)).await?.iter().filter(|record| holds(record.position.lsn)) {
            let list = |json: &str| serde_json::from_str::<Vec<Json>>(json).unwrap_or_default();
            for dropped in list(&record.dropped) {
                if let Some(key) = key_of(&dropped) {
                    objects.remove(&key);
                }
            }
            for object in list(&record.objects) {
                note_object(&mut objects, object);
            }
        }
        let samples = archive.sequences(cut).await?.into_iter();
        let samples = samples.map(|sample| (sample.name, (sample.value, sample.called))).collect();
        Ok(Known { tables, objects, samples })
    }

    /// Another object, by its kind and its name as PostgreSQL writes it.
    pub fn object(&self, kind: &str, name: &str) -> Option<&Json> {
        self.objects.get(&(kind.to_owned(), name.to_owned()))
    }

    /// The objects of a kind in a schema, with their names.
    pub fn objects_in<'k>(&'k self, kind: &'k str, schema: &'k str) -> impl Iterator<Item = (&'k str, &'k Json)> {
        let prefix = format!("{}.", TableName::new(schema, "x").to_string().trim_end_matches(".x"));
        let of_kind = self.objects.iter().filter(move |((known, _), _)| known == kind);
        of_kind.filter(move |((_, name), _)| name.starts_with(&prefix)).map(|((_, name), json)| (name.as_str(), json))
    }

    /// All objects of a kind, with their names.
    pub fn all<'k>(&'k self, kind: &'k str) -> impl Iterator<Item = (&'k str, &'k Json)> {
        let of_kind = self.objects.iter().filter(move |((known, _), _)| known == kind);
        of_kind.map(|((_, name), json)| (name.as_str(), json))
    }

    /// What a sequence stood at last: the value, and whether it had been given out.
    pub fn sample(&self, sequence: &TableName) -> Option<(i64, bool)> {
        self.samples.get(sequence).copied()
    }

    /// The foreign keys of other tables that refer to one: the table, the constraint's name and its definition.
    pub fn referring_to(&self, oid: u32, name: &TableName) -> Vec<(TableName, String, String)> {
        let target = format!(" REFERENCES {name}(");
        let mut found = Vec::new();
        for (_, table) in self.tables.iter().filter(|(known, _)| **known != oid) {
            for constraint in table["constraints"].as_array().into_iter().flatten() {
                let definition = constraint["definition"].as_str().unwrap_or_default();
                if constraint["type"] == "f" && definition.contains(&target) && constraint["inherited"] != true {
                    let name = constraint["name"].as_str().unwrap_or_default();
                    found.push((table_name(table), name.to_owned(), definition.to_owned()));
                }
            }
        }
        found
    }
}

fn note_table(tables: &mut BTreeMap<u32, Json>, record: &RelationRecord) {
    let oid = record.relation.oid;
    if record.event == RelationEvent::Dropped {
        tables.remove(&oid);
    } else if let Some(definition) = record.definition.as_deref().and_then(|json| serde_json::from_str(json).ok()) {
        tables.insert(oid, definition);
    }
}

fn note_object(objects: &mut BTreeMap<(String, String), Json>, object: Json) {
    let kind = match object["kind"].as_str() {
        Some("S") => "sequence",
        Some("v") => "view",
        Some("m") => "materialized view",
        Some(_) => return,
        None => {
            if let Some(key) = key_of(&object) {
                objects.insert(key, object["definition"].clone());
            }
            return;
        }
    };
    objects.insert((kind.to_owned(), table_name(&object).to_string()), object);
}

/// Kind and name of an object; a domain is a type like others.
fn key_of(object: &Json) -> Option<(String, String)> {
    let (kind, name) = (object["type"].as_str()?, object["identity"].as_str()?);
    let kind = match kind {
        "domain" | "composite type" => "type",
        "procedure" => "function",
        kind => kind,
    };
    Some((kind.to_owned(), name.to_owned()))
}

/// What a described relation is called.
pub fn table_name(definition: &Json) -> TableName {
    let text = |name: &str| definition[name].as_str().unwrap_or_default().to_owned();
    TableName::new(text("schema"), text("name"))
}
