//! How large and how long things are in a world, where several parts go by it.

use std::time::Duration;

/// A request that has begun arrives within this time.
pub(crate) const ON_ITS_WAY: Duration = Duration::from_millis(20);

/// The most bytes of a payload.
pub(crate) const LARGEST: usize = 900_000;

/// Deliveries of an endpoint that are counted.
pub(crate) const MANY: usize = 10_000;
