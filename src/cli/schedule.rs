//! What `run` does now and then beside archiving: `verify` and `drill`, as often as the configuration says.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::context::Context;
use super::{drill, verify};
use crate::archive::{Archive, note_alerts};
use crate::failure::Result;
use crate::guard::proof_alert;
use crate::model::{HealthStatus, Point, TablePattern};

/// How often it is looked whether something is due.
const LOOKS: Duration = Duration::from_secs(20);

/// Works until it is aborted. When something was done last, the archive says.
pub(super) async fn keep(context: Context) {
    loop {
        for job in [Job::Verify, Job::Drill] {
            if let Err(failure) = look(&context, job).await {
                tracing::warn!("{} waits: {failure}", job.check(&context));
            }
        }
        tokio::time::sleep(LOOKS).await;
    }
}

/// Whether there is anything to do at all.
pub(super) fn has_any(context: &Context) -> bool {
    [Job::Verify, Job::Drill].iter().any(|job| job.every(context).is_some())
}

#[derive(Debug, Clone, Copy)]
enum Job {
    Verify,
    Drill,
}

impl Job {
    fn every(self, context: &Context) -> Option<Duration> {
        match self {
            Job::Verify => context.config.verify.every,
            Job::Drill => context.config.drill.every,
        }
        .map(|span| span.0)
    }

    /// What its outcome is called among the health checks.
    fn check(self, context: &Context) -> &'static str {
        match self {
            Job::Verify => verify::check(context.config.verify.deep),
            Job::Drill => drill::CHECK,
        }
    }

    async fn run(self, context: &Context, archive: &Archive) -> Result<()> {
        match self {
            Job::Verify => verify::in_background(context, archive).await,
            Job::Drill => {
                let config = &context.config.drill;
                let tables = config.tables.iter().map(|pattern| TablePattern::parse(pattern)).collect::<Result<_>>()?;
                let cut = context.resolve(archive, &Point::Lsn(archive.watermark().await?.lsn)).await?;
                let drilled = crate::recovery::drill(archive, cut, tables, config.scratch.as_deref()).await;
                drill::recorded(archive, drilled).await.map(drop)
            }
        }
    }
}

/// Does what is due, and raises an alarm where it fails that did not fail the last time.
async fn look(context: &Context, job: Job) -> Result<()> {
    let Some(every) = job.every(context) else { return Ok(()) };
    let (archive, check) = (context.archive().await?, job.check(context));
    let last = archive.health().await?.into_iter().rfind(|record| record.check == check);
    let is_due = |time: DateTime<Utc>| Utc::now() - time >= chrono::Duration::from_std(every).unwrap_or_default();
    if !last.as_ref().is_none_or(|record| is_due(record.time)) {
        return Ok(());
    }
    tracing::info!("{check} begins");
    if let Err(failure) = job.run(context, &archive).await {
        tracing::error!("{check}: {failure}");
    }
    let now = archive.health().await?.into_iter().rfind(|record| record.check == check);
    let failed = |status: HealthStatus| status != HealthStatus::Healthy;
    match now {
        Some(record) if failed(record.status) => {
            tracing::error!("{check} has failed: {}", record.details);
            if last.is_none_or(|last| !failed(last.status)) {
                note_alerts(archive.store(), &[proof_alert(&record)], None).await?;
            }
        }
        Some(record) => tracing::info!("{check}: {}", record.details.lines().last().unwrap_or_default()),
        None => {}
    }
    Ok(())
}
