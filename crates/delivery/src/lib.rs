//! Delivering: from the commit that accepted a message to the commit that records what came of it.

pub mod options;
