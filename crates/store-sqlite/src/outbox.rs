//! The outbox: notices are added by whatever writes what they report, in its transaction.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use postrider_domain::application::EnvironmentId;
use postrider_domain::delivery::DisableReason;
use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_domain::names::{EventTypeName, Uid};
use postrider_domain::notice::{self, AttemptNotice, EndpointNotice, LastAttempt, NoticeKind};
use postrider_domain::time::Timestamp;
use postrider_store::{AttemptRecord, EndpointKey, MAX_NOTICES, MessageKey, Notice, NoticeKey, Outbox, StoreError};
use rusqlite::{OptionalExtension as _, params};
use serde::Serialize;
use tokio::time::Instant;

use crate::SqliteStore;
use crate::askers::Whose;
use crate::decode::{Columns, SqlError, all, first, readable};
use crate::inserts::json_list;
use crate::range;
use crate::writer::{Abort, News, Tx};

#[async_trait]
impl Outbox for SqliteStore {
    async fn notices(&self, limit: usize, except: Vec<Uid>) -> Result<Vec<Notice>, StoreError> {
        self.readers
            .run_own(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT no, recipient, event_type, payload FROM outbox
                     WHERE recipient NOT IN (SELECT value FROM json_each(?)) ORDER BY no LIMIT ?",
                )?;
                let except = json_list(except.iter().map(Uid::as_str));
                all(statement.query(params![except, range::limit(limit)])?, |row| {
                    let columns = Columns::new(row, "outbox");
                    Ok(Notice {
                        key: NoticeKey(columns.get("no")?),
                        recipient: Uid::from_trusted(columns.get("recipient")?),
                        event_type: EventTypeName::from_trusted(columns.get("event_type")?),
                        payload: Bytes::from(columns.get::<Vec<u8>>("payload")?),
                    })
                })
            })
            .await
    }

    async fn remove_notices(&self, notices: Vec<NoticeKey>) -> Result<(), StoreError> {
        self.writer
            .run_rows(Whose::Process, notices.len(), move |tx| {
                let mut delete = tx.prepare_cached("DELETE FROM outbox WHERE no = ?")?;
                for notice in &notices {
                    delete.execute([notice.0])?;
                }
                Ok::<_, Abort<StoreError>>(())
            })
            .await
    }
}

/// An endpoint whose operator wants to be told.
struct Reported {
    recipient: String,
    app_id: ApplicationId,
    app_uid: Option<Uid>,
    endpoint_id: EndpointId,
    endpoint_uid: Option<Uid>,
    failing_since: Option<Timestamp>,
    disabled_reason: Option<DisableReason>,
    disabled_since: Option<Timestamp>,
}

const REPORTED_SQL: &str =
    "SELECT endpoint.no, environment.id AS recipient, application.id AS app_id, application.uid AS app_uid,
         endpoint.id AS endpoint_id, endpoint.uid AS endpoint_uid, failing_since,
         disabled_reason, disabled_since
     FROM endpoint JOIN application ON application.no = application_no
         JOIN environment ON environment.no = environment_no
         LEFT JOIN endpoint_fact ON endpoint_no = endpoint.no
     WHERE endpoint.no = ?1 AND environment.id <> ?2 AND EXISTS (
         SELECT 1 FROM application AS told
         WHERE told.environment_no = (SELECT no FROM environment WHERE id = ?2)
             AND told.uid = environment.id AND told.deleted_at IS NULL
     )";

/// The endpoint, if its operator wants to be told of it. (A notice is no reason to fail what it is about: who reports leaves
/// out what makes no sense.)
fn reported(tx: &Tx<'_>, endpoint: EndpointKey) -> Result<Option<Reported>, SqlError> {
    let mut statement = tx.prepare_cached(REPORTED_SQL)?;
    first(statement.query(params![endpoint.0, EnvironmentId::MANAGEMENT])?, |row| {
        let columns = Columns::new(row, "endpoint");
        Ok(Reported {
            recipient: columns.get("recipient")?,
            app_id: columns.id("app_id")?,
            app_uid: columns.get::<Option<String>>("app_uid")?.map(Uid::from_trusted),
            endpoint_id: columns.id("endpoint_id")?,
            endpoint_uid: columns.get::<Option<String>>("endpoint_uid")?.map(Uid::from_trusted),
            failing_since: columns.maybe_instant("failing_since")?,
            disabled_reason: columns
                .get::<Option<String>>("disabled_reason")?
                .and_then(|word| DisableReason::parse(&word)),
            disabled_since: columns.maybe_instant("disabled_since")?,
        })
    })
}

/// Whether so many notices wait for an operator that no more are added. What is counted of them is looked at only if there may be
/// that many: a count that makes no sense keeps nobody from being told.
fn is_full(tx: &Tx<'_>, recipient: &str) -> Result<bool, SqlError> {
    let most = i64::try_from(MAX_NOTICES).unwrap_or(i64::MAX);
    let span = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?));
    let sql =
        "SELECT (SELECT min(no) FROM outbox WHERE recipient = ?1), (SELECT max(no) FROM outbox WHERE recipient = ?1)";
    let (Some(first), Some(last)) = tx.prepare_cached(sql)?.query_row([recipient], span)? else { return Ok(false) };
    if last - first < most - 1 {
        return Ok(false);
    }
    let mut count = tx.prepare_cached("SELECT notices FROM outbox_room WHERE recipient = ?")?;
    let count = count.query_row([recipient], |row| row.get::<_, i64>(0)).optional()?;
    Ok(count.is_some_and(|count| count >= most))
}

/// How often the log says, at most, that notices are dropped.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// When the log last said so, and how many were dropped since.
static DROPPED: Mutex<(Option<Instant>, u64)> = Mutex::new((None, 0));

fn warn_of_dropped(recipient: &str, kind: NoticeKind) {
    let mut dropped = DROPPED.lock();
    dropped.1 += 1;
    let now = Instant::now();
    if dropped.0.is_some_and(|last| now.duration_since(last) < WARNING_INTERVAL) {
        return;
    }
    let (event_type, count) = (kind.event_type(), dropped.1);
    tracing::warn!(recipient, event_type, dropped = count, "operational webhooks are dropped: too many wait");
    *dropped = (Some(now), 0);
}

fn add<T: Serialize>(tx: &Tx<'_>, recipient: &str, kind: NoticeKind, data: &T) -> Result<(), SqlError> {
    let payload = notice::payload(kind, data)
        .map_err(|error| SqlError::Driver(rusqlite::Error::ToSqlConversionFailure(Box::new(error))))?;
    if is_full(tx, recipient)? {
        warn_of_dropped(recipient, kind);
        return Ok(());
    }
    tx.prepare_cached("INSERT INTO outbox (recipient, event_type, payload) VALUES (?, ?, ?)")?.execute(params![
        recipient,
        kind.event_type(),
        payload.as_ref()
    ])?;
    tx.tell(News::NoticeAdded);
    Ok(())
}

/// Reports what became of an endpoint.
pub(crate) fn report_endpoint(tx: &Tx<'_>, endpoint: EndpointKey, kind: NoticeKind) -> Result<(), SqlError> {
    report(tx, endpoint, kind, |_| None)
}

/// Reports that an endpoint was disabled, for it has been failing since a time that is stored, or since `now`.
pub(crate) fn report_disabled(tx: &Tx<'_>, endpoint: EndpointKey, now: Timestamp) -> Result<(), SqlError> {
    report(tx, endpoint, NoticeKind::EndpointDisabled, |since| Some(since.unwrap_or(now)))
}

fn report(
    tx: &Tx<'_>,
    endpoint: EndpointKey,
    kind: NoticeKind,
    fail_since: impl Fn(Option<Timestamp>) -> Option<Timestamp>,
) -> Result<(), SqlError> {
    let Some(reported) = readable(reported(tx, endpoint))?.flatten() else { return Ok(()) };
    let data = EndpointNotice {
        app_id: reported.app_id,
        app_uid: reported.app_uid,
        endpoint_id: reported.endpoint_id,
        endpoint_uid: reported.endpoint_uid,
        fail_since: fail_since(reported.failing_since),
        disabled_reason: reported.disabled_reason.map(DisableReason::as_str),
        disabled_since: reported.disabled_since,
    };
    add(tx, &reported.recipient, kind, &data)
}

/// Reports what an attempt came to.
pub(crate) fn report_attempt(
    tx: &Tx<'_>,
    endpoint: EndpointKey,
    message: MessageKey,
    attempt: &AttemptRecord,
    kind: NoticeKind,
) -> Result<(), SqlError> {
    let Some(reported) = readable(reported(tx, endpoint))?.flatten() else { return Ok(()) };
    let mut statement = tx.prepare_cached("SELECT no, id, event_id FROM message WHERE no = ?")?;
    let found = readable(first(statement.query([message.0])?, |row| {
        let columns = Columns::new(row, "message");
        Ok((columns.id("id")?, columns.get::<Option<String>>("event_id")?.map(Uid::from_trusted)))
    }))?;
    let Some((msg_id, msg_event_id)) = found.flatten() else { return Ok(()) };
    let last_attempt =
        LastAttempt { id: attempt.id, response_status_code: attempt.status_code, timestamp: attempt.started_at };
    let Reported { recipient, app_id, app_uid, endpoint_id, .. } = reported;
    add(tx, &recipient, kind, &AttemptNotice { app_id, app_uid, msg_id, msg_event_id, endpoint_id, last_attempt })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(connection: &rusqlite::Connection, sql: &str) -> Option<i64> {
        connection.query_row(sql, [], |row| row.get(0)).optional().unwrap()
    }

    #[test]
    fn what_waits_for_an_operator_is_counted_however_it_comes_and_goes() {
        let connection = crate::plans::database();
        let add = "INSERT INTO outbox (recipient, event_type, payload) VALUES (?, 'a', x'7b7d')";
        for recipient in ["a", "b", "a", "a"] {
            connection.execute(add, [recipient]).unwrap();
        }
        let counted =
            |recipient| count(&connection, &format!("SELECT notices FROM outbox_room WHERE recipient = '{recipient}'"));
        assert_eq!(["a", "b", "c"].map(counted), [Some(3), Some(1), None]);
        connection.execute("DELETE FROM outbox WHERE no IN (1, 2)", []).unwrap();
        assert_eq!(["a", "b"].map(counted), [Some(2), None]);
        for senseless in [i64::MIN, i64::MAX] {
            connection.execute("UPDATE outbox_room SET notices = ?", [senseless]).unwrap();
            // It stops nothing.
            connection.execute(add, ["a"]).unwrap();
            connection.execute("DELETE FROM outbox WHERE no = (SELECT max(no) FROM outbox)", []).unwrap();
        }
    }

    #[test]
    fn a_store_whose_notices_were_not_counted_counts_them() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        let (before, after) = crate::migrate::MIGRATIONS.split_at(16);
        for migration in before {
            connection.execute_batch(migration).unwrap();
        }
        let add = "INSERT INTO outbox (recipient, event_type, payload) VALUES ('a', 'a', x'7b7d'), ('a', 'b', x'7b7d')";
        connection.execute(add, []).unwrap();
        for migration in after {
            connection.execute_batch(migration).unwrap();
        }
        assert_eq!(count(&connection, "SELECT notices FROM outbox_room WHERE recipient = 'a'"), Some(2));
    }

    #[test]
    fn whether_an_operator_is_told_is_looked_up_by_indexes() {
        let plan = crate::plans::plan(REPORTED_SQL);
        assert!(!plan.iter().any(|step| step.starts_with("SCAN")), "{plan:#?}");
    }
}
