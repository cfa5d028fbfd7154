//! Several callers at once that send message after message, and remember exactly what they were promised.
//!
//! A caller names an idempotency key, and repeats its request until it has an answer: what a careful caller does when a
//! server dies under it. Every so often it sends a batch instead of one message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::client::{Answer, App};
use crate::{random, wait};

/// Before a caller repeats a request that failed.
const PAUSE: Duration = Duration::from_millis(5);

/// One request in so many is a batch, and of so many messages.
const BATCH_EVERY: usize = 8;
const BATCH: usize = 4;

/// The event type of messages that are sent alone.
pub const ALONE: &str = "load.alone";

/// The event type of messages that are sent in batches.
pub const BATCHED: &str = "load.batched";

/// A message that was answered with a 2xx.
#[derive(Debug, Clone)]
pub struct Acked {
    /// What is in the payload, and in no other.
    pub key: String,
    /// [`ALONE`] or [`BATCHED`].
    pub event_type: &'static str,
    /// The id in the answer.
    pub id: String,
    /// The payload as it was sent.
    pub payload: String,
    /// How many requests it took.
    pub requests: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Run,
    /// Get an answer for the message at hand, and stop.
    Finish,
    /// Stop, answer or not.
    Abandon,
}

/// Callers at work.
#[derive(Debug)]
pub struct Load {
    phase: watch::Sender<Phase>,
    callers: JoinSet<Vec<Acked>>,
    acked: Arc<AtomicU64>,
}

impl Load {
    /// Starts `callers` callers that send to `app`.
    pub fn start(app: &App, callers: usize) -> Self {
        let phase = watch::Sender::new(Phase::Run);
        let acked = Arc::new(AtomicU64::new(0));
        let mut set = JoinSet::new();
        for _ in 0..callers {
            set.spawn(call(app.clone(), phase.subscribe(), Arc::clone(&acked)));
        }
        Self { phase, callers: set, acked }
    }

    /// How many messages were answered with a 2xx until now.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    /// Waits until this many more messages were acked.
    pub async fn progress(&self, more: u64) {
        let goal = self.acked() + more;
        wait::until(&format!("{more} more messages to be acked"), async || (self.acked() >= goal).then_some(())).await;
    }

    /// Lets every caller get an answer for the message that it is sending; returns all that was acked.
    pub async fn finish(self) -> Vec<Acked> {
        self.stop(Phase::Finish).await
    }

    /// Stops every caller at once; returns all that was acked.
    pub async fn abandon(self) -> Vec<Acked> {
        self.stop(Phase::Abandon).await
    }

    async fn stop(self, phase: Phase) -> Vec<Acked> {
        self.phase.send_replace(phase);
        wait::within("the callers to stop", self.callers.join_all()).await.concat()
    }
}

async fn call(app: App, mut phase: watch::Receiver<Phase>, total: Arc<AtomicU64>) -> Vec<Acked> {
    let mut acked = Vec::new();
    for number in 1.. {
        if *phase.borrow() != Phase::Run {
            break;
        }
        let of = if number % BATCH_EVERY == 0 { BATCH } else { 1 };
        let sent = tokio::select! {
            sent = send_until_acked(&app, of) => sent,
            _ = phase.wait_for(|phase| *phase == Phase::Abandon) => break,
        };
        total.fetch_add(sent.len() as u64, Ordering::SeqCst);
        acked.extend(sent);
    }
    acked
}

/// Sends so many messages in one request, which is a batch if that is more than one.
async fn send_until_acked(app: &App, count: usize) -> Vec<Acked> {
    let event_type = if count == 1 { ALONE } else { BATCHED };
    let keys: Vec<String> = (0..count).map(|_| random::name()).collect();
    // The blanks must arrive as they are.
    let payload = |key| format!(r#"{{ "key":  "{key}", "text": "some text, so that it is not all too short" }}"#);
    let item = |key| format!(r#"{{"eventType":"{event_type}","payload":{}}}"#, payload(key));
    let items: Vec<String> = keys.iter().map(item).collect();
    let (path, body) = match &items[..] {
        [one] => (app.path("/msg"), one.clone()),
        many => (app.path("/msg/batch"), format!("[{}]", many.join(","))),
    };
    for requests in 1.. {
        let request = app.client.request(Method::POST, &path).header("idempotency-key", &keys[0]).body(body.clone());
        match request.try_send().await {
            Ok(answer) if answer.succeeded() => {
                let acked = keys.iter().zip(ids(&answer)).filter_map(|(key, id)| {
                    Some(Acked { key: key.clone(), event_type, id: id?, payload: payload(key), requests })
                });
                let acked: Vec<_> = acked.collect();
                if acked.len() == count {
                    return acked;
                }
            }
            Ok(answer) => assert!(answer.status >= 500, "{} {}", answer.status, answer.text()),
            Err(_) => {}
        }
        sleep(PAUSE).await;
    }
    unreachable!("requests are repeated for ever")
}

/// The ids in the answer to a message or to a batch, in which what was not accepted has none.
fn ids(answer: &Answer) -> Vec<Option<String>> {
    let answer = answer.json();
    let id = |of: &Value| of["id"].as_str().map(ToOwned::to_owned);
    match answer["data"].as_array() {
        Some(results) => results.iter().map(id).collect(),
        None => vec![id(&answer)],
    }
}

/// Everything in a list of the API, page by page; `path` is the list's, with its first parameter.
pub async fn list_all(app: &App, path: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut iterator = String::new();
    loop {
        let page = app.client.get(&app.path(&format!("{path}&limit=250{iterator}"))).await.expect(200).json();
        items.extend(page["data"].as_array().expect("a list has data").iter().cloned());
        if page["done"] == json!(true) {
            return items;
        }
        let last = page["iterator"].as_str().expect("a page that is not the last has an iterator");
        iterator = format!("&iterator={last}");
    }
}

/// All messages of an application, newest first.
pub async fn list_messages(app: &App) -> Vec<Value> {
    list_all(app, "/msg?with_content=true").await
}

/// All attempts at an endpoint, newest first.
pub async fn list_attempts(app: &App, endpoint: &str) -> Vec<Value> {
    list_all(app, &format!("/attempt/endpoint/{endpoint}?with_content=false")).await
}
