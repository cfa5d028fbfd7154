//! A model of the filtered lists, and random histories in which the store must agree with it: every page of every list is
//! what the filter lets through of everything there is.
//!
//! Ids come in no order, as when requests overlap; batches are of all sizes; the store is closed and opened in between,
//! and made to look as if an older version had written it.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use postrider_domain::attempt::{Attempt, Trigger};
use postrider_domain::delivery::Next;
use postrider_domain::ids::{Id as _, Ksuid, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName, Tag};
use postrider_domain::time::Timestamp;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use super::Harness;
use super::world::{App, Ep, FAR, Msg, World, channel, done, tag, type_name};
use postrider_store::{
    Accepted, AttemptFilter, AttemptStats, AttemptedFilter, AttemptedMessage, Destination, Direction, MessageFilter,
    MessageKey, Origin, Scan, Standing, Stored,
};

const ENDPOINTS: usize = 2;

/// One thing that happens. Numbers pick among what there is, modulo how many there are.
#[derive(Debug, Clone)]
enum Step {
    Accept(Vec<Draft>),
    Settle {
        endpoint: usize,
        results: Vec<Outcome>,
    },
    Resend {
        endpoint: usize,
        nth: usize,
    },
    Look(Look),
    /// Everything goes that is as old as one of the messages, or older, and is not still to be delivered.
    Sweep {
        nth: usize,
        rows: usize,
    },
    Restart,
    Age,
}

#[derive(Debug, Clone)]
struct Draft {
    kind: &'static str,
    channels: Vec<&'static str>,
    tags: Vec<&'static str>,
    /// How long ago it was made.
    lag: u64,
    to: [bool; ENDPOINTS],
}

#[derive(Debug, Clone)]
struct Outcome {
    nth: usize,
    status: u16,
    again: bool,
    /// How long ago the attempt started.
    lag: u64,
    with_origin: bool,
}

/// A filter and a page.
#[derive(Debug, Clone)]
struct Look {
    endpoint: usize,
    kinds: Option<Vec<&'static str>>,
    channel: Option<&'static str>,
    tag: Option<&'static str>,
    succeeded: Option<bool>,
    class: Option<u16>,
    standing: Option<Standing>,
    lower: Option<usize>,
    upper: Option<usize>,
    ascending: bool,
    limit: usize,
}

const KINDS: [Option<&[&str]>; 6] =
    [None, Some(&["a"]), Some(&["b", "a", "b"]), Some(&["rare"]), Some(&["none"]), Some(&[])];
const CHANNELS: [Option<&str>; 4] = [None, Some("x"), Some("y"), Some("xx")];
const TAGS: [Option<&str>; 4] = [None, None, Some("t"), Some("x")];
const SUCCEEDED: [Option<bool>; 3] = [None, Some(true), Some(false)];
const CLASSES: [Option<u16>; 4] = [None, Some(200), Some(0), Some(500)];
const STANDINGS: [Option<Standing>; 4] =
    [None, Some(Standing::Waiting), Some(Standing::Failed), Some(Standing::Delivered)];

fn draft() -> impl Strategy<Value = Draft> {
    let kind = prop_oneof![6 => Just("a"), 3 => Just("b"), 1 => Just("rare")];
    let channels =
        prop_oneof![4 => Just(vec![]), 2 => Just(vec!["x"]), 1 => Just(vec!["y", "x"]), 1 => Just(vec!["xx"])];
    let lag = prop_oneof![4 => Just(0u64), 1 => 0u64..400];
    let tags = prop_oneof![4 => Just(vec![]), 2 => Just(vec!["t"]), 1 => Just(vec!["t", "u"])];
    (kind, channels, tags, lag, any::<[bool; ENDPOINTS]>()).prop_map(|(kind, channels, tags, lag, to)| Draft {
        kind,
        channels,
        tags,
        lag,
        to,
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let status = prop_oneof![5 => Just(200u16), 1 => Just(204), 2 => Just(500), 1 => Just(0), 1 => Just(404)];
    let lag = prop_oneof![4 => Just(0u64), 1 => 0u64..400];
    (0usize..50, status, any::<bool>(), lag, any::<bool>()).prop_map(|(nth, status, again, lag, with_origin)| Outcome {
        nth,
        status,
        again,
        lag,
        with_origin,
    })
}

fn look() -> impl Strategy<Value = Look> {
    let filter = (
        0..ENDPOINTS,
        select(KINDS.to_vec()).prop_map(|kinds| kinds.map(<[_]>::to_vec)),
        select(CHANNELS.to_vec()),
        select(TAGS.to_vec()),
        select(SUCCEEDED.to_vec()),
        select(CLASSES.to_vec()),
        select(STANDINGS.to_vec()),
    );
    let bound = || proptest::option::of(0usize..1_000);
    (filter, bound(), bound(), any::<bool>(), 0usize..12).prop_map(|(filter, lower, upper, ascending, limit)| {
        let (endpoint, kinds, channel, tag, succeeded, class, standing) = filter;
        Look { endpoint, kinds, channel, tag, succeeded, class, standing, lower, upper, ascending, limit }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec(draft(), 0..40).prop_map(Step::Accept),
        8 => (0..ENDPOINTS, proptest::collection::vec(outcome(), 0..30))
            .prop_map(|(endpoint, results)| Step::Settle { endpoint, results }),
        2 => (0..ENDPOINTS, 0usize..500).prop_map(|(endpoint, nth)| Step::Resend { endpoint, nth }),
        8 => look().prop_map(Step::Look),
        2 => (0usize..500, 1usize..60).prop_map(|(nth, rows)| Step::Sweep { nth, rows }),
        1 => Just(Step::Restart),
        1 => Just(Step::Age),
    ]
}

/// Runs random histories; see [`super::filtered_lists_show_what_the_filter_lets_through`].
pub(super) fn compare<H: Harness>() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config { cases: 24, failure_persistence: None, max_shrink_iters: 256, ..Config::default() };
    let histories = proptest::collection::vec(step(), 1..24);
    let result = TestRunner::new(config).run(&histories, |history| {
        runtime.block_on(async {
            let mut run = Run::<H>::start().await;
            for step in history {
                run.step(step).await;
            }
            run.look_at_everything().await;
        });
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// An attempt that was logged, with what it was for.
struct Logged {
    attempt: Attempt,
    made: u32,
    endpoint: usize,
    message: usize,
}

struct Run<H> {
    world: World<H>,
    app: App,
    endpoints: Vec<Ep>,
    messages: Vec<Msg>,
    log: Vec<Logged>,
}

impl<H: Harness> Run<H> {
    async fn start() -> Self {
        let world = World::fresh().await;
        let app = world.application().await;
        let mut endpoints = Vec::new();
        for _ in 0..ENDPOINTS {
            endpoints.push(world.endpoint(&app).await);
        }
        Self { world, app, endpoints, messages: Vec::new(), log: Vec::new() }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Accept(drafts) => self.accept(drafts).await,
            Step::Settle { endpoint, results } => self.settle(endpoint, results).await,
            Step::Resend { endpoint, nth } => self.resend(endpoint, nth).await,
            Step::Look(look) => self.look(&look).await,
            Step::Sweep { nth, rows } => self.sweep(nth, rows).await,
            Step::Restart => self.world.reopen().await,
            Step::Age => self.world.age().await,
        }
    }

    async fn accept(&mut self, drafts: Vec<Draft>) {
        let mut batch = Vec::new();
        for Draft { kind, channels, tags, lag, to } in drafts {
            let mut message = self.world.new_message();
            message.created_at = message.created_at.saturating_sub(Duration::from_millis(lag));
            message.id = self.world.message_id(message.created_at);
            message.event_type = type_name(kind);
            let channels: Vec<Channel> = channels.into_iter().map(channel).collect();
            message.channels = (!channels.is_empty()).then_some(channels);
            let tags: Vec<Tag> = tags.into_iter().map(tag).collect();
            message.tags = (!tags.is_empty()).then_some(tags);
            let chosen: Vec<_> = (0..ENDPOINTS).filter(|at| to[*at]).map(|at| self.endpoints[at].key).collect();
            batch.push(self.world.draft_of(&self.app, &chosen, message).await);
        }
        let messages: Vec<Arc<Message>> = batch.iter().map(|new| Arc::clone(&new.message)).collect();
        for (result, value) in self.world.store().accept(batch).await.into_iter().zip(messages) {
            let Ok(Accepted::New(key)) = result else { panic!("it should have been accepted: {result:?}") };
            self.messages.push(Stored { key, value });
        }
    }

    async fn settle(&mut self, endpoint: usize, results: Vec<Outcome>) {
        let mut due = self.world.due(&self.endpoints[endpoint], FAR).await;
        let mut batch = Vec::new();
        // Messages that somebody had delivered: what was scheduled of them is over, also for the rest of the batch.
        let mut ended = BTreeSet::new();
        for Outcome { nth, status, again, lag, with_origin } in results {
            if due.is_empty() {
                break;
            }
            let due = due.remove(nth % due.len());
            let message = self.messages.iter().position(|message| message.key == due.key.message).unwrap();
            let next = match (status, again && due.trigger == Trigger::Scheduled) {
                (200..300, _) => Next::Succeeded,
                (_, true) => Next::Waiting(self.world.tick()),
                (_, false) => Next::Exhausted,
            };
            let mut settlement = self.world.settlement(&self.endpoints[endpoint], &due, next);
            let record = settlement.attempt.as_mut().unwrap();
            record.started_at = record.started_at.saturating_sub(Duration::from_millis(lag));
            record.id = self.world.attempt_id(record.started_at);
            (record.succeeded, record.status_code) = (next == Next::Succeeded, status);
            let value = Arc::clone(&self.messages[message].value);
            let mut attempt = super::attempts::entry(&self.messages[message], &self.endpoints[endpoint], &settlement);
            match due.trigger {
                Trigger::Manual if next == Next::Succeeded => drop(ended.insert(due.key.message)),
                Trigger::Scheduled if ended.contains(&due.key.message) => attempt.next_attempt_at = None,
                _ => {}
            }
            self.log.push(Logged { attempt, made: due.made, endpoint, message });
            settlement.origin = with_origin.then_some(Origin { application: self.app.key, message: value });
            batch.push(settlement);
        }
        self.world.store().settle(batch).await.unwrap();
    }

    async fn resend(&mut self, endpoint: usize, nth: usize) {
        let Some(message) = self.messages.get(nth % self.messages.len().max(1)) else { return };
        let now = self.world.tick();
        done(self.world.store().resend(self.endpoints[endpoint].key, message.key, now, None).await.unwrap());
    }

    async fn sweep(&mut self, nth: usize, rows: usize) {
        let Some(message) = self.messages.get(nth % self.messages.len().max(1)) else { return };
        let until = message.value.created_at;
        let mut pending = BTreeSet::new();
        for endpoint in &self.endpoints {
            pending.extend(self.world.due(endpoint, FAR).await.iter().map(|due| due.key.message));
        }
        let kept = Duration::from_secs(3_600);
        while self.world.store().sweep_messages(until.saturating_add(kept), kept, rows).await.unwrap().more {}
        // Of those that come in no order some may be left for the next time.
        let mut places = Vec::new();
        for message in std::mem::take(&mut self.messages) {
            let by_id = super::world::by_id(message.value.id);
            let is_there = self.world.store().message(self.app.key, &by_id, false).await.unwrap().is_some();
            let may_go = message.value.created_at <= until && !pending.contains(&message.key);
            assert!(is_there || may_go, "{message:?} was removed");
            places.push(is_there.then_some(self.messages.len()));
            if is_there {
                self.messages.push(message);
            }
        }
        self.log.retain_mut(|logged| match places[logged.message] {
            Some(place) => {
                logged.message = place;
                true
            }
            None => false,
        });
    }

    /// Every combination of filters, forward and backward.
    async fn look_at_everything(&self) {
        for endpoint in 0..ENDPOINTS {
            for (place, kinds) in KINDS.into_iter().enumerate() {
                for channel in CHANNELS {
                    for (turn, standing) in STANDINGS.into_iter().enumerate() {
                        let kinds = kinds.map(<[_]>::to_vec);
                        let (succeeded, class) = (SUCCEEDED[(turn + place) % 3], CLASSES[turn]);
                        let ascending = turn % 2 == 0;
                        let tag = TAGS[(turn + endpoint) % 4];
                        let (lower, upper, limit) = (None, None, 1_000);
                        self.look(&Look {
                            endpoint,
                            kinds,
                            channel,
                            tag,
                            succeeded,
                            class,
                            standing,
                            lower,
                            upper,
                            ascending,
                            limit,
                        })
                        .await;
                    }
                }
            }
        }
        for at in 0..self.messages.len().min(5) {
            self.look_at_destinations(at * 7 % self.messages.len()).await;
        }
    }

    async fn look(&self, look: &Look) {
        let messages: BTreeSet<Ksuid> = self.messages.iter().map(|message| message.value.id.ksuid()).collect();
        let attempts = self.log.iter().filter(|logged| logged.endpoint == look.endpoint);
        let attempts: BTreeSet<Ksuid> = attempts.map(|logged| logged.attempt.id.ksuid()).collect();
        let (of_messages, of_attempts) = (look.scan(&messages), look.scan(&attempts));
        self.look_at_messages(look, of_messages.clone()).await;
        self.look_at_attempted(look, of_messages).await;
        self.look_at_attempts(look, of_attempts.clone()).await;
        self.look_at_stats(look, &attempts).await;
        if let Some(first) = self.messages.get(look.lower.unwrap_or_default()) {
            self.look_at_one(look, first, Scan { limit: look.limit, ..Scan::all(of_attempts.direction, 0) }).await;
        }
    }

    async fn look_at_messages(&self, look: &Look, scan: Scan<Ksuid>) {
        let (channel, tag, event_types) = look.names();
        let filter = MessageFilter { channel, tag, event_types, with_payload: false };
        let want = self.messages.iter().filter(|message| look.lets_through(&message.value));
        let want = want.map(|message| Message { payload: None, ..message.value.as_ref().clone() });
        let want = page(want, &scan, |message| message.id.ksuid());
        let found = self.world.store().messages(self.app.key, &filter, scan).await.unwrap();
        assert_eq!((found.listed.rows, found.reached), (want, None), "messages: {look:?}");
        assert!(!found.listed.cut);
    }

    async fn look_at_attempts(&self, look: &Look, scan: Scan<Ksuid>) {
        let want = self.log.iter().filter(|logged| logged.endpoint == look.endpoint);
        let want =
            want.filter(|logged| look.lets_attempt_through(&logged.attempt, &self.messages[logged.message].value));
        let want = page(want.map(|logged| logged.attempt.clone()), &scan, |attempt| attempt.id.ksuid());
        let key = self.endpoints[look.endpoint].key;
        let found = self.world.store().attempts_by_endpoint(key, &look.attempt_filter(), scan).await.unwrap();
        assert_eq!((found.listed.rows, found.reached), (want, None), "attempts: {look:?}");
    }

    async fn look_at_one(&self, look: &Look, message: &Msg, scan: Scan<Ksuid>) {
        let want = self.log.iter().filter(|logged| self.messages[logged.message].key == message.key);
        let want = want.filter(|logged| look.lets_attempt_through(&logged.attempt, &message.value));
        let want = page(want.map(|logged| logged.attempt.clone()), &scan, |attempt| attempt.id.ksuid());
        let filter = look.attempt_filter();
        let found = self.world.store().attempts_by_message(message.key, None, &filter, scan).await.unwrap();
        assert_eq!((found.listed.rows, found.reached), (want, None), "attempts of a message: {look:?}");
    }

    async fn look_at_stats(&self, look: &Look, ids: &BTreeSet<Ksuid>) {
        let pick = |nth: Option<usize>, else_: [u8; 20]| {
            let picked = nth.and_then(|nth| ids.iter().nth(nth % ids.len().max(1)));
            picked.copied().unwrap_or(Ksuid::from_bytes(else_))
        };
        let (from, to) = (pick(look.lower, [0; 20]), pick(look.upper, [0xff; 20]));
        let mut want = AttemptStats::default();
        for Logged { attempt, .. } in self.log.iter().filter(|logged| logged.endpoint == look.endpoint) {
            if (from..to).contains(&attempt.id.ksuid()) {
                *if attempt.succeeded { &mut want.succeeded } else { &mut want.failed } += 1;
            }
        }
        let key = self.endpoints[look.endpoint].key;
        assert_eq!(self.world.store().attempt_stats(key, from, to).await.unwrap(), want, "{look:?}");
    }

    /// What came of a message at an endpoint: how it stands, and its latest attempt.
    fn story(&self, message: usize, endpoint: usize) -> Option<(Standing, &Attempt)> {
        let tried = || self.log.iter().filter(|logged| (logged.message, logged.endpoint) == (message, endpoint));
        let standings =
            tried().map(|Logged { attempt, .. }| Standing::after(attempt.succeeded, attempt.next_attempt_at.is_some()));
        let latest = tried().max_by_key(|Logged { attempt, made, .. }| (attempt.started_at, *made, attempt.id))?;
        Some((standings.max()?, &latest.attempt))
    }

    /// What is pending at an endpoint: an attempt that announced another one says nothing if that is not.
    async fn pending(&self, endpoint: usize) -> BTreeSet<(MessageKey, Timestamp)> {
        let due = self.world.due(&self.endpoints[endpoint], FAR).await;
        due.iter().map(|due| (due.key.message, due.key.due_at)).collect()
    }

    /// When a message is tried again: as its latest attempt says; or, while it waits, as any says.
    fn next(
        &self,
        message: usize,
        endpoint: usize,
        key: MessageKey,
        pending: &BTreeSet<(MessageKey, Timestamp)>,
    ) -> Option<Timestamp> {
        let (standing, latest) = self.story(message, endpoint)?;
        let is_pending = |at: &Timestamp| pending.contains(&(key, *at));
        let announced = latest.next_attempt_at?;
        let tried = self.log.iter().filter(|logged| (logged.message, logged.endpoint) == (message, endpoint));
        let mut others = tried.filter_map(|logged| logged.attempt.next_attempt_at);
        Some(announced).filter(is_pending).or_else(|| others.find(is_pending).filter(|_| standing == Standing::Waiting))
    }

    async fn look_at_attempted(&self, look: &Look, scan: Scan<Ksuid>) {
        let (channel, tag, event_types) = look.names();
        let filter = AttemptedFilter { standing: look.standing, channel, tag, event_types, with_payload: true };
        let pending = self.pending(look.endpoint).await;
        let want = self.messages.iter().enumerate().filter(|(_, message)| look.lets_through(&message.value));
        let want = want.filter_map(|(place, message)| {
            let (standing, latest) = self.story(place, look.endpoint)?;
            look.standing.is_none_or(|wanted| wanted == standing).then(|| AttemptedMessage {
                message: message.value.as_ref().clone(),
                succeeded: latest.succeeded,
                next_attempt_at: self.next(place, look.endpoint, message.key, &pending),
                canceled: false,
            })
        });
        let want = page(want, &scan, |attempted| attempted.message.id.ksuid());
        let key = self.endpoints[look.endpoint].key;
        let found = self.world.store().attempted_messages(self.app.key, key, &filter, scan).await.unwrap();
        assert_eq!(found.listed.rows, want, "attempted: {look:?}");
    }

    async fn look_at_destinations(&self, message: usize) {
        let scan = Scan::all(Direction::Ascending, 10);
        let pending = [self.pending(0).await, self.pending(1).await];
        let key = self.messages[message].key;
        let want = (0..ENDPOINTS).filter_map(|endpoint| {
            let (_, latest) = self.story(message, endpoint)?;
            Some(Destination {
                endpoint: self.endpoints[endpoint].value.clone(),
                succeeded: latest.succeeded,
                next_attempt_at: self.next(message, endpoint, key, &pending[endpoint]),
                canceled: false,
            })
        });
        let want: Vec<Destination> = want.collect();
        let found = self.world.store().destinations(self.messages[message].key, scan).await.unwrap().listed.rows;
        assert_eq!(found, want);
    }
}

impl Look {
    fn names(&self) -> (Option<Channel>, Option<Tag>, Option<Vec<EventTypeName>>) {
        let kinds = self.kinds.as_ref().map(|kinds| kinds.iter().map(|kind| type_name(kind)).collect());
        (self.channel.map(channel), self.tag.map(tag), kinds)
    }

    fn attempt_filter(&self) -> AttemptFilter {
        let (channel, tag, event_types) = self.names();
        let (succeeded, status_code_class) = (self.succeeded, self.class);
        AttemptFilter {
            succeeded,
            status_code_class,
            channel,
            tag,
            event_types,
            with_response: true,
            with_message: false,
        }
    }

    fn lets_through(&self, message: &Message) -> bool {
        let on_channel = |wanted: &str| message.channels.iter().flatten().any(|channel| channel.as_str() == wanted);
        let has_tag = |wanted: &str| message.tags.iter().flatten().any(|tag| tag.as_str() == wanted);
        self.kinds.as_ref().is_none_or(|kinds| kinds.contains(&message.event_type.as_str()))
            && self.channel.is_none_or(on_channel)
            && self.tag.is_none_or(has_tag)
    }

    fn lets_attempt_through(&self, attempt: &Attempt, message: &Message) -> bool {
        self.lets_through(message)
            && self.succeeded.is_none_or(|succeeded| succeeded == attempt.succeeded)
            && self.class.is_none_or(|class| (class..class + 100).contains(&attempt.status_code))
    }

    fn scan(&self, ids: &BTreeSet<Ksuid>) -> Scan<Ksuid> {
        let pick = |nth: usize| ids.iter().nth(nth % ids.len().max(1)).copied();
        let bound = |nth: Option<usize>, closed: bool| match nth.and_then(pick) {
            Some(id) if closed => Bound::Included(id),
            Some(id) => Bound::Excluded(id),
            None => Bound::Unbounded,
        };
        Scan {
            lower: bound(self.lower, self.limit.is_multiple_of(2)),
            upper: bound(self.upper, self.limit.is_multiple_of(3)),
            direction: if self.ascending { Direction::Ascending } else { Direction::Descending },
            limit: self.limit,
        }
    }
}

/// What a scan shows of these.
fn page<T>(all: impl Iterator<Item = T>, scan: &Scan<Ksuid>, id: impl Fn(&T) -> Ksuid) -> Vec<T> {
    let mut within: Vec<T> = all.filter(|item| scan.contains(&id(item))).collect();
    within.sort_by_key(&id);
    if scan.direction == Direction::Descending {
        within.reverse();
    }
    within.truncate(scan.limit);
    within
}

/// Ids of messages that are made out of order.
impl<H: Harness> World<H> {
    fn message_id(&self, at: postrider_domain::time::Timestamp) -> MessageId {
        MessageId::from_ksuid(self.attempt_id(at).ksuid())
    }
}
