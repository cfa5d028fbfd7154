//! Keyset pagination: every list is a range of keys, walked in one direction, with a limit. The API's iterators and time
//! windows are all expressed in it, so a page costs the same at the beginning and after ten million rows.

use std::ops::{Bound, RangeBounds as _};

use postrider_domain::ids::Ksuid;

/// Which way a range is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the lowest key up.
    Ascending,
    /// From the highest key down.
    Descending,
}

postrider_domain::limits! {
    in "Lists";
    /// What the rows of a page hold, of answers what is shown of them as JSON, not counting what the last row brings: so large rows make
    /// a short page, and not one that takes all memory
    pub const PAGE_BYTES: usize = 2_097_152, "bytes", beyond "the page ends early, and the next goes on";
    /// Rows that a page looks at where it takes more than an index to know what a filter lets through, or what costs as much
    pub const PAGE_ROWS: usize = 500, "rows", beyond "the page ends early, maybe without an element, and the next goes on";
    in "Pollers";
    /// The consumers of an endpoint's messages: names under which somebody polls
    pub const MAX_CONSUMERS: usize = 100, "consumers", beyond "400 `limit_reached`";
}

/// What a walk over large rows found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The rows, in the order walked.
    pub rows: Vec<T>,
    /// Whether there are more rows, though fewer than the limit were found, because of [`PAGE_BYTES`] or [`PAGE_ROWS`].
    pub cut: bool,
}

/// What a walk found that looks at rows which its filter does not let through. `C` is the key that it walks by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walked<T, C = Ksuid> {
    /// What it found; `cut` is true if it did not come to its end.
    pub listed: Listed<T>,
    /// Where it ended because it had looked at [`PAGE_ROWS`]: what is beyond this key in the direction walked was not seen.
    pub reached: Option<C>,
}

/// A range of keys to walk. `C` is the key: a KSUID for lists by id, a name for event types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan<C> {
    /// The lower end of the range, whatever the direction.
    pub lower: Bound<C>,
    /// The upper end of the range, whatever the direction.
    pub upper: Bound<C>,
    /// Which way to walk.
    pub direction: Direction,
    /// The most rows to return.
    pub limit: usize,
}

impl<C> Scan<C> {
    /// All keys.
    pub fn all(direction: Direction, limit: usize) -> Self {
        Self { lower: Bound::Unbounded, upper: Bound::Unbounded, direction, limit }
    }

    /// Whether a key is in the range.
    pub fn contains(&self, key: &C) -> bool
    where
        C: PartialOrd,
    {
        (self.lower.as_ref(), self.upper.as_ref()).contains(key)
    }
}
