//! A rule's condition: SQL over a changed row as it was, `old`, and as it became, `new`.
//!
//! It is one expression in PostgreSQL's dialect, evaluated by DataFusion over batches of rows. Of an inserted row every
//! `old` value is NULL, of a deleted one every `new` value; a change counts where the condition is true. Values that have
//! no exact counterpart in Arrow (`infinity`, `NaN` of a numeric) are NULL here.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{Array as _, AsArray as _, BooleanArray, RecordBatch};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::error::DataFusionError;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::DFParserBuilder;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;

use crate::columnar::{ImageBuilder, RowText, Storage};
use crate::failure::{Failure, Result};
use crate::model::RelationVersion;

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition(String);

impl Condition {
    /// Reads an expression.
    ///
    /// # Errors
    /// Usage where it is none. Whether it fits a table is known when rows of that come.
    pub fn parse(text: &str) -> Result<Condition> {
        let wrong = |error: DataFusionError| {
            Failure::usage(format!("the condition {text:?}: {}", error.find_root().message()))
                .remedy("write one SQL expression over old.COLUMN and new.COLUMN")
        };
        let parser = DFParserBuilder::new(text).with_dialect(&PostgreSqlDialect {});
        parser.build().and_then(|mut parser| parser.parse_into_expr()).map_err(wrong)?;
        Ok(Condition(text.to_owned()))
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// Makes the condition ready for rows of a relation version.
    ///
    /// # Errors
    /// Usage where it names a column that the table does not have, or cannot be computed.
    pub fn compile(&self, relation: &RelationVersion) -> Result<Compiled> {
        let fields: Vec<Field> = relation
            .columns
            .iter()
            .map(|column| Field::new(&column.name, Storage::of_column(column).arrow_type(), true))
            .collect();
        let one = Schema::new(fields.clone());
        let build = || -> Result<_, DataFusionError> {
            let old = DFSchema::try_from_qualified_schema("old", &one)?;
            let both = old.join(&DFSchema::try_from_qualified_schema("new", &one)?)?;
            let expression = STATE.create_logical_expr(&self.0, &both)?;
            let wants = |side: &str| {
                let of = |column: &&datafusion::common::Column| {
                    column.relation.as_ref().is_some_and(|relation| relation.table() == side)
                };
                let columns = expression.column_refs();
                let wanted = columns.iter().filter(|column| of(column)).map(|column| column.name.clone());
                wanted.collect::<Vec<_>>()
            };
            let old_columns = wants("old");
            let compiled = STATE.create_physical_expr(expression, &both)?;
            Ok((compiled, old_columns))
        };
        let wrong = |error: DataFusionError| {
            Failure::usage(format!("the condition {:?} does not fit {}: {}", self.0, relation.name, error))
        };
        let (expression, old_columns) = build().map_err(wrong)?;
        let schema = Arc::new(Schema::new([fields.clone(), fields].concat()));
        Ok(Compiled { expression, schema, old_columns })
    }
}

static STATE: LazyLock<SessionState> = LazyLock::new(|| {
    let mut config = SessionConfig::new();
    let options = config.options_mut();
    options.sql_parser.dialect = datafusion::config::Dialect::PostgreSQL;
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.time_zone = Some("UTC".into());
    SessionStateBuilder::new().with_config(config).with_default_features().build()
});

/// A condition on rows of one relation version.
#[derive(Debug, Clone)]
pub struct Compiled {
    expression: Arc<dyn PhysicalExpr>,
    schema: SchemaRef,
    old_columns: Vec<String>,
}

impl Compiled {
    /// The columns of which it wants to know what they were.
    pub fn old_columns(&self) -> &[String] {
        &self.old_columns
    }

    /// Says of each pair of an old and a new row whether the condition is true.
    ///
    /// # Errors
    /// Where computing it fails.
    pub fn holds<'r>(
        &self,
        relation: &RelationVersion,
        rows: impl Iterator<Item = (Option<&'r RowText>, Option<&'r RowText>)>,
    ) -> Result<BooleanArray> {
        let (mut old, mut new) = (ImageBuilder::new(relation), ImageBuilder::new(relation));
        let width = relation.columns.len();
        for (before, after) in rows {
            push(&mut old, before, width)?;
            push(&mut new, after, width)?;
        }
        // The first column is `_exact`.
        let columns = |batch: RecordBatch| batch.columns()[1..].to_vec();
        let (old, new) = (old.finish()?, new.finish()?);
        let rows = old.num_rows();
        let fail = |error: DataFusionError| Failure::failed(format!("a rule's condition: {error}"));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), [columns(old), columns(new)].concat())
            .map_err(|error| fail(error.into()))?;
        let said = self.expression.evaluate(&batch).and_then(|value| value.into_array(rows)).map_err(fail)?;
        let said = said.as_boolean_opt().ok_or_else(|| {
            Failure::usage(format!("a rule's condition is {} and not true or false", said.data_type()))
        })?;
        Ok(said.clone())
    }
}

fn push(builder: &mut ImageBuilder, row: Option<&RowText>, width: usize) -> Result<()> {
    match row {
        Some(row) => builder.push(row.fields()),
        None => builder.push(std::iter::repeat_n(None, width)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Column, Identity, TableName};

    fn relation() -> RelationVersion {
        let mut columns = vec![
            Column::new("id", 23, -1, true),
            Column::new("kind", 25, -1, false),
            Column::new("amount", 1700, (10 << 16 | 2) + 4, false),
        ];
        columns.iter_mut().for_each(|column| column.stored.clone_from(&column.name));
        RelationVersion::new(1, TableName::new("public", "t"), Identity::Default, columns)
    }

    fn row(values: [&str; 3]) -> RowText {
        let mut row = RowText::default();
        for value in values {
            row.push_with(|out| {
                out.extend_from_slice(value.as_bytes());
                value != "NULL"
            });
        }
        row
    }

    fn holds(condition: &str, old: Option<[&str; 3]>, new: Option<[&str; 3]>) -> bool {
        let compiled = Condition::parse(condition).unwrap().compile(&relation()).unwrap();
        let (old, new) = (old.map(row), new.map(row));
        let said = compiled.holds(&relation(), [(old.as_ref(), new.as_ref())].into_iter()).unwrap();
        said.is_valid(0) && said.value(0)
    }

    #[test]
    fn old_and_new_are_what_a_change_found_and_left() {
        let (before, after) = (["1", "a", "1.50"], ["1", "b", "100.00"]);
        assert!(holds("old.kind = 'a' AND new.kind <> old.kind", Some(before), Some(after)));
        assert!(holds("new.amount > old.amount * 10", Some(before), Some(after)));
        assert!(holds("old.kind = 'a' AND new.id IS NULL", Some(before), None));
        assert!(!holds("old.kind = 'a'", None, Some(after)), "an inserted row has no old values");
        assert!(holds("new.kind ~ '^[bc]$'", None, Some(after)));
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        assert!(Condition::parse("old.kind =").is_err());
        assert!(Condition::parse("old.kind = 'a'; DROP TABLE x").is_err());
        let missing = Condition::parse("old.nothing = 1").unwrap().compile(&relation()).unwrap_err();
        assert!(missing.cause().contains("nothing"), "{missing}");
        let compiled = Condition::parse("old.id + 1").unwrap().compile(&relation()).unwrap();
        let one = row(["1", "a", "1.50"]);
        assert!(compiled.holds(&relation(), [(Some(&one), None)].into_iter()).is_err());
    }

    #[test]
    fn the_old_columns_that_are_wanted_are_known() {
        let compiled = Condition::parse("old.kind = 'a' OR new.amount > 1").unwrap().compile(&relation()).unwrap();
        assert_eq!(compiled.old_columns(), ["kind"]);
    }
}
