//! Reading the log of attempts, and erasing answers. The hot path writes it.

use async_trait::async_trait;
use bytes::Bytes;
use postrider_domain::attempt::{Attempt, Trigger};
use postrider_domain::endpoint_url::without_credentials;
use postrider_domain::ids::{AttemptId, Id as _, Ksuid};
use postrider_store::{
    ApplicationKey, AttemptFilter, AttemptStats, Attempts, EndpointKey, MessageKey, Scan, StoreError, Walked,
    WriteError, shown_bytes,
};
use rusqlite::{Connection, Row, params};

use crate::areas::messages;
use crate::engine::decode::{Columns, SqlError, first, readable};
use crate::engine::range::{NO_LIMIT, Range};
use crate::engine::rows::{MESSAGE_COLUMNS, decode_message};
use crate::engine::tx::Abort;
use crate::lists::blocks::{ATTEMPTS, Id};
use crate::lists::postings::{Gathered, List, Named};
use crate::lists::terms::{About, Outcome, SUCCESS, Wanted};
use crate::store::SqliteStore;

#[async_trait]
impl Attempts for SqliteStore {
    async fn attempts_by_endpoint(
        &self,
        endpoint: EndpointKey,
        filter: &AttemptFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Attempt>, StoreError> {
        let filter = filter.clone();
        self.lists.run_at_once(move |connection| list(connection, None, Some(endpoint), &filter, scan)).await
    }

    async fn attempts_by_message(
        &self,
        message: MessageKey,
        endpoint: Option<EndpointKey>,
        filter: &AttemptFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Attempt>, StoreError> {
        let filter = filter.clone();
        self.lists
            .run_at_once(move |connection| match endpoint {
                Some(_) => list(connection, Some(message), endpoint, &filter, scan),
                None => list_of_message(connection, message, &filter, scan),
            })
            .await
    }

    async fn attempt(
        &self,
        application: ApplicationKey,
        message: MessageKey,
        id: AttemptId,
    ) -> Result<Option<Attempt>, StoreError> {
        self.readers
            .run(move |connection| {
                let mut statement = connection.prepare_cached(&format!(
                    "SELECT {}, response FROM attempt INDEXED BY attempt_of_message {LOOKED_UP}
                     WHERE attempt.message_no = ? AND attempt.id = ? AND message.application_no = ?
                         AND EXISTS (SELECT 1 FROM application
                                     WHERE no = message.application_no AND deleted_at IS NULL)",
                    columns()
                ))?;
                let rows = statement.query(params![message.0, id.ksuid().as_bytes(), application.0])?;
                first(rows, |row| decode(row, true))
            })
            .await
    }

    async fn expunge_attempt(&self, message: MessageKey, id: AttemptId) -> Result<(), WriteError> {
        self.writer
            .run(message, move |tx| {
                let erased = tx
                    .prepare_cached(
                        "UPDATE attempt SET response = NULL WHERE (endpoint_no, id) =
                         (SELECT endpoint_no, id FROM attempt INDEXED BY attempt_of_message
                          WHERE message_no = ? AND id = ?)",
                    )?
                    .execute(params![message.0, id.ksuid().as_bytes()])?;
                if erased == 0 { Err(Abort::Refused(WriteError::NotFound)) } else { Ok(()) }
            })
            .await
    }

    async fn attempt_stats(&self, endpoint: EndpointKey, from: Ksuid, to: Ksuid) -> Result<AttemptStats, StoreError> {
        self.lists.run_at_once(move |connection| stats(connection, endpoint, from, to)).await
    }
}

/// What attempts refer to. CROSS JOIN keeps the order of the tables: the log is walked in the order of its index, and
/// the others are looked up by number.
const LOOKED_UP: &str = "CROSS JOIN message ON message.no = attempt.message_no
     CROSS JOIN endpoint ON endpoint.no = attempt.endpoint_no
     CROSS JOIN endpoint_url ON endpoint_url.no = attempt.url_no";

/// What [`decode`] reads from attempts and [`LOOKED_UP`]; a column `response` follows. What is of the message has the names
/// that it has there.
fn columns() -> String {
    format!(
        "{MESSAGE_COLUMNS}, NULL AS payload, attempt.id AS attempt_id, endpoint.id AS endpoint_id, endpoint_url.url AS url,
         succeeded, status_code, duration_ms, trigger, started_at, next_attempt_at"
    )
}

fn decode(row: &Row<'_>, with_message: bool) -> Result<Attempt, SqlError> {
    let columns = Columns::new(row, "attempt");
    Ok(Attempt {
        id: columns.id("attempt_id")?,
        message_id: columns.id("id")?,
        endpoint_id: columns.id("endpoint_id")?,
        url: without_credentials(&columns.get::<String>("url")?).into_owned(),
        succeeded: columns.get("succeeded")?,
        status_code: columns.get("status_code")?,
        response: columns.get::<Option<Vec<u8>>>("response")?.map(Bytes::from),
        duration_ms: columns.get("duration_ms")?,
        trigger: Trigger::from_code(columns.get("trigger")?),
        started_at: columns.instant("started_at")?,
        next_attempt_at: columns.maybe_instant("next_attempt_at")?,
        message: if with_message { Some(Box::new(decode_message(row)?.value)) } else { None },
    })
}

/// Which attempts a list is of, and the index that has them. SQLite would walk an endpoint's whole log for one message's
/// attempts, if it were not told.
const OF_ENDPOINT: [&str; 2] = ["attempt", "attempt.endpoint_no = ?1 AND ?12 IS NULL"];
const OF_BOTH: [&str; 2] =
    ["attempt INDEXED BY attempt_by_message", "attempt.endpoint_no = ?1 AND attempt.message_no = ?12"];

/// The attempts that the parameters ask for, but for what they ask of the message.
const WANTED: &str = "attempt.id >= ?2 AND attempt.id < ?3
     AND (?9 IS NULL OR succeeded = ?9) AND (?10 IS NULL OR status_code BETWEEN ?10 AND ?11)";

fn list_sql([attempts, of]: [&str; 2], order: &str) -> String {
    format!(
        "SELECT {columns}, CASE WHEN ?7 THEN response ELSE x'' END AS response FROM {attempts} {LOOKED_UP}
         WHERE {of} AND {WANTED} AND {filter}
         ORDER BY attempt.id {order} LIMIT ?4",
        columns = columns(),
        filter = messages::FILTER
    )
}

fn list(
    connection: &Connection,
    message: Option<MessageKey>,
    endpoint: Option<EndpointKey>,
    filter: &AttemptFilter,
    scan: Scan<Ksuid>,
) -> Result<Walked<Attempt>, SqlError> {
    let range = Range::of_ids(scan);
    let sql = match message {
        None => list_sql(OF_ENDPOINT, range.order),
        Some(_) => list_sql(OF_BOTH, range.order),
    };
    let mut statement = connection.prepare_cached(&sql)?;
    let types = messages::types(filter.event_types.as_ref());
    let (channel, tag) = (messages::quoted(filter.channel.as_ref()), messages::quoted(filter.tag.as_ref()));
    let read = |low: &[u8], high: &[u8], page: &mut Gathered<Attempt>| {
        let rows = statement.query(params![
            endpoint.map(|key| key.0),
            low,
            high,
            NO_LIMIT,
            types,
            channel,
            filter.with_response,
            tag,
            filter.succeeded,
            filter.status_code_class,
            filter.status_code_class.map(|class| i64::from(class) + 99),
            message.map(|key| key.0)
        ])?;
        page.take(rows, |row| Ok(row.get("attempt_id")?), |row| Ok(sized(decode(row, filter.with_message)?)))
    };
    let list = List { log: ATTEMPTS, owner: endpoint.map_or(0, |key| key.0), range: &range };
    let AttemptFilter { succeeded, status_code_class, event_types, channel, tag, .. } = filter;
    let wanted = Wanted { event_types: event_types.as_deref(), channel: channel.as_ref(), tag: tag.as_ref() };
    if message.is_some() || (succeeded.is_none() && status_code_class.is_none() && wanted.is_all()) {
        return list.walk(read);
    }
    let outcomes = outcomes(*succeeded, *status_code_class);
    let outcomes: Vec<About> = outcomes.into_iter().map(About::Attempt).collect();
    list.gather(connection, wanted.clauses(&outcomes), Named::Blocks, read)
}

/// The attempts for message ?1, by id, and whether a filter lets them through; from their index alone.
fn of_message_sql(order: &str) -> String {
    format!(
        "SELECT endpoint_no, id, (?4 IS NULL OR succeeded = ?4) AND (?5 IS NULL OR status_code BETWEEN ?5 AND ?6)
         FROM attempt INDEXED BY attempt_of_message WHERE message_no = ?1 AND id >= ?2 AND id < ?3 ORDER BY id {order}"
    )
}

fn candidate(row: &Row<'_>) -> Result<(i64, Id, bool), SqlError> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

/// A page of the attempts for a message at whatever endpoint. Ends early after many that the filter does not let through.
fn list_of_message(
    connection: &Connection,
    message: MessageKey,
    filter: &AttemptFilter,
    scan: Scan<Ksuid>,
) -> Result<Walked<Attempt>, SqlError> {
    let range = Range::of_ids(scan);
    let mut candidates = connection.prepare_cached(&of_message_sql(range.order))?;
    let mut shown = connection.prepare_cached(&format!(
        "SELECT {}, CASE WHEN ?3 THEN response ELSE x'' END AS response FROM attempt {LOOKED_UP}
         WHERE attempt.endpoint_no = ?1 AND attempt.id = ?2",
        columns()
    ))?;
    let is_wanted = messages::passes(connection, message, filter)?;
    let class = filter.status_code_class.map(i64::from);
    let read = |low: &[u8], high: &[u8], page: &mut Gathered<Attempt>| {
        if !is_wanted {
            return Ok(());
        }
        let range = params![message.0, low, high, filter.succeeded, class, class.map(|class| class + 99)];
        let mut rows = candidates.query(range)?;
        while let Some(row) = rows.next()? {
            let Some((endpoint, id, passes)) = readable(candidate(row))? else { continue };
            let decode = |row: &Row<'_>| Ok(sized(decode(row, filter.with_message)?));
            let found = match passes {
                true => readable(first(shown.query(params![endpoint, id, filter.with_response])?, decode))?.flatten(),
                false => None,
            };
            let more = match found {
                Some((attempt, bytes)) => page.push(attempt, bytes),
                None => page.look(id),
            };
            if !more {
                break;
            }
        }
        Ok(())
    };
    List { log: ATTEMPTS, owner: 0, range: &range }.walk(read)
}

/// The outcomes that a filter lets through. Attempts succeed with one class of status codes, and no other.
fn outcomes(succeeded: Option<bool>, class: Option<u16>) -> Vec<Outcome> {
    match (succeeded, class) {
        (None, None) => vec![Outcome::Class(SUCCESS), Outcome::Failed],
        (Some(true), None) => vec![Outcome::Class(SUCCESS)],
        (Some(false), None) => vec![Outcome::Failed],
        (Some(succeeded), Some(class)) if succeeded != (class == SUCCESS) => Vec::new(),
        (_, Some(class)) => vec![Outcome::Class(class)],
    }
}

/// An attempt, and how many bytes of answer it shows.
fn sized(attempt: Attempt) -> (Attempt, usize) {
    let bytes = attempt.response.as_deref().map_or(0, shown_bytes);
    (attempt, bytes)
}

/// The stretches of endpoint ?1 that were counted and lie in [?2, ?3), as one.
const TALLIED_SQL: &str = "SELECT min(start), max(until), coalesce(sum(succeeded), 0), coalesce(sum(failed), 0)
     FROM attempt_tally WHERE endpoint_no = ?1 AND start >= ?2 AND start < ?3 AND until <= ?3";

const COUNTED_SQL: &str = "SELECT count(*) FILTER (WHERE succeeded), count(*) FILTER (WHERE NOT succeeded)
     FROM attempt WHERE endpoint_no = ? AND id >= ? AND id < ?";

/// Adds up what was counted already, and counts what lies before and after that.
pub(crate) fn stats(
    connection: &Connection,
    endpoint: EndpointKey,
    from: Ksuid,
    to: Ksuid,
) -> Result<AttemptStats, SqlError> {
    let (from, to) = (from.as_bytes().to_vec(), to.as_bytes().to_vec());
    let mut tallied = connection.prepare_cached(TALLIED_SQL)?;
    let (start, until, succeeded, failed) = tallied.query_row(params![endpoint.0, from, to], |row| {
        Ok((row.get::<_, Option<Vec<u8>>>(0)?, row.get::<_, Option<Vec<u8>>>(1)?, row.get(2)?, row.get(3)?))
    })?;
    let mut stats = AttemptStats { succeeded, failed };
    let edges = match (start, until) {
        (Some(start), Some(until)) => vec![(from, start), (until, to)],
        _ => vec![(from, to)],
    };
    let mut counted = connection.prepare_cached(COUNTED_SQL)?;
    for (low, high) in edges {
        let (succeeded, failed): (u64, u64) =
            counted.query_row(params![endpoint.0, low, high], |row| Ok((row.get(0)?, row.get(1)?)))?;
        stats.succeeded += succeeded;
        stats.failed += failed;
    }
    Ok(stats)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::names::Tag;
    use postrider_store::Direction;

    use crate::engine::plans::{assert_walks, steps};

    const ORDERS: [&str; 2] = ["ASC", "DESC"];

    #[test]
    fn a_page_of_an_endpoint_walks_the_log() {
        for order in ORDERS {
            let walked = "attempt USING PRIMARY KEY (endpoint_no=? AND id>? AND id<?)";
            assert_walks(&list_sql(OF_ENDPOINT, order), walked);
            let walked = "attempt USING INDEX attempt_by_message (message_no=? AND endpoint_no=? AND id>? AND id<?)";
            assert_walks(&list_sql(OF_BOTH, order), walked);
        }
        assert_walks(COUNTED_SQL, "attempt USING PRIMARY KEY (endpoint_no=? AND id>? AND id<?)");
        assert_walks(TALLIED_SQL, "attempt_tally USING PRIMARY KEY (endpoint_no=? AND start>? AND start<?)");
    }

    #[test]
    fn a_page_of_a_message_costs_what_is_on_it_however_many_attempts_there_are() {
        let cost = |endpoints, filter: &AttemptFilter, looked_at: bool| {
            let mut connection = crate::lists::history::tests::fan_out(endpoints, 20);
            steps(&mut connection, |connection| {
                let scan = Scan::all(Direction::Descending, 10);
                let page = list_of_message(connection, MessageKey(3), filter, scan).unwrap();
                // The endpoints themselves are not there, so nothing is shown of them.
                assert_eq!((page.listed.rows.len(), page.reached.is_some()), (0, looked_at));
            })
        };
        let all = AttemptFilter::default();
        let [few, many] = [30, 300].map(|endpoints| cost(endpoints, &all, true));
        assert!(many <= few + few / 10 + 1, "{few} to {many} thousand steps");
        let none = AttemptFilter { succeeded: Some(true), ..AttemptFilter::default() };
        let [few, many] = [30, 300].map(|endpoints| cost(endpoints, &none, true));
        assert!(many <= few + few / 10 + 1, "{few} to {many} thousand steps");
        // What it asks of the message itself is looked up once.
        let tag = Tag::parse("none").unwrap();
        let other = AttemptFilter { tag: Some(tag), ..AttemptFilter::default() };
        assert!(cost(300, &other, false) <= 1);
    }

    #[test]
    fn a_page_of_a_message_reads_that_message_only() {
        for order in ORDERS {
            let walked = "attempt USING COVERING INDEX attempt_of_message (message_no=? AND id>? AND id<?)";
            assert_walks(&of_message_sql(order), walked);
        }
    }
}
