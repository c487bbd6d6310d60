//! Logical messages: words of ours in the source's own log (PostgreSQL manual, `pg_logical_emit_message`).

use tokio_postgres::Client;

use crate::failure::{Failure, Result};
use crate::model::Lsn;

/// Whether a message belongs to the transaction that emits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// It counts only if the transaction commits, and then with it.
    Transactional,
    /// It counts at once, and is no transaction.
    Immediate,
}

/// Emits a message and returns its position. The bytes arrive as they are: a message of text would be in the database's
/// encoding, which nobody converts on its way.
pub async fn emit_message(client: &Client, kind: MessageKind, prefix: &str, content: &str) -> Result<Lsn> {
    let transactional = kind == MessageKind::Transactional;
    let row = client
        .query_one(
            "SELECT pg_logical_emit_message($1, $2, $3::bytea)::text",
            &[&transactional, &prefix, &content.as_bytes()],
        )
        .await?;
    let lsn: String = row.get(0);
    lsn.parse().map_err(|error| Failure::failed(format!("the position of a logical message, {lsn}: {error}")))
}
