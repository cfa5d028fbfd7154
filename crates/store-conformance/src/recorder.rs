//! An observer that remembers what it is told.

use std::sync::{Arc, Mutex};

use postrider_store::{ApplicationKey, EndpointKey, MessageKey, Observer, Store};

/// Remembers what it is told.
#[derive(Default)]
pub(super) struct Recorder(Mutex<Vec<News>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    Changed(EndpointKey),
    WorkAdded(EndpointKey),
    Expunged(MessageKey),
    TaskAdded,
}

impl Recorder {
    /// A recorder that observes `store`.
    pub(super) fn of(store: &dyn Store) -> Arc<Self> {
        let recorder = Arc::new(Self::default());
        store.observe(Arc::clone(&recorder) as Arc<dyn Observer>);
        recorder
    }

    /// What it was told since the last call.
    pub(super) fn take(&self) -> Vec<News> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Recorder {
    fn endpoint_changed(&self, endpoint: EndpointKey, _: Option<ApplicationKey>) {
        self.0.lock().unwrap().push(News::Changed(endpoint));
    }

    fn work_added(&self, endpoint: EndpointKey, _: Option<ApplicationKey>) {
        self.0.lock().unwrap().push(News::WorkAdded(endpoint));
    }

    fn task_added(&self) {
        self.0.lock().unwrap().push(News::TaskAdded);
    }

    fn messages_expunged(&self, messages: &[MessageKey]) {
        self.0.lock().unwrap().extend(messages.iter().copied().map(News::Expunged));
    }
}
