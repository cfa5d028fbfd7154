//! The operations of the store, one by one, handed to the store below through [`Stormy::call`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use postrider_domain::application::{Application, ApplicationPatch, EnvironmentId};
use postrider_domain::attempt::Attempt;
use postrider_domain::delivery::Hold;
use postrider_domain::endpoint::{Endpoint, EndpointPatch, Headers, Health};
use postrider_domain::environment::{EnvironmentSettings, EnvironmentSettingsPatch};
use postrider_domain::event_type::{EventType, EventTypePatch};
use postrider_domain::headers::HeaderChanges;
use postrider_domain::ids::{ApplicationId, AttemptId, EndpointId, KeyId, Ksuid, MessageId, TaskId};
use postrider_domain::message::Message;
use postrider_domain::names::{EventTypeName, IdOrUid};
use postrider_domain::signature::{Secret, SigningKeys};
use postrider_domain::task::Task;
use postrider_domain::time::Timestamp;
use postrider_store::*;

use crate::store::Stormy;

macro_rules! delegate {
    ($area:ident $($name:ident($($argument:ident: $kind:ty),*) -> $result:ty;)*) => {
        #[async_trait]
        impl $area for Stormy {
            $(async fn $name(&self, $($argument: $kind),*) -> $result {
                self.call(stringify!($name), self.below.$name($($argument),*)).await
            })*
        }
    };
    // What is noted on its way.
    ($area:ident { $($noted:tt)* } $($name:ident($($argument:ident: $kind:ty),*) -> $result:ty;)*) => {
        #[async_trait]
        impl $area for Stormy {
            $($noted)*
            $(async fn $name(&self, $($argument: $kind),*) -> $result {
                self.call(stringify!($name), self.below.$name($($argument),*)).await
            })*
        }
    };
}

#[async_trait]
impl Store for Stormy {
    async fn ping(&self) -> Result<(), StoreError> {
        self.call("ping", self.below.ping()).await
    }

    fn observe(&self, observer: Arc<dyn Observer>) {
        self.relay.add(observer);
    }

    async fn close(&self) {}
}

delegate! {
    Work {
        async fn accept(&self, batch: Vec<NewMessage>) -> Vec<Result<Accepted, AcceptError>> {
            self.accept_noted(batch).await
        }

        async fn settle(&self, batch: Vec<Settlement>) -> Result<Vec<Unstorable>, StoreError> {
            self.settle_noted(batch).await
        }

        async fn resend(
            &self,
            endpoint: EndpointKey,
            message: MessageKey,
            now: Timestamp,
            once: Option<Once<Resent>>,
        ) -> Result<Written<Resent>, ResendError> {
            self.resend_noted(endpoint, message, now, once).await
        }

        async fn due(
            &self,
            endpoint: EndpointKey,
            now: Timestamp,
            after: Option<DeliveryKey>,
            held: HashSet<DeliveryKey>,
            limit: usize,
            max_bytes: usize,
        ) -> Result<DueSlice, StoreError> {
            self.note_load(endpoint).await;
            self.call("due", self.below.due(endpoint, now, after, held, limit, max_bytes)).await
        }
    }
    routes(environment: &EnvironmentId, application: &IdOrUid<ApplicationId>) -> Result<Option<Routes>, StoreError>;
    target(endpoint: EndpointKey) -> Result<Option<Target>, StoreError>;
    accepted_under(application: ApplicationKey, key: IdempotencyKey, not_before: Timestamp) -> Result<Option<Message>, StoreError>;
    take_wakes(now: Timestamp, limit: usize) -> Result<Wakes, StoreError>;
    park(endpoint: EndpointKey, after: Timestamp) -> Result<Option<Timestamp>, StoreError>;
    hold(endpoint: EndpointKey, hold: Hold, receiver: Option<u64>) -> Result<bool, StoreError>;
    holds() -> Result<Vec<(EndpointKey, Hold)>, StoreError>;
    hold_of(endpoint: EndpointKey) -> Result<Option<Hold>, StoreError>;
    wake_later(endpoints: Vec<EndpointKey>, at: Timestamp) -> Result<(), StoreError>;
    pull_in(now: Timestamp, longest: Duration) -> Result<u64, StoreError>;
    rebuild_wakes() -> Result<u64, StoreError>;
    cancel_deliveries(endpoint: EndpointKey, limit: usize) -> Result<usize, StoreError>;
    forget_keys(before: Timestamp, limit: usize) -> Result<bool, StoreError>;
    health(endpoint: EndpointKey) -> Result<Option<Health>, StoreError>;
    backlog(endpoint: EndpointKey, limit: usize) -> Result<usize, StoreError>;
}

delegate! {
    Applications
    create_application(environment: &EnvironmentId, application: Application, once: Option<Once<Application>>) -> Result<Written<Application>, WriteError>;
    application(environment: &EnvironmentId, id: &IdOrUid<ApplicationId>) -> Result<Option<Stored<ApplicationKey, Application>>, StoreError>;
    applications(environment: &EnvironmentId, filter: ApplicationFilter, scan: Scan<Ksuid>) -> Result<Walked<Application>, StoreError>;
    update_application(environment: &EnvironmentId, id: &IdOrUid<ApplicationId>, patch: ApplicationPatch, now: Timestamp) -> Result<Application, WriteError>;
    upsert_application(environment: &EnvironmentId, id: &IdOrUid<ApplicationId>, patch: ApplicationPatch, otherwise: Application, now: Timestamp) -> Result<Upserted<Application>, WriteError>;
    delete_application(environment: &EnvironmentId, id: &IdOrUid<ApplicationId>, now: Timestamp) -> Result<(), WriteError>;
}

delegate! {
    Endpoints
    create_endpoint(application: ApplicationKey, new: NewEndpoint, once: Option<Once<Endpoint>>) -> Result<Written<Endpoint>, WriteError>;
    endpoint(application: ApplicationKey, id: &IdOrUid<EndpointId>) -> Result<Option<Stored<EndpointKey, Endpoint>>, StoreError>;
    endpoints(application: ApplicationKey, scan: Scan<Ksuid>) -> Result<Listed<Endpoint>, StoreError>;
    update_endpoint(application: ApplicationKey, id: &IdOrUid<EndpointId>, patch: EndpointPatch, now: Timestamp) -> Result<Endpoint, WriteError>;
    upsert_endpoint(application: ApplicationKey, id: &IdOrUid<EndpointId>, patch: EndpointPatch, otherwise: NewEndpoint, now: Timestamp) -> Result<Upserted<Endpoint>, WriteError>;
    delete_endpoint(application: ApplicationKey, id: &IdOrUid<EndpointId>, now: Timestamp) -> Result<(), WriteError>;
    signing_keys(endpoint: EndpointKey) -> Result<Option<SigningKeys>, StoreError>;
    rotate_secret(endpoint: EndpointKey, next: Secret, grace_until: Timestamp, now: Timestamp, once: Option<Once<Secret>>) -> Result<Written<Secret>, RotateError>;
    headers(endpoint: EndpointKey) -> Result<Option<Headers>, StoreError>;
    set_headers(endpoint: EndpointKey, headers: Headers, now: Timestamp) -> Result<(), WriteError>;
    merge_headers(endpoint: EndpointKey, changes: HeaderChanges, now: Timestamp) -> Result<(), ChangeHeadersError>;
}

delegate! {
    EventTypes
    create_event_type(environment: &EnvironmentId, most: u64, event_type: EventType, once: Option<Once<EventType>>) -> Result<Written<EventType>, WriteError>;
    event_type(environment: &EnvironmentId, name: &str) -> Result<Option<EventType>, StoreError>;
    event_types(environment: &EnvironmentId, filter: &EventTypeFilter, scan: Scan<String>) -> Result<Walked<EventType, String>, StoreError>;
    all_event_types(environment: &EnvironmentId, filter: &EventTypeFilter, most: u64) -> Result<Option<Vec<EventType>>, StoreError>;
    missing_event_types(environment: &EnvironmentId, names: &[EventTypeName], feature_flags: Option<&[String]>) -> Result<Vec<EventTypeName>, StoreError>;
    update_event_type(environment: &EnvironmentId, name: &str, patch: EventTypePatch, now: Timestamp) -> Result<EventType, WriteError>;
    upsert_event_type(environment: &EnvironmentId, most: u64, name: &str, patch: EventTypePatch, otherwise: EventType, now: Timestamp) -> Result<Upserted<EventType>, WriteError>;
    delete_event_type(environment: &EnvironmentId, name: &str, expunge: bool, now: Timestamp) -> Result<(), WriteError>;
}

delegate! {
    Environments
    environment_settings(environment: &EnvironmentId) -> Result<EnvironmentSettings, StoreError>;
    update_environment_settings(environment: &EnvironmentId, patch: EnvironmentSettingsPatch, now: Timestamp) -> Result<EnvironmentSettings, StoreError>;
    import(environment: &EnvironmentId, import: Import, now: Timestamp, once: Option<Once<Vec<EventTypeName>>>) -> Result<Written<Vec<EventTypeName>>, WriteError>;
}

delegate! {
    Messages
    message(application: ApplicationKey, id: &IdOrUid<MessageId>, with_payload: bool) -> Result<Option<Stored<MessageKey, Message>>, StoreError>;
    messages(application: ApplicationKey, filter: &MessageFilter, scan: Scan<Ksuid>) -> Result<Walked<Message>, StoreError>;
    expunge_message(message: MessageKey) -> Result<(), StoreError>;
    expunge_messages(application: ApplicationKey, ids: Vec<IdOrUid<MessageId>>) -> Result<Vec<bool>, StoreError>;
}

delegate! {
    Attempts
    attempts_by_endpoint(endpoint: EndpointKey, filter: &AttemptFilter, scan: Scan<Ksuid>) -> Result<Walked<Attempt>, StoreError>;
    attempts_by_message(message: MessageKey, endpoint: Option<EndpointKey>, filter: &AttemptFilter, scan: Scan<Ksuid>) -> Result<Walked<Attempt>, StoreError>;
    attempt(application: ApplicationKey, message: MessageKey, id: AttemptId) -> Result<Option<Attempt>, StoreError>;
    expunge_attempt(message: MessageKey, id: AttemptId) -> Result<(), WriteError>;
    attempt_stats(endpoint: EndpointKey, from: Ksuid, to: Ksuid) -> Result<AttemptStats, StoreError>;
}

delegate! {
    Attempted
    attempted_messages(application: ApplicationKey, endpoint: EndpointKey, filter: &AttemptedFilter, scan: Scan<Ksuid>) -> Result<Walked<AttemptedMessage>, StoreError>;
    destinations(message: MessageKey, scan: Scan<Ksuid>) -> Result<Walked<Destination>, StoreError>;
}

delegate! {
    ApiKeys
    create_api_key(key: ApiKey) -> Result<(), WriteError>;
    api_key(hash: &KeyHash) -> Result<Option<ApiKey>, StoreError>;
    api_keys() -> Result<Vec<ApiKey>, StoreError>;
    revoke_api_key(id: KeyId) -> Result<(), WriteError>;
    touch_api_keys(used: Vec<(KeyHash, Timestamp)>) -> Result<(), StoreError>;
}

delegate! {
    Tokens
    token_secret(candidate: [u8; 32]) -> Result<[u8; 32], StoreError>;
    expire_tokens(application: ApplicationKey, expiry: TokenExpiry, once: Option<Once<()>>, now: Timestamp) -> Result<Written<()>, WriteError>;
    token_is_expired(token: &IssuedToken, now: Timestamp) -> Result<bool, StoreError>;
}

delegate! {
    Streams
    stream_beginning(endpoint: EndpointKey) -> Result<StreamPosition, StoreError>;
    stream(application: ApplicationKey, filters: Vec<StreamFilter>, from: StreamPosition, limit: usize) -> Result<StreamSlice, StoreError>;
    stream_position(endpoint: EndpointKey, reader: &str) -> Result<Option<StreamPosition>, StoreError>;
    begin_stream(endpoint: EndpointKey, reader: &str, beginning: StreamPosition, now: Timestamp) -> Result<StreamPosition, WriteError>;
    set_stream_position(endpoint: EndpointKey, reader: &str, position: StreamPosition, now: Timestamp) -> Result<StreamPosition, WriteError>;
}

delegate! {
    Outbox
    notices(turn: NoticeTurn) -> Result<Vec<Notice>, StoreError>;
    remove_notices(notices: Vec<NoticeKey>) -> Result<(), StoreError>;
}

delegate! {
    Tasks {
        async fn advance_task(&self, id: TaskId, rows: usize, now: Timestamp) -> Result<Advanced, StoreError> {
            self.advance_noted(id, rows, now).await
        }
    }
    create_task(new: NewTask, once: Option<Once<Task>>) -> Result<Written<Task>, TaskError>;
    task(environment: &EnvironmentId, id: TaskId) -> Result<Option<Task>, StoreError>;
    task_of(application: ApplicationKey, id: TaskId) -> Result<Option<Task>, StoreError>;
    tasks(environment: &EnvironmentId, filter: TaskFilter, scan: Scan<Ksuid>) -> Result<Walked<Task>, StoreError>;
    running_tasks(limit: usize) -> Result<Vec<RunningTask>, StoreError>;
    fail_task(id: TaskId, problem: &str, now: Timestamp) -> Result<(), StoreError>;
    forget_tasks(before: Timestamp, limit: usize) -> Result<usize, StoreError>;
}

delegate! {
    Retention {
        fn believed(&self, now: Timestamp) -> Timestamp {
            self.below.believed(now)
        }
    }
    sweep_payloads(now: Timestamp, kept: Duration, rows: usize) -> Result<Swept, StoreError>;
    sweep_messages(now: Timestamp, kept: Duration, rows: usize) -> Result<Swept, StoreError>;
    erase_deleted(now: Timestamp, rows: usize) -> Result<Swept, StoreError>;
    forget_urls(before: Timestamp, rows: usize) -> Result<Swept, StoreError>;
    forget_leftovers(before: Timestamp, rows: usize) -> Result<usize, StoreError>;
    clock_seen() -> Result<Option<ClockSeen>, StoreError>;
    note_clock(now: Timestamp, keys: Timestamp) -> Result<(), StoreError>;
    note_doubt(seen: ClockSeen) -> Result<(), StoreError>;
}
