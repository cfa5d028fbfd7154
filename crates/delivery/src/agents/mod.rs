//! The loops that run as long as the engine does. Each holds the lanes; nothing else knows of the loops.

pub(crate) mod idle;
pub(crate) mod settle;
pub(crate) mod wake;
