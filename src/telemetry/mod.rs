//! What the program says of itself: log lines on stderr.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// These libraries report what they retry, what is no error to us, and what we report ourselves, once and in one line.
const SILENT: &str = "delta_kernel=off,delta_kernel_default_engine=off,object_store=off,datafusion=off";

/// Starts logging to stderr, filtered by `AFTERIMAGE_LOG`: a level, or the syntax of `tracing_subscriber`'s `EnvFilter`.
pub fn start_logging() {
    let asked = std::env::var("AFTERIMAGE_LOG").ok().filter(|text| !text.is_empty());
    let asked = asked.map(|text| EnvFilter::try_new(directives(&text)));
    let (filter, wrong) = match asked {
        None => (None, None),
        Some(Ok(filter)) => (Some(filter), None),
        Some(Err(error)) => (None, Some(error)),
    };
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new(format!("error,afterimage=info,{SILENT}"))))
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

fn directives(asked: &str) -> String {
    match asked.parse::<LevelFilter>() {
        Ok(level) => format!("{level},{SILENT}"),
        Err(_) => asked.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_that_of_our_own_messages() {
        assert_eq!(directives("warn"), format!("warn,{SILENT}"));
        assert_eq!(directives("delta_kernel=debug"), "delta_kernel=debug");
    }
}
