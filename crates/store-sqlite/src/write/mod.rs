//! The one thread that writes, its hot path, and what every other file uses that writes.

pub(crate) mod asked;
pub(crate) mod deliveries;
pub(crate) mod hot;
pub(crate) mod idempotency;
pub(crate) mod inserts;
pub(crate) mod keys;
pub(crate) mod notices;
pub(crate) mod owners;
pub(crate) mod progress;
pub(crate) mod set_back;
pub(crate) mod urls;
pub(crate) mod writer;
