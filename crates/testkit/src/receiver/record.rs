//! What arrived, and waiting for more of it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// When its last byte was read.
    pub at: Instant,
    /// The connection that it came on, counted from 0 in the order of their making.
    pub connection: u64,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// The method.
    pub method: String,
    /// The path with the query.
    pub target: String,
    /// The headers in their order; over HTTP/1.1 with their casing.
    pub headers: Vec<(String, String)>,
    /// The body, byte for byte.
    pub body: Bytes,
}

impl Received {
    /// The value of a header, its name in any casing.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The `webhook-id`.
    pub fn id(&self) -> Option<&str> {
        self.header("webhook-id")
    }

    /// The `webhook-timestamp`.
    ///
    /// # Panics
    /// If it is missing or no number.
    pub fn timestamp(&self) -> i64 {
        self.header("webhook-timestamp").and_then(|value| value.parse().ok()).expect("a timestamp in the request")
    }

    /// The signatures in `webhook-signature`, in their order.
    pub fn signatures(&self) -> Vec<&str> {
        self.header("webhook-signature").unwrap_or_default().split(' ').collect()
    }

    /// The headers as libraries want them.
    pub fn header_map(&self) -> HeaderMap {
        let parsed = self.headers.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name that HTTP allows");
            (name, HeaderValue::from_str(value).expect("a value that HTTP allows"))
        });
        parsed.collect()
    }
}

/// All that arrived at one receiver.
pub(super) struct Record {
    keep: bool,
    requests: Mutex<Vec<Arc<Received>>>,
    /// Tells that there is more; how many there are is asked of `requests`.
    more: watch::Sender<()>,
}

impl Record {
    pub(super) fn new(keep: bool) -> Self {
        Self { keep, requests: Mutex::default(), more: watch::Sender::new(()) }
    }

    pub(super) fn add(&self, received: Received) {
        if self.keep {
            self.requests.lock().push(Arc::new(received));
            self.more.send_replace(());
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<Received>> {
        self.requests.lock().clone()
    }

    pub(super) async fn wait_until<T>(&self, mut look: impl FnMut(&[Arc<Received>]) -> Option<T>) -> T {
        let mut more = self.more.subscribe();
        loop {
            if let Some(found) = look(&self.requests.lock()) {
                return found;
            }
            more.changed().await.expect("the record outlives those who wait for it");
        }
    }
}
