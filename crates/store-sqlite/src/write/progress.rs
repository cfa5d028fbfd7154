//! Where removing what is kept no longer is, from one step to the next. It is lost at a restart, and then begins anew.

use std::collections::BTreeSet;

use crate::lists::blocks::Id;
use crate::write::urls::Former;

/// Where removing is.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) walk: Option<Walk>,
    pub(crate) erasing: Erasing,
    pub(crate) urls: Former,
}

/// A walk over old messages.
pub(crate) struct Walk {
    /// The last number.
    pub(crate) until: i64,
    /// The next number.
    pub(crate) next: i64,
    /// Messages with pending deliveries.
    pub(crate) held: BTreeSet<i64>,
    /// So many rows a step chose last, if it was to choose fewer so as not to compare too many others.
    pub(crate) fewer: Option<usize>,
}

/// Where erasing what was deleted is.
#[derive(Default, Clone)]
pub(crate) struct Erasing {
    /// The application that is being erased, or the next one.
    pub(crate) application: i64,
    /// Up to which message it has no payloads.
    pub(crate) erased: Option<Id>,
}
