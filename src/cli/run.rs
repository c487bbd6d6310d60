//! `afterimage run`.

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::context::{Context, parse_point};
use super::init::InitArgs;
use super::progress::{InitShown, RunShown};
use crate::archive::Archive;
use crate::capture::{self, Outcome};
use crate::config::{ByteSize, Span};
use crate::failure::{Failure, Result};
use crate::history::source_position;
use crate::model::{Lsn, Point};
use crate::postgres::Source;

#[derive(Debug, Clone, Args)]
pub(super) struct RunArgs {
    /// Stop when the archive has everything up to here: now, or an LSN
    #[arg(long, value_name = "POINT", value_parser = parse_point)]
    until: Option<Point>,
    /// The longest time that a committed transaction waits to be published; 1s by default
    #[arg(long, value_name = "DURATION")]
    flush_interval: Option<Span>,
    /// Changes in memory after which they are written; 64MB by default
    #[arg(long, value_name = "SIZE")]
    flush_bytes: Option<ByteSize>,
    #[command(flatten)]
    init: InitArgs,
}

pub(super) async fn run(context: &Context, args: RunArgs) -> Result<()> {
    let only_for_init = args.init.is_given();
    let settings = context.capture(args.init.config(args.flush_interval, args.flush_bytes))?;
    let (source, store) = (context.source()?, context.store()?);
    if Archive::find(&store).await?.is_none() {
        let steps = InitShown::default();
        capture::init(&source, &store, &settings, &steps, stop_requested()).await?;
    } else if only_for_init {
        tracing::warn!("there is an archive already: the options about tables, slot and publication change nothing");
    }
    let until = match args.until {
        None => None,
        Some(point) => Some(target(&source, point).await?),
    };
    let (stopper, stop) = watch::channel(false);
    tokio::spawn(async move {
        stop_requested().await;
        tracing::info!("stopping: publishing what has arrived");
        stopper.send_replace(true);
        // Dropping the sender would look like the end of the program.
        stopper.closed().await;
    });
    let outcome = capture::run(&source, &store, &settings, until, stop, &RunShown { json: context.json }).await?;
    match outcome {
        Outcome::Stopped => tracing::info!("stopped"),
        Outcome::Reached => tracing::info!("the archive has everything up to {}", until.unwrap_or(Lsn::ZERO)),
    }
    Ok(())
}

async fn target(source: &Source, point: Point) -> Result<Lsn> {
    match point {
        Point::Now => source_position(source).await,
        Point::Lsn(lsn) => Ok(lsn),
        other => Err(Failure::usage(format!("run cannot stop at {other}")).remedy("--until takes now or an LSN")),
    }
}

/// Waits for SIGTERM or SIGINT.
pub(super) async fn stop_requested() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without handlers the signals end the program by themselves.
        _ => std::future::pending().await,
    }
}
