//! Where the rows of a table are not known: after it left the archive's sight, until it was read again.

use std::collections::BTreeMap;

use super::overlay::names_of;
use super::table_at::image_of;
use crate::archive::Archive;
use crate::failure::Result;
use crate::model::{Lsn, Position, RelationEvent, RelationRecord, TableName};

/// A range of history in which no point has the table's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub table: TableName,
    /// The commit LSN of the transaction with which it began.
    pub from: Lsn,
    /// Where its rows are known again, if they are.
    pub until: Option<Lsn>,
}

/// The gaps before a cut, in the order in which they began.
pub async fn gaps(archive: &Archive, cut: Lsn) -> Result<Vec<Gap>> {
    let mut relations: BTreeMap<u32, Vec<RelationRecord>> = BTreeMap::new();
    for record in archive.relations().await?.iter().filter(|record| record.position.lsn < cut) {
        relations.entry(record.relation.oid).or_default().push(record.clone());
    }
    let mut found = Vec::new();
    for (oid, mut records) in relations {
        if records.iter().any(|record| record.event == RelationEvent::Unseen) {
            records.sort_by_key(|record| record.position);
            let images = images_of(archive, oid, &records, cut).await?;
            found.extend(of_relation(&records, &images));
        }
    }
    found.sort_by_key(|gap| gap.from);
    Ok(found)
}

/// Where base images of the relation are, under any of its names.
async fn images_of(archive: &Archive, oid: u32, records: &[RelationRecord], cut: Lsn) -> Result<Vec<Lsn>> {
    let mut lsns = Vec::new();
    for name in names_of(records) {
        let mut at = cut;
        while let Some(image) = image_of(archive, &name, oid, at).await? {
            lsns.push(image.lsn);
            at = Lsn(image.lsn.0.saturating_sub(1));
        }
    }
    lsns.sort_unstable();
    Ok(lsns)
}

fn of_relation(records: &[RelationRecord], images: &[Lsn]) -> Vec<Gap> {
    let mut gaps: Vec<Gap> = Vec::new();
    let mut open: Option<&RelationRecord> = None;
    for record in records {
        let known = |until: Lsn, gaps: &mut Vec<Gap>, begun: &RelationRecord| {
            gaps.push(Gap { table: begun.relation.name.clone(), from: begun.position.lsn, until: Some(until) });
        };
        if let Some(begun) = open
            && let Some(image) = image_after(images, begun.position).filter(|image| *image <= record.position.lsn)
        {
            known(image, &mut gaps, begun);
            open = None;
        }
        match record.event {
            RelationEvent::Unseen => open = open.or(Some(record)),
            RelationEvent::Created | RelationEvent::Rewritten | RelationEvent::Dropped => {
                if let Some(begun) = open.take() {
                    known(record.position.lsn, &mut gaps, begun);
                }
            }
            RelationEvent::Described => {}
        }
    }
    gaps.extend(open.map(|begun| Gap {
        table: begun.relation.name.clone(),
        from: begun.position.lsn,
        until: image_after(images, begun.position),
    }));
    gaps
}

fn image_after(images: &[Lsn], position: Position) -> Option<Lsn> {
    images.iter().copied().find(|image| position < Position::before(*image))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Identity, RelationVersion};

    fn record(lsn: u64, event: RelationEvent) -> RelationRecord {
        let relation = RelationVersion::new(1, TableName::new("public", "t"), Identity::Default, Vec::new());
        RelationRecord { position: Position { lsn: Lsn(lsn), seq: 0 }, event, relation, definition: None }
    }

    fn ranges(records: &[(u64, RelationEvent)], images: &[u64]) -> Vec<(u64, Option<u64>)> {
        let records: Vec<RelationRecord> = records.iter().map(|(lsn, event)| record(*lsn, *event)).collect();
        let images: Vec<Lsn> = images.iter().copied().map(Lsn).collect();
        of_relation(&records, &images).into_iter().map(|gap| (gap.from.0, gap.until.map(|until| until.0))).collect()
    }

    #[test]
    fn gaps_end_where_the_rows_are_known_again() {
        use RelationEvent::{Created, Described, Dropped, Rewritten, Unseen};
        assert_eq!(ranges(&[(1, Created), (5, Unseen)], &[]), [(5, None)]);
        assert_eq!(ranges(&[(5, Unseen), (7, Unseen), (8, Described)], &[3, 9]), [(5, Some(9))]);
        assert_eq!(
            ranges(&[(5, Unseen), (8, Rewritten), (12, Unseen), (20, Dropped)], &[]),
            [(5, Some(8)), (12, Some(20))]
        );
        assert_eq!(ranges(&[(5, Unseen), (8, Unseen)], &[6, 10]), [(5, Some(6)), (8, Some(10))]);
        assert_eq!(ranges(&[(1, Created), (2, Rewritten), (9, Dropped)], &[4]), []);
    }
}
