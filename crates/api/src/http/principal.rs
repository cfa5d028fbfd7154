//! On whose behalf a request is made.

use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::ApplicationId;
use postrider_store::Asker;

use crate::http::rights::Rights;

/// Whom a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Principal {
    /// The operator of an environment.
    Environment(EnvironmentId),
    /// One application, for what its customer may see.
    Application {
        /// The environment that it belongs to.
        environment: EnvironmentId,
        /// The application.
        application: ApplicationId,
        /// Which flagged event types it sees.
        feature_flags: Vec<String>,
        /// What it may do.
        rights: Rights,
    },
}

impl Principal {
    /// On whose behalf the store is asked.
    pub(crate) fn asker(&self) -> Asker {
        match self {
            Self::Environment(environment) => Asker::of(environment, None),
            Self::Application { environment, application, .. } => Asker::of(environment, Some(*application)),
        }
    }

    /// `Some`: sees only event types that have no flag or one of these.
    pub(crate) fn feature_flags(&self) -> Option<&[String]> {
        match self {
            Self::Environment(_) => None,
            Self::Application { feature_flags, .. } => Some(feature_flags),
        }
    }
}
