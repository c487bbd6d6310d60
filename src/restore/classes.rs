//! What happened to rows since a point, and how many there are of each.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// What happened to a row since the point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// It is gone; the restore inserts it.
    Deleted,
    /// It has other values; the restore updates it.
    Updated,
    /// It is new; the restore deletes it.
    Inserted,
}

impl Class {
    pub const ALL: [Class; 3] = [Class::Deleted, Class::Updated, Class::Inserted];

    /// As the command line spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Deleted => "deleted",
            Class::Updated => "updated",
            Class::Inserted => "inserted",
        }
    }

    /// The reverse of [`Class::as_str`].
    pub fn parse(text: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|class| class.as_str() == text)
    }

    /// What the restore does about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Class::Deleted => "insert",
            Class::Updated => "update",
            Class::Inserted => "delete",
        }
    }
}

/// Rows that a restore inserts, updates and deletes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub insert: u64,
    pub update: u64,
    pub delete: u64,
}

impl Counts {
    pub fn rows(&self) -> u64 {
        self.insert + self.update + self.delete
    }

    /// The count for rows to which this happened.
    pub fn of(&mut self, class: Class) -> &mut u64 {
        match class {
            Class::Deleted => &mut self.insert,
            Class::Updated => &mut self.update,
            Class::Inserted => &mut self.delete,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.insert += other.insert;
        self.update += other.update;
        self.delete += other.delete;
    }
}
