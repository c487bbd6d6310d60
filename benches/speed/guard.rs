//! What twenty rules cost the archiver: ordinary traffic through them, against the same without.
//!
//! Most rules are met by the traffic's table and operation and ask for more rows than a transaction has, as rules do that
//! wait for the one transaction that is not ordinary. Eight have a condition on values, four a window.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::Result;
use super::lab::{Lab, Link, ROUNDS, ROW, compare_in, copy_slot, settle, slot_of};
use super::process::{self, Cost};
use super::report::Report;

const DATABASE: &str = "guarded";
const TRANSACTIONS: u64 = 300_000;
const RULES: usize = 20;
const PRISTINE: &str = "pristine";

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    lab.database(DATABASE, 100_000)?;
    let empty = lab.init(DATABASE)?;
    let slot = slot_of(DATABASE);
    copy_slot(lab, &slot, PRISTINE)?;
    // One row each: an insert, an update, a deletion, and so on.
    lab.sql(
        DATABASE,
        &format!(
            "DO $do$ DECLARE n bigint; BEGIN FOR n IN 1000000..{} LOOP
                 CASE n % 3 WHEN 0 THEN INSERT INTO items SELECT {ROW};
                            WHEN 1 THEN UPDATE items SET changed_at = now() WHERE id = n % 100000 + 1;
                            ELSE DELETE FROM items WHERE id = n - 2; END CASE;
                 COMMIT; END LOOP; END $do$",
            1_000_000 + TRANSACTIONS - 1
        ),
    )?;
    let end = lab.position(DATABASE)?;
    let (archive, rules) = (lab.path("guarded-archive"), lab.path("rules.toml"));
    fs::write(&rules, configuration())?;
    let run = |rules: Option<&Path>| -> Result<Cost> {
        copy_slot(lab, PRISTINE, &slot)?;
        lab.copy(&empty, &archive)?;
        settle()?;
        let mut command = lab.afterimage_over(Link::Tcp, DATABASE, &archive);
        if let Some(rules) = rules {
            command.env("AFTERIMAGE_CONFIG", rules);
        }
        process::measure(command.args(["run", "--no-maintenance", "--until", &end]))
    };
    let compared = compare_in(ROUNDS, || run(None), || run(Some(&rules)))?;
    // A guard that raised alerts would not have seen ordinary traffic.
    let alerts = lab.ask(&archive, "SELECT count(*) FROM afterimage.alerts")?;
    if alerts != "0" {
        return Err(format!("{alerts} alerts were raised over ordinary traffic").into());
    }
    let title = format!("capture through {RULES} rules, 1-row transactions");
    report.compared(&title, "the same without rules", TRANSACTIONS, &compared);
    lab.remove(&archive)?;
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
