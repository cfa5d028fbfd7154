//! What happened: messages and attempts in lists, expunged, sent again by background tasks.

use chrono::{TimeDelta, Utc};
use serde_json::json;
use svix::api::{
    BackgroundTaskListOptions, EndpointGetStatsOptions, MessageAttemptListAttemptedDestinationsOptions,
    MessageAttemptListAttemptedMessagesOptions, MessageAttemptListByEndpointOptions, MessageGetOptions,
    MessageListOptions,
};
use svix::models::*;

use crate::support::*;

const UNKNOWN_MESSAGE: &str = "msg_000000000000000000000000000";

pub async fn messages_are_listed_by_every_filter() {
    let sdk = sdk();
    let owner = app(|_| ()).await;
    let plain = message(&owner, |_| ()).await;
    let eu = message(&owner, |message| {
        message.event_type = "b".into();
        message.channels = Some(set(["eu"]));
    })
    .await;
    let tagged = message(&owner, |message| {
        message.event_type = "c".into();
        message.tags = Some(set(["red"]));
    })
    .await;
    let list = async |options| sdk.message().list(owner.id.clone(), Some(options)).await.unwrap();
    let all = MessageListOptions::default;
    for (options, expected) in [
        (all(), vec![&tagged, &eu, &plain]),
        (MessageListOptions { event_types: Some(set(["a", "b"])), ..all() }, vec![&eu, &plain]),
        (MessageListOptions { channel: Some("eu".into()), ..all() }, vec![&eu]),
        (MessageListOptions { tag: Some("red".into()), ..all() }, vec![&tagged]),
        (MessageListOptions { before: Some(tagged.timestamp), ..all() }, vec![&eu, &plain]),
        (MessageListOptions { after: Some(eu.timestamp), ..all() }, vec![&tagged, &eu]),
        (MessageListOptions { after: Some(eu.timestamp), before: Some(tagged.timestamp), ..all() }, vec![&eu]),
    ] {
        assert_eq!(list(options).await.data.iter().collect::<Vec<_>>(), expected);
    }
    let page = list(MessageListOptions { limit: Some(2), ..all() }).await;
    assert_eq!((page.data.as_slice(), page.done), (&[tagged.clone(), eu.clone()][..], false));
    let rest = list(MessageListOptions { limit: Some(2), iterator: page.iterator, ..all() }).await;
    assert_eq!((rest.data.as_slice(), rest.done), (&[plain][..], true));
    let back = list(MessageListOptions { limit: Some(2), iterator: rest.prev_iterator, ..all() }).await;
    assert_eq!((back.data.as_slice(), back.done), (&[tagged.clone(), eu][..], true));
    assert_eq!(tagged.tags, Some(set(["red"])));
}

pub async fn a_message_waits_until_it_is_to_be_delivered() {
    let (sdk, mut receiver) = (sdk(), Receiver::start().await);
    let owner = app(|_| ()).await;
    endpoint(&owner, &receiver.url, |_| ()).await;
    let at = chrono::DateTime::from_timestamp(Utc::now().timestamp() + 300, 0);
    let waiting = message(&owner, |message| message.deliver_at = at).await;
    assert_eq!(waiting.deliver_at, at);
    let got = sdk.message().get(owner.id.clone(), waiting.id.clone(), None).await.unwrap();
    assert_eq!(got.deliver_at, at);
    let now = message(&owner, |_| ()).await;
    assert_eq!(receiver.ids(1).await, [&*now.id]);
    attempts(&owner, &now, 1, |_| ()).await;
    assert!(attempts(&owner, &waiting, 0, |_| ()).await.is_empty());
    assert!(receiver.is_empty());
}

pub async fn payloads_are_expunged() {
    let (sdk, mut receiver) = (sdk(), Receiver::start().await);
    let owner = app(|_| ()).await;
    let id = || owner.id.clone();
    let target = endpoint(&owner, &receiver.url, |_| ()).await;
    let mut sent = Vec::new();
    for n in 0..4 {
        let made = message(&owner, |message| {
            message.payload = json!({ "n": n });
            message.payload_retention_period = Some(5);
        });
        sent.push(made.await.id);
    }
    receiver.ids(4).await;
    let payloads = async || {
        let mut found = Vec::new();
        for one in &sent {
            let whole = Some(MessageGetOptions { with_content: Some(true) });
            found.push(sdk.message().get(id(), one.clone(), whole).await.unwrap().payload);
        }
        found
    };
    let (gone, n) = (json!({ "expired": true }), |n| json!({ "n": n }));
    assert_eq!(payloads().await, [n(0), n(1), n(2), n(3)]);
    sdk.message().expunge_content(id(), sent[0].clone()).await.unwrap();
    assert_eq!(payloads().await, [gone.clone(), n(1), n(2), n(3)]);
    let resent = sdk.message_attempt().resend(id(), sent[0].clone(), target.id.clone(), None).await;
    assert_refused(resent, 400, "missing_payload");
    let bulk = with(BulkExpungeContentsIn::new(), |bulk| {
        bulk.ids = Some([sent[1].clone(), UNKNOWN_MESSAGE.to_owned()].into_iter().collect());
    });
    let results = sdk.message().bulk_expunge_content(id(), bulk, None).await.unwrap().results;
    assert_eq!(results[&sent[1]], BulkExpungeStatus::Expunged);
    assert_eq!(results[UNKNOWN_MESSAGE], BulkExpungeStatus::NotFound);
    assert_eq!(payloads().await, [gone.clone(), gone.clone(), n(2), n(3)]);
    let of = sdk.message().get(id(), sent[2].clone(), None).await.unwrap();
    let attempt = attempts(&owner, &of, 1, |_| ()).await.swap_remove(0).id;
    sdk.message_attempt().expunge_content(id(), of.id.clone(), attempt.clone()).await.unwrap();
    assert_eq!(sdk.message_attempt().get(id(), of.id, attempt, None).await.unwrap().response, "EXPUNGED");
    let task = sdk.message().expunge_all_contents(id(), None).await.unwrap();
    assert_eq!(task.task, BackgroundTaskType::ApplicationPurgeContent);
    finished(&task.id).await;
    assert_eq!(payloads().await, vec![gone; 4]);
}

pub async fn attempts_are_listed_by_every_filter() {
    let (sdk, mut receiver, mut other) = (sdk(), Receiver::start().await, Receiver::start().await);
    let owner = app(|_| ()).await;
    let target = endpoint(&owner, &receiver.url, |_| ()).await;
    let second = endpoint(&owner, &other.url, |endpoint| endpoint.channels = Some(set(["eu"]))).await;
    receiver.answer([404, 500]);
    let failing = message(&owner, |message| message.tags = Some(set(["red"]))).await;
    receiver.ids(3).await;
    attempts(&owner, &failing, 3, |_| ()).await;
    let eu = message(&owner, |message| {
        message.event_type = "b".into();
        message.channels = Some(set(["eu"]));
    })
    .await;
    receiver.ids(1).await;
    other.next().await;
    attempts(&owner, &eu, 2, |_| ()).await;
    let list = async |options| {
        let attempts = sdk.message_attempt();
        attempts.list_by_endpoint(owner.id.clone(), target.id.clone(), Some(options)).await.unwrap().data
    };
    type Options = MessageAttemptListByEndpointOptions;
    let all = Options::default;
    let every = list(all()).await;
    for (options, expected) in [
        (all(), vec![200, 200, 500, 404]),
        (Options { status: Some(MessageStatus::Fail), ..all() }, vec![500, 404]),
        (Options { status: Some(MessageStatus::Success), ..all() }, vec![200, 200]),
        (Options { status_code_class: Some(StatusCodeClass::Code4xx), ..all() }, vec![404]),
        (Options { event_types: Some(set(["a"])), ..all() }, vec![200, 500, 404]),
        (Options { channel: Some("eu".into()), ..all() }, vec![200]),
        (Options { tag: Some("red".into()), ..all() }, vec![200, 500, 404]),
        (Options { tag: Some("red".into()), status: Some(MessageStatus::Fail), limit: Some(1), ..all() }, vec![500]),
        (Options { before: Some(every[1].timestamp), ..all() }, vec![500, 404]),
        (Options { after: Some(every[1].timestamp), ..all() }, vec![200, 200]),
        (Options { iterator: Some(every[2].id.clone()), ..all() }, vec![404]),
    ] {
        assert_eq!(codes(&list(options).await), expected);
    }
    let with_msg = list(Options { with_msg: Some(true), ..all() }).await;
    let of: Vec<_> = with_msg.into_iter().map(|one| one.msg.unwrap().id).collect();
    assert_eq!(of, [&eu.id, &failing.id, &failing.id, &failing.id].map(String::clone));
    let bare = attempts(&owner, &failing, 3, |options| options.with_content = Some(false)).await;
    assert_eq!(bare[0].response, "{}");
    let of_one = attempts(&owner, &eu, 1, |options| options.endpoint_id = Some(second.id.clone())).await;
    assert_eq!((&of_one[0].endpoint_id, &of_one[0].url), (&second.id, &other.url));
    let since = EndpointGetStatsOptions { since: Some(Utc::now() - TimeDelta::days(1)), until: Some(Utc::now()) };
    let stats = sdk.endpoint().get_stats(owner.id.clone(), target.id.clone(), Some(since)).await.unwrap();
    assert_eq!((stats.success, stats.fail), (2, 2));
    let counted = sdk.endpoint().get_attempt_stats(owner.id.clone(), target.id.clone(), None).await.unwrap();
    assert_eq!((counted.success, counted.fail, counted.canceled), (2, 2, 0));
}

pub async fn attempted_messages_and_destinations_are_listed() {
    let (sdk, mut receiver) = (sdk(), Receiver::start().await);
    let owner = app(|_| ()).await;
    let target = endpoint(&owner, &receiver.url, |_| ()).await;
    let good = message(&owner, |message| {
        message.channels = Some(set(["eu"]));
        message.tags = Some(set(["red"]));
        message.payload = json!({ "n": 1 });
    })
    .await;
    receiver.ids(1).await;
    attempts(&owner, &good, 1, |_| ()).await;
    receiver.answer([500; 4]);
    let bad = message(&owner, |message| message.event_type = "b".into()).await;
    receiver.ids(4).await;
    attempts(&owner, &bad, 4, |_| ()).await;
    let list = async |options| {
        let attempts = sdk.message_attempt();
        attempts.list_attempted_messages(owner.id.clone(), target.id.clone(), Some(options)).await.unwrap().data
    };
    type Options = MessageAttemptListAttemptedMessagesOptions;
    let all = Options::default;
    let both = list(Options { with_content: Some(true), ..all() }).await;
    assert_eq!(
        (&both[0].id, both[0].status, both[0].status_text),
        (&bad.id, MessageStatus::Fail, MessageStatusText::Fail)
    );
    assert_eq!((&both[1].id, both[1].status, &both[1].payload), (&good.id, MessageStatus::Success, &json!({ "n": 1 })));
    for (options, expected) in [
        (Options { status: Some(MessageStatus::Success), ..all() }, vec![&good]),
        (Options { status: Some(MessageStatus::Fail), ..all() }, vec![&bad]),
        (Options { status: Some(MessageStatus::Sending), ..all() }, vec![]),
        (Options { status: Some(MessageStatus::Pending), ..all() }, vec![]),
        (Options { channel: Some("eu".into()), ..all() }, vec![&good]),
        (Options { tag: Some("red".into()), ..all() }, vec![&good]),
        (Options { event_types: Some(set(["b"])), ..all() }, vec![&bad]),
        (Options { before: Some(bad.timestamp), ..all() }, vec![&good]),
        (Options { after: Some(bad.timestamp), ..all() }, vec![&bad]),
        (Options { limit: Some(1), ..all() }, vec![&bad]),
        (Options { iterator: Some(bad.id.clone()), ..all() }, vec![&good]),
    ] {
        let found: Vec<_> = list(options).await.into_iter().map(|one| one.id).collect();
        assert_eq!(found, expected.into_iter().map(|one| one.id.clone()).collect::<Vec<_>>());
    }
    let second = endpoint(&owner, &format!("{}second", receiver.url), |_| ()).await;
    sdk.message_attempt().resend(owner.id.clone(), good.id.clone(), second.id.clone(), None).await.unwrap();
    receiver.next().await;
    attempts(&owner, &good, 2, |_| ()).await;
    let places = async |limit| {
        let options = MessageAttemptListAttemptedDestinationsOptions { limit, iterator: None };
        let attempts = sdk.message_attempt();
        attempts.list_attempted_destinations(owner.id.clone(), good.id.clone(), Some(options)).await.unwrap()
    };
    let all = places(None).await.data;
    assert_eq!([&all[0].id, &all[1].id], [&target.id, &second.id]);
    assert_eq!((&all[1].url, all[1].status), (&second.url, MessageStatus::Success));
    let one = places(Some(1)).await;
    assert_eq!((one.data.len(), one.done), (1, false));
}

pub async fn what_failed_is_recovered() {
    let (sdk, mut receiver) = (sdk(), Receiver::start().await);
    let endpoints = sdk.endpoint();
    let owner = app(|_| ()).await;
    let id = || owner.id.clone();
    let target = endpoint(&owner, &receiver.url, |_| ()).await;
    receiver.answer([500; 8]);
    let failed = [message(&owner, |_| ()).await, message(&owner, |message| message.event_type = "b".into()).await];
    receiver.ids(8).await;
    for one in &failed {
        attempts(&owner, one, 4, |_| ()).await;
    }
    let mut both = failed.clone().map(|one| one.id);
    both.sort();
    let (since, secret) = (failed[0].timestamp - TimeDelta::minutes(1), secret_of(&owner, &target.id).await);
    let task = endpoints.recover(id(), target.id.clone(), RecoverIn::new(since), None).await.unwrap();
    assert_eq!(task.task, BackgroundTaskType::EndpointRecover);
    let arrived = [receiver.next().await, receiver.next().await];
    arrived.iter().for_each(|delivery| delivery.assert_verifies(&secret));
    let mut found = arrived.map(|delivery| delivery.header("webhook-id").to_owned());
    found.sort();
    assert_eq!(found, both);
    assert_eq!(finished(&task.id).await.task, task.task);
    for one in &failed {
        assert_eq!(attempts(&owner, one, 5, |_| ()).await[0].trigger_type, MessageAttemptTriggerType::Manual);
    }

    let late = endpoint(&owner, &format!("{}late", receiver.url), |_| ()).await;
    let task = endpoints.replay_missing(id(), late.id.clone(), ReplayIn::new(since), None).await.unwrap();
    assert_eq!(task.task, BackgroundTaskType::EndpointReplay);
    assert_eq!(receiver.ids(2).await, both);
    finished(&task.id).await;
    // What was received counts as sent when its attempt is in the log.
    attempts(&owner, &failed[1], 6, |_| ()).await;
    let only = with(BulkReplayIn::new(since), |only| only.event_types = Some(set(["b"])));
    let task = endpoints.bulk_replay(id(), late.id, only, None).await.unwrap();
    assert_eq!(task.task, BackgroundTaskType::EndpointBulkReplay);
    assert_eq!(receiver.ids(1).await, [&*failed[1].id]);
    finished(&task.id).await;
    assert!(receiver.is_empty());
    let recovers = BackgroundTaskListOptions { task: Some(BackgroundTaskType::EndpointRecover), ..Default::default() };
    let listed = sdk.background_task().list(Some(recovers)).await.unwrap().data;
    assert_eq!(listed.iter().map(|one| one.status).collect::<Vec<_>>(), [BackgroundTaskStatus::Finished]);
    let unknown = sdk.background_task().get("qtask_000000000000000000000000000".into()).await;
    assert_refused(unknown, 404, "not_found");
    let early = RecoverIn::new(since - TimeDelta::days(30));
    assert_invalid(endpoints.recover(id(), target.id, early, None).await);
}

pub async fn usage_is_counted() {
    let (sdk, mut receiver) = (sdk(), Receiver::start().await);
    let owner = app(|app| app.uid = Some("busy".into())).await;
    endpoint(&owner, &receiver.url, |_| ()).await;
    message(&owner, |_| ()).await;
    receiver.ids(1).await;
    let asked = with(AppUsageStatsIn::new(Utc::now() - TimeDelta::days(1), Utc::now()), |asked| {
        asked.app_ids = Some(set(["busy", "nobody"]));
    });
    let task = sdk.statistics().aggregate_app_stats(asked, None).await.unwrap();
    assert_eq!(task.task, BackgroundTaskType::ApplicationStats);
    assert_eq!(task.unresolved_app_ids.into_iter().collect::<Vec<_>>(), ["nobody"]);
    finished(&task.id).await;
    let task = sdk.statistics().aggregate_event_types().await.unwrap();
    assert_eq!(task.task, BackgroundTaskType::EventTypeAggregate);
    finished(&task.id).await;
}
