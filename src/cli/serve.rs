//! `afterimage serve`.

use std::path::PathBuf;

use clap::Args;

use super::console::{Closed, Listening, USUAL};
use super::context::Context;
use super::progress::say;
use super::session::SpillDirectory;
use crate::archive::Archive;
use crate::config::{ByteSize, ServeConfig, Span};
use crate::failure::{Category, Result};
use crate::query::{Limits, Session};
use crate::serve::{self, Server};

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The console is at http://127.0.0.1:8432, for everybody on this machine. Who may log in is said in afterimage.toml:
  [[serve.user]]
  name = \"auditor\"
  password_file = \"/run/secrets/auditor\"
  token_file = \"/run/secrets/auditor-token\"
  tables = [\"public.*\"]
  where = \"organization_id = '7'\"
Then: psql -h 127.0.0.1 -p 5433 -U auditor")]
pub(super) struct ServeArgs {
    /// Where to listen for PostgreSQL clients; 127.0.0.1:5433 by default
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where the console, /metrics, /livez and /readyz are; 127.0.0.1:8432 by default
    #[arg(long, value_name = "ADDRESS")]
    http: Option<String>,
    /// Answer PostgreSQL's clients alone
    #[arg(long, conflicts_with = "http")]
    no_http: bool,
    /// The longest that a statement may take; 1m by default
    #[arg(long, value_name = "DURATION")]
    statement_timeout: Option<Span>,
    /// Memory of all statements together for sorts, joins and aggregates, which spill to disk beyond it; 512MB by default
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Where they spill to; the system's temporary directory by default
    #[arg(long, value_name = "DIRECTORY")]
    spill_directory: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, args: ServeArgs) -> Result<()> {
    let mut config = context.config.serve.clone();
    config.listen = args.listen.or(config.listen);
    config.http = args.http.or(config.http);
    config.statement_timeout = args.statement_timeout.or(config.statement_timeout);
    config.memory = args.memory.or(config.memory);
    let spill = SpillDirectory::of_this_process(args.spill_directory.as_deref());
    let limits = Limits { memory_bytes: config.memory_bytes(), spill_dir: spill.path().to_owned() };
    let settings = config.settings()?;
    let archive = context.archive().await?;
    let session = serve::session(&archive, limits).await?;
    let wire = match config.listen.is_some() || settings.users.iter().any(|user| user.password.is_some()) {
        true => Some(Server::start(archive.clone(), session.clone(), settings).await?),
        // Without anybody who could log in there is the console alone.
        false => None,
    };
    let console = match args.no_http {
        true => None,
        false => console(context, &config, (archive, session), wire.is_some()).await?,
    };
    if let Some(address) = wire.as_ref().and_then(Server::address) {
        say(&format!("serving PostgreSQL clients on {address}"));
    }
    let stop = super::run::stop_requested();
    let console = async {
        match console {
            Some(console) => console.run().await,
            None => std::future::pending().await,
        }
    };
    match wire {
        Some(wire) => tokio::select! {
            () = wire.run(stop) => {}
            () = console => {}
        },
        None => tokio::select! {
            () = stop => {}
            () = console => {}
        },
    }
    Ok(())
}

/// The console. On its usual address it may be missing where clients are served all the same: another one is there.
async fn console(
    context: &Context,
    config: &ServeConfig,
    over: (Archive, Session),
    serves_clients: bool,
) -> Result<Option<Listening>> {
    let address = config.http.as_deref();
    let started = Listening::start(context, config, over, address.unwrap_or(USUAL), Closed::Refused, None).await;
    match started {
        Err(taken) if address.is_none() && serves_clients && taken.category() == Category::Failed => {
            say(&format!("there is no console: {taken}"));
            Ok(None)
        }
        started => started.map(Some),
    }
}
