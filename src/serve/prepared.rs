//! Prepared statements, and portals: statements with their values, from which rows are fetched.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use datafusion::scalar::ScalarValue;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::answer::{self, is_binary};
use super::error::SqlError;
use super::frame::malformed;
use super::statement::Statement;
use super::{Endpoint, User, catalogue, parameter};
use crate::failure::Result as ArchiveResult;
use crate::query::{Described, QueryResult, Tables};

/// A statement that was parsed.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) statement: Statement,
    /// The client's numbers of its parameters' types; 0 where it leaves one open.
    pub(super) declared: Vec<u32>,
    pub(super) described: Option<Known>,
}

/// What planning a statement told of it.
#[derive(Debug)]
pub(super) struct Known {
    /// `None` where it gives no rows.
    pub(super) schema: Option<SchemaRef>,
    parameters: Vec<Option<DataType>>,
}

impl Prepared {
    fn types(&self) -> Vec<DataType> {
        let inferred = self.described.as_ref().map(|known| known.parameters.as_slice()).unwrap_or_default();
        let one = |at: usize| {
            let declared = self.declared.get(at).copied().unwrap_or(0);
            parameter::type_of(declared, inferred.get(at).and_then(Option::as_ref))
        };
        (0..self.declared.len().max(inferred.len())).map(one).collect()
    }

    /// The numbers of its parameters' types.
    pub(super) fn parameter_types(&self) -> Vec<u32> {
        let types = self.types().into_iter().enumerate();
        let declared = |at: usize| self.declared.get(at).copied().filter(|oid| *oid != 0);
        types.map(|(at, data_type)| declared(at).unwrap_or_else(|| answer::type_of(&data_type).oid)).collect()
    }
}

/// Plans a statement for its columns.
pub(super) async fn describe(
    endpoint: &Endpoint,
    user: &User,
    view: Arc<dyn Tables>,
    text: &str,
) -> Result<Known, SqlError> {
    if let Some(question) = catalogue::question(text, &user.name, endpoint.database()) {
        let result = catalogue::describe(question, view.as_ref(), &user.name, endpoint.database()).await?;
        return Ok(Known { schema: Some(result.schema), parameters: result.parameters });
    }
    let Described { schema, parameters } = endpoint.session.over(view).describe(text).await?;
    Ok(Known { schema: Some(schema), parameters })
}

pub(super) fn no_columns() -> Known {
    Known { schema: None, parameters: Vec::new() }
}

/// Columns of text.
pub(super) fn text_columns(names: &[&str]) -> Known {
    let fields: Vec<Field> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
    Known { schema: Some(Arc::new(Schema::new(fields))), parameters: Vec::new() }
}

/// One row with one text.
pub(super) fn one_text(name: &str, value: &str) -> Result<QueryResult, SqlError> {
    let schema = Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, true)]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(StringArray::from(vec![value]))]);
    let batch = batch.map_err(|error| SqlError::new("XX000", error.to_string()))?;
    Ok(QueryResult { schema, batches: futures::stream::iter([Ok(batch)]).boxed() })
}

/// A statement with its values.
pub(super) struct Portal {
    pub(super) statement: String,
    values: Vec<Option<Bytes>>,
    formats: Vec<i16>,
    /// How the client wants each column.
    pub(super) results: Vec<i16>,
    rows: Option<BoxStream<'static, ArchiveResult<RecordBatch>>>,
    /// What was read and not sent yet, and how much of it was.
    at_hand: Option<(RecordBatch, usize)>,
    /// Rows so far.
    pub(super) sent: usize,
}

/// Rows that wait to be sent.
pub(super) struct Portion {
    pub(super) batch: RecordBatch,
    pub(super) from: usize,
}

impl Portal {
    pub(super) fn bound(statement: String, values: Vec<Option<Bytes>>, formats: Vec<i16>, results: Vec<i16>) -> Portal {
        Portal { statement, values, formats, results, rows: None, at_hand: None, sent: 0 }
    }

    /// One that has been started already.
    pub(super) fn over(result: QueryResult, results: Vec<i16>) -> Portal {
        let mut portal = Portal::bound(String::new(), Vec::new(), Vec::new(), results);
        portal.rows = Some(result.batches);
        portal
    }

    pub(super) fn is_started(&self) -> bool {
        self.rows.is_some()
    }

    pub(super) fn start(&mut self, result: QueryResult) -> Result<(), SqlError> {
        // One for all, or one for each.
        if self.results.len() > 1 && self.results.len() != result.schema.fields().len() {
            return Err(malformed());
        }
        self.rows = Some(result.batches);
        Ok(())
    }

    /// The values as their types want them.
    pub(super) fn values(&self, prepared: &Prepared) -> Result<Vec<ScalarValue>, SqlError> {
        let types = prepared.types();
        if types.len() != self.values.len() {
            return Err(SqlError::new(
                "08P01",
                format!("{} values were given, the statement has {} parameters", self.values.len(), types.len()),
            ));
        }
        let each = self.values.iter().zip(&types).enumerate();
        each.map(|(at, (value, data_type))| parameter::value(value.clone(), data_type, is_binary(&self.formats, at)))
            .collect()
    }

    /// The rows that come next; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Portion>, SqlError> {
        loop {
            if let Some((batch, from)) = &self.at_hand
                && *from < batch.num_rows()
            {
                return Ok(Some(Portion { batch: batch.clone(), from: *from }));
            }
            let Some(rows) = &mut self.rows else { return Ok(None) };
            match rows.next().await {
                Some(batch) => self.at_hand = Some((batch?, 0)),
                None => return Ok(None),
            }
        }
    }

    /// Notes that rows at hand were sent.
    pub(super) fn took(&mut self, count: usize) {
        self.sent += count;
        if let Some((_, from)) = &mut self.at_hand {
            *from += count;
        }
    }
}
