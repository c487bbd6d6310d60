//! The guard beside the archiver: started where something is to be guarded, and told when the configuration changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::context::Context;
use crate::archive::{Archive, Store};
use crate::config::Config;
use crate::failure::Result;
use crate::guard::{Entrance, Guard, GuardMemory, Settings};
use crate::postgres::Source;
use crate::transaction::{GlimpseSender, Running, glimpses};

/// How often the configuration file is looked at.
const LOOKS: Duration = Duration::from_secs(1);

/// A guard, and how the archiver reaches it.
pub(super) struct Guarding {
    pub(super) guard: Guard,
    pub(super) glimpses: GlimpseSender,
    pub(super) entrance: Entrance,
}

/// Starts a guard; `None` where nothing is to be guarded. Where it has no rules from the start, transactions in progress
/// are seen only from the size on at which the archiver wants them. `memory` is all that changes may take.
///
/// # Errors
/// Usage where the configuration is wrong; as the archive says.
pub(super) async fn start(
    context: &Context,
    source: &Source,
    store: &Store,
    running: watch::Receiver<Running>,
    memory: usize,
) -> Result<Option<Guarding>> {
    let settings = context.config.guard()?;
    if settings.is_idle() {
        return Ok(None);
    }
    tracing::info!("guarding with {} rules and {} health checks", settings.rules.len(), settings.health.len());
    let archive = Archive::open(store).await?;
    let (changes, settings) = watch::channel(Arc::new(settings));
    if let Some(file) = &context.config_file {
        tokio::spawn(follow(file.clone(), changes));
    } else {
        // Without a sender the settings would look as if nobody could ever change them, which is so.
        tokio::spawn(async move { changes.closed().await });
    }
    let memory = GuardMemory::of(memory);
    let (glimpses, seen) = glimpses(memory.waiting);
    let (guard, entrance) = Guard::start(source, &archive, settings, running, seen, memory).await?;
    Ok(Some(Guarding { guard, glimpses, entrance }))
}

/// Reads the file again whenever it changes. One that is wrong changes nothing.
async fn follow(file: PathBuf, settings: watch::Sender<Arc<Settings>>) {
    let written = |file: &PathBuf| -> Option<(SystemTime, u64)> {
        let found = std::fs::metadata(file).ok()?;
        Some((found.modified().ok()?, found.len()))
    };
    let mut known = written(&file);
    while !settings.is_closed() {
        tokio::time::sleep(LOOKS).await;
        let now = written(&file);
        if now.is_none() || now == known {
            continue;
        }
        known = now;
        match Config::load(Some(&file)).and_then(|config| config.guard()) {
            Ok(new) => {
                tracing::info!(
                    "the configuration has changed: {} rules, {} health checks",
                    new.rules.len(),
                    new.health.len()
                );
                settings.send_replace(Arc::new(new));
            }
            Err(failure) => tracing::error!("the changed configuration is not in force: {failure}"),
        }
    }
}
