//! SQLite itself: files, locks, migrations, transactions, checkpoints, connections that read, and whose turn it is. Nothing here
//! knows a table of the contract.

pub(crate) mod askers;
pub(crate) mod bulk;
pub(crate) mod checkpoint;
pub(crate) mod cut;
pub(crate) mod decode;
pub(crate) mod files;
pub(crate) mod group;
pub(crate) mod inbox;
pub(crate) mod lock;
pub(crate) mod migrate;
pub(crate) mod open_error;
pub(crate) mod pause;
#[cfg(test)]
pub(crate) mod plans;
pub(crate) mod range;
pub(crate) mod readers;
pub(crate) mod rows;
pub(crate) mod turns;
pub(crate) mod tx;
