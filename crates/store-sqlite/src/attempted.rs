//! What came of delivering: attempted messages of an endpoint, and destinations of a message.
//!
//! A candidate is found by the postings of messages; how it stands, and its latest attempt, is read from the log.

use async_trait::async_trait;
use postrider_domain::ids::Ksuid;
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationKey, Attempted, AttemptedFilter, AttemptedMessage, Destination, EndpointKey, Listed, MessageKey,
    PAGE_BYTES, Scan, Standing, StoreError, Walked,
};
use rusqlite::{Connection, Row, Statement, params};

use crate::SqliteStore;
use crate::blocks::{Id, MESSAGES};
use crate::decode::{SqlError, readable, row_bytes};
use crate::messages::{self, FILTER, LIVE};
use crate::postings::{Gathered, List, Named};
use crate::range::Range;
use crate::rows::{ENDPOINT_COLUMNS, MESSAGE_COLUMNS, PAYLOAD, decode_endpoint, decode_message};
use crate::terms::{About, Term, Wanted};

#[async_trait]
impl Attempted for SqliteStore {
    async fn attempted_messages(
        &self,
        application: ApplicationKey,
        endpoint: EndpointKey,
        filter: &AttemptedFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<AttemptedMessage>, StoreError> {
        let filter = filter.clone();
        self.lists.run_at_once(move |connection| list(connection, application, endpoint, &filter, scan)).await
    }

    async fn destinations(&self, message: MessageKey, scan: Scan<Ksuid>) -> Result<Listed<Destination>, StoreError> {
        self.lists.run_at_once(move |connection| destinations(connection, message, scan)).await
    }
}

/// The attempts of message ?1 to endpoint ?2.
pub(crate) const TRIED_SQL: &str = "SELECT id, succeeded, next_attempt_at, started_at, number
     FROM attempt INDEXED BY attempt_by_message WHERE message_no = ?1 AND endpoint_no = ?2";

/// What [`TRIED_SQL`] says of an attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tried {
    pub(crate) id: Id,
    succeeded: bool,
    next_attempt_at: Option<Timestamp>,
    /// What tells which is the latest: ids are not enough, because retries may follow within the 4 ms that they resolve. Of
    /// a scheduled and a manual attempt that began together it is the one with the greater id, as in lists.
    order: (i64, i64, Id),
}

impl Tried {
    pub(crate) fn decode(row: &Row<'_>) -> Result<Self, SqlError> {
        let next_attempt_at: Option<i64> = row.get(2)?;
        Ok(Self {
            id: row.get(0)?,
            succeeded: row.get(1)?,
            next_attempt_at: next_attempt_at.map(Timestamp::from_micros),
            order: (row.get(3)?, row.get(4)?, row.get(0)?),
        })
    }

    pub(crate) fn standing(&self) -> Standing {
        Standing::after(self.succeeded, self.next_attempt_at.is_some())
    }
}

/// All attempts of one message to one endpoint, taken together.
struct Story {
    latest: Tried,
    standing: Standing,
    /// When there was to be another attempt, as each of them says.
    announced: Vec<Timestamp>,
}

/// Whether delivery (?1, ?2, ?3) is pending. What an attempt announced is, until it is tried, or canceled.
const PENDING_SQL: &str = "SELECT 1 FROM delivery WHERE endpoint_no = ? AND due_at = ? AND message_no = ?";

impl Story {
    /// What the latest attempt announced is looked for: if it is not pending, it was canceled. Unless another one announced
    /// what is: by a clock that was wrong, the latest was not the last.
    fn checked(mut self, pending: &mut Statement<'_>, message: i64, endpoint: i64) -> Result<Self, SqlError> {
        let mut is_pending = |at: Timestamp| pending.exists(params![endpoint, at.as_micros(), message]);
        let Some(at) = self.latest.next_attempt_at else { return Ok(self) };
        if is_pending(at)? {
            return Ok(self);
        }
        self.latest.next_attempt_at = None;
        if self.standing != Standing::Waiting {
            return Ok(self);
        }
        for at in std::mem::take(&mut self.announced) {
            if is_pending(at)? {
                self.latest.next_attempt_at = Some(at);
                return Ok(self);
            }
        }
        self.standing = Standing::Canceled;
        Ok(self)
    }

    fn is_canceled(&self) -> bool {
        self.standing == Standing::Canceled
    }
}

/// What came of a message at an endpoint; `None` if it was never attempted.
fn story(tried: &mut Statement<'_>, message: i64, endpoint: i64) -> Result<Option<Story>, SqlError> {
    let mut rows = tried.query(params![message, endpoint])?;
    let mut story: Option<Story> = None;
    while let Some(row) = rows.next()? {
        let Some(next) = readable(Tried::decode(row))? else { continue };
        let standing = next.standing();
        story = Some(match story {
            None => Story { announced: next.next_attempt_at.into_iter().collect(), latest: next, standing },
            Some(mut story) => Story {
                announced: {
                    story.announced.extend(next.next_attempt_at);
                    story.announced
                },
                latest: if next.order > story.latest.order { next } else { story.latest },
                standing: story.standing.max(standing),
            },
        });
    }
    Ok(story)
}

/// Messages that may have been attempted, by number. Their payloads are read when it is known that they were. (The
/// comparison of ?4 with ?7 is always true: it keeps the parameters of [`FILTER`] where they are in other lists.)
fn candidates_sql(order: &str) -> String {
    format!(
        "SELECT message.no, message.id FROM message
         WHERE application_no = ?1 AND id >= ?2 AND id < ?3 AND {LIVE} AND ?4 > ?7 AND {FILTER}
         ORDER BY id {order}"
    )
}

fn list(
    connection: &Connection,
    application: ApplicationKey,
    endpoint: EndpointKey,
    filter: &AttemptedFilter,
    scan: Scan<Ksuid>,
) -> Result<Walked<AttemptedMessage>, SqlError> {
    let range = Range::of_ids(scan);
    let mut candidates = connection.prepare_cached(&candidates_sql(range.order))?;
    let mut tried = connection.prepare_cached(TRIED_SQL)?;
    let mut pending = connection.prepare_cached(PENDING_SQL)?;
    let mut message = connection.prepare_cached(&format!(
        "SELECT {MESSAGE_COLUMNS}, CASE WHEN ?2 THEN {PAYLOAD} END AS payload FROM message WHERE no = ?1"
    ))?;
    let types = messages::types(filter.event_types.as_ref());
    let (channel, tag) = (messages::quoted(filter.channel.as_ref()), messages::quoted(filter.tag.as_ref()));
    let read = |low: &[u8], high: &[u8], page: &mut Gathered<AttemptedMessage>| {
        let mut rows = candidates.query(params![application.0, low, high, page.wanted(), types, channel, 0, tag])?;
        while let Some(row) = rows.next()? {
            let (number, id): (i64, Id) = (row.get(0)?, row.get(1)?);
            let story = story(&mut tried, number, endpoint.0)?;
            let story = story.map(|story| story.checked(&mut pending, number, endpoint.0)).transpose()?;
            let wanted = |story: &Story| filter.standing.is_none_or(|standing| standing == story.standing);
            let Some(story) = story.filter(wanted) else {
                if page.look(id) {
                    continue;
                }
                break;
            };
            let mut found = message.query(params![number, filter.with_payload])?;
            let Some(row) = found.next()? else { continue };
            let Some(message) = readable(decode_message(row))? else { continue };
            let (message, bytes) = messages::sized(message.value);
            let (canceled, Tried { succeeded, next_attempt_at, .. }) = (story.is_canceled(), story.latest);
            if !page.push(AttemptedMessage { message, succeeded, next_attempt_at, canceled }, bytes) {
                break;
            }
        }
        Ok(())
    };
    let (clauses, named) = asked(endpoint, filter);
    List { log: MESSAGES, owner: application.0, range: &range }.gather(connection, clauses, named, read)
}

/// Where to look for what a filter lets through.
fn asked(endpoint: EndpointKey, filter: &AttemptedFilter) -> (Vec<Vec<Term>>, Named) {
    let (about, named) = match filter.standing {
        None => (vec![About::Attempted(endpoint, true), About::Attempted(endpoint, false)], Named::Blocks),
        Some(Standing::Delivered) => (vec![About::Attempted(endpoint, true)], Named::Blocks),
        // What was canceled waits as far as its postings say.
        Some(Standing::Canceled) => (vec![About::Standing(endpoint, Standing::Waiting)], Named::Rows),
        Some(standing) => (vec![About::Standing(endpoint, standing)], Named::Rows),
    };
    let AttemptedFilter { event_types, channel, tag, .. } = filter;
    let wanted = Wanted { event_types: event_types.as_deref(), channel: channel.as_ref(), tag: tag.as_ref() };
    (wanted.clauses(&about), named)
}

/// The numbers of the endpoints to which message ?1 was attempted, with ids in [?2, ?3). What is sorted is small: endpoints
/// may have a quarter of a megabyte, and are read for one page.
fn destinations_sql(order: &str) -> String {
    format!(
        "SELECT endpoint.no
         FROM (SELECT DISTINCT endpoint_no FROM attempt INDEXED BY attempt_by_message WHERE message_no = ?1) AS tried
         CROSS JOIN endpoint ON endpoint.no = tried.endpoint_no
         WHERE endpoint.id >= ?2 AND endpoint.id < ?3 ORDER BY endpoint.id {order}"
    )
}

fn destinations(
    connection: &Connection,
    message: MessageKey,
    scan: Scan<Ksuid>,
) -> Result<Listed<Destination>, SqlError> {
    let Range { low, high, order, limit } = Range::of_ids(scan);
    let limit = usize::try_from(limit).unwrap_or_default();
    let mut numbers = connection.prepare_cached(&destinations_sql(order))?;
    let mut endpoints = connection.prepare_cached(&format!("SELECT {ENDPOINT_COLUMNS} FROM endpoint WHERE no = ?"))?;
    let mut tried = connection.prepare_cached(TRIED_SQL)?;
    let mut pending = connection.prepare_cached(PENDING_SQL)?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    let mut numbers = numbers.query(params![message.0, low, high])?;
    while found.len() < limit
        && let Some(number) = numbers.next()?
    {
        if bytes >= PAGE_BYTES {
            return Ok(Listed { rows: found, cut: true });
        }
        let mut rows = endpoints.query([number.get::<_, i64>(0)?])?;
        let Some(row) = rows.next()? else { continue };
        let Some(endpoint) = readable(decode_endpoint(row))? else { continue };
        bytes += row_bytes(row);
        let Some(story) = story(&mut tried, message.0, endpoint.key.0)? else { continue };
        let story = story.checked(&mut pending, message.0, endpoint.key.0)?;
        let (canceled, Tried { succeeded, next_attempt_at, .. }) = (story.is_canceled(), story.latest);
        found.push(Destination { endpoint: endpoint.value, succeeded, next_attempt_at, canceled });
    }
    Ok(Listed { rows: found, cut: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::{assert_walks, plan};

    #[test]
    fn attempted_messages_walk_the_index_of_their_application() {
        for order in ["ASC", "DESC"] {
            let walked = "message USING INDEX message_by_id (application_no=? AND id>? AND id<?)";
            assert_walks(&candidates_sql(order), walked);
        }
        assert_walks(TRIED_SQL, "attempt USING INDEX attempt_by_message (message_no=? AND endpoint_no=?)");
    }

    #[test]
    fn destinations_read_the_attempts_of_their_message_only() {
        for order in ["ASC", "DESC"] {
            let plan = plan(&destinations_sql(order));
            let walked = "SEARCH attempt USING COVERING INDEX attempt_by_message (message_no=?)";
            assert!(plan.iter().any(|step| step == walked), "{plan:#?}");
            assert!(!plan.iter().any(|step| step.starts_with("SCAN") && step != "SCAN tried"), "{plan:#?}");
        }
    }
}
