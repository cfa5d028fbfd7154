//! JSON bodies: decoded from the raw bytes whatever the content type says (rest-contract §1.1), with errors that say where.

use std::sync::Arc;

use axum::extract::{FromRef, FromRequest, Request};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::http::body::Incoming;
use crate::http::large::{self, Reading};
use crate::wire::decode::{MAX_VALUES, decode, few_values, not_missing, text};
use crate::wire::error::{ApiError, Result};
use crate::wire::typos::Warnings;

/// A body of type `T`. To be taken last: whoever may not do something is told that, not what is wrong with his body.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + JsonSchema + Send + 'static> FromRequest<S> for JsonBody<T>
where
    Reading: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(mut request: Request, state: &S) -> Result<Self> {
        let warnings = request.extensions_mut().remove::<Warnings>();
        let body = Incoming::from_request(request, state).await?;
        let account = Arc::clone(body.account());
        let bytes = body.read().await?;
        let takes_time = large::takes_time(&bytes, large::DECODED);
        large::read(&Reading::from_ref(state), &account, takes_time, move || Self::decode(&bytes, warnings)).await?
    }
}

impl<T: DeserializeOwned + JsonSchema> JsonBody<T> {
    fn decode(bytes: &[u8], warnings: Option<Warnings>) -> Result<Self> {
        few_values(bytes, MAX_VALUES)?;
        let text = text(bytes)?;
        not_missing(text)?;
        if let Some(warnings) = warnings {
            warnings.look_for_typos::<T>(text);
        }
        decode(text).map(Self)
    }
}
