//! One table as it was at a point.
//!
//! The newest base image before the point is read, without the rows that changes since then have touched, and the rows
//! that those changes left, from where they lie. Which these are the last change of each key says where keys are unique
//! ([`super::latest`]), and else every change, in the order of history ([`super::overlaid`]).

use std::sync::Arc;

use super::changes::{Condition, KeyPart, KeySet, Range, key_conditions};
use super::gathering::{Chosen, FileRows, Gather, Gathering, Shape, Take, Texts, in_parallel};
use super::keys::KnownKeys;
use super::latest::Latest;
use super::overlay::{self, Only};
use super::point::Cut;
use super::row_set::RowSet;
use super::spill::Spill;
use crate::archive::{Archive, DataFile, Image};
use crate::columnar::RowText;
use crate::failure::{Failure, Result};
use crate::model::{Column, Identity, Lsn, Position, RelationEvent, RelationRecord, RelationVersion, TableName};

/// What a row is given to.
pub type RowSink<'a> = dyn FnMut(&RowText) -> Result<()> + Send + 'a;

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct TableAt {
    pub(super) archive: Archive,
    pub(super) relation: RelationVersion,
    /// Every name that it had until then.
    names: Vec<TableName>,
    /// The columns by which its rows are told apart.
    pub(super) key: Vec<Column>,
    pub(super) base: Base,
    /// Changes from here on are not in the base.
    from: Position,
    cut: Position,
    /// Bytes that changed keys take while it is read, about; what is more waits on disk.
    memory: usize,
    /// Rows for which these do not hold may be left out.
    conditions: Vec<Condition>,
}

/// Where nobody says how much memory reading may take.
const MEMORY: usize = 256 << 20;

/// The changes of more keys are not put in order one by one.
const LOOKED_UP_KEYS: usize = 1000;

/// Of so many keys at first the rows are completed together.
const INCOMPLETE_KEYS: usize = 1000;

/// Where the rows come from that no change since has touched.
#[derive(Debug, Clone)]
pub(super) enum Base {
    /// There were none.
    Nothing,
    Image(Image),
    /// The state before rows were told apart by other columns.
    State(Box<TableAt>),
    /// The leaves of a partitioned table.
    Leaves(Vec<TableAt>),
}

/// What somebody is told who asks for a table where it cannot be known.
fn unknown(name: &TableName, records: &[RelationRecord]) -> Failure {
    let since = records.iter().rfind(|record| record.event == RelationEvent::Unseen).map(|record| record.position.lsn);
    let cause = match since {
        Some(lsn) => format!("the rows of {name} are not known from {lsn} on, until its next base image"),
        None => format!("the archive has no base image of {name}, so its rows at a point are not known"),
    };
    Failure::refused(cause).remedy("name a later point; its changes are in the archive: afterimage query")
}

/// Why a table cannot be shown where it did not exist, and when it did.
fn absent(name: &TableName, cut: &Cut, records: &[RelationRecord]) -> Failure {
    let named = |record: &&RelationRecord| record.relation.name == *name && record.position.lsn < cut.lsn;
    match records.iter().rfind(named) {
        Some(last) if last.event == RelationEvent::Dropped => {
            let lsn = last.position.lsn;
            Failure::refused(format!("{name} did not exist at {}: transaction {lsn} dropped it", cut.point))
                .remedy(format!("before that: --at before:{lsn}"))
        }
        Some(last) => {
            let later = records.iter().rfind(|record| record.relation.oid == last.relation.oid);
            let now = later.map_or_else(String::new, |record| record.relation.name.to_string());
            Failure::refused(format!("{name} did not exist at {}: it has another name since", cut.point))
                .remedy(format!("it became {now}"))
        }
        None => {
            let refused = Failure::refused(format!("{name} did not exist at {}", cut.point));
            match records.iter().find(|record| record.relation.name == *name) {
                Some(first) => refused.remedy(format!("it was there from transaction {} on", first.position.lsn)),
                None => refused.remedy("choose a later point"),
            }
        }
    }
}

impl TableAt {
    /// Finds a table as it was before the transaction with commit LSN `cut`; `None` where it was not there.
    ///
    /// # Errors
    /// Refused where its state then cannot be known.
    pub async fn find(archive: &Archive, name: &TableName, cut: Lsn) -> Result<Option<TableAt>> {
        let cut = Position::before(cut);
        let latest = overlay::latest_records(archive, cut).await?;
        let mut named = latest.into_values().filter(|record| record.relation.name == *name);
        match named.find(|record| record.event != RelationEvent::Dropped) {
            Some(record) => TableAt::of_relation(archive, record.relation.oid, cut).await.map(Some),
            None => Ok(None),
        }
    }

    /// The same, where it must have been there: what is refused says when it was. `None` where no table ever had the name.
    pub async fn at(archive: &Archive, name: &TableName, cut: &Cut) -> Result<Option<TableAt>> {
        if let Some(found) = TableAt::find(archive, name, cut.lsn).await? {
            return Ok(Some(found));
        }
        let records = archive.relations().await?;
        match records.iter().any(|record| record.relation.name == *name) {
            true => Err(absent(name, cut, &records)),
            false => Ok(None),
        }
    }

    /// The state of the relation at a position, where it has one.
    pub(super) async fn of_relation(archive: &Archive, oid: u32, cut: Position) -> Result<TableAt> {
        let records = overlay::records_of(archive, oid, cut).await?;
        let gone = || Failure::failed(format!("the archive has no relation {oid}"));
        let relation = records.last().ok_or_else(gone)?.relation.clone();
        let names = overlay::names_of(&records);
        if relation.partitioned {
            return TableAt::of_partitioned(archive, relation, names, cut).await;
        }
        let (mut base, mut from) = base_of(archive, &relation, &names, &records, cut).await?;
        let since = segment_start(&records, from);
        if since > from {
            // Rows of before are told apart in another way.
            base = Base::State(Box::new(Box::pin(TableAt::of_relation(archive, oid, since)).await?));
            from = since;
        }
        let key = relation.key_positions().into_iter().map(|at| relation.columns[at].clone()).collect();
        Ok(TableAt {
            archive: archive.clone(),
            relation,
            names,
            key,
            base,
            from,
            cut,
            memory: MEMORY,
            conditions: Vec::new(),
        })
    }

    async fn of_partitioned(
        archive: &Archive,
        relation: RelationVersion,
        names: Vec<TableName>,
        cut: Position,
    ) -> Result<TableAt> {
        let latest = overlay::latest_records(archive, cut).await?;
        let parent = |oid: u32| latest.get(&oid).and_then(|record| record.relation.parent);
        let belongs =
            |oid: u32| std::iter::successors(parent(oid), |above| parent(*above)).any(|above| above == relation.oid);
        let mut leaves = Vec::new();
        for (oid, record) in &latest {
            if record.event != RelationEvent::Dropped && !record.relation.partitioned && belongs(*oid) {
                leaves.push(Box::pin(TableAt::of_relation(archive, *oid, cut)).await?);
            }
        }
        let (archive, base, from) = (archive.clone(), Base::Leaves(leaves), cut);
        let (key, conditions) = (Vec::new(), Vec::new());
        Ok(TableAt { archive, relation, names, key, base, from, cut, memory: MEMORY, conditions })
    }

    /// The same, to be read with about so many bytes of memory for the keys of changed rows, and as much for the files at
    /// hand. What does not fit waits in the system's temporary directory.
    pub fn within(mut self, memory: usize) -> TableAt {
        self.memory = memory;
        self.base = match self.base {
            Base::State(state) => Base::State(Box::new(state.within(memory))),
            Base::Leaves(leaves) => Base::Leaves(leaves.into_iter().map(|leaf| leaf.within(memory)).collect()),
            other => other,
        };
        self
    }

    /// The same, for somebody who wants no rows but those for which these hold: of the others as many may be left out as
    /// need not be read.
    pub fn with_conditions(mut self, conditions: &[Condition]) -> TableAt {
        if let Base::Leaves(leaves) = self.base {
            // A leaf can have the columns in another order, and numbers of its own.
            let of_leaf = |leaf: &TableAt| -> Vec<Condition> {
                let named =
                    |(column, values): &Condition| Some((leaf.relation.column(&column.name)?.clone(), values.clone()));
                conditions.iter().filter_map(named).collect()
            };
            let leaves = leaves.into_iter().map(|leaf| (of_leaf(&leaf), leaf));
            self.base = Base::Leaves(leaves.map(|(conditions, leaf)| leaf.with_conditions(&conditions)).collect());
        }
        self.conditions = conditions.to_vec();
        self
    }

    /// The columns that the table had then.
    pub fn relation(&self) -> &RelationVersion {
        &self.relation
    }

    /// The columns by which its rows are told apart.
    pub fn key(&self) -> &[Column] {
        &self.key
    }

    /// Gives every row, in no order, its fields in the order of [`TableAt::relation`]. With `only`, rows
    /// under other keys are left out.
    pub async fn for_each_row(&self, only: Option<&KeySet>, sink: &mut RowSink<'_>) -> Result<()> {
        match &self.base {
            Base::Leaves(leaves) => {
                for leaf in leaves {
                    self.rows_of_leaf(leaf, sink).await?;
                }
                Ok(())
            }
            _ if only.is_none() && self.has_unique_key() => {
                let columns = &self.relation.columns;
                self.latest_rows(columns, None, Texts::default(), &mut |rows: Texts| rows.for_each(sink)).await
            }
            _ => match only {
                Some(only) => self.overlaid_rows(&Only::Keys(only), usize::MAX, sink).await.map(drop),
                None => self.overlaid_in_parts(sink).await,
            },
        }
    }

    /// The same, many rows at once, made ready by several threads.
    pub async fn gather<G: Gather>(&self, only: Option<&Arc<KeySet>>, empty: G, take: &mut Take<'_, G>) -> Result<()> {
        self.gather_columns(&self.relation.columns, only, empty, take).await
    }

    /// The same with some of the relation's columns, in any order; with `only`, of the rows under these keys.
    pub async fn gather_columns<G: Gather>(
        &self,
        columns: &[Column],
        only: Option<&Arc<KeySet>>,
        empty: G,
        take: &mut Take<'_, G>,
    ) -> Result<()> {
        if let (Base::Leaves(leaves), None) = (&self.base, only) {
            for leaf in leaves {
                // A leaf can have the columns in another order, and numbers of its own.
                let named = columns.iter().filter_map(|column| leaf.relation.column(&column.name)).cloned();
                let named: Vec<Column> = named.collect();
                Box::pin(leaf.gather_columns(&named, None, empty.clone(), take)).await?;
            }
            return Ok(());
        }
        // Few keys are looked up; of many, the rows are found by looking at every key that may be one of them.
        if self.has_unique_key() && only.is_none_or(|only| only.len() > LOOKED_UP_KEYS) {
            return self.latest_rows(columns, only, empty, take).await;
        }
        let mut gathering = Gathering::new(empty, take);
        let mut picked = Picked::of(&self.relation, columns);
        self.for_each_row(only.map(Arc::as_ref), &mut |row| gathering.add(picked.of_row(row))).await?;
        gathering.hand_on()
    }

    /// The columns of the key, where at most one row stands under one.
    pub fn unique_key(&self) -> Option<&[Column]> {
        self.has_unique_key().then_some(&self.key)
    }

    /// Whether at any time at most one row stands under a key.
    fn has_unique_key(&self) -> bool {
        self.relation.identity.is_unique() && !self.key.is_empty()
    }

    pub(super) fn range(&self) -> Range<'_> {
        Range {
            archive: &self.archive,
            names: &self.names,
            oid: self.relation.oid,
            key: &self.key,
            from: self.from,
            to: self.cut,
        }
    }

    /// The rows where keys are unique: those that the last changes of their keys left, and those of the base that no
    /// change touched. With `only`, rows under other keys are left out.
    async fn latest_rows<G: Gather>(
        &self,
        columns: &[Column],
        only: Option<&Arc<KeySet>>,
        empty: G,
        take: &mut Take<'_, G>,
    ) -> Result<()> {
        let mut picked = Picked::of(&self.relation, columns);
        let shape = |conditions| Arc::new(Shape { columns: columns.to_vec(), key: self.key.clone(), conditions });
        let sought = only.map_or_else(Vec::new, |only| key_conditions(&self.key, only));
        // Whether a row of the base is overridden is asked of all of them; what is overridden is not read, whatever it was.
        let (whole, wanted) = (shape(sought.clone()), shape([sought.as_slice(), &self.conditions].concat()));
        let rows_in = |shape: &Arc<Shape>, file: &DataFile, rows: Chosen| FileRows {
            archive: self.archive.clone(),
            shape: Arc::clone(shape),
            file: file.clone(),
            rows,
        };
        let rows_of = |(file, rows): (&DataFile, Chosen)| rows_in(&wanted, file, rows);
        let mut latest = Latest::read(&self.range(), self.memory, only.cloned(), sought).await?;
        let base = if latest.is_truncated() { &Base::Nothing } else { &self.base };
        if let Base::Image(image) = base
            && (!latest.is_empty() || only.is_some())
        {
            let all = image.files.iter().map(|file| rows_in(&whole, file, Chosen::AllBut(RowSet::default())));
            latest = latest.take_from_base(all.collect()).await?;
        }
        loop {
            let (further, known) = latest.next_keys().await?;
            latest = further;
            let Some(known) = known else { break };
            if let Base::State(state) = base {
                let mut gathering = Gathering::new(empty.clone(), take);
                self.untouched_rows(state, &known, only, &mut |row| gathering.add(picked.of_row(row))).await?;
                gathering.hand_on()?;
            }
        }
        let Latest { files: changes, rows, gone, incomplete, .. } = latest;
        let mut files = Vec::new();
        if let Base::Image(image) = base {
            let gone = gone.into_iter().chain(std::iter::repeat_with(RowSet::default));
            files.extend(image.files.iter().zip(gone.map(Chosen::AllBut)).map(rows_of));
        }
        let changed = changes.iter().zip(rows).filter(|(_, rows)| !rows.is_empty());
        files.extend(changed.map(|(file, rows)| rows_of((file, Chosen::Only(rows)))));
        in_parallel(files, self.memory, empty.clone(), take).await?;
        let Some(incomplete) = incomplete else { return Ok(()) };
        let mut gathering = Gathering::new(empty, take);
        self.incomplete_rows(incomplete, &mut |row| gathering.add(picked.of_row(row))).await?;
        gathering.hand_on()
    }

    /// The rows under keys whose last changes left something out: of so many keys at once as fit into memory.
    async fn incomplete_rows(&self, mut keys: Spill, sink: &mut RowSink<'_>) -> Result<()> {
        let mut records = keys.read()?;
        let (mut some, mut most) = (KeySet::new(), INCOMPLETE_KEYS);
        loop {
            while some.len() < most
                && let Some((key, _)) = records.next()?
            {
                some.insert(key.into());
            }
            if some.is_empty() {
                return Ok(());
            }
            let now: KeySet = some.iter().take(most).cloned().collect();
            let memory = if now.len() > 1 { self.memory } else { usize::MAX };
            most = match self.overlaid_rows(&Only::Keys(&now), memory, sink).await? {
                Some(held) => {
                    some.retain(|key| !now.contains(key));
                    (now.len() * self.memory / held.max(1)).clamp(1, most * 8)
                }
                None => now.len() / 2,
            };
        }
    }

    /// The rows where keys are not unique, of as many keys at once as fit into memory.
    async fn overlaid_in_parts(&self, sink: &mut RowSink<'_>) -> Result<()> {
        let mut parts = vec![KeyPart::default()];
        while let Some(part) = parts.pop() {
            if self.overlaid_rows(&Only::Part(&part), self.memory, sink).await?.is_some() {
                continue;
            }
            match part.halves() {
                Ok(halves) => parts.extend(halves),
                Err(part) => drop(self.overlaid_rows(&Only::Part(&part), usize::MAX, sink).await?),
            }
        }
        Ok(())
    }

    /// The rows of a state that stands in for an image, as far as these keys have none of theirs.
    async fn untouched_rows(
        &self,
        state: &TableAt,
        known: &KnownKeys,
        only: Option<&Arc<KeySet>>,
        sink: &mut RowSink<'_>,
    ) -> Result<()> {
        let places = places_in(&self.relation.columns, &state.relation);
        let mut text = RowText::default();
        let mut give = |row: &RowText| {
            rearrange(row, &places, &mut text);
            let key = self.key_of(&text);
            let wanted = only.is_none_or(|only| only.contains(key.as_slice()));
            if wanted && known.touch(&key) == Some(false) { sink(&text) } else { Ok(()) }
        };
        Box::pin(state.for_each_row(None, &mut give)).await
    }

    /// A leaf can have the columns in another order, and numbers of its own.
    async fn rows_of_leaf(&self, leaf: &TableAt, sink: &mut RowSink<'_>) -> Result<()> {
        let position = |column: &Column| leaf.relation.columns.iter().position(|known| known.name == column.name);
        let places: Vec<_> = self.relation.columns.iter().map(|column| (position(column), None)).collect();
        let mut text = RowText::default();
        let mut give = |row: &RowText| {
            rearrange(row, &places, &mut text);
            sink(&text)
        };
        Box::pin(leaf.for_each_row(None, &mut give)).await
    }

    /// The key of a row in this table's columns.
    pub fn key_of(&self, row: &RowText) -> Vec<u8> {
        let at = |column: &Column| self.relation.columns.iter().position(|known| known.name == column.name);
        key_of_fields(self.key.iter().map(|column| at(column).and_then(|at| row.field(at))))
    }
}

/// The key whose columns have these texts, `None` for NULL.
pub fn key_of_fields<'a>(fields: impl Iterator<Item = Option<&'a [u8]>>) -> Vec<u8> {
    let mut key = Vec::new();
    for field in fields {
        match field {
            Some(bytes) => {
                key.push(1);
                key.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
                key.extend_from_slice(bytes);
            }
            None => key.extend_from_slice(&[0; 5]),
        }
    }
    key
}

/// The texts of a key's columns: of each it has a byte (1, or 0 for NULL), four bytes of length, and the text.
pub fn key_fields(key: &[u8]) -> Vec<Option<&[u8]>> {
    let mut fields = Vec::new();
    let mut rest = key;
    while let Some((&[present, a, b, c, d], tail)) = rest.split_first_chunk::<5>() {
        let length = (u32::from_be_bytes([a, b, c, d]) as usize).min(tail.len());
        let (text, after) = tail.split_at(length);
        fields.push((present == 1).then_some(text));
        rest = after;
    }
    fields
}

/// The newest place from which the rows are known, and what was there.
async fn base_of(
    archive: &Archive,
    relation: &RelationVersion,
    names: &[TableName],
    records: &[RelationRecord],
    cut: Position,
) -> Result<(Base, Position)> {
    let mut image: Option<Image> = None;
    for name in names {
        let found = image_of(archive, name, relation.oid, cut.lsn).await?;
        image = image.into_iter().chain(found).max_by_key(|image| image.lsn);
    }
    let said = records.iter().rfind(|record| record.event != RelationEvent::Described);
    match (image, said) {
        (Some(image), said) if said.is_none_or(|said| said.position < Position::before(image.lsn)) => {
            let from = Position::before(image.lsn);
            Ok((Base::Image(image), from))
        }
        (_, Some(said)) if matches!(said.event, RelationEvent::Created | RelationEvent::Rewritten) => {
            Ok((Base::Nothing, said.position))
        }
        _ => Err(unknown(&relation.name, records)),
    }
}

/// From where on, at or after a base, rows are told apart as they are in the end.
fn segment_start(records: &[RelationRecord], base: Position) -> Position {
    let mut start = base;
    let mut kind: Option<Option<Vec<i16>>> = None;
    for record in records.iter().rev() {
        let relation = &record.relation;
        // Without an identity nothing was updated or deleted, and of a table without columns all rows are equal.
        if relation.identity != Identity::Nothing && !relation.columns.is_empty() {
            let found = identity_kind(relation);
            if kind.get_or_insert_with(|| found.clone()) != &found {
                return start.max(base);
            }
            start = record.position;
        }
        if record.position <= base {
            return base;
        }
    }
    base
}

/// What tells rows apart: the numbers of the key's columns, or `None` for all that there are.
pub fn identity_kind(relation: &RelationVersion) -> Option<Vec<i16>> {
    let numbered = relation.columns.iter().all(|column| column.number != 0);
    let number = |at: usize| if numbered { relation.columns[at].number } else { at as i16 };
    (relation.identity != Identity::Full).then(|| relation.key_positions().into_iter().map(number).collect())
}

/// The newest base image under a name that is of this table: another may have had the name too.
pub(super) async fn image_of(archive: &Archive, name: &TableName, oid: u32, at: Lsn) -> Result<Option<Image>> {
    for image in archive.images(name, at).await? {
        if let Some(file) = image.files.first()
            && archive.read(file, None).await?.relation()?.oid == oid
        {
            return Ok(Some(image));
        }
    }
    Ok(None)
}

/// Where columns are in the rows of another version, and what they show where they are not.
pub fn places_in<'c>(columns: &'c [Column], relation: &RelationVersion) -> Vec<(Option<usize>, Option<&'c str>)> {
    columns.iter().map(|column| (relation.position_of(column), column.missing.as_deref())).collect()
}

/// Replaces `text` by a row's fields in another order: each from its position, or the constant where it has none.
pub fn rearrange(row: &RowText, places: &[(Option<usize>, Option<&str>)], text: &mut RowText) {
    text.clear();
    for (position, constant) in places {
        let value = match position {
            Some(at) => row.field(*at),
            None => constant.map(str::as_bytes),
        };
        text.push_with(|out| value.map(|value| out.extend_from_slice(value)).is_some());
    }
}

/// Some columns of a relation's rows.
struct Picked {
    /// Where they are; `None` where a row is to stay as it is.
    places: Option<Vec<(Option<usize>, Option<&'static str>)>>,
    text: RowText,
}

impl Picked {
    fn of(relation: &RelationVersion, columns: &[Column]) -> Picked {
        let place = |column: &Column| (relation.columns.iter().position(|known| known.name == column.name), None);
        let places = (relation.columns != columns).then(|| columns.iter().map(place).collect());
        Picked { places, text: RowText::default() }
    }

    fn of_row<'r>(&'r mut self, row: &'r RowText) -> &'r RowText {
        let Some(places) = &self.places else { return row };
        rearrange(row, places, &mut self.text);
        &self.text
    }
}
