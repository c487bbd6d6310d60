//! The results: a line as soon as there is one, and a section of the page when a part is through.

use std::fs;
use std::process::Command;
use std::time::Duration;

use chrono::Utc;

use super::Result;
use super::alarm::Alarm;
use super::harm::Felt;
use super::lab::{Comparison, Lab};
use super::process::Cost;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/RESULTS.md");

const INTRODUCTION: &str = "\
Written by `make bench`, each section by its part, `make bench ONLY=capture`; do not edit. Medians of three runs (of one where no range is given) by turns with a yardstick over
the same bytes, each a process of its own from start to end. A ratio is our rate through the yardstick's: above 1 we are the faster; in brackets the
lowest and highest of the rounds. Processor time is that of our process in all its threads, memory the most it had
resident. The rows have a primary key, a text, a jsonb and a timestamptz, 150 to 200 bytes as text; the source's fsync
is off, the archive's is not. Both reach the source over TCP where a line does not say otherwise for capture, and over a
Unix socket for all else.";

/// What the numbers were measured on.
pub(crate) struct Machine {
    lines: Vec<String>,
}

impl Machine {
    pub(crate) fn look(lab: &Lab) -> Result<Machine> {
        let memory = first_field("/proc/meminfo", "MemTotal:")?;
        let mebibytes = memory.trim_end_matches(" kB").parse::<u64>()? / 1024;
        let processor = first_field("/proc/cpuinfo", "model name")?;
        let load = fs::read_to_string("/proc/loadavg")?;
        let load = load.split_whitespace().next().unwrap_or_default();
        let cores = std::thread::available_parallelism()?;
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        Ok(Machine {
            lines: vec![
                format!("- date: {}", Utc::now().format("%Y-%m-%d %H:%M UTC")),
                format!("- machine: {cores} cores of {processor}, {mebibytes} MiB, Linux {}", kernel.trim()),
                format!("- load before the first run: {load}"),
                format!("- PostgreSQL {}, afterimage {}", lab.server_version()?, env!("CARGO_PKG_VERSION")),
                format!("- revision: {}", revision()?),
            ],
        })
    }
}

fn first_field(file: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.ok_or_else(|| format!("{file} has no {name}"))?;
    Ok(value.trim_start_matches([' ', '\t', ':']).trim_end().to_owned())
}

fn revision() -> Result<String> {
    let mut git = Command::new("git");
    let output = git.args(["describe", "--always", "--dirty"]).current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// See the module's documentation.
pub(crate) struct Report {
    part: String,
    machine: Machine,
    compared: Vec<[String; 9]>,
    alone: Vec<[String; 5]>,
    waits: Vec<[String; 4]>,
    freshness: Vec<[String; 4]>,
    harm: Vec<[String; 6]>,
    sizes: Vec<[String; 5]>,
    alarms: Vec<[String; 6]>,
}

impl Report {
    pub(crate) fn begin(part: String, machine: Machine) -> Report {
        println!("\n## {part}\n");
        machine.lines.iter().for_each(|line| println!("{line}"));
        Report {
            part,
            machine,
            compared: Vec::new(),
            alone: Vec::new(),
            waits: Vec::new(),
            freshness: Vec::new(),
            harm: Vec::new(),
            sizes: Vec::new(),
            alarms: Vec::new(),
        }
    }

    /// Notes what was measured beside a yardstick.
    pub(crate) fn compared(&mut self, title: &str, yardstick: &str, rows: u64, costs: &Comparison) {
        let rate = |costs: &[Cost]| per_second(rows, median(costs, |cost| cost.wall));
        let ratios = || costs.yardstick.iter().zip(&costs.ours).map(|(theirs, ours)| ratio(theirs.wall, ours.wall));
        let (lowest, highest) = (ratios().fold(f64::MAX, f64::min), ratios().fold(0.0, f64::max));
        let typical = ratio(median(&costs.yardstick, |cost| cost.wall), median(&costs.ours, |cost| cost.wall));
        let cells = [
            title.to_owned(),
            yardstick.to_owned(),
            thousands(rows),
            rate(&costs.yardstick),
            rate(&costs.ours),
            match costs.ours.len() {
                1 => format!("**{typical:.2}**"),
                _ => format!("**{typical:.2}** ({lowest:.2} to {highest:.2})"),
            },
            micros_per_row(rows, &costs.ours),
            mebibytes(&costs.yardstick),
            mebibytes(&costs.ours),
        ];
        println!("{}", line(&cells));
        self.compared.push(cells);
    }

    /// Notes what has no yardstick.
    pub(crate) fn alone(&mut self, title: &str, rows: u64, costs: &[Cost]) {
        let wall = median(costs, |cost| cost.wall);
        let cells = [
            title.to_owned(),
            thousands(rows),
            format!("{:.2} s", wall.as_secs_f64()),
            per_second(rows, wall),
            mebibytes(costs),
        ];
        println!("{}", line(&cells));
        self.alone.push(cells);
    }

    /// Notes how long something was waited for.
    pub(crate) fn waits(&mut self, title: &str, mut waited: Vec<Duration>) {
        waited.sort_unstable();
        let shown = |at: usize| waited.get(at).map_or("none".to_owned(), |wait| format!("{} ms", wait.as_millis()));
        let cells = [title.to_owned(), shown(0), shown(waited.len() / 2), shown(waited.len().saturating_sub(1))];
        println!("{}", line(&cells));
        self.waits.push(cells);
    }

    /// Notes what the archiver measured of itself, in milliseconds.
    pub(crate) fn freshness(&mut self, title: &str, transactions: f64, p50: f64, p99: f64) {
        let cells = [title.to_owned(), thousands(transactions as u64), format!("{p50:.0} ms"), format!("{p99:.0} ms")];
        println!("{}", line(&cells));
        self.freshness.push(cells);
    }

    /// Notes what a load felt beside the yardstick and beside us.
    pub(crate) fn harm(&mut self, title: &str, theirs: &[Felt], ours: &[Felt]) {
        let middle = |felt: &[Felt], of: fn(&Felt) -> f64| {
            let mut values: Vec<f64> = felt.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        for (what, unit, of) in [
            ("latency p95", "ms", (|felt: &Felt| felt.p95) as fn(&Felt) -> f64),
            ("the server's processor time per transaction", "µs", |felt: &Felt| felt.server),
        ] {
            let (yardstick, own) = (middle(theirs, of), middle(ours, of));
            let cells = [
                title.to_owned(),
                what.to_owned(),
                "pg_recvlogical -f /dev/null".to_owned(),
                format!("{yardstick:.2} {unit}"),
                format!("{own:.2} {unit}"),
                format!("**{:.2}**", own / yardstick),
            ];
            println!("{}", line(&cells));
            self.harm.push(cells);
        }
    }

    /// Notes what something took of the source's processors, without and with it.
    pub(crate) fn server(&mut self, title: &str, yardstick: &str, (theirs, ours): (Duration, Duration)) {
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        let cells = [
            title.to_owned(),
            "the server's processor time".to_owned(),
            yardstick.to_owned(),
            seconds(theirs),
            seconds(ours),
            format!("**{:.2}**", ratio(ours, theirs)),
        ];
        println!("{}", line(&cells));
        self.harm.push(cells);
    }

    /// Notes when an alert about deletions of so many rows was told.
    pub(crate) fn alarms(&mut self, rows: u64, action: &str, alarms: &[Alarm]) {
        let shown = |of: &dyn Fn(&Alarm) -> f64| {
            let mut values: Vec<f64> = alarms.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            let at = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
            format!("{:.0} ms ({:.0} to {:.0})", at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
        };
        let stopped = alarms.iter().filter(|alarm| alarm.stopped).count();
        let cells = [
            thousands(rows),
            action.to_owned(),
            shown(&|alarm| alarm.told),
            shown(&|alarm| alarm.ended),
            shown(&|alarm| alarm.ended - alarm.told),
            format!("{stopped} of {}", alarms.len()),
        ];
        println!("{}", line(&cells));
        self.alarms.push(cells);
    }

    /// Notes how many bytes of the archive changes take, beside what they take in the log.
    pub(crate) fn sizes(&mut self, title: &str, changes: u64, log: u64, archive: u64) {
        let each = |bytes: u64| format!("{:.1}", bytes as f64 / changes as f64);
        let share = format!("**{:.2}**", archive as f64 / log as f64);
        let cells = [title.to_owned(), thousands(changes), each(log), each(archive), share];
        println!("{}", line(&cells));
        self.sizes.push(cells);
    }

    /// Writes the part's section of the page, in the order of `parts`, and leaves the others as they are.
    pub(crate) fn write(&self, parts: &[String]) -> Result<()> {
        let page = fs::read_to_string(PAGE).unwrap_or_default();
        let known = |part: &str| {
            let section = |text: &&str| text.split_once('\n').is_some_and(|(head, _)| head == part);
            page.split("\n## ").skip(1).find(section).map(|text| format!("\n## {}\n", text.trim_end()))
        };
        let sections = parts.iter().filter_map(|part| match *part == self.part {
            true => Some(self.section()),
            false => known(part),
        });
        fs::write(PAGE, format!("# Results\n\n{INTRODUCTION}\n{}", sections.collect::<String>()))?;
        Ok(())
    }

    fn section(&self) -> String {
        let mut text = format!("\n## {}\n\n", self.part);
        self.machine.lines.iter().for_each(|line| text.push_str(&format!("{line}\n")));
        let compared = [
            "what",
            "yardstick",
            "rows",
            "yardstick rows/s",
            "ours rows/s",
            "ratio",
            "our processor s per 1M rows",
            "yardstick's peak MiB",
            "our peak MiB",
        ];
        text.push_str(&table(&compared, &self.compared));
        text.push_str(&table(&["what", "rows", "time", "rows/s", "peak MiB"], &self.alone));
        text.push_str(&table(&["what", "shortest", "median", "longest"], &self.waits));
        text.push_str(&table(&["freshness, from commit to durable", "transactions", "p50", "p99"], &self.freshness));
        let harm = ["load on the source", "what", "beside", "with the yardstick", "with ours", "ours through theirs"];
        text.push_str(&table(&harm, &self.harm));
        let sizes = ["bytes per change", "changes", "in the log (WAL)", "in the archive", "archive through log"];
        text.push_str(&table(&sizes, &self.sizes));
        let alarms = [
            "rows deleted",
            "action",
            "first row to alert",
            "first row to the statement's end",
            "alert to that end (below 0: after it)",
            "stopped",
        ];
        text.push_str(&table(&alarms, &self.alarms));
        text
    }
}

/// Nothing where there are no rows.
fn table<const N: usize>(head: &[&str; N], rows: &[[String; N]]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let rule = ["---"; N].map(str::to_owned);
    let lines: Vec<String> = rows.iter().map(line).collect();
    format!("\n{}\n{}\n{}\n", line(&head.map(str::to_owned)), line(&rule), lines.join("\n"))
}

fn line<const N: usize>(cells: &[String; N]) -> String {
    format!("| {} |", cells.join(" | "))
}

fn median<T: Ord + Copy>(costs: &[Cost], of: impl Fn(&Cost) -> T) -> T {
    let mut values: Vec<T> = costs.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

fn ratio(theirs: Duration, ours: Duration) -> f64 {
    theirs.as_secs_f64() / ours.as_secs_f64()
}

fn per_second(rows: u64, time: Duration) -> String {
    thousands((rows as f64 / time.as_secs_f64()) as u64)
}

fn micros_per_row(rows: u64, costs: &[Cost]) -> String {
    format!("{:.2}", median(costs, |cost| cost.processor).as_secs_f64() * 1e6 / rows as f64)
}

fn mebibytes(costs: &[Cost]) -> String {
    let most = costs.iter().map(|cost| cost.peak_bytes).max().unwrap_or(0);
    (most >> 20).to_string()
}

/// `1234567` as `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}
