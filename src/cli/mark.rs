//! `afterimage mark`.

use std::collections::HashMap;
use std::io::stdout;

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::output::{print_document, print_text};
use super::progress::say;
use crate::archive::Archive;
use crate::capture;
use crate::failure::{Failure, Result};
use crate::model::{Lsn, MarkKind, Point};
use crate::postgres::{MessageKind, Source, emit_message};
use crate::transaction::MARK_PREFIX;

#[derive(Debug, Clone, Args)]
pub(super) struct MarkArgs {
    /// The point's name; it is written mark:NAME wherever a point is asked for
    #[arg(value_parser = parse_name)]
    name: String,
    /// Say that a deployment begins here, as `gate before` does
    #[arg(long)]
    deployment: bool,
}

pub(super) async fn run(context: &Context, args: MarkArgs) -> Result<()> {
    let (source, archive) = (context.source()?, context.archive().await?);
    let kind = if args.deployment { MarkKind::Deployment } else { MarkKind::Mark };
    let (lsn, archived) = make(context, &source, &archive, &args.name, kind).await?;
    if context.json {
        return print_document(stdout(), &json!({ "name": args.name, "lsn": lsn, "archived": archived.is_ok() }));
    }
    print_text(stdout(), &format!("mark:{} is made at {lsn}\n", args.name))?;
    if let Err(late) = archived {
        say(&format!("the mark is in the source's log and not yet in the archive: {late}"));
    }
    Ok(())
}

/// Makes a mark, and says where, and whether the archive has it.
///
/// # Errors
/// Refused where there is one of that name; else as source and archive say.
pub(super) async fn make(
    context: &Context,
    source: &Source,
    archive: &Archive,
    name: &str,
    kind: MarkKind,
) -> Result<(Lsn, Result<()>)> {
    require_new(archive, name).await?;
    // Whether the archive has it is looked at below, with a limit; commits may be set to wait for it without one.
    let session = source.without_waiting().connect("afterimage mark").await?;
    capture::require_same_source(&session, archive.identity()).await?;
    let user: String = session.query_one("SELECT session_user::text", &[]).await?.get(0);
    let content = json!({ "name": name, "kind": kind, "user": user }).to_string();
    // Restores never move a sequence back, and an auditor wants to know where each stood.
    capture::sample_sequences(&session, &mut HashMap::new()).await?;
    let lsn = emit_message(&session, MessageKind::Transactional, MARK_PREFIX, &content).await?;
    let archived = context.resolve(archive, &Point::Mark(name.to_owned())).await;
    Ok((lsn, archived.map(drop)))
}

/// Reads a name: one that `mark:NAME` can say, on one line.
pub(super) fn parse_name(text: &str) -> std::result::Result<String, String> {
    if text.trim().is_empty() {
        return Err("a mark needs a name".into());
    }
    if text.trim() != text || text.chars().any(char::is_control) {
        return Err("a name neither begins nor ends with a blank, and has no control characters".into());
    }
    Ok(text.to_owned())
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
