//! The questions that the pages ask: one file each, all answered in JSON. Times are milliseconds since 1970.

mod changes;
mod differences;
mod header;
mod plan;
mod row;
mod row_counts;
mod sql;
mod state;
mod tables;
mod timeline;
mod transactions;

use serde_json::{Value as Json, json};

use super::Console;
use super::admission::{Turned, Visitor};
use super::trouble::Trouble;
use super::view::View;
use crate::failure::Failure;
use crate::http::{Answer, Method, Request};
use crate::model::{Operation, OperationCounts, TablePattern};

/// What a question comes to.
type Told = Result<Json, Trouble>;

/// The answer to a request below `/api/`; `None` where there is no such question.
pub(super) async fn answer(console: &Console, request: &Request) -> Option<Answer> {
    let asked = request.path.strip_prefix("/api/")?;
    let writes = matches!(asked, "login" | "logout" | "sql" | "plan");
    if writes != (request.method == Method::Post) {
        let wanted = if writes { "POST" } else { "GET" };
        return Some(Answer::text("405 Method Not Allowed", format!("{wanted} it\n")));
    }
    // No form of another page's can send this type, so nobody else's page can ask without being refused.
    let content_type = request.header("content-type").and_then(|value| value.split(';').next());
    if writes && content_type != Some("application/json") {
        return Some(Answer::text("415 Unsupported Media Type", "a body here is application/json\n"));
    }
    match asked {
        "login" => return Some(login(console, request).await),
        "logout" => {
            let answer = Answer::new("204 No Content", "application/json", Vec::new());
            return Some(Answer { headers: vec![("set-cookie", console.admission.farewell())], ..answer });
        }
        _ => {}
    }
    let visitor = match console.admission.admit(request) {
        Ok(visitor) => visitor,
        Err(turned) => return Some(turn_away(console, turned)),
    };
    let told = match asked {
        "me" => me(console, &visitor).await,
        "tables" => tables::list(console, &visitor).await,
        "timeline" => timeline::draw(console, &visitor, request).await,
        "events" => timeline::events(console, &visitor, request).await,
        "transactions" => transactions::list(console, &visitor, request).await,
        "transaction" => header::tell(console, &visitor, request).await,
        "changes" => changes::tell(console, &visitor, request).await,
        "row" => row::tell(console, &visitor, request).await,
        "state" => state::tell(console, &visitor, request).await,
        "differences" => differences::tell(console, &visitor, request).await,
        "health" => health(console, &visitor).await,
        "sql" => sql::ask(console, &visitor, request).await,
        "plan" => plan::make(console, &visitor, request).await,
        _ => return None,
    };
    Some(match told {
        Ok(json) => Answer::json("200 OK", json.to_string()),
        Err(trouble) => trouble.answer(),
    })
}

fn turn_away(console: &Console, turned: Turned) -> Answer {
    let trouble = match turned {
        Turned::Stranger => Trouble::forbidden(
            "the proxy names a user who is not configured",
            "add a [[serve.user]] of that name to afterimage.toml",
        ),
        _ if console.admission.takes_tokens() => {
            Trouble::new("401 Unauthorized", "this console wants to know who you are", "log in with your token")
        }
        _ => Trouble::forbidden("this console is reached through its proxy", "open the proxy's address"),
    };
    trouble.answer()
}

/// Takes a token, and has the browser keep it where it is known.
async fn login(console: &Console, request: &Request) -> Answer {
    let token =
        serde_json::from_slice::<Json>(&request.body).ok().and_then(|body| body["token"].as_str().map(str::to_owned));
    let cookie = token.and_then(|token| console.admission.welcome(token.trim()));
    let Some(cookie) = cookie else {
        // Whoever tries many is not to be quick.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        return Trouble::new("401 Unauthorized", "nobody has this token", "it is what the user's token_file has")
            .answer();
    };
    let answer = Answer::new("204 No Content", "application/json", Vec::new());
    Answer { headers: vec![("set-cookie", cookie)], ..answer }
}

/// Who asks, and what there is.
async fn me(console: &Console, visitor: &Visitor) -> Told {
    let view = View::of(console, visitor).await?;
    let identity = console.archive.identity();
    let unlimited = view.is_unlimited();
    Ok(json!({
        "user": visitor.name,
        "unlimited": unlimited,
        "database": identity.database,
        "version": env!("CARGO_PKG_VERSION"),
        "from": identity.created_at.timestamp_millis(),
        "watermark": view.watermark.lsn,
        "watermark_time": view.watermark.time.timestamp_millis(),
        "now": chrono::Utc::now().timestamp_millis(),
        "has_source": unlimited && console.surroundings.has_source(),
        "tenant_columns": console.tenant_columns,
    }))
}

async fn health(console: &Console, visitor: &Visitor) -> Told {
    View::of(console, visitor).await?.require_unlimited("the vitals")?;
    Ok(console.surroundings.health().await?)
}

/// A value of the query that must be there.
fn required<'a>(request: &'a Request, name: &str) -> Result<&'a str, Trouble> {
    request.asked(name).ok_or_else(|| Failure::usage(format!("{name} is missing")).into())
}

/// A whole number of the query.
fn number(request: &Request, name: &str) -> Result<Option<i64>, Trouble> {
    let wrong = |text: &str| Failure::usage(format!("{name} is {text:?}, and should be a whole number"));
    request.asked(name).map(|text| text.parse().map_err(|_| wrong(text).into())).transpose()
}

/// How many rows are asked for, within what is shown at once.
fn limit(request: &Request, usual: usize, most: usize) -> Result<usize, Trouble> {
    let asked = number(request, "limit")?.and_then(|number| usize::try_from(number).ok());
    Ok(asked.unwrap_or(usual).clamp(1, most))
}

/// The table patterns of the query.
fn patterns(request: &Request) -> Result<Vec<TablePattern>, Trouble> {
    Ok(request.all_asked("table").map(TablePattern::parse).collect::<Result<_, _>>()?)
}

/// The operations of the query; all where none is named.
fn operations(request: &Request) -> Result<Vec<Operation>, Trouble> {
    let read =
        |word: &str| Operation::parse(word).ok_or_else(|| Failure::usage(format!("there is no operation {word}")));
    Ok(request.all_asked("op").map(read).collect::<Result<_, _>>()?)
}

fn counted(counts: &OperationCounts) -> Json {
    json!([counts.insert, counts.update, counts.delete, counts.truncate])
}
