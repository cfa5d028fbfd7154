//! Applications on the wire (rest-contract §5).

use postrider_domain::application::{Application, ApplicationPatch, MAX_APPLICATION_NAME, Metadata};
use postrider_domain::ids::ApplicationId;
use postrider_domain::names::Uid;
use postrider_domain::time::Timestamp;
use postrider_ingest::NewApplication;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::decode::{nullable, present};
use crate::wire::error::Result;
use crate::wire::quirks::{ApplicationRateOut, RateIn, RatePatch};
use crate::wire::rules::Problems;
use crate::wire::schema::{MetadataPairs, Title, UidOf};

/// What creates or replaces an application.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApplicationIn {
    /// What it is called, for people.
    #[schemars(with = "Title")]
    name: String,
    /// Your own identifier, which can be used wherever the id can.
    #[schemars(with = "Option<UidOf<ApplicationId>>")]
    uid: Option<String>,
    #[serde(flatten)]
    rate: RateIn,
    /// Free text pairs, of at most 4096 bytes as JSON.
    #[schemars(with = "Option<MetadataPairs>")]
    metadata: Option<Metadata>,
}

impl ApplicationIn {
    /// Checks a body.
    pub(crate) fn checked(self) -> Result<NewApplication> {
        let mut problems = Problems::of_body();
        let application = self.check(&mut problems);
        problems.finish(Some(application))
    }

    /// Checks what may be a part of another body.
    pub(crate) fn check(self, problems: &mut Problems) -> NewApplication {
        problems.prose("name", &self.name, 1..=MAX_APPLICATION_NAME);
        let metadata = self.metadata.unwrap_or_default();
        problems.metadata(&metadata);
        let throttle_rate = self.rate.checked(problems);
        let uid = self.uid.and_then(|uid| problems.check("uid", Uid::parse::<ApplicationId>(&uid)));
        NewApplication { uid, name: self.name, throttle_rate, metadata }
    }
}

/// The application, made now.
pub(crate) fn made(new: NewApplication, id: ApplicationId, now: Timestamp) -> Application {
    let NewApplication { uid, name, throttle_rate, metadata } = new;
    Application { id, uid, name, throttle_rate, metadata, created_at: now, updated_at: now }
}

/// The changes that make an application the same as this.
pub(crate) fn replacement(new: NewApplication) -> ApplicationPatch {
    ApplicationPatch {
        name: Some(new.name),
        uid: Some(new.uid),
        throttle_rate: Some(new.throttle_rate),
        metadata: Some(new.metadata),
    }
}

/// What changes an application.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ApplicationPatch")]
pub(crate) struct ApplicationPatchIn {
    /// What it is called, for people.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "Title")]
    name: Option<String>,
    /// Your own identifier. Null removes it.
    #[serde(default, deserialize_with = "nullable")]
    #[schemars(with = "Option<UidOf<ApplicationId>>")]
    uid: Option<Option<String>>,
    #[serde(flatten)]
    rate: RatePatch,
    /// Free text pairs, which replace all that there are.
    #[serde(default, deserialize_with = "nullable")]
    #[schemars(with = "Option<MetadataPairs>")]
    metadata: Option<Option<Metadata>>,
}

impl ApplicationPatchIn {
    /// Checks a body.
    pub(crate) fn checked(self) -> Result<ApplicationPatch> {
        let mut problems = Problems::of_body();
        if let Some(name) = &self.name {
            problems.prose("name", name, 1..=MAX_APPLICATION_NAME);
        }
        let metadata = self.metadata.map(Option::unwrap_or_default);
        if let Some(metadata) = &metadata {
            problems.metadata(metadata);
        }
        let throttle_rate = self.rate.checked(&mut problems);
        let uid = self.uid.map(|uid| uid.and_then(|uid| problems.check("uid", Uid::parse::<ApplicationId>(&uid))));
        problems.finish(Some(ApplicationPatch { name: self.name, uid, throttle_rate, metadata }))
    }
}

/// An application as it is shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApplicationOut<'a> {
    /// Its id.
    id: ApplicationId,
    /// What it is called, for people.
    #[schemars(with = "Title")]
    name: &'a str,
    /// When it was made.
    created_at: Timestamp,
    /// When it was last changed.
    updated_at: Timestamp,
    /// Free text pairs.
    #[schemars(with = "MetadataPairs")]
    metadata: &'a Metadata,
    #[serde(flatten)]
    rate: ApplicationRateOut,
    /// Your own identifier, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a Uid>,
}

impl<'a> From<&'a Application> for ApplicationOut<'a> {
    fn from(application: &'a Application) -> Self {
        Self {
            id: application.id,
            name: &application.name,
            created_at: application.created_at,
            updated_at: application.updated_at,
            metadata: &application.metadata,
            rate: application.throttle_rate.into(),
            uid: application.uid.as_ref(),
        }
    }
}
