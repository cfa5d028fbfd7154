//! The words of Postrider as types, and its decisions as pure functions.
//!
//! Nothing here does I/O: no sockets, no files, no database. What the other crates exchange (ids, messages, endpoints,
//! deliveries), what they decide (the one transition function in [`delivery`], the schedule in [`retry`]) and how a
//! request is signed ([`signature`]) and verified ([`verify`]) can therefore be tested without a server.

pub mod allowance;
pub mod application;
pub mod attempt;
pub mod clock;
pub mod delivery;
pub mod endpoint;
pub mod endpoint_url;
pub mod entropy;
pub mod environment;
pub mod event_type;
pub mod event_type_set;
pub mod fair;
pub mod headers;
pub mod ids;
pub mod limits;
pub mod memory;
pub mod message;
pub mod names;
pub mod notice;
pub mod retry;
pub mod schema;
pub mod settings;
pub mod signature;
pub mod task;
pub mod time;
pub mod verify;

/// Every limit that is declared in this crate.
pub fn limits() -> Vec<limits::Limit> {
    [
        names::limits(),
        application::limits(),
        endpoint::limits(),
        endpoint_url::limits(),
        headers::limits(),
        signature::limits(),
        event_type::limits(),
        message::limits(),
        attempt::limits(),
        fair::limits(),
    ]
    .concat()
}
