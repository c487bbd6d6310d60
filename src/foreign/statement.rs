//! One statement that gives a table's state: the base, and the last change of each row.
//!
//! Inside, columns go by numbers, so that no name of a user's can clash: `c` for values, `x` for the texts of values
//! that a column cannot hold, `k` and `o` for keys after and before a change, `y` for such texts of before, and `m`
//! for whether a change left a column out.

use std::collections::HashMap;

use super::constant::constant;
use super::dialect::Engine;
use super::place::{From, Root};
use crate::columnar::{Storage, names};
use crate::failure::{Failure, Result};
use crate::history::{BaseParts, ChangeParts, StateParts};
use crate::model::{Column, RelationVersion};

/// A change that leaves a row.
const WRITES: &str = "op IN ('insert', 'update', 'snapshot')";
/// A change that takes one away.
const TAKES: &str = "op IN ('update', 'delete')";

/// What is told of a change besides its rows' columns.
pub(super) const TOLD: [&str; 6] = [names::LSN, names::SEQ, names::XID, names::TS, names::OP, names::MISSING];

/// A statement under construction.
pub(super) struct Statement {
    pub(super) engine: Engine,
    pub(super) root: Root,
    /// Named queries, each of which uses those before it.
    pub(super) queries: Vec<String>,
    names: HashMap<&'static str, usize>,
    /// Whether the texts of values that a column cannot hold are needed.
    pub(super) exact: bool,
}

/// Where a value comes from.
struct Read {
    value: String,
    /// Its text, where the column cannot hold it.
    exact: String,
}

impl Statement {
    pub(super) fn new(engine: Engine, root: Root, exact: bool) -> Statement {
        Statement { engine, root, queries: Vec::new(), names: HashMap::new(), exact }
    }

    /// Adds a query and gives its name.
    pub(super) fn add(&mut self, kind: &'static str, sql: &str) -> String {
        let number = self.names.entry(kind).or_default();
        *number += 1;
        let name = if *number == 1 { kind.to_owned() } else { format!("{kind}_{number}") };
        self.queries.push(format!("{name} AS (\n  {}\n)", sql.replace('\n', "\n  ")));
        name
    }

    /// The query that has a state's rows: each column, and its exact text where these are needed.
    pub(super) fn state(&mut self, state: &StateParts) -> Result<String> {
        let base = self.base(state)?;
        let changes = match state.changes.by_file.is_empty() {
            true => None,
            false => Some(self.changes(state)?),
        };
        let sql = match (base, changes) {
            (Some(base), None) => return Ok(base),
            (None, None) => self.no_rows(&state.relation)?,
            (base, Some(changes)) => {
                let cleared = format!("SELECT coalesce(max(place), -1) AS place FROM {changes} WHERE op = 'truncate'");
                let cleared = self.add("cleared", &cleared);
                let found = Found { base, changes, cleared };
                if state.unique { self.latest(state, &found) } else { self.counted(state, &found) }
            }
        };
        Ok(self.add("state", &sql))
    }

    fn no_rows(&self, relation: &RelationVersion) -> Result<String> {
        let nothing = |column: &Column| Ok(self.nothing(column));
        Ok(format!("SELECT {} WHERE 1 = 0", self.columns(&relation.columns, nothing)?))
    }

    fn base(&mut self, state: &StateParts) -> Result<Option<String>> {
        let queries = match &state.base {
            BaseParts::Nothing => return Ok(None),
            BaseParts::Image(image) => {
                let sources = self.root.image(image);
                let columns =
                    self.columns(&state.relation.columns, |column| self.read(column, &image.part.relation, None))?;
                let columns = self.with_keys(columns, state, |column| self.read(column, &image.part.relation, None))?;
                sources.iter().map(|source| select(&columns, source)).collect()
            }
            BaseParts::State(before) => vec![self.of_state(state, before, RelationVersion::same_column)?],
            BaseParts::Leaves(leaves) => {
                let each = leaves.iter().map(|leaf| self.of_state(state, leaf, named_alike));
                each.collect::<Result<Vec<_>>>()?
            }
        };
        if queries.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.add("base", &queries.join("\nUNION ALL\n"))))
    }

    /// The rows of another state in this one's columns.
    fn of_state<'s>(
        &mut self,
        state: &StateParts,
        other: &'s StateParts,
        same: impl Fn(&'s RelationVersion, &Column) -> Option<&'s Column>,
    ) -> Result<String> {
        let rows = self.state(other)?;
        let read = |column: &Column| match same(&other.relation, column) {
            Some(known) => {
                let at = 1 + other.relation.columns.iter().position(|one| one.name == known.name).unwrap_or_default();
                let exact = if self.has_exact(known) { format!("r.x{at}") } else { self.no_text() };
                self.converted(column, known, format!("r.c{at}"), exact)
            }
            None => self.constant(column),
        };
        let columns = self.columns(&state.relation.columns, read)?;
        Ok(format!("SELECT {}\nFROM {rows} AS r", self.with_keys(columns, state, read)?))
    }

    /// The list of columns.
    fn columns(&self, columns: &[Column], read: impl Fn(&Column) -> Result<Read>) -> Result<String> {
        let mut list = Vec::new();
        for (at, column) in (1..).zip(columns) {
            let found = read(column)?;
            list.push(format!("{} AS c{at}", found.value));
            if self.has_exact(column) {
                list.push(format!("{} AS x{at}", found.exact));
            }
        }
        Ok(list.join(", "))
    }

    /// The same with those columns of the key whose values have no single column.
    fn with_keys(&self, list: String, state: &StateParts, read: impl Fn(&Column) -> Result<Read>) -> Result<String> {
        let mut list = vec![list];
        for (at, column) in (1..).zip(&state.key).filter(|(_, column)| state.unique && may_be_inexact(column)) {
            list.push(format!("{} AS k{at}", self.key(read(column)?)));
        }
        Ok(list.join(", "))
    }

    /// One value for a column and its exact text.
    fn key(&self, read: Read) -> String {
        format!("coalesce({}, {})", self.engine.cast(&read.value, &Storage::Text), read.exact)
    }

    fn changes(&mut self, state: &StateParts) -> Result<String> {
        let mut queries = Vec::new();
        let place = self.place(&state.changes);
        for (version, sources) in self.sources(&state.changes) {
            let new = |column: &Column| self.read(column, &version, None);
            let old = |column: &Column| self.read(column, &version, Some(names::OLD));
            let mut list = vec![format!("{place} AS place"), format!("{} AS op", names::OP)];
            list.push(self.with_keys(self.columns(&state.relation.columns, new)?, state, new)?);
            if state.unique {
                for (at, column) in (1..).zip(&state.key) {
                    let read = old(column)?;
                    let value = if may_be_inexact(column) { self.key(read) } else { read.value };
                    list.push(format!("{value} AS o{at}"));
                }
                list.extend(self.left_out(state, &version));
            } else if self.has_old(state) {
                for (at, column) in (1..).zip(&state.relation.columns) {
                    let read = old(column)?;
                    list.push(format!("{} AS o{at}", read.value));
                    if self.has_exact(column) {
                        list.push(format!("{} AS y{at}", read.exact));
                    }
                }
            }
            let list = list.join(", ");
            queries.extend(sources.iter().map(|source| select(&list, source)));
        }
        Ok(self.add("changes", &queries.join("\nUNION ALL\n")))
    }

    /// The queries that give changes as they were told, in these columns.
    pub(super) fn told(&mut self, columns: &[Column], changes: &ChangeParts) -> Result<Vec<String>> {
        let mut queries = Vec::new();
        for (version, sources) in self.sources(changes) {
            let mut list = TOLD.map(ToOwned::to_owned).to_vec();
            list.push(self.columns(columns, |column| self.told_new(column, &version))?);
            for (at, column) in (1..).zip(columns) {
                let old = match version.same_column(column) {
                    Some(_) => self.read(column, &version, Some(names::OLD))?,
                    None => self.nothing(column),
                };
                list.push(format!("{} AS o{at}", old.value));
                if self.has_exact(column) {
                    list.push(format!("{} AS y{at}", old.exact));
                }
            }
            let list = list.join(", ");
            for mut source in sources {
                // What a definition's change told of rows anew is no change.
                let told = "_op <> 'snapshot'".to_owned();
                source.condition = Some(source.condition.map_or(told.clone(), |known| format!("{known} AND {told}")));
                queries.push(select(&list, &source));
            }
        }
        Ok(queries)
    }

    /// A column's value after a change: a column that came later shows its constant where there is a row.
    fn told_new(&self, column: &Column, version: &RelationVersion) -> Result<Read> {
        let read = self.read(column, version, None)?;
        if version.same_column(column).is_some() {
            return Ok(read);
        }
        let of_row = |value: String| format!("CASE WHEN _op IN ('insert', 'update') THEN {value} END");
        Ok(Read { value: of_row(read.value), exact: of_row(read.exact) })
    }

    /// Whether rows are updated or deleted at all.
    fn has_old(&self, state: &StateParts) -> bool {
        !state.key.is_empty()
    }

    /// Whether each column that may be left out was.
    fn left_out(&self, state: &StateParts, version: &RelationVersion) -> Vec<String> {
        let said = left_out_columns(state).into_iter().map(|at| {
            let stored = version.same_column(&state.relation.columns[at - 1]);
            let left_out = stored.map(|stored| self.engine.has(names::MISSING, &stored.stored));
            format!("{} AS m{at}", left_out.unwrap_or_else(|| "FALSE".to_owned()))
        });
        said.collect()
    }

    /// The relation versions of changes, each with its sources.
    pub(super) fn sources(&mut self, changes: &ChangeParts) -> Vec<(RelationVersion, Vec<From>)> {
        if self.engine.reads_tables() {
            let parts = changes.by_place.iter();
            return parts.map(|(between, part)| (part.relation.clone(), self.root.changes(part, between))).collect();
        }
        let parts = changes.by_file.iter();
        parts.map(|part| (part.relation.clone(), self.root.changes(part, &changes.between))).collect()
    }

    /// A number for a change's place in history: its distance from the beginning, then the order in the transaction.
    fn place(&self, changes: &ChangeParts) -> String {
        let (start, end) = (changes.between.start.lsn.as_i64(), changes.between.end.lsn.as_i64());
        let distance = format!("(_lsn - {start})");
        let factor = changes.greatest_seq.map(|greatest| (greatest.max(0) as u64 + 1).next_power_of_two());
        let fits = |factor: &u64| i64::try_from(u128::from(*factor) * (end.abs_diff(start) as u128 + 1)).is_ok();
        match factor.filter(fits) {
            Some(1) => distance,
            Some(factor) => format!("{distance} * {factor} + _seq"),
            None => format!("{} * {} + _seq", self.engine.wide(&distance), 1_i64 << 62),
        }
    }

    /// A column's value in rows of a version, or in the struct `of` of such rows.
    fn read(&self, column: &Column, version: &RelationVersion, of: Option<&str>) -> Result<Read> {
        let Some(stored) = version.same_column(column) else { return self.constant(column) };
        let inside = |name: &str| match of {
            Some(of) => self.engine.field(of, name),
            None => self.engine.name(name),
        };
        let keyed = of.is_none() || version.key_positions().iter().any(|at| version.columns[*at].name == stored.name);
        if !keyed {
            // An old row that is only a key has no more.
            return Ok(self.nothing(column));
        }
        let exact = self.engine.entry(
            &of.map_or_else(|| names::EXACT.to_owned(), |of| self.engine.field(of, names::EXACT)),
            &stored.stored,
        );
        self.converted(column, stored, inside(&stored.stored), exact)
    }

    /// A value of one version of a column as a value of another.
    fn converted(&self, column: &Column, from: &Column, value: String, exact: String) -> Result<Read> {
        let (before, after) = (Storage::of_column(from), Storage::of_column(column));
        if before == after {
            return Ok(Read { value, exact });
        }
        match (&before, &after) {
            (Storage::Decimal { .. }, Storage::Decimal { .. }) => {
                Ok(Read { value: self.engine.cast(&value, &after), exact })
            }
            // What the number could not hold, the text can.
            (Storage::Decimal { .. }, Storage::Text) => {
                let text = self.engine.cast(&value, &after);
                Ok(Read { value: format!("coalesce({text}, {exact})"), exact: self.no_text() })
            }
            _ => Err(Failure::refused(format!(
                "column {} was {} in a part of this history and is {} at its end: {} has no cast that keeps the text",
                column.name, from.type_name, column.type_name, self.engine
            ))
            .remedy("choose points on one side of that definition's change, or ask with: afterimage query")),
        }
    }

    /// What rows show that are older than the column.
    fn constant(&self, column: &Column) -> Result<Read> {
        let nothing = self.nothing(column);
        let Some(text) = &column.missing else { return Ok(nothing) };
        Ok(match constant(self.engine, &Storage::of_column(column), text)? {
            Some(value) => Read { value, ..nothing },
            None => Read { exact: self.engine.cast(&self.engine.text(text), &Storage::Text), ..nothing },
        })
    }

    fn nothing(&self, column: &Column) -> Read {
        Read { value: self.engine.cast("NULL", &Storage::of_column(column)), exact: self.no_text() }
    }

    fn no_text(&self) -> String {
        self.engine.cast("NULL", &Storage::Text)
    }

    /// Whether a column's exact texts are carried along.
    pub(super) fn has_exact(&self, column: &Column) -> bool {
        self.exact && may_be_inexact(column)
    }

    /// The names of a state's columns, each behind `alias`.
    fn listed(&self, state: &StateParts, alias: &str) -> String {
        self.listed_as(state, |_, name| format!("{alias}{name}"))
    }

    fn listed_as(&self, state: &StateParts, show: impl Fn(usize, &str) -> String) -> String {
        let columns = (1..).zip(&state.relation.columns);
        let names = columns.flat_map(|(at, column)| {
            let exact = self.has_exact(column).then(|| show(at, &format!("x{at}")));
            [Some(show(at, &format!("c{at}"))), exact]
        });
        names.flatten().collect::<Vec<_>>().join(", ")
    }

    /// The rows where keys are unique.
    fn latest(&mut self, state: &StateParts, found: &Found) -> String {
        let Found { base, changes, cleared } = found;
        let keys = key_names(state);
        let numbered = |prefix: &str| (1..=keys.len()).map(|at| format!("{prefix}{at}")).collect::<Vec<_>>();
        let (touched, old) = (numbered("t"), numbered("o"));
        let named = |from: &[String]| {
            from.iter().zip(&touched).map(|(from, to)| format!("{from} AS {to}")).collect::<Vec<_>>().join(", ")
        };
        let touched = touched.join(", ");
        let latest = self.add(
            "latest",
            &format!(
                "SELECT {touched}, max(place) AS place\nFROM (\n  SELECT {}, place FROM {changes} WHERE {WRITES}\n  \
                 UNION ALL\n  SELECT {}, place FROM {changes} WHERE {TAKES} AND o1 IS NOT NULL\n) AS touched\nGROUP BY {touched}",
                named(&keys),
                named(&old)
            ),
        );
        let is = |one: &str, other: &str| joined_keys(&keys, one, other);
        let on_latest = |row: &str| {
            let equal = (1..).zip(&keys).map(|(at, key)| format!("{row}.{key} = l.t{at}"));
            equal.collect::<Vec<_>>().join(" AND ")
        };
        let mut branches = Vec::new();
        if let Some(base) = base {
            branches.push(format!(
                "SELECT {}\nFROM {base} AS b CROSS JOIN {cleared} AS z LEFT JOIN {latest} AS l ON {}\n\
                 WHERE z.place = -1 AND l.place IS NULL",
                self.listed(state, "b."),
                on_latest("b")
            ));
        }
        let left = left_out_columns(state);
        let some_left = left.iter().map(|at| format!("n.m{at}")).collect::<Vec<_>>().join(" OR ");
        let whole = if left.is_empty() { String::new() } else { format!(" AND NOT ({some_left})") };
        let there = |columns: &str| {
            format!(
                "SELECT {columns}\nFROM {changes} AS n CROSS JOIN {cleared} AS z JOIN {latest} AS l ON n.place = l.place AND {}\n\
                 WHERE n.{WRITES} AND n.place > z.place",
                on_latest("n")
            )
        };
        branches.push(format!("{}{whole}", there(&self.listed(state, "n."))));
        if !left.is_empty() {
            let columns = format!("{}, {}", self.listed(state, "n."), each(&left, |at| format!("n.m{at}")));
            let columns = format!("{columns}, n.place AS place{}", extra_keys(&keys, "n"));
            let incomplete = self.add("incomplete", &format!("{} AND ({some_left})", there(&columns)));
            let set = each(&left, |at| format!("max(CASE WHEN NOT e.m{at} THEN e.place END) AS s{at}"));
            let grouped = keys.iter().map(|key| format!("e.{key}")).collect::<Vec<_>>().join(", ");
            let known = self.add(
                "known",
                &format!(
                    "SELECT {}, {set}\nFROM {incomplete} AS n JOIN {changes} AS e ON {}\n\
                     WHERE e.{WRITES} AND e.place <= n.place\nGROUP BY {grouped}",
                    keys.iter().map(|key| format!("e.{key} AS {key}")).collect::<Vec<_>>().join(", "),
                    is("e", "n")
                ),
            );
            branches.push(self.completed(state, found, &left, &incomplete, &known));
        }
        branches.join("\nUNION ALL\n")
    }

    /// Rows of which the last change left something out: each such value is that of the last change that had it, or of
    /// the base.
    fn completed(&self, state: &StateParts, found: &Found, left: &[usize], incomplete: &str, known: &str) -> String {
        let keys = key_names(state);
        let columns = self.listed_as(state, |at, name| match (left.contains(&at), &found.base) {
            (false, _) => format!("n.{name}"),
            (true, Some(_)) => format!(
                "CASE WHEN NOT n.m{at} THEN n.{name} WHEN w.s{at} IS NULL THEN b.{name} ELSE v{at}.{name} END AS {name}"
            ),
            (true, None) => format!("CASE WHEN NOT n.m{at} THEN n.{name} ELSE v{at}.{name} END AS {name}"),
        });
        let mut sql = format!(
            "SELECT {columns}\nFROM {incomplete} AS n LEFT JOIN {known} AS w ON {}",
            joined_keys(&keys, "w", "n")
        );
        for at in left {
            let alias = format!("v{at}");
            let on = joined_keys(&keys, &alias, "w");
            sql += &format!("\nLEFT JOIN {} AS {alias} ON {alias}.place = w.s{at} AND {on}", found.changes);
        }
        if let Some(base) = &found.base {
            sql += &format!("\nLEFT JOIN {base} AS b ON {}", joined_keys(&keys, "b", "n"));
        }
        sql
    }

    /// The rows where several can be equal: as many of each as came and have not gone.
    fn counted(&mut self, state: &StateParts, found: &Found) -> String {
        let Found { base, changes, cleared } = found;
        let all = self.listed(state, "");
        let mut branches = Vec::new();
        if let Some(base) = base {
            branches.push(format!("SELECT {all}, 1 AS n FROM {base} CROSS JOIN {cleared} AS z WHERE z.place = -1"));
        }
        let since = format!("FROM {changes} AS e CROSS JOIN {cleared} AS z WHERE e.place > z.place");
        branches.push(format!("SELECT {all}, 1 AS n {since} AND e.{WRITES}"));
        if self.has_old(state) {
            let old = self.listed_as(state, |_, name| {
                let before = name.replacen('c', "o", 1).replacen('x', "y", 1);
                format!("{before} AS {name}")
            });
            branches.push(format!("SELECT {old}, -1 AS n {since} AND e.{TAKES}"));
        }
        let counted = format!(
            "SELECT {all}, {} AS n\nFROM (\n  {}\n) AS counts\nGROUP BY {all}",
            self.engine.sum("n"),
            branches.join("\nUNION ALL\n").replace('\n', "\n  ")
        );
        let counted = self.add("counted", &counted);
        self.engine.repeated(&all, &counted)
    }
}

/// A leaf can have the columns in another order, and numbers of its own.
fn named_alike<'r>(relation: &'r RelationVersion, column: &Column) -> Option<&'r Column> {
    relation.column(&column.name)
}

/// The queries that a state is made from.
struct Found {
    base: Option<String>,
    changes: String,
    cleared: String,
}

fn select(columns: &str, source: &From) -> String {
    let condition = source.condition.as_ref().map_or_else(String::new, |condition| format!("\nWHERE {condition}"));
    format!("SELECT {columns}\nFROM {}{condition}", source.rows)
}

fn each(places: &[usize], show: impl Fn(usize) -> String) -> String {
    places.iter().map(|at| show(*at)).collect::<Vec<_>>().join(", ")
}

/// In what the columns of the key are found, inside.
fn key_names(state: &StateParts) -> Vec<String> {
    let names = (1..).zip(&state.key).map(|(number, column)| match may_be_inexact(column) {
        true => format!("k{number}"),
        false => {
            let at = state.relation.columns.iter().position(|known| known.name == column.name).unwrap_or_default();
            format!("c{}", at + 1)
        }
    });
    names.collect()
}

/// Keys that are no columns.
fn extra_keys(keys: &[String], alias: &str) -> String {
    keys.iter().filter(|key| key.starts_with('k')).map(|key| format!(", {alias}.{key}")).collect()
}

fn joined_keys(keys: &[String], one: &str, other: &str) -> String {
    keys.iter().map(|key| format!("{one}.{key} = {other}.{key}")).collect::<Vec<_>>().join(" AND ")
}

/// The numbers of the columns that updates of this state may have left out.
fn left_out_columns(state: &StateParts) -> Vec<usize> {
    let can_be_long =
        |column: &Column| matches!(Storage::of_column(column), Storage::Text | Storage::Binary | Storage::List { .. });
    let is_key = |column: &Column| state.key.iter().any(|key| key.name == column.name);
    let columns = (1..).zip(&state.relation.columns);
    let wanted = columns.filter(|(_, column)| state.changes.leave_out && can_be_long(column) && !is_key(column));
    wanted.map(|(at, _)| at).collect()
}

/// Whether a column's type has values that the column cannot hold.
pub(super) fn may_be_inexact(column: &Column) -> bool {
    matches!(
        Storage::of_column(column),
        Storage::Date | Storage::Timestamp | Storage::TimestampTz | Storage::Decimal { .. } | Storage::List { .. }
    )
}
