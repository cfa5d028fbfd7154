//! Members that clients of different ages spell differently. A body has them flattened in, so the code that uses one sees
//! the value and not how it was spelled. What is shown has every spelling, because each is required by some client.
//!
//! A flattened member is decoded from a buffer, where its place is lost; so each names itself in the error.

use postrider_domain::endpoint::MAX_ENDPOINT_EVENT_TYPES;
use postrider_domain::message::MAX_BODY_BYTES;
use postrider_domain::names::{EventTypeName, NameError};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::wire::decode::{member, nullable, nullable_whole, whole};
use crate::wire::model::headers::MAX_HEADER_CHANGES;
use crate::wire::rules::Problems;
use crate::wire::schema::Rate;

macro_rules! named {
    ($($function:ident: $type:ty = $member:literal by $decode:path;)*) => {
        $(fn $function<'de, D: Deserializer<'de>>(from: D) -> Result<$type, D::Error> {
            member($member, from, |from| $decode(from))
        })*
    };
}

named! {
    throttle_rate: Option<u16> = "throttleRate" by whole;
    rate_limit: Option<u16> = "rateLimit" by whole;
    throttle_rate_patch: Option<Option<u16>> = "throttleRate" by nullable_whole;
    rate_limit_patch: Option<Option<u16>> = "rateLimit" by nullable_whole;
    event_types: Option<Vec<String>> = "eventTypes" by Option::deserialize;
    event_types_patch: Option<Option<Vec<String>>> = "eventTypes" by nullable;
    feature_flag: Option<String> = "featureFlag" by Option::deserialize;
    feature_flags: Option<Vec<String>> = "featureFlags" by Option::deserialize;
    feature_flag_patch: Option<Option<String>> = "featureFlag" by nullable;
    feature_flags_patch: Option<Option<Vec<String>>> = "featureFlags" by nullable;
    delete_headers: Option<Vec<String>> = "deleteHeaders" by Option::deserialize;
}

/// A limit in messages per second. Its older name is `rateLimit`, which clients still send and read.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RateIn {
    /// The most messages per second; of an application, to all its endpoints together.
    #[serde(default, deserialize_with = "throttle_rate")]
    #[schemars(with = "Option<Rate>")]
    throttle_rate: Option<u16>,
    /// An older name of `throttleRate`, which counts if that is absent or null.
    #[serde(default, deserialize_with = "rate_limit")]
    #[schemars(with = "Option<Rate>", extend("deprecated" = true))]
    rate_limit: Option<u16>,
}

impl RateIn {
    /// The limit.
    pub(crate) fn checked(self, problems: &mut Problems) -> Option<u16> {
        problems.rate("throttleRate", self.throttle_rate);
        problems.rate("rateLimit", self.rate_limit);
        self.throttle_rate.or(self.rate_limit)
    }
}

/// A limit that may be changed, or removed by null.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RatePatch {
    /// The most messages per second; of an application, to all its endpoints together. Null removes the limit.
    #[serde(default, deserialize_with = "throttle_rate_patch")]
    #[schemars(with = "Option<Rate>")]
    throttle_rate: Option<Option<u16>>,
    /// An older name of `throttleRate`.
    #[serde(default, deserialize_with = "rate_limit_patch")]
    #[schemars(with = "Option<Rate>", extend("deprecated" = true))]
    rate_limit: Option<Option<u16>>,
}

impl RatePatch {
    /// The limit, if it changes.
    pub(crate) fn checked(self, problems: &mut Problems) -> Option<Option<u16>> {
        problems.rate("throttleRate", self.throttle_rate.flatten());
        problems.rate("rateLimit", self.rate_limit.flatten());
        self.throttle_rate.or(self.rate_limit)
    }
}

/// The limit of an endpoint as it is shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RateOut {
    /// The same as `throttleRate`.
    #[schemars(with = "Option<Rate>", extend("deprecated" = true))]
    rate_limit: Option<u16>,
    /// The most messages per second; null is unlimited.
    #[schemars(with = "Option<Rate>")]
    throttle_rate: Option<u16>,
}

impl From<Option<u16>> for RateOut {
    fn from(rate: Option<u16>) -> Self {
        Self { rate_limit: rate, throttle_rate: rate }
    }
}

/// The limit of an application as it is shown: there, the older name is left out if there is none.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApplicationRateOut {
    /// The most messages per second to all its endpoints together; null is unlimited.
    #[schemars(with = "Option<Rate>")]
    throttle_rate: Option<u16>,
    /// The same as `throttleRate`, if there is a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Rate>", extend("deprecated" = true))]
    rate_limit: Option<u16>,
}

impl From<Option<u16>> for ApplicationRateOut {
    fn from(rate: Option<u16>) -> Self {
        Self { throttle_rate: rate, rate_limit: rate }
    }
}

/// The event types of an endpoint. Libraries before 2.0 call them `filterTypes`; both at once are refused.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventTypesIn {
    /// The event types that it wants, which must exist unless it has them already; null is all. `filterTypes` is an
    /// older name.
    #[serde(default, deserialize_with = "event_types", alias = "filterTypes")]
    #[schemars(with = "Option<Vec<EventTypeName>>", length(min = 1, max = MAX_ENDPOINT_EVENT_TYPES))]
    pub(crate) event_types: Option<Vec<String>>,
}

/// Event types that may be changed.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventTypesPatch {
    /// The event types that it wants, which must exist unless it has them already; null is all. `filterTypes` is an
    /// older name.
    #[serde(default, deserialize_with = "event_types_patch", alias = "filterTypes")]
    #[schemars(with = "Option<Vec<EventTypeName>>", length(min = 1, max = MAX_ENDPOINT_EVENT_TYPES))]
    pub(crate) event_types: Option<Option<Vec<String>>>,
}

/// Event types as they are shown: libraries before 2.0 read `filterTypes`, later ones `eventTypes`.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EventTypesOut<'a> {
    /// The event types that it wants; null is all.
    #[schemars(with = "Option<Vec<EventTypeName>>", length(max = MAX_ENDPOINT_EVENT_TYPES))]
    event_types: Option<&'a [EventTypeName]>,
    /// The same under its older name.
    #[schemars(with = "Option<Vec<EventTypeName>>", length(max = MAX_ENDPOINT_EVENT_TYPES), extend("deprecated" = true))]
    filter_types: Option<&'a [EventTypeName]>,
}

impl<'a> From<Option<&'a [EventTypeName]>> for EventTypesOut<'a> {
    fn from(event_types: Option<&'a [EventTypeName]>) -> Self {
        Self { event_types, filter_types: event_types }
    }
}

/// The feature flag of an event type: a text, and in later libraries (1.99, 2.x) a list. A type has at most one, so a
/// longer list is refused rather than cut.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FlagIn {
    /// Applications see it only if their token has this flag.
    #[serde(default, deserialize_with = "feature_flag")]
    #[schemars(with = "Option<EventTypeName>")]
    feature_flag: Option<String>,
    /// The same as a list.
    #[serde(default, deserialize_with = "feature_flags")]
    #[schemars(with = "Option<Vec<EventTypeName>>", length(max = 1))]
    feature_flags: Option<Vec<String>>,
}

impl FlagIn {
    /// The flag.
    pub(crate) fn checked(self, problems: &mut Problems) -> Option<String> {
        check_flag(problems, self.feature_flag, self.feature_flags)
    }
}

/// A feature flag that may be changed, or removed by null.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FlagPatch {
    /// Applications see it only if their token has this flag. Null removes it.
    #[serde(default, deserialize_with = "feature_flag_patch")]
    #[schemars(with = "Option<EventTypeName>")]
    feature_flag: Option<Option<String>>,
    /// The same as a list.
    #[serde(default, deserialize_with = "feature_flags_patch")]
    #[schemars(with = "Option<Vec<EventTypeName>>", length(max = 1))]
    feature_flags: Option<Option<Vec<String>>>,
}

impl FlagPatch {
    /// The flag, if it changes.
    pub(crate) fn checked(self, problems: &mut Problems) -> Option<Option<String>> {
        let changes = self.feature_flag.is_some() || self.feature_flags.is_some();
        let flag = check_flag(problems, self.feature_flag.flatten(), self.feature_flags.flatten());
        changes.then_some(flag)
    }
}

/// The flag of a type. `featureFlags`, the newer member, counts if both are there: a client that shows one and changes the
/// other sends both back.
fn check_flag(problems: &mut Problems, flag: Option<String>, flags: Option<Vec<String>>) -> Option<String> {
    if flags.as_ref().is_some_and(|flags| flags.len() > 1) {
        problems.add("featureFlags", "must have at most one element");
    }
    // Flags are written by the same rule as names.
    let legal = |flag: String| -> Result<_, NameError> { EventTypeName::parse(&flag).map(|_| flag) };
    let older = flag.and_then(|flag| problems.check("featureFlag", legal(flag)));
    match flags {
        Some(flags) => flags.into_iter().next().and_then(|flag| problems.check("featureFlags", legal(flag))),
        None => older,
    }
}

/// The feature flag of an event type as it is shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FlagOut<'a> {
    /// The flag that the token of an application needs to see it.
    #[schemars(with = "Option<EventTypeName>")]
    feature_flag: Option<&'a str>,
    /// The same as a list.
    #[schemars(with = "Vec<EventTypeName>", length(max = 1))]
    feature_flags: &'a [String],
}

impl<'a> From<&'a Option<String>> for FlagOut<'a> {
    fn from(flag: &'a Option<String>) -> Self {
        Self { feature_flag: flag.as_deref(), feature_flags: flag.as_slice() }
    }
}

/// Headers to remove. The contract removes one by setting it to null, which later libraries cannot say: they send a list.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RemovedHeaders {
    /// Names of headers to remove.
    #[serde(default, deserialize_with = "delete_headers")]
    #[schemars(length(max = MAX_HEADER_CHANGES), inner(length(max = MAX_BODY_BYTES)))]
    delete_headers: Option<Vec<String>>,
}

impl RemovedHeaders {
    /// Their names.
    pub(crate) fn names(self) -> impl Iterator<Item = String> {
        self.delete_headers.into_iter().flatten()
    }
}
