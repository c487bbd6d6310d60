//! Alerts to a program of the user's.

use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::Delivery;
use crate::failure::{Failure, Result};

pub(super) async fn deliver(command: &[String], delivery: &Delivery) -> Result<()> {
    let (program, arguments) = command.split_first().ok_or_else(|| Failure::usage("no program is named"))?;
    let fail = |error: std::io::Error| Failure::transient(format!("{program}: {error}"));
    let alert = &delivery.alert;
    let mut child = Command::new(program)
        .args(arguments)
        .env("AFTERIMAGE_RULE", &alert.rule)
        .env("AFTERIMAGE_SEVERITY", alert.severity.as_str())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(fail)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read what it is told is free not to.
        let _ = stdin.write_all(format!("{}\n", delivery.json()).as_bytes()).await;
    }
    let status = child.wait().await.map_err(fail)?;
    if status.success() { Ok(()) } else { Err(Failure::transient(format!("{program} ended with {status}"))) }
}
