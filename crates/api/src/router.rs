//! The API as one function from request to response: the routes, and around them what every request needs.
//!
//! * A trailing slash is the same as none, without a redirect (rest-contract §1.2), but not where something is removed or
//!   changed: there the path may be what a client made of another one
//!   ([ADR 17](../../../docs/adr/0017-paths-that-change-things.md)).
//! * Every answer that is no success is JSON, also for an unknown path, a wrong method and a panic. What cannot be read as a
//!   request does not come here: the connection answers that by itself, without a body.
//! * Pages of any origin may call; preflight requests need no token.
//! * A client that is still uploading can read its error (see [`crate::http::body`]).
//! * What a request costs is charged to its caller until its answer was read (see [`crate::http::account`]).
//! * Every answer has the headers that keep browsers from doing more with it than showing it.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Method, Request, StatusCode, Uri, header};
use http_body::Body as _;
use percent_encoding::percent_decode_str;
use postrider_domain::clock::Clock;
use postrider_domain::entropy::Entropy;
use postrider_domain::names::is_step;
use postrider_ingest::{Intake, Judges, LimitOptions};
use postrider_store::Store;
use tokio::runtime::Handle;
use tower_service::Service as _;

use crate::access::auth::{Authenticator, KeyUsage};
use crate::http::account::{self, Account, Budgets};
use crate::http::body::{self, Upload};
use crate::http::large::Reading;
use crate::http::progress::Watched;
use crate::http::workers::Workers;
use crate::http::{cors, headers};
use crate::openapi::docs;
use crate::options::{AuthOptions, SigningOptions};
use crate::routes;
use crate::state::{Shared, State};
use crate::store_ping::StorePing;
use crate::wire::error::ApiError;
use crate::wire::typos::Warnings;
use crate::wire::url_policy::{UrlCheck, UrlPolicy};

/// What the API works with.
pub struct Parts {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// Where messages go.
    pub intake: Arc<Intake>,
    /// Who checks schemas.
    pub judges: Arc<Judges>,
    /// Who reads and writes what is large.
    pub workers: Workers,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids and secrets.
    pub entropy: Arc<dyn Entropy>,
    /// The egress policy for literal addresses.
    pub check_url: UrlCheck,
    /// Refuse endpoints with http URLs.
    pub https_only: bool,
    /// Who may call.
    pub auth: AuthOptions,
    /// Which secrets are generated.
    pub signing: SigningOptions,
    /// Where people reach this server; where the caller did, if it is not said.
    pub public_url: Option<String>,
    /// How much callers may use.
    pub limits: LimitOptions,
    /// How many connections there can be, and so requests at once.
    pub connections: u64,
}

/// The HTTP API. Clones share everything.
#[derive(Clone)]
pub struct Api {
    state: Shared,
    router: Router,
}

impl Api {
    /// Puts the API together, to serve on the runtime that this is called in.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            store,
            intake,
            judges,
            workers,
            clock,
            entropy,
            check_url,
            https_only,
            auth,
            signing,
            public_url,
            limits,
            connections,
        } = parts;
        let authenticator = Authenticator::new(&auth, store.clone(), clock.clone(), entropy.clone());
        let reading = Reading { intake: Arc::clone(&intake), workers: Arc::new(workers) };
        let state = Arc::new(State {
            store,
            intake,
            reading,
            judges,
            clock,
            entropy,
            urls: UrlPolicy { check: check_url, https_only },
            signing,
            public_url,
            authenticator,
            store_ping: StorePing::new(Handle::current()),
            budgets: Arc::new(Budgets::new(&limits, connections)),
            limits,
        });
        let (router, _) = routes::all().into_parts();
        let router = router
            .merge(docs::routes())
            .fallback(unknown_path)
            .method_not_allowed_fallback(wrong_method)
            .with_state(state.clone());
        Self { state, router }
    }

    /// The agent that writes down when API keys were used. Run it in the background.
    pub fn key_usage(&self) -> KeyUsage {
        self.state.authenticator.key_usage()
    }

    /// Answers a request. Who is in its extensions as [`Watched`] is told how far it is.
    pub async fn respond<B>(&self, request: Request<B>) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let mut response = match cors::preflight(&request) {
            Some(response) => response,
            None => self.answer(request).await,
        };
        finish(&mut response);
        response
    }

    /// What is answered instead, if others need the connection of a request whose caller is not known yet, or if there is no
    /// connection for whoever comes.
    pub fn give_way() -> Response {
        let detail = "All connections of the server are in use. Try again in a moment.";
        let mut response = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail).into_response();
        finish(&mut response);
        response
    }

    async fn answer<B>(&self, mut request: Request<B>) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let is_cross_origin = request.headers().contains_key(header::ORIGIN);
        let is_change = !request.method().is_safe();
        let watched = request.extensions_mut().remove::<Watched>();
        let account = Account::watched(Arc::clone(&self.state.budgets), watched);
        let response = match headers::check(&request) {
            Ok(()) => postrider_store::as_stranger(self.route(request, &account)).await,
            Err(error) => error.into_response(),
        };
        let mut response = seal(response, &account, is_change).await;
        if is_cross_origin {
            cors::allow_origin(response.headers_mut());
        }
        response
    }

    async fn route<B>(&self, request: Request<B>, account: &Arc<Account>) -> Response
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let awaits_consent = request.headers().contains_key(header::EXPECT);
        let mut request = request.map(|body| Body::new(Upload::new(body, awaits_consent)));
        if docs::is_beside(request.uri().path()) {
            return docs::redirect();
        }
        if request.uri().path().len() > MAX_PATH_BYTES {
            return too_long_path().into_response();
        }
        if is_ambiguous(request.method(), request.uri().path()) {
            return ambiguous_path().into_response();
        }
        trim_slashes(request.uri_mut());
        let warnings = Warnings::default();
        request.extensions_mut().insert(warnings.clone());
        request.extensions_mut().insert(Arc::clone(account));
        let answer: Result<Response, Infallible> =
            match AssertUnwindSafe(self.router.clone().call(request)).catch_unwind().await {
                Ok(answer) => answer,
                // The panic hook has logged it.
                Err(_panic) => Ok(ApiError::internal().into_response()),
            };
        let mut response = answer.unwrap_or_else(|never| match never {});
        warnings.write(response.headers_mut());
        response
    }
}

/// What every answer has.
fn finish(response: &mut Response) {
    headers::protect(response.headers_mut());
    account::retry_after(response);
}

postrider_domain::limits! {
    in "Requests";
    /// The path of a request
    pub(crate) const MAX_PATH_BYTES: usize = 8_192, "bytes", beyond "414: to look at each of its parts takes time, and no path that names something is as long";
}

fn too_long_path() -> ApiError {
    let detail = format!("The path is longer than {MAX_PATH_BYTES} bytes: it names nothing.");
    ApiError::new(StatusCode::URI_TOO_LONG, "uri_too_long", detail)
}

/// What an event type is addressed by.
const EVENT_TYPE_PATH: &str = "/api/v1/event-type/";

/// The longest spelling of a step in a path: two dots, percent-encoded.
const STEP_BYTES: usize = "%2e%2e".len();

/// Whether a path may be what a client or a proxy made of another one: `/app/a/endpoint/..` becomes `/app/a/`, so a request
/// to remove or to change an endpoint would remove or change its application. Only methods that do so are meant: for the
/// others a trailing slash is the same as none.
///
/// Anybody may ask, and a path may have thousands of parts: each is looked at once, and decoded only if it is short.
fn is_ambiguous(method: &Method, path: &str) -> bool {
    let is_step = |part: &str| part.len() <= STEP_BYTES && is_step(&percent_decode_str(part).decode_utf8_lossy());
    matches!(*method, Method::DELETE | Method::PUT | Method::PATCH)
        && !is_event_type(path)
        && path.split('/').skip(1).any(|part| part.is_empty() || is_step(part))
}

/// Whether a path names an event type, whatever its name. It has no other name than that in the path: one that was once called
/// like a step can be removed, and a new one is refused by its handler.
fn is_event_type(path: &str) -> bool {
    path.strip_prefix(EVENT_TYPE_PATH).is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

fn ambiguous_path() -> ApiError {
    let detail = "The path has an empty part, a slash at its end, or a step ('.' or '..'): what it names is ambiguous.";
    ApiError::new(StatusCode::BAD_REQUEST, "ambiguous_path", detail)
}

/// Charges an answer that is there as a whole until it was read. One that is made as it is read is not in memory.
async fn seal(response: Response, account: &Account, is_change: bool) -> Response {
    let (mut parts, mut body) = response.into_parts();
    if body.size_hint().exact().is_none_or(|length| length == 0) {
        return Response::from_parts(parts, body);
    }
    let Some(Ok(whole)) = body::next_data(&mut body).await else { return ApiError::internal().into_response() };
    match account.seal(whole, is_change) {
        Ok(body) => {
            parts.headers.remove(header::CONTENT_LENGTH);
            Response::from_parts(parts, body)
        }
        Err(error) => error.into_response(),
    }
}

/// Removes slashes from the end of the path.
fn trim_slashes(uri: &mut Uri) {
    let path = uri.path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() == path.len() || trimmed.is_empty() {
        return;
    }
    let target = match uri.query() {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    // Part of what was a path is a path; if it were not, the request would find nothing.
    if let Ok(target) = target.parse() {
        *uri = target;
    }
}

async fn unknown_path() -> ApiError {
    ApiError::no_such("path")
}

async fn wrong_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "The method is not allowed for this path.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_things_has_a_path_without_steps_and_empty_parts() {
        for path in [
            "/api/v1/app/demo/",
            "/api/v1/app//endpoint/x",
            "/api/v1/app/demo/endpoint/..",
            "/api/v1/app/demo/endpoint/%2e%2E",
            "/api/v1/app/demo/endpoint/.%2e/headers",
            "/api/v1/app/.",
        ] {
            for method in [Method::DELETE, Method::PUT, Method::PATCH] {
                assert!(is_ambiguous(&method, path), "{method} {path}");
            }
            for method in [Method::GET, Method::POST, Method::HEAD] {
                assert!(!is_ambiguous(&method, path), "{method} {path}");
            }
        }
        for path in ["/api/v1/app/demo", "/api/v1/app/...", "/api/v1/app/%2F", "/api/v1/app/a..b", "/"] {
            assert_eq!(is_ambiguous(&Method::DELETE, path), path == "/", "{path}");
        }
        for path in ["/api/v1/event-type/..", "/api/v1/event-type/%2e%2E"] {
            assert!(!is_ambiguous(&Method::DELETE, path), "{path}");
        }
        for path in [
            "/api/v1/event-type/",
            "/api/v1/event-type/../x",
            "/api/v1/app/../event-type/x",
            "/api/v1/app/event-type/endpoint/..",
        ] {
            assert!(is_ambiguous(&Method::DELETE, path), "{path}");
        }
    }

    #[test]
    fn slashes_at_the_end_are_trimmed() {
        for (from, to) in [
            ("/api/v1/app/", "/api/v1/app"),
            ("/api/v1/app//?limit=1", "/api/v1/app?limit=1"),
            ("/api/v1/app?a=/", "/api/v1/app?a=/"),
            ("/", "/"),
            ("//", "//"),
            ("/api/%2F/", "/api/%2F"),
        ] {
            let mut uri: Uri = from.parse().unwrap();
            trim_slashes(&mut uri);
            assert_eq!(uri.to_string(), to);
        }
    }
}
