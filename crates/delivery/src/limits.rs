//! The bounds of delivering, for `docs/limits.md`.

use std::time::Duration;

use postrider_domain::limits::Limit;

pub(crate) use lanes::{CROWD, MAX_HELD, MAX_REMEMBERED, MAX_WAITING_FOR_A_LANE, READS_AT_A_TIME};
pub use responses::{MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_INTERIM};

/// How long whoever has answered may take to read the rest of the message.
pub(crate) const REST_PATIENCE: Duration = Duration::from_secs(responses::REST_SECONDS);

/// The longest wait before memory that was refused is asked for again.
pub(crate) const LAST_HUNGER: Duration = Duration::from_millis(lanes::LAST_HUNGER_MILLIS);

/// The wait of a lane that has nothing, where others have nothing and were refused: each of them asks before it does.
pub(crate) const MANNERS: Duration = Duration::from_millis(lanes::MANNERS_MILLIS);

/// As long as a lane with nothing was refused so lately, others that have nothing let it go first. Longer than a wait for
/// memory and than manners, so that whoever starves is remembered until it asks again.
pub(crate) const STARVING: Duration = Duration::from_millis(lanes::STARVING_MILLIS);

/// When endpoints that found no place among those who wait for a lane are looked at again, at the earliest, and at the latest.
pub(crate) const CROWDED_PAUSE: Duration = Duration::from_secs(lanes::CROWDED_SECONDS);
pub(crate) const LONGEST_CROWDED_PAUSE: Duration = Duration::from_secs(lanes::LONGEST_CROWDED_SECONDS);

/// The bounds that are declared here.
pub(crate) fn limits() -> Vec<Limit> {
    [lanes::limits(), responses::limits()].concat()
}

mod responses {
    postrider_domain::limits! {
        in "Responses of receivers";
        /// The heads of one response, those of interim responses included
        pub const MAX_HEAD_BYTES: usize = 64 * 1024, "bytes", beyond "the status counts if it was read, the rest is not read, and the connection is closed";
        /// What is read of a response's body, with what divides it into chunks
        pub const MAX_BODY_BYTES: usize = 64 * 1024, "bytes", beyond "the status counts, the rest is not read, and the connection is closed";
        /// The rest of a message that is answered before all of it was read; over HTTP/1 only if with success
        pub(crate) const REST_SECONDS: u64 = 5, "seconds", beyond "the status counts, and the connection gets no more requests";
        /// Interim responses (1xx) of one attempt over HTTP/1
        pub const MAX_INTERIM: usize = 16, "responses", beyond "failed attempt, and the connection is closed";
    }
}

mod lanes {
    postrider_domain::limits! {
        in "Delivering";
        /// Requests under way in all
        setting "delivery.max_in_flight", beyond "endpoints wait for their turn";
        /// Bytes of messages that wait in memory for their turn
        setting "delivery.memory_bytes", beyond "they wait in the store";
        /// Deliveries of one endpoint in the server's charge whose results are not stored yet
        pub(crate) const MAX_HELD: usize = 2_048, "deliveries", beyond "they wait in the store";
        /// Endpoints that wait in memory for a lane
        pub(crate) const MAX_WAITING_FOR_A_LANE: usize = 65_536, "endpoints", beyond "they wait in the store";
        /// The wait of an endpoint that finds no place there
        pub(crate) const CROWDED_SECONDS: u64 = 1, "seconds", beyond "it is looked for again";
        /// Endpoints of its environment that wait, for each so many of which it waits as long again
        pub(crate) const CROWD: usize = 1_024, "endpoints", beyond "it waits longer, in the store";
        /// The longest wait of an endpoint that finds no place there
        pub(crate) const LONGEST_CROWDED_SECONDS: u64 = 30, "seconds", beyond "it is looked for again";
        /// Reads of the store for endpoints at a time; environments and their applications take turns
        pub(crate) const READS_AT_A_TIME: usize = 3, "reads", beyond "endpoints wait for their turn";
        /// The longest wait of an endpoint between two questions for memory that it was refused
        pub(crate) const LAST_HUNGER_MILLIS: u64 = 250, "milliseconds", beyond "it asks again";
        /// The wait of an endpoint that has no message in memory and lets others go first that were refused
        pub(crate) const MANNERS_MILLIS: u64 = 300, "milliseconds", beyond "it asks again";
        /// After it was refused memory, an endpoint that has none goes before others that have none
        pub(crate) const STARVING_MILLIS: u64 = 400, "milliseconds", beyond "it must have asked again";
        /// Endpoints with a learned pace or a hold that are remembered without a lane, in each of 64 parts
        pub(crate) const MAX_REMEMBERED: usize = 4_096, "endpoints", beyond "their pace is learned again, and the store is asked for holds";
    }
}
