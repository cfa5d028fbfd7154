//! The routes, one file per resource.
//!
//! # How to add a route
//!
//! 1. Write what comes in and what is shown in `model/<resource>.rs`: a struct that decodes, and a `checked` that gives a
//!    value of the domain or everything that is wrong.
//! 2. Write the handler in the file of its resource. Its arguments are judged in their order, so: [`Query`] first if it
//!    is a list, then who may call ([`Operator`], [`Tenant`] or [`Reader`] of `access.rs`), then the body.
//! 3. Make one call to the store, which commits once. A POST passes `once` to it, so that a repetition gets the same
//!    answer. Where one commit would be too long (imports, batches, many payloads to erase), repeating the request must complete
//!    what was begun. If the answer may be larger than `account::UNPAID_BYTES`, make room for it before the call
//!    (`Ledger`, `reserve_answer`).
//! 4. Register it in `routes()` at the top of the same file: method, path below `/api/v1`, handler, and an `Operation`
//!    with its id as the SDKs' documentation has it (`v1.endpoint.get-secret`), one line about it, what it answers
//!    (`.returns::<T>(status, when)`), and errors that don't follow from its signature (`.error(…)`). If it makes
//!    something, `.creates("endpoint_id", "/id")` says where its id stands, for links. If users of Svix will notice a
//!    difference, `.differs("…")` says which. Path parameters are called `app_id`, `endpoint_id`, `msg_id`.
//! 5. Add a row to the table in `tests/api/access.rs`, which tries every kind of caller on it.
//!
//! Access, query parameters, the body and the errors that follow from them are documented by the signature of the
//! handler. Types that come in or are shown derive `JsonSchema`; where a rule of `checked` says more than the type, an
//! attribute does (`#[schemars(with = "Option<Rate>")]`, see `wire/schema.rs`). The comments on members are what readers
//! of the documentation see. A query parameter that is new is described in `openapi/parameters.rs`. A kind of argument
//! that is new needs an `Argument` in `openapi/arguments.rs`.
//!
//! [`Query`]: crate::http::query::Query
//! [`Operator`]: crate::access::caller::Operator
//! [`Tenant`]: crate::access::caller::Tenant
//! [`Reader`]: crate::access::caller::Reader

mod applications;
mod attempted;
mod attempts;
mod authentication;
mod batch;
mod catalogue;
mod endpoint_headers;
mod endpoint_secret;
mod endpoints;
mod environment;
mod event_types;
mod examples;
mod health;
mod import_openapi;
mod messages;
pub(crate) mod openapi;
pub(crate) mod poller;
mod schemas;
mod tasks;
mod unsupported;

use crate::openapi::Routes;

/// All routes, in the order in which they are documented.
pub(crate) fn all() -> Routes {
    Routes::new()
        .and(applications::routes())
        .and(endpoints::routes())
        .and(endpoint_secret::routes())
        .and(endpoint_headers::routes())
        .and(event_types::routes())
        .and(import_openapi::routes())
        .and(catalogue::routes())
        .and(environment::routes())
        .and(messages::routes())
        .and(batch::routes())
        .and(attempts::routes())
        .and(attempted::routes())
        .and(poller::routes())
        .and(tasks::routes())
        .and(examples::routes())
        .and(endpoints::operational_routes())
        .and(endpoint_secret::operational_routes())
        .and(endpoint_headers::operational_routes())
        .and(authentication::routes())
        .and(health::routes())
        .and(openapi::routes())
        .and(unsupported::routes())
}
