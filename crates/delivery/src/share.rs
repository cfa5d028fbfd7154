//! Fair shares of something of which there are few, among applications and environments ([`Permits`]), so that there is
//! something left for the next one, however many requests another has.
//!
//! Who waits does so in turn: environments take turns, of each its applications, and who is of one application comes in order
//! (`lines.rs`). Whoever may have none at present is passed over.
//!
//! For what is not handed out here ([`Doors`]), the first of each application waits, and the others stand behind him.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use postrider_store::ApplicationKey;
use tokio::sync::oneshot;

use crate::budget::Permits;
use crate::holders::{Owner, Whose};
use crate::lines::Lines;

pub(crate) struct Shares {
    permits: Permits,
    /// One application never has more than these.
    most: u32,
    /// Those that wait, and those that have stopped waiting, which go when it is their application's turn.
    waiting: Mutex<Lines<oneshot::Sender<Share>>>,
}

/// Where those of one application wait, each behind the one who came before him: what becomes free wakes the first of each, and not
/// everybody.
#[derive(Default)]
pub(crate) struct Doors(Mutex<HashMap<ApplicationKey, Weak<Door>>>);

/// Held by whoever is the first of his application.
pub(crate) type Door = tokio::sync::Mutex<()>;

/// One of them; dropping it gives it back.
pub(crate) struct Share(Option<(Arc<Shares>, Owner)>);

impl Shares {
    pub(crate) fn new(total: u32, most: u32) -> Arc<Self> {
        Arc::new(Self { permits: Permits::new(total), most, waiting: Mutex::default() })
    }

    /// One for an application, unless it has its share.
    pub(crate) fn try_take(self: &Arc<Self>, owner: Owner) -> Option<Share> {
        let granted = self.permits.open_within(owner, self.most);
        granted.then(|| Share(Some((Arc::clone(self), owner))))
    }

    /// Waits until the application may have one, and it is its turn.
    pub(crate) async fn take(self: &Arc<Self>, owner: Owner) -> Share {
        let (give, given) = oneshot::channel();
        self.waiting.lock().push(Some(owner), give);
        self.hand_out();
        // Nobody drops the other end but who gave one.
        given.await.unwrap_or(Share(None))
    }

    /// Gives what is free to those whose turn it is.
    fn hand_out(self: &Arc<Self>) {
        while let Some((next, owner)) = self.next() {
            if let Err(mut refused) = next.send(Share(Some((Arc::clone(self), owner)))) {
                // That one has stopped waiting in this moment. Not dropped as it is: dropping would come back here.
                refused.0 = None;
                self.permits.give_back(Some(owner));
            }
        }
    }

    /// The next one that may have one, which is taken for it.
    fn next(&self) -> Option<(oneshot::Sender<Share>, Owner)> {
        loop {
            let mut taken = Vec::new();
            let admitted = |whose: Whose| {
                let granted = whose.filter(|owner| self.permits.open_within(*owner, self.most));
                taken.extend(granted);
                granted.is_some()
            };
            let next = self.waiting.lock().next(|_| true, admitted, |waiting| !waiting.is_closed());
            // The last was taken for whoever was found. Of those before it nobody waits any more.
            let of_found = if next.is_some() { taken.pop() } else { None };
            for owner in &taken {
                self.permits.give_back(Some(*owner));
            }
            match (next, of_found) {
                (Some((next, _)), Some(owner)) => return Some((next, owner)),
                // What was taken for those was missing for the others.
                _ if !taken.is_empty() => {}
                _ => return None,
            }
        }
    }
}

impl Doors {
    pub(crate) fn of(&self, application: ApplicationKey) -> Arc<Door> {
        let mut doors = self.0.lock();
        if let Some(door) = doors.get(&application).and_then(Weak::upgrade) {
            return door;
        }
        doors.retain(|_, door| door.strong_count() > 0);
        let door = Arc::default();
        doors.insert(application, Arc::downgrade(&door));
        door
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some((shares, owner)) = self.0.take() else { return };
        shares.permits.give_back(Some(owner));
        shares.hand_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holders::owner;
    use futures_util::FutureExt as _;

    const A: Owner = owner(1, 1);
    const B: Owner = owner(1, 2);

    fn fill(shares: &Arc<Shares>, of: Owner) -> Vec<Share> {
        std::iter::from_fn(|| shares.try_take(of)).collect()
    }

    #[test]
    fn an_application_leaves_as_many_as_it_has_and_never_has_more_than_its_most() {
        let shares = Shares::new(16, 100);
        let held = (fill(&shares, A), fill(&shares, B));
        assert_eq!((held.0.len(), held.1.len()), (8, 4));
        assert_eq!(fill(&Shares::new(16, 3), A).len(), 3);
        drop(held);
        assert_eq!(fill(&shares, B).len(), 8, "what is dropped is given back");
    }

    #[tokio::test]
    async fn who_waits_gets_what_is_given_back_and_does_not_keep_others_from_theirs() {
        let shares = Shares::new(4, 100);
        let mut held = fill(&shares, A);
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let shares = Arc::clone(&shares);
                    async move { shares.take(A).await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        drop(shares.take(B).await);
        held.clear();
        for waiting in waiting {
            // Each is dropped at once, for the next.
            drop(waiting.await.unwrap());
        }
    }

    #[tokio::test]
    async fn whoever_waits_is_next_after_one_of_each_other_application_however_many_there_are() {
        let shares = Shares::new(4, 100);
        let mut held: Vec<_> = (10..14).filter_map(|number| shares.try_take(owner(number, 100))).collect();
        assert_eq!(held.len(), 4);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = tokio::task::JoinSet::new();
        // Many of one application, of whom some give up, one of another, and one of another environment.
        let many = (0..20).map(|_| owner(1, 1));
        for of in many.chain([owner(1, 2), owner(2, 3)]) {
            let (shares, order) = (Arc::clone(&shares), Arc::clone(&order));
            waiting.spawn(async move {
                let share = shares.take(of).await;
                order.lock().push(of.application.0);
                drop(share);
            });
            tokio::task::yield_now().await;
        }
        let mut given_up = Box::pin(shares.take(owner(3, 4)));
        assert!(given_up.as_mut().now_or_never().is_none());
        drop(given_up);
        assert!(order.lock().is_empty());
        drop(held.pop());
        waiting.join_all().await;
        let order = order.lock();
        assert!(order.iter().take(3).any(|of| *of == 3) && order.iter().take(4).any(|of| *of == 2), "{order:?}");
        assert_eq!(order.len(), 22);
        drop(held);
        assert_eq!(fill(&shares, owner(1, 1)).len(), fill(&Shares::new(4, 100), A).len(), "nothing is lost");
        assert!(shares.waiting.lock().is_empty());
    }
}
