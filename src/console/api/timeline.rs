//! How much was changed when.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::row_counts::{self, Tenant};
use super::transactions::{EXACT, logged};
use super::{Told, counted, number, patterns};
use crate::console::Console;
use crate::console::admission::Visitor;
use crate::console::events::Event;
use crate::console::rollup::Question;
use crate::console::trouble::Trouble;
use crate::console::view::View;
use crate::failure::Failure;
use crate::http::Request;
use crate::model::{OperationCounts, TableName};

/// Milliseconds that a bar may stand for.
const WIDTHS: [i64; 29] = [
    1,
    2,
    5,
    10,
    20,
    50,
    100,
    200,
    500,
    1000,
    2000,
    5000,
    10_000,
    15_000,
    30_000,
    60_000,
    120_000,
    300_000,
    600_000,
    900_000,
    1_800_000,
    3_600_000,
    7_200_000,
    10_800_000,
    21_600_000,
    43_200_000,
    86_400_000,
    604_800_000,
    2_592_000_000,
];
/// Bars that are drawn at most.
const MOST_BARS: i64 = 600;
/// The shortest and the longest range.
const SHORTEST: i64 = 100;
const LONGEST: i64 = 100 * 366 * 86_400_000;
/// The end of the year 9999, beyond which no calendar here goes.
const LAST: i64 = 253_402_300_800_000;
/// How long the first who looks waits for more to be counted.
const AT_ONCE: Duration = Duration::from_millis(500);
/// What is shown at first.
const USUAL: i64 = 86_400_000;
/// Events of a range that are told of.
const MOST_EVENTS: usize = 400;
/// Tables and applications that are offered as filters.
const MOST_OFFERED: usize = 200;

/// A range of time in milliseconds and the width of bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) width: i64,
}

impl Range {
    /// The range that is asked for, with bars whose width divides it.
    pub(super) fn asked(request: &Request, first: i64, last: i64) -> Result<Range, Trouble> {
        let to = number(request, "to")?.unwrap_or(last + 1000);
        let from = number(request, "from")?.unwrap_or_else(|| first.max(to.saturating_sub(USUAL)));
        if to > LAST || to <= from || from < 0 || to - from > LONGEST {
            return Err(
                Failure::usage("the range ends before it begins, is longer than a century, or is of no time").into()
            );
        }
        let bars = number(request, "bars")?.unwrap_or(240).clamp(10, MOST_BARS);
        let least = ((to - from).max(SHORTEST) + bars - 1) / bars;
        let width = WIDTHS.into_iter().find(|width| *width >= least).unwrap_or(WIDTHS[WIDTHS.len() - 1]);
        Ok(Range::with(from, to, width))
    }

    fn with(from: i64, to: i64, width: i64) -> Range {
        let (from, to) = (from - from % width, to + (width - to % width) % width);
        Range { from, to: to.max(from + width), width }
    }

    pub(super) fn bars(&self) -> Vec<OperationCounts> {
        vec![OperationCounts::default(); ((self.to - self.from) / self.width) as usize]
    }

    /// The number of the bar that a time is in.
    pub(super) fn bar(&self, micros: i64) -> Option<usize> {
        usize::try_from((micros.div_euclid(1000) - self.from).div_euclid(self.width)).ok()
    }

    /// In whole seconds.
    pub(super) fn seconds(&self) -> std::ops::Range<u32> {
        let second = |millis: i64| u32::try_from(millis.max(0) / 1000).unwrap_or(u32::MAX - 200_000);
        second(self.from)..second(self.to + 999)
    }
}

/// What is asked to be counted.
pub(super) async fn draw(console: &Console, visitor: &Visitor, request: &Request) -> Told {
    let view = View::of(console, visitor).await?;
    let began = Instant::now();
    let tenant = request.asked("tenant");
    if !view.is_unlimited() || tenant.is_some() {
        let range = Range::asked(request, console.archive.identity().created_at.timestamp_millis(), last(&view))?;
        let tenant = tenant.map(|value| Tenant { columns: &console.tenant_columns, value });
        let (bars, left_out) = console.read(row_counts::draw(&view, range, &patterns(request)?, tenant)).await?;
        let mut drawn = answer(range, &bars, began);
        drawn["how"] = json!("rows");
        drawn["left_out"] = json!(left_out);
        return Ok(drawn);
    }
    let (patterns, applications) = (patterns(request)?, applications(request));
    let wanted = view.wanted(&patterns).await?;
    // A small archive is drawn whole at once; of a large one what has been read by then.
    console.followed.settled(AT_ONCE).await;
    let progress = console.followed.progress();
    let (range, facets, exact) = {
        let rollup = console.followed.look();
        let times = rollup.times.map(|(first, last)| (first.div_euclid(1000), last.div_euclid(1000)));
        let first = times.map_or_else(|| console.archive.identity().created_at.timestamp_millis(), |(first, _)| first);
        let asked = Range::asked(request, first, times.map_or(0, |(_, last)| last).max(last(&view)))?;
        let seconds = asked.seconds();
        let finest = i64::from(rollup.finest(seconds.start, 1)) * 1000;
        // Finer than what is kept is read from the log, where that is not too much.
        let few = rollup.span(seconds.clone()).is_none_or(|(_, transactions)| transactions <= EXACT);
        let exact = asked.width < finest && few;
        let range = match asked.width < finest && !few {
            true => Range::with(asked.from, asked.to, finest.max(asked.width)),
            false => asked,
        };
        let width = u32::try_from((range.width / 1000).max(1)).unwrap_or(u32::MAX);
        let seconds = range.seconds();
        let question = Question {
            range: seconds.start - seconds.start % width..seconds.end,
            width,
            table: &wanted,
            every_table: patterns.is_empty(),
            applications: &applications,
        };
        (range, rollup.draw(&question), exact)
    };
    let mut drawn = match exact {
        true => answer(range, &console.read(bars_of_log(console, range, &wanted, &applications)).await?, began),
        false => answer(range, &facets.bars, began),
    };
    drawn["how"] = json!(if exact { "log" } else { "rollup" });
    drawn["progress"] = json!(progress);
    drawn["tables"] = facets
        .tables
        .iter()
        .take(MOST_OFFERED)
        .map(|(name, counts)| json!({ "name": name.as_ref().map(ToString::to_string), "counts": counted(counts) }))
        .collect();
    drawn["applications"] = facets
        .applications
        .iter()
        .take(MOST_OFFERED)
        .map(|(name, counts)| json!({ "name": name, "counts": counted(counts) }))
        .collect();
    Ok(drawn)
}

/// Where the archive's history ends.
pub(super) fn last(view: &View) -> i64 {
    view.watermark.time.timestamp_millis()
}

/// The names of applications that are asked for; a dash stands for those that nobody has named.
pub(super) fn applications(request: &Request) -> Vec<String> {
    request.all_asked("app").map(|name| if name == "-" { String::new() } else { name.to_owned() }).collect()
}

async fn bars_of_log(
    console: &Console,
    range: Range,
    wanted: &(dyn Fn(&TableName) -> bool + Sync),
    applications: &[String],
) -> Result<Vec<OperationCounts>, Trouble> {
    let mut bars = range.bars();
    logged(console, range, applications, &mut |transaction| {
        for (schema, table, counts) in transaction.tables() {
            if let (true, Some(bar)) = (
                wanted(&TableName::new(schema, table)),
                range.bar(transaction.micros()).and_then(|bar| bars.get_mut(bar)),
            ) {
                *bar += counts;
            }
        }
    })
    .await?;
    Ok(bars)
}

/// The bars, without the empty ones.
fn answer(range: Range, bars: &[OperationCounts], began: Instant) -> Json {
    let filled = bars.iter().enumerate().filter(|(_, counts)| counts.total() > 0);
    let bars: Vec<Json> = filled
        .map(|(at, counts)| {
            json!([range.from + at as i64 * range.width, counts.insert, counts.update, counts.delete, counts.truncate])
        })
        .collect();
    let took = began.elapsed().as_secs_f64() * 1000.0;
    json!({ "from": range.from, "to": range.to, "width": range.width, "bars": bars, "took_ms": took })
}

/// What else happened.
pub(super) async fn events(console: &Console, visitor: &Visitor, request: &Request) -> Told {
    let view = View::of(console, visitor).await?;
    if !view.is_unlimited() {
        return Ok(json!({ "events": [], "more": 0 }));
    }
    let (from, to) = (number(request, "from")?.unwrap_or(0), number(request, "to")?.unwrap_or(i64::MAX));
    let all = console.events.all(&console.archive).await?;
    let within = |time: i64, end: Option<i64>| time < to && end.unwrap_or(time) >= from;
    let found: Vec<&Event> = all.iter().filter(|event| within(event.time, event.end)).collect();
    // Of too many those stay that are rare: DDL by the thousand comes with migrations.
    let (rare, common): (Vec<&Event>, Vec<&Event>) = found.iter().partition(|event| event.kind != "ddl");
    let mut shown: Vec<&Event> = rare.into_iter().chain(common).take(MOST_EVENTS).collect();
    shown.sort_by_key(|event| event.time);
    Ok(json!({ "events": shown, "more": found.len() - shown.len() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_divide_their_range() {
        let request = |query: &[(&str, &str)]| {
            let mut request = Request::of("/api/timeline", &[]);
            request.query = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            request
        };
        let year = Range::asked(&request(&[("from", "0"), ("to", "31536000000")]), 0, 0).unwrap();
        assert_eq!((year.width, year.bars().len()), (604_800_000, 53));
        let second = Range::asked(&request(&[("from", "5001"), ("to", "6000")]), 0, 0).unwrap();
        assert_eq!(second, Range { from: 5000, to: 6000, width: 5 });
        assert_eq!((second.bar(5_000_000), second.bar(5_999_999), second.bar(4_999_999)), (Some(0), Some(199), None));
        for wrong in [&[("from", "5"), ("to", "5")][..], &[("from", "x")], &[("from", "-1"), ("to", "9")]] {
            assert!(Range::asked(&request(wrong), 0, 0).is_err(), "{wrong:?}");
        }
    }
}
