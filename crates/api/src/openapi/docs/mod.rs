//! The documentation page: `/docs` for people, and `/` for those who come without knowing where to.
//!
//! The page is three files that are part of the binary. It reads the OpenAPI document and nothing else: no other host, no
//! inline code, nothing that could be injected. All its links are relative: it works under any prefix. It is no part of the API, so it is not in that document.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderName, StatusCode, header};

use crate::state::Shared;

/// Allows what the page needs: its own style, its own script, the document.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    // A new version of the server may bring a new page.
    (header::CACHE_CONTROL, "no-cache"),
];

/// The routes of the page.
pub(crate) fn routes() -> Router<Shared> {
    Router::new()
        .route("/", get(|| async { redirect_to("docs") }))
        .route("/docs", get(|| async { file("text/html; charset=utf-8", include_str!("index.html")) }))
        .route("/docs/docs.css", get(|| async { file("text/css; charset=utf-8", include_str!("docs.css")) }))
        .route("/docs/docs.js", get(|| async { file("text/javascript; charset=utf-8", include_str!("docs.js")) }))
}

/// Whether a path is the page's with a slash at its end. Relative links would lead elsewhere from there.
pub(crate) fn is_beside(path: &str) -> bool {
    path.trim_end_matches('/') == "/docs" && path != "/docs"
}

/// From there to the page.
pub(crate) fn redirect() -> Response {
    redirect_to("../docs")
}

/// The place is relative, so that it is right behind a proxy that adds a prefix.
fn redirect_to(place: &'static str) -> Response {
    (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, place)]).into_response()
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    (HEADERS, [(header::CONTENT_TYPE, content_type)], text).into_response()
}
