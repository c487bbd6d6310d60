//! What undoing a transaction would do. It is worked out only when somebody asks for it: the source makes temporary tables
//! for it, which go when the plan is there.

use serde_json::Value as Json;

use super::Told;
use super::header::named;
use crate::console::Console;
use crate::console::admission::Visitor;
use crate::console::trouble::Trouble;
use crate::console::view::View;
use crate::failure::Failure;
use crate::http::Request;

pub(super) async fn make(console: &Console, visitor: &Visitor, request: &Request) -> Told {
    let view = View::of(console, visitor).await?;
    view.require_unlimited("plans")?;
    if !console.surroundings.has_source() {
        return Err(Trouble::new(
            "409 Conflict",
            "no source is named, and a plan compares the archive with the live rows",
            "run the command where the source is reached, or start the console with --source",
        ));
    }
    let body: Json = serde_json::from_slice(&request.body).map_err(|_| Failure::usage("the body is no JSON"))?;
    let transaction = body["txn"].as_str().ok_or_else(|| Failure::usage("txn is missing"))?;
    let lsn = named(&view, transaction).await?;
    console.read(async { Ok(console.surroundings.plan(lsn).await?) }).await
}
