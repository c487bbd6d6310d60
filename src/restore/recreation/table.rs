//! The statements that make a table again, from what the source once said of it.

use serde_json::Value as Json;

use crate::history::{Known, table_name};
use crate::model::{TableName, quote_identifier, quote_literal};

/// A table's definition, under the name that it shall have.
pub(in super::super) struct Recipe<'a> {
    pub(in super::super) definition: &'a Json,
    pub(in super::super) name: TableName,
}

fn text<'j>(json: &'j Json, name: &str) -> &'j str {
    json[name].as_str().unwrap_or_default()
}

fn entries<'j>(json: &'j Json, name: &str) -> impl Iterator<Item = &'j Json> {
    json[name].as_array().into_iter().flatten()
}

impl<'a> Recipe<'a> {
    pub(in super::super) fn new(definition: &'a Json) -> Recipe<'a> {
        Recipe { definition, name: table_name(definition) }
    }

    /// The same table elsewhere.
    pub(in super::super) fn within(definition: &'a Json, schema: &str) -> Recipe<'a> {
        let name = TableName::new(schema, table_name(definition).table);
        Recipe { definition, name }
    }

    pub(in super::super) fn columns(&self) -> impl Iterator<Item = &'a Json> {
        entries(self.definition, "columns")
    }

    /// The statement that makes it, with columns, defaults and NOT NULL; as a partition of `parent` where it is one.
    pub(in super::super) fn create(&self, parent: Option<&TableName>) -> String {
        let unlogged = if text(self.definition, "persistence") == "u" { "UNLOGGED " } else { "" };
        let head = format!("CREATE {unlogged}TABLE {}", self.name.to_sql());
        if let (Some(parent), Some(bound)) = (parent, self.definition["partition_bound"].as_str()) {
            return format!("{head} PARTITION OF {} {bound}{}", parent.to_sql(), self.partition_key());
        }
        let columns: Vec<String> = self.columns().map(|column| self.column(column)).collect();
        let inherits: Vec<&str> = entries(self.definition, "inherits").filter_map(Json::as_str).collect();
        let inherits = match inherits.is_empty() {
            true => String::new(),
            false => format!(" INHERITS ({})", inherits.join(", ")),
        };
        let options: Vec<&str> = entries(self.definition, "options").filter_map(Json::as_str).collect();
        let options = if options.is_empty() { String::new() } else { format!(" WITH ({})", options.join(", ")) };
        format!("{head} ({}){inherits}{}{options}", columns.join(", "), self.partition_key())
    }

    fn partition_key(&self) -> String {
        self.definition["partition_key"].as_str().map_or(String::new(), |key| format!(" PARTITION BY {key}"))
    }

    fn column(&self, column: &Json) -> String {
        let mut sql = format!("{} {}", quote_identifier(text(column, "name")), text(column, "type"));
        if let Some(collation) = column["collation"].as_str() {
            sql.push_str(&format!(" COLLATE {collation}"));
        }
        if let Some(generated) = column["generated"].as_object() {
            let kind = if generated["kind"] == "v" { "VIRTUAL" } else { "STORED" };
            let expression = generated["expression"].as_str().unwrap_or_default();
            sql.push_str(&format!(" GENERATED ALWAYS AS ({expression}) {kind}"));
        } else if let Some(identity) = column["identity"].as_str() {
            let when = if identity == "a" { "ALWAYS" } else { "BY DEFAULT" };
            let sequence = match (column["sequence"].as_str(), self.is_moved()) {
                (Some(name), false) => format!(" (SEQUENCE NAME {name})"),
                _ => String::new(),
            };
            sql.push_str(&format!(" GENERATED {when} AS IDENTITY{sequence}"));
        } else if let Some(default) = column["default"].as_str() {
            sql.push_str(&format!(" DEFAULT {default}"));
        }
        if column["not_null"] == true {
            sql.push_str(" NOT NULL");
        }
        sql
    }

    fn is_moved(&self) -> bool {
        self.name != table_name(self.definition)
    }

    /// Keys, checks and exclusions, then the indexes that belong to no constraint; those that a partition has from its parent
    /// are left out.
    pub(in super::super) fn keys_and_indexes(&self) -> Vec<String> {
        let partition = self.definition["partition_bound"].is_string();
        let wanted = |constraint: &&Json| {
            let kind = text(constraint, "type");
            matches!(kind, "p" | "u" | "x" | "c") && constraint["inherited"] != true && !(partition && kind != "c")
        };
        let mut statements: Vec<String> =
            entries(self.definition, "constraints").filter(wanted).map(|constraint| self.add(constraint)).collect();
        let own = |index: &&Json| index["constraint"].is_null() && !partition;
        statements.extend(entries(self.definition, "indexes").filter(own).map(|index| self.index(index)));
        statements
    }

    fn index(&self, index: &Json) -> String {
        let definition = text(index, "definition");
        match self.is_moved() {
            true => {
                let (from, to) = (table_name(self.definition).to_string(), self.name.to_string());
                definition.replacen(&format!(" ON {from} "), &format!(" ON {to} "), 1)
            }
            false => definition.to_owned(),
        }
    }

    fn add(&self, constraint: &Json) -> String {
        let (name, definition) = (quote_identifier(text(constraint, "name")), text(constraint, "definition"));
        format!("ALTER TABLE {} ADD CONSTRAINT {name} {definition}", self.name.to_sql())
    }

    /// Foreign keys with the names of the tables that they refer to, as PostgreSQL writes them.
    pub(in super::super) fn foreign_keys(&self) -> Vec<(String, String)> {
        let own = |constraint: &&Json| text(constraint, "type") == "f" && constraint["inherited"] != true;
        let parent = |constraint: &Json| {
            let rest = text(constraint, "definition").split_once(" REFERENCES ").map_or("", |(_, rest)| rest);
            rest.split('(').next().unwrap_or_default().to_owned()
        };
        let keys = entries(self.definition, "constraints").filter(own);
        keys.map(|constraint| (self.add(constraint), parent(constraint))).collect()
    }

    /// The columns that draw from a sequence of their own by their default, each with the sequence.
    fn drawing(&self) -> impl Iterator<Item = (&'a Json, TableName)> {
        let drawing = self.columns().filter(|column| !column["identity"].is_string());
        drawing.filter_map(|column| Some((column, TableName::parse(column["sequence"].as_str()?)?)))
    }

    /// Those sequences.
    pub(in super::super) fn sequences(&self) -> Vec<TableName> {
        self.drawing().map(|(_, sequence)| sequence).collect()
    }

    /// The statements that tie them to their columns.
    pub(in super::super) fn own_sequences(&self) -> Vec<String> {
        let own = |(column, sequence): (&Json, TableName)| {
            let column = quote_identifier(text(column, "name"));
            format!("ALTER SEQUENCE {} OWNED BY {}.{column}", sequence.to_sql(), self.name.to_sql())
        };
        self.drawing().map(own).collect()
    }

    /// The statements that move its sequences past its rows, and to where they stood.
    pub(in super::super) fn sequences_moved(&self, known: &Known) -> Vec<String> {
        let mut statements = Vec::new();
        for column in self.columns() {
            let Some(sequence) = column["sequence"].as_str().and_then(TableName::parse) else { continue };
            let (stood, called) = known.sample(&sequence).unwrap_or((1, false));
            let column = quote_identifier(text(column, "name"));
            statements.push(format!(
                "SELECT setval({}::regclass, GREATEST(max({column}), {stood}), {called} OR max({column}) IS NOT NULL) FROM {}",
                quote_literal(&sequence.to_sql()),
                self.name.to_sql()
            ));
        }
        statements
    }

    /// What tells its rows apart in the log.
    pub(in super::super) fn identity(&self) -> Option<String> {
        let index = self.definition["identity_index"].as_str();
        let how = match (text(self.definition, "identity"), index) {
            ("f", _) => "FULL".to_owned(),
            ("n", _) => "NOTHING".to_owned(),
            ("i", Some(index)) => format!("USING INDEX {}", quote_identifier(index)),
            _ => return None,
        };
        Some(format!("ALTER TABLE {} REPLICA IDENTITY {how}", self.name.to_sql()))
    }

    /// Comments on it, its columns, constraints and indexes.
    pub(in super::super) fn comments(&self) -> Vec<String> {
        let table = self.name.to_sql();
        let comment = |what: String, json: &Json| {
            json["comment"].as_str().map(|comment| format!("COMMENT ON {what} IS {}", quote_literal(comment)))
        };
        let mut statements: Vec<String> = comment(format!("TABLE {table}"), self.definition).into_iter().collect();
        for column in self.columns() {
            let name = quote_identifier(text(column, "name"));
            statements.extend(comment(format!("COLUMN {table}.{name}"), column));
        }
        for constraint in entries(self.definition, "constraints") {
            let name = quote_identifier(text(constraint, "name"));
            statements.extend(comment(format!("CONSTRAINT {name} ON {table}"), constraint));
        }
        for index in entries(self.definition, "indexes") {
            let name = TableName::new(self.name.schema.as_str(), text(index, "name")).to_sql();
            statements.extend(comment(format!("INDEX {name}"), index));
        }
        statements
    }

    /// Triggers, each with its state, and rules.
    pub(in super::super) fn triggers_and_rules(&self) -> Vec<String> {
        let table = self.name.to_sql();
        let mut statements = Vec::new();
        for (list, kind) in [("triggers", "TRIGGER"), ("rules", "RULE")] {
            for entry in entries(self.definition, list) {
                let name = quote_identifier(text(entry, "name"));
                statements.push(text(entry, "definition").to_owned());
                let state = match text(entry, "enabled") {
                    "D" => "DISABLE",
                    "R" => "ENABLE REPLICA",
                    "A" => "ENABLE ALWAYS",
                    _ => continue,
                };
                statements.push(format!("ALTER TABLE {table} {state} {kind} {name}"));
            }
        }
        statements
    }

    /// Policies, whether they are in force, statistics, owner and grants.
    pub(in super::super) fn access(&self) -> Vec<String> {
        let table = self.name.to_sql();
        let mut statements: Vec<String> =
            entries(self.definition, "policies").map(|policy| self.policy(policy)).collect();
        for (said, action) in [("row_security", "ENABLE"), ("force_row_security", "FORCE")] {
            if self.definition[said] == true {
                statements.push(format!("ALTER TABLE {table} {action} ROW LEVEL SECURITY"));
            }
        }
        statements.extend(entries(self.definition, "statistics").filter_map(Json::as_str).map(str::to_owned));
        statements.extend(super::grants::grants(&table, None, &self.definition["acl"], text(self.definition, "owner")));
        for column in self.columns() {
            let name = quote_identifier(text(column, "name"));
            statements.extend(super::grants::grants(
                &table,
                Some(&name),
                &column["acl"],
                text(self.definition, "owner"),
            ));
        }
        statements
    }

    /// The statement that gives it the owner that it had.
    pub(in super::super) fn owner(&self) -> String {
        let owner = quote_identifier(text(self.definition, "owner"));
        format!("ALTER TABLE {} OWNER TO {owner}", self.name.to_sql())
    }

    fn policy(&self, policy: &Json) -> String {
        let command = match text(policy, "command") {
            "r" => "SELECT",
            "a" => "INSERT",
            "w" => "UPDATE",
            "d" => "DELETE",
            _ => "ALL",
        };
        let kind = if policy["permissive"] == false { "RESTRICTIVE" } else { "PERMISSIVE" };
        let roles: Vec<String> = entries(policy, "roles").filter_map(Json::as_str).map(super::grants::role).collect();
        let clause = |what: &str, name: &str| {
            policy[name].as_str().map_or(String::new(), |condition| format!(" {what} ({condition})"))
        };
        format!(
            "CREATE POLICY {} ON {} AS {kind} FOR {command} TO {}{}{}",
            quote_identifier(text(policy, "name")),
            self.name.to_sql(),
            roles.join(", "),
            clause("USING", "using"),
            clause("WITH CHECK", "check")
        )
    }
}
