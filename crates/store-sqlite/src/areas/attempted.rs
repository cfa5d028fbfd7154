//! What came of delivering: attempted messages of an endpoint, and destinations of a message.
//!
//! A candidate is found by the postings of messages; how it stands, and its latest attempt, is read from the log.

use async_trait::async_trait;
use postrider_domain::ids::Ksuid;
use postrider_store::{
    ApplicationKey, Attempted, AttemptedFilter, AttemptedMessage, Destination, EndpointKey, MessageKey, Scan, Standing,
    StoreError, Story, Tried, Walked,
};
use rusqlite::types::Value;
use rusqlite::{Connection, Row, Statement, params};

use crate::areas::messages::{self, FILTER, LIVE};
use crate::engine::decode::{SqlError, encode_json, readable, row_bytes};
use crate::engine::range::Range;
use crate::engine::rows::{ENDPOINT_COLUMNS, MESSAGE_COLUMNS, PAYLOAD, decode_endpoint, decode_message};
use crate::lists::blocks::{Id, MESSAGES};
use crate::lists::postings::{Gathered, List, Named};
use crate::lists::standings::{TRIED_SQL, decode_tried};
use crate::lists::terms::{About, Term, Wanted};
use crate::store::SqliteStore;

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

    async fn destinations(&self, message: MessageKey, scan: Scan<Ksuid>) -> Result<Walked<Destination>, StoreError> {
        self.lists.run_at_once(move |connection| destinations(connection, message, scan)).await
    }
}

/// Whether delivery (?1, ?2, ?3) is pending. What an attempt announced is, until it is tried, or canceled.
const PENDING_SQL: &str = "SELECT 1 FROM delivery WHERE endpoint_no = ? AND due_at = ? AND message_no = ?";

/// Looks for what the latest attempt announced.
fn checked(story: Story, pending: &mut Statement<'_>, message: i64, endpoint: i64) -> Result<Story, SqlError> {
    story.checked(|at| Ok(pending.exists(params![endpoint, at.as_micros(), message])?))
}

/// What came of a message at an endpoint; `None` if it was never attempted.
fn story(tried: &mut Statement<'_>, message: i64, endpoint: i64) -> Result<Option<Story>, SqlError> {
    let mut rows = tried.query(params![message, endpoint])?;
    let mut story: Option<Story> = None;
    while let Some(row) = rows.next()? {
        let Some(next) = readable(decode_tried(row))? else { continue };
        story = Some(Story::with(story, next));
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
        let mut rows = candidates.query(params![application.0, low, high, 1, types, channel, 0, tag])?;
        while let Some(row) = rows.next()? {
            let Some((number, id)) = readable(place(row))? else { continue };
            let story = story(&mut tried, number, endpoint.0)?;
            let story = story.map(|story| checked(story, &mut pending, number, endpoint.0)).transpose()?;
            let wanted = |story: &Story| filter.standing.is_none_or(|standing| standing == story.standing());
            let Some(story) = story.filter(wanted) else {
                if page.look(id) {
                    continue;
                }
                break;
            };
            let mut found = message.query(params![number, filter.with_payload])?;
            let message = match found.next()? {
                Some(row) => readable(decode_message(row))?,
                None => None,
            };
            let Some(message) = message else {
                if page.look(id) {
                    continue;
                }
                break;
            };
            let (message, bytes) = messages::sized(message.value);
            let (canceled, Tried { succeeded, next_attempt_at, .. }) = (story.is_canceled(), *story.latest());
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

/// The destinations of a message are found among its attempts if they are so many or fewer: as many as an application has endpoints by
/// default. Else among the application's endpoints, of which most are some of them then.
const FEW_DESTINATIONS: usize = 1_000;

/// The next endpoint, by number, to which message ?1 was attempted.
const NEXT_TRIED_SQL: &str = "SELECT min(endpoint_no) FROM attempt INDEXED BY attempt_by_message
     WHERE message_no = ?1 AND endpoint_no > ?2";

/// The endpoints to which a message was attempted, if they are few; from each straight to the next one, past its attempts.
fn few_destinations(connection: &Connection, message: MessageKey) -> Result<Option<Vec<i64>>, SqlError> {
    let mut next = connection.prepare_cached(NEXT_TRIED_SQL)?;
    let (mut found, mut last) = (Vec::new(), i64::MIN);
    while let Some(endpoint) = next.query_row([message.0, last], |row| row.get::<_, Option<i64>>(0))? {
        if found.len() == FEW_DESTINATIONS {
            return Ok(None);
        }
        found.push(endpoint);
        last = endpoint;
    }
    Ok(Some(found))
}

/// Those of the endpoints ?3 (JSON) with ids in [?1, ?2). What is sorted is small: endpoints may have a quarter of a megabyte, and
/// are read for one page.
fn among_sql(order: &str) -> String {
    format!(
        "SELECT endpoint.no, endpoint.id FROM json_each(?3) AS tried CROSS JOIN endpoint ON endpoint.no = tried.value
         WHERE endpoint.id >= ?1 AND endpoint.id < ?2 ORDER BY endpoint.id {order}"
    )
}

/// All endpoints of the application of message ?3 with ids in [?1, ?2).
fn all_sql(order: &str) -> String {
    format!(
        "SELECT no, id FROM endpoint INDEXED BY endpoint_by_id
         WHERE application_no = (SELECT application_no FROM message WHERE no = ?3) AND id >= ?1 AND id < ?2
         ORDER BY id {order}"
    )
}

fn place(row: &Row<'_>) -> Result<(i64, Id), SqlError> {
    Ok((row.get(0)?, row.get(1)?))
}

fn destinations(
    connection: &Connection,
    message: MessageKey,
    scan: Scan<Ksuid>,
) -> Result<Walked<Destination>, SqlError> {
    let range = Range::of_ids(scan);
    let few = few_destinations(connection, message)?;
    let (sql, among) = match &few {
        Some(few) => (among_sql(range.order), Value::Text(encode_json(few)?)),
        None => (all_sql(range.order), Value::Integer(message.0)),
    };
    let mut numbers = connection.prepare_cached(&sql)?;
    let mut endpoints = connection.prepare_cached(&format!("SELECT {ENDPOINT_COLUMNS} FROM endpoint WHERE no = ?"))?;
    let mut tried = connection.prepare_cached(TRIED_SQL)?;
    let mut pending = connection.prepare_cached(PENDING_SQL)?;
    let read = |low: &[u8], high: &[u8], page: &mut Gathered<Destination>| {
        let mut numbers = numbers.query(params![low, high, among])?;
        while let Some(row) = numbers.next()? {
            let Some((number, id)) = readable(place(row))? else { continue };
            let Some(story) = story(&mut tried, message.0, number)? else {
                if page.look(id) {
                    continue;
                }
                break;
            };
            let mut rows = endpoints.query([number])?;
            let endpoint = match rows.next()? {
                Some(row) => readable(decode_endpoint(row))?.map(|endpoint| (endpoint, row_bytes(row))),
                None => None,
            };
            let Some((endpoint, bytes)) = endpoint else {
                if page.look(id) {
                    continue;
                }
                break;
            };
            let story = checked(story, &mut pending, message.0, number)?;
            let (canceled, Tried { succeeded, next_attempt_at, .. }) = (story.is_canceled(), *story.latest());
            if !page.push(Destination { endpoint: endpoint.value, succeeded, next_attempt_at, canceled }, bytes) {
                break;
            }
        }
        Ok(())
    };
    List { log: MESSAGES, owner: 0, range: &range }.walk(read)
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use postrider_domain::ids::Id as _;
    use postrider_store::Direction;

    use super::*;
    use crate::engine::plans::{assert_walks, plan, steps};
    use crate::lists::history::tests::fan_out;

    #[test]
    fn attempted_messages_walk_the_index_of_their_application() {
        for order in ["ASC", "DESC"] {
            let walked = "message USING INDEX message_by_id (application_no=? AND id>? AND id<?)";
            assert_walks(&candidates_sql(order), walked);
        }
        assert_walks(TRIED_SQL, "attempt USING INDEX attempt_by_message (message_no=? AND endpoint_no=?)");
    }

    /// [`fan_out`], with the endpoints themselves and so many others before them.
    fn with_endpoints(endpoints: i64, attempts: i64, others: i64) -> Connection {
        let connection = fan_out(endpoints, attempts);
        connection.execute_batch("PRAGMA foreign_keys = OFF; BEGIN").unwrap();
        let sql = "INSERT INTO endpoint (no, application_no, id, url, description, version, disabled, metadata, headers, signing_keys,
                                          created_at, updated_at)
             VALUES (?1, 1, ?2, 'https://a.example', '', 1, 0, '{}', '{}', '{}', 0, 0)";
        for number in 1 - others..=endpoints {
            let mut id = [0; 20];
            id[12..].copy_from_slice(&(number + others).to_be_bytes());
            connection.prepare_cached(sql).unwrap().execute(params![number, id]).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        connection
    }

    #[test]
    fn a_page_of_destinations_costs_what_is_on_it_however_often_each_was_tried() {
        let cost = |attempts| {
            steps(&mut with_endpoints(100, attempts, 0), |connection| {
                let page = destinations(connection, MessageKey(3), Scan::all(Direction::Ascending, 2)).unwrap();
                assert_eq!(page.listed.rows.len(), 2);
            })
        };
        let [few, many] = [1, 100].map(cost);
        assert!(many <= few + 8, "{few} to {many} thousand steps");
    }

    #[test]
    fn of_a_message_that_was_tried_at_very_many_endpoints_pages_end_early_and_show_all_of_them() {
        let many = FEW_DESTINATIONS as i64 + 1;
        let connection = with_endpoints(many, 1, 1_200);
        let (mut lower, mut shown, mut pages) = (Bound::Unbounded, 0, 0);
        loop {
            let scan = Scan { lower, ..Scan::all(Direction::Ascending, 250) };
            let page = destinations(&connection, MessageKey(3), scan).unwrap();
            (shown, pages) = (shown + page.listed.rows.len(), pages + 1);
            let last = page.listed.rows.last().map(|destination| destination.endpoint.id.ksuid());
            assert!(page.reached.is_none() || page.listed.rows.is_empty() || pages == 3, "{pages}");
            let Some(last) = page.reached.or(last) else { break };
            lower = Bound::Excluded(last);
        }
        assert_eq!((shown, pages), (FEW_DESTINATIONS + 1, 2 + 5 + 1));
    }

    #[test]
    fn destinations_are_looked_up_by_indexes() {
        let tried = "attempt USING COVERING INDEX attempt_by_message (message_no=? AND endpoint_no>?)";
        assert_walks(NEXT_TRIED_SQL, tried);
        for order in ["ASC", "DESC"] {
            let plan = plan(&among_sql(order));
            assert!(!plan.iter().any(|step| step.starts_with("SCAN") && !step.starts_with("SCAN tried")), "{plan:#?}");
            assert_walks(
                &all_sql(order),
                "endpoint USING COVERING INDEX endpoint_by_id (application_no=? AND id>? AND id<?)",
            );
        }
    }
}
