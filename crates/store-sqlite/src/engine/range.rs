//! A [`Scan`] as the half-open range `low <= key < high` that SQL compares with. Blobs and texts are ordered bytewise, so
//! the key right after `k` is `k` with a zero byte behind it.

use std::ops::Bound;

use postrider_domain::ids::Ksuid;
use postrider_store::{Direction, Scan};

/// A half-open range of keys, with the rest of the scan in SQL's words.
pub(crate) struct Range<K> {
    pub(crate) low: K,
    pub(crate) high: K,
    /// `ASC` or `DESC`.
    pub(crate) order: &'static str,
    pub(crate) limit: i64,
}

/// For the `LIMIT` of a query that is read only as far as it is wanted.
pub(crate) const NO_LIMIT: i64 = -1;

/// A number of rows for `LIMIT`.
pub(crate) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

impl Range<Vec<u8>> {
    pub(crate) fn of_ids(scan: Scan<Ksuid>) -> Self {
        let bytes = |id: Ksuid| id.as_bytes().to_vec();
        // Longer than every id that begins like it, and so after it.
        let last = vec![0xff; 21];
        Self::new(scan, bytes, |after| after.push(0), last)
    }
}

impl Range<String> {
    pub(crate) fn of_names(scan: Scan<String>) -> Self {
        // Names are ASCII, so the highest character there is comes after all of them.
        Self::new(scan, |name| name, |after| after.push('\0'), char::MAX.to_string())
    }
}

impl<K> Range<K> {
    /// Whether it is walked from its lower end up.
    pub(crate) fn is_ascending(&self) -> bool {
        self.order == "ASC"
    }
}

impl<K: Default> Range<K> {
    fn new<C>(scan: Scan<C>, key: impl Fn(C) -> K, step: impl Fn(&mut K), last: K) -> Self {
        let after = |bound: C| {
            let mut key = key(bound);
            step(&mut key);
            key
        };
        let low = match scan.lower {
            Bound::Included(low) => key(low),
            Bound::Excluded(low) => after(low),
            Bound::Unbounded => K::default(),
        };
        let high = match scan.upper {
            Bound::Included(high) => after(high),
            Bound::Excluded(high) => key(high),
            Bound::Unbounded => last,
        };
        let order = match scan.direction {
            Direction::Ascending => "ASC",
            Direction::Descending => "DESC",
        };
        Self { low, high, order, limit: limit(scan.limit) }
    }
}
