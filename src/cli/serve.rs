//! `afterimage serve`.

use std::path::PathBuf;

use clap::Args;

use super::context::Context;
use super::progress::say;
use super::session::SpillDirectory;
use crate::config::{ByteSize, Span};
use crate::failure::Result;
use crate::query::Limits;
use crate::serve::Server;

#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Who may log in is said in afterimage.toml:
  [[serve.user]]
  name = \"auditor\"
  password_file = \"/run/secrets/auditor\"
  tables = [\"public.*\"]
  where = \"organization_id = '7'\"
Then: psql -h 127.0.0.1 -p 5433 -U auditor")]
pub(super) struct ServeArgs {
    /// Where to listen for PostgreSQL clients; 127.0.0.1:5433 by default
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
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
    config.statement_timeout = args.statement_timeout.or(config.statement_timeout);
    config.memory = args.memory.or(config.memory);
    let spill = SpillDirectory::of_this_process(args.spill_directory.as_deref());
    let limits = Limits { memory_bytes: config.memory_bytes(), spill_dir: spill.path().to_owned() };
    let settings = config.settings(limits)?;
    let server = Server::start(context.archive().await?, settings).await?;
    if let Some(address) = server.address() {
        say(&format!("serving PostgreSQL clients on {address}"));
    }
    server.run(super::run::stop_requested()).await;
    Ok(())
}
