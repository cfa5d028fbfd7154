//! Cases for background tasks: what they do, in steps of any size, exactly once.

use std::collections::BTreeSet;
use std::time::Duration;

use postrider_domain::application::EnvironmentId;
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::Next;
use postrider_domain::endpoint::EndpointPatch;
use postrider_domain::ids::TaskId;
use postrider_domain::message::Message;
use postrider_domain::task::{Task, TaskKind, TaskStatus};
use postrider_domain::time::Timestamp;
use serde_json::{Value, json};

use super::Harness;
use super::recorder::{News, Recorder};
use super::world::{
    App, Ep, FAR, Msg, World, after, by_id, channel, done, environment, once, other_environment, stored_answer, tag,
    type_name,
};
use postrider_store::{
    Accepted, Direction, Job, MAX_ENDED_TASKS, MAX_RECOVERED, MAX_TASKS_OF_APPLICATION, MAX_TASKS_OF_ENVIRONMENT,
    MessageKey, NewTask, Outcome, ReplayFilter, Scan, Span, TaskError, TaskFilter, Written,
};

const ALWAYS: Span = Span { since: Timestamp::EPOCH, until: FAR };

async fn add<H: Harness>(world: &World<H>, job: Job) -> TaskId {
    try_add(world, &environment(), job).await.unwrap()
}

async fn try_add<H: Harness>(world: &World<H>, environment: &EnvironmentId, job: Job) -> Result<TaskId, TaskError> {
    let created_at = world.tick();
    let new = NewTask { id: world.task_id(created_at), environment: environment.clone(), job, created_at };
    Ok(done(world.store().create_task(new, None).await?).id)
}

async fn running<H: Harness>(world: &World<H>) -> Vec<TaskId> {
    world.store().running_tasks(10).await.unwrap().into_iter().map(|task| task.id).collect()
}

async fn read<H: Harness>(world: &World<H>, id: TaskId) -> Task {
    world.store().task(&environment(), id).await.unwrap().unwrap()
}

/// Takes a task to its end in steps of this size; returns what it says then.
async fn run<H: Harness>(world: &World<H>, id: TaskId, rows: usize) -> Value {
    for _ in 0..10_000 {
        if world.store().advance_task(id, rows, world.tick()).await.unwrap().status != TaskStatus::Running {
            let task = read(world, id).await;
            assert_eq!(task.status, TaskStatus::Finished);
            return task.data.into();
        }
    }
    panic!("the task does not end: {:?}", read(world, id).await);
}

/// Has all pending deliveries of an endpoint attempted.
async fn settle_all<H: Harness>(world: &World<H>, endpoint: &Ep, next: Next) {
    for due in world.due(endpoint, FAR).await {
        world.settle(world.settlement(endpoint, &due, next)).await;
    }
}

/// A message, and what came of each attempt to send it.
async fn sent<H: Harness>(world: &World<H>, app: &App, endpoint: &Ep, results: &[Next]) -> Msg {
    let message = world.message(app, &[endpoint]).await;
    for next in results {
        let due = world.due(endpoint, FAR).await.into_iter().find(|due| due.key.message == message.key).unwrap();
        world.settle(world.settlement(endpoint, &due, *next)).await;
    }
    message
}

/// The messages with a pending delivery of this kind, by message.
async fn pending<H: Harness>(world: &World<H>, endpoint: &Ep, trigger: Trigger) -> Vec<MessageKey> {
    let due = world.due(endpoint, FAR).await;
    let mut keys: Vec<_> = due.iter().filter(|due| due.trigger == trigger).map(|due| due.key.message).collect();
    keys.sort_unstable();
    keys
}

async fn disable<H: Harness>(world: &World<H>, app: &App, endpoint: &Ep, disabled: bool) {
    let patch = EndpointPatch { disabled: Some(disabled), ..EndpointPatch::default() };
    world.store().update_endpoint(app.key, &by_id(endpoint.value.id), patch, world.tick()).await.unwrap();
}

fn key(message: &Msg) -> MessageKey {
    message.key
}

pub(super) async fn a_task_is_created_once_and_shown_to_its_environment<H: Harness>(world: &World<H>) {
    let (store, idempotency) = (world.store(), world.idempotency_key());
    let recorder = Recorder::of(store.as_ref());
    let created_at = world.tick();
    let new = || NewTask {
        id: world.task_id(created_at),
        environment: environment(),
        job: Job::AggregateEventTypes,
        created_at,
    };
    let under = || Some(once(idempotency, Timestamp::EPOCH, "first"));
    let task = done(store.create_task(new(), under()).await.unwrap());
    assert_eq!(recorder.take(), [News::TaskAdded]);
    assert_eq!(store.create_task(new(), under()).await.unwrap(), Written::Replayed(stored_answer("first")));
    let want = Task {
        id: task.id,
        kind: TaskKind::AggregateEventTypes,
        status: TaskStatus::Running,
        data: serde_json::Map::new(),
        created_at,
        updated_at: created_at,
    };
    assert_eq!((&task, &read(world, task.id).await), (&want, &want));
    assert_eq!(running(world).await, [task.id]);
    assert!(store.task(&other_environment(), task.id).await.unwrap().is_none());
}

pub(super) async fn a_task_is_of_the_application_that_it_is_about<H: Harness>(world: &World<H>) {
    let (store, app, other) = (world.store(), world.application().await, world.application().await);
    let endpoint = world.endpoint(&app).await;
    for (job, is_of_app) in [
        (Job::Recover { endpoint: endpoint.key, span: ALWAYS }, true),
        (Job::PurgeContent { application: app.key }, true),
        (Job::AggregateEventTypes, false),
    ] {
        let task = add(world, job).await;
        let of_app = store.task_of(app.key, task).await.unwrap();
        assert_eq!(of_app, is_of_app.then_some(read(world, task).await));
        assert_eq!(store.task_of(other.key, task).await.unwrap(), None);
    }
}

pub(super) async fn lists_of_tasks_are_filtered_and_paged<H: Harness>(world: &World<H>) {
    let (store, app) = (world.store(), world.application().await);
    let purge = add(world, Job::PurgeContent { application: app.key }).await;
    let types = add(world, Job::AggregateEventTypes).await;
    let last = add(world, Job::AggregateEventTypes).await;
    run(world, types, 10).await;
    store.fail_task(last, "a test", world.tick()).await.unwrap();
    let list = async |environment: &EnvironmentId, filter, limit| {
        let page = Scan::all(Direction::Descending, limit);
        let tasks = store.tasks(environment, filter, page).await.unwrap().listed.rows;
        tasks.iter().map(|task| task.id).collect::<Vec<_>>()
    };
    let here = environment();
    let by = |kind: Option<TaskKind>, status| TaskFilter { kind: kind.map(Some), status };
    assert_eq!(list(&here, TaskFilter::default(), 10).await, [last, types, purge]);
    assert_eq!(list(&here, TaskFilter::default(), 2).await, [last, types]);
    assert_eq!(list(&here, by(Some(TaskKind::AggregateEventTypes), None), 10).await, [last, types]);
    assert_eq!(list(&here, by(None, Some(TaskStatus::Running)), 10).await, [purge]);
    assert_eq!(list(&here, by(Some(TaskKind::PurgeContent), Some(TaskStatus::Failed)), 10).await, []);
    assert_eq!(list(&here, by(None, Some(TaskStatus::Failed)), 10).await, [last]);
    assert_eq!(list(&here, TaskFilter { kind: Some(None), status: None }, 10).await, []);
    assert_eq!(list(&other_environment(), TaskFilter::default(), 10).await, []);
}

pub(super) async fn tasks_that_ended_stay_as_they_are_until_they_are_forgotten<H: Harness>(world: &World<H>) {
    let store = world.store();
    let (first, second, third) = (
        add(world, Job::AggregateEventTypes).await,
        add(world, Job::AggregateEventTypes).await,
        add(world, Job::AggregateEventTypes).await,
    );
    run(world, first, 10).await;
    store.fail_task(second, "a test", world.tick()).await.unwrap();
    let before = [read(world, first).await, read(world, second).await];
    assert_eq!(
        (before[1].status, Value::from(before[1].data.clone())),
        (TaskStatus::Failed, json!({ "error": "a test" }))
    );
    for task in &before {
        assert_eq!(store.advance_task(task.id, 10, world.tick()).await.unwrap().status, task.status);
        store.fail_task(task.id, "a test", world.tick()).await.unwrap();
        assert_eq!(&read(world, task.id).await, task);
    }
    assert_eq!(running(world).await, [third]);
    assert_eq!(store.forget_tasks(before[1].updated_at, 10).await.unwrap(), 1);
    assert_eq!(store.forget_tasks(FAR, 10).await.unwrap(), 1);
    assert_eq!(store.forget_tasks(FAR, 10).await.unwrap(), 0, "one that runs is never forgotten");
    assert_eq!(store.advance_task(first, 10, world.tick()).await.unwrap().status, TaskStatus::Finished);
}

pub(super) async fn one_task_at_a_time_sends_messages_to_an_endpoint_again<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    let replay = |endpoint: &Ep| Job::Replay { endpoint: endpoint.key, span: ALWAYS };
    let first = add(world, replay(&endpoint)).await;
    let recover = || Job::Recover { endpoint: endpoint.key, span: ALWAYS };
    let refused = try_add(world, &environment(), recover()).await;
    assert!(matches!(refused, Err(TaskError::Busy(busy)) if busy == first), "{refused:?}");
    add(world, replay(&other)).await;
    run(world, first, 10).await;
    add(world, recover()).await;
}

pub(super) async fn tasks_that_run_are_bounded_by_application_and_environment<H: Harness>(world: &World<H>) {
    let (app, neighbour) = (world.application().await, world.application().await);
    let purge = |app: &App| Job::PurgeContent { application: app.key };
    let too_many = async |environment: &EnvironmentId, job: Job, most: usize| {
        let refused = try_add(world, environment, job).await;
        assert!(matches!(refused, Err(TaskError::TooMany(running)) if running == most), "{refused:?}");
    };
    let first = add(world, purge(&app)).await;
    for _ in 1..MAX_TASKS_OF_APPLICATION {
        add(world, purge(&app)).await;
    }
    too_many(&environment(), purge(&app), MAX_TASKS_OF_APPLICATION).await;
    for _ in 0..MAX_TASKS_OF_ENVIRONMENT {
        add(world, Job::AggregateEventTypes).await;
    }
    too_many(&environment(), Job::AggregateEventTypes, MAX_TASKS_OF_ENVIRONMENT).await;
    // Each kind of work has places of its own.
    add(world, purge(&neighbour)).await;
    try_add(world, &other_environment(), Job::AggregateEventTypes).await.unwrap();
    // The end of one makes room for one.
    world.store().fail_task(first, "a test", world.tick()).await.unwrap();
    add(world, purge(&app)).await;
    too_many(&environment(), purge(&app), MAX_TASKS_OF_APPLICATION).await;
}

/// An application with as many endpoints as it may have tasks, and as many tasks as it gets; returns how many those are.
async fn replays_everything<H: Harness>(world: &World<H>) -> (App, usize) {
    let app = world.application().await;
    for taken in 0..=MAX_TASKS_OF_APPLICATION {
        let endpoint = world.endpoint(&app).await;
        match try_add(world, &environment(), Job::Replay { endpoint: endpoint.key, span: ALWAYS }).await {
            Ok(_) => {}
            Err(TaskError::TooMany(_)) => return (app, taken),
            Err(error) => panic!("{error}"),
        }
    }
    panic!("more tasks of an application than may run");
}

pub(super) async fn tasks_of_applications_leave_places_to_others<H: Harness>(world: &World<H>) {
    let mut all = 0;
    // Ten might have all places of the environment, if each might have all of its own. Tasks may run for days: they wait for what
    // may be asked for in a day.
    for _ in 0..MAX_TASKS_OF_ENVIRONMENT / MAX_TASKS_OF_APPLICATION + 5 {
        let (app, taken) = replays_everything(world).await;
        assert!(taken > 0, "an application that has no task finds a place for one");
        all += taken;
        // What the operator starts has places of its own.
        add(world, Job::PurgeContent { application: app.key }).await;
    }
    assert!(all < MAX_TASKS_OF_ENVIRONMENT + 10, "{all} tasks");
    add(world, Job::AggregateEventTypes).await;
}

pub(super) async fn tasks_that_run_are_named_for_every_application<H: Harness>(world: &World<H>) {
    let (app, neighbour) = (world.application().await, world.application().await);
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(add(world, Job::PurgeContent { application: app.key }).await);
    }
    let second = add(world, Job::PurgeContent { application: neighbour.key }).await;
    let third = try_add(world, &other_environment(), Job::AggregateEventTypes).await.unwrap();
    let running = world.store().running_tasks(2).await.unwrap();
    let found: BTreeSet<_> = running.iter().map(|task| task.id).collect();
    assert_eq!(found, BTreeSet::from([first[0], first[1], second, third]));
    let of = |id: TaskId| running.iter().find(|task| task.id == id).unwrap();
    assert_eq!((of(first[0]).application, of(second).application), (Some(app.key), Some(neighbour.key)));
    assert_eq!((of(third).application, of(first[0]).environment), (None, of(second).environment));
    assert_ne!(of(third).environment, of(second).environment);
}

pub(super) async fn recover_sends_each_failed_message_once_whatever_the_size_of_a_step<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    for rows in [1, 2, 3, 100] {
        let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
        let wait = || Next::Waiting(after(world.tick(), 3_600));
        let early = sent(world, &app, &endpoint, &[Next::Exhausted]).await;
        let since = world.tick();
        let once = sent(world, &app, &endpoint, &[Next::Exhausted]).await;
        sent(world, &app, &other, &[Next::Exhausted]).await;
        let thrice = sent(world, &app, &endpoint, &[wait(), wait(), Next::Exhausted]).await;
        sent(world, &app, &endpoint, &[wait(), Next::Succeeded]).await;
        let waiting = sent(world, &app, &endpoint, &[wait()]).await;
        sent(world, &app, &endpoint, &[Next::Succeeded]).await;
        sent(world, &app, &endpoint, &[]).await;
        let erased = sent(world, &app, &endpoint, &[Next::Exhausted]).await;
        world.store().expunge_message(erased.key).await.unwrap();
        let mended = sent(world, &app, &endpoint, &[wait()]).await;
        let until = world.tick();
        let due = world.due(&endpoint, FAR).await.into_iter().find(|due| due.key.message == mended.key).unwrap();
        world.settle(world.settlement(&endpoint, &due, Next::Succeeded)).await;
        sent(world, &app, &endpoint, &[Next::Exhausted]).await;
        let scheduled = pending(world, &endpoint, Trigger::Scheduled).await;

        let id = add(world, Job::Recover { endpoint: endpoint.key, span: Span { since, until } }).await;
        let recorder = Recorder::of(world.store().as_ref());
        assert_eq!(run(world, id, rows).await, json!({ "messages": 4 }), "steps of {rows}");
        assert!(recorder.take().contains(&News::WorkAdded(endpoint.key)));
        let want: Vec<_> = [&once, &thrice, &waiting, &mended].map(key).into();
        assert_eq!(pending(world, &endpoint, Trigger::Manual).await, want, "steps of {rows}, not {early:?}");
        assert_eq!(pending(world, &endpoint, Trigger::Scheduled).await, scheduled, "what the schedule has stays");
        assert_eq!(pending(world, &other, Trigger::Manual).await, []);
    }
}

pub(super) async fn recover_of_a_time_without_failures_does_nothing<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    sent(world, &app, &endpoint, &[Next::Exhausted]).await;
    for span in [Span { since: world.tick(), until: FAR }, Span { since: FAR, until: world.tick() }] {
        let id = add(world, Job::Recover { endpoint: endpoint.key, span }).await;
        assert_eq!(run(world, id, 10).await, json!({ "messages": 0 }));
    }
    assert_eq!(pending(world, &endpoint, Trigger::Manual).await, []);
}

pub(super) async fn recover_has_a_limit<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let version = world.routes(&app).await.version;
    let mut batch = Vec::new();
    for _ in 0..=MAX_RECOVERED {
        let mut draft = world.draft_of_version(&app, version, &[endpoint.key], world.new_message());
        draft.idempotency = None;
        batch.push(draft);
    }
    let results = world.store().accept(batch).await;
    assert!(results.iter().all(|result| matches!(result, Ok(Accepted::New(_)))));
    let due = world
        .store()
        .due(endpoint.key, FAR, None, std::collections::HashSet::new(), usize::MAX, usize::MAX)
        .await
        .unwrap()
        .due;
    let failed = due.iter().map(|due| world.settlement(&endpoint, due, Next::Exhausted)).collect();
    world.store().settle(failed).await.unwrap();
    let id = add(world, Job::Recover { endpoint: endpoint.key, span: ALWAYS }).await;
    assert_eq!(run(world, id, 3_000).await, json!({ "messages": MAX_RECOVERED }));
    assert_eq!(world.store().backlog(endpoint.key, usize::MAX).await.unwrap(), MAX_RECOVERED);
}

pub(super) async fn a_restart_goes_on_where_the_last_step_ended<H: Harness>(world: &mut World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let mut messages = Vec::new();
    for _ in 0..5 {
        messages.push(key(&sent(world, &app, &endpoint, &[Next::Exhausted]).await));
    }
    let id = add(world, Job::Recover { endpoint: endpoint.key, span: ALWAYS }).await;
    let now = world.tick();
    for made in 1..=5 {
        assert_eq!(world.store().advance_task(id, 1, now).await.unwrap().status, TaskStatus::Running);
        world.reopen().await;
        assert_eq!(pending(world, &endpoint, Trigger::Manual).await, messages[..made]);
        assert_eq!(running(world).await, [id]);
    }
    assert_eq!(run(world, id, 1).await, json!({ "messages": 5 }));
    assert_eq!(pending(world, &endpoint, Trigger::Manual).await, messages);
}

pub(super) async fn racing_steps_do_their_work_once<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let endpoint = world.endpoint(&app).await;
    let mut messages = Vec::new();
    for _ in 0..20 {
        messages.push(key(&sent(world, &app, &endpoint, &[Next::Exhausted]).await));
    }
    let id = add(world, Job::Recover { endpoint: endpoint.key, span: ALWAYS }).await;
    let racers = (0..4).map(|_| {
        let (store, now) = (world.store(), world.tick());
        tokio::spawn(
            async move { while store.advance_task(id, 2, now).await.unwrap().status == TaskStatus::Running {} },
        )
    });
    for racer in racers.collect::<Vec<_>>() {
        racer.await.unwrap();
    }
    assert_eq!(read(world, id).await.data["messages"], 20);
    assert_eq!(pending(world, &endpoint, Trigger::Manual).await, messages);
}

pub(super) async fn a_task_ends_when_its_endpoint_is_disabled_or_gone<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let jobs = |endpoint: &Ep| {
        let endpoint = endpoint.key;
        [
            Job::Recover { endpoint, span: ALWAYS },
            Job::Replay { endpoint, span: ALWAYS },
            Job::BulkReplay { endpoint, span: ALWAYS, filter: ReplayFilter::default() },
        ]
    };
    for begun in [false, true] {
        for gone in [false, true] {
            for which in 0..3 {
                let endpoint = world.endpoint(&app).await;
                for _ in 0..3 {
                    sent(world, &app, &endpoint, &[Next::Exhausted]).await;
                }
                world.message(&app, &[]).await;
                let id = add(world, jobs(&endpoint)[which].clone()).await;
                if begun {
                    assert_eq!(
                        world.store().advance_task(id, 1, world.tick()).await.unwrap().status,
                        TaskStatus::Running
                    );
                }
                let before = world.store().backlog(endpoint.key, 100).await.unwrap();
                if gone {
                    let id = by_id(endpoint.value.id);
                    world.store().delete_endpoint(app.key, &id, world.tick()).await.unwrap();
                } else {
                    disable(world, &app, &endpoint, true).await;
                }
                let why = if gone { "endpoint_deleted" } else { "endpoint_disabled" };
                let said = json!({ "messages": before, "stopped": why });
                assert_eq!(run(world, id, 1).await, said, "{begun} {gone} {which}");
                assert_eq!(world.store().backlog(endpoint.key, 100).await.unwrap(), before);
            }
        }
    }
}

pub(super) async fn replay_adds_what_an_endpoint_wants_and_never_got<H: Harness>(world: &World<H>) {
    for rows in [1, 2, 100] {
        let app = world.application().await;
        let kinds = |kind: &str| Message { event_type: type_name(kind), ..world.new_message() };
        world.message_of(&app, &[], kinds("a")).await;
        let since = world.tick();
        let missed = world.message_of(&app, &[], kinds("a")).await;
        world.message_of(&app, &[], kinds("b")).await;
        let mut new = world.new_endpoint(None);
        new.endpoint.event_types = Some(vec![type_name("a")]);
        let endpoint = world.add_endpoint(&app, new).await;
        let pending_one = world.message_of(&app, &[&endpoint], kinds("a")).await;
        let tried = world.message_of(&app, &[&endpoint], kinds("a")).await;
        let later = Message { deliver_at: Some(after(world.tick(), 600)), ..kinds("a") };
        let later = world.message_of(&app, &[&endpoint], later).await;
        let due = world.due(&endpoint, FAR).await.into_iter().find(|due| due.key.message == tried.key).unwrap();
        world.settle(world.settlement(&endpoint, &due, Next::Succeeded)).await;
        let erased = world.message_of(&app, &[], kinds("a")).await;
        world.store().expunge_message(erased.key).await.unwrap();
        let missed_too = world.message_of(&app, &[], kinds("a")).await;
        let until = world.tick();
        world.message_of(&app, &[], kinds("a")).await;

        let job = Job::Replay { endpoint: endpoint.key, span: Span { since, until } };
        for added in [2, 0] {
            let id = add(world, job.clone()).await;
            assert_eq!(run(world, id, rows).await, json!({ "messages": added }), "steps of {rows}");
            let want: Vec<_> = [&missed, &pending_one, &later, &missed_too].map(key).into();
            assert_eq!(pending(world, &endpoint, Trigger::Scheduled).await, want);
        }
        let due = world.due(&endpoint, FAR).await.into_iter().find(|due| due.key.message == missed.key).unwrap();
        assert_eq!((due.made, due.fresh, due.key.due_at), (0, false, missed.value.created_at));
        // It is a series like any other: a manual success ends it.
        done(world.store().resend(endpoint.key, missed.key, world.tick(), None).await.unwrap());
        let manual = world.due(&endpoint, FAR).await.into_iter().find(|due| due.trigger == Trigger::Manual).unwrap();
        world.settle(world.settlement(&endpoint, &manual, Next::Succeeded)).await;
        assert!(!pending(world, &endpoint, Trigger::Scheduled).await.contains(&missed.key));
    }
}

pub(super) async fn replay_adds_nothing_twice_that_a_clock_dated_ahead<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let start = world.tick();
    let ahead = after(start, 10_800);
    let dated = || Message { created_at: ahead, ..world.new_message() };
    let missed = world.message_of(&app, &[], dated()).await;
    let endpoint = world.endpoint(&app).await;
    // One was accepted for it, and was due by that clock until it was set right.
    let moved = world.message_of(&app, &[&endpoint], dated()).await;
    assert_eq!(world.store().pull_in(start, Duration::from_secs(86_400)).await.unwrap(), 1);
    let replay = Job::Replay { endpoint: endpoint.key, span: ALWAYS };
    for added in [1, 0] {
        let id = add(world, replay.clone()).await;
        assert_eq!(run(world, id, 10).await, json!({ "messages": added }));
        assert_eq!(pending(world, &endpoint, Trigger::Scheduled).await, [missed.key, moved.key]);
    }
    // Each is a series like any other: a manual success ends it.
    for message in [&missed, &moved] {
        done(world.store().resend(endpoint.key, message.key, world.tick(), None).await.unwrap());
        let manual = world.due(&endpoint, FAR).await.into_iter().find(|due| due.trigger == Trigger::Manual).unwrap();
        world.settle(world.settlement(&endpoint, &manual, Next::Succeeded)).await;
        assert!(!pending(world, &endpoint, Trigger::Scheduled).await.contains(&message.key));
    }
    assert!(world.due(&endpoint, FAR).await.is_empty());
}

pub(super) async fn replay_leaves_out_what_waits_because_somebody_asked_for_it<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let (missed, asked_for) = (world.message(&app, &[]).await, world.message(&app, &[]).await);
    let endpoint = world.endpoint(&app).await;
    done(world.store().resend(endpoint.key, asked_for.key, world.tick(), None).await.unwrap());
    let id = add(world, Job::Replay { endpoint: endpoint.key, span: ALWAYS }).await;
    assert_eq!(run(world, id, 10).await, json!({ "messages": 1 }));
    assert_eq!(pending(world, &endpoint, Trigger::Scheduled).await, [missed.key]);
    assert_eq!(pending(world, &endpoint, Trigger::Manual).await, [asked_for.key]);
}

pub(super) async fn bulk_replay_sends_what_its_filter_lets_through<H: Harness>(world: &World<H>) {
    let app = world.application().await;
    let (endpoint, other) = (world.endpoint(&app).await, world.endpoint(&app).await);
    let message = async |kind: &str, name: Option<&str>, results: &[Next]| {
        let channels = name.map(|name| vec![channel(name)]);
        let tags = name.map(|name| vec![tag(name)]);
        let message = Message { event_type: type_name(kind), channels, tags, ..world.new_message() };
        let message = world.message_of(&app, &[&endpoint, &other], message).await;
        for next in results {
            let due = world.due(&endpoint, FAR).await.into_iter().find(|due| due.key.message == message.key).unwrap();
            world.settle(world.settlement(&endpoint, &due, *next)).await;
        }
        key(&message)
    };
    let wait = || Next::Waiting(after(world.tick(), 3_600));
    message("a", None, &[Next::Exhausted]).await;
    let since = world.tick();
    let succeeded = message("a", Some("x"), &[wait(), Next::Succeeded]).await;
    let failed = message("b", Some("y"), &[wait(), Next::Exhausted]).await;
    let waiting = message("a", None, &[wait()]).await;
    message("a", Some("x"), &[]).await;
    let span = Span { since, until: world.tick() };
    message("a", None, &[Next::Exhausted]).await;
    let all = ReplayFilter::default;
    for (filter, want) in [
        (all(), vec![succeeded, failed, waiting]),
        (ReplayFilter { event_types: Some(vec![type_name("a"), type_name("z")]), ..all() }, vec![succeeded, waiting]),
        (ReplayFilter { channel: Some(channel("y")), ..all() }, vec![failed]),
        (ReplayFilter { tag: Some(tag("x")), ..all() }, vec![succeeded]),
        (ReplayFilter { outcome: Some(Outcome::Succeeded), ..all() }, vec![succeeded]),
        (ReplayFilter { outcome: Some(Outcome::Failed), ..all() }, vec![failed]),
        (ReplayFilter { outcome: Some(Outcome::Waiting), ..all() }, vec![waiting]),
        (ReplayFilter { status_code_class: Some(500), ..all() }, vec![failed, waiting]),
        (ReplayFilter { status_code_class: Some(400), ..all() }, vec![]),
    ] {
        let id = add(world, Job::BulkReplay { endpoint: endpoint.key, span, filter: filter.clone() }).await;
        assert_eq!(run(world, id, 2).await, json!({ "messages": want.len() }), "{filter:?}");
        assert_eq!(pending(world, &endpoint, Trigger::Manual).await, want, "{filter:?}");
        // Called off again, so that the attempts stay as they are.
        for due in world.due(&endpoint, FAR).await.into_iter().filter(|due| due.trigger == Trigger::Manual) {
            let mut canceled = world.settlement(&endpoint, &due, Next::Canceled);
            canceled.attempt = None;
            world.settle(canceled).await;
        }
    }
}

pub(super) async fn purging_erases_every_payload_that_was_there<H: Harness>(world: &World<H>) {
    let (store, app, other) = (world.store(), world.application().await, world.application().await);
    let mut messages = Vec::new();
    for _ in 0..5 {
        messages.push(world.message(&app, &[]).await);
    }
    store.expunge_message(messages[1].key).await.unwrap();
    let elsewhere = world.message(&other, &[]).await;
    let id = add(world, Job::PurgeContent { application: app.key }).await;
    let later = world.message(&app, &[]).await;
    let recorder = Recorder::of(store.as_ref());
    assert_eq!(run(world, id, 2).await, json!({ "messages": 4 }));
    let erased: Vec<_> = [0, 2, 3, 4].map(|nth: usize| News::Expunged(messages[nth].key)).into();
    assert_eq!(recorder.take(), erased);
    let payload = async |app: &App, message: &Msg| {
        store.message(app.key, &by_id(message.value.id), true).await.unwrap().unwrap().value.payload
    };
    for message in &messages {
        assert_eq!(payload(&app, message).await, None);
    }
    assert_eq!(payload(&app, &later).await, later.value.payload);
    assert_eq!(payload(&other, &elsewhere).await, elsewhere.value.payload);
}

pub(super) async fn usage_is_counted_by_application<H: Harness>(world: &World<H>) {
    let (app, idle, gone) = (world.application().await, world.application().await, world.application().await);
    world.add_application(&other_environment(), world.new_application(None)).await;
    let (one, two) = (world.endpoint(&app).await, world.endpoint(&app).await);
    world.message(&app, &[&one]).await;
    settle_all(world, &one, Next::Succeeded).await;
    let since = world.tick();
    for _ in 0..3 {
        world.message(&app, &[&one, &two]).await;
    }
    settle_all(world, &one, Next::Waiting(after(since, 60))).await;
    settle_all(world, &one, Next::Succeeded).await;
    settle_all(world, &two, Next::Succeeded).await;
    world.message(&app, &[]).await;
    let span = Span { since, until: world.tick() };
    world.message(&app, &[&one]).await;
    world.store().delete_application(&environment(), &by_id(gone.value.id), world.tick()).await.unwrap();
    let entry = |app: &App, messages: u32, attempts: u32, destinations: u32| {
        json!({
            "appId": app.value.id, "appUid": null, "messages": messages, "attempts": attempts,
            "messageDestinations": destinations,
        })
    };
    let (busy, idle_entry) = (entry(&app, 4, 9, 6), entry(&idle, 0, 0, 0));
    for (applications, want) in [
        (None, json!([busy, idle_entry])),
        (Some(vec![idle.key]), json!([idle_entry])),
        (Some(vec![idle.key, app.key]), json!([idle_entry, busy])),
        (Some(vec![]), json!([])),
    ] {
        for rows in [1, 100] {
            let id = add(world, Job::ApplicationStats { applications: applications.clone(), span }).await;
            assert_eq!(run(world, id, rows).await, json!({ "applications": want }), "steps of {rows}");
        }
    }
}

pub(super) async fn messages_are_counted_by_event_type<H: Harness>(world: &World<H>) {
    let (app, other) = (world.application().await, world.application().await);
    let elsewhere = world.add_application(&other_environment(), world.new_application(None)).await;
    let there = world.store().routes(&other_environment(), &by_id(elsewhere.value.id)).await.unwrap().unwrap();
    let draft = world.draft_of_version(&elsewhere, there.version, &[], world.new_message());
    assert!(matches!(world.accept(draft).await, Ok(Accepted::New(_))));
    for (app, kind) in [(&app, "a"), (&app, "b"), (&app, "a"), (&other, "a"), (&other, "c.d")] {
        let message = Message { event_type: type_name(kind), ..world.new_message() };
        world.message_of(app, &[], message).await;
    }
    for rows in [1, 2, 100] {
        let id = add(world, Job::AggregateEventTypes).await;
        let want = json!({ "eventTypes": { "a": 3, "b": 1, "c.d": 1 } });
        assert_eq!(run(world, id, rows).await, want, "steps of {rows}");
    }
}

pub(super) async fn of_tasks_that_ended_the_last_to_end_stay_of_each_application<H: Harness>(world: &World<H>) {
    let (app, other) = (world.application().await, world.application().await);
    let purge = |app: &App| Job::PurgeContent { application: app.key };
    let (spared, running) = (add(world, purge(&other)).await, add(world, purge(&app)).await);
    run(world, spared, 10).await;
    let mut ended = Vec::new();
    for _ in 0..MAX_ENDED_TASKS + 5 {
        let id = add(world, purge(&app)).await;
        run(world, id, 10).await;
        ended.push(id);
    }
    for (place, id) in ended.iter().enumerate() {
        let is_there = world.store().task(&environment(), *id).await.unwrap().is_some();
        assert_eq!(is_there, place >= 5, "{place}");
    }
    assert_eq!(read(world, spared).await.status, TaskStatus::Finished, "another application's stays");
    assert_eq!(read(world, running).await.status, TaskStatus::Running, "and so does what runs");
    // It was made before all of them, and ends after them.
    run(world, running, 10).await;
    let last = add(world, purge(&app)).await;
    assert_eq!(read(world, running).await.status, TaskStatus::Finished);
    run(world, last, 10).await;
}
