//! What is stored beside what the contract has types for.

use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::Ksuid;
use postrider_domain::task::{Task, TaskStatus};
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationKey, EndpointKey, IdempotencyKey, IssuedToken, Job, MessageKey, Notice, Owner, StoredAnswer,
    URL_OVERHEAD, WAITING,
};

/// What was used for. Each has an allowance of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    /// Attempts, for whoever has one message sent again.
    Call,
    /// Attempts, for tasks.
    Task,
    /// Bytes, for URLs that are former ones.
    Urls,
}

/// What a request is about. Its key is another one for anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) application: Option<ApplicationKey>,
    pub(crate) endpoint: Option<EndpointKey>,
    pub(crate) message: Option<MessageKey>,
}

impl Subject {
    /// Nothing that could be made anew.
    pub(crate) const ENVIRONMENT: Self = Self { application: None, endpoint: None, message: None };

    pub(crate) const fn application(application: ApplicationKey) -> Self {
        Self { application: Some(application), ..Self::ENVIRONMENT }
    }

    pub(crate) const fn endpoint(endpoint: EndpointKey) -> Self {
        Self { endpoint: Some(endpoint), ..Self::ENVIRONMENT }
    }

    pub(crate) const fn message_at(message: MessageKey, endpoint: EndpointKey) -> Self {
        Self { message: Some(message), ..Self::endpoint(endpoint) }
    }
}

/// An answer that is remembered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) owner: Owner,
    pub(crate) key: IdempotencyKey,
    pub(crate) subject: Subject,
    pub(crate) created_at: Timestamp,
    pub(crate) answer: StoredAnswer,
}

/// A notice, and which endpoint it is about.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) endpoint: EndpointKey,
    pub(crate) notice: Notice,
}

/// Whose tokens a rule ends: those of all sessions, or of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whose {
    All,
    Session(String),
}

/// Ends tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// Only tokens issued before this instant.
    pub(crate) issued_before: Timestamp,
    /// They are refused from this instant on.
    pub(crate) refused_from: Timestamp,
}

impl Rule {
    pub(crate) fn ends(&self, token: &IssuedToken, now: Timestamp) -> bool {
        token.issued_at < self.issued_before && self.refused_from <= now
    }

    /// Whether another one of the same tokens ends all that this one does, from now on.
    pub(crate) fn is_covered_by(&self, other: &Self, now: Timestamp) -> bool {
        self.issued_before <= other.issued_before && other.refused_from <= self.refused_from.max(now)
    }
}

/// A URL of an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Url {
    pub(crate) endpoint: EndpointKey,
    pub(crate) url: String,
    pub(crate) retired_at: Option<Timestamp>,
}

impl Url {
    /// What it takes as a former one.
    pub(crate) fn bytes(&self) -> u64 {
        self.url.len() as u64 + URL_OVERHEAD
    }
}

/// A task, and what it takes to go on with it.
#[derive(Debug, Clone)]
pub(crate) struct Undertaking {
    pub(crate) environment: EnvironmentId,
    /// Which application it is about, unless it is about all of the environment.
    pub(crate) application: Option<ApplicationKey>,
    pub(crate) job: Job,
    pub(crate) task: Task,
    /// The last message, or attempt, that was looked at.
    pub(crate) looked_at: Option<Ksuid>,
}

impl Undertaking {
    pub(crate) fn is_running(&self) -> bool {
        self.task.status == TaskStatus::Running
    }

    /// Since when it waits for what its application may ask for.
    pub(crate) fn waits_since(&self) -> Option<Timestamp> {
        self.task.data.contains_key(WAITING.0).then_some(self.task.updated_at)
    }
}
