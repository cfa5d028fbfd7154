//! Lists with filters: an index of what messages and attempts have, in blocks, kept by whatever writes them.

pub(crate) mod blocks;
pub(crate) mod history;
pub(crate) mod indexer;
pub(crate) mod postings;
pub(crate) mod standings;
pub(crate) mod tally;
pub(crate) mod terms;
