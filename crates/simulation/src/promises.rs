//! What is promised, held against what happened.

use postrider_delivery::Usage;
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::{HoldReason, Next};
use postrider_domain::time::Timestamp;
use postrider_store::{EndpointKey, Settlement, Store, Target};

use crate::at_once::at_once;
use crate::book::{At, Book, Departure, Events, Limited, Rated, Seen, Settled};
use crate::bounds::ON_ITS_WAY;
use crate::broken::Broken;
use crate::place::Place;

/// The most attempts by the schedule: the first, and one after each wait.
const ATTEMPTS: u32 = 4;

/// What came of a seed.
#[derive(Debug)]
pub struct Report {
    /// Deliveries that were accepted.
    pub deliveries: usize,
    /// Requests that receivers saw.
    pub requests: usize,
    /// Promises that were broken.
    pub broken: Vec<Broken>,
    /// Whether it is the same over every store: nothing fails in it that only one has.
    pub is_the_same_over_all: bool,
    /// What happened, a line for each event.
    pub trace: Vec<String>,
}

/// Holds everything that was promised against what happened.
pub(crate) fn judge(
    store: &dyn Store,
    homes: &[Place],
    book: &Book,
    is_the_same_over_all: bool,
    quiet: bool,
) -> Report {
    let disabled = disabled_for_nothing(store, homes, book);
    book.note(|events| {
        let mut broken = std::mem::take(&mut events.broken);
        broken.extend(disabled);
        if quiet {
            broken.extend(events.accepted.keys().filter_map(|at| fate(events, *at)));
            let idle = |usage: &Usage| usage.requests == 0 && usage.memory_bytes == 0 && usage.permits == 0;
            broken.extend(events.left_over.filter(|usage| !idle(usage)).map(Broken::Leaked));
        } else {
            broken.push(Broken::NotQuiet);
        }
        broken.extend(events.acked.iter().filter(|id| !events.keys.contains_key(*id)).cloned().map(Broken::Lost));
        broken.extend(events.seen.iter().flat_map(|(endpoint, seen)| requests(events, *endpoint, seen)));
        broken.extend(
            events
                .rates
                .keys()
                .filter(|whose| is_too_fast(events, **whose))
                .map(|whose| Broken::TooFast(format!("{whose:?}"))),
        );
        Report {
            deliveries: events.accepted.len(),
            requests: events.seen.values().map(Vec::len).sum(),
            broken,
            is_the_same_over_all,
            trace: std::mem::take(&mut events.trace),
        }
    })
}

/// What is wrong with how a delivery ended.
fn fate(events: &Events, at: At) -> Option<Broken> {
    let (endpoint, message) = (at.0.0, at.1.0);
    let none = Vec::new();
    let settled = events.settled.get(&at).unwrap_or(&none);
    let accepted = events.accepted.get(&at).copied().unwrap_or_default();
    let (shut, erased) = (events.was_shut_since(at.0, accepted), events.erasing.contains(&at.1));
    let attempts = |trigger| settled.iter().filter(|settled| settled.attempted && settled.trigger == trigger).count();
    let (by_schedule, by_hand) = (attempts(Trigger::Scheduled), attempts(Trigger::Manual));
    let (series, asked) = events.added.get(&at).map_or((1, 0), |added| (1 + added.scheduled, added.manual));
    if by_schedule > ATTEMPTS as usize * series || by_hand > asked {
        return Some(Broken::OtherThanTheSchedule { endpoint, message, attempts: by_schedule + by_hand });
    }
    if settled.iter().any(|settled| settled.succeeded) || events.is_stuck(at) {
        return None;
    }
    let is_exhaustion = |settled: &Settled| settled.next == Next::Exhausted && settled.trigger == Trigger::Scheduled;
    let exhausted = settled.iter().any(is_exhaustion);
    if exhausted || shut || events.disabled_with_cause.contains(&at.0) {
        return None;
    }
    match settled.last().map(|settled| settled.next) {
        Some(Next::Canceled) if erased => None,
        Some(Next::Canceled) => Some(Broken::CanceledForNothing { endpoint, message }),
        _ => Some(Broken::Asleep { endpoint, message }),
    }
}

/// Looks at a request that leaves.
pub(crate) fn judge_departure(events: &mut Events, departs: Departure, target: &Target, id: &str) {
    let endpoint = departs.endpoint;
    events.progress(endpoint);
    let is_outdated = events
        .present
        .get(&endpoint)
        .is_some_and(|present| present.told.is_some_and(|told| told < departs.at) && !is_same(&present.target, target));
    if is_outdated {
        events.breaks(Broken::Outdated(endpoint.0));
    }
    let Some(message) = events.keys.get(id).copied() else { return };
    let at = (endpoint, message);
    let waits = events.waits.get(&at).is_some_and(|until| departs.at < *until);
    let asked_for_by_hand = events.added.get(&at).is_some_and(|added| added.manual > 0);
    if waits && !asked_for_by_hand {
        events.breaks(Broken::TooEarly { endpoint: endpoint.0, message: message.0 });
    }
    if events.is_stuck(at) && !events.added.contains_key(&at) {
        events.breaks(Broken::SentAgain { endpoint: endpoint.0, message: message.0 });
    }
}

/// Looks at a result that was stored for the first time: its delivery `waited` for it, or had ended before.
pub(crate) fn judge_attempt(events: &mut Events, item: &Settlement, waited: bool) {
    if item.trigger != Trigger::Scheduled || item.attempt.is_none() || !waited {
        return;
    }
    let made = events.made.entry((item.endpoint, item.delivery.message)).or_default();
    let before = std::mem::replace(made, item.made + 1);
    let is_last = item.made + 1 == ATTEMPTS;
    let is_by_schedule = match item.next {
        Next::Waiting(_) => !is_last,
        Next::Exhausted => is_last,
        Next::Succeeded | Next::Canceled => true,
    };
    if item.made != before || item.made >= ATTEMPTS || !is_by_schedule {
        let (endpoint, message, attempts) = (item.endpoint.0, item.delivery.message.0, before as usize + 1);
        events.breaks(Broken::OtherThanTheSchedule { endpoint, message, attempts });
    }
}

/// Whether requests would be the same.
pub(crate) fn is_same(one: &Target, other: &Target) -> bool {
    let (a, b) = (&one.endpoint, &other.endpoint);
    a.url == b.url && a.disabled == b.disabled && one.headers == other.headers && one.keys == other.keys
}

/// What is wrong with the requests that an endpoint saw.
fn requests(events: &Events, endpoint: EndpointKey, seen: &[Seen]) -> Vec<Broken> {
    let look = |seen: &Seen| {
        let at = (endpoint, seen.message);
        let asked = events.added.get(&at).is_some_and(|added| added.first <= seen.at);
        let (endpoint, message) = (endpoint.0, seen.message.0);
        if events.erased.get(&seen.message).is_some_and(|erased| ON_ITS_WAY < seen.at.since(*erased)) {
            Some(Broken::SentErased { endpoint, message })
        } else if events.known_ends.get(&at).is_some_and(|stored| *stored < seen.begun) && !asked {
            Some(Broken::SentAgain { endpoint, message })
        } else {
            None
        }
    };
    seen.iter().filter_map(look).collect()
}

/// A message's worth of a rate, and what is lost in rounding.
const MESSAGE: i64 = 1_000_000;
const ROUNDING: i64 = 1_000;

/// Whether more left than a bucket allows that holds a tenth of a second's worth, and at least one. A process that starts anew
/// starts with a full one, and it may not have heard of a change.
fn is_too_fast(events: &Events, whose: Limited) -> bool {
    let Some(rates) = events.rates.get(&whose) else { return false };
    let is_of = |departs: &&Departure| match whose {
        Limited::Endpoint(endpoint) => departs.endpoint == endpoint,
        Limited::Application(application) => events.applications.get(&departs.endpoint) == Some(&application),
    };
    let (mut tokens, mut last) = (0, None::<Departure>);
    for departs in events.departures.iter().filter(is_of) {
        let known = match whose {
            Limited::Endpoint(_) => {
                known_between(rates, last.filter(|last| last.life == departs.life).unwrap_or(*departs), *departs)
            }
            // Several lanes have it, and each may know another one.
            Limited::Application(_) => in_force_within(rates, departs.life),
        };
        let Some(rate) = highest(known) else {
            last = None;
            continue;
        };
        let capacity = (rate * MESSAGE / 10).max(MESSAGE);
        tokens = match last.filter(|last| last.life == departs.life) {
            Some(last) => {
                let micros = i64::try_from(departs.at.since(last.at).as_micros()).unwrap_or(i64::MAX).min(10_000_000);
                (tokens + micros * rate).min(capacity)
            }
            None => capacity,
        } - MESSAGE;
        if tokens < -ROUNDING {
            return true;
        }
        last = Some(*departs);
    }
    false
}

/// The rates of an endpoint that a process can have known between two requests: what it knew at either, and what was stored since it was
/// as it was known at the first.
fn known_between(rates: &[Rated], from: Departure, to: Departure) -> Vec<Option<u16>> {
    let is_known = |rated: &Rated| rated.rate == from.rate && rated.at <= from.at;
    let first = rates.iter().rposition(is_known).unwrap_or(0);
    let stored = rates[first..].iter().take_while(|rated| rated.at <= to.at).map(|rated| rated.rate);
    stored.chain([from.rate, to.rate]).collect()
}

/// The rates that were in force in a life.
fn in_force_within(rates: &[Rated], life: usize) -> Vec<Option<u16>> {
    let before = rates.iter().rev().find(|rated| rated.life < life);
    rates.iter().filter(|rated| rated.life == life).chain(before).map(|rated| rated.rate).collect()
}

/// The highest of some rates; none if one of them is no limit.
fn highest(rates: Vec<Option<u16>>) -> Option<i64> {
    rates.into_iter().map(|rate| rate.map(i64::from)).collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// Endpoints that are held back because of what a receiver asked that they had before.
pub(crate) fn held_for_nothing(store: &dyn Store, homes: &[Place], book: &Book, now: Timestamp) -> Vec<Broken> {
    let is_asked = |home: &&Place| {
        let hold = at_once(store.hold_of(home.endpoint)).ok().flatten();
        hold.is_some_and(|hold| hold.reason == HoldReason::Asked && hold.until > now)
    };
    let held = homes.iter().filter(is_asked);
    let for_nothing = held.filter(|home| {
        let Ok(Some(target)) = at_once(store.target(home.endpoint)) else { return false };
        let asked = (home.endpoint, target.endpoint.url.as_str().to_owned());
        !book.note(|events| events.asked_to_wait.contains(&asked) || events.deleted.contains(&home.endpoint))
    });
    for_nothing.map(|home| Broken::HeldForNothing(home.endpoint.0)).collect()
}

/// Looks at every endpoint that is disabled, and notes those of which it is stored why.
fn disabled_for_nothing(store: &dyn Store, homes: &[Place], book: &Book) -> Vec<Broken> {
    let mut broken = Vec::new();
    for home in homes {
        let Ok(Some(target)) = at_once(store.target(home.endpoint)) else { continue };
        // What was deleted counts as disabled, and needs no cause.
        if !target.endpoint.disabled || book.note(|events| events.deleted.contains(&home.endpoint)) {
            continue;
        }
        if target.endpoint.disablement.is_some() {
            book.note(|events| events.disabled_with_cause.insert(home.endpoint));
        } else {
            broken.push(Broken::DisabledForNothing(home.endpoint.0));
        }
    }
    broken
}
