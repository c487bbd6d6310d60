//! What the source says of its own definitions: the messages of DDL capture, and one relation's description.

use serde::Deserialize;
use serde_json::Value as Json;

use crate::failure::{Failure, Result};
use crate::model::{BaseType, Column, Identity, RelationVersion, TableName};

/// Prefix of the logical message that tells of a statement that changed definitions.
pub const DDL_PREFIX: &str = "afterimage.ddl";
/// Prefix of the logical message that holds one row of a table whose rows the log does not show otherwise.
pub const ROW_PREFIX: &str = "afterimage.row";

/// Prefix of the empty message after what DDL capture told: a message of a subtransaction can be given out after the
/// change whose record follows it, since its place is where that record begins.
pub const END_PREFIX: &str = "afterimage.end";

/// The tag of a message that tells not of a statement but of what the catalogue shows.
pub const OBSERVED: &str = "OBSERVED";

/// A statement that changed definitions, as `capture/definitions/install.sql` tells it.
#[derive(Debug, Deserialize)]
pub struct DdlMessage {
    /// Whose capture told it.
    pub publication: String,
    pub tag: String,
    pub statement: Option<String>,
    pub user: Option<String>,
    pub application: Option<String>,
    pub client: Option<String>,
    #[serde(default)]
    pub relations: Vec<RelationNow>,
    /// Objects that are no relations.
    #[serde(default)]
    pub objects: Vec<Json>,
    #[serde(default)]
    pub dropped: Vec<Json>,
    /// Why its effects could not be described.
    pub failed: Option<String>,
}

/// A relation after a statement.
#[derive(Debug, Deserialize)]
pub struct RelationNow {
    pub definition: Definition,
    #[serde(default)]
    pub cover: Cover,
    /// Whether its rows follow, where they are not in the log already.
    pub rows: Option<Rows>,
    /// The statement made it.
    #[serde(default)]
    pub created: bool,
}

/// Whether the publication has a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cover {
    /// It has not, and need not.
    #[default]
    None,
    /// It has had it.
    Covered,
    /// It has it since this statement.
    Added,
    /// It should have it, but was locked.
    Pending,
}

/// What became of rows that the log does not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rows {
    /// Each follows in a message.
    Told,
    /// There are too many.
    Omitted,
}

impl DdlMessage {
    /// Reads a message's content.
    ///
    /// # Errors
    /// Where it is not what DDL capture writes; anybody can emit a message under any prefix.
    pub fn parse(content: &[u8]) -> Result<DdlMessage> {
        serde_json::from_slice(content)
            .map_err(|error| Failure::failed(format!("a message {DDL_PREFIX} that is not ours: {error}")))
    }

    /// The oids of the tables that the statement dropped.
    pub fn dropped_tables(&self) -> impl Iterator<Item = u32> {
        let tables = self.dropped.iter().filter(|object| object["type"] == "table");
        tables.filter_map(|object| object["oid"].as_u64().and_then(|oid| u32::try_from(oid).ok()))
    }
}

/// A relation as `capture/definitions/describe.sql` describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    described: Described,
    json: Json,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Described {
    oid: u32,
    schema: String,
    name: String,
    kind: char,
    persistence: char,
    identity: char,
    parent: Option<u32>,
    #[serde(default)]
    columns: Vec<DescribedColumn>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct DescribedColumn {
    number: i16,
    name: String,
    type_oid: u32,
    #[serde(rename = "type")]
    type_name: String,
    modifier: i32,
    base_oid: Option<u32>,
    base_modifier: Option<i32>,
    #[serde(default)]
    key: bool,
    missing: Option<String>,
    generated: Option<Json>,
    /// Computed by the source, which does not publish it.
    #[serde(default)]
    left_out: bool,
    default: Option<String>,
    identity: Option<char>,
}

impl<'de> Deserialize<'de> for Definition {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Definition, D::Error> {
        let json = Json::deserialize(deserializer)?;
        let described = Described::deserialize(&json).map_err(serde::de::Error::custom)?;
        Ok(Definition { described, json })
    }
}

impl Definition {
    /// Reads one JSON object.
    ///
    /// # Errors
    /// Where it is not what `describe.sql` gives.
    pub fn parse(json: &str) -> Result<Definition> {
        serde_json::from_str(json)
            .map_err(|error| Failure::failed(format!("the source's description of a table: {error}")))
    }

    pub fn oid(&self) -> u32 {
        self.described.oid
    }

    /// Everything the source said.
    pub fn json(&self) -> &Json {
        &self.json
    }

    /// A permanent table whose rows are in the log.
    pub fn is_logged_table(&self) -> bool {
        self.described.kind == 'r' && self.described.persistence == 'p'
    }

    /// A table, whether its rows are in the log or not; partitioned ones too.
    pub fn is_table(&self) -> bool {
        matches!(self.described.kind, 'r' | 'p') && self.described.persistence != 't'
    }

    /// Whether rows from before a column was added must have been written anew for it: it has a default that is not one
    /// constant for all of them.
    pub fn was_filled_in(&self, column: i16) -> bool {
        let found = self.described.columns.iter().find(|known| known.number == column);
        found.is_some_and(|column| match column.generated {
            Some(_) => !column.left_out,
            None => column.missing.is_none() && (column.default.is_some() || column.identity.is_some()),
        })
    }

    /// The relation version that the stream's messages mean; stored names are the archive's to give.
    pub fn relation(&self) -> RelationVersion {
        let Described { oid, schema, name, kind, identity, parent, columns, .. } = &self.described;
        let (left_out, published): (Vec<_>, Vec<_>) = columns.iter().partition(|column| column.left_out);
        let name = TableName::new(schema, name);
        let columns = published.into_iter().map(DescribedColumn::column).collect();
        RelationVersion {
            left_out: left_out.into_iter().map(|column| column.name.clone()).collect(),
            partitioned: *kind == 'p',
            parent: *parent,
            ..RelationVersion::new(*oid, name, Identity::of_letter(*identity), columns)
        }
    }
}

impl DescribedColumn {
    fn column(&self) -> Column {
        Column {
            type_name: self.type_name.clone(),
            number: self.number,
            base: self.base_oid.map(|oid| BaseType { oid, modifier: self.base_modifier.unwrap_or(-1) }),
            missing: self.missing.clone(),
            ..Column::new(self.name.as_str(), self.type_oid, self.modifier, self.key)
        }
    }
}

/// The table that a message [`ROW_PREFIX`] is of, and its row as a composite's text.
pub fn told_row(content: &[u8]) -> Option<(u32, &[u8])> {
    let blank = content.iter().position(|byte| *byte == b' ')?;
    let oid = std::str::from_utf8(&content[..blank]).ok()?.parse().ok()?;
    Some((oid, &content[blank + 1..]))
}
