//! Reading the log of attempts, and erasing answers. The hot path writes it.

use async_trait::async_trait;
use bytes::Bytes;
use postrider_domain::attempt::{Attempt, Trigger};
use postrider_domain::ids::{AttemptId, Id as _, Ksuid};
use postrider_domain::names::{Channel, Tag};
use postrider_store::{
    ApplicationKey, AttemptFilter, AttemptStats, Attempts, EndpointKey, MessageKey, Scan, StoreError, WriteError,
};
use rusqlite::{Connection, Row, params};

use crate::SqliteStore;
use crate::decode::{Columns, SqlError, all, first};
use crate::messages;
use crate::range::Range;
use crate::writer::Abort;

#[async_trait]
impl Attempts for SqliteStore {
    async fn attempts_by_endpoint(
        &self,
        endpoint: EndpointKey,
        filter: &AttemptFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Vec<Attempt>, StoreError> {
        let filter = filter.clone();
        self.lists.run(move |connection| list(connection, None, Some(endpoint), &filter, scan)).await
    }

    async fn attempts_by_message(
        &self,
        message: MessageKey,
        endpoint: Option<EndpointKey>,
        filter: &AttemptFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Vec<Attempt>, StoreError> {
        let filter = filter.clone();
        self.lists.run(move |connection| list(connection, Some(message), endpoint, &filter, scan)).await
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
                    "SELECT {COLUMNS}, response FROM attempt {LOOKED_UP}
                     WHERE attempt.message_no = ? AND attempt.id = ? AND message.application_no = ?
                         AND EXISTS (SELECT 1 FROM application
                                     WHERE no = message.application_no AND deleted_at IS NULL)"
                ))?;
                let rows = statement.query(params![message.0, id.ksuid().as_bytes(), application.0])?;
                first(rows, decode)
            })
            .await
    }

    async fn expunge_attempt(&self, message: MessageKey, id: AttemptId) -> Result<(), WriteError> {
        self.writer
            .run(move |tx| {
                let erased = tx
                    .prepare_cached(
                        "UPDATE attempt SET response = NULL WHERE (endpoint_no, id) =
                         (SELECT endpoint_no, id FROM attempt INDEXED BY attempt_by_message
                          WHERE message_no = ? AND id = ?)",
                    )?
                    .execute(params![message.0, id.ksuid().as_bytes()])?;
                if erased == 0 { Err(Abort::Refused(WriteError::NotFound)) } else { Ok(()) }
            })
            .await
    }

    async fn attempt_stats(&self, endpoint: EndpointKey, from: Ksuid, to: Ksuid) -> Result<AttemptStats, StoreError> {
        self.lists
            .run(move |connection| {
                let mut statement = connection.prepare_cached(STATS_SQL)?;
                let stats = statement.query_row(params![endpoint.0, from.as_bytes(), to.as_bytes()], |row| {
                    Ok(AttemptStats { succeeded: row.get(0)?, failed: row.get(1)? })
                })?;
                Ok(stats)
            })
            .await
    }
}

const STATS_SQL: &str = "SELECT count(*) FILTER (WHERE succeeded), count(*) FILTER (WHERE NOT succeeded)
     FROM attempt WHERE endpoint_no = ? AND id >= ? AND id < ?";

/// What attempts refer to. CROSS JOIN keeps the order of the tables: the log is walked in the order of its index, and
/// the others are looked up by number.
const LOOKED_UP: &str = "CROSS JOIN message ON message.no = attempt.message_no
     CROSS JOIN endpoint ON endpoint.no = attempt.endpoint_no
     CROSS JOIN endpoint_url ON endpoint_url.no = attempt.url_no";

/// What [`decode`] reads from attempts and [`LOOKED_UP`]; a column `response` follows.
const COLUMNS: &str = "attempt.message_no, attempt.id, message.id AS message_id, endpoint.id AS endpoint_id,
     endpoint_url.url AS url, succeeded, status_code, duration_ms, trigger, started_at, next_attempt_at";

fn decode(row: &Row<'_>) -> Result<Attempt, SqlError> {
    let columns = Columns::new(row, "attempt");
    Ok(Attempt {
        id: columns.id("id")?,
        message_id: columns.id("message_id")?,
        endpoint_id: columns.id("endpoint_id")?,
        url: columns.get("url")?,
        succeeded: columns.get("succeeded")?,
        status_code: columns.get("status_code")?,
        response: columns.get::<Option<Vec<u8>>>("response")?.map(Bytes::from),
        duration_ms: columns.get("duration_ms")?,
        trigger: Trigger::from_code(columns.get("trigger")?),
        started_at: columns.instant("started_at")?,
        next_attempt_at: columns.maybe_instant("next_attempt_at")?,
    })
}

/// Which attempts a list is of, and the index that has them. A message with all its endpoints is sorted, which is short;
/// the others are walked. SQLite would walk an endpoint's whole log for one message's attempts, if it were not told.
const OF_ENDPOINT: [&str; 2] = ["", "attempt.endpoint_no = ?1 AND ?12 IS NULL"];
const OF_MESSAGE: [&str; 2] = ["INDEXED BY attempt_by_message", "?1 IS NULL AND attempt.message_no = ?12"];
const OF_BOTH: [&str; 2] = ["INDEXED BY attempt_by_message", "attempt.endpoint_no = ?1 AND attempt.message_no = ?12"];

fn list_sql([index, of]: [&str; 2], order: &str) -> String {
    format!(
        "SELECT {COLUMNS}, CASE WHEN ?7 THEN response ELSE x'' END AS response FROM attempt {index} {LOOKED_UP}
         WHERE {of} AND attempt.id >= ?2 AND attempt.id < ?3
             AND (?9 IS NULL OR succeeded = ?9) AND (?10 IS NULL OR status_code BETWEEN ?10 AND ?11)
             AND {filter}
         ORDER BY attempt.id {order} LIMIT ?4",
        filter = messages::FILTER
    )
}

fn list(
    connection: &Connection,
    message: Option<MessageKey>,
    endpoint: Option<EndpointKey>,
    filter: &AttemptFilter,
    scan: Scan<Ksuid>,
) -> Result<Vec<Attempt>, SqlError> {
    let Range { low, high, order, limit } = Range::of_ids(scan);
    let of = match (message, endpoint) {
        (None, _) => OF_ENDPOINT,
        (Some(_), Some(_)) => OF_BOTH,
        (Some(_), None) => OF_MESSAGE,
    };
    let mut statement = connection.prepare_cached(&list_sql(of, order))?;
    let rows = statement.query(params![
        endpoint.map(|key| key.0),
        low,
        high,
        limit,
        messages::types(filter.event_types.as_ref()),
        filter.channel.as_ref().map(Channel::as_str),
        filter.with_response,
        filter.tag.as_ref().map(Tag::as_str),
        filter.succeeded,
        filter.status_code_class,
        filter.status_code_class.map(|class| i64::from(class) + 99),
        message.map(|key| key.0)
    ])?;
    all(rows, decode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::{assert_walks, plan};

    const ORDERS: [&str; 2] = ["ASC", "DESC"];

    #[test]
    fn a_page_of_an_endpoint_walks_the_log() {
        for order in ORDERS {
            let walked = "attempt USING PRIMARY KEY (endpoint_no=? AND id>? AND id<?)";
            assert_walks(&list_sql(OF_ENDPOINT, order), walked);
            let walked = "attempt USING INDEX attempt_by_message (message_no=? AND endpoint_no=? AND id>? AND id<?)";
            assert_walks(&list_sql(OF_BOTH, order), walked);
        }
        assert_walks(STATS_SQL, "attempt USING PRIMARY KEY (endpoint_no=? AND id>? AND id<?)");
    }

    #[test]
    fn a_page_of_a_message_reads_that_message_only() {
        for order in ORDERS {
            let plan = plan(&list_sql(OF_MESSAGE, order));
            assert!(plan[0].contains("attempt USING INDEX attempt_by_message (message_no=?)"), "{plan:#?}");
        }
    }
}
