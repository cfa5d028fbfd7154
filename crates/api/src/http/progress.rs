//! What whoever serves a connection learns of a request while it is under way. The API tells it as soon as it is so; nothing
//! depends on whether anybody listens.

use std::sync::{Arc, Weak};

/// Is told how far a request is.
pub trait Progress: Send + Sync {
    /// Its caller has a good token, and a place among the requests under way. Until then nothing was done for it that anybody would miss.
    /// Whether the request is to give way once, because it goes on on another thread: nothing is begun for it on this one.
    fn caller_is_known(&self) -> bool;

    /// What has come of its body is worked on: until more of it is asked for, nobody waits for its client.
    fn body_is_worked_on(&self);
}

/// Put into the extensions of a request, whoever is told of it. It is not kept by it: a request may be worked on when its client has
/// gone.
#[derive(Clone)]
pub struct Watched(pub Weak<dyn Progress>);

impl Watched {
    pub(crate) fn watcher(&self) -> Option<Arc<dyn Progress>> {
        self.0.upgrade()
    }
}
