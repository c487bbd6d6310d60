//! The hash chain against everything that the archive holds.
//!
//! Every link is held against the one before, against the list of transactions, and against the changes themselves,
//! wherever maintenance has put them. Heads that were kept elsewhere say that the chain is the one of then, and not another
//! that somebody has made since.

use std::ops::Range;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use futures::TryStreamExt as _;
use serde::Serialize;

use super::{Finding, Findings};
use crate::archive::{Archive, Head, Linked, Segment, TablePath, log, places_of, segment_of, transaction_digests};
use crate::columnar::{Digest, RowDigests, digest, hexadecimal, names};
use crate::failure::{Failure, Result};
use crate::model::{Lsn, Position, TableName};

/// Changes whose hashes are in memory at a time, 56 bytes each.
const CHANGES_AT_A_TIME: u64 = 4_000_000;

/// What was found of a chain.
#[derive(Debug, Clone, Serialize)]
pub struct Chained {
    /// Where it begins: what is before, it says nothing of.
    pub from: Lsn,
    /// What it ends with.
    pub head: Head,
    pub links: u64,
    pub transactions: u64,
    pub changes: u64,
    /// Changes from before the chain.
    pub unchained: u64,
    /// Heads from elsewhere that are in it.
    pub anchors: u64,
    #[serde(flatten)]
    pub findings: Findings,
}

impl Chained {
    fn find(&mut self, subject: impl ToString, finding: impl Into<String>) {
        self.findings.add(Finding::new(subject, finding));
    }
}

/// A transaction as the list has it.
struct Listed {
    lsn: Lsn,
    end: Lsn,
    /// Microseconds since 1970.
    time: i64,
    digest: Digest,
    link: Option<Linked>,
}

/// Looks at the whole chain. `anchors` are heads that were kept elsewhere.
///
/// # Errors
/// Failed where there is no chain, or something of it could not be looked at.
pub async fn verify_chain(archive: &Archive, anchors: &[Head]) -> Result<Chained> {
    let watermark = archive.watermark().await?.lsn;
    let listed = listed(archive, watermark).await?;
    let links: Vec<&Linked> = listed.iter().filter_map(|one| one.link.as_ref()).collect();
    let (Some(first), Some(last)) = (links.first(), links.last()) else {
        return Err(Failure::failed(format!("archive {} has no hash chain", archive.store()))
            .remedy("a chain begins with the first transaction that this version of run archives"));
    };
    let (from, head) = (first.link.from, last.head());
    let mut chained = Chained {
        from,
        head,
        links: links.len() as u64,
        transactions: listed.iter().filter(|one| one.lsn >= from).count() as u64,
        changes: 0,
        unchained: 0,
        anchors: 0,
        findings: Findings::default(),
    };
    look_at_links(&links, &listed, &mut chained);
    look_at_anchors(&links, anchors, &mut chained);
    let mut names: Vec<TableName> = archive.tables_ever().await?.into_keys().collect();
    names.extend(links.iter().flat_map(|one| one.link.tables.iter().map(|(name, _)| name.clone())));
    names.sort();
    names.dedup();
    for name in names {
        let of_table = |one: &&Linked| {
            let segments = one.link.tables.iter().filter(|(table, _)| *table == name);
            segments.flat_map(|(_, segments)| segments.clone()).collect::<Vec<Segment>>()
        };
        let segments = links.iter().flat_map(of_table).collect();
        look_at_table(archive, &name, segments, &listed, watermark, &mut chained).await?;
    }
    Ok(chained)
}

async fn listed(archive: &Archive, watermark: Lsn) -> Result<Vec<Listed>> {
    let mut all = Vec::new();
    for file in archive.transaction_files(Lsn::ZERO, Lsn::MAX).await? {
        let mut batches = archive.read(&file, None).await?.stream()?;
        while let Some(batch) = batches.try_next().await? {
            all.extend(listed_in(&batch)?);
        }
    }
    all.retain(|one: &Listed| one.end <= watermark);
    all.sort_by_key(|one| one.lsn);
    Ok(all)
}

fn listed_in(batch: &RecordBatch) -> Result<Vec<Listed>> {
    let broken = || Failure::failed("log/transactions lacks a column");
    let number = |name: &str| {
        batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>()).ok_or_else(broken)
    };
    let (lsns, ends) = (number("lsn")?, number("end_lsn")?);
    let times = batch.column_by_name("ts").and_then(|column| column.as_primitive_opt::<TimestampMicrosecondType>());
    let times = times.ok_or_else(broken)?;
    let links = batch.column_by_name(log::CHAIN).and_then(|column| column.as_string_opt::<i32>());
    let digests = transaction_digests(batch)?;
    let of_row = |(row, digest)| {
        let link = links.filter(|links| links.is_valid(row)).map(|links| links.value(row));
        Ok(Listed {
            lsn: Lsn::from_i64(lsns.value(row)),
            end: Lsn::from_i64(ends.value(row)),
            time: times.value(row),
            digest,
            link: link.map(Linked::read).transpose()?,
        })
    };
    digests.into_iter().enumerate().map(of_row).collect()
}

/// The transactions from `lsns`.
fn within<'a>(listed: &'a [Listed], lsns: &Range<Lsn>) -> &'a [Listed] {
    let place = |lsn: Lsn| listed.partition_point(|one| one.lsn < lsn);
    &listed[place(lsns.start)..place(lsns.end).max(place(lsns.start))]
}

/// Each link against the one before and against the list.
fn look_at_links(links: &[&Linked], listed: &[Listed], chained: &mut Chained) {
    for (at, one) in links.iter().enumerate() {
        let Linked { link, .. } = one;
        let before = at.checked_sub(1).map(|at| links[at]);
        match before {
            Some(before) if link.before.as_deref() != Some(&before.hash) => {
                chained.find(link.end, format!("the link does not follow that of {}", before.link.end));
            }
            Some(before) if link.from != before.link.end => {
                chained.find(link.end, format!("the link begins at {} and not where the one before ends", link.from));
            }
            None if link.before.is_some() => chained.find(link.end, "the links before this one are missing"),
            _ => {}
        }
        let theirs = within(listed, &(link.from..link.end));
        let hashes: Vec<Digest> = theirs.iter().map(|one| one.digest).collect();
        if hexadecimal(&digest(&hashes.concat())) != link.transactions {
            let finding = format!("the list has other transactions since {} than were published", link.from);
            chained.find(link.end, finding);
        }
    }
    for one in within(listed, &(chained.head.lsn..Lsn::MAX)) {
        chained.find(one.lsn, "the transaction is in no link of the chain");
    }
}

fn look_at_anchors(links: &[&Linked], anchors: &[Head], chained: &mut Chained) {
    for anchor in anchors {
        match links.iter().find(|one| one.link.end == anchor.lsn) {
            Some(one) if one.hash == anchor.hash => chained.anchors += 1,
            Some(_) => chained.find(anchor.lsn, "the chain is another one than when this head was kept elsewhere"),
            None => {
                chained.find(anchor.lsn, "the chain has no link that ends with this head, which was kept elsewhere")
            }
        }
    }
}

/// A table's changes against the segments of all links.
async fn look_at_table(
    archive: &Archive,
    name: &TableName,
    mut segments: Vec<Segment>,
    listed: &[Listed],
    watermark: Lsn,
    chained: &mut Chained,
) -> Result<()> {
    segments.sort_unstable_by_key(|segment| segment.first);
    if let Some(pair) = segments.windows(2).find(|pair| pair[1].first <= pair[0].last) {
        chained.find(name, format!("segments of the chain overlap at {}", pair[1].first.lsn));
        return Ok(());
    }
    // The first part has what is before the chain too, the last what is after all segments.
    let mut rest = segments.as_slice();
    let mut from = Position::before(Lsn::ZERO);
    loop {
        let mut rows = 0;
        let count = rest.iter().take_while(|segment| {
            rows += segment.rows;
            rows <= CHANGES_AT_A_TIME
        });
        let (part, later) = rest.split_at(count.count().max(1).min(rest.len()));
        let to = later.first().map_or(Position::before(watermark), |next| next.first);
        look_at_part(archive, name, part, from..to, listed, chained).await?;
        if later.is_empty() {
            return Ok(());
        }
        (rest, from) = (later, to);
    }
}

async fn look_at_part(
    archive: &Archive,
    name: &TableName,
    segments: &[Segment],
    places: Range<Position>,
    listed: &[Listed],
    chained: &mut Chained,
) -> Result<()> {
    let mut found: Vec<Vec<(Position, Digest)>> = vec![Vec::new(); segments.len()];
    let files =
        archive.whole_table(&TablePath::Changes(name.clone())).await?.map(|(_, files)| files).unwrap_or_default();
    let (mut strangers, mut misdated) = (Vec::new(), Vec::new());
    for file in files.iter().filter(|file| may_have(file.lsns, &places)) {
        let mut batches = archive.read(file, None).await?.stream()?;
        while let Some(batch) = batches.try_next().await? {
            let times =
                batch.column_by_name(names::TS).and_then(|ts| ts.as_primitive_opt::<TimestampMicrosecondType>());
            let mut rows = RowDigests::new(&batch);
            for (row, place) in places_of(&batch)?.into_iter().enumerate().filter(|(_, place)| places.contains(place)) {
                let at = segments.partition_point(|segment| segment.last < place);
                match segments.get(at).filter(|segment| segment.first <= place) {
                    Some(_) => found[at].push((place, rows.of(row)?)),
                    None if place.lsn < chained.from => chained.unchained += 1,
                    None => strangers.push(place.lsn),
                }
                let said = within(listed, &(place.lsn..Lsn(place.lsn.0 + 1))).first().map(|one| one.time);
                if said.is_some() && said != times.map(|times| times.value(row)) {
                    misdated.push(place.lsn);
                }
            }
        }
    }
    for (lsns, finding) in [
        (strangers, "changes that were never published"),
        (misdated, "changes with another time than their transaction's"),
    ] {
        if let (Some(first), Some(last)) = (lsns.iter().min(), lsns.iter().max()) {
            chained.find(name, format!("{} {finding}, from {first} to {last}", lsns.len()));
        }
    }
    for (segment, rows) in segments.iter().zip(found) {
        chained.changes += rows.len() as u64;
        let count = rows.len() as u64;
        if count != segment.rows {
            let finding = format!("{count} of {} changes are there", segment.rows);
            chained.find(format!("{name}, {} to {}", segment.first.lsn, segment.last.lsn), finding);
        } else if segment_of(rows).is_none_or(|there| there.hash != segment.hash) {
            let finding = "these changes are not what was published";
            chained.find(format!("{name}, {} to {}", segment.first.lsn, segment.last.lsn), finding);
        }
    }
    Ok(())
}

fn may_have(lsns: Option<(i64, i64)>, places: &Range<Position>) -> bool {
    lsns.is_none_or(|(least, greatest)| {
        Lsn::from_i64(least) <= places.end.lsn && Lsn::from_i64(greatest) >= places.start.lsn
    })
}
