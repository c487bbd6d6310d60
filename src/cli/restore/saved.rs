//! Plans as files.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::state::state_directory;
use crate::failure::{Failure, Result};
use crate::restore::Plan;

pub(super) fn saved_plan(path: &Path) -> Result<Plan> {
    let json = fs::read(path).map_err(|error| {
        Failure::usage(format!("plan {}: {error}", path.display())).remedy("name a file that restore has saved")
    })?;
    Plan::from_json(&json).map_err(|failure| failure.context(format_args!("plan {}", path.display())))
}

pub(super) fn save_plan(plan: &Plan, named: Option<PathBuf>) -> Result<PathBuf> {
    let path = named.unwrap_or_else(|| state_directory().join(format!("plan-{}.json", &plan.digest()[..12])));
    let fail = |error: std::io::Error| {
        Failure::failed(format!("saving the plan as {}: {error}", path.display()))
            .remedy("name another file with --save")
    };
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(fail)?;
    }
    fs::write(&path, plan.to_json()?).map_err(fail)?;
    Ok(path)
}
