//! Background tasks on the wire, and what starts them (rest-contract §9.7; otherwise as the SDKs have it).

use std::time::Duration;

use postrider_domain::ids::TaskId;
use postrider_domain::names::{Channel, EventTypeName, Tag};
use postrider_domain::task::Task;
use postrider_domain::time::Timestamp;
use postrider_store::{Outcome, ReplayFilter, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::wire::error::Result;
use crate::wire::model::attempt::STATUS_CLASSES;
use crate::wire::rules::Problems;

/// How far back failures can be recovered, and what it may be exceeded by: the clocks of callers differ.
const RECOVER_SPAN: Duration = Duration::from_secs(RECOVER_DAYS * 86_400);
const RECOVER_SLACK: Duration = Duration::from_secs(5 * 60);

postrider_domain::limits! {
    in "Background tasks";
    /// The ids or names that one request lists
    pub(crate) const MAX_ITEMS: usize = 10_000, "elements", beyond "422";
    /// One of these ids
    pub(crate) const MAX_ID: usize = 256, "characters", beyond "422";
    /// How far back failures can be recovered
    pub(crate) const RECOVER_DAYS: u64 = 14, "days", beyond "422";
}

/// A range of time.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct RecoverIn {
    /// From this instant on, at most 14 days before `until`.
    since: Timestamp,
    /// Up to this instant. By default now.
    until: Option<Timestamp>,
}

impl RecoverIn {
    /// Checks a body.
    pub(crate) fn checked(self, now: Timestamp) -> Result<Span> {
        let mut problems = Problems::of_body();
        let span = span(self.since, self.until, now);
        if span.until.since(self.since) > RECOVER_SPAN + RECOVER_SLACK {
            problems.add("since", "must not be more than 14 days before until");
        }
        problems.finish(Some(span))
    }
}

/// What has yet to come is not part of it.
fn span(since: Timestamp, until: Option<Timestamp>, now: Timestamp) -> Span {
    Span { since, until: until.unwrap_or(now).min(now) }
}

/// Which messages are sent to an endpoint again.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BulkReplayIn {
    /// Only messages that were made at this instant or later.
    since: Timestamp,
    /// Only messages that were made before this instant. By default now.
    until: Option<Timestamp>,
    /// Only messages of these event types.
    #[schemars(with = "Option<Vec<EventTypeName>>", length(max = MAX_ITEMS))]
    event_types: Option<Vec<String>>,
    /// Only messages that were sent on this channel.
    #[schemars(with = "Option<Channel>")]
    channel: Option<String>,
    /// Only messages that have this tag.
    #[schemars(with = "Option<Tag>")]
    tag: Option<String>,
    /// Only messages whose last attempt is in this state: 0 succeeded, 2 failed, 3 failed and tried again. None is in
    /// state 1 or 4.
    #[schemars(range(min = 0, max = 4))]
    status: Option<u8>,
    /// Only messages whose last attempt was answered with a status of this hundred; 0 is no answer at all.
    #[schemars(extend("enum" = [0, 100, 200, 300, 400, 500, null]))]
    status_code_class: Option<u16>,
}

impl BulkReplayIn {
    /// Checks a body.
    pub(crate) fn checked(self, now: Timestamp) -> Result<(Span, ReplayFilter)> {
        let mut problems = Problems::of_body();
        let event_types = self.event_types.filter(|names| !names.is_empty());
        let event_types =
            event_types.map(|names| problems.list("eventTypes", &names, 1..=MAX_ITEMS, EventTypeName::parse));
        let channel = self.channel.and_then(|name| problems.check("channel", Channel::parse(&name)));
        let tag = self.tag.and_then(|name| problems.check("tag", Tag::parse(&name)));
        let mut span = span(self.since, self.until, now);
        let outcome = match self.status {
            None => None,
            Some(0) => Some(Outcome::Succeeded),
            Some(2) => Some(Outcome::Failed),
            Some(3) => Some(Outcome::Waiting),
            Some(other) => {
                if other > 4 {
                    problems.add("status", "must be 0 to 4");
                }
                // No message that was attempted is in another state.
                span.until = Timestamp::EPOCH;
                None
            }
        };
        if self.status_code_class.is_some_and(|class| !STATUS_CLASSES.contains(&class)) {
            problems.add("statusCodeClass", "must be 0, 100, 200, 300, 400 or 500");
        }
        let status_code_class = self.status_code_class;
        problems.finish(Some((span, ReplayFilter { event_types, channel, tag, outcome, status_code_class })))
    }
}

/// Which messages' payloads are erased.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct BulkExpungeIn {
    /// Ids or `eventId`s of messages.
    #[schemars(length(max = MAX_ITEMS), inner(length(max = MAX_ID)))]
    ids: Option<Vec<String>>,
}

impl BulkExpungeIn {
    /// Checks a body.
    pub(crate) fn checked(self) -> Result<Vec<String>> {
        let mut problems = Problems::of_body();
        let ids = self.ids.unwrap_or_default();
        check_ids(&mut problems, "ids", &ids);
        problems.finish(Some(ids))
    }
}

/// Checks a list of ids, each of which may name nothing.
fn check_ids(problems: &mut Problems, member: &'static str, ids: &[String]) {
    if ids.len() > MAX_ITEMS {
        problems.add(member, format!("must have at most {MAX_ITEMS} elements"));
        return;
    }
    problems.within(member, |problems| {
        ids.iter().enumerate().for_each(|(at, id)| problems.length(format!("[{at}]"), id, MAX_ID));
    });
}

/// What became of each message.
#[derive(Serialize, JsonSchema)]
pub(crate) struct BulkExpungeOut {
    /// By the id that was given.
    #[schemars(extend("maxProperties" = MAX_ITEMS, "propertyNames" = { "maxLength": MAX_ID }))]
    results: std::collections::BTreeMap<String, ExpungeStatus>,
}

/// What became of a message.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ExpungeStatus {
    /// Its payload is gone.
    Expunged,
    /// There is no such message.
    NotFound,
}

impl BulkExpungeOut {
    /// Shows which of the messages were there.
    pub(crate) fn new(ids: Vec<String>, found: &[bool]) -> Self {
        let status = |found: &bool| if *found { ExpungeStatus::Expunged } else { ExpungeStatus::NotFound };
        Self { results: ids.into_iter().zip(found.iter().map(status)).collect() }
    }
}

/// Which usage is counted.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AppUsageIn {
    /// From this instant on.
    since: Timestamp,
    /// Up to this instant.
    until: Timestamp,
    /// Ids or uids of applications; all of them, if it is left out.
    #[schemars(length(max = MAX_ITEMS), inner(length(max = MAX_ID)))]
    app_ids: Option<Vec<String>>,
}

impl AppUsageIn {
    /// Checks a body.
    pub(crate) fn checked(self) -> Result<(Span, Option<Vec<String>>)> {
        let mut problems = Problems::of_body();
        check_ids(&mut problems, "appIds", self.app_ids.as_deref().unwrap_or_default());
        if self.until < self.since {
            problems.add("until", "must not be earlier than since");
        }
        problems.finish(Some((Span { since: self.since, until: self.until }, self.app_ids)))
    }
}

/// A background task that was started.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecoverOut")]
pub(crate) struct StartedOut {
    /// Its id.
    id: TaskId,
    /// How far it is.
    #[schemars(extend("enum" = ["running", "finished", "failed"]))]
    status: &'static str,
    /// What it does.
    #[schemars(extend("enum" = ["endpoint.recover", "endpoint.replay", "endpoint.bulk-replay",
        "application.purge_content", "application.stats", "event-type.aggregate"]))]
    task: &'static str,
    /// When it last took a step.
    updated_at: Timestamp,
}

impl From<&Task> for StartedOut {
    fn from(task: &Task) -> Self {
        Self { id: task.id, status: task.status.as_str(), task: task.kind.as_str(), updated_at: task.updated_at }
    }
}

/// A background task that counts.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AppUsageStatsOut")]
pub(crate) struct AppUsageOut {
    #[serde(flatten)]
    task: StartedOut,
    /// What was asked for and does not exist. All others are counted.
    #[schemars(length(max = MAX_ITEMS), inner(length(max = MAX_ID)))]
    unresolved_app_ids: Vec<String>,
}

impl AppUsageOut {
    /// Shows the task, and what it leaves out.
    pub(crate) fn new(task: &Task, unresolved_app_ids: Vec<String>) -> Self {
        Self { task: task.into(), unresolved_app_ids }
    }
}

/// A background task as it is shown.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "BackgroundTaskOut")]
pub(crate) struct TaskOut<'a> {
    #[serde(flatten)]
    task: StartedOut,
    /// What it has done, or found, so far. `stopped` says why it ended early, `waiting` which setting it waits for.
    #[schemars(extend("x-unbounded" = "a count for each application or event type that there is"))]
    data: &'a Map<String, Value>,
}

impl<'a> From<&'a Task> for TaskOut<'a> {
    fn from(task: &'a Task) -> Self {
        Self { task: task.into(), data: &task.data }
    }
}
