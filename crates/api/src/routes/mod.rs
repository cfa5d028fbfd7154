//! The routes, one file per resource.
//!
//! # How to add a route
//!
//! 1. Write what comes in and what is shown in `model/<resource>.rs`: a struct that decodes, and a `checked` that gives a
//!    value of the domain or everything that is wrong.
//! 2. Write the handler in the file of its resource. Its arguments are judged in their order, so: [`Query`] first if it
//!    is a list, then who may call ([`Operator`], [`Tenant`] or [`Reader`] of `access.rs`), then the body.
//! 3. Make one call to the store, which commits once. A POST passes `once` to it, so that a repetition gets the same
//!    answer.
//! 4. Add the route below, where the path parameters are called `app_id`, `endpoint_id`, `msg_id`, and a row to the table
//!    in `tests/api/access.rs`, which tries every kind of caller on it.
//!
//! [`Query`]: crate::query::Query
//! [`Operator`]: crate::access::Operator
//! [`Tenant`]: crate::access::Tenant
//! [`Reader`]: crate::access::Reader

mod applications;
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
mod poller;

use axum::Router;
use axum::routing::{delete, get, post};

use crate::router::Shared;

/// The whole path of a route. The router is not nested below the prefix: that would rewrite the URI of every request.
fn at(path: &str) -> String {
    format!("/api/v1{path}")
}

/// All routes.
pub(crate) fn all() -> Router<Shared> {
    Router::new()
        .route(&at("/app"), get(applications::list).post(applications::create))
        .route(
            &at("/app/{app_id}"),
            get(applications::read).put(applications::replace).patch(applications::change).delete(applications::delete),
        )
        .route(&at("/app/{app_id}/endpoint"), get(endpoints::list).post(endpoints::create))
        .route(
            &at("/app/{app_id}/endpoint/{endpoint_id}"),
            get(endpoints::read).put(endpoints::replace).patch(endpoints::change).delete(endpoints::delete),
        )
        .route(&at("/app/{app_id}/endpoint/{endpoint_id}/secret"), get(endpoint_secret::read))
        .route(&at("/app/{app_id}/endpoint/{endpoint_id}/secret/rotate"), post(endpoint_secret::rotate))
        .route(
            &at("/app/{app_id}/endpoint/{endpoint_id}/headers"),
            get(endpoint_headers::read).put(endpoint_headers::replace).patch(endpoint_headers::change),
        )
        .route(&at("/app/{app_id}/endpoint/{endpoint_id}/stats"), get(endpoints::stats))
        .route(&at("/app/{app_id}/msg"), get(messages::list).post(messages::create))
        .route(&at("/app/{app_id}/msg/batch"), post(batch::create))
        .route(&at("/app/{app_id}/msg/{msg_id}"), get(messages::read))
        .route(&at("/app/{app_id}/msg/{msg_id}/content"), delete(messages::expunge))
        .route(&at("/app/{app_id}/msg/{msg_id}/attempt/{attempt_id}/content"), delete(attempts::expunge))
        .route(&at("/app/{app_id}/msg/precheck/active"), post(messages::precheck))
        .route(&at("/app/{app_id}/endpoint/{endpoint_id}/send-example"), post(examples::send))
        // Two older forms of the lists below, which some clients still use.
        .route(&at("/app/{app_id}/msg/{msg_id}/attempt"), get(attempts::list_by_message))
        .route(
            &at("/app/{app_id}/msg/{msg_id}/endpoint/{endpoint_id}/attempt"),
            get(attempts::list_by_message_and_endpoint),
        )
        .route(&at("/app/{app_id}/msg/{msg_id}/attempt/{attempt_id}"), get(attempts::read))
        .route(&at("/app/{app_id}/msg/{msg_id}/endpoint/{endpoint_id}/resend"), post(attempts::resend))
        .route(&at("/app/{app_id}/poller/{sink_id}"), get(poller::poll))
        .route(&at("/app/{app_id}/poller/{sink_id}/consumer/{consumer_id}"), get(poller::poll_as_consumer))
        .route(&at("/app/{app_id}/poller/{sink_id}/consumer/{consumer_id}/seek"), post(poller::seek))
        .route(&at("/app/{app_id}/attempt/endpoint/{endpoint_id}"), get(attempts::list_by_endpoint))
        .route(&at("/app/{app_id}/attempt/msg/{msg_id}"), get(attempts::list_by_message))
        // The endpoints of the operator himself: the same handlers, for the application that a path without one means.
        .route(&at("/operational-webhook/endpoint"), get(endpoints::list).post(endpoints::create))
        .route(
            &at("/operational-webhook/endpoint/{endpoint_id}"),
            get(endpoints::read).put(endpoints::replace).patch(endpoints::change).delete(endpoints::delete),
        )
        .route(
            &at("/operational-webhook/endpoint/{endpoint_id}/headers"),
            get(endpoint_headers::read).put(endpoint_headers::replace).patch(endpoint_headers::change),
        )
        .route(&at("/operational-webhook/endpoint/{endpoint_id}/secret"), get(endpoint_secret::read))
        .route(&at("/operational-webhook/endpoint/{endpoint_id}/secret/rotate"), post(endpoint_secret::rotate))
        .route(&at("/event-type"), get(event_types::list).post(event_types::create))
        .route(
            &at("/event-type/{event_type_name}"),
            get(event_types::read).put(event_types::replace).patch(event_types::change).delete(event_types::delete),
        )
        .route(&at("/event-type/import/openapi"), post(import_openapi::import))
        .route(
            &at("/environment/settings"),
            get(environment::read).put(environment::replace).patch(environment::change),
        )
        .route(&at("/environment/export"), post(environment::export))
        .route(&at("/environment/import"), post(environment::import))
        .route(&at("/catalogue/{environment_id}"), get(catalogue::read))
        .route(&at("/auth/app-portal-access/{app_id}"), post(authentication::portal_access))
        .route(&at("/auth/dashboard-access/{app_id}"), post(authentication::dashboard_access))
        .route(&at("/auth/app/{app_id}/expire-all"), post(authentication::expire_all))
        .route(&at("/auth/logout"), post(authentication::logout))
        .route(&at("/auth/whoami"), get(authentication::whoami))
        .route(&at("/health"), get(health::check))
        .route(&at("/health/ping"), get(health::ping))
}
