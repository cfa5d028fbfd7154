//! Pages: what `limit`, `iterator`, `order`, `before` and `after` mean (rest-contract §3), as pure functions from a query
//! to a [`Scan`] of the store, and from the rows that the scan found to the page that is shown.
//!
//! A page that goes against the list's order (an iterator with a minus, or `after` alone) is walked in the other
//! direction and turned around, so it is always shown in the list's order. One row more than the limit is asked for: it
//! is never shown, and says that the page is not the last one in the direction walked.

use std::ops::Bound;
use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use postrider_domain::ids::{Id, Ksuid};
use postrider_domain::names::{EventTypeName, is_step};
use postrider_domain::schema::KSUID_PATTERN;
use postrider_domain::time::Timestamp;
use postrider_store::{Direction, Listed, Scan};
use schemars::JsonSchema;
use serde::Serialize;

use crate::http::answer;
use crate::http::query::QueryString;
use crate::wire::error::{ApiError, Result};

postrider_domain::limits! {
    in "Lists";
    /// The elements of a page
    pub(crate) const MAX_LIMIT: usize = 250, "elements", beyond "422";
}

/// The longest iterator: a name, and what stands before it.
pub(crate) const MAX_ITERATOR: usize = postrider_domain::names::MAX_NAME_BYTES + 2;

const DEFAULT_LIMIT: usize = 50;

/// A list by time reaches this far from where it starts.
const WINDOW: Duration = Duration::from_secs(90 * 86_400);

/// Where a page begins, seen in the list's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Position<C> {
    /// Right after this element.
    After(C),
    /// The page ends right before this element.
    Before(C),
}

/// The limit of a list.
pub(crate) fn limit(query: &QueryString<'_>) -> Result<usize> {
    query.count("limit", DEFAULT_LIMIT, MAX_LIMIT)
}

/// The iterator of a list whose iterators are ids of kind `I`.
pub(crate) fn id_position<I: Id>(query: &QueryString<'_>) -> Result<Option<Position<Ksuid>>> {
    position(query, || format!("^-?{}{KSUID_PATTERN}$", I::PREFIX), |text| text.parse::<I>().ok().map(|id| id.ksuid()))
}

/// The iterator of the list of event types, whose iterators are names.
pub(crate) fn name_position(query: &QueryString<'_>) -> Result<Option<Position<String>>> {
    position(
        query,
        || format!("^-?{MINUS_ESCAPE}?[a-zA-Z0-9\\-_.]{{1,256}}$"),
        |text| {
            let text = text.strip_prefix(MINUS_ESCAPE).unwrap_or(text);
            // A name that can't be given any more may have been when it was.
            (is_step(text) || EventTypeName::parse(text).is_ok()).then(|| text.to_owned())
        },
    )
}

fn position<C>(
    query: &QueryString<'_>,
    pattern: impl FnOnce() -> String,
    parse: impl Fn(&str) -> Option<C>,
) -> Result<Option<Position<C>>> {
    let Some(text) = query.iterator(pattern) else { return Ok(None) };
    let position = match text.strip_prefix('-') {
        Some(text) => parse(text).map(Position::Before),
        None => parse(text).map(Position::After),
    };
    let refuse = || ApiError::invalid(&["query", "iterator"], "is not an iterator of this list");
    position.ok_or_else(refuse).map(Some)
}

/// Stands before a name that begins with a minus, which would otherwise be read as "the page before".
const MINUS_ESCAPE: char = '~';

/// The name of an event type as an iterator.
pub(crate) fn name_iterator(name: &EventTypeName) -> String {
    if name.as_str().starts_with('-') { format!("{MINUS_ESCAPE}{name}") } else { name.to_string() }
}

/// How a page is read from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Walk<C> {
    /// What to ask the store for.
    pub(crate) scan: Scan<C>,
    /// Whether the rows come against the list's order.
    pub(crate) reversed: bool,
}

fn reverse(direction: Direction) -> Direction {
    match direction {
        Direction::Ascending => Direction::Descending,
        Direction::Descending => Direction::Ascending,
    }
}

/// The walk of a list in a given order.
pub(crate) fn by_order<C>(position: Option<Position<C>>, order: Direction, limit: usize) -> Walk<C> {
    let (direction, from, reversed) = match position {
        None => (order, None, false),
        Some(Position::After(from)) => (order, Some(from), false),
        Some(Position::Before(from)) => (reverse(order), Some(from), true),
    };
    let mut scan = Scan::all(direction, limit + 1);
    if let Some(from) = from {
        match direction {
            Direction::Ascending => scan.lower = Bound::Excluded(from),
            Direction::Descending => scan.upper = Bound::Excluded(from),
        }
    }
    Walk { scan, reversed }
}

/// What the query of a list asks for whose order can be chosen.
pub(crate) fn ordered<I: Id>(query: &QueryString<'_>, default: Direction) -> Result<Walk<Ksuid>> {
    Ok(by_order(id_position::<I>(query)?, query.order(default)?, limit(query)?))
}

/// What the query of a list by time asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Timed {
    limit: usize,
    position: Option<Position<Ksuid>>,
    window: Window,
}

impl Timed {
    /// Reads `limit`, `iterator`, `before` and `after`.
    pub(crate) fn from_query<I: Id>(query: &QueryString<'_>) -> Result<Self> {
        Ok(Self { limit: limit(query)?, position: id_position::<I>(query)?, window: Window::from_query(query)? })
    }

    /// The walk at this instant.
    pub(crate) fn walk(self, now: Timestamp) -> Walk<Ksuid> {
        by_time(self.position, self.window, self.limit, now)
    }
}

/// The instants between which a list by time shows elements: from `after` on, and earlier than `before`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// The lower end, inclusive at 4 ms resolution.
    pub(crate) after: Option<Timestamp>,
    /// The upper end, exclusive.
    pub(crate) before: Option<Timestamp>,
}

impl Window {
    /// Reads `before` and `after`.
    pub(crate) fn from_query(query: &QueryString<'_>) -> Result<Self> {
        Ok(Self { after: query.date("after")?, before: query.date("before")? })
    }

    /// The ends of the list with the implicit window of 90 days: around what was given, else around the iterator, else
    /// from now back. What a wrong clock dated ahead is listed, too, or nobody would see that it is there.
    fn ends(self, position: Option<&Position<Ksuid>>, now: Timestamp) -> (Option<Timestamp>, Option<Timestamp>) {
        match (self, position) {
            (Self { before: Some(before), after }, _) => (after.max(Some(before.saturating_sub(WINDOW))), Some(before)),
            (Self { after: Some(after), .. }, _) => (Some(after), Some(after.saturating_add(WINDOW))),
            (_, Some(Position::After(from))) => (Some(from.timestamp().saturating_sub(WINDOW)), None),
            (_, Some(Position::Before(from))) => (None, Some(from.timestamp().saturating_add(WINDOW))),
            (_, None) => (Some(now.saturating_sub(WINDOW)), None),
        }
    }
}

/// The walk of a list by time, newest first.
pub(crate) fn by_time(position: Option<Position<Ksuid>>, window: Window, limit: usize, now: Timestamp) -> Walk<Ksuid> {
    let (after, before) = window.ends(position.as_ref(), now);
    // `after` alone asks what has come since: the oldest first, as if it were the element to begin before.
    let polls = position.is_none() && window.after.is_some() && window.before.is_none();
    let mut walk = by_order(position, Direction::Descending, limit);
    if polls {
        walk = Walk { scan: Scan::all(Direction::Ascending, limit + 1), reversed: true };
    }
    if let Some(after) = after {
        let floor = Ksuid::floor(after);
        match &walk.scan.lower {
            Bound::Excluded(from) if *from >= floor => {}
            _ => walk.scan.lower = Bound::Included(floor),
        }
    }
    if let Some(before) = before {
        let ceiling = Ksuid::floor(before);
        match &walk.scan.upper {
            Bound::Excluded(from) if *from <= ceiling => {}
            _ => walk.scan.upper = Bound::Excluded(ceiling),
        }
    }
    walk
}

/// A page of rows in the list's order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page<T> {
    /// The rows.
    pub(crate) rows: Vec<T>,
    /// Whether nothing is left beyond the page in the direction walked.
    pub(crate) done: bool,
}

impl<C> Walk<C> {
    /// Makes the page of the rows that the scan found.
    pub(crate) fn page<T>(&self, mut rows: Vec<T>) -> Page<T> {
        let limit = self.scan.limit - 1;
        let done = rows.len() <= limit;
        rows.truncate(limit);
        if self.reversed {
            rows.reverse();
        }
        Page { rows, done }
    }
}

impl<C> Walk<C> {
    /// Makes the page of rows some of which may be so large that the page ends early.
    pub(crate) fn listed<T>(&self, listed: Listed<T>) -> Page<T> {
        let page = self.page(listed.rows);
        Page { done: page.done && !listed.cut, ..page }
    }
}

/// A page as it is shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ListOf{O}")]
pub(crate) struct ListOut<O> {
    /// The elements.
    #[schemars(length(max = MAX_LIMIT))]
    data: Vec<O>,
    /// What gives the next page as `iterator`. Null only if there are no elements, here and beyond. A page may have fewer than
    /// were asked for, or none, and `done` still be false.
    // Always present: clients have no default for it.
    #[schemars(length(max = MAX_ITERATOR))]
    iterator: Option<String>,
    /// What gives the page before this one as `iterator`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_ITERATOR))]
    prev_iterator: Option<String>,
    /// Whether there is nothing beyond this page.
    done: bool,
}

impl<T> Page<T> {
    /// A page of nothing, with nothing beyond it.
    pub(crate) fn empty() -> Self {
        Self { rows: Vec::new(), done: true }
    }

    /// Answers with the page in its envelope (rest-contract §3.1). `iterator` names a row, `show` shows it.
    pub(crate) fn answer<'a, O: Serialize>(
        &'a self,
        iterator: impl Fn(&T) -> String,
        show: impl Fn(&'a T) -> O,
    ) -> Response {
        self.answer_walked(None, false, iterator, show)
    }

    /// The same for a walk that may have ended at a row which is not shown: the list goes on from there.
    pub(crate) fn answer_walked<'a, O: Serialize>(
        &'a self,
        reached: Option<String>,
        reversed: bool,
        iterator: impl Fn(&T) -> String,
        show: impl Fn(&'a T) -> O,
    ) -> Response {
        let (first, last) = (self.rows.first().map(&iterator), self.rows.last().map(&iterator));
        let (first, last) = match reached {
            Some(reached) if reversed => (Some(reached.clone()), last.or(Some(reached))),
            Some(reached) => (first.or_else(|| Some(reached.clone())), Some(reached)),
            None => (first, last),
        };
        let out = ListOut {
            data: self.rows.iter().map(show).collect(),
            iterator: last,
            prev_iterator: first.map(|first| format!("-{first}")),
            done: self.done,
        };
        answer::json(StatusCode::OK, &out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::ids::MessageId;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const DAY: u64 = 86_400;
    /// 2026-01-02T03:04:05Z.
    const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

    /// What a store answers to a scan.
    fn run<C: Ord + Clone>(scan: &Scan<C>, all: &BTreeSet<C>) -> Vec<C> {
        let inside = |key: &&C| {
            let above = match &scan.lower {
                Bound::Included(lower) => *key >= lower,
                Bound::Excluded(lower) => *key > lower,
                Bound::Unbounded => true,
            };
            above
                && match &scan.upper {
                    Bound::Included(upper) => *key <= upper,
                    Bound::Excluded(upper) => *key < upper,
                    Bound::Unbounded => true,
                }
        };
        let rows = all.iter().filter(inside).cloned();
        match scan.direction {
            Direction::Ascending => rows.take(scan.limit).collect(),
            Direction::Descending => rows.rev().take(scan.limit).collect(),
        }
    }

    fn page<C: Ord + Clone>(walk: &Walk<C>, all: &BTreeSet<C>) -> Page<C> {
        walk.page(run(&walk.scan, all))
    }

    fn listed(all: &BTreeSet<u16>, order: Direction) -> Vec<u16> {
        match order {
            Direction::Ascending => all.iter().copied().collect(),
            Direction::Descending => all.iter().rev().copied().collect(),
        }
    }

    fn orders() -> impl Strategy<Value = Direction> {
        prop_oneof![Just(Direction::Ascending), Just(Direction::Descending)]
    }

    proptest! {
        #[test]
        fn pages_forward_are_the_list(all: BTreeSet<u16>, order in orders(), limit in 1usize..20) {
            let (mut seen, mut position) = (Vec::new(), None);
            loop {
                let page = page(&by_order(position, order, limit), &all);
                seen.extend_from_slice(&page.rows);
                if page.done {
                    break;
                }
                prop_assert_eq!(page.rows.len(), limit);
                position = page.rows.last().copied().map(Position::After);
            }
            prop_assert_eq!(seen, listed(&all, order));
        }

        #[test]
        fn pages_backward_are_the_list_too(all: BTreeSet<u16>, order in orders(), limit in 1usize..20) {
            let list = listed(&all, order);
            let Some(last) = list.last().copied() else { return Ok(()) };
            let (mut seen, mut position) = (vec![last], last);
            loop {
                let page = page(&by_order(Some(Position::Before(position)), order, limit), &all);
                seen.splice(0..0, page.rows.iter().copied());
                if page.done {
                    break;
                }
                position = page.rows[0];
            }
            prop_assert_eq!(seen, list);
        }

        #[test]
        fn a_page_back_is_the_page_that_was_left(all: BTreeSet<u16>, order in orders(), limit in 1usize..20) {
            let first = page(&by_order(None, order, limit), &all);
            let Some(last) = first.rows.last().copied() else { return Ok(()) };
            let second = page(&by_order(Some(Position::After(last)), order, limit), &all);
            let Some(next) = second.rows.first().copied() else { return Ok(()) };
            let back = page(&by_order(Some(Position::Before(next)), order, limit), &all);
            prop_assert_eq!(back, Page { rows: first.rows, done: true });
        }

        #[test]
        fn an_iterator_need_not_name_an_element(all: BTreeSet<u16>, from: u16, limit in 1usize..20) {
            let after = page(&by_order(Some(Position::After(from)), Direction::Ascending, limit), &all);
            let want: Vec<_> = all.iter().copied().filter(|key| *key > from).take(limit).collect();
            prop_assert_eq!(after.rows, want);
        }

        #[test]
        fn a_list_by_time_shows_its_window_newest_first(
            ages in proptest::collection::btree_set(0u64..200, 0..60),
            after in proptest::option::of(0u64..200),
            before in proptest::option::of(0u64..200),
            limit in 1usize..20,
        ) {
            let all: BTreeSet<_> = ages.iter().map(|age| id(days_ago(*age))).collect();
            let window = Window { after: after.map(days_ago), before: before.map(days_ago) };
            let shown = page(&by_time(None, window, limit, NOW), &all);
            let inside = |id: &Ksuid| {
                let at = id.timestamp();
                let age = NOW.since(at).as_secs() / DAY;
                after.is_none_or(|after| at >= days_ago(after))
                    && before.is_none_or(|before| at < days_ago(before))
                    && match (after, before) {
                        (_, Some(before)) => age <= before + 90,
                        (Some(after), None) => age + 90 > after,
                        (None, None) => age <= 90,
                    }
            };
            let mut want: Vec<_> = all.iter().rev().copied().filter(inside).collect();
            let done = want.len() <= limit;
            if after.is_some() && before.is_none() {
                want.drain(..want.len().saturating_sub(limit));
            } else {
                want.truncate(limit);
            }
            prop_assert_eq!(shown, Page { rows: want, done });
        }

        #[test]
        fn a_filter_stays_in_force_when_an_iterator_is_passed(
            ages in proptest::collection::btree_set(0u64..80, 0..60),
            after in 0u64..80,
            before in 0u64..80,
            limit in 1usize..20,
        ) {
            let all: BTreeSet<_> = ages.iter().map(|age| id(days_ago(*age))).collect();
            let window = Window { after: Some(days_ago(after)), before: Some(days_ago(before)) };
            let (mut seen, mut position) = (Vec::new(), None);
            loop {
                let page = page(&by_time(position, window, limit, NOW), &all);
                seen.extend_from_slice(&page.rows);
                if page.done {
                    break;
                }
                position = page.rows.last().copied().map(Position::After);
            }
            let want: Vec<_> = ages.iter().filter(|age| **age <= after && **age > before).map(|age| id(days_ago(*age))).collect();
            prop_assert_eq!(seen, want);
        }
    }

    fn days_ago(days: u64) -> Timestamp {
        NOW.saturating_sub(Duration::from_secs(days * DAY))
    }

    /// The lowest id of an instant: what the bounds compare with, so the strictest case.
    fn id(at: Timestamp) -> Ksuid {
        Ksuid::floor(at)
    }

    #[test]
    fn an_instant_is_inside_as_after_and_outside_as_before() {
        let all = BTreeSet::from([id(days_ago(1))]);
        let rows = |window| page(&by_time(None, window, 5, NOW), &all).rows.len();
        assert_eq!(rows(Window { after: Some(days_ago(1)), before: None }), 1);
        assert_eq!(rows(Window { after: None, before: Some(days_ago(1)) }), 0);
    }

    #[test]
    fn after_alone_is_the_oldest_page_and_says_whether_newer_ones_follow() {
        let all: BTreeSet<_> = (1..=5).map(|days| id(days_ago(days))).collect();
        let window = Window { after: Some(days_ago(4)), before: None };
        let shown = page(&by_time(None, window, 2, NOW), &all);
        assert_eq!(shown, Page { rows: vec![id(days_ago(3)), id(days_ago(4))], done: false });
        let rest = page(&by_time(Some(Position::Before(shown.rows[0])), window, 2, NOW), &all);
        assert_eq!(rest, Page { rows: vec![id(days_ago(1)), id(days_ago(2))], done: true });
    }

    #[test]
    fn what_a_wrong_clock_dated_ahead_is_listed() {
        let ahead = |seconds| id(NOW.saturating_add(Duration::from_secs(seconds)));
        let all = BTreeSet::from([ahead(3_000), ahead(3_700)]);
        for window in [Window::default(), Window { after: Some(NOW), before: None }] {
            assert_eq!(page(&by_time(None, window, 5, NOW), &all).rows, [ahead(3_700), ahead(3_000)]);
        }
        let forward = by_time(Some(Position::Before(id(NOW))), Window::default(), 5, NOW);
        assert_eq!(page(&forward, &all).rows, [ahead(3_700), ahead(3_000)]);
    }

    #[test]
    fn an_iterator_carries_the_window_along() {
        let all: BTreeSet<_> = [100u64, 150, 195].iter().map(|days| id(days_ago(*days))).collect();
        let older = by_time(Some(Position::After(id(days_ago(100)))), Window::default(), 5, NOW);
        assert_eq!(page(&older, &all).rows, [id(days_ago(150))]);
        let newer = by_time(Some(Position::Before(id(days_ago(195)))), Window::default(), 5, NOW);
        assert_eq!(page(&newer, &all).rows, [id(days_ago(150))]);
    }

    #[test]
    fn a_limit_of_zero_is_an_empty_page() {
        let all = BTreeSet::from([1u16]);
        assert_eq!(page(&by_order(None, Direction::Ascending, 0), &all), Page { rows: vec![], done: false });
        assert_eq!(page(&by_order(None, Direction::Ascending, 0), &BTreeSet::<u16>::new()), Page::empty());
    }

    #[test]
    fn limits_and_iterators_are_checked() {
        let query = |text| QueryString::parse(text).unwrap();
        assert_eq!(limit(&query("")).unwrap(), 50);
        assert_eq!(limit(&query("limit=250")).unwrap(), 250);
        assert!(matches!(limit(&query("limit=251")), Err(ApiError::Invalid(_))));
        assert!(matches!(limit(&query("limit=-1")), Err(ApiError::Invalid(_))));
        for text in
            ["iterator=BAD-$$$ITERATOR", "iterator=ep_0ujtsYcgvSTl8PAuAdqWYSMnLOv", "iterator=msg_1", "iterator="]
        {
            assert!(matches!(id_position::<MessageId>(&query(text)), Err(ApiError::Invalid(_))), "{text}");
        }
        let id = "0ujtsYcgvSTl8PAuAdqWYSMnLOv";
        let (plain, minus) = (format!("iterator=msg_{id}"), format!("iterator=-msg_{id}"));
        assert!(matches!(id_position::<MessageId>(&query(&plain)), Ok(Some(Position::After(_)))));
        assert!(matches!(id_position::<MessageId>(&query(&minus)), Ok(Some(Position::Before(_)))));
    }

    #[test]
    fn a_name_that_begins_with_a_minus_pages_in_both_directions() {
        let name = EventTypeName::parse("-odd").unwrap();
        let read = |text: String| name_position(&QueryString::parse(&text).unwrap()).unwrap().unwrap();
        let iterator = name_iterator(&name);
        assert_eq!(read(format!("iterator={iterator}")), Position::After("-odd".to_owned()));
        assert_eq!(read(format!("iterator=-{iterator}")), Position::Before("-odd".to_owned()));
        assert_eq!(read("iterator=-plain".to_owned()), Position::Before("plain".to_owned()));
        assert!(name_position(&QueryString::parse("iterator=BAD-$$$ITERATOR").unwrap()).is_err());
    }
}
