//! The rows that the hot path inserts: what is in which column.

use std::sync::Arc;

use bytes::Bytes;
use postrider_domain::ids::{AttemptId, Id as _};
use postrider_domain::message::Message;
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, AttemptRecord, EndpointKey, MessageKey, Settlement};

use crate::engine::bulk::{Insert, Values};

/// Payloads of more bytes are inserted one by one.
const LARGE: usize = 64 * 1024;

/// A message that was accepted.
pub(crate) struct MessageRow {
    pub(crate) number: i64,
    pub(crate) application: ApplicationKey,
    pub(crate) message: Arc<Message>,
}

impl Insert for MessageRow {
    const INTO: &'static str = "INSERT OR FAIL INTO message
        (no, application_no, id, event_type, event_id, channels, tags, deliver_at, expires_at, created_at)";
    const COLUMNS: usize = 10;

    fn bind(&self, values: &mut Values<'_, '_>) -> rusqlite::Result<()> {
        let message = &*self.message;
        values.push(self.number)?;
        values.push(self.application.0)?;
        values.push(message.id.ksuid().as_bytes())?;
        values.push(message.event_type.as_str())?;
        values.push(message.event_id.as_ref().map(|id| id.as_str()))?;
        let channels = message.channels.as_ref();
        values.push(channels.map(|channels| json_list(channels.iter().map(|channel| channel.as_str()))))?;
        values.push(message.tags.as_ref().map(|tags| json_list(tags.iter().map(|tag| tag.as_str()))))?;
        values.push(message.deliver_at.map(Timestamp::as_micros))?;
        values.push(message.expires_at.map(Timestamp::as_micros))?;
        values.push(message.created_at.as_micros())
    }
}

/// Its payload, which it must have.
pub(crate) struct PayloadRow {
    pub(crate) number: i64,
    pub(crate) message: Arc<Message>,
}

impl Insert for PayloadRow {
    const INTO: &'static str = "INSERT OR FAIL INTO payload (message_no, expires_at, body)";
    const COLUMNS: usize = 3;

    fn bind(&self, values: &mut Values<'_, '_>) -> rusqlite::Result<()> {
        values.push(self.number)?;
        values.push(self.message.expires_at.map(Timestamp::as_micros))?;
        values.push(self.message.payload.as_deref())
    }

    fn is_large(&self) -> bool {
        self.message.payload.as_ref().is_some_and(|payload| payload.len() > LARGE)
    }
}

/// A delivery of it, of which nothing was tried yet.
pub(crate) struct DeliveryRow {
    pub(crate) endpoint: EndpointKey,
    /// In microseconds since 1970.
    pub(crate) due_at: i64,
    pub(crate) number: i64,
    pub(crate) trigger: u8,
}

impl Insert for DeliveryRow {
    const INTO: &'static str = "INSERT OR IGNORE INTO delivery (endpoint_no, due_at, message_no, made, trigger)";
    const COLUMNS: usize = 5;

    fn bind(&self, values: &mut Values<'_, '_>) -> rusqlite::Result<()> {
        values.push(self.endpoint.0)?;
        values.push(self.due_at)?;
        values.push(self.number)?;
        values.push(0)?;
        values.push(self.trigger)
    }
}

/// An attempt.
pub(crate) struct AttemptRow {
    endpoint: EndpointKey,
    id: AttemptId,
    message: MessageKey,
    url: i64,
    number: u32,
    trigger: u8,
    started_at: Timestamp,
    duration_ms: u32,
    succeeded: bool,
    status_code: u16,
    next_at: Option<i64>,
    response: Bytes,
}

impl AttemptRow {
    /// The attempt of a settlement, to the URL of this number; another one is due at `next_at`.
    pub(crate) fn new(settlement: &Settlement, attempt: &AttemptRecord, url: i64, next_at: Option<i64>) -> Self {
        Self {
            endpoint: settlement.endpoint,
            id: attempt.id,
            message: settlement.delivery.message,
            url,
            number: settlement.made.saturating_add(1),
            trigger: settlement.trigger.code(),
            started_at: attempt.started_at,
            duration_ms: attempt.duration_ms,
            succeeded: attempt.succeeded,
            status_code: attempt.status_code,
            next_at,
            response: attempt.response.clone(),
        }
    }

    /// Whether it is of the same message and endpoint.
    pub(crate) fn is_of(&self, settlement: &Settlement) -> bool {
        self.message == settlement.delivery.message && self.endpoint == settlement.endpoint
    }
}

impl Insert for AttemptRow {
    const INTO: &'static str = "INSERT OR IGNORE INTO attempt
        (endpoint_no, id, message_no, url_no, number, trigger, started_at, duration_ms, succeeded, status_code,
         next_attempt_at, response)";
    const COLUMNS: usize = 12;

    fn bind(&self, values: &mut Values<'_, '_>) -> rusqlite::Result<()> {
        values.push(self.endpoint.0)?;
        values.push(self.id.ksuid().as_bytes())?;
        values.push(self.message.0)?;
        values.push(self.url)?;
        values.push(self.number)?;
        values.push(self.trigger)?;
        values.push(self.started_at.as_micros())?;
        values.push(self.duration_ms)?;
        values.push(self.succeeded)?;
        values.push(self.status_code)?;
        values.push(self.next_at)?;
        values.push(&*self.response)
    }
}

/// A JSON list of names. They hold nothing that JSON would have to escape.
pub(crate) fn json_list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::from("[");
    for (place, name) in names.enumerate() {
        if place > 0 {
            text.push(',');
        }
        text.push('"');
        text.push_str(name);
        text.push('"');
    }
    text.push(']');
    text
}
