//! Tables made from lists of types and values.

use afterimage::model::{quote_identifier, quote_literal};

use super::literals::Literals;

/// Types in one table: enough that there are few tables to read, few enough that a difference shows where it is.
const TYPES_PER_TABLE: usize = 8;

/// Ids of rows that are inserted later are so much greater.
const LATER: usize = 1000;

/// A table with a column of each of some types, one of arrays of each, and its rows.
#[derive(Debug)]
pub(super) struct TypedTable {
    name: String,
    /// Rows are found by their whole content, not by a key.
    full: bool,
    types: Vec<Literals>,
}

/// Tables that have all of these, once with a key and once without.
pub(super) fn tables(prefix: &str, all: &[Literals]) -> Vec<TypedTable> {
    let table = |(at, types): (usize, &[Literals]), full: bool| TypedTable {
        name: format!("{prefix}_{at}{}", if full { "_full" } else { "" }),
        full,
        types: types.to_vec(),
    };
    let chunks = || all.chunks(TYPES_PER_TABLE).enumerate();
    chunks().map(|chunk| table(chunk, false)).chain(chunks().map(|chunk| table(chunk, true))).collect()
}

impl TypedTable {
    pub(super) fn create(&self) -> String {
        let columns = self.types.iter().map(|(name, _)| {
            let (plain, array) = column_names(name);
            format!(", {plain} {name}, {array} {name}[]")
        });
        let (key, identity) = match self.full {
            false => (" PRIMARY KEY", String::new()),
            true => ("", format!("ALTER TABLE {} REPLICA IDENTITY FULL;", self.name)),
        };
        format!("CREATE TABLE {} (id int{key}{}); {identity}", self.name, columns.collect::<String>())
    }

    /// Every value, alone and in arrays.
    pub(super) fn insert(&self) -> String {
        self.insert_from(0)
    }

    /// Every value again, then updates that write all columns, updates that write only the key (so that large values are
    /// not sent), deletes, and rows without values.
    pub(super) fn change(&self) -> String {
        let columns: Vec<String> =
            self.types.iter().flat_map(|(name, _)| <[String; 2]>::from(column_names(name))).collect();
        let (table, list) = (&self.name, columns.join(", "));
        format!(
            "{}
             UPDATE {table} t SET ({list}) = (SELECT {list} FROM {table} s WHERE s.id = t.id - 1) WHERE id % 4 = 1;
             UPDATE {table} SET id = id + 5000 WHERE id % 3 = 0;
             DELETE FROM {table} WHERE id % 5 = 4;
             INSERT INTO {table} (id) VALUES (20000); DELETE FROM {table} WHERE id = 20000;
             UPDATE {table} SET ({list}) = (SELECT {list} FROM {table} WHERE id = 20000) WHERE id % 7 = 2;",
            self.insert_from(LATER)
        )
    }

    /// Changes that come in a transaction of their own, of rows that were changed before.
    pub(super) fn change_again(&self) -> String {
        format!("UPDATE {0} SET id = id + 30000 WHERE id % 2 = 0; DELETE FROM {0} WHERE id % 11 = 1;", self.name)
    }

    fn insert_from(&self, first: usize) -> String {
        let rows = self.types.iter().map(|(_, values)| values.len() + FORMS).max().unwrap_or_default();
        let row = |at: usize| {
            let values: String = self.types.iter().map(|literals| fields(literals, at)).collect();
            format!("INSERT INTO {} VALUES ({}{values});\n", self.name, first + at)
        };
        (0..rows).map(row).collect()
    }
}

/// Names that show in a difference which type it is.
fn column_names(type_name: &str) -> (String, String) {
    (quote_identifier(type_name), quote_identifier(&format!("{type_name}[]")))
}

/// A value in SQL.
pub(super) fn literal(type_name: &str, text: &str) -> String {
    match text.strip_prefix('=') {
        Some(expression) => format!("({expression})::{type_name}"),
        None => format!("{}::{type_name}", quote_literal(text)),
    }
}

/// Arrays that are not of one value alone.
const FORMS: usize = 6;

/// A value and an array for one row; NULLs when there are no more.
fn fields((name, values): &Literals, at: usize) -> String {
    let value = |text: &str| literal(name, text);
    let plain = values.get(at).map_or_else(|| "NULL".to_owned(), |text| value(text));
    let all: Vec<String> = values.iter().map(|text| value(text)).collect();
    let (first, last) = (&all[0], &all[all.len() - 1]);
    let array = match at {
        0 => format!("ARRAY[{}]", all.join(", ")),
        1 => format!("ARRAY[NULL, {}, NULL]", all.join(", ")),
        2 => "ARRAY[]".to_owned(),
        3 => format!("ARRAY[ARRAY[{first}, {last}], ARRAY[{last}, NULL]]"),
        4 => format!("array_fill({first}, ARRAY[2], ARRAY[-3])"),
        5 => format!("array_fill({last}, ARRAY[1, 1, 2], ARRAY[2, 1, 0])"),
        _ => all.get(at - FORMS).map_or_else(|| "NULL".to_owned(), |value| format!("ARRAY[{value}]")),
    };
    format!(", {plain}, ({array})::{name}[]")
}
