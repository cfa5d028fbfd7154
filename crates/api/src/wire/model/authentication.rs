//! Tokens of applications on the wire (rest-contract §4.1).

use std::time::Duration;

use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::ApplicationId;
use postrider_domain::names::EventTypeName;
use postrider_ingest::NewApplication;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::access::auth::{MAX_CAPABILITIES, MAX_FEATURE_FLAGS, MAX_SESSION_CHARS, NewToken};
use crate::http::rights::Capability;
use crate::wire::decode::{object, whole};
use crate::wire::error::Result;
use crate::wire::model::application::ApplicationIn;
use crate::wire::rules::Problems;
use crate::wire::schema::{Said, Title, TokenText};

/// For how long a token is good if its maker does not say.
const DEFAULT_LIFETIME_SECONDS: u64 = MAX_LIFETIME_SECONDS;

/// The shortest and longest time for which a token can be good.
const LIFETIME_SECONDS: std::ops::RangeInclusive<u64> = 3_600..=MAX_LIFETIME_SECONDS;

postrider_domain::limits! {
    in "Tokens of applications";
    /// For how long a token is good
    pub(crate) const MAX_LIFETIME_SECONDS: u64 = 2_419_200, "seconds", beyond "422";
    /// The sessions that one request ends
    pub(crate) const MAX_SESSIONS: usize = 1_000, "sessions", beyond "422";
    /// The time after which tokens that were ended are still good
    pub(crate) const MAX_GRACE_SECONDS: u64 = 604_800, "seconds", beyond "422";
}

/// What makes a token for an application's customer.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AppPortalAccessIn")]
pub(crate) struct PortalAccessIn {
    /// The flagged event types that the token shows. To it, there are no others.
    #[schemars(with = "Option<Vec<EventTypeName>>", length(max = MAX_FEATURE_FLAGS))]
    feature_flags: Option<Vec<String>>,
    /// The application, to be made if the path names none. Its uid must be what the path names.
    #[serde(default, deserialize_with = "object")]
    application: Option<ApplicationIn>,
    /// Whether the token only allows to look.
    read_only: Option<bool>,
    /// What the token allows. By default everything about this application.
    #[schemars(length(max = MAX_CAPABILITIES))]
    capabilities: Option<Vec<Capability>>,
    /// For how many seconds the token is good. By default 28 days. It is taken for 15 minutes more, because clocks differ: to end
    /// it at once, use `expire-all`.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(range(min = 3_600, max = MAX_LIFETIME_SECONDS))]
    expiry: Option<u64>,
    /// A name by which the token can be ended.
    #[schemars(with = "Option<Title>", length(max = MAX_SESSION_CHARS))]
    session_id: Option<String>,
}

/// A token that somebody wants, checked by itself.
pub(crate) struct PortalAccess {
    /// The application to make if there is none.
    pub(crate) create_application: Option<NewApplication>,
    feature_flags: Vec<String>,
    read_only: bool,
    capabilities: Option<Vec<Capability>>,
    session: Option<String>,
    lifetime: Duration,
}

impl PortalAccessIn {
    /// Checks a body.
    pub(crate) fn checked(self) -> Result<PortalAccess> {
        let mut problems = Problems::of_body();
        let create_application =
            self.application.map(|application| problems.within("application", |problems| application.check(problems)));
        let feature_flags = self.feature_flags.unwrap_or_default();
        // Flags are written by the same rule as names.
        problems.list("featureFlags", &feature_flags, 0..=MAX_FEATURE_FLAGS, EventTypeName::parse);
        if self.capabilities.as_ref().is_some_and(|all| all.len() > MAX_CAPABILITIES) {
            problems.add("capabilities", format!("must have at most {MAX_CAPABILITIES} elements"));
        }
        let lifetime = self.expiry.unwrap_or(DEFAULT_LIFETIME_SECONDS);
        if !LIFETIME_SECONDS.contains(&lifetime) {
            let (least, most) = (LIFETIME_SECONDS.start(), LIFETIME_SECONDS.end());
            problems.add("expiry", format!("must be {least} to {most} seconds"));
        }
        if let Some(session) = &self.session_id {
            check_session(&mut problems, "sessionId", session);
        }
        problems.finish(Some(PortalAccess {
            create_application,
            feature_flags,
            read_only: self.read_only.unwrap_or(false),
            capabilities: self.capabilities,
            session: self.session_id,
            lifetime: Duration::from_secs(lifetime),
        }))
    }
}

impl PortalAccess {
    /// The token for this application.
    pub(crate) fn token(self, environment: EnvironmentId, application: ApplicationId) -> NewToken {
        let Self { create_application: _, feature_flags, read_only, capabilities, session, lifetime } = self;
        NewToken { environment, application, feature_flags, capabilities, read_only, session, lifetime }
    }
}

fn check_session(problems: &mut Problems, member: &'static str, session: &str) {
    problems.prose(member, session, 1..=MAX_SESSION_CHARS);
}

/// A token, and a page to use it on.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AppPortalAccessOut")]
pub(crate) struct PortalAccessOut {
    /// Where people go.
    #[schemars(with = "Said")]
    pub(crate) url: String,
    /// What they, or their programs, show.
    #[schemars(with = "TokenText")]
    pub(crate) token: String,
}

/// What ends tokens of an application.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ApplicationTokenExpireIn")]
pub(crate) struct ExpireIn {
    /// After how many seconds they are refused. By default at once.
    #[serde(default, deserialize_with = "whole")]
    #[schemars(range(max = MAX_GRACE_SECONDS))]
    expiry: Option<u64>,
    /// Only the tokens of these sessions. By default all.
    #[schemars(with = "Option<Vec<Title>>", length(max = MAX_SESSIONS), inner(length(max = MAX_SESSION_CHARS)))]
    session_ids: Option<Vec<String>>,
}

impl ExpireIn {
    /// Checks a body: after what time tokens are refused, and of which sessions (none is all).
    pub(crate) fn checked(self) -> Result<(Duration, Vec<String>)> {
        let mut problems = Problems::of_body();
        let sessions = self.session_ids.unwrap_or_default();
        if sessions.len() > MAX_SESSIONS {
            problems.add("sessionIds", format!("must have at most {MAX_SESSIONS} elements"));
        }
        for session in &sessions {
            check_session(&mut problems, "sessionIds", session);
        }
        let grace = self.expiry.unwrap_or(0);
        if grace > MAX_GRACE_SECONDS {
            problems.add("expiry", format!("must be 0 to {MAX_GRACE_SECONDS} seconds"));
        }
        problems.finish(Some((Duration::from_secs(grace), sessions)))
    }
}

/// Whom a token speaks for.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WhoamiOut {
    /// The environment.
    #[schemars(length(max = 256))]
    pub(crate) environment_id: String,
    /// The application, if the token is one of an application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) application_id: Option<ApplicationId>,
    /// Which flagged event types the token sees; the operator sees all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<EventTypeName>>", length(max = MAX_FEATURE_FLAGS))]
    pub(crate) feature_flags: Option<Vec<String>>,
}
