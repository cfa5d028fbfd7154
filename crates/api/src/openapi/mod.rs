//! The OpenAPI document, made from the routes themselves.
//!
//! A route is registered once, in [`Routes`], together with an [`Operation`] that says what its handler's signature does
//! not: its id, what it is for, what it answers. Everything else is read off the signature ([`arguments`]): who may call
//! it, which query parameters it reads, what its body is. So there is no second list that could differ from the first.
//!
//! Schemas are derived from the types that are decoded and encoded; query parameters are noted by reading an empty
//! query ([`crate::http::query::QueryString::parameters_of`]).

mod arguments;
mod components;
pub(crate) mod docs;
mod document;
mod links;
mod operation;
mod parameters;
mod routes;

pub(crate) use document::document;
pub(crate) use operation::Operation;
pub(crate) use routes::Routes;
