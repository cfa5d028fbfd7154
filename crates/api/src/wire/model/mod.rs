//! What bodies and answers look like on the wire, and the rules for what comes in. Member names are in camel case; what
//! is not known is ignored.

pub(crate) mod application;
pub(crate) mod attempt;
pub(crate) mod attempted;
pub(crate) mod authentication;
pub(crate) mod batch;
pub(crate) mod catalogue;
pub(crate) mod endpoint;
pub(crate) mod environment;
pub(crate) mod event_type;
pub(crate) mod headers;
pub(crate) mod message;
pub(crate) mod task;
