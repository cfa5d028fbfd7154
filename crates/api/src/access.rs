//! Who may do what (rest-contract §0, column "Auth"): an extractor for each kind of access, to be taken before the body.
//!
//! [`Operator`] operations belong to the environment: an application's token gets 403. Operations of an application take the
//! operator, or a token of that very application; for any other it does not exist. What can be read by both shows an
//! application's token only what its feature flags allow.

use axum::extract::FromRequestParts;
use http::request::Parts;
use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::endpoint::Endpoint;
use postrider_domain::ids::{ApplicationId, EndpointId, MessageId};
use postrider_domain::message::Message;
use postrider_store::{ApplicationKey, EndpointKey, IdempotencyKey, MessageKey, Stored};

use crate::auth::Principal;
use crate::error::{ApiError, Result};
use crate::idempotency;
use crate::params::Params;
use crate::router::Shared;

/// The operator of an environment.
pub(crate) struct Operator {
    /// His environment.
    pub(crate) environment: EnvironmentId,
    /// The idempotency key of the request.
    pub(crate) once: Option<IdempotencyKey>,
}

impl FromRequestParts<Shared> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self> {
        let caller = state.authenticator.caller(&parts.headers).await?;
        let Principal::Environment(environment) = &caller.principal else {
            return Err(ApiError::insufficient_access());
        };
        Ok(Self { environment: environment.clone(), once: idempotency::key(parts, &caller)? })
    }
}

/// Whoever may act for the application that the path names.
pub(crate) struct Tenant {
    /// The application.
    pub(crate) application: Stored<ApplicationKey, Application>,
    /// The environment that it belongs to.
    pub(crate) environment: EnvironmentId,
    /// The idempotency key of the request.
    pub(crate) once: Option<IdempotencyKey>,
    params: Params,
}

impl FromRequestParts<Shared> for Tenant {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self> {
        let caller = state.authenticator.caller(&parts.headers).await?;
        let params = Params::from_request_parts(parts, state).await?;
        let (environment, own) = match &caller.principal {
            Principal::Environment(environment) => (environment, None),
            Principal::Application { environment, application, .. } => (environment, Some(*application)),
        };
        let id = params.id_or_uid::<ApplicationId>("app_id")?;
        let application = state.store.application(environment, &id).await?.ok_or_else(ApiError::not_found)?;
        if own.is_some_and(|own| own != application.value.id) {
            return Err(ApiError::not_found());
        }
        let once = idempotency::key(parts, &caller)?;
        Ok(Self { application, environment: environment.clone(), once, params })
    }
}

impl Tenant {
    /// The other parameters of the path.
    pub(crate) fn params(&self) -> &Params {
        &self.params
    }

    /// The endpoint that the path names.
    pub(crate) async fn endpoint(&self, state: &Shared) -> Result<Stored<EndpointKey, Endpoint>> {
        let id = self.params.id_or_uid::<EndpointId>("endpoint_id")?;
        state.store.endpoint(self.application.key, &id).await?.ok_or_else(ApiError::not_found)
    }

    /// The message that the path names.
    pub(crate) async fn message(&self, state: &Shared) -> Result<Stored<MessageKey, Message>> {
        let id = self.params.id_or_uid::<MessageId>("msg_id")?;
        state.store.message(self.application.key, &id).await?.ok_or_else(ApiError::not_found)
    }
}

/// Whoever may read what an environment shares with its applications.
pub(crate) struct Reader {
    /// The environment.
    pub(crate) environment: EnvironmentId,
    /// `Some`: sees only what has no flag or one of these.
    pub(crate) feature_flags: Option<Vec<String>>,
}

impl FromRequestParts<Shared> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self> {
        Ok(match &state.authenticator.caller(&parts.headers).await?.principal {
            Principal::Environment(environment) => Self { environment: environment.clone(), feature_flags: None },
            Principal::Application { environment, feature_flags, .. } => {
                Self { environment: environment.clone(), feature_flags: Some(feature_flags.clone()) }
            }
        })
    }
}
