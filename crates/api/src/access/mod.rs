//! Who calls, and what they may do: tokens and API keys, the extractors that look up what a path names for a caller, and the
//! requests that are carried out once. Nothing here knows a route.

pub(crate) mod auth;
pub(crate) mod caller;
pub(crate) mod idempotency;
