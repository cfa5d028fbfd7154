//! The public catalogue of an environment, for pages that document its events. Needs no token, so it shows only what the
//! environment has published, and an environment that has not is the same as none.

use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use postrider_domain::application::EnvironmentId;
use postrider_domain::event_type::EventType;
use postrider_store::EventTypeFilter;
use ring::digest::{SHA256, digest};

use crate::http::answer;
use crate::http::body::Ledger;
use crate::http::params::Params;
use crate::openapi::{Operation, Routes};
use crate::routes::environment::write_all;
use crate::state::Shared;
use crate::wire::error::{ApiError, Result};
use crate::wire::model::catalogue::CatalogueOut;

/// For how long a copy may be shown without asking.
const CACHE: HeaderValue = HeaderValue::from_static("public, max-age=60");

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new().get(
        "/catalogue/{environment_id}",
        read,
        Operation::new("v1.catalogue.get", "Get the public catalogue of an environment")
            .description("Send its `etag` as `if-none-match` the next time: what has not changed is not sent again.")
            .returns::<CatalogueOut<'_>>(StatusCode::OK, "The catalogue.")
            .returns_nothing(StatusCode::NOT_MODIFIED, "It has not changed.")
            .error(StatusCode::SERVICE_UNAVAILABLE, "The server can't take this now. Try again later."),
    )
}

pub(super) async fn read(
    params: Params,
    headers: HeaderMap,
    Ledger(account): Ledger,
    State(state): State<Shared>,
) -> Result<Response> {
    let environment = EnvironmentId::parse(params.text("environment_id")?).ok_or_else(unpublished)?;
    account.open_to_strangers()?;
    if !state.store.environment_settings(&environment).await?.public_catalogue {
        return Err(unpublished());
    }
    account.open_to_all(&environment)?;
    let filter = EventTypeFilter { include_archived: false, with_schemas: true, feature_flags: Some(Vec::new()) };
    let write = |event_types: &[EventType]| {
        let body = answer::to_store(StatusCode::OK, &CatalogueOut::new(event_types)).body;
        let tag = format!("\"{}\"", BASE64.encode(&digest(&SHA256, &body).as_ref()[..16]));
        (body, tag)
    };
    let (body, tag) = write_all(account, &state, &environment, &filter, write).await?;
    let mut response = if is_known(&headers, &tag) {
        answer::empty(StatusCode::NOT_MODIFIED)
    } else {
        answer::raw_json(StatusCode::OK, body)
    };
    response.headers_mut().insert(header::CACHE_CONTROL, CACHE);
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// Also what is said of an environment that does not exist.
fn unpublished() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "Entity not found: no catalogue is published here")
}

/// Whether the caller has what this tag stands for (RFC 9110 §13.1.2).
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let texts = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = texts.flat_map(|text| text.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    tags.any(|known| known == tag || known == "*")
}
