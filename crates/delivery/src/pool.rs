//! Connections over HTTP/1 that wait for their next request, by origin.
//!
//! Bounded per origin and in all; when there are too many, one of the environment that has most is closed, and of that one's
//! applications of the one that has most, the one that has waited longest: whoever has few keeps them, however many others have. Most requests never come here: a lane's worker keeps its connection from one request to the next (see [`crate::sender::Slot`]). So one
//! mutex, held for a few map operations and never while a socket is used or closed, is enough.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::time::Timestamp;

use crate::connect::Single;
use crate::holders::Owner;
use crate::origin::Origin;
use crate::ranks::Ranks;
use crate::sockets;

postrider_domain::limits! {
    in "Connections to receivers";
    /// Idle connections to one origin
    pub const MAX_PER_ORIGIN: usize = 64, "connections", beyond "the one that was idle longest is closed";
    /// The age of a connection, after which it gets no more requests
    setting "delivery.connection_max_age", beyond "the next request resolves the name again and opens another";
}

/// Receivers commonly close what was idle for a minute or more; so do we.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct Pool {
    idle: Mutex<Idle>,
    /// The most that wait.
    most: usize,
}

#[derive(Default)]
struct Idle {
    /// Rises with every connection that is put in: the order of `waiting` is the order of age.
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// The numbers of an origin's connections in `waiting`, oldest first.
    by_origin: HashMap<Arc<Origin>, VecDeque<u64>>,
    /// Whose they are.
    ranks: Ranks,
}

struct Waiting {
    origin: Arc<Origin>,
    connection: Single,
    since: Timestamp,
}

impl Pool {
    /// Where at most half as many connections wait as there may be requests under way, and no more than [`crate::sockets::MAX_IDLE`].
    pub(crate) fn new(max_in_flight: u32) -> Self {
        Self { idle: Mutex::default(), most: sockets::idle(max_in_flight) }
    }

    /// A connection to this origin that is open as far as is known, for whichever application it was made.
    pub(crate) fn take(&self, origin: &Arc<Origin>, owner: Owner, now: Timestamp) -> Option<Single> {
        loop {
            let (found, expired) = {
                let mut idle = self.idle.lock();
                let expired = idle.expire(now);
                (idle.take(origin), expired)
            };
            drop(expired);
            // Looked at outside the lock: it reads from the socket.
            let mut connection = found?;
            if connection.is_usable(now) {
                connection.owner = owner;
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for whoever needs one next.
    pub(crate) fn put(&self, origin: &Arc<Origin>, connection: Single, now: Timestamp) {
        let closed = {
            let mut idle = self.idle.lock();
            let mut closed = idle.expire(now);
            closed.extend(idle.put(origin, connection, self.most, now));
            closed
        };
        drop(closed);
    }

    /// Closes everything, to have descriptors again.
    pub(crate) fn shed(&self) {
        let closed = std::mem::take(&mut *self.idle.lock());
        drop(closed);
    }

    /// Closes what has waited too long.
    pub(crate) fn expire(&self, now: Timestamp) {
        let expired = self.idle.lock().expire(now);
        drop(expired);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.idle.lock().waiting.len()
    }
}

impl Idle {
    /// The youngest connection of an origin: the others may then grow old enough to be closed.
    fn take(&mut self, origin: &Arc<Origin>) -> Option<Single> {
        let number = *self.by_origin.get(origin)?.back()?;
        self.remove(number).map(|waiting| waiting.connection)
    }

    /// Returns what had to be closed for it; the caller drops that outside the lock.
    fn put(&mut self, origin: &Arc<Origin>, connection: Single, most: usize, now: Timestamp) -> Vec<Waiting> {
        let number = self.next;
        self.next += 1;
        self.ranks.insert(connection.owner, number);
        self.waiting.insert(number, Waiting { origin: Arc::clone(origin), connection, since: now });
        let of_origin = self.by_origin.entry(Arc::clone(origin)).or_default();
        of_origin.push_back(number);
        let too_many_here = if of_origin.len() > MAX_PER_ORIGIN { of_origin.front().copied() } else { None };
        let mut closed: Vec<_> = too_many_here.and_then(|number| self.remove(number)).into_iter().collect();
        while self.waiting.len() > most {
            closed.extend(self.remove_of_whoever_has_most());
        }
        closed
    }

    fn remove_of_whoever_has_most(&mut self) -> Option<Waiting> {
        let (_, oldest) = self.ranks.first_to_go()?;
        self.remove(oldest)
    }

    fn expire(&mut self, now: Timestamp) -> Vec<Waiting> {
        let mut expired = Vec::new();
        while self.waiting.first_key_value().is_some_and(|(_, oldest)| now.since(oldest.since) > IDLE_TIMEOUT) {
            expired.extend(self.remove_oldest());
        }
        expired.iter_mut().for_each(|waiting: &mut Waiting| waiting.connection.part());
        expired
    }

    fn remove_oldest(&mut self) -> Option<Waiting> {
        let number = *self.waiting.first_key_value()?.0;
        self.remove(number)
    }

    fn remove(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&number)?;
        self.ranks.remove(waiting.connection.owner, number);
        if let Some(of_origin) = self.by_origin.get_mut(&waiting.origin) {
            of_origin.retain(|other| *other != number);
        }
        self.forget_if_empty(&waiting.origin);
        Some(waiting)
    }

    fn forget_if_empty(&mut self, origin: &Arc<Origin>) {
        if self.by_origin.get(origin).is_some_and(VecDeque::is_empty) {
            self.by_origin.remove(origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holders::owner;
    use crate::http1::Http1;
    use crate::transport::{Transport, Wire};
    use tokio::net::{TcpListener, TcpStream};

    /// Connections to a listener, whose other ends the caller holds open.
    async fn connections(count: usize) -> (Vec<Single>, Vec<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut links, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let address = listener.local_addr().unwrap();
            let ours = TcpStream::connect(address).await.unwrap();
            peers.push(listener.accept().await.unwrap().0);
            let connection = Box::new(Http1::new(Transport::plain(Wire::new(ours))));
            links.push(Single { connection, until: at(1_000), address, owner: A });
        }
        (links, peers)
    }

    const A: Owner = owner(1, 1);
    const B: Owner = owner(1, 2);

    fn origin(port: u16) -> Arc<Origin> {
        Arc::new(Origin { https: false, host: url::Host::Domain("example.com".to_owned()), port })
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[tokio::test]
    async fn a_connection_is_found_by_its_origin_and_only_once() {
        let pool = Pool::new(u32::MAX);
        let (mut links, _peers) = connections(1).await;
        pool.put(&origin(1), links.remove(0), at(0));
        assert!(pool.take(&origin(2), A, at(1)).is_none());
        assert!(pool.take(&origin(1), A, at(1)).is_some());
        assert!(pool.take(&origin(1), A, at(1)).is_none());
        assert_eq!(pool.idle.lock().by_origin.len(), 0, "nothing is left behind");
    }

    #[tokio::test]
    async fn what_has_waited_for_more_than_a_minute_is_closed() {
        let pool = Pool::new(u32::MAX);
        let (links, _peers) = connections(3).await;
        for (second, link) in links.into_iter().enumerate() {
            pool.put(&origin(1), link, at(second as i64 * 50));
        }
        assert_eq!(pool.len(), 2, "the first was closed when the third came");
        pool.expire(at(111));
        assert_eq!(pool.len(), 1);
        pool.expire(at(161));
        assert_eq!((pool.len(), pool.idle.lock().by_origin.len()), (0, 0));
    }

    #[tokio::test]
    async fn there_is_a_most_per_origin() {
        let pool = Pool::new(u32::MAX);
        let (links, _peers) = connections(MAX_PER_ORIGIN + 5).await;
        for (second, link) in links.into_iter().enumerate() {
            pool.put(&origin(1), link, at(0).saturating_add(Duration::from_millis(second as u64)));
        }
        assert_eq!(pool.len(), MAX_PER_ORIGIN);
    }

    #[tokio::test]
    async fn there_is_a_most_in_all_and_the_oldest_goes_first() {
        let pool = Pool::new(u32::MAX);
        let (links, _peers) = connections(sockets::MAX_IDLE + 3).await;
        for (number, link) in links.into_iter().enumerate() {
            pool.put(&origin(number as u16), link, at(0));
        }
        assert_eq!(pool.len(), sockets::MAX_IDLE);
        let idle = pool.idle.lock();
        assert!(!idle.by_origin.contains_key(&origin(2)) && idle.by_origin.contains_key(&origin(3)));
    }

    #[tokio::test]
    async fn whoever_has_few_keeps_them_however_many_others_have() {
        let pool = Pool::new(8);
        let (links, _peers) = connections(20).await;
        for (number, link) in links.into_iter().enumerate() {
            let owner = if number < 2 { B } else { A };
            pool.put(&origin(number as u16), Single { owner, ..link }, at(0));
        }
        assert_eq!(pool.len(), 4);
        for port in [0, 1, 18, 19] {
            assert!(pool.take(&origin(port), A, at(0)).is_some(), "{port}");
        }
        let idle = pool.idle.lock();
        assert!(idle.ranks.is_empty() && idle.by_origin.is_empty());
    }

    #[tokio::test]
    async fn an_environment_of_many_applications_leaves_the_others_theirs() {
        let pool = Pool::new(8);
        let (links, _peers) = connections(20).await;
        for (number, link) in links.into_iter().enumerate() {
            let owner = if number == 0 { owner(2, 0) } else { owner(1, number as i64) };
            pool.put(&origin(number as u16), Single { owner, ..link }, at(0));
        }
        for port in [0, 17, 18, 19] {
            assert!(pool.take(&origin(port), A, at(0)).is_some(), "{port}");
        }
    }

    #[tokio::test]
    async fn no_more_wait_than_half_of_the_requests_that_there_may_be() {
        let pool = Pool::new(4);
        let (links, _peers) = connections(5).await;
        for (number, link) in links.into_iter().enumerate() {
            pool.put(&origin(number as u16), link, at(0));
        }
        assert_eq!(pool.len(), 2);
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_meanwhile_is_not_handed_out() {
        let pool = Pool::new(u32::MAX);
        let (mut links, peers) = connections(2).await;
        let mut closed = links.remove(0);
        drop(peers);
        // Wait until the end has reached this side.
        while closed.is_usable(at(0)) {
            tokio::task::yield_now().await;
        }
        pool.put(&origin(1), closed, at(0));
        assert!(pool.take(&origin(1), A, at(0)).is_none());
    }

    #[tokio::test]
    async fn a_connection_that_has_reached_its_age_is_not_handed_out() {
        let pool = Pool::new(u32::MAX);
        let (mut links, _peers) = connections(2).await;
        pool.put(&origin(1), Single { until: at(30), ..links.remove(0) }, at(0));
        pool.put(&origin(1), Single { until: at(31), ..links.remove(0) }, at(0));
        assert!(pool.take(&origin(1), A, at(30)).is_some_and(|connection| connection.until == at(31)));
        assert!(pool.take(&origin(1), A, at(30)).is_none());
    }
}
