//! Requests and responses: bodies, queries, paths, lists, headers, and what each request costs its caller. Nothing here knows a
//! route, or what is in a body.

pub(crate) mod account;
pub(crate) mod answer;
pub(crate) mod at_work;
pub(crate) mod body;
pub(crate) mod cors;
pub(crate) mod headers;
pub(crate) mod json;
pub(crate) mod large;
pub(crate) mod lines;
pub(crate) mod pagination;
pub(crate) mod parameter;
pub(crate) mod params;
pub(crate) mod places;
pub(crate) mod principal;
pub(crate) mod progress;
pub(crate) mod query;
pub(crate) mod rights;
pub(crate) mod workers;
