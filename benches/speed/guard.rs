//! The guard: how soon it says something, what twenty rules cost the archiver, and what it costs the source that
//! transactions are sent while they run.
//!
//! Most rules are met by the traffic's table and operation and ask for more rows than a transaction has, as rules do that
//! wait for the one transaction that is not ordinary. Eight have a condition on values, four a window.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use super::Result;
use super::lab::{Lab, Link, ROUNDS, ROW, compare_in, copy_slot, settle, slot_of};
use super::process::{self, Cost};
use super::report::Report;

const DATABASE: &str = "guarded";
const TRANSACTIONS: u64 = 300_000;
const RULES: usize = 20;
const PRISTINE: &str = "pristine";

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    super::alarm::measure(lab, report)?;
    // One row each: an insert, an update, a deletion, and so on.
    let small = format!(
        "DO $do$ DECLARE n bigint; BEGIN FOR n IN 1000000..{} LOOP
             CASE n % 3 WHEN 0 THEN INSERT INTO items SELECT {ROW};
                        WHEN 1 THEN UPDATE items SET changed_at = now() WHERE id = n % 100000 + 1;
                        ELSE DELETE FROM items WHERE id = n - 2; END CASE;
             COMMIT; END LOOP; END $do$",
        1_000_000 + TRANSACTIONS - 1
    );
    through_rules(lab, report, "1-row transactions", &small, TRANSACTIONS)?;
    // Large enough to be sent in parts where there are rules, and whole where there are none; too small for the rules.
    let rows = 90;
    let transactions = TRANSACTIONS / rows;
    let medium = format!(
        "DO $do$ BEGIN FOR t IN 0..{} LOOP
             INSERT INTO items SELECT n, repeat(md5(n::text), 40), '{{}}', now()
                 FROM generate_series(1000000 + t * {rows}, 999999 + (t + 1) * {rows}) n;
             COMMIT; END LOOP; END $do$",
        transactions - 1
    );
    through_rules(lab, report, &format!("{rows}-row transactions of 120 kB"), &medium, transactions * rows)
}

/// Captures the same traffic through the rules and without.
fn through_rules(lab: &Lab, report: &mut Report, title: &str, traffic: &str, rows: u64) -> Result<()> {
    lab.database(DATABASE, 100_000)?;
    let empty = lab.init(DATABASE)?;
    let slot = slot_of(DATABASE);
    copy_slot(lab, &slot, PRISTINE)?;
    lab.sql(DATABASE, traffic)?;
    let end = lab.position(DATABASE)?;
    let (archive, rules) = (lab.path("guarded-archive"), lab.path("rules.toml"));
    fs::write(&rules, configuration())?;
    let run = |rules: Option<&Path>, server: &mut Vec<Duration>| -> Result<Cost> {
        copy_slot(lab, PRISTINE, &slot)?;
        lab.copy(&empty, &archive)?;
        settle()?;
        let mut command = lab.afterimage_over(Link::Tcp, DATABASE, &archive);
        if let Some(rules) = rules {
            command.env("AFTERIMAGE_CONFIG", rules);
        }
        let before = lab.server_time()?;
        let cost = process::measure(command.args(["run", "--no-maintenance", "--until", &end]))?;
        server.push(lab.server_time()?.saturating_sub(before));
        Ok(cost)
    };
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let compared = compare_in(ROUNDS, || run(None, &mut without), || run(Some(&rules), &mut with))?;
    // A guard that raised alerts would not have seen ordinary traffic.
    let alerts = lab.ask(&archive, "SELECT count(*) FROM afterimage.alerts")?;
    if alerts != "0" {
        return Err(format!("{alerts} alerts were raised over ordinary traffic").into());
    }
    let yardstick = "the same without rules";
    report.compared(&format!("capture through {RULES} rules, {title}"), yardstick, rows, &compared);
    let middle = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    };
    let title = format!("capture of {title}, sent while they run from 64 kB on");
    report.server(&title, "the same without rules, from 4 MB on", (middle(&mut without), middle(&mut with)));
    lab.remove(&archive)?;
    lab.drop_slots(&format!("slot_name = '{PRISTINE}'"))?;
    lab.forget(DATABASE, &empty)
}

fn configuration() -> String {
    let mut text = String::new();
    for rule in 0..RULES {
        let operation = ["insert", "update", "delete"][rule % 3];
        let side = if rule % 3 == 2 { "old" } else { "new" };
        // Writing to a String cannot fail.
        let _ =
            write!(text, "[[rule]]\nname = \"rule {rule}\"\ntables = [\"items\"]\noperations = [\"{operation}\"]\n");
        let _ = match rule % 5 {
            0 => write!(text, "rows = 100000000\nwindow = \"5m\"\n"),
            1 | 2 => write!(text, "rows = 100\nwhere = \"{side}.title LIKE 'nothing%'\"\n"),
            _ => writeln!(text, "rows = 100"),
        };
    }
    text
}
