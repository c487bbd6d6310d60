//! Context: who wrote and with which statement, told by a trigger per table and statement inside the transaction (the log
//! itself does not say it).
//!
//! What the database knows of the session is kept apart from what an application says of itself: the one is the message's
//! own, the other stands under `claimed`. Where DDL capture is installed, new tables get the trigger when they are made,
//! and statements that change definitions are noted too.

use tokio_postgres::Client;

use crate::failure::{Failure, Result};
use crate::model::{TablePattern, quote_identifier, quote_literal};
use crate::transaction::STATEMENT_PREFIX;

const INSTALL: &str = include_str!("install.sql");
const PROBE: &str = include_str!("probe.sql");

/// Statements of one transaction that are noted at most; of more it is only said that there were some.
const MOST: usize = 100;

/// The redaction that masks literals and comments, in place of a regular expression.
pub const LITERALS: &str = "literals";

/// What is to be done about context in a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ContextWish {
    /// It stays as it is.
    #[default]
    AsItIs,
    /// Every table that matches one of the patterns gets the trigger, and no other keeps it.
    Of(Vec<TablePattern>),
    /// What was installed is removed.
    None,
}

/// What became of a wish.
#[derive(Debug, Clone)]
pub struct ContextReport {
    /// Tables that have the trigger.
    pub tables: usize,
    /// Tables that should and have not, with the reason.
    pub refused: Vec<(String, String)>,
    /// What a statement costs that is new to its transaction, in microseconds.
    pub first_micros: f64,
    /// The same of one that was noted already.
    pub again_micros: f64,
}

/// Does what is wished; `None` where nothing is installed afterwards, or nothing was asked.
///
/// # Errors
/// Usage where a redaction is no regular expression; refused where the role may not make functions.
pub(super) async fn install(
    client: &Client,
    publication: &str,
    wish: &ContextWish,
    redactions: &[String],
) -> Result<Option<ContextReport>> {
    let patterns = match wish {
        ContextWish::AsItIs => return Ok(None),
        ContextWish::None => {
            remove(client, publication).await?;
            return Ok(None);
        }
        ContextWish::Of(patterns) => patterns,
    };
    for redaction in redactions.iter().filter(|redaction| *redaction != LITERALS) {
        require_regex(client, redaction).await?;
    }
    let sql = filled_in(INSTALL, publication, patterns, redactions);
    quietly(client, &sql).await.map_err(|failure| failure.context("installing context"))?;
    let mut report = ContextReport { tables: 0, refused: Vec::new(), first_micros: 0.0, again_micros: 0.0 };
    for (oid, name, wanted) in triggers(client, publication, patterns).await? {
        let sql = match wanted {
            true => format!("SELECT {}.watch({oid})", quote_identifier(publication)),
            false => format!("DROP TRIGGER {} ON {name}", quote_identifier(&trigger(publication))),
        };
        match (quietly(client, &sql).await, wanted) {
            (Ok(()), true) => report.tables += 1,
            (Ok(()), false) => {}
            (Err(failure), _) => report.refused.push((name, failure.cause().to_owned())),
        }
    }
    (report.first_micros, report.again_micros) = cost(client, publication).await?;
    Ok(Some(report))
}

/// Takes away everything that [`install`] made.
async fn remove(client: &Client, publication: &str) -> Result<()> {
    let functions = ["afterimage_context()", "watch(oid)", "note()", "redacted(text, text)"];
    let drops = functions
        .map(|function| format!("DROP FUNCTION IF EXISTS {}.{function} CASCADE;", quote_identifier(publication)));
    // IF EXISTS is about the function; a schema that is missing is told as a notice too.
    quietly(client, &drops.concat()).await.map_err(|failure| failure.context("removing context"))
}

/// Runs statements in one transaction of which DDL capture tells nothing: the triggers are ours, not the application's.
async fn quietly(client: &Client, sql: &str) -> Result<()> {
    let begin = "BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL afterimage.busy = 'on'";
    match client.batch_execute(&format!("{begin}; {sql}; COMMIT")).await {
        Ok(()) => Ok(()),
        Err(error) => {
            client.batch_execute("ROLLBACK").await?;
            Err(error.into())
        }
    }
}

async fn require_regex(client: &Client, pattern: &str) -> Result<()> {
    match client.query_one("SELECT '' ~ $1::text", &[&pattern]).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::usage(format!("context_redact has {pattern:?}: {}", Failure::from(error).cause()))
            .remedy("write a regular expression of PostgreSQL, or literals")),
    }
}

/// The tables that have the trigger or are to have it, and whether they are.
async fn triggers(client: &Client, publication: &str, patterns: &[TablePattern]) -> Result<Vec<(u32, String, bool)>> {
    let sql = format!(
        "SELECT t.oid, format('%I.%I', t.schema, t.name), t.wanted FROM (
           SELECT c.oid, t.schema, t.name, n.nspname <> {name} AND {wanted} AS wanted,
                  EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = c.oid AND g.tgname = {trigger}) AS watched
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           CROSS JOIN LATERAL (SELECT n.nspname AS schema, c.relname AS name) t
           WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
             AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_') t
         WHERE t.wanted OR t.watched ORDER BY t.schema, t.name",
        name = quote_literal(publication),
        wanted = wanted(patterns),
        trigger = quote_literal(&trigger(publication)),
    );
    let rows = client.query(&sql, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// Measures what a statement costs, in a transaction that is rolled back.
async fn cost(client: &Client, publication: &str) -> Result<(f64, f64)> {
    let sql = PROBE.replace("{schema}", &quote_identifier(publication));
    client.batch_execute("BEGIN; SET LOCAL afterimage.busy = 'on'").await?;
    let measured = match client.batch_execute(&sql).await {
        Ok(()) => client.query_one("SELECT current_setting('afterimage.probed')", &[]).await,
        Err(error) => Err(error),
    };
    client.batch_execute("ROLLBACK").await?;
    let text: String = measured.map_err(|error| Failure::from(error).context("measuring the cost of context"))?.get(0);
    let numbers: Vec<f64> = text.split(' ').filter_map(|number| number.parse().ok()).collect();
    match numbers[..] {
        [first, again] => Ok((first.max(0.0), again.max(0.0))),
        _ => Err(Failure::failed(format!("the source measured {text:?} as the cost of context"))),
    }
}

fn trigger(publication: &str) -> String {
    format!("{publication}_context")
}

fn wanted(patterns: &[TablePattern]) -> String {
    let conditions: Vec<String> = patterns.iter().map(|pattern| pattern.to_sql("t.schema", "t.name")).collect();
    format!("({})", conditions.join(" OR "))
}

fn filled_in(sql: &str, publication: &str, patterns: &[TablePattern], redactions: &[String]) -> String {
    let masks: Vec<String> = redactions
        .iter()
        .filter(|redaction| *redaction != LITERALS)
        .map(|redaction| format!("  statement := regexp_replace(statement, {}, '?', 'g');\n", quote_literal(redaction)))
        .collect();
    let words = [
        ("{literals}", redactions.iter().any(|redaction| redaction == LITERALS).to_string()),
        ("{wanted}", wanted(patterns)),
        ("{trigger}", quote_literal(&trigger(publication))),
        ("{schema}", quote_identifier(publication)),
        ("{name}", quote_literal(publication)),
        ("{prefix}", STATEMENT_PREFIX.to_owned()),
        ("{most}", MOST.to_string()),
        // Last: braces of a regular expression are no words.
        ("{patterns}", masks.concat()),
    ];
    words.iter().fold(sql.to_owned(), |sql, (word, meaning)| sql.replace(word, meaning))
}
