//! What the program says of itself: log lines on stderr.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// Libraries report what they retry and what we report ourselves, once and in one line.
const DEFAULT_FILTER: &str =
    "error,afterimage=info,delta_kernel=off,delta_kernel_default_engine=off,object_store=off,datafusion=off";

/// Starts logging to stderr, filtered by `AFTERIMAGE_LOG` in the syntax of `tracing_subscriber`'s `EnvFilter`.
pub fn start_logging() {
    let asked = std::env::var("AFTERIMAGE_LOG").ok().filter(|text| !text.is_empty()).map(EnvFilter::try_new);
    let (filter, wrong) = match asked {
        None => (None, None),
        Some(Ok(filter)) => (Some(filter), None),
        Some(Err(error)) => (None, Some(error)),
    };
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new(DEFAULT_FILTER)))
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .with_target(false)
        .try_init();
    // A second start changes nothing; the first one logs.
    drop(started);
    if let Some(error) = wrong {
        tracing::warn!("AFTERIMAGE_LOG is ignored: {error}; write warn, or afterimage=debug");
    }
}
