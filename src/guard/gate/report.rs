//! A verdict as Markdown, for a pull request.

use std::fmt::Write as _;

use super::Verdict;

impl Verdict {
    /// The report.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let passed = if self.passed { "passed" } else { "**closed**" };
        writeln!(out, "## Gate {} `{}`: {passed}\n\n| | check | |\n|---|---|---|", self.gate, self.name)?;
        for finding in &self.findings {
            let sign = if finding.passed { "ok" } else { "**no**" };
            writeln!(out, "| {sign} | {} | {} |", cell(&finding.name), cell(&finding.details))?;
        }
        if !self.changes.is_empty() {
            writeln!(out, "\n| table | insert | update | delete | truncate | tenants |\n|---|---|---|---|---|---|")?;
            for changed in &self.changes {
                let counts = &changed.counts;
                let tenants = changed.tenants.iter().take(5).map(|(tenant, rows)| format!("{tenant}: {rows}"));
                let tenants = tenants.collect::<Vec<_>>().join(", ");
                let (table, tenants) = (cell(&changed.table.to_string()), cell(&tenants));
                let (insert, update, delete) = (counts.insert, counts.update, counts.delete);
                writeln!(out, "| {table} | {insert} | {update} | {delete} | {} | {tenants} |", counts.truncate)?;
            }
        }
        if !self.drift.is_empty() {
            writeln!(out, "\n| definition | expected | found |\n|---|---|---|")?;
            for drift in &self.drift {
                let said = |text: &Option<String>| cell(text.as_deref().unwrap_or("missing"));
                writeln!(
                    out,
                    "| {} {} | {} | {} |",
                    drift.kind,
                    cell(&drift.name),
                    said(&drift.expected),
                    said(&drift.found)
                )?;
            }
        }
        if !self.commands.is_empty() {
            writeln!(out, "\nTo take it back, first as a plan:\n\n```sh\n{}\n```", self.commands.join("\n"))?;
        }
        Ok(())
    }
}

/// Text that stays within its cell.
fn cell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    line.replace('|', "\\|")
}
