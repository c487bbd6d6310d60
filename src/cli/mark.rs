//! `afterimage mark`.

use std::io::stdout;

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::output::{print_document, print_text};
use super::progress::say;
use crate::archive::Archive;
use crate::failure::{Failure, Result};
use crate::model::{Lsn, Point};
use crate::transaction::MARK_PREFIX;

#[derive(Debug, Clone, Args)]
pub(super) struct MarkArgs {
    /// The point's name, for --at mark:NAME
    name: String,
}

pub(super) async fn run(context: &Context, args: MarkArgs) -> Result<()> {
    if args.name.trim().is_empty() {
        return Err(Failure::usage("a mark needs a name"));
    }
    let source = context.source()?;
    let archive = context.archive().await?;
    require_new(&archive, &args.name).await?;
    let session = source.connect("afterimage mark").await?;
    crate::capture::require_same_source(&session, archive.identity()).await?;
    let user: String = session.query_one("SELECT session_user::text", &[]).await?.get(0);
    let content = json!({ "name": args.name, "user": user }).to_string();
    let row =
        session.query_one("SELECT pg_logical_emit_message(true, $1, $2)::text", &[&MARK_PREFIX, &content]).await?;
    let lsn: String = row.get(0);
    let lsn: Lsn = lsn.parse().map_err(|error| Failure::failed(format!("the mark's position {lsn}: {error}")))?;
    let archived = context.resolve(&archive, &Point::Mark(args.name.clone())).await;
    if context.json {
        return print_document(stdout(), &json!({ "name": args.name, "lsn": lsn, "archived": archived.is_ok() }));
    }
    print_text(stdout(), &format!("mark:{} is made at {lsn}\n", args.name))?;
    if archived.is_err() {
        say("the mark is in the source's log; the archive has it when an archiver has come so far");
    }
    Ok(())
}

async fn require_new(archive: &Archive, name: &str) -> Result<()> {
    let marks = archive.marks(archive.watermark().await?.lsn).await?;
    match marks.iter().find(|mark| mark.name == name) {
        Some(mark) => {
            Err(Failure::refused(format!("there is a mark {name:?} at {} already", mark.lsn))
                .remedy("choose another name"))
        }
        None => Ok(()),
    }
}
