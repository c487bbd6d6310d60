//! From DataFusion's errors to what a caller may do about them.

use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::parquet::errors::ParquetError;
use datafusion::sql::sqlparser::parser::ParserError;

use crate::failure::{Category, Failure, Place};

/// The same for an error of planning, with its place in the statement where it is known.
pub(super) fn failure_in(error: DataFusionError, statement: &str) -> Failure {
    let place = place_of(&error).and_then(|(line, column)| Place::new(statement, line, column));
    failure_of(error).at(place)
}

/// Line and column, from 1.
fn place_of(error: &DataFusionError) -> Option<(usize, usize)> {
    let root = match error.find_root() {
        DataFusionError::Collection(errors) => errors.first()?.find_root(),
        root => root,
    };
    if let DataFusionError::SQL(error, _) = root
        && let ParserError::TokenizerError(why) | ParserError::ParserError(why) = error.as_ref()
    {
        // The parser says it in words alone.
        let (_, place) = why.rsplit_once("Line: ")?;
        let (line, column) = place.split_once(", Column: ")?;
        return Some((line.parse().ok()?, column.trim().parse().ok()?));
    }
    let start = error.diagnostic()?.span?.start;
    Some((usize::try_from(start.line).ok()?, usize::try_from(start.column).ok()?))
}

/// Turns an error of planning or running a query into a failure with a one-line cause.
pub(super) fn failure_of(error: DataFusionError) -> Failure {
    match error.find_root() {
        DataFusionError::External(inner) => match inner.downcast_ref::<Failure>() {
            Some(failure) => failure.clone(),
            None => Failure::failed(one_line(&inner.to_string())),
        },
        // Several errors of one statement: the first is the one to correct first.
        DataFusionError::Collection(errors) if !errors.is_empty() => of_root(&errors[0]),
        root => of_root(root),
    }
}

fn of_root(root: &DataFusionError) -> Failure {
    let cause = one_line(&root.message());
    match root {
        DataFusionError::ResourcesExhausted(_) => out_of_resources(&cause),
        DataFusionError::ObjectStore(error) => of_store(error, &cause),
        DataFusionError::ParquetError(error) => of_parquet(error, &cause),
        DataFusionError::IoError(_) => Failure::failed(format!("cannot read or spill a query's data: {cause}"))
            .remedy("check the disk that holds the spill directory and the archive"),
        DataFusionError::ArrowError(error, _) => of_arrow(error, &cause),
        DataFusionError::Internal(_) | DataFusionError::ExecutionJoin(_) | DataFusionError::Ffi(_) => {
            Failure::failed(format!("the query engine failed: {cause}"))
                .remedy("write the query in another form; this is a defect worth a report")
        }
        DataFusionError::SQL(error, _) => {
            wrong_sql(syntax(error), "correct the statement; the dialect is PostgreSQL's")
        }
        DataFusionError::NotImplemented(_) => {
            wrong_sql(cause, "the query engine lacks this; write the query in another form")
        }
        _ => wrong_sql(cause, "correct the query; SHOW TABLES and DESCRIBE TABLE_NAME show what there is"),
    }
}

/// The parser's own words, without the names of its types.
fn syntax(error: &ParserError) -> String {
    match error {
        ParserError::TokenizerError(why) | ParserError::ParserError(why) => one_line(why),
        ParserError::RecursionLimitExceeded => "the statement is nested too deeply".to_owned(),
    }
}

fn wrong_sql(cause: String, remedy: &str) -> Failure {
    Failure::usage(cause).remedy(remedy)
}

fn out_of_resources(cause: &str) -> Failure {
    Failure::failed(format!("the query needs more memory or spill space than it may have: {cause}"))
        .remedy("narrow the query (fewer columns, a smaller range of _lsn), or raise the limit")
}

/// Stores answer late or not at all; only a few answers are final.
fn of_store(error: &object_store::Error, cause: &str) -> Failure {
    use object_store::Error;
    let category = match error {
        Error::NotFound { .. }
        | Error::PermissionDenied { .. }
        | Error::Unauthenticated { .. }
        | Error::InvalidPath { .. } => Category::Failed,
        _ => Category::Transient,
    };
    let remedy = match error {
        Error::NotFound { .. } => "if maintenance ran meanwhile, ask again; otherwise run verify",
        _ => "check that the archive's store can be reached and read",
    };
    Failure::new(category, format!("cannot read the archive: {cause}")).remedy(remedy)
}

/// The Parquet reader wraps what the store said, and the session's own reader what DataFusion said.
fn of_parquet(error: &ParquetError, cause: &str) -> Failure {
    let ParquetError::External(inner) = error else { return damaged(cause) };
    if let Some(store) = inner.downcast_ref::<object_store::Error>() {
        return of_store(store, cause);
    }
    match inner.downcast_ref::<DataFusionError>() {
        Some(nested) => of_root(nested.find_root()),
        None => damaged(cause),
    }
}

fn of_arrow(error: &ArrowError, cause: &str) -> Failure {
    match error {
        ArrowError::ExternalError(inner) => match inner.downcast_ref::<Failure>() {
            Some(failure) => failure.clone(),
            None => Failure::failed(cause),
        },
        ArrowError::ParquetError(_) => damaged(cause),
        ArrowError::IoError(_, _) | ArrowError::MemoryError(_) => Failure::failed(cause),
        _ => wrong_sql(cause.to_owned(), "a value does not fit the operation; convert or filter it in the query"),
    }
}

fn damaged(cause: &str) -> Failure {
    Failure::failed(format!("a file of the archive cannot be read: {cause}")).remedy("run verify")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
