//! What handlers and extractors have at hand.

use std::sync::Arc;

use axum::extract::FromRef;
use postrider_domain::clock::Clock;
use postrider_domain::entropy::Entropy;
use postrider_ingest::{Intake, Judges, LimitOptions};
use postrider_store::Store;

use crate::access::auth::Authenticator;
use crate::http::account::Budgets;
use crate::http::large::Reading;
use crate::options::SigningOptions;
use crate::store_ping::StorePing;
use crate::wire::url_policy::UrlPolicy;

/// What handlers have at hand.
pub(crate) struct State {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) judges: Arc<Judges>,
    pub(crate) reading: Reading,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) urls: UrlPolicy,
    pub(crate) signing: SigningOptions,
    pub(crate) public_url: Option<String>,
    pub(crate) authenticator: Authenticator,
    pub(crate) store_ping: StorePing,
    pub(crate) budgets: Arc<Budgets>,
    pub(crate) limits: LimitOptions,
}

/// The state as extractors see it.
pub(crate) type Shared = Arc<State>;

impl FromRef<Shared> for Reading {
    fn from_ref(state: &Shared) -> Self {
        state.reading.clone()
    }
}
