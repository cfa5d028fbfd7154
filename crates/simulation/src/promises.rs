//! What is promised, held against what happened.

use std::time::Duration;

use postrider_delivery::Usage;
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::Next;
use postrider_domain::time::Timestamp;
use postrider_store::EndpointKey;

use crate::book::{At, Events, Seen, Settled};
use crate::store::at_once;
use crate::world::{Report, World};

/// The most attempts by the schedule: the first, and one after each wait.
const ATTEMPTS: usize = 4;

/// Over any stretch of this length, an endpoint with a rate sees at most what it allows, and what a full bucket holds.
const STRETCH: Duration = Duration::from_secs(10);

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The world was calm for long, and something still waited.
    NotQuiet,
    /// Somebody was told that a message was accepted, and no commit has it.
    Lost(String),
    /// A delivery was neither made nor given up for a cause that is known, and nothing waits.
    Asleep {
        /// The endpoint.
        endpoint: i64,
        /// The message.
        message: i64,
    },
    /// It was canceled, and nobody had erased it, and its endpoint was never shut.
    CanceledForNothing {
        /// The endpoint.
        endpoint: i64,
        /// The message.
        message: i64,
    },
    /// It was given up before its schedule was used up, or tried more often.
    OtherThanTheSchedule {
        /// The endpoint.
        endpoint: i64,
        /// The message.
        message: i64,
        /// How many attempts were stored.
        attempts: usize,
    },
    /// It was sent again although its success was stored, and nobody had asked for that.
    SentAgain {
        /// The endpoint.
        endpoint: i64,
        /// The message.
        message: i64,
    },
    /// It was sent although its payload had been erased.
    SentErased {
        /// The endpoint.
        endpoint: i64,
        /// The message.
        message: i64,
    },
    /// An endpoint got more than its rate allows.
    TooFast {
        /// The endpoint.
        endpoint: i64,
        /// How many requests within ten seconds.
        requests: usize,
    },
    /// When nothing was under way any more, something was still counted as taken.
    Leaked(Usage),
    /// An endpoint is disabled, and nothing is stored that says why.
    DisabledForNothing(i64),
}

/// Holds everything that was promised against what happened.
pub(crate) fn judge(world: &World, quiet: bool) -> Report {
    let disabled = disabled_for_nothing(world);
    world.book.note(|events| {
        let mut broken = disabled;
        if quiet {
            broken.extend(events.accepted.keys().filter_map(|at| fate(events, *at)));
            let idle = |usage: &Usage| usage.requests == 0 && usage.memory_bytes == 0 && usage.permits == 0;
            broken.extend(events.left_over.filter(|usage| !idle(usage)).map(Broken::Leaked));
        } else {
            broken.push(Broken::NotQuiet);
        }
        broken.extend(events.acked.iter().filter(|id| !events.keys.contains_key(*id)).cloned().map(Broken::Lost));
        broken.extend(events.seen.iter().flat_map(|(endpoint, seen)| requests(events, *endpoint, seen)));
        broken.extend(events.rates.iter().filter_map(|(endpoint, rate)| too_fast(events, *endpoint, *rate)));
        Report {
            deliveries: events.accepted.len(),
            requests: events.seen.values().map(Vec::len).sum(),
            broken,
            trace: std::mem::take(&mut events.trace),
        }
    })
}

/// What is wrong with how a delivery ended.
fn fate(events: &Events, at: At) -> Option<Broken> {
    let (endpoint, message) = (at.0.0, at.1.0);
    let none = Vec::new();
    let settled = events.settled.get(&at).unwrap_or(&none);
    let (shut, erased) = (events.shut.contains(&at.0), events.erasing.contains(&at.1));
    let scheduled = |settled: &&Settled| settled.attempted && settled.trigger == Trigger::Scheduled;
    let attempts = settled.iter().filter(scheduled).count();
    let exhausted = settled.iter().any(|settled| settled.next == Next::Exhausted);
    let replayed = events.replayed.contains_key(&at.0) || events.asked_again.contains_key(&at);
    if settled.iter().any(|settled| settled.succeeded) {
        return None;
    }
    if !replayed && (attempts > ATTEMPTS || (exhausted && attempts < ATTEMPTS)) {
        return Some(Broken::OtherThanTheSchedule { endpoint, message, attempts });
    }
    if exhausted || shut || is_disabled_in_store(events, at.0) {
        return None;
    }
    match settled.last().map(|settled| settled.next) {
        Some(Next::Canceled) if erased => None,
        Some(Next::Canceled) => Some(Broken::CanceledForNothing { endpoint, message }),
        _ => Some(Broken::Asleep { endpoint, message }),
    }
}

/// What it was disabled for is stored, which is looked at by itself.
fn is_disabled_in_store(events: &Events, endpoint: EndpointKey) -> bool {
    events.failed_for_long.contains(&endpoint)
}

/// What is wrong with the requests that an endpoint saw.
fn requests(events: &Events, endpoint: EndpointKey, seen: &[Seen]) -> Vec<Broken> {
    let look = |seen: &Seen| {
        let at = (endpoint, seen.message);
        let again = |asked: Option<&Timestamp>| asked.is_some_and(|asked| *asked <= seen.at);
        let asked = again(events.asked_again.get(&at)) || again(events.replayed.get(&endpoint));
        let (endpoint, message) = (endpoint.0, seen.message.0);
        if events.erased.get(&seen.message).is_some_and(|erased| ON_ITS_WAY < seen.at.since(*erased)) {
            Some(Broken::SentErased { endpoint, message })
        } else if events.known_successes.get(&at).is_some_and(|stored| *stored < seen.at) && !asked {
            Some(Broken::SentAgain { endpoint, message })
        } else {
            None
        }
    };
    seen.iter().filter_map(look).collect()
}

/// A request that had begun when its payload was erased arrives within this time.
const ON_ITS_WAY: Duration = Duration::from_millis(20);

fn too_fast(events: &Events, endpoint: EndpointKey, rate: u16) -> Option<Broken> {
    let seen = events.seen.get(&endpoint)?;
    // What a full bucket holds, and what was late on its way at the beginning of the stretch.
    let allowed = usize::from(rate) * STRETCH.as_secs() as usize + 1 + usize::from(rate);
    for (from, first) in seen.iter().enumerate() {
        // A process that starts anew starts with full buckets.
        let within = |seen: &&Seen| seen.life == first.life && seen.at.since(first.at) < STRETCH;
        let requests = seen[from..].iter().take_while(within).count();
        if requests > allowed {
            return Some(Broken::TooFast { endpoint: endpoint.0, requests });
        }
    }
    None
}

/// Looks at every endpoint that is disabled, and notes those that failed for long.
fn disabled_for_nothing(world: &World) -> Vec<Broken> {
    let mut broken = Vec::new();
    for home in &world.homes {
        let Ok(Some(target)) = at_once(world.store.target(home.endpoint)) else { continue };
        // What was deleted counts as disabled, and needs no cause.
        if !target.endpoint.disabled || world.book.note(|events| events.deleted.contains(&home.endpoint)) {
            continue;
        }
        if target.endpoint.disablement.is_some() {
            world.book.note(|events| events.failed_for_long.insert(home.endpoint));
        } else {
            broken.push(Broken::DisabledForNothing(home.endpoint.0));
        }
    }
    broken
}
