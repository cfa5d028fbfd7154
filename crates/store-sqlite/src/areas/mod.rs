//! The contract, a file for each of its areas, under the names that they have there.

pub(crate) mod api_keys;
pub(crate) mod applications;
pub(crate) mod attempted;
pub(crate) mod attempts;
pub(crate) mod endpoints;
pub(crate) mod environments;
pub(crate) mod event_types;
pub(crate) mod messages;
pub(crate) mod outbox;
pub(crate) mod retention;
pub(crate) mod streams;
pub(crate) mod tasks;
pub(crate) mod tokens;
pub(crate) mod work;
