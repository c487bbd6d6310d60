//! Small numbers for names that come again and again.

use std::collections::HashMap;

use crate::model::TableName;

/// Names beyond these are counted together, so that memory stays bounded whatever applications call themselves.
const MOST_TABLES: usize = 20_000;
const MOST_APPLICATIONS: usize = 500;

/// The number of what has no name of its own, in both lists.
pub(super) const OTHERS: u16 = u16::MAX;
/// The number of an application that nobody has named.
pub(super) const UNKNOWN: u16 = 0;

/// Every table and application that was seen.
#[derive(Debug)]
pub(super) struct Names {
    tables: Vec<TableName>,
    by_schema: HashMap<String, HashMap<String, u16>>,
    applications: Vec<String>,
    by_application: HashMap<String, u16>,
}

impl Default for Names {
    fn default() -> Names {
        let by_application = HashMap::from([(String::new(), UNKNOWN)]);
        Names { tables: Vec::new(), by_schema: HashMap::new(), applications: vec![String::new()], by_application }
    }
}

impl Names {
    /// The number of a table, given now where it has none.
    pub(super) fn table(&mut self, schema: &str, table: &str) -> u16 {
        if let Some(number) = self.by_schema.get(schema).and_then(|tables| tables.get(table)) {
            return *number;
        }
        if self.tables.len() >= MOST_TABLES {
            return OTHERS;
        }
        let number = self.tables.len() as u16;
        self.tables.push(TableName::new(schema, table));
        self.by_schema.entry(schema.to_owned()).or_default().insert(table.to_owned(), number);
        number
    }

    pub(super) fn application(&mut self, name: &str) -> u16 {
        if let Some(number) = self.by_application.get(name) {
            return *number;
        }
        if self.applications.len() > MOST_APPLICATIONS {
            return OTHERS;
        }
        let number = self.applications.len() as u16;
        self.applications.push(name.to_owned());
        self.by_application.insert(name.to_owned(), number);
        number
    }

    /// The table of a number; `None` for those that are counted together.
    pub(super) fn table_of(&self, number: u16) -> Option<&TableName> {
        self.tables.get(usize::from(number))
    }

    /// The application of a number: empty where nobody named it, `None` for those that are counted together.
    pub(super) fn application_of(&self, number: u16) -> Option<&str> {
        self.applications.get(usize::from(number)).map(String::as_str)
    }
}
