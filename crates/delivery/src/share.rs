//! Fair shares of something of which there are few, among applications and environments ([`Permits`]), so that there is
//! something left for the next one, however many requests another has.
//!
//! Who waits for one stands behind the others of his application, and the first of each application wait side by side.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use postrider_store::ApplicationKey;
use tokio::sync::Notify;

use crate::budget::Permits;
use crate::holders::Owner;

pub(crate) struct Shares {
    permits: Permits,
    /// One application never has more than these.
    most: u32,
    freed: Notify,
    doors: Doors,
}

/// Where those of one application wait, each behind the one who came before him: what becomes free wakes the first of each, and not
/// everybody.
#[derive(Default)]
pub(crate) struct Doors(Mutex<HashMap<ApplicationKey, Weak<Door>>>);

/// Held by whoever is the first of his application.
pub(crate) type Door = tokio::sync::Mutex<()>;

/// One of them; dropping it gives it back.
pub(crate) struct Share {
    of: Arc<Shares>,
    owner: Owner,
}

impl Shares {
    pub(crate) fn new(total: u32, most: u32) -> Arc<Self> {
        Arc::new(Self { permits: Permits::new(total), most, freed: Notify::new(), doors: Doors::default() })
    }

    /// One for an application, unless it has its share.
    pub(crate) fn try_take(self: &Arc<Self>, owner: Owner) -> Option<Share> {
        let granted = self.permits.open_within(owner, self.most);
        granted.then(|| Share { of: Arc::clone(self), owner })
    }

    /// Waits until the application may have one.
    pub(crate) async fn take(self: &Arc<Self>, owner: Owner) -> Share {
        let door = self.doors.of(owner.application);
        let _first = door.lock().await;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // From here on nothing that is given back is missed.
            freed.as_mut().enable();
            if let Some(share) = self.try_take(owner) {
                return share;
            }
            freed.await;
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
        self.of.permits.give_back(Some(self.owner));
        self.of.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holders::owner;

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
}
