//! Who may do what (rest-contract §0, column "Auth"): an extractor for each kind of access, to be taken before the body.
//!
//! [`Operator`] operations belong to the environment: an application's token gets 403. Operations of an application take the
//! operator, or a token of that very application; for any other it does not exist. What can be read by both shows an
//! application's token only what its feature flags allow; the other event types do not exist for it, whatever it names them in.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::Method;
use http::request::Parts;
use postrider_domain::application::{Application, EnvironmentId, Metadata};
use postrider_domain::endpoint::Endpoint;
use postrider_domain::ids::{ApplicationId, EndpointId, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::{IdOrUid, Uid};
use postrider_ingest::NewApplication;
use postrider_store::{ApplicationKey, EndpointKey, MessageKey, Owner, Stored};

use crate::access::auth::Caller;
use crate::access::idempotency::{self, Keyed};
use crate::http::account::{Account, IsList};
use crate::http::params::Params;
use crate::http::principal::Principal;
use crate::http::rights::Capability;
use crate::state::Shared;
use crate::wire::error::{ApiError, Result};

/// Who is calling. From here on the request is charged to him.
async fn identify(parts: &Parts, state: &Shared) -> Result<Arc<Caller>> {
    let caller = state.authenticator.caller(&parts.headers).await?;
    if let Some(account) = parts.extensions.get::<Arc<Account>>() {
        account.open(&caller.principal, parts.extensions.get::<IsList>().is_some()).await?;
    }
    Ok(caller)
}

/// The operator of an environment.
pub(crate) struct Operator {
    /// His environment.
    pub(crate) environment: EnvironmentId,
    /// The idempotency key of the request.
    pub(crate) once: Option<Keyed>,
}

impl FromRequestParts<Shared> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self> {
        let caller = identify(parts, state).await?;
        let Principal::Environment(environment) = &caller.principal else {
            return Err(ApiError::insufficient_access());
        };
        let once = idempotency::key(parts, &caller, Owner::Operator(environment.clone()))?;
        Ok(Self { environment: environment.clone(), once })
    }
}

impl Operator {
    /// The message that the path names, of the application that it names.
    pub(crate) async fn message(&self, state: &Shared, params: &Params) -> Result<MessageKey> {
        let application = self.application(state, params).await?;
        let id = params.id_or_uid::<MessageId>("msg_id")?;
        let found = state.store.message(application.key, &id, false).await?;
        Ok(found.ok_or_else(|| ApiError::no_such("message"))?.key)
    }

    /// The application that the path names.
    pub(crate) async fn application(
        &self,
        state: &Shared,
        params: &Params,
    ) -> Result<Stored<ApplicationKey, Application>> {
        let id = params.id_or_uid::<ApplicationId>("app_id")?;
        state.store.application(&self.environment, &id).await?.ok_or_else(|| ApiError::no_such("application"))
    }
}

/// What a token of an application must allow for an operation. The operator may do everything.
pub(crate) trait Need {
    /// The capability that a request with this method needs.
    fn needed(method: &Method) -> Capability;
}

/// Looking is for everybody, anything else for those who manage endpoints.
pub(crate) enum ByMethod {}

/// Reading a secret.
pub(crate) enum ReadSecret {}

/// Changing a secret.
pub(crate) enum ManageSecret {}

/// Having something delivered.
pub(crate) enum CreateAttempts {}

/// Reading as somebody whose position is kept: also a `GET` may move it, for whoever else reads by that name.
pub(crate) enum MovePosition {}

impl Need for ByMethod {
    fn needed(method: &Method) -> Capability {
        if method.is_safe() { Capability::ViewBase } else { Capability::ManageEndpoint }
    }
}

impl Need for ReadSecret {
    fn needed(_: &Method) -> Capability {
        Capability::ViewEndpointSecret
    }
}

impl Need for ManageSecret {
    fn needed(_: &Method) -> Capability {
        Capability::ManageEndpointSecret
    }
}

impl Need for MovePosition {
    fn needed(_: &Method) -> Capability {
        Capability::ManageEndpoint
    }
}

impl Need for CreateAttempts {
    fn needed(_: &Method) -> Capability {
        Capability::CreateAttempts
    }
}

/// Whoever may act for the application that the path names.
pub(crate) struct Tenant<N = ByMethod> {
    /// The application.
    pub(crate) application: Stored<ApplicationKey, Application>,
    /// The environment that it belongs to.
    pub(crate) environment: EnvironmentId,
    /// `Some`: sees only event types that have no flag or one of these. To it, there are no others.
    pub(crate) feature_flags: Option<Vec<String>>,
    /// The idempotency key of the request.
    pub(crate) once: Option<Keyed>,
    params: Params,
    need: PhantomData<N>,
}

impl<N> Tenant<N> {
    /// Whether it is the operator who is calling. Every token of an application has flags, or none of them.
    pub(crate) fn is_operator(&self) -> bool {
        self.feature_flags.is_none()
    }
}

impl<N: Need> FromRequestParts<Shared> for Tenant<N> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self> {
        let caller = identify(parts, state).await?;
        let params = Params::from_request_parts(parts, state).await?;
        if !params.has("app_id") {
            return Self::management(parts, state, &caller, params).await;
        }
        let (environment, own) = match &caller.principal {
            Principal::Environment(environment) => (environment, None),
            Principal::Application { environment, application, rights, .. } => {
                let needed = N::needed(&parts.method);
                if !rights.allow(needed) {
                    return Err(ApiError::lacks(needed));
                }
                (environment, Some(*application))
            }
        };
        let id = params.id_or_uid::<ApplicationId>("app_id")?;
        let application =
            state.store.application(environment, &id).await?.ok_or_else(|| ApiError::no_such("application"))?;
        if own.is_some_and(|own| own != application.value.id) {
            return Err(ApiError::no_such("application"));
        }
        let owner = own.map_or_else(|| Owner::Operator(environment.clone()), |_| Owner::Application(application.key));
        let once = idempotency::key(parts, &caller, owner)?;
        let feature_flags = caller.principal.feature_flags().map(<[String]>::to_vec);
        Ok(Self { application, environment: environment.clone(), feature_flags, once, params, need: PhantomData })
    }
}

impl<N> Tenant<N> {
    /// The operator as his own customer: paths without an application mean the one whose endpoints get the operational
    /// webhooks of his environment. It exists as soon as somebody asks for it.
    async fn management(parts: &Parts, state: &Shared, caller: &Caller, params: Params) -> Result<Self> {
        let Principal::Environment(of) = &caller.principal else { return Err(ApiError::insufficient_access()) };
        let environment = EnvironmentId::management();
        let id = IdOrUid::Uid(of.as_str().into());
        let application = match state.store.application(&environment, &id).await? {
            Some(application) => application,
            None => {
                let uid = Uid::parse::<ApplicationId>(of.as_str()).map_err(|_| ApiError::no_such("application"))?;
                let name = format!("Operational webhooks of {of}");
                let new = NewApplication { uid: Some(uid), name, throttle_rate: None, metadata: Metadata::new() };
                state.intake.ensure_application(&environment, &id, Some(new)).await?;
                state.store.application(&environment, &id).await?.ok_or_else(|| ApiError::no_such("application"))?
            }
        };
        let once = idempotency::key(parts, caller, Owner::Operator(of.clone()))?;
        Ok(Self { application, environment, feature_flags: None, once, params, need: PhantomData })
    }

    /// The other parameters of the path.
    pub(crate) fn params(&self) -> &Params {
        &self.params
    }

    /// The endpoint that the path names.
    pub(crate) async fn endpoint(&self, state: &Shared) -> Result<Stored<EndpointKey, Endpoint>> {
        let id = self.params.id_or_uid::<EndpointId>("endpoint_id")?;
        state.store.endpoint(self.application.key, &id).await?.ok_or_else(|| ApiError::no_such("endpoint"))
    }

    /// The message that the path names.
    pub(crate) async fn message(&self, state: &Shared) -> Result<MessageKey> {
        Ok(self.whole_message(state, false).await?.key)
    }

    /// The same as it is stored. With its payload only once there is room for that in the answer.
    pub(crate) async fn whole_message(
        &self,
        state: &Shared,
        with_payload: bool,
    ) -> Result<Stored<MessageKey, Message>> {
        let id = self.params.id_or_uid::<MessageId>("msg_id")?;
        let found = state.store.message(self.application.key, &id, with_payload).await?;
        found.ok_or_else(|| ApiError::no_such("message"))
    }
}

/// Whoever may read what an environment shares with its applications.
pub(crate) struct Reader {
    /// The environment.
    pub(crate) environment: EnvironmentId,
    /// `Some`: sees only what has no flag or one of these.
    pub(crate) feature_flags: Option<Vec<String>>,
    /// The application, if its token asks.
    pub(crate) application: Option<ApplicationId>,
}

impl FromRequestParts<Shared> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self> {
        let principal = &identify(parts, state).await?.principal;
        let (environment, application) = match principal {
            Principal::Environment(environment) => (environment, None),
            Principal::Application { environment, application, .. } => (environment, Some(*application)),
        };
        let feature_flags = principal.feature_flags().map(<[String]>::to_vec);
        Ok(Self { environment: environment.clone(), feature_flags, application })
    }
}
