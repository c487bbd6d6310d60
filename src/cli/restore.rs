//! `afterimage restore`.
use super::context::Context;
use crate::failure::Result;
use clap::Args;
#[derive(Debug, Clone, Args)]
pub(super) struct RestoreArgs {}
pub(super) async fn run(_: &Context, _: RestoreArgs) -> Result<()> {
    Ok(())
}
