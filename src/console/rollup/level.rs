//! Counts of changes at one fineness: by time, table and application.

/// What was done to a table in a stretch of time: inserts, updates, deletes, truncations.
pub(super) type Counts = [u32; 4];

/// A stretch's beginning in seconds since 1970, a table and an application.
pub(super) type Place = (u32, u16, u16);

/// One stretch, one table, one application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) place: Place,
    pub(super) counts: Counts,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Level {
    /// Seconds of a stretch.
    pub(super) unit: u32,
    /// Cells that are kept at most; of more the older half goes.
    most: usize,
    /// From when on it knows everything, in seconds since 1970.
    pub(super) since: u32,
    /// In the order of their places.
    cells: Vec<Cell>,
}

impl Level {
    pub(super) fn new(unit: u32, most: usize) -> Level {
        Level { unit, most, since: 0, cells: Vec::new() }
    }

    /// Adds counts, which are in the order of their places, each place once.
    pub(super) fn add(&mut self, new: &[Cell]) {
        let Some(first) = new.first() else { return };
        let at = self.cells.partition_point(|cell| cell.place < first.place);
        let tail = self.cells.split_off(at);
        let (mut old, mut new) = (tail.into_iter().peekable(), new.iter().copied().peekable());
        while let (Some(a), Some(b)) = (old.peek(), new.peek()) {
            let next = match a.place.cmp(&b.place) {
                std::cmp::Ordering::Less => old.next(),
                std::cmp::Ordering::Greater => new.next(),
                std::cmp::Ordering::Equal => {
                    let counts = sum(a.counts, b.counts);
                    new.next();
                    old.next().map(|cell| Cell { counts, ..cell })
                }
            };
            self.cells.extend(next);
        }
        self.cells.extend(old);
        self.cells.extend(new);
        self.forget();
    }

    fn forget(&mut self) {
        if self.cells.len() <= self.most {
            return;
        }
        // A stretch is kept whole or not at all.
        let since = self.cells[self.cells.len() / 2].place.0 + self.unit;
        self.since = self.since.max(since);
        self.cells.drain(..self.cells.partition_point(|cell| cell.place.0 < since));
        self.cells.shrink_to_fit();
    }

    /// The cells whose stretches begin in a range of seconds.
    pub(super) fn within(&self, from: u32, to: u32) -> &[Cell] {
        let at = |time: u32| self.cells.partition_point(|cell| cell.place.0 < time);
        &self.cells[at(from)..at(to).max(at(from))]
    }

    pub(super) fn bytes(&self) -> usize {
        self.cells.capacity() * size_of::<Cell>()
    }
}

pub(super) fn sum(a: Counts, b: Counts) -> Counts {
    std::array::from_fn(|at| a[at].saturating_add(b[at]))
}

/// Cells in their order, with those of one coarser stretch added up.
pub(super) fn coarser(cells: &[Cell], unit: u32) -> Vec<Cell> {
    let mut coarse: Vec<Cell> = cells.iter().map(|cell| of_stretch(*cell, unit)).collect();
    coarse.sort_unstable_by_key(|cell| cell.place);
    coarse.dedup_by(|next, kept| {
        let same = next.place == kept.place;
        if same {
            kept.counts = sum(kept.counts, next.counts);
        }
        same
    });
    coarse
}

fn of_stretch(cell: Cell, unit: u32) -> Cell {
    let (time, table, application) = cell.place;
    Cell { place: (time - time % unit, table, application), ..cell }
}
