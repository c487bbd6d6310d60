//! What PostgreSQL's objections mean in a restore.

use std::time::Duration;

use tokio_postgres::Error;
use tokio_postgres::error::DbError;

use crate::failure::{Category, Failure};
use crate::model::TableName;

/// Says of an error of our own SQL what to do about it.
pub(super) fn judge(error: Error, lock_timeout: Duration) -> Failure {
    let Some(reported) = error.as_db_error() else { return Failure::from(error) };
    let (code, routine) = (reported.code().code().to_owned(), reported.routine().unwrap_or_default().to_owned());
    let table = table_of(reported);
    let constraint = reported.constraint().map(str::to_owned);
    let failure = Failure::from(error);
    match code.as_str() {
        "55P03" => locked(lock_timeout),
        "42501" if routine == "check_enable_rls" => failure.remedy(
            "rows must not be left out silently: connect as a role with BYPASSRLS, or as one that the policies do not bind",
        ),
        "23503" | "23505" | "23514" | "23502" | "23P01" => {
            let named = constraint.map_or(String::new(), |constraint| format!("the constraint {constraint} of "));
            let whose = table.map_or("a table".to_owned(), |table| table.to_string());
            let remedy = remedy_for(&code);
            refused(&failure, format!("{named}{whose} forbids the restore; nothing was changed")).remedy(remedy)
        }
        _ => failure,
    }
}

fn refused(failure: &Failure, attempt: String) -> Failure {
    Failure::new(Category::Refused, failure.cause()).context(attempt)
}

/// A lock was not to be had.
fn locked(lock_timeout: Duration) -> Failure {
    Failure::refused(format!(
        "another session holds a lock on rows or tables of the restore for longer than {:.1} s; nothing was changed",
        lock_timeout.as_secs_f64()
    ))
    .remedy(
        "wait for it or end it (SELECT pid, query FROM pg_stat_activity WHERE xact_start IS NOT NULL ORDER BY xact_start), or wait longer with --lock-timeout",
    )
}

fn remedy_for(code: &str) -> &'static str {
    match code {
        "23503" => "restore the table at the other end of the foreign key too, or leave these rows out with --where",
        "23505" | "23P01" => {
            "a row that is there now took the value: move that row away, or leave the old one out with --where"
        }
        "23502" => "a column added since takes no default: give it one, or leave these rows out with --where",
        _ => "the row is older than the rule: leave it out with --where, or change the rule",
    }
}

fn table_of(reported: &DbError) -> Option<TableName> {
    Some(TableName::new(reported.schema()?, reported.table()?))
}

/// Says of an error in a statement with the user's own condition whether that is to blame.
pub(super) fn judge_filter(error: Error, lock_timeout: Duration) -> Failure {
    let ours = ["55P03", "42501"];
    match error.as_db_error().map(|reported| reported.code().code().to_owned()) {
        Some(code) if (code.starts_with("42") || code.starts_with("22")) && !ours.contains(&code.as_str()) => {
            let failure = Failure::from(error);
            Failure::usage(failure.cause())
                .context("--where")
                .remedy("write a condition over the table's own columns, as after WHERE: --where \"customer_id = 7\"")
        }
        _ => judge(error, lock_timeout),
    }
}
