//! How far a restore is: a bar on a terminal, plain lines elsewhere.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;

use super::super::output::human;
use super::super::progress::say;
use crate::restore::{Look, Progress};

/// How often a plain line says how far it is.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);
/// How often a bar moves.
const BAR_INTERVAL: Duration = Duration::from_millis(200);

/// Shows it on stderr until it is dropped.
pub(super) struct Shown(JoinHandle<()>);

impl Shown {
    pub(super) fn of(progress: &Arc<Progress>) -> Shown {
        let progress = Arc::clone(progress);
        Shown(tokio::spawn(async move {
            if super::super::watched() { show_bar(&progress).await } else { show_lines(&progress).await }
        }))
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn show_bar(progress: &Progress) {
    const STEPS: f64 = 1000.0;
    let bar = ProgressBar::new(STEPS as u64);
    if let Ok(style) = ProgressStyle::with_template("restore {bar:30} {percent}%: {msg}") {
        bar.set_style(style);
    }
    loop {
        if let Some(look) = progress.look() {
            bar.set_position((look.share * STEPS) as u64);
            bar.set_message(text(&look));
        }
        tokio::time::sleep(BAR_INTERVAL).await;
    }
}

async fn show_lines(progress: &Progress) {
    loop {
        tokio::time::sleep(PLAIN_INTERVAL).await;
        if let Some(look) = progress.look() {
            say(&format!("restore: {}%: {}", (look.share * 100.0) as u64, text(&look)));
        }
    }
}

/// What is being done, how far that is, and what the rest may take.
fn text(look: &Look) -> String {
    let mut said = look.step.as_str().to_owned();
    if let Some((done, all)) = look.rows {
        said.push_str(&format!(", {} of {}", human::count(done), human::rows(all)));
    }
    if let Some((restored, all)) = look.batches {
        said.push_str(&format!(", {} of {} restored", human::count(restored), human::rows(all)));
    }
    if let Some(left) = look.left {
        said.push_str(&format!(
            ", about {} left",
            human::duration(Duration::from_secs(left.as_secs_f64().ceil() as u64))
        ));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::Step;

    #[test]
    fn a_line_says_the_step_the_rows_and_the_time_left() {
        let look = Look {
            step: Step::Reading,
            rows: Some((4000, 10_000)),
            batches: Some((20_000, 60_000)),
            share: 0.4,
            left: Some(Duration::from_millis(89_100)),
        };
        let expected =
            "reading the archive, 4,000 of 10,000 rows, 20,000 of 60,000 rows restored, about 1 min 30 s left";
        assert_eq!(text(&look), expected);
        let look = Look { step: Step::Writing, rows: None, batches: None, left: None, ..look };
        assert_eq!(text(&look), "writing");
    }
}
