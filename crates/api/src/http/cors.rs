//! Cross-origin requests: any origin, any method, the headers that were asked for, for ten minutes (rest-contract §1.1).
//! Tokens travel in a header, never in a cookie, so there is nothing that another origin could ride on.

use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};

use crate::http::answer;

/// Answers a preflight request; `None` if it is not one.
pub(crate) fn preflight<B>(request: &Request<B>) -> Option<Response> {
    if request.method() != Method::OPTIONS {
        return None;
    }
    let method = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD)?;
    let mut response = answer::empty(StatusCode::OK);
    let headers = response.headers_mut();
    allow_origin(headers);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    if let Some(names) = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    Some(response)
}

/// Lets a page of any origin read the answer.
pub(crate) fn allow_origin(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
}
