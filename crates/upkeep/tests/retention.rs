//! The sweeper on a store, with a clock that only the test moves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::entropy::OsEntropy;
use postrider_domain::ids::{ApplicationId, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::{EventTypeName, IdOrUid};
use postrider_domain::time::Timestamp;
use postrider_store::{Accepted, Applications as _, Messages as _, NewMessage, Work as _};
use postrider_store_sqlite::{Ownership, SqliteStore};
use postrider_testkit::{ManualClock, wait};
use postrider_upkeep::{RetentionOptions, Sweeper};

const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);
const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_payload_is_gone_within_the_hour_and_not_before_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&folder.path().join("test.db"), Ownership::Owner).unwrap());
    let environment = EnvironmentId::parse("org_test").unwrap();
    let id = ApplicationId::new(NOW, &OsEntropy);
    let application = Application {
        id,
        uid: None,
        name: "test".to_owned(),
        throttle_rate: None,
        metadata: BTreeMap::new(),
        created_at: NOW,
        updated_at: NOW,
    };
    store.create_application(&environment, application, None).await.unwrap();
    let routes = store.routes(&environment, &IdOrUid::Id(id)).await.unwrap().unwrap();
    let accept = async |expires_at| {
        let message = Arc::new(Message {
            id: MessageId::new(NOW, &OsEntropy),
            event_id: None,
            event_type: EventTypeName::parse("a").unwrap(),
            channels: None,
            payload: Some(Bytes::from_static(b"{}")),
            tags: None,
            deliver_at: None,
            expires_at,
            created_at: NOW,
        });
        let id = message.id;
        let new = NewMessage {
            application: routes.application,
            version: routes.version,
            message,
            endpoints: Vec::new(),
            idempotency: None,
        };
        assert!(matches!(store.accept(vec![new]).await[0], Ok(Accepted::New(_))));
        id
    };
    let (usual, short) = (accept(None).await, accept(Some(NOW.saturating_add(DAY))).await);
    let has_payload = async |id| {
        let message = store.message(routes.application, &IdOrUid::Id(id)).await.unwrap().unwrap();
        message.value.payload.is_some()
    };

    let clock = Arc::new(ManualClock::new(NOW));
    let sweeper = Sweeper::new(Arc::clone(&store) as _, Arc::clone(&clock) as _, RetentionOptions::default());
    // Right before its time, and an hour after it.
    for (message, days) in [(short, 1), (usual, 90)] {
        clock.set(NOW.saturating_add(DAY * days).saturating_sub(Duration::from_micros(1)));
        assert_eq!(sweeper.sweep().await.unwrap(), 0);
        assert!(has_payload(message).await);
        clock.advance(Duration::from_micros(1));
        assert_eq!(sweeper.sweep().await.unwrap(), 1);
        assert!(!has_payload(message).await);
    }

    // The agent comes by often enough.
    let gone =
        async |message| wait::until("the payload to go", async || (!has_payload(message).await).then_some(())).await;
    let first = accept(Some(clock_after(&clock, Duration::ZERO))).await;
    let agent = tokio::spawn(sweeper.run());
    gone(first).await;
    let last = accept(Some(clock_after(&clock, DAY))).await;
    clock.advance(DAY + Duration::from_secs(3_600));
    gone(last).await;
    agent.abort();
}

fn clock_after(clock: &ManualClock, wait: Duration) -> Timestamp {
    postrider_domain::clock::Clock::now(clock).saturating_add(wait)
}
