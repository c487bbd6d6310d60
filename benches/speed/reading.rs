//! SQL over many changes. There is no yardstick: PostgreSQL has forgotten them.

use super::Result;
use super::lab::Lab;
use super::process;
use super::report::Report;

const ROWS: u64 = 500_000;
const DATABASE: &str = "reading";

pub(crate) fn measure(lab: &Lab, report: &mut Report) -> Result<()> {
    lab.database(DATABASE, ROWS)?;
    let archive = lab.init(DATABASE)?;
    lab.sql(DATABASE, "UPDATE items SET changed_at = now()")?;
    lab.catch_up(DATABASE, &archive)?;
    let queries = [
        ("query, count(*) of changes", "SELECT count(*) FROM changes.items"),
        ("query, filter on a text column of changes", "SELECT count(*) FROM changes.items WHERE title LIKE '%beef%'"),
    ];
    for (title, sql) in queries {
        let mut costs = Vec::new();
        for _ in 0..3 {
            costs.push(process::measure(lab.afterimage(DATABASE, &archive).args(["query", sql]))?);
        }
        report.alone(title, ROWS, &costs);
    }
    lab.forget(DATABASE, &archive)
}
