//! Lanes by themselves: no store, no sender, a clock by hand.

use bytes::Bytes;
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::Next;
use postrider_domain::entropy::SeededEntropy;
use postrider_domain::ids::MessageId;
use postrider_domain::message::Message;
use postrider_domain::names::EventTypeName;
use postrider_store::{Due, DueSlice, MessageKey, TooLarge};

use super::window::{LOADS_IN_A_ROW, Messages};
use super::*;
use crate::budget::OVERHEAD_BYTES;
use crate::holders::owner;

/// Whose lanes are, unless it is said.
const OWNER: Owner = owner(1, 1);

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn budgets() -> Budgets {
    with_memory(4_000_000)
}

fn with_memory(bytes: u64) -> Budgets {
    let (memory, permits) = (Memory::new(bytes), Permits::new(1_000));
    Budgets { memory, permits, rates: RateBook::default(), turns: Turns::default() }
}

fn with_permits(total: u32) -> Budgets {
    Budgets { permits: Permits::new(total), ..budgets() }
}

fn new_lane() -> Lane {
    Lane::new(EndpointKey(1), Some(OWNER), Pace::new(4), false)
}

fn message() -> Arc<Message> {
    Arc::new(Message {
        id: MessageId::new(NOW, &SeededEntropy::new(1)),
        event_id: None,
        event_type: EventTypeName::parse("a.b").unwrap(),
        channels: None,
        payload: None,
        tags: None,
        deliver_at: None,
        expires_at: None,
        created_at: NOW,
    })
}

/// A delivery that the lane holds.
fn held(state: &mut State, budgets: &Budgets) -> Held {
    let key = DeliveryKey { due_at: NOW, message: MessageKey(1) };
    let part = crate::budget::Part::Within;
    let delivery = Held { key, made: 0, trigger: Trigger::Scheduled, message: message(), part };
    assert!(state.hold(delivery.clone(), &mut Reserved::nothing(), budgets));
    delivery
}

/// A message with an id of its own.
fn numbered(number: i64) -> Arc<Message> {
    let id = MessageId::new(NOW, &SeededEntropy::new(number.unsigned_abs()));
    Arc::new(Message { id, ..Message::clone(&message()) })
}

/// Whether it is one of these messages, and newer than one.
fn is_later(messages: &[i64], arrived: i64, message: &MessageId) -> bool {
    messages.iter().any(|number| *number > arrived && numbered(*number).id == *message)
}

/// What the store has: deliveries that are due, by number.
struct Stored(Vec<i64>);

impl Stored {
    /// Lets the lane load a slice; where it began, and what was held after it.
    fn load(&self, state: &mut State, budgets: &Budgets, dispatched: i64) -> (Option<i64>, Vec<i64>) {
        let Step::Load(load) = state.begin_load(NOW, budgets) else { panic!("it loads") };
        let load = Load { limit: 3, ..load };
        let (held, after) = (state.held_keys(&load), load.after);
        let due = |number: &i64| Due {
            key: DeliveryKey { due_at: NOW, message: MessageKey(*number) },
            made: 0,
            trigger: Trigger::Scheduled,
            fresh: true,
            message: Some(numbered(*number)),
        };
        let all = self.0.iter().map(due);
        let found = all.filter(|due| Some(due.key) > after && !held.contains(&due.key)).take(3).collect::<Vec<_>>();
        assert_eq!(
            state.loaded(found.into(), load, |message| is_later(&self.0, dispatched, message), budgets).len(),
            0
        );
        let mut numbers: Vec<i64> = state.held.iter().map(|key| key.message.0).collect();
        numbers.sort_unstable();
        (after.map(|after| after.message.0), numbers)
    }
}

#[test]
fn an_endpoint_that_cannot_be_read_is_held_back_and_keeps_no_lane() {
    let (lane, budgets) = (new_lane(), budgets());
    let mut state = lane.state.lock();
    state.wake();
    assert!(matches!(state.next_step(NOW, &budgets), Step::Target));
    let until = NOW.saturating_add(Duration::from_secs(600));
    state.no_target(Some(Hold { until, reason: HoldReason::Trouble }), &budgets);
    assert!(matches!(state.next_step(NOW, &budgets), Step::Hold(hold) if hold.until == until));
    state.hold_done(true);
    assert!(matches!(state.next_step(NOW, &budgets), Step::Close { waits: false }));
}

#[test]
fn an_endpoint_that_does_not_exist_is_parked_and_keeps_no_lane() {
    let (lane, budgets) = (new_lane(), budgets());
    let mut state = lane.state.lock();
    state.wake();
    assert!(matches!(state.next_step(NOW, &budgets), Step::Target));
    state.no_target(None, &budgets);
    assert!(matches!(state.next_step(NOW, &budgets), Step::Park(_)));
    state.park_done();
    assert!(matches!(state.next_step(NOW, &budgets), Step::Close { waits: false }));
}

#[test]
fn a_load_goes_on_where_the_last_one_ended_and_begins_anew_at_the_end() {
    let (budgets, lane) = (budgets(), new_lane());
    let (mut state, mut stored) = (lane.state.lock(), Stored((1..=8).collect()));
    assert_eq!(stored.load(&mut state, &budgets, 100), (None, vec![1, 2, 3]));
    assert_eq!(stored.load(&mut state, &budgets, 100), (Some(3), (1..=6).collect()));
    // One that was stored late, before the place.
    stored.0.insert(0, 0);
    assert_eq!(stored.load(&mut state, &budgets, 100), (Some(6), (1..=8).collect()));
    assert!(state.more, "what was stored before the place meanwhile is looked for");
    assert_eq!(stored.load(&mut state, &budgets, 100), (None, (0..=8).collect()));
    assert!(!state.more);
}

#[test]
fn what_is_still_to_be_offered_is_not_left_behind() {
    let (budgets, lane) = (budgets(), new_lane());
    let (mut state, stored) = (lane.state.lock(), Stored(vec![1, 5, 2, 3, 4]));
    assert_eq!(stored.load(&mut state, &budgets, 4), (None, vec![1, 2]));
    // It is offered while there is no room for it.
    state.more = true;
    state.offer(&message(), MessageKey(5), &budgets);
    assert_eq!(stored.load(&mut state, &budgets, 5), (Some(1), vec![1, 2, 3, 4, 5]));
}

#[test]
fn what_is_still_on_its_way_is_not_loaded_again_and_again() {
    let (budgets, lane) = (budgets(), open_lane(&budgets(), None));
    let mut state = lane.state.lock();
    state.wake();
    let stored = Stored((1..=8).collect());
    assert_eq!(stored.load(&mut state, &budgets, 0), (None, vec![]));
    assert!(matches!(state.next_step(NOW, &budgets), Step::WaitUntil(at) if at > NOW));
    state.timer = None;
    assert!(matches!(state.next_step(after(20), &budgets), Step::Load(_)), "it is looked for again all the same");
    state.busy = None;
    assert_eq!(stored.load(&mut state, &budgets, 0), (None, vec![]));
    assert!(matches!(state.next_step(after(39), &budgets), Step::WaitUntil(_)), "twice as long");
}

#[test]
fn a_backlog_without_an_end_does_not_hide_what_came_late() {
    let (budgets, lane) = (budgets(), new_lane());
    let (mut state, mut stored) = (lane.state.lock(), Stored((1..=1_000).collect()));
    stored.load(&mut state, &budgets, 2_000);
    stored.0.insert(0, 0);
    let mut loads = 1;
    while stored.load(&mut state, &budgets, 2_000).0.is_some() {
        loads += 1;
    }
    assert_eq!(loads, LOADS_IN_A_ROW + 1);
    assert!(state.held.iter().any(|key| key.message == MessageKey(0)));
}

#[test]
fn what_is_dropped_from_memory_is_loaded_again() {
    let (budgets, lane) = (budgets(), new_lane());
    let (mut state, stored) = (lane.state.lock(), Stored((1..=8).collect()));
    stored.load(&mut state, &budgets, 100);
    state.drop_window(&budgets);
    assert_eq!(stored.load(&mut state, &budgets, 100), (None, vec![1, 2, 3]));
}

#[test]
fn a_lane_without_room_goes_on_before_what_it_could_not_take() {
    let lane = new_lane();
    let room_for_two = with_memory(4 * 3 * OVERHEAD_BYTES);
    let (mut state, stored) = (lane.state.lock(), Stored((1..=8).collect()));
    let (_, held) = stored.load(&mut state, &room_for_two, 100);
    assert!(state.more && held.len() < 3, "{held:?}");
    let (after, more) = stored.load(&mut state, &budgets(), 100);
    assert_eq!(after, held.last().copied());
    assert_eq!(more.len(), held.len() + 3);
}

/// A load under way, and what it finds: a delivery by the schedule of message 1.
fn loading(state: &mut State, budgets: &Budgets) -> (Load, Due) {
    let Step::Load(load) = state.begin_load(NOW, budgets) else { panic!("it loads") };
    let key = DeliveryKey { due_at: NOW, message: MessageKey(1) };
    (load, Due { key, made: 1, trigger: Trigger::Scheduled, fresh: false, message: Some(message()) })
}

#[test]
fn what_is_erased_while_it_is_loaded_is_not_sent() {
    for messages in [vec![MessageKey(1)], (1..=5_000).map(MessageKey).collect()] {
        let (budgets, lane) = (budgets(), new_lane());
        let mut state = lane.state.lock();
        let (load, due) = loading(&mut state, &budgets);
        assert!(state.withdraw(&messages.iter().copied().collect()).is_empty());
        let empty = state.loaded(vec![due].into(), load, |_| false, &budgets);
        assert!(state.window.is_empty());
        assert!(empty.len() == 1 || state.more, "it is canceled, or loaded again");
    }
}

#[test]
fn what_a_hand_has_delivered_is_not_sent_by_the_schedule() {
    let (budgets, lane) = (budgets(), new_lane());
    let mut state = lane.state.lock();
    // It waits in the window.
    let waiting = held(&mut state, &budgets);
    state.series_ended(MessageKey(1), &budgets);
    assert!(state.window.is_empty() && !state.held.contains(&waiting.key));
    assert_eq!(budgets.memory.used(), 0);
    // It is being loaded.
    let (load, due) = loading(&mut state, &budgets);
    let manual = Due { key: DeliveryKey { due_at: after(1), ..due.key }, trigger: Trigger::Manual, ..due.clone() };
    state.series_ended(MessageKey(1), &budgets);
    state.loaded(vec![due, manual].into(), load, |_| false, &budgets);
    let triggers: Vec<Trigger> = state.window.iter().map(|delivery| delivery.trigger).collect();
    assert_eq!(triggers, [Trigger::Manual], "another one that a hand asked for is sent");
}

#[test]
fn a_retry_that_became_due_before_it_was_stored_is_looked_for() {
    let budgets = budgets();
    for (due_after_ms, looked_for) in [(1, true), (10, true), (11, false)] {
        let lane = new_lane();
        let mut state = lane.state.lock();
        let delivery = held(&mut state, &budgets);
        // While its result was being stored, the lane loaded, without finding it.
        state.loaded_until = NOW.saturating_add(Duration::from_millis(10));
        let next_at = NOW.saturating_add(Duration::from_millis(due_after_ms));
        state.settled(&delivery, Some(next_at), 0, &budgets);
        assert_eq!((state.more, state.unparked), (looked_for, looked_for), "{due_after_ms} ms");
    }
}

fn after(millis: u64) -> Timestamp {
    NOW.saturating_add(Duration::from_millis(millis))
}

fn ready(application_rate: Option<u16>) -> Arc<Ready> {
    let url = postrider_domain::endpoint::EndpointUrl::parse("http://127.0.0.1/").unwrap();
    let endpoint = postrider_domain::endpoint::Endpoint {
        id: postrider_domain::ids::EndpointId::new(NOW, &SeededEntropy::new(1)),
        uid: None,
        url,
        description: String::new(),
        version: 1,
        disabled: false,
        disablement: None,
        held: None,
        event_types: None,
        channels: None,
        throttle_rate: None,
        metadata: std::collections::BTreeMap::new(),
        created_at: NOW,
        updated_at: NOW,
    };
    let secret = postrider_domain::signature::Secret::generate(
        postrider_domain::signature::SecretKind::Hmac256,
        &SeededEntropy::new(1),
    );
    let target = Target {
        key: EndpointKey(1),
        application: OWNER.application,
        environment: OWNER.environment,
        endpoint,
        event_types: None,
        headers: postrider_domain::endpoint::Headers::default(),
        keys: postrider_domain::signature::SigningKeys::new(secret),
        application_rate,
        receiver: 0,
    };
    Arc::new(Ready {
        prepared: crate::sender::Sender::unprepared(OWNER),
        url: target.endpoint.url.as_str().into(),
        target: Arc::new(target),
    })
}

/// A lane of somebody's endpoint, with a permit.
fn lane_of(owner: Owner, budgets: &Budgets) -> Lane {
    assert!(budgets.permits.open(Some(owner)));
    let lane = Lane::new(EndpointKey(1), Some(owner), Pace::new(4), false);
    lane.state.lock().set_ready(ready(None), budgets);
    lane
}

/// A lane of a known endpoint, with a permit.
fn open_lane(budgets: &Budgets, application_rate: Option<u16>) -> Lane {
    assert!(budgets.permits.open(Some(OWNER)));
    let lane = new_lane();
    lane.state.lock().set_ready(ready(application_rate), budgets);
    lane
}

fn hold(millis: u64) -> Hold {
    Hold { until: after(millis), reason: HoldReason::Asked }
}

#[test]
fn a_delivery_that_was_refused_while_its_batch_is_on_its_way_is_found() {
    let (budgets, lane) = (budgets(), open_lane(&budgets(), None));
    let (mut state, stored) = (lane.state.lock(), Stored(vec![5]));
    state.more = true;
    assert!(!state.offer(&numbered(5), MessageKey(5), &budgets));
    // Others are to be offered it still, and then this endpoint is brought up again.
    assert_eq!(stored.load(&mut state, &budgets, 4), (None, vec![]));
    assert_eq!(stored.load(&mut state, &budgets, 5), (None, vec![5]));
}

#[test]
fn an_endpoint_that_is_held_back_gives_its_lane_back_and_loses_nothing() {
    let budgets = budgets();
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    assert!(state.offer(&message(), MessageKey(1), &budgets));
    state.pace.hold_back(hold(3_600_000));
    let Step::Hold(noted) = state.next_step(NOW, &budgets) else { panic!("it is noted") };
    assert_eq!(noted, hold(3_600_000));
    assert_eq!(budgets.memory.used(), 0, "what waited is in the store only");
    // What comes meanwhile is found at the end of the hold.
    state.wake();
    state.hold_done(true);
    assert!(matches!(state.next_step(NOW, &budgets), Step::Close { waits: false }));
    assert_eq!(state.noted_hold(), Some(hold(3_600_000).until));
}

/// A lane of an endpoint that was held back before there was the lane, whose target is being read.
fn lane_that_reads(budgets: &Budgets) -> Lane {
    assert!(budgets.permits.open(Some(OWNER)));
    let mut pace = Pace::new(4);
    pace.hold_back(hold(3_600_000));
    let lane = Lane::new(EndpointKey(1), Some(OWNER), pace, true);
    let mut state = lane.state.lock();
    state.wake();
    assert!(matches!(state.next_step(NOW, budgets), Step::Target) && state.doubts_hold());
    drop(state);
    lane
}

#[test]
fn a_hold_that_the_store_has_lifted_is_over_and_one_that_stands_is_noted_again() {
    for lifted in [true, false] {
        let budgets = budgets();
        let lane = lane_that_reads(&budgets);
        let mut state = lane.state.lock();
        state.target_read();
        state.hold_read((!lifted).then(|| hold(3_600_000)));
        state.set_ready(ready(None), &budgets);
        match state.next_step(NOW, &budgets) {
            Step::Load(_) => assert!(lifted),
            Step::Hold(noted) => assert!(!lifted && noted == hold(3_600_000)),
            _ => panic!("it sends, or is held back"),
        }
    }
}

#[test]
fn a_hold_that_is_lifted_while_or_after_it_is_read_is_looked_at_again() {
    for changed_while_read in [true, false] {
        let budgets = budgets();
        let lane = lane_that_reads(&budgets);
        let mut state = lane.state.lock();
        if changed_while_read {
            state.mark_stale();
        }
        state.target_read();
        state.hold_read(Some(hold(3_600_000)));
        state.set_ready(ready(None), &budgets);
        if !changed_while_read {
            state.mark_stale();
        }
        assert!(matches!(state.next_step(NOW, &budgets), Step::Target) && state.doubts_hold());
        state.target_read();
        state.hold_read(None);
        state.set_ready(ready(None), &budgets);
        assert!(matches!(state.next_step(NOW, &budgets), Step::Load(_)));
    }
}

#[test]
fn a_hold_that_the_store_does_not_note_is_over_and_the_endpoint_is_read_again() {
    let budgets = budgets();
    let lane = lane_that_reads(&budgets);
    let mut state = lane.state.lock();
    state.target_read();
    state.hold_read(Some(hold(3_600_000)));
    state.set_ready(ready(None), &budgets);
    assert!(matches!(state.next_step(NOW, &budgets), Step::Hold(_)));
    state.hold_done(false);
    assert!(matches!(state.next_step(NOW, &budgets), Step::Target) && !state.doubts_hold());
    state.target_read();
    state.set_ready(ready(None), &budgets);
    assert!(matches!(state.next_step(NOW, &budgets), Step::Load(_)), "it sends what is due");
}

#[test]
fn a_lane_that_was_not_told_of_another_receiver_sees_it_by_what_is_offered_or_loaded() {
    for is_offered in [true, false] {
        let budgets = budgets();
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        state.wake();
        let Step::Load(load) = state.next_step(NOW, &budgets) else { panic!("it loads") };
        let found = |receiver| DueSlice { receiver, ..DueSlice::default() };
        assert!(state.loaded(found(Some(0)), load, |_| false, &budgets).is_empty());
        assert!(matches!(state.next_step(NOW, &budgets), Step::Park(_)), "it is the same");
        state.park_done();
        if is_offered {
            state.sees_receiver(1);
        } else {
            state.wake();
            let Step::Load(load) = state.next_step(NOW, &budgets) else { panic!("it loads") };
            assert!(state.loaded(found(Some(1)), load, |_| false, &budgets).is_empty());
        }
        state.wake();
        assert!(matches!(state.next_step(NOW, &budgets), Step::Target));
    }
}

#[test]
fn what_a_former_receiver_answers_is_not_learned() {
    let budgets = budgets();
    for (receiver, is_learned) in [(0, true), (1, false)] {
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        let outcome = Outcome::Answered { status: 503, retry_after: None, body: Bytes::new() };
        let until = hold(3_600_000).until;
        let next = Next::Waiting(until);
        let decision = Decision { next, elsewhere: next, against: None, hold_until: Some(until) };
        state.learn(receiver, &outcome, &decision, NOW);
        assert_eq!(state.pace.hold(NOW).is_some(), is_learned, "{receiver}");
    }
}

#[test]
fn what_was_learned_of_one_receiver_does_not_hold_another_back() {
    let budgets = budgets();
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    assert!(state.offer(&message(), MessageKey(1), &budgets));
    state.pace.hold_back(hold(500));
    state.set_ready(ready(Some(7)), &budgets);
    assert!(state.pace.hold(NOW).is_some(), "a rate says nothing of the receiver");
    let other = ready(None);
    let mut target = other.target.as_ref().clone();
    target.receiver += 1;
    let other = Ready { target: Arc::new(target), prepared: Arc::clone(&other.prepared), url: "".into() };
    state.set_ready(Arc::new(other), &budgets);
    assert!(matches!(state.next_step(NOW, &budgets), Step::Work(..)));
}

#[test]
fn an_endpoint_that_was_disabled_while_it_was_held_back_leaves_nothing_in_the_store() {
    let budgets = budgets();
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    let mut target = ready(None).target.as_ref().clone();
    target.endpoint.disabled = true;
    let off = Ready { target: Arc::new(target), prepared: ready(None).prepared.clone(), url: "".into() };
    state.set_ready(Arc::new(off), &budgets);
    state.wake();
    assert!(matches!(state.next_step(NOW, &budgets), Step::Cancel));
    assert_eq!(state.cancel_done(1_000, true), 0, "there are more");
    assert!(matches!(state.next_step(NOW, &budgets), Step::Cancel));
    assert_eq!(state.cancel_done(1, false), 1_001);
    assert!(matches!(state.next_step(NOW, &budgets), Step::Park(_)), "which ends the hold");
    state.park_done();
    assert!(matches!(state.next_step(NOW, &budgets), Step::Close { waits: false }));
}

#[test]
fn an_endpoint_of_which_nothing_is_removed_may_be_enabled_and_is_read_again_once() {
    for is_enabled in [false, true] {
        let budgets = budgets();
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        let off = || {
            let mut target = ready(None).target.as_ref().clone();
            target.endpoint.disabled = true;
            Arc::new(Ready { target: Arc::new(target), prepared: ready(None).prepared.clone(), url: "".into() })
        };
        state.set_ready(off(), &budgets);
        state.wake();
        assert!(matches!(state.next_step(NOW, &budgets), Step::Cancel));
        state.cancel_done(0, false);
        assert!(matches!(state.next_step(NOW, &budgets), Step::Target));
        state.target_read();
        if is_enabled {
            state.set_ready(ready(None), &budgets);
            assert!(matches!(state.next_step(NOW, &budgets), Step::Load(_)), "what is due there is sent");
        } else {
            state.set_ready(off(), &budgets);
            assert!(matches!(state.next_step(NOW, &budgets), Step::Park(_)));
            state.park_done();
            assert!(matches!(state.next_step(NOW, &budgets), Step::Close { waits: false }));
        }
    }
}

#[test]
fn a_short_pause_is_waited_for_unless_others_want_the_lane() {
    let budgets = with_permits(1);
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    assert!(state.offer(&message(), MessageKey(1), &budgets));
    state.pace.hold_back(hold(500));
    assert!(matches!(state.next_step(NOW, &budgets), Step::WaitUntil(at) if at == after(500)));
    assert!(matches!(state.next_step(NOW, &budgets), Step::Idle));
    assert!(budgets.turns.push(EndpointKey(2), None));
    assert!(matches!(state.next_step(NOW, &budgets), Step::Hold(_)));
}

#[test]
fn a_hold_that_ends_while_requests_are_under_way_leaves_nothing_behind() {
    let budgets = budgets();
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    for number in 1..=3 {
        assert!(state.offer(&message(), MessageKey(number), &budgets));
    }
    let Step::Work(under_way, _) = state.next_step(NOW, &budgets) else { panic!("a request") };
    state.pace.hold_back(hold(5_000));
    assert!(matches!(state.next_step(NOW, &budgets), Step::Idle));
    state.worker_left(&budgets);
    state.settled(&under_way, None, 0, &budgets);
    assert!(matches!(state.next_step(after(5_000), &budgets), Step::Load(_)), "what was dropped is loaded again");
}

#[test]
fn a_lane_that_had_its_turn_makes_room_when_its_requests_are_over() {
    let budgets = with_permits(1);
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    for number in 1..=8 {
        assert!(state.offer(&message(), MessageKey(number), &budgets));
    }
    let Step::Work(under_way, _) = state.next_step(NOW, &budgets) else { panic!("a request") };
    assert!(budgets.turns.push(EndpointKey(2), None));
    assert!(state.take(after(999), &budgets).is_some(), "its turn is not over");
    assert!(state.take(after(1_000), &budgets).is_none());
    assert!(matches!(state.next_step(after(1_000), &budgets), Step::Idle));
    state.worker_left(&budgets);
    state.settled(&under_way, None, 0, &budgets);
    let other = Held { key: DeliveryKey { message: MessageKey(2), ..under_way.key }, ..under_way };
    state.settled(&other, None, 0, &budgets);
    assert!(matches!(state.next_step(after(1_000), &budgets), Step::Close { waits: true }));
}

#[test]
fn a_lane_whose_application_has_less_than_its_share_goes_on_while_another_one_waits_for_its_own() {
    let budgets = with_permits(100);
    while budgets.permits.open(Some(owner(1, 2))) {}
    assert!(budgets.turns.push(EndpointKey(2), Some(owner(1, 2))));
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    for number in 1..=2 {
        assert!(state.offer(&message(), MessageKey(number), &budgets));
    }
    assert!(matches!(state.next_step(NOW, &budgets), Step::Work(..)));
    assert!(state.take(after(60_000), &budgets).is_some(), "nobody waits for what it has");
}

/// An application has all that is to be had, and another one its share of that; one more endpoint of the other waits, and none of ours.
fn with_one_that_waits(its_permits: u32, our_permits: u32) -> (Budgets, Lane) {
    let budgets = with_permits(100);
    let (other, ours) = (owner(2, 2), owner(1, 1));
    assert_eq!(OWNER, ours);
    for _ in 0..its_permits {
        assert!(budgets.permits.open(Some(other)));
    }
    let lane = open_lane(&budgets, None);
    for _ in 1..our_permits {
        assert!(budgets.permits.open(Some(ours)));
    }
    while (3..1_000).any(|number| budgets.permits.open(Some(owner(number, number)))) {}
    assert!(budgets.permits.is_short(Some(ours)));
    assert!(budgets.turns.push(EndpointKey(2), Some(other)));
    (budgets, lane)
}

#[test]
fn a_lane_makes_no_room_for_whoever_has_as_much_as_its_own_application() {
    for (its, ours, is_over) in [(9, 9, false), (12, 9, false), (5, 9, true)] {
        let (budgets, lane) = with_one_that_waits(its, ours);
        let mut state = lane.state.lock();
        for number in 1..=4 {
            assert!(state.offer(&message(), MessageKey(number), &budgets));
        }
        assert!(matches!(state.next_step(NOW, &budgets), Step::Work(..)));
        assert_eq!(state.take(after(60_000), &budgets).is_none(), is_over, "{its} beside {ours}");
        // It has another turn, and then it is looked at again.
        if !is_over {
            assert!(budgets.turns.push(EndpointKey(3), Some(OWNER)));
            assert!(state.take(after(60_500), &budgets).is_some());
            assert!(state.take(after(61_000), &budgets).is_none(), "an endpoint of its own application waits");
        }
    }
}

#[test]
fn a_store_that_is_slow_costs_a_lane_no_turn_and_one_that_fails_does() {
    let budgets = with_permits(1);
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    state.wake();
    assert!(budgets.turns.push(EndpointKey(2), None));
    let Step::Load(load) = state.next_step(NOW, &budgets) else { panic!("it loads") };
    let due = Due {
        key: DeliveryKey { due_at: NOW, message: MessageKey(1) },
        made: 0,
        trigger: Trigger::Scheduled,
        fresh: false,
        message: Some(message()),
    };
    assert!(state.loaded(vec![due].into(), load, |_| false, &budgets).is_empty());
    assert!(matches!(state.next_step(after(5_000), &budgets), Step::Work(..)), "its turn begins now");

    let budgets = with_permits(1);
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    state.wake();
    assert!(matches!(state.next_step(NOW, &budgets), Step::Load(_)));
    assert!(budgets.turns.push(EndpointKey(2), None));
    state.store_failed(after(500), &budgets);
    assert!(matches!(state.next_step(NOW, &budgets), Step::WaitUntil(_)));
    assert!(matches!(state.next_step(after(1_000), &budgets), Step::Close { waits: true }));
}

#[test]
fn what_was_put_back_waits_in_the_store_where_it_may_be_erased() {
    let budgets = budgets();
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    for number in 1..=2 {
        assert!(state.offer(&message(), MessageKey(number), &budgets));
    }
    let Step::Work(delivery, _) = state.next_step(NOW, &budgets) else { panic!("a request") };
    state.put_back(delivery, NOW, &budgets);
    state.worker_left(&budgets);
    assert!(state.held.is_empty() && budgets.memory.used() == 0);
    assert!(matches!(state.next_step(NOW, &budgets), Step::WaitUntil(_)));
    let Step::Load(load) = state.next_step(after(250), &budgets) else { panic!("it is loaded again") };
    assert_eq!(load.after, None);
}

#[test]
fn what_has_no_payload_is_not_loaded_without_end_while_the_store_takes_no_results() {
    let budgets = budgets();
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    state.wake();
    let (mut number, mut loads) = (0, 0);
    while let Step::Load(load) = state.next_step(NOW, &budgets) {
        let mut due = || {
            number += 1;
            let key = DeliveryKey { due_at: NOW, message: MessageKey(number) };
            Due { key, made: 0, trigger: Trigger::Scheduled, fresh: false, message: None }
        };
        let found: Vec<Due> = (0..load.limit).map(|_| due()).collect();
        assert_eq!(state.loaded(found.into(), load, |_| false, &budgets).len(), load.limit);
        loads += 1;
        assert!(loads < 10_000, "it ends");
    }
    let first = DeliveryKey { due_at: NOW, message: MessageKey(1) };
    while state.held.len() >= MAX_HELD {
        let key = *state.held.iter().next().unwrap_or(&first);
        state.canceled(&key);
    }
    assert!(matches!(state.next_step(NOW, &budgets), Step::Load(_)), "it goes on when results are stored");
}

#[test]
fn a_lane_whose_memory_is_refused_asks_seldom() {
    let budgets = with_memory(0);
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    state.wake();
    let (mut loads, mut now) = (0, NOW);
    while now < after(10_000) {
        match state.next_step(now, &budgets) {
            Step::Load(load) => {
                loads += 1;
                let due = Due {
                    key: DeliveryKey { due_at: NOW, message: MessageKey(1) },
                    made: 0,
                    trigger: Trigger::Scheduled,
                    fresh: false,
                    message: Some(message()),
                };
                assert!(state.loaded(vec![due].into(), load, |_| false, &budgets).is_empty());
            }
            Step::WaitUntil(at) => {
                state.timer_done(at);
                now = at;
            }
            _ => panic!("it waits for memory"),
        }
    }
    assert!((10..60).contains(&loads), "{loads}");
}

/// A lane with one delivery in the store, of so many bytes.
struct Waiting {
    lane: Lane,
    message: MessageKey,
    payload: usize,
    delivered: Option<Held>,
    look_at: Timestamp,
}

fn too_large(payload_bytes: usize) -> TooLarge {
    TooLarge { message: MessageKey(1), payload_bytes }
}

/// So many of them, each with a message of its own.
fn waiting(count: i64, payload: usize, budgets: &Budgets) -> Vec<Waiting> {
    (1..=count).map(|number| Waiting::new(number, payload, budgets)).collect()
}

impl Waiting {
    fn new(message: i64, payload: usize, budgets: &Budgets) -> Self {
        let lane = open_lane(budgets, None);
        lane.state.lock().wake();
        Self { lane, message: MessageKey(message), payload, delivered: None, look_at: NOW }
    }

    /// It is delivered, and nothing else is there.
    fn end(&mut self, budgets: &Budgets) {
        if let Some(delivery) = self.delivered.take() {
            let mut state = self.lane.state.lock();
            state.worker_left(budgets);
            state.settled(&delivery, None, 0, budgets);
            self.look_at = Timestamp::MAX;
        }
    }

    /// Lets the lane act once at its time; how many bytes it read.
    fn act(&mut self, now: Timestamp, budgets: &Budgets) -> usize {
        if self.delivered.is_some() || self.look_at > now {
            return 0;
        }
        let mut state = self.lane.state.lock();
        match state.next_step(now, budgets) {
            Step::Load(load) => {
                let fits = self.payload <= load.max_bytes;
                let payload = Some(vec![b'x'; self.payload].into());
                let due = Due {
                    key: DeliveryKey { due_at: NOW, message: self.message },
                    made: 0,
                    trigger: Trigger::Scheduled,
                    fresh: false,
                    message: Some(Arc::new(Message { payload, ..Message::clone(&message()) })),
                };
                let found = if fits {
                    vec![due].into()
                } else {
                    let too_large = TooLarge { message: self.message, payload_bytes: self.payload };
                    DueSlice { too_large: Some(too_large), ..DueSlice::default() }
                };
                assert!(state.loaded(found, load, |_| false, budgets).is_empty());
                if fits { self.payload } else { 0 }
            }
            Step::Work(delivery, _) => {
                self.delivered = Some(delivery);
                0
            }
            Step::WaitUntil(at) => {
                state.timer_done(at);
                self.look_at = at;
                0
            }
            _ => 0,
        }
    }
}

#[test]
fn what_does_not_fit_is_read_when_there_is_memory_for_it_and_not_before() {
    const LARGE: usize = 1_900_000;
    let budgets = with_memory(8_000_000);
    let mut lanes = waiting(100, LARGE, &budgets);
    let (mut now, mut read) = (NOW, 0);
    for _ in 0..400 {
        // In each round they act one after the other, step by step, as they do on a busy machine.
        for _ in 0..4 {
            read += lanes.iter_mut().map(|waiting| waiting.act(now, &budgets)).sum::<usize>();
        }
        now = now.saturating_add(Duration::from_millis(50));
    }
    let taken = lanes.iter().filter(|waiting| waiting.delivered.is_some()).count();
    assert!((2..=8).contains(&taken), "as many as may be overdrawn: {taken}");
    assert_eq!(read, taken * LARGE, "nothing was read in vain");
    // They are delivered, and the others come one after the other.
    for _ in 0..1_000 {
        for waiting in &mut lanes {
            waiting.end(&budgets);
            read += waiting.act(now, &budgets);
        }
        now = now.saturating_add(Duration::from_millis(50));
    }
    assert_eq!(read, 100 * LARGE, "each was read once");
    assert_eq!(budgets.memory.used(), 0);
}

/// What is to be tried again at 300 endpoints that hang.
#[test]
fn one_message_for_many_endpoints_is_paid_for_once_and_all_of_them_have_it() {
    const LARGE: usize = 1_000_000;
    let budgets = Budgets { permits: Permits::new(10_000), ..with_memory(4_000_000) };
    let mut lanes: Vec<_> = (0..300).map(|_| Waiting::new(1, LARGE, &budgets)).collect();
    let (mut now, mut read) = (NOW, 0);
    for _ in 0..20 {
        for _ in 0..4 {
            read += lanes.iter_mut().map(|waiting| waiting.act(now, &budgets)).sum::<usize>();
        }
        now = now.saturating_add(Duration::from_millis(50));
    }
    assert!(lanes.iter().all(|waiting| waiting.delivered.is_some()));
    assert_eq!(read, 300 * LARGE, "each has read it once");
    let payloads: HashSet<_> = lanes
        .iter()
        .filter_map(|waiting| Some(waiting.delivered.as_ref()?.message.payload.as_ref()?.as_ptr()))
        .collect();
    assert_eq!(payloads.len(), 1, "it is in memory once");
    assert_eq!(budgets.memory.used(), (LARGE + 300 * 512) as i64);
    // The one that paid for it is not the last one.
    for (place, waiting) in lanes.iter_mut().enumerate() {
        waiting.end(&budgets);
        let left = 299 - place as i64;
        assert_eq!(budgets.memory.used(), if left > 0 { LARGE as i64 + left * 512 } else { 0 });
    }
}

/// One application has a thousand endpoints that hang.
#[test]
fn what_endpoints_that_share_a_message_cost_takes_nothing_of_what_others_have_for_large_ones() {
    const LARGE: usize = 300_000;
    let budgets = Budgets { permits: Permits::new(10_000), ..with_memory(1 << 20) };
    let mut lanes: Vec<_> = (0..1_000).map(|_| Waiting::new(1, 1_900_000, &budgets)).collect();
    let mut now = NOW;
    for _ in 0..100 {
        lanes.iter_mut().for_each(|waiting| _ = waiting.act(now, &budgets));
        now = now.saturating_add(Duration::from_millis(250));
    }
    let held = lanes.iter().filter(|waiting| waiting.delivered.is_some()).count();
    assert!((50..500).contains(&held), "its part of what is for small ones: {held}");
    let other = Some(owner(2, 2));
    assert!(budgets.memory.of(LARGE as u64).try_take(other, 0, LARGE as u64).is_some());
    assert!(budgets.memory.of(1).try_take(other, 0, 10_000).is_some());
    lanes.iter_mut().for_each(|waiting| waiting.end(&budgets));
    assert_eq!(budgets.memory.used(), LARGE as i64 + 10_000);
}

/// A large message.
fn large(bytes: usize) -> Arc<Message> {
    Arc::new(Message { payload: Some(vec![b'x'; bytes].into()), ..Message::clone(&message()) })
}

/// So many bytes of memory, where small messages of hanging endpoints of [`OWNER`] have all that it may have for those: nothing is
/// left for what a large one costs beside its payload.
fn without_memory_for_small_ones(bytes: u64) -> (Budgets, Vec<Waiting>) {
    let budgets = Budgets { permits: Permits::new(10_000), ..with_memory(bytes) };
    let mut hanging = Vec::new();
    for payload in [15_800, 700, 0] {
        loop {
            let mut waiting = Waiting::new(hanging.len() as i64, payload, &budgets);
            (0..4).for_each(|_| _ = waiting.act(NOW, &budgets));
            if waiting.delivered.is_none() {
                break;
            }
            hanging.push(waiting);
        }
    }
    assert!(hanging.len() > 10 && budgets.memory.of(1).try_take(Some(OWNER), 0, OVERHEAD_BYTES).is_none());
    (budgets, hanging)
}

#[test]
fn a_large_message_of_one_whose_small_ones_hang_is_not_read_in_vain_and_keeps_nobody_waiting() {
    for memory in [1 << 20, 8 << 20, 32 << 20] {
        let (budgets, mut hanging) = without_memory_for_small_ones(memory);
        let mut one = Waiting::new(-1, 20_000, &budgets);
        let (mut now, mut loads) = (after(10_000), 0);
        let end = after(20_000);
        while now < end {
            for _ in 0..4 {
                loads += usize::from(one.act(now, &budgets) > 0);
            }
            let other = Some(owner(2, 2));
            assert!(!budgets.memory.of(100_000).is_starving(other, 100_000, now), "{memory}");
            assert_eq!(budgets.memory.of(100_000).used(), 0, "{memory}");
            now = now.saturating_add(Duration::from_millis(50));
        }
        assert_eq!(loads, 0, "{memory}");
        let (others, large) = (lane_of(owner(2, 2), &budgets), large(100_000));
        let mut state = others.state.lock();
        assert!(state.offer(&large, MessageKey(-2), &budgets), "{memory}");
        assert!(matches!(state.next_step(now, &budgets), Step::Work(..)));
        // As soon as there is room for it, it is sent.
        hanging.iter_mut().for_each(|waiting| waiting.end(&budgets));
        for _ in 0..10 {
            loads += usize::from(one.act(now, &budgets) > 0);
            now = now.saturating_add(Duration::from_millis(250));
        }
        assert_eq!((loads, one.delivered.is_some()), (1, true), "{memory}");
    }
}

#[test]
fn a_lane_that_can_share_a_payload_takes_nothing_of_what_is_for_large_messages() {
    const LARGE: usize = 1_000_000;
    let budgets = with_memory(8_000_000);
    let first = open_lane(&budgets, None);
    assert!(first.state.lock().offer(&large(LARGE), MessageKey(1), &budgets));
    // What there is for small ones is taken, and so only what may be overdrawn is left of that.
    budgets.memory.of(1).charge(None, 2_000_000);
    let of_large = budgets.memory.of(LARGE as u64).used();
    let mut second = Waiting::new(1, LARGE, &budgets);
    let mut state = second.lane.state.lock();
    let Step::Load(look) = state.next_step(NOW, &budgets) else { panic!("it looks what is there") };
    let beyond = DueSlice { too_large: Some(too_large(LARGE)), ..DueSlice::default() };
    assert!(state.loaded(beyond, look, |_| false, &budgets).is_empty());
    let Step::Load(load) = state.next_step(NOW, &budgets) else { panic!("it loads at once") };
    assert_eq!(budgets.memory.of(LARGE as u64).used(), of_large);
    assert!(load.max_bytes >= LARGE);
    (state.busy, state.more) = (None, true);
    state.give_back_reserved(&budgets);
    drop(state);
    let read: usize = (0..4).map(|_| second.act(NOW, &budgets)).sum();
    assert!(read == LARGE && second.delivered.is_some());
    assert_eq!(budgets.memory.of(LARGE as u64).used(), of_large);
}

#[test]
fn what_was_taken_for_a_load_pays_for_what_it_finds_whatever_others_took_meanwhile() {
    for payload in [10_000, 300_000] {
        let budgets = with_memory(8_000_000);
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        state.wake();
        let Step::Load(look) = state.next_step(NOW, &budgets) else { panic!("it looks what is there") };
        let beyond = DueSlice { too_large: Some(too_large(payload)), ..DueSlice::default() };
        assert!(state.loaded(beyond, look, |_| false, &budgets).is_empty());
        let Step::Load(load) = state.next_step(NOW, &budgets) else { panic!("there is room") };
        for size in [1 << 20, 1] {
            let memory = budgets.memory.of(size);
            while memory.try_take(Some(OWNER), 0, size.max(OVERHEAD_BYTES)).is_some() {}
        }
        let key = DeliveryKey { due_at: NOW, message: MessageKey(1) };
        let message = Some(large(payload));
        let due = Due { key, made: 0, trigger: Trigger::Scheduled, fresh: false, message };
        let before = budgets.memory.used();
        assert!(state.loaded(vec![due].into(), load, |_| false, &budgets).is_empty());
        assert_eq!(state.held.len(), 1, "{payload}");
        // What was taken for more is given back.
        assert!(budgets.memory.used() <= before);
        let rest = budgets.memory.used();
        state.drop_window(&budgets);
        assert_eq!(rest - budgets.memory.used(), payload as i64 + OVERHEAD_BYTES as i64);
    }
}

#[test]
fn a_lane_with_large_messages_overdraws_what_is_for_small_ones_once() {
    let budgets = with_memory(32 << 20);
    // Of another environment.
    budgets.memory.of(1).charge(Some(owner(2, 2)), 8 << 20);
    let (lane, large) = (open_lane(&budgets, None), large(17_000));
    let taken = (1..=200).filter(|number| lane.state.lock().offer(&large, MessageKey(*number), &budgets)).count();
    assert_eq!(taken, 1);
}

#[test]
fn what_others_have_sent_does_not_fill_the_window_of_an_endpoint_that_hangs() {
    const LARGE: usize = 100_000;
    let budgets = with_memory(4_000_000);
    let (hangs, sends) = (open_lane(&budgets, None), open_lane(&budgets, None));
    let mut hung = 0;
    for number in 1..=200 {
        let large = Arc::new(Message { payload: Some(vec![b'x'; LARGE].into()), ..Message::clone(&message()) });
        let mut state = sends.state.lock();
        assert!(state.offer(&large, MessageKey(number), &budgets), "{number}");
        let Step::Work(delivery, _) = state.next_step(NOW, &budgets) else { panic!("a request") };
        hung += usize::from(hangs.state.lock().offer(&large, MessageKey(number), &budgets));
        state.worker_left(&budgets);
        state.settled(&delivery, None, 0, &budgets);
    }
    let alone = with_memory(4_000_000);
    let lane = open_lane(&alone, None);
    let large = Arc::new(Message { payload: Some(vec![b'x'; LARGE].into()), ..Message::clone(&message()) });
    let most = (1..=200).filter(|number| lane.state.lock().offer(&large, MessageKey(*number), &alone)).count();
    assert!(hung <= most, "{hung} of {most}");
}

/// Two have memory at a time, and all have more to send, whose requests take no time at all.
#[test]
fn whoever_is_refused_memory_has_it_before_those_who_had_it() {
    let budgets = with_memory(8_000_000);
    let mut lanes = waiting(6, 1_900_000, &budgets);
    let (mut now, mut sent) = (NOW, [0; 6]);
    for _ in 0..1_000 {
        for (waiting, sent) in lanes.iter_mut().zip(&mut sent) {
            if let Some(delivery) = waiting.delivered.take() {
                let mut state = waiting.lane.state.lock();
                state.worker_left(&budgets);
                state.settled(&delivery, None, 0, &budgets);
                state.wake();
                waiting.look_at = now;
                *sent += 1;
            }
            // It has all it asks for before anybody else looks.
            for _ in 0..4 {
                waiting.act(now, &budgets);
            }
        }
        now = now.saturating_add(Duration::from_millis(50));
    }
    assert!(sent.iter().all(|sent| *sent >= 10), "{sent:?}");
}

/// Another lane of its application has nothing and was refused memory for a large message.
#[test]
fn a_lane_that_has_nothing_lets_those_go_first_who_were_refused_memory_of_the_same_kind() {
    const LARGE: usize = 100_000;
    let budgets = budgets();
    budgets.memory.of(LARGE as u64).starves(Some(OWNER), LARGE as u64, NOW);
    let payload = Some(Bytes::from(vec![b'x'; LARGE]));
    let large = Arc::new(Message { payload, ..Message::clone(&message()) });
    // One that comes with its commit.
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    assert!(!state.offer(&large, MessageKey(1), &budgets));
    assert!(matches!(state.next_step(NOW, &budgets), Step::WaitUntil(at) if at > NOW));
    assert!(matches!(state.next_step(after(500), &budgets), Step::Load(load) if load.max_bytes >= LARGE));
    // One that is come across in the store.
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    state.wake();
    let Step::Load(load) = state.next_step(NOW, &budgets) else { panic!("a small one may be next") };
    let key = DeliveryKey { due_at: NOW, message: MessageKey(1) };
    let due = Due { key, made: 0, trigger: Trigger::Scheduled, fresh: false, message: Some(large) };
    assert!(state.loaded(vec![due.clone()].into(), load, |_| false, &budgets).is_empty());
    assert!(state.held.is_empty());
    assert!(matches!(state.next_step(NOW, &budgets), Step::WaitUntil(at) if at > NOW));
    // When it has waited, it is its turn, whoever else was refused meanwhile.
    budgets.memory.of(LARGE as u64).starves(Some(OWNER), LARGE as u64, after(499));
    let Step::Load(load) = state.next_step(after(500), &budgets) else { panic!("it has waited") };
    assert!(state.loaded(vec![due].into(), load, |_| false, &budgets).is_empty());
    assert!(matches!(state.next_step(after(500), &budgets), Step::Work(..)));
}

/// An environment that has nothing was refused 2 MB.
#[test]
fn what_is_smaller_does_not_wait_for_a_large_message_of_somebody_else() {
    let budgets = budgets();
    budgets.memory.of(2_000_000).charge(Some(owner(3, 3)), 1);
    budgets.memory.of(2_000_000).starves(Some(owner(2, 2)), 2_000_000, NOW);
    for (bytes, waits) in [(17_000, false), (100_000, false), (2_000_000, true)] {
        let large = Arc::new(Message { payload: Some(vec![b'x'; bytes].into()), ..Message::clone(&message()) });
        let lane = open_lane(&budgets, None);
        let mut state = lane.state.lock();
        // What there is room for in these small budgets is not what is asked here.
        let _ = state.offer(&large, MessageKey(bytes as i64), &budgets);
        let starving = budgets.memory.of(bytes as u64).is_starving(Some(OWNER), bytes as u64, NOW);
        assert_eq!(starving, waits, "{bytes}");
        assert!(waits || !state.held.is_empty(), "{bytes}");
    }
    // Of the same application whoever needs crumbs goes first, and nobody else.
    budgets.memory.of(2_000_000).starves(Some(OWNER), 2_000_000, NOW);
    let starving = |bytes| budgets.memory.of(bytes).is_starving(Some(OWNER), bytes, NOW);
    assert_eq!([17_000, 60_000, 100_000].map(starving), [false, false, true]);
}

#[test]
fn the_least_of_what_was_refused_counts_as_long_as_it_is_refused() {
    let budgets = budgets();
    let memory = budgets.memory.of(1_000_000);
    let other = Some(owner(2, 2));
    memory.charge(Some(owner(3, 3)), 1);
    memory.starves(other, 100_000, NOW);
    for millis in [200, 390, 410, 600] {
        memory.starves(other, 2_000_000, after(millis));
        let starving = memory.is_starving(Some(OWNER), 500_000, after(millis));
        assert_eq!(starving, millis < 400, "{millis}");
    }
}

#[test]
fn what_memory_was_refused_for_is_known_until_that_very_message_is_gone() {
    let budgets = budgets();
    let lane = open_lane(&budgets, None);
    let mut state = lane.state.lock();
    let beyond = |payload_bytes| DueSlice { too_large: Some(too_large(payload_bytes)), ..DueSlice::default() };
    let load = |state: &mut State| {
        state.wake();
        let Step::Load(load) = state.next_step(NOW, &budgets) else { panic!("it loads") };
        load
    };
    let first = load(&mut state);
    assert!(state.loaded(beyond(300_000), first, |_| false, &budgets).is_empty());
    let other: Messages = [MessageKey(2)].into_iter().collect();
    assert!(state.withdraw(&other).is_empty());
    state.series_ended(MessageKey(2), &budgets);
    let second = load(&mut state);
    assert!(second.max_bytes >= 300_000, "memory was taken before it was read");
    assert!(state.loaded(beyond(300_000), second, |_| false, &budgets).is_empty());
    let own: Messages = [MessageKey(1)].into_iter().collect();
    assert!(state.withdraw(&own).is_empty());
    assert!(load(&mut state).max_bytes < 300_000, "whatever is next");
}

#[test]
fn a_result_that_cannot_be_stored_keeps_neither_lane_nor_memory_and_is_not_made_again() {
    let (budgets, stuck) = (budgets(), crate::stuck::Stuck::default());
    let lane = Arc::new(open_lane(&budgets, None));
    for number in 1..=2 {
        assert!(lane.state.lock().offer(&message(), MessageKey(number), &budgets));
    }
    let Step::Work(sent, _) = lane.state.lock().next_step(NOW, &budgets) else { panic!("a request") };
    let key = sent.key;
    let settlement = crate::worker::canceled(lane.key, key, 0, Trigger::Scheduled);
    lane.state.lock().worker_left(&budgets);
    // Meanwhile the receiver has asked for an hour.
    lane.state.lock().pace.hold_back(hold(3_600_000));
    assert!(matches!(lane.state.lock().next_step(NOW, &budgets), Step::Idle), "the result is waited for");
    let unsettled = crate::results::Unsettled { lane: Arc::clone(&lane), held: Some(sent), settlement };
    stuck.take(&unsettled, &budgets);
    assert!(matches!(lane.state.lock().next_step(NOW, &budgets), Step::Hold(_)));
    lane.state.lock().hold_done(true);
    assert!(matches!(lane.state.lock().next_step(NOW, &budgets), Step::Close { waits: false }));
    assert_eq!(budgets.memory.used(), 0);
    // The next lane leaves it out of what it loads.
    let mut left_out = HashSet::default();
    stuck.leave_out(lane.key, None, &mut left_out);
    assert_eq!(left_out.iter().collect::<Vec<_>>(), [&key]);
    stuck.leave_out(EndpointKey(2), None, &mut left_out);
    assert_eq!(left_out.len(), 1, "it is of its endpoint only");
}

#[test]
fn while_memory_is_short_a_lane_takes_what_its_message_needs_and_no_more() {
    let budgets = with_memory(4_000_000);
    // All of what is for small messages is taken; as much again may be overdrawn, a message for each lane.
    budgets.memory.of(1).charge(None, 1_000_000);
    let mut lanes = waiting(100, 1_000, &budgets);
    // All of them are on their way to the store at once.
    let (mut loads, mut now) = (Vec::new(), NOW);
    for _ in 0..10 {
        for (place, waiting) in lanes.iter_mut().enumerate() {
            let mut state = waiting.lane.state.lock();
            match state.next_step(now, &budgets) {
                Step::Load(load) if load.max_bytes >= 1_000 => loads.push(place),
                Step::Load(load) => {
                    let beyond = DueSlice { too_large: Some(too_large(1_000)), ..DueSlice::default() };
                    assert!(state.loaded(beyond, load, |_| false, &budgets).is_empty());
                }
                Step::WaitUntil(at) => state.timer_done(at),
                _ => {}
            }
        }
        now = now.saturating_add(Duration::from_secs(1));
    }
    assert_eq!(loads.len(), 100, "nobody is refused what is his");
}

#[test]
fn two_lanes_of_a_throttled_application_never_sleep_and_lose_no_permit() {
    let budgets = budgets();
    let lanes = [open_lane(&budgets, Some(10)), open_lane(&budgets, Some(10))];
    for lane in &lanes {
        for number in 1..=4 {
            assert!(lane.state.lock().offer(&message(), MessageKey(number), &budgets));
        }
    }
    let (mut now, mut sent) = (NOW, 0);
    while sent < 8 {
        let mut next = None;
        for lane in &lanes {
            let mut state = lane.state.lock();
            state.timer = None;
            match state.next_step(now, &budgets) {
                Step::Work(delivery, _) => {
                    sent += 1;
                    state.worker_left(&budgets);
                    state.settled(&delivery, None, 0, &budgets);
                    next = Some(now);
                }
                Step::WaitUntil(at) => next = next.or(Some(at)),
                Step::Close { .. } | Step::Idle => {}
                _ => panic!("it sends, or waits for an instant"),
            }
        }
        now = next.expect("a lane with deliveries has an instant to wait for");
    }
    assert_eq!(budgets.permits.free(), 998);
}
