//! What particular generations of client libraries need, each with its reason. Everything of that kind is here, so that the
//! rest of the API has one spelling and one answer for everything.
//!
//! * `agents`: answers that depend on which library asks.
//! * `spellings`: members that had other names, or another form, in the course of time.
//!
//! One thing stands elsewhere: `data` as another name of a message's `payload` is an alias in `wire/model/message.rs`, because a
//! payload is a slice of the body, which nothing may buffer on its way. Some libraries' documentation shows that name.

mod agents;
mod spellings;

pub(crate) use agents::wants_rotated_key;
pub(crate) use spellings::{
    ApplicationRateOut, EventTypesIn, EventTypesOut, EventTypesPatch, FlagIn, FlagOut, FlagPatch, RateIn, RateOut,
    RatePatch, RemovedHeaders,
};
