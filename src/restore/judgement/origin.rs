//! Which transaction made a rule, by the archived definitions.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::{Introduction, Rejection, RuleKind};
use crate::archive::Archive;
use crate::failure::Result;
use crate::model::{DdlRecord, Lsn, RelationRecord};

/// The archived definitions of the tables that were asked for.
pub(in super::super) struct Origins<'a> {
    archive: &'a Archive,
    now: Lsn,
    definitions: HashMap<u32, Vec<RelationRecord>>,
    statements: Option<Vec<DdlRecord>>,
}

impl<'a> Origins<'a> {
    pub(in super::super) fn new(archive: &'a Archive, now: Lsn) -> Origins<'a> {
        Origins { archive, now, definitions: HashMap::new(), statements: None }
    }

    /// The transaction since which a table has had the rule, as it is now.
    pub(super) async fn of(&mut self, table: u32, rejection: &Rejection) -> Result<Option<Introduction>> {
        if !self.definitions.contains_key(&table) {
            self.definitions.insert(table, self.archive.definitions(Some(table)).await?);
        }
        let mut since: Option<&RelationRecord> = None;
        let mut former: Option<Json> = None;
        for (at, record) in self.definitions[&table].iter().filter(|record| record.position.lsn < self.now).enumerate()
        {
            let definition = record.definition.as_deref().and_then(|json| serde_json::from_str::<Json>(json).ok());
            let Some(rule) = definition.map(|definition| rule_in(&definition, rejection)) else { continue };
            if rule != former {
                // The first that the archive knew may be as old as the table.
                since = rule.is_some().then_some(record).filter(|_| at > 0);
                former = rule;
            }
        }
        let Some(lsn) = since.map(|record| record.position.lsn) else { return Ok(None) };
        self.introduction(lsn).await.map(Some)
    }

    async fn introduction(&mut self, lsn: Lsn) -> Result<Introduction> {
        let statements = match self.statements.take() {
            Some(statements) => statements,
            None => self.archive.ddl(self.now).await?,
        };
        let record = statements.iter().find(|record| record.position.lsn == lsn);
        let introduction = Introduction {
            lsn,
            xid: record.map(|record| record.xid),
            time: record.map(|record| record.time),
            user: record.and_then(|record| record.user.clone()),
            statement: record.and_then(|record| record.statement.clone()),
        };
        self.statements = Some(statements);
        Ok(introduction)
    }
}

/// What a definition says of the rule.
fn rule_in(definition: &Json, rejection: &Rejection) -> Option<Json> {
    let named = |list: &Json, what: &str| {
        let found = list.as_array()?.iter().find(|entry| entry["name"] == rejection.name.as_str())?;
        Some(found[what].clone())
    };
    match rejection.kind {
        RuleKind::NotNull => named(&definition["columns"], "not_null").filter(|said| !said.is_null()),
        RuleKind::Type | RuleKind::Domain => named(&definition["columns"], "type"),
        RuleKind::Reference => named(&definition["incoming"], "definition"),
        RuleKind::Policy => None,
        RuleKind::Trigger => named(&definition["triggers"], "definition"),
        RuleKind::Check | RuleKind::Unique | RuleKind::Exclude | RuleKind::ForeignKey => {
            named(&definition["constraints"], "definition").or_else(|| named(&definition["indexes"], "definition"))
        }
    }
}
