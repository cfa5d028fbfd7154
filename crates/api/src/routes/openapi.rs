//! The OpenAPI document, which is made of the routes.

use std::sync::LazyLock;

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;

use crate::answer;
use crate::openapi::types::Object;
use crate::openapi::{self, Operation, Routes};

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new().get(
        "/openapi.json",
        read,
        Operation::new("v1.openapi.get", "Get this document").returns::<Object>(StatusCode::OK, "The document."),
    )
}

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let (_, routes) = super::all().into_parts();
    // Made of strings and numbers; see `answer::json`.
    serde_json::to_string_pretty(&openapi::document(&routes)).unwrap_or_default()
});

/// The OpenAPI document of the API, as text. It depends on nothing that can be set.
pub fn document() -> &'static str {
    &DOCUMENT
}

async fn read() -> Response {
    answer::raw_json(StatusCode::OK, Bytes::from_static(document().as_bytes()))
}
