//! `afterimage verify`.

use std::fmt::Write as _;
use std::io::stdout;

use clap::Args;
use serde::Serialize;

use super::chain::{self, WrittenHead};
use super::context::{Context, parse_pattern, require_table};
use super::output::human::{count, counted};
use super::output::{bytes, print_document, print_text};
use super::progress::say;
use crate::archive::{Archive, note_health};
use crate::config::ByteRate;
use crate::failure::{Failure, Result};
use crate::model::{HealthRecord, Partitions, Point, TableName, TablePattern};
use crate::verification::{
    Chained, Finding, Findings, LiveSnapshot, LiveTable, Verified, compare_all, verify, verify_chain,
};

#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  afterimage verify
  afterimage verify --deep 'sales.*' --throttle 20MB/s --record
  afterimage verify --chain --anchor s3://locked-bucket/heads
Nothing is changed in the source. The exit code is 3 where anything is not as it must be, and where
anything could not be looked at.")]
pub(super) struct VerifyArgs {
    /// With --deep only these tables: orders, sales.*
    #[arg(value_name = "TABLE", value_parser = parse_pattern, requires = "deep")]
    tables: Vec<TablePattern>,
    /// Compare the archived rows of every table with the live ones too, in one snapshot of the source
    #[arg(long)]
    deep: bool,
    /// Read live tables no faster than this: 50MB/s
    #[arg(long, value_name = "RATE", requires = "deep")]
    throttle: Option<ByteRate>,
    /// Hold the hash chain against everything that was published, and against the heads at [chain] anchors
    #[arg(long)]
    chain: bool,
    /// With --chain a head that was written down: the chain must have it
    #[arg(long, value_name = "LSN:SHA256", requires = "chain")]
    head: Vec<WrittenHead>,
    /// With --chain heads that are kept below another root, as with [chain] anchors
    #[arg(long, value_name = "URL", requires = "chain")]
    anchor: Vec<String>,
    /// Note the outcome in the archive's health, which status shows
    #[arg(long)]
    record: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    archive: String,
    #[serde(flatten)]
    verified: Verified,
    chain: Option<Chained>,
    live: Vec<LiveTable>,
    /// What could not be compared, and why.
    not_compared: Vec<Finding>,
}

impl Report {
    fn objections(&self) -> usize {
        let unequal = self.live.iter().filter(|table| !table.equal).count();
        let chained = self.chain.as_ref().map_or(0, |chain| chain.findings.count);
        (self.verified.findings.count + chained) as usize + unequal + self.not_compared.len()
    }
}

pub(super) async fn run(context: &Context, args: VerifyArgs) -> Result<()> {
    let archive = context.archive().await?;
    let report = examined(context, &archive, &args).await?;
    match context.json {
        true => print_document(stdout(), &report)?,
        false => print_text(stdout(), &text(&report, args.deep))?,
    }
    if args.record {
        note_health(archive.store(), &[record(&report, &args)]).await?;
    }
    match report.objections() {
        0 => Ok(()),
        objections => Err(not_verified(objections)),
    }
}

/// As the configuration asks for it; the outcome is noted, above all that it could not be done.
pub(super) async fn in_background(context: &Context, archive: &Archive) -> Result<()> {
    let config = &context.config.verify;
    let args = VerifyArgs {
        tables: Vec::new(),
        deep: config.deep,
        throttle: config.throttle,
        chain: false,
        head: Vec::new(),
        anchor: Vec::new(),
        record: true,
    };
    let noted = match &examined(context, archive, &args).await {
        Ok(report) => record(report, &args),
        Err(failure) => noted(&args, 1, failure.to_string()),
    };
    note_health(archive.store(), &[noted]).await
}

async fn examined(context: &Context, archive: &Archive, args: &VerifyArgs) -> Result<Report> {
    let mut report = Report {
        archive: archive.store().to_string(),
        verified: verify(archive).await?,
        chain: None,
        live: Vec::new(),
        not_compared: Vec::new(),
    };
    if args.chain {
        let anchors = [context.config.chain.anchors.as_slice(), &args.anchor].concat();
        let mut heads = chain::heads_at(archive, &anchors).await?;
        heads.extend(args.head.iter().map(|written| written.0.clone()));
        report.chain = Some(verify_chain(archive, &heads).await?);
    }
    if args.deep {
        compare_live(context, archive, args, &mut report).await?;
    }
    Ok(report)
}

fn not_verified(objections: usize) -> Failure {
    Failure::check_failed(format!("the archive is not verified: {}", counted(objections as u64, "objection")))
        .remedy("what is missing in the archive, its store's versions or a copy may have; the source has what is live")
}

async fn compare_live(context: &Context, archive: &Archive, args: &VerifyArgs, report: &mut Report) -> Result<()> {
    let source = context.source()?;
    let throttle = args.throttle.map(|rate| rate.0);
    let mut snapshot = LiveSnapshot::open(&source, archive, throttle).await?;
    context.resolve(archive, &Point::Lsn(snapshot.lsn)).await?;
    let tables = archive.tables_before(snapshot.lsn).await?;
    for pattern in &args.tables {
        require_table(pattern, tables.keys())?;
    }
    let partitions = Partitions::of(tables.values());
    let asked = |name: &TableName| args.tables.is_empty() || partitions.answers_any(name, &args.tables);
    // The rows of a partitioned table are its partitions'.
    let leaves = tables.iter().filter(|(name, relation)| !relation.partitioned && asked(name));
    let mut names: Vec<&TableName> = leaves.map(|(name, _)| name).collect();
    names.sort();
    let begins = |name: &TableName| say(&format!("comparing {name}"));
    (report.live, report.not_compared) = compare_all(&mut snapshot, archive, &names, begins).await?;
    Ok(())
}

/// What the outcome is called among the health checks.
pub(super) fn check(deep: bool) -> &'static str {
    if deep { "verify --deep" } else { "verify" }
}

/// What is noted of it, as a health check that ran once: the objections, and that is all in one line.
fn record(report: &Report, args: &VerifyArgs) -> HealthRecord {
    let said = text(report, args.deep);
    noted(args, report.objections(), said.lines().last().unwrap_or_default().to_owned())
}

fn noted(args: &VerifyArgs, objections: usize, details: String) -> HealthRecord {
    let check = check(args.deep);
    HealthRecord::of_proof(check, objections, details, format!("afterimage {check} says what is wrong"))
}

fn text(report: &Report, deep: bool) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_text(&mut out, report, deep);
    out
}

fn write_findings(out: &mut String, Findings { count: all, told }: &Findings) -> std::fmt::Result {
    for Finding { subject, finding } in told {
        writeln!(out, "          {subject}: {finding}")?;
    }
    match all - told.len() as u64 {
        0 => Ok(()),
        untold => writeln!(out, "          and {} more", count(untold)),
    }
}

fn write_chain(out: &mut String, chain: &Chained) -> std::fmt::Result {
    let (links, transactions) = (counted(chain.links, "link"), counted(chain.transactions, "transaction"));
    writeln!(out, "chain     {links} from {} on, {transactions}, {}", chain.from, counted(chain.changes, "change"))?;
    if chain.unchained > 0 {
        writeln!(out, "          {} are older than the chain", counted(chain.unchained, "change"))?;
    }
    match chain.anchors {
        0 => writeln!(
            out,
            "          held against no head from elsewhere: whoever can write to the archive could have made it anew"
        )?,
        anchors => writeln!(out, "          has {} that were kept elsewhere", counted(anchors, "head"))?,
    }
    write_findings(out, &chain.findings)?;
    writeln!(out, "head      {}:{}", chain.head.lsn, chain.head.hash)
}

fn write_text(out: &mut String, report: &Report, deep: bool) -> std::fmt::Result {
    let verified = &report.verified;
    writeln!(out, "archive   {}, up to {}", report.archive, verified.watermark)?;
    let files = counted(verified.files, "file");
    let unproven = verified.files - verified.proven;
    let proof = match unproven {
        0 => "each proven by its checksum".to_owned(),
        _ => format!("{} proven by checksums, {} by being read whole", count(verified.proven), count(unproven)),
    };
    writeln!(out, "files     {files}, {}, {proof}", bytes(verified.bytes))?;
    let (transactions, changes) = (counted(verified.transactions, "transaction"), counted(verified.changes, "change"));
    writeln!(out, "history   {transactions}, {changes}")?;
    write_findings(out, &verified.findings)?;
    if let Some(chain) = &report.chain {
        write_chain(out, chain)?;
    }
    for table in &report.live {
        let LiveTable { live_rows, missing, surplus, different, .. } = table;
        match table.equal {
            true => writeln!(out, "live      {}: {}, the same", table.table, counted(*live_rows, "row"))?,
            false => {
                let (live, archived) = (count(*live_rows), count(table.archived_rows));
                writeln!(
                    out,
                    "live      {}: {live} live, {archived} archived rows: {different} differ, {missing} are not archived, \
                     {surplus} are archived only",
                    table.table
                )?;
                table.samples.iter().try_for_each(|sample| writeln!(out, "          {sample}"))?;
            }
        }
    }
    for Finding { subject, finding } in &report.not_compared {
        writeln!(out, "live      {subject} could not be compared: {finding}")?;
    }
    match (report.objections(), deep) {
        (0, true) => writeln!(out, "verified: the archive is whole and has what the live tables have"),
        (0, false) => writeln!(out, "verified: the archive is whole; --deep compares it with the live tables"),
        (objections, _) => writeln!(out, "NOT verified: {}", counted(objections as u64, "objection")),
    }
}
