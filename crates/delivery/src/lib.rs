//! Delivering: from the commit that accepted a message to the commit that records what came of it.

mod answer;
mod connect;
mod connection;
pub mod egress;
pub mod options;
mod pool;
pub mod request;
pub mod resolve;
pub mod sender;
pub mod tls;
mod transport;
