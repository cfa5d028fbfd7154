//! Choosing messages that are sent to an endpoint again, and adding their deliveries.
//!
//! Each choice is made from what lies before the place of the step and from the log, never from what an earlier step has
//! added, so the size of the steps changes nothing.

use std::time::Duration;

use postrider_domain::endpoint::Endpoint;
use postrider_domain::ids::Ksuid;
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use postrider_store::{
    ASKED_BY_SCHEDULE, ApplicationKey, EndpointKey, MAX_RECOVERED, MessageKey, Outcome, ReplayFilter, Span,
};
use rusqlite::{Connection, OptionalExtension as _, named_params, params};
use serde_json::{Map, Value};

use super::{Effects, Slice, Stage, after, count, end, place};
use crate::asked::{self, Asker};
use crate::decode::{Columns, SqlError, first};
use crate::hot::SCHEDULED_LATER;
use crate::inserts::json_list;
use crate::range;
use crate::rows::{ENDPOINT_COLUMNS, MESSAGE_COLUMNS, decode_endpoint, decode_message};
use crate::work::{add_manual, hold, is_worn, lower_wake};
use crate::writer::{News, Tx};

/// How messages are sent again.
#[derive(Clone, Copy)]
pub(super) enum How {
    /// Once, now.
    Manually,
    /// As if they had been sent there when they were accepted.
    ByTheSchedule,
}

/// The failed attempts of a time that are the first ones of their messages, and whose messages have no successful one.
const RECOVER_SQL: &str = "SELECT id, message_no, (
         NOT succeeded AND started_at >= :since AND started_at < :until
         AND NOT EXISTS (
             SELECT 1 FROM attempt AS other INDEXED BY attempt_by_message
             WHERE other.message_no = attempt.message_no AND other.endpoint_no = :endpoint
                 AND other.id >= :first AND other.id < :end
                 AND other.started_at >= :since AND other.started_at < :until
                 AND (other.succeeded OR other.id < attempt.id)
         )
         AND EXISTS (SELECT 1 FROM payload WHERE payload.message_no = attempt.message_no)
     ) AS chosen
     FROM attempt WHERE endpoint_no = :endpoint AND id >= :from AND id < :end ORDER BY id LIMIT :rows";

pub(super) fn recover(
    connection: &Connection,
    mut stage: Stage,
    endpoint: EndpointKey,
    span: Span,
) -> Result<Slice, SqlError> {
    let first = Ksuid::floor(span.since);
    let mut statement = connection.prepare_cached(RECOVER_SQL)?;
    let mut rows = statement.query(named_params! {
        ":endpoint": endpoint.0, ":since": span.since.as_micros(), ":until": span.until.as_micros(),
        ":first": first.as_bytes(), ":from": after(&stage.cursor, first), ":end": end(span.until).as_bytes(),
        ":rows": range::limit(stage.rows),
    })?;
    let before = count(&mut stage.data, "messages", 0);
    let most = MAX_RECOVERED.saturating_sub(usize::try_from(before).unwrap_or(usize::MAX));
    let (mut messages, mut seen, mut cursor) = (Vec::new(), 0, stage.cursor);
    while let Some(row) = rows.next()? {
        if messages.len() == most {
            break;
        }
        seen += 1;
        cursor = place(&row.get::<_, [u8; 20]>(0)?);
        if row.get(2)? {
            messages.push(MessageKey(row.get(1)?));
        }
    }
    let ended = seen < stage.rows;
    Ok(delivering(endpoint, How::Manually, messages, cursor, stage.data, ended))
}

fn delivering(
    endpoint: EndpointKey,
    how: How,
    messages: Vec<MessageKey>,
    cursor: Value,
    mut data: Map<String, Value>,
    ended: bool,
) -> Slice {
    // Shown even if it stays 0.
    count(&mut data, "messages", 0);
    Slice { cursor, data, ended, effects: Effects::Deliver { endpoint, how, messages } }
}

/// Messages of a time. Whether one was attempted at an endpoint, or is pending there without an attempt, is looked up.
fn walk_sql() -> String {
    format!(
        "SELECT {MESSAGE_COLUMNS}, NULL AS payload, EXISTS (SELECT 1 FROM payload WHERE payload.message_no = message.no) AS has_payload,
             EXISTS (
                 SELECT 1 FROM attempt INDEXED BY attempt_by_message
                 WHERE attempt.message_no = message.no AND attempt.endpoint_no = :endpoint
             ) OR EXISTS (
                 SELECT 1 FROM delivery
                 WHERE delivery.endpoint_no = :endpoint
                     AND delivery.due_at = coalesce(message.deliver_at, message.created_at)
                     AND delivery.message_no = message.no
             ) AS known
         FROM message
         WHERE application_no = :application AND message.id >= :from AND message.id < :end
             AND message.created_at >= :since AND message.created_at < :until
         ORDER BY message.id LIMIT :rows"
    )
}

/// Messages that the endpoint wants now and that never went there.
pub(super) fn missing(
    connection: &Connection,
    stage: Stage,
    endpoint: EndpointKey,
    span: Span,
) -> Result<Slice, SqlError> {
    let Some((application, wants)) = target(connection, endpoint)? else { return Ok(nothing(stage, endpoint)) };
    let mut statement = connection.prepare_cached(&walk_sql())?;
    let mut rows = statement.query(named_params! {
        ":endpoint": endpoint.0, ":application": application.0,
        ":since": span.since.as_micros(), ":until": span.until.as_micros(),
        ":from": after(&stage.cursor, Ksuid::floor(span.since)), ":end": end(span.until).as_bytes(),
        ":rows": range::limit(stage.rows),
    })?;
    let (mut messages, mut seen, mut cursor) = (Vec::new(), 0, stage.cursor);
    while let Some(row) = rows.next()? {
        seen += 1;
        cursor = place(&row.get::<_, [u8; 20]>("id")?);
        let message = decode_message(row)?;
        let wanted = wants.wants(&message.value.event_type, message.value.channels.as_deref());
        if wanted && row.get("has_payload")? && !row.get::<_, bool>("known")? {
            messages.push(message.key);
        }
    }
    let ended = seen < stage.rows;
    Ok(delivering(endpoint, How::ByTheSchedule, messages, cursor, stage.data, ended))
}

/// Messages of a time with a payload, and the last attempt to send them to an endpoint.
const AGAIN_SQL: &str = "SELECT message.id, message.no, (
         EXISTS (SELECT 1 FROM payload WHERE payload.message_no = message.no)
         AND (:types IS NULL OR event_type IN (SELECT value FROM json_each(:types)))
         AND (:channel IS NULL OR EXISTS (SELECT 1 FROM json_each(message.channels) WHERE value = :channel))
         AND (:tag IS NULL OR EXISTS (SELECT 1 FROM json_each(message.tags) WHERE value = :tag))
         AND EXISTS (
             SELECT 1 FROM attempt AS last
             WHERE last.endpoint_no = :endpoint
                 AND last.id = (
                     SELECT max(id) FROM attempt INDEXED BY attempt_by_message
                     WHERE attempt.message_no = message.no AND attempt.endpoint_no = :endpoint
                 )
                 AND (:succeeded IS NULL OR succeeded = :succeeded)
                 AND (:waiting IS NULL OR (next_attempt_at IS NOT NULL) = :waiting)
                 AND (:class IS NULL OR status_code BETWEEN :class AND :class + 99)
         )
     ) AS chosen
     FROM message
     WHERE application_no = :application AND message.id >= :from AND message.id < :end
         AND message.created_at >= :since AND message.created_at < :until
     ORDER BY message.id LIMIT :rows";

/// Messages that went to the endpoint.
pub(super) fn again(
    connection: &Connection,
    stage: Stage,
    endpoint: EndpointKey,
    span: Span,
    filter: &ReplayFilter,
) -> Result<Slice, SqlError> {
    let Some((application, _)) = target(connection, endpoint)? else { return Ok(nothing(stage, endpoint)) };
    let (succeeded, waiting) = match filter.outcome {
        None => (None, None),
        Some(Outcome::Succeeded) => (Some(true), None),
        Some(Outcome::Failed) => (Some(false), Some(false)),
        Some(Outcome::Waiting) => (Some(false), Some(true)),
    };
    let mut statement = connection.prepare_cached(AGAIN_SQL)?;
    let mut rows = statement.query(named_params! {
        ":endpoint": endpoint.0, ":application": application.0,
        ":since": span.since.as_micros(), ":until": span.until.as_micros(),
        ":from": after(&stage.cursor, Ksuid::floor(span.since)), ":end": end(span.until).as_bytes(),
        ":types": filter.event_types.as_ref().map(|names| json_list(names.iter().map(EventTypeName::as_str))),
        ":channel": filter.channel.as_ref().map(|channel| channel.as_str()),
        ":tag": filter.tag.as_ref().map(|tag| tag.as_str()),
        ":succeeded": succeeded, ":waiting": waiting, ":class": filter.status_code_class,
        ":rows": range::limit(stage.rows),
    })?;
    let (mut messages, mut seen, mut cursor) = (Vec::new(), 0, stage.cursor);
    while let Some(row) = rows.next()? {
        seen += 1;
        cursor = place(&row.get::<_, [u8; 20]>(0)?);
        if row.get(2)? {
            messages.push(MessageKey(row.get(1)?));
        }
    }
    let ended = seen < stage.rows;
    Ok(delivering(endpoint, How::Manually, messages, cursor, stage.data, ended))
}

/// The end of a task whose endpoint takes nothing. Why is looked up when that is written.
fn nothing(stage: Stage, endpoint: EndpointKey) -> Slice {
    delivering(endpoint, How::Manually, Vec::new(), stage.cursor, stage.data, true)
}

/// What an endpoint of an application that is there is meets.
const TAKES: &str = "endpoint.no = ? AND NOT disabled AND endpoint.deleted_at IS NULL
     AND EXISTS (SELECT 1 FROM application WHERE application.no = application_no AND application.deleted_at IS NULL)";

/// The endpoint and its application, if it takes deliveries.
fn target(connection: &Connection, endpoint: EndpointKey) -> Result<Option<(ApplicationKey, Endpoint)>, SqlError> {
    let sql = format!("SELECT {ENDPOINT_COLUMNS}, application_no FROM endpoint WHERE {TAKES}");
    let mut statement = connection.prepare_cached(&sql)?;
    first(statement.query([endpoint.0])?, |row| {
        let application = Columns::new(row, "endpoint").get("application_no")?;
        Ok((ApplicationKey(application), decode_endpoint(row)?.value))
    })
}

/// Why an endpoint takes no deliveries, in a word for the task's data; `None` if it does.
pub(super) fn refusal(connection: &Connection, endpoint: EndpointKey) -> Result<Option<&'static str>, SqlError> {
    let found: Option<(bool, bool)> = connection
        .prepare_cached(
            "SELECT disabled, endpoint.deleted_at IS NOT NULL OR application.deleted_at IS NOT NULL
             FROM endpoint JOIN application ON application.no = application_no WHERE endpoint.no = ?",
        )?
        .query_row([endpoint.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(match found {
        Some((false, false)) => None,
        Some((true, false)) => Some("endpoint_disabled"),
        _ => Some("endpoint_deleted"),
    })
}

/// Adds deliveries, and tells observers; returns how many. Messages that were attempted too often are left out. If the
/// application's callers asked for so many attempts that these are too many, nothing is added, and the time after which they
/// are not is returned.
pub(super) fn deliver(
    tx: &Tx<'_>,
    endpoint: EndpointKey,
    how: How,
    mut messages: Vec<MessageKey>,
    per_day: u64,
    now: Timestamp,
) -> Result<Result<usize, Duration>, SqlError> {
    let each = match how {
        How::Manually => {
            messages = unworn(tx, endpoint, messages)?;
            1
        }
        How::ByTheSchedule => ASKED_BY_SCHEDULE,
    };
    let application = tx
        .prepare_cached("SELECT application_no FROM endpoint WHERE no = ?")?
        .query_row([endpoint.0], |row| row.get(0).map(ApplicationKey))?;
    let attempts = each * messages.len() as u64;
    if messages.len() > 1 && attempts > per_day {
        // More than there ever is; a smaller step is tried at once.
        return Ok(Err(Duration::ZERO));
    }
    if let Err(wait) = asked::spend(tx, application, (Asker::Task, attempts), per_day, now)? {
        return Ok(Err(wait));
    }
    // Due when it would have been: whoever looks for it, a second replay as well, knows where it is.
    let mut scheduled = tx.prepare_cached(
        "INSERT OR IGNORE INTO delivery (endpoint_no, due_at, message_no, made, trigger)
         SELECT ?1, coalesce(deliver_at, created_at), no, 0, ?3 FROM message WHERE no = ?2",
    )?;
    for message in &messages {
        match how {
            How::Manually => add_manual(tx, endpoint, *message, now)?,
            How::ByTheSchedule => {
                scheduled.execute(params![endpoint.0, message.0, SCHEDULED_LATER])?;
                hold(tx, *message)?;
            }
        }
    }
    if !messages.is_empty() {
        lower_wake(tx, endpoint, now)?;
        tx.tell(News::WorkAdded(endpoint));
    }
    Ok(Ok(messages.len()))
}

/// Those that were not attempted too often yet.
fn unworn(tx: &Tx<'_>, endpoint: EndpointKey, messages: Vec<MessageKey>) -> Result<Vec<MessageKey>, SqlError> {
    let mut kept = Vec::with_capacity(messages.len());
    for message in messages {
        if !is_worn(tx, endpoint, message)? {
            kept.push(message);
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::plan;

    #[test]
    fn every_choice_walks_a_range_and_looks_the_rest_up() {
        let of_application = "SEARCH message USING INDEX message_by_id (application_no=? AND id>? AND id<?)";
        let of_endpoint = "SEARCH attempt USING PRIMARY KEY (endpoint_no=? AND id>? AND id<?)";
        for (sql, walked) in [
            (RECOVER_SQL.to_owned(), of_endpoint),
            (walk_sql(), of_application),
            (AGAIN_SQL.to_owned(), of_application),
        ] {
            let plan = plan(&sql);
            assert!(plan.contains(&walked.to_owned()), "{plan:#?}");
            let costly = |step: &String| {
                step.contains("TEMP B-TREE") || (step.starts_with("SCAN") && !step.contains("json_each"))
            };
            assert!(!plan.iter().any(costly), "{plan:#?}");
        }
    }
}
