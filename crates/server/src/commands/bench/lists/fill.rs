//! Fills a store for the measurement of lists, past the API: messages of the last weeks, evenly spread, each attempted once.
//!
//! Which event type, channel and outcome a row has follows from its number, so every run has the same rows. There are
//! frequent ones, some that fall on one row in a block or less, one in a million, and some that are asked for but never
//! occur.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use postrider_domain::application::EnvironmentId;
use postrider_domain::attempt::Trigger;
use postrider_domain::clock::{Clock as _, SystemClock};
use postrider_domain::delivery::Next;
use postrider_domain::entropy::OsEntropy;
use postrider_domain::ids::{AttemptId, Id as _, Ksuid, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName, IdOrUid};
use postrider_domain::time::Timestamp;
use postrider_store::{
    Accepted, ApplicationKey, AttemptRecord, DeliveryKey, EndpointKey, Endpoints as _, MessageKey, NewMessage, Origin,
    Settlement, Store as _, Work as _,
};
use postrider_store_sqlite::{Ownership, SqliteStore};

use crate::commands::bench::progress::Progress;

/// The rows are of so many days, so that all lists and statistics reach all of them.
const DAYS: u64 = 27;

/// How many messages one commit takes.
const BATCH: u64 = 4_096;

/// One row in so many is the only one of its kind.
const MILLION: u64 = 1_000_000;

/// Where pages are asked for: ids that divide the rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks<I> {
    /// Half of the rows are older.
    pub(super) middle: I,
    /// One page's worth of rows and some are older.
    pub(super) end: I,
}

/// What was filled in.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) messages: Marks<MessageId>,
    pub(super) attempts: Marks<AttemptId>,
    /// When the row in the middle was made.
    pub(super) middle: Timestamp,
    pub(super) seconds: f64,
}

/// How the rows of one store are made.
struct Filling {
    application: ApplicationKey,
    version: i64,
    endpoint: EndpointKey,
    begin: Timestamp,
    step: Duration,
}

/// Fills `count` messages, with an attempt each, into the only endpoint of an application.
pub(super) async fn fill(
    path: &Path,
    (environment, application, endpoint): (&str, &str, &str),
    count: u64,
    progress: &Progress,
) -> anyhow::Result<Filled> {
    let store = SqliteStore::open(path, Ownership::Owner)?;
    let environment = EnvironmentId::parse(environment).context("no environment")?;
    let application = IdOrUid::parse(application);
    let routes = store.routes(&environment, &application).await?.context("the application is gone")?;
    let endpoint = store.endpoint(routes.application, &IdOrUid::parse(endpoint)).await?.context("no endpoint")?.key;
    let span = Duration::from_secs(DAYS * 86_400);
    let begin = SystemClock::new().wall().saturating_sub(span + Duration::from_secs(3_600));
    let step = span / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    let filling = Filling { application: routes.application, version: routes.version, endpoint, begin, step };
    let started = super::super::clock::micros();
    let (mut messages, mut attempts) = (Marked::new(count), Marked::new(count));
    let mut said = 0;
    for first in (0..count).step_by(BATCH as usize) {
        let rows = first..(first + BATCH).min(count);
        filling.batch(&store, rows, &mut messages, &mut attempts).await?;
        if first * 20 / count != said || first == 0 {
            said = first * 20 / count;
            progress.begin(format!("filling the store: {}%", said * 5));
        }
    }
    store.close().await;
    let seconds = (super::super::clock::micros() - started) as f64 / 1e6;
    Ok(Filled {
        messages: messages.marks(MessageId::from_ksuid)?,
        attempts: attempts.marks(AttemptId::from_ksuid)?,
        middle: filling.at(count / 2),
        seconds,
    })
}

/// Ids that are remembered while rows go by.
struct Marked {
    count: u64,
    middle: Option<Ksuid>,
    end: Option<Ksuid>,
}

impl Marked {
    fn new(count: u64) -> Self {
        Self { count, middle: None, end: None }
    }

    fn note(&mut self, row: u64, id: Ksuid) {
        if row == self.count / 2 {
            self.middle = Some(id);
        }
        if row == (self.count - 1).min(60) {
            self.end = Some(id);
        }
    }

    fn marks<I>(&self, of: fn(Ksuid) -> I) -> anyhow::Result<Marks<I>> {
        let middle = self.middle.context("there are no rows")?;
        Ok(Marks { middle: of(middle), end: of(self.end.unwrap_or(middle)) })
    }
}

impl Filling {
    fn at(&self, row: u64) -> Timestamp {
        self.begin.saturating_add(Duration::from_micros(self.step.as_micros() as u64 * row))
    }

    async fn batch(
        &self,
        store: &SqliteStore,
        rows: std::ops::Range<u64>,
        messages: &mut Marked,
        attempts: &mut Marked,
    ) -> anyhow::Result<()> {
        let made: Vec<Arc<Message>> = rows.clone().map(|row| Arc::new(self.message(row))).collect();
        let batch = made.iter().zip(rows.clone()).map(|(message, row)| self.accepting(row, message)).collect();
        let mut settlements = Vec::with_capacity(made.len());
        for ((row, message), accepted) in rows.zip(&made).zip(store.accept(batch).await) {
            let Accepted::New(key) = accepted? else { bail!("a message was there already") };
            messages.note(row, message.id.ksuid());
            let settlement = self.settlement(row, key, message);
            if let Some(attempt) = &settlement.attempt {
                attempts.note(row, attempt.id.ksuid());
            }
            settlements.push(settlement);
        }
        store.settle(settlements).await?;
        Ok(())
    }

    fn message(&self, row: u64) -> Message {
        let at = self.at(row);
        let kind = match scatter(row, 1) % 1_000 {
            _ if row % MILLION == MILLION / 3 => "fraud.alert",
            0..600 => "order.created",
            600..900 => "order.updated",
            900..970 => "invoice.paid",
            _ => "stock.low",
        };
        let channels: &[&str] = match scatter(row, 2) % 100 {
            _ if row % MILLION == MILLION / 5 => &["vip"],
            0..50 => &[],
            50..80 => &["web"],
            80..97 => &["mobile", "web"],
            _ => &["partner"],
        };
        let channels: Vec<Channel> = channels.iter().map(|name| Channel::from_trusted((*name).to_owned())).collect();
        let payload = format!(r#"{{"number":{row},"customer":"c-{}","text":"{:-<48}"}}"#, scatter(row, 3) % 10_000, "");
        Message {
            id: MessageId::new(at, &OsEntropy),
            event_id: None,
            event_type: EventTypeName::from_trusted(kind.to_owned()),
            channels: (!channels.is_empty()).then_some(channels),
            tags: None,
            deliver_at: None,
            expires_at: None,
            payload: Some(Bytes::from(payload)),
            created_at: at,
        }
    }

    /// Only what is to wait goes through the table of deliveries.
    fn accepting(&self, row: u64, message: &Arc<Message>) -> NewMessage {
        NewMessage {
            application: self.application,
            version: self.version,
            rules: None,
            message: Arc::clone(message),
            endpoints: if waits(row) { vec![self.endpoint] } else { Vec::new() },
            idempotency: None,
        }
    }

    fn settlement(&self, row: u64, key: MessageKey, message: &Arc<Message>) -> Settlement {
        let status_code = status(row);
        // An attempt takes a while, sometimes longer than several messages after it.
        let lag = Duration::from_millis(50 + if scatter(row, 5).is_multiple_of(50) { 2_000 } else { 0 });
        let started_at = message.created_at.saturating_add(lag);
        let next = match status_code {
            200 => Next::Succeeded,
            _ if waits(row) => {
                Next::Waiting(SystemClock::new().wall().saturating_add(Duration::from_secs(30 * 86_400)))
            }
            _ => Next::Exhausted,
        };
        Settlement {
            endpoint: self.endpoint,
            delivery: DeliveryKey { due_at: message.created_at, message: key },
            made: 0,
            trigger: Trigger::Scheduled,
            notice: None,
            attempt: Some(AttemptRecord {
                id: AttemptId::new(started_at, &OsEntropy),
                started_at,
                url: "http://127.0.0.1:1025/".into(),
                succeeded: status_code == 200,
                status_code,
                response: Bytes::from_static(b"ok"),
                duration_ms: 12,
            }),
            next,
            elsewhere: None,
            against: None,
            origin: Some(Origin { application: self.application, message: Arc::clone(message) }),
        }
    }
}

fn status(row: u64) -> u16 {
    match scatter(row, 4) % 1_000 {
        _ if waits(row) => 503,
        _ if row % MILLION == MILLION / 7 => 404,
        0..25 => 500,
        25..27 => 0,
        _ => 200,
    }
}

/// Whether a message still waits at the end: some of the last week, and one in a million of those before.
fn waits(row: u64) -> bool {
    row % MILLION == MILLION / 9 || scatter(row, 6).is_multiple_of(2_000)
}

/// A number that looks random, from a row's number (the finalizer of SplitMix64).
fn scatter(row: u64, what: u64) -> u64 {
    let mut mixed = row.wrapping_mul(8).wrapping_add(what).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
