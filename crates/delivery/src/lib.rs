//! Delivering: from the commit that accepted a message to the commit that records what came of it.
//!
//! `lane`, `pace`, `rate`, `budget` and `turns` decide; `lanes` holds all of them and performs what they decide; `worker` makes
//! attempts with the `sender`; `agents::settle` stores results, and `agents::wake` brings back what is due; `engine` starts and ends
//! all of it.

mod addresses;
mod aged;
mod agents;
mod alarm;
mod answer;
mod apart;
mod budget;
mod certificates;
mod connect;
mod connection;
mod dns;
pub mod egress;
mod engine;
mod frames;
mod handle;
mod handshakes;
mod holders;
mod http1;
mod http2;
mod kept;
mod lane;
mod lanes;
pub mod limits;
mod lines;
mod memory;
mod meter;
mod on_their_way;
pub mod options;
mod origin;
mod ours;
mod outbox;
mod own;
mod pace;
mod payloads;
mod pool;
mod ranks;
mod rate;
pub mod request;
pub mod resolve;
mod response;
mod rest;
mod results;
mod roots;
mod route;
pub mod sender;
mod shard;
mod share;
mod shared;
mod slots;
mod sockets;
mod stuck;
mod system;
pub mod tls;
mod transport;
mod turns;
mod unsaid;
mod unsent;
mod waits;
mod worker;

pub use engine::{Engine, Usage};
pub use memory::memory;
pub use sockets::descriptors;

/// Every bound of this crate.
pub fn limits() -> Vec<postrider_domain::limits::Limit> {
    [
        limits::limits(),
        pool::limits(),
        sockets::limits(),
        addresses::limits(),
        resolve::limits(),
        dns::limits(),
        system::limits(),
        connect::limits(),
        shared::limits(),
        apart::limits(),
        http2::limits(),
        sender::limits(),
        rest::limits(),
        holders::limits(),
        stuck::limits(),
        on_their_way::limits(),
        certificates::limits(),
        tls::limits(),
        handshakes::limits(),
        meter::limits(),
        kept::limits(),
    ]
    .concat()
}
