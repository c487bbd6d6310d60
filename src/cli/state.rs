//! What the program remembers from one run to the next.

use std::path::PathBuf;

/// Where a user's programs keep what they remember (XDG base directories); the temporary directory where there is no home.
pub(super) fn state_directory() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .unwrap_or_else(std::env::temp_dir)
        .join("afterimage")
}
