//! Connections over HTTP/2 by origin, and who gets which.
//!
//! A request takes a stream of a connection that has one left for its application, and room for its body. Beyond that another
//! connection is opened, up to a bound; beyond that the request waits for a stream, which is no failure of the receiver's and
//! not part of the attempt. An application that has no request under way at the origin may always open a connection, so
//! nobody is kept out by what others have there. (If it has as many as it may already, an idle one of them is closed for it; so
//! it has no more beyond those than others have requests under way on them.)
//!
//! Connections beyond each application's first are shared by environments, and within each by its applications
//! ([`postrider_domain::fair`]), so that one environment with many applications leaves others theirs.
//!
//! Whoever's receiver sends what ends a connection that others use, too, has connections of his own at that origin for a while
//! ([`Apart`]).
//!
//! A connection whose receiver has not read what it was sent gets no new requests meanwhile, so that its last one ends some
//! time; if the window is not back then, it is closed.
//!
//! One mutex, held for a few map operations per request and never while a socket is used.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::time::Timestamp;
use postrider_store::EnvironmentKey;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use crate::apart::{Apart, Circle};
use crate::holders::Owner;
use crate::http2::{Http2, Permit, Streams};
use crate::origin::Origin;
use crate::pool::IDLE_TIMEOUT;
use crate::ranks::Ranks;
use crate::share::{Door, Doors};
use crate::sockets;
use postrider_domain::fair::Stock;

postrider_domain::limits! {
    in "Receivers over HTTP/2";
    /// Connections to one origin beyond the first of each application, shared by environments and applications
    pub const MAX_CONNECTIONS: usize = 64, "connections", beyond "requests wait for a stream; no attempt is counted";
    /// Connections to one origin that one application opened
    pub const MAX_CONNECTIONS_OF_APPLICATION: usize = 16, "connections", beyond "its requests wait for a stream; no attempt is counted";
}

/// How long after its last request has begun an idle connection is kept whose receiver has something unread: what says
/// that it was read may be on its way.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(1);

/// What a request to an origin is to do.
pub(crate) enum Turn {
    /// Take this stream.
    Use(Box<Use>),
    /// Open another connection.
    Connect(Making),
    /// Wait for a stream, for a moment, and ask again.
    Wait(Wait),
    /// The origin is not known to speak HTTP/2.
    Unknown,
}

/// What to wait for.
pub(crate) struct Wait {
    /// Passed by one request of each application at a time, so that a stream that is free wakes few.
    pub(crate) door: Arc<Door>,
    /// A stream is free. Nothing is missed that happens after this was made.
    pub(crate) freed: OwnedNotified,
}

/// A stream of a connection.
pub(crate) struct Use {
    pub(crate) connection: Http2,
    pub(crate) permit: Permit,
}

/// A connection that is being made.
pub(crate) struct Making {
    hosts: Arc<Mutex<Hosts>>,
    origin: Arc<Origin>,
    owner: Owner,
}

/// A new connection.
pub(crate) struct Opened {
    pub(crate) connection: Http2,
    /// Who opened it.
    pub(crate) owner: Owner,
    /// It gets no requests after this instant.
    pub(crate) until: Timestamp,
}

pub(crate) struct SharedPool {
    hosts: Arc<Mutex<Hosts>>,
    /// So many connections stay open that nobody uses.
    most: usize,
}

#[derive(Default)]
struct Hosts {
    by_origin: HashMap<Arc<Origin>, Host>,
    apart: Apart,
}

#[derive(Default)]
struct Host {
    members: Vec<Member>,
    /// Who is opening connections.
    making: Vec<Owner>,
    freed: Arc<Notify>,
    doors: Doors,
}

struct Member {
    streams: Weak<Streams>,
    /// `None` once it gets no new requests; it counts as long as there are some under way.
    connection: Option<Http2>,
    owner: Owner,
    /// Nobody else gets a stream of it.
    circle: Circle,
    until: Timestamp,
    used_at: Timestamp,
}

impl SharedPool {
    /// Which closes idle connections beyond half as many as there may be requests under way, or [`crate::sockets::MAX_IDLE`].
    pub(crate) fn new(max_in_flight: u32) -> Self {
        Self { hosts: Arc::default(), most: sockets::idle(max_in_flight) }
    }

    /// What a request with a body of so many bytes is to do. `waited`: it has waited for a stream already.
    pub(crate) fn next(&self, origin: &Arc<Origin>, owner: Owner, size: usize, waited: bool, now: Timestamp) -> Turn {
        let mut hosts = self.hosts.lock();
        let Hosts { by_origin, apart } = &mut *hosts;
        let Some(host) = by_origin.get_mut(origin) else { return Turn::Unknown };
        host.tidy(now);
        if host.is_empty() {
            by_origin.remove(origin);
            return Turn::Unknown;
        }
        apart.expire(now);
        let circle = apart.circle(origin, owner);
        if let Some(stream) = host.stream(owner, circle, size, now) {
            return Turn::Use(Box::new(stream));
        }
        if !host.may_connect(owner, waited) {
            let freed = Arc::clone(&host.freed).notified_owned();
            // One may have become free before this was made.
            return match host.stream(owner, circle, size, now) {
                Some(stream) => Turn::Use(Box::new(stream)),
                None => Turn::Wait(Wait { door: host.doors.of(owner.application), freed }),
            };
        }
        host.making.push(owner);
        Turn::Connect(Making { hosts: Arc::clone(&self.hosts), origin: Arc::clone(origin), owner })
    }

    /// Takes a new connection, for others to share unless there are too many, and a stream of it for whoever made it.
    pub(crate) fn add(&self, origin: &Arc<Origin>, opened: Opened, size: usize, now: Timestamp) -> Use {
        let Opened { connection, owner, until } = opened;
        let permit = connection.streams().reserve_first(owner, size);
        let mut hosts = self.hosts.lock();
        let circle = hosts.apart.circle(origin, owner);
        let host = hosts.by_origin.entry(Arc::clone(origin)).or_default();
        host.tidy(now);
        if !host.serves(owner) || may_have_another(owner, host.opened()) {
            connection.streams().tell(&host.freed);
            host.members.push(Member {
                streams: Arc::downgrade(connection.streams()),
                connection: Some(connection.clone()),
                owner,
                circle,
                until,
                used_at: now,
            });
        }
        host.freed.notify_waiters();
        Use { connection, permit }
    }

    /// What a receiver sent for a request of this application ended a connection, which others used, too, or not: see [`Apart::note`].
    pub(crate) fn set_apart(&self, origin: &Arc<Origin>, owner: Owner, was_shared: bool, now: Timestamp) {
        self.hosts.lock().apart.note(origin, owner, was_shared, now);
    }

    /// Closes what nobody has used for a while, and what is idle beyond the bound.
    pub(crate) fn expire(&self, now: Timestamp) {
        let mut hosts = self.hosts.lock();
        hosts.apart.expire(now);
        hosts.by_origin.retain(|_, host| {
            host.tidy(now);
            !host.is_empty()
        });
        close_beyond(self.most, &mut hosts);
    }

    /// To be called before any other connection is opened: closes those that have been idle for longest, beyond the bound.
    pub(crate) fn make_room(&self) {
        close_beyond(self.most, &mut self.hosts.lock());
    }

    /// Closes everything that is not in use, to have descriptors again.
    pub(crate) fn shed(&self) {
        for member in self.hosts.lock().by_origin.values_mut().flat_map(|host| &mut host.members) {
            if member.is_idle() {
                member.connection = None;
            }
        }
    }
}

impl Host {
    /// Drops connections that are over, and takes those that get no new requests out of use.
    fn tidy(&mut self, now: Timestamp) {
        for member in &mut self.members {
            let idle = || now.since(member.used_at) > member.patience() && member.is_idle();
            let usable = member.connection.as_ref().is_some_and(Http2::is_open) && now < member.until && !idle();
            if !usable {
                member.connection = None;
            }
        }
        self.members.retain(|member| member.streams.strong_count() > 0);
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.making.is_empty()
    }

    fn stream(&mut self, owner: Owner, circle: Circle, size: usize, now: Timestamp) -> Option<Use> {
        self.members.iter_mut().filter(|member| member.circle == circle).find_map(|member| {
            let connection = member.connection.as_ref()?;
            let permit = connection.streams().reserve(owner, size, member.owner)?;
            member.used_at = now;
            Some(Use { connection: connection.clone(), permit })
        })
    }

    fn may_connect(&mut self, owner: Owner, waited: bool) -> bool {
        let is_making = self.making.contains(&owner);
        if !is_making && !self.serves(owner) {
            if self.connections().filter(|of| *of == owner).count() >= MAX_CONNECTIONS_OF_APPLICATION {
                self.close_idle_of(owner);
            }
            return true;
        }
        // The one that is being made will have room for many.
        (!is_making || waited) && may_have_another(owner, self.connections())
    }

    /// Whose the connections are.
    fn opened(&self) -> impl Iterator<Item = Owner> {
        self.members.iter().map(|member| member.owner)
    }

    /// The same, with those that are being made.
    fn connections(&self) -> impl Iterator<Item = Owner> {
        self.opened().chain(self.making.iter().copied())
    }

    /// Closes the connection of an application that nobody has used for longest, if there is one that is not in use.
    fn close_idle_of(&mut self, owner: Owner) {
        let idle = self.members.iter_mut().filter(|member| member.owner == owner && member.is_idle());
        if let Some(oldest) = idle.min_by_key(|member| member.used_at) {
            oldest.connection = None;
        }
        self.members.retain(|member| member.connection.is_some() || member.streams.strong_count() > 0);
    }

    fn serves(&self, owner: Owner) -> bool {
        self.members
            .iter()
            .filter_map(|member| member.streams.upgrade())
            .any(|streams| streams.serves(owner.application))
    }
}

impl Member {
    /// How long it is kept without a request.
    fn patience(&self) -> Duration {
        let unread = self.streams.upgrade().is_some_and(|streams| streams.is_unread());
        if unread { UNREAD_TIMEOUT } else { IDLE_TIMEOUT }
    }

    fn is_idle(&self) -> bool {
        self.streams.upgrade().is_none_or(|streams| streams.is_idle())
    }
}

/// Whether an application may have one more connection than there are. The first of each counts for nothing, since it may open that
/// whatever others have.
fn may_have_another(owner: Owner, connections: impl Iterator<Item = Owner>) -> bool {
    let mut counts = HashMap::<Owner, i64>::new();
    for of in connections {
        *counts.entry(of).or_default() += 1;
    }
    let own = counts.get(&owner).copied().unwrap_or(0);
    if own >= MAX_CONNECTIONS_OF_APPLICATION as i64 {
        return false;
    }
    let beyond_first = |environment: Option<EnvironmentKey>| {
        let counted = counts.iter().filter(|(of, _)| environment.is_none_or(|only| of.environment == only));
        counted.map(|(_, count)| count - 1).sum::<i64>()
    };
    let total = MAX_CONNECTIONS as i64;
    let stock = Stock { total, free: total - beyond_first(None), least: 1, small: None };
    own == 0 || stock.may_take(own - 1, beyond_first(Some(owner.environment)), 1)
}

/// Closes idle connections until there are `most` of them: of the environment that has most, and of that one's application that
/// has most, the one that nobody has used for longest.
fn close_beyond(most: usize, hosts: &mut Hosts) {
    if hosts.by_origin.values().map(|host| host.members.len()).sum::<usize>() <= most {
        return;
    }
    let members = hosts.by_origin.values_mut().flat_map(|host| &mut host.members);
    let mut idle: Vec<_> = members.filter(|member| member.connection.is_some() && member.is_idle()).collect();
    let beyond = idle.len().saturating_sub(most);
    if beyond == 0 {
        return;
    }
    idle.sort_by_key(|member| member.used_at);
    let mut ranks = Ranks::default();
    for (number, member) in (0..).zip(&idle) {
        ranks.insert(member.owner, number);
    }
    for _ in 0..beyond {
        let Some((owner, number)) = ranks.first_to_go() else { return };
        ranks.remove(owner, number);
        if let Some(member) = usize::try_from(number).ok().and_then(|place| idle.get_mut(place)) {
            member.connection = None;
        }
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if let Some(host) = self.hosts.lock().by_origin.get_mut(&self.origin) {
            if let Some(place) = host.making.iter().position(|maker| *maker == self.owner) {
                host.making.swap_remove(place);
            }
            host.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holders::owner;

    /// Lets an application open as many as it may.
    fn open(opened: &mut Vec<Owner>, owner: Owner) -> usize {
        let before = opened.len();
        while may_have_another(owner, opened.iter().copied()) {
            opened.push(owner);
        }
        opened.len() - before
    }

    #[test]
    fn however_many_applications_an_environment_has_it_leaves_connections_to_others_and_to_its_next_one() {
        let mut opened = Vec::new();
        assert_eq!(open(&mut opened, owner(1, 1)), MAX_CONNECTIONS_OF_APPLICATION);
        for application in 2..200 {
            open(&mut opened, owner(1, application));
        }
        assert!(opened.len() < 200 + MAX_CONNECTIONS * 3 / 4, "{}", opened.len());
        assert!(open(&mut opened, owner(2, 1_000)) >= 4);
        assert!(open(&mut opened, owner(1, 1_001)) >= 1);
    }
}
