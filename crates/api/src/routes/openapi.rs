//! The OpenAPI document, which is made of the routes.

use std::sync::LazyLock;

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use crate::http::answer;
use crate::openapi::{self, Operation, Routes};
use crate::wire::schema::Object;

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new().get(
        "/openapi.json",
        read,
        Operation::new("v1.openapi.get", "Get this document").returns::<Object>(StatusCode::OK, "The document."),
    )
}

/// The OpenAPI document of the API. It depends on nothing that can be set.
pub fn document() -> Value {
    let (_, routes) = super::all().into_parts();
    openapi::document(&routes)
}

async fn read() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
    answer::raw_json(StatusCode::OK, Bytes::from_static(TEXT.as_bytes()))
}
