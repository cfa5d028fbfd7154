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
    Again, ApplicationKey, EndpointKey, MAX_RECOVERED, MessageKey, Outcome, ReplayFilter, Share, Span,
};
use rusqlite::{Connection, OptionalExtension as _, named_params, params};
use serde_json::{Map, Value};

use super::{Bounds, Effects, Slice, Stage, Then, after, count, end, place};
use crate::engine::decode::{Columns, SqlError, first};
use crate::engine::range;
use crate::engine::rows::{ENDPOINT_COLUMNS, MESSAGE_COLUMNS, decode_endpoint, decode_message};
use crate::engine::tx::{News, Tx};
use crate::write::asked::{self, Use};
use crate::write::deliveries::{SCHEDULED_LATER, add_manual, hold, is_worn, lower_wake};
use crate::write::inserts::json_list;
use crate::write::owners::application_of;

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
    let share = share_of(connection, &stage, endpoint, Again::Manually)?;
    let first = Ksuid::floor(span.since);
    let mut statement = connection.prepare_cached(RECOVER_SQL)?;
    let mut rows = statement.query(named_params! {
        ":endpoint": endpoint.0, ":since": span.since.as_micros(), ":until": span.until.as_micros(),
        ":first": first.as_bytes(), ":from": after(&stage.cursor, first), ":end": end(span.until).as_bytes(),
        ":rows": range::limit(stage.bounds.rows),
    })?;
    let before = count(&mut stage.data, "messages", 0);
    let most = MAX_RECOVERED.saturating_sub(usize::try_from(before).unwrap_or(usize::MAX));
    let mut walk = Walk::default();
    while let Some(row) = rows.next()? {
        if walk.messages.len() == most || !walk.take(row.get(0)?, row.get(1)?, row.get(2)?, &share) {
            break;
        }
    }
    Ok(walk.slice(stage, endpoint, Again::Manually, &share))
}

/// What the tasks of the endpoint's application may ask for, if it is this one's turn.
fn share_of(connection: &Connection, stage: &Stage, endpoint: EndpointKey, how: Again) -> Result<Share, SqlError> {
    let Bounds { per_day, now, .. } = stage.bounds;
    let Some(application) = application_of(connection, endpoint)? else { return Ok(Share::NOTHING) };
    let left = asked::found(connection, application, Use::Task)?;
    Ok(Share::of(left, how, per_day, !stage.stands_in_line(connection, application)?, now))
}

/// What a step has walked over.
#[derive(Default)]
struct Walk {
    messages: Vec<MessageKey>,
    seen: usize,
    /// The last row, unless it is the one before the first.
    last: Option<Value>,
    /// There is a message to send that is one too many.
    is_cut: bool,
}

impl Walk {
    /// Goes over a row, with its message if that is chosen; false if the step ends before it.
    fn take(&mut self, id: [u8; 20], message: i64, chosen: bool, share: &Share) -> bool {
        if chosen && self.messages.len() >= share.messages {
            self.is_cut = true;
            return false;
        }
        if chosen {
            self.messages.push(MessageKey(message));
        }
        self.seen += 1;
        self.last = Some(place(&id));
        true
    }

    fn slice(self, stage: Stage, endpoint: EndpointKey, how: Again, share: &Share) -> Slice {
        let Self { messages, seen, last, is_cut } = self;
        let wait = share.wait.filter(|_| is_cut);
        let since = stage.waits_since.filter(|_| messages.is_empty());
        Slice {
            waits_as_before: wait.filter(|_| since.is_some() && last.is_none()),
            ended: !is_cut && seen < stage.bounds.rows,
            cursor: last.unwrap_or(stage.cursor),
            data: with_count(stage.data),
            effects: Effects::Deliver {
                endpoint,
                how,
                messages,
                then: if wait.is_some() { Then::Waits { since } } else { Then::GoesOn },
            },
        }
    }
}

/// Shown even if it stays 0.
fn with_count(mut data: Map<String, Value>) -> Map<String, Value> {
    count(&mut data, "messages", 0);
    data
}

/// Messages of a time. Whether one was attempted at an endpoint, or is pending there without an attempt, is looked up: where it is
/// due that was accepted for it, among those that were added or put somewhere else later, and among those that somebody asked for.
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
             ) OR EXISTS (
                 SELECT 1 FROM delivery INDEXED BY delivery_later
                 WHERE delivery.endpoint_no = :endpoint AND delivery.message_no = message.no AND trigger = 2
             ) OR EXISTS (
                 SELECT 1 FROM delivery INDEXED BY delivery_manual
                 WHERE delivery.endpoint_no = :endpoint AND delivery.message_no = message.no AND trigger = 1
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
    let share = share_of(connection, &stage, endpoint, Again::ByTheSchedule)?;
    let mut statement = connection.prepare_cached(&walk_sql())?;
    let mut rows = statement.query(named_params! {
        ":endpoint": endpoint.0, ":application": application.0,
        ":since": span.since.as_micros(), ":until": span.until.as_micros(),
        ":from": after(&stage.cursor, Ksuid::floor(span.since)), ":end": end(span.until).as_bytes(),
        ":rows": range::limit(stage.bounds.rows),
    })?;
    let mut walk = Walk::default();
    while let Some(row) = rows.next()? {
        let message = decode_message(row)?;
        let wanted = wants.wants(&message.value.event_type, message.value.channels.as_deref());
        let chosen = wanted && row.get("has_payload")? && !row.get::<_, bool>("known")?;
        if !walk.take(row.get("id")?, message.key.0, chosen, &share) {
            break;
        }
    }
    Ok(walk.slice(stage, endpoint, Again::ByTheSchedule, &share))
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
    let share = share_of(connection, &stage, endpoint, Again::Manually)?;
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
        ":rows": range::limit(stage.bounds.rows),
    })?;
    let mut walk = Walk::default();
    while let Some(row) = rows.next()? {
        if !walk.take(row.get(0)?, row.get(1)?, row.get(2)?, &share) {
            break;
        }
    }
    Ok(walk.slice(stage, endpoint, Again::Manually, &share))
}

/// The end of a task whose endpoint takes nothing. Why is looked up when that is written.
fn nothing(stage: Stage, endpoint: EndpointKey) -> Slice {
    let effects = Effects::Deliver { endpoint, how: Again::Manually, messages: Vec::new(), then: Then::GoesOn };
    Slice { cursor: stage.cursor, data: with_count(stage.data), ended: true, effects, ..Slice::default() }
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

/// Adds deliveries, and tells observers; returns how many, and how long it takes until there may be another one. Messages that were
/// attempted too often are left out. If the application's tasks asked for so many attempts that these are too many, nothing is
/// added, and the time after which they are not is returned.
pub(super) fn deliver(
    tx: &Tx<'_>,
    endpoint: EndpointKey,
    how: Again,
    mut messages: Vec<MessageKey>,
    per_day: u64,
    now: Timestamp,
) -> Result<Result<(usize, Duration), Duration>, SqlError> {
    if matches!(how, Again::Manually) {
        messages = unworn(tx, endpoint, messages)?;
    }
    let Some(application) = application_of(tx, endpoint)? else { return Ok(Ok((0, Duration::ZERO))) };
    let each = how.attempts(per_day);
    let left = match asked::spend(tx, application, (Use::Task, each * messages.len() as u64), per_day, now)? {
        Ok(left) => left,
        Err(wait) => return Ok(Err(wait)),
    };
    // Due when it would have been. A message that a clock dated that was ahead is due now.
    let mut scheduled = tx.prepare_cached(
        "INSERT OR IGNORE INTO delivery (endpoint_no, due_at, message_no, made, trigger)
         SELECT ?1, coalesce(deliver_at, min(created_at, ?4)), no, 0, ?3 FROM message WHERE no = ?2",
    )?;
    for message in &messages {
        match how {
            Again::Manually => add_manual(tx, endpoint, *message, now)?,
            Again::ByTheSchedule => {
                scheduled.execute(params![endpoint.0, message.0, SCHEDULED_LATER, now.as_micros()])?;
                hold(tx, *message)?;
            }
        }
    }
    if !messages.is_empty() {
        lower_wake(tx, endpoint, now)?;
        tx.tell(News::WorkAdded(endpoint, Some(application)));
    }
    Ok(Ok((messages.len(), left.spend(each, per_day, now).err().unwrap_or_default())))
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
    use crate::engine::plans::plan;

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
