//! What messages of an environment must be like: schemas of event types, and what became of each check.
//!
//! The store is the authority. A schema is kept with the version of the environment's rules under which it was
//! read; that grows with every change of rules or event types. It is a part of the version of each application's routes,
//! which the accept commit compares again: a message whose version is not the current one is refused. So no message gets
//! in by an old schema. None is turned away by one either: before a refusal is answered, the routes are loaded again, and
//! if they are newer, the message is judged again. Nothing has to be told to this cache, and it works for writers in
//! other processes.
//!
//! An environment without rules costs one comparison per message.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use postrider_domain::application::EnvironmentId;
use postrider_domain::environment::{SchemaEnforcement, UnknownEventTypes};
use postrider_domain::event_type::EventType;
use postrider_domain::message::Message;
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use postrider_store::{Routes, Store, StoreError};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use crate::judge::{BeyondBudget, Judgement, Judges};
use crate::shared_loads::SharedLoads;
use crate::submission::{SubmitError, Violation};
use crate::turns::{Caller, Tenant, Whose};

/// Room for schemas, in bytes. Here they are kept as texts; what they are compiled to is in the processes that compare.
pub(crate) const CAPACITY: u64 = 8 * 1024 * 1024;

/// Schemas that the cache is made for; it has room for more, or fewer.
const SCHEMAS: usize = 256;

/// What an entry counts beside its text.
const ENTRY: u64 = 256;

/// How often one event type is written about in the log.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// Whose event type.
type Name = (EnvironmentId, EventTypeName);

/// What is known of an event type.
enum Kind {
    /// The environment does not have it, or has archived it.
    Unknown,
    /// It says nothing about payloads.
    Free,
    /// Payloads must match this, which is the newest version.
    Schema { version: Box<str>, text: Arc<str> },
}

struct Entry {
    version: i64,
    kind: Kind,
    logged_at: AtomicI64,
}

#[derive(Clone)]
struct ByText;

impl Weighter<Name, Arc<Entry>> for ByText {
    fn weight(&self, _: &Name, entry: &Arc<Entry>) -> u64 {
        let text = if let Kind::Schema { text, .. } = &entry.kind { text.len() } else { 0 };
        ENTRY + text as u64
    }
}

/// The judgement of one message.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It may be accepted; what should be told all the same.
    Passes(Vec<Violation>),
    /// It may not, unless the rules have changed.
    Refused(Vec<Violation>),
}

/// The rules of all environments.
pub(crate) struct RuleCache {
    judges: Arc<Judges>,
    cache: Cache<Name, Arc<Entry>, ByText, foldhash::fast::RandomState>,
    /// After a change everybody wants the same.
    loads: SharedLoads<Name, Result<Arc<Entry>, StoreError>>,
}

impl RuleCache {
    pub(crate) fn new(judges: Arc<Judges>) -> Self {
        let (hasher, lifecycle) = (foldhash::fast::RandomState::default(), DefaultLifecycle::default());
        let mut options = OptionsBuilder::new();
        // A shard takes nothing that is larger than its part of the room, which the largest schema would be.
        options.shards(1).estimated_items_capacity(SCHEMAS).weight_capacity(CAPACITY);
        let cache = match options.build() {
            Ok(options) => Cache::with_options(options, ByText, hasher, lifecycle),
            // Only if one of them were not said.
            Err(_) => Cache::with(SCHEMAS, CAPACITY, ByText, hasher, lifecycle),
        };
        Self { judges, cache, loads: SharedLoads::new() }
    }

    /// Judges a message by the rules that these routes came with. Without `waits` its payload is compared with nothing, as if
    /// there had been no turn in time.
    pub(crate) async fn judge(
        &self,
        store: &dyn Store,
        environment: &EnvironmentId,
        routes: &Routes,
        message: &Message,
        waits: bool,
    ) -> Result<Verdict, SubmitError> {
        let rules = routes.rules;
        if rules.are_none() {
            return Ok(Verdict::Passes(Vec::new()));
        }
        let read = store.event_type(environment, message.event_type.as_str());
        let entry = self.entry(routes.rules_version, (environment.clone(), message.event_type.clone()), read).await?;
        if let Kind::Unknown = entry.kind {
            return Ok(match rules.unknown_event_types {
                UnknownEventTypes::Allow => Verdict::Passes(Vec::new()),
                UnknownEventTypes::Reject => Verdict::Refused(vec![Violation::unknown_event_type()]),
            });
        }
        if rules.schemas == SchemaEnforcement::Off {
            return Ok(Verdict::Passes(Vec::new()));
        }
        let Kind::Schema { version, text } = &entry.kind else { return Ok(Verdict::Passes(Vec::new())) };
        let tenant =
            Tenant { caller: Caller::Environment(environment.clone()), whose: Whose::Application(routes.application) };
        let payload = message.payload.clone().unwrap_or_default();
        let judgement = if waits { self.judges.compare(&tenant, text, &payload).await } else { Judgement::Busy };
        let warns = rules.schemas == SchemaEnforcement::Warn;
        let lenient = warns || self.judges.beyond_budget() == BeyondBudget::Pass;
        let (violations, passes) = match judgement {
            Judgement::Fits => (Vec::new(), true),
            Judgement::Differs(violations) => (violations, warns),
            Judgement::Unusable(problem) => (vec![Violation::unusable_schema(version, &problem)], warns),
            Judgement::TooCostly => (vec![Violation::too_costly()], lenient),
            Judgement::Busy if lenient => (vec![Violation::not_compared()], true),
            Judgement::Busy => return Err(SubmitError::NotCompared),
        };
        if !passes {
            return Ok(Verdict::Refused(violations));
        }
        warn(&entry, environment, message, &violations);
        Ok(Verdict::Passes(violations))
    }

    /// What is known of the event type under this version of the rules. What is read here is at least as new as they are;
    /// if it is newer, the accept commit refuses the routes that they came with. It is read once for all who want it at the
    /// same time.
    async fn entry(
        &self,
        version: i64,
        name: Name,
        read: impl Future<Output = Result<Option<EventType>, StoreError>>,
    ) -> Result<Arc<Entry>, StoreError> {
        if let Some(entry) = self.known(version, &name) {
            return Ok(entry);
        }
        let load = async {
            if let Some(entry) = self.known(version, &name) {
                return Ok(entry);
            }
            let kind = match read.await?.filter(|event_type| !event_type.archived) {
                None => Kind::Unknown,
                Some(event_type) => match event_type.newest_version() {
                    None => Kind::Free,
                    Some((version, schema)) => Kind::Schema { version: version.into(), text: schema.get().into() },
                },
            };
            let entry = Arc::new(Entry { version, kind, logged_at: AtomicI64::new(i64::MIN) });
            self.cache.insert(name.clone(), Arc::clone(&entry));
            Ok(entry)
        };
        self.loads.get(&name, std::future::ready(()), load).await
    }

    fn known(&self, version: i64, name: &Name) -> Option<Arc<Entry>> {
        self.cache.get(name).filter(|entry| entry.version == version)
    }
}

impl Entry {
    /// Whether something may be written about the event type again.
    fn may_be_logged(&self, now: Timestamp) -> bool {
        let pause = i64::try_from(LOG_PAUSE.as_micros()).unwrap_or(i64::MAX);
        let last = self.logged_at.load(Ordering::Relaxed);
        let due = now.as_micros().saturating_sub(pause) >= last;
        due && self.logged_at.compare_exchange(last, now.as_micros(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Writes about an event type now and then. Of the message nothing is said but how much is wrong with it.
fn warn(entry: &Entry, environment: &EnvironmentId, message: &Message, violations: &[Violation]) {
    if !violations.is_empty() && entry.may_be_logged(message.created_at) {
        tracing::warn!(
            %environment,
            event_type = %message.event_type,
            message_id = %message.id,
            violations = violations.len(),
            "messages do not match the schema of their event type; they are accepted all the same"
        );
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::join_all;
    use postrider_domain::event_type::Schemas;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::judge::{Place, SchemaOptions};

    #[tokio::test]
    async fn a_thousand_messages_after_a_change_read_their_event_type_once_and_share_it() {
        let rules = RuleCache::new(Judges::new(Place::Threads, SchemaOptions::default()));
        let name = (EnvironmentId::default_environment(), EventTypeName::from_trusted("a".to_owned()));
        let (reads, open) = (std::cell::Cell::new(0), &Semaphore::new(0));
        let schema = serde_json::value::to_raw_value(&"x".repeat(1 << 20)).unwrap();
        let event_type = EventType {
            name: name.1.clone(),
            description: String::new(),
            archived: false,
            deprecated: false,
            schemas: Some(Schemas::from([("1".to_owned(), schema)])),
            feature_flag: None,
            group_name: None,
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
        };
        let (reads, event_type) = (&reads, &event_type);
        for version in [1, 2] {
            let entry = |version| {
                rules.entry(version, name.clone(), async move {
                    reads.set(reads.get() + 1);
                    open.acquire().await.unwrap().forget();
                    Ok(Some(event_type.clone()))
                })
            };
            let mut all = Box::pin(join_all((0..1_000).map(|_| entry(version))));
            assert!(all.as_mut().now_or_never().is_none());
            open.add_permits(1_000);
            let entries: Vec<_> = all.await.into_iter().map(Result::unwrap).collect();
            open.forget_permits(1_000);
            assert!(entries.iter().all(|entry| entry.version == version && Arc::ptr_eq(entry, &entries[0])));
        }
        assert_eq!(reads.get(), 2);
    }
}
