//! Notices for operators in the outbox: they are added by whatever writes what they report, in its transaction. Of one recipient, the applications that the
//! notices are about take turns, and share what may wait: a tenant who changes endpoints without an end harms nobody else.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_domain::application::EnvironmentId;
use postrider_domain::delivery::DisableReason;
use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_domain::names::{EventTypeName, Uid};
use postrider_domain::notice::{self, AttemptNotice, EndpointNotice, LastAttempt, NoticeKind};
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationKey, AttemptRecord, EndpointKey, MAX_NOTICES, MessageKey, Notice, NoticeKey, NoticeTurn,
    share_of_notices,
};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, ToSql, params};
use serde::Serialize;
use tokio::time::Instant;

use crate::engine::decode::{Columns, SqlError, all, first, listed, readable};
use crate::engine::range;
use crate::engine::tx::{News, Tx};
use crate::write::inserts::json_list;

/// Those who have notices, after one of them, but for some. The index is asked for one after the other: how many notices each has
/// makes no difference.
const RECIPIENTS_SQL: &str = "WITH RECURSIVE turn (recipient) AS (
         SELECT min(recipient) FROM outbox WHERE recipient > ?1
         UNION ALL
         SELECT (SELECT min(recipient) FROM outbox WHERE recipient > turn.recipient) FROM turn
             WHERE turn.recipient IS NOT NULL
     )
     SELECT recipient FROM turn WHERE recipient IS NOT NULL AND recipient NOT IN (SELECT value FROM json_each(?2)) LIMIT ?3";

/// The applications of a recipient's notices, after one of them, in the same way.
const APPLICATIONS_SQL: &str = "WITH RECURSIVE turn (application) AS (
         SELECT min(application_no) FROM outbox WHERE recipient = ?1 AND application_no > ?2
         UNION ALL
         SELECT (SELECT min(application_no) FROM outbox WHERE recipient = ?1 AND application_no > turn.application) FROM turn
             WHERE turn.application IS NOT NULL
     )
     SELECT application AS application_no FROM turn WHERE application IS NOT NULL LIMIT ?3";

const OLDEST_SQL: &str = "SELECT no, recipient, application_no, event_type, payload FROM outbox
     WHERE recipient = ?1 AND application_no = ?2 ORDER BY no";

/// Whose turn it is.
pub(crate) fn recipients(connection: &Connection, turn: &NoticeTurn) -> Result<Vec<String>, SqlError> {
    let except = json_list(turn.except.iter().map(Uid::as_str));
    let mut statement = connection.prepare_cached(RECIPIENTS_SQL)?;
    let mut after = |after: &str, limit: usize| {
        let rows = statement.query(params![after, except, range::limit(limit)])?;
        all(rows, |row| Columns::new(row, "outbox").get::<String>("recipient"))
    };
    let last = turn.after.as_ref().map_or("", Uid::as_str);
    let mut found = after(last, turn.recipients)?;
    if !last.is_empty() && found.len() < turn.recipients {
        let from_the_first = after("", turn.recipients - found.len())?;
        found.extend(from_the_first.into_iter().take_while(|recipient| recipient.as_str() <= last));
    }
    Ok(found)
}

/// The applications whose turn it is among the notices to somebody, at most `limit`.
fn applications(
    connection: &Connection,
    recipient: &str,
    last: Option<ApplicationKey>,
    limit: usize,
) -> Result<Vec<i64>, SqlError> {
    let mut statement = connection.prepare_cached(APPLICATIONS_SQL)?;
    let mut after = |after: i64, limit: usize| {
        let rows = statement.query(params![recipient, after, range::limit(limit)])?;
        all(rows, |row| Columns::new(row, "outbox").get::<i64>("application_no"))
    };
    let last = last.map_or(i64::MIN, |last| last.0);
    let mut found = after(last, limit)?;
    if last > i64::MIN && found.len() < limit {
        let from_the_first = after(i64::MIN, limit - found.len())?;
        found.extend(from_the_first.into_iter().take_while(|application| *application <= last));
    }
    Ok(found)
}

/// Notices to somebody: the oldest one of each application whose turn it is, and if these are few, the next ones of each.
pub(crate) fn in_turn(
    connection: &Connection,
    recipient: &str,
    last: Option<ApplicationKey>,
    limit: usize,
) -> Result<Vec<Notice>, SqlError> {
    let applications = applications(connection, recipient, last, limit)?;
    let each = limit.div_ceil(applications.len().max(1));
    let mut ranked = Vec::new();
    for application in applications {
        ranked.extend(oldest(connection, recipient, application, each)?.into_iter().enumerate());
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.truncate(limit);
    let mut notices: Vec<_> = ranked.into_iter().map(|(_, notice)| notice).collect();
    notices.sort_unstable_by_key(|notice| notice.key);
    Ok(notices)
}

/// The oldest notices to somebody that are about one application.
fn oldest(connection: &Connection, recipient: &str, application: i64, limit: usize) -> Result<Vec<Notice>, SqlError> {
    let mut statement = connection.prepare_cached(OLDEST_SQL)?;
    let listed = listed(statement.query(params![recipient, application])?, range::limit(limit), |row| {
        let columns = Columns::new(row, "outbox");
        Ok(Notice {
            key: NoticeKey(columns.get("no")?),
            recipient: Uid::from_trusted(columns.get("recipient")?),
            application: ApplicationKey(columns.get("application_no")?),
            event_type: EventTypeName::from_trusted(columns.get("event_type")?),
            payload: Bytes::from(columns.get::<Vec<u8>>("payload")?),
        })
    })?;
    Ok(listed.rows)
}

// What is too much ---------------------------------------------------------------------------------------------------------

/// How many of a recipient's notices are too many.
pub(crate) struct Surplus {
    recipient: Value,
    notices: i64,
}

/// Whose notices are too many, if more wait than `most`, at most `rows` of them: those of whoever has more than his share, which is
/// what each may have if all that has less is left as it is.
pub(crate) fn surplus(connection: &Connection, most: i64, rows: usize) -> Result<Vec<Surplus>, SqlError> {
    let span =
        connection.query_row("SELECT (SELECT max(no) FROM outbox) - (SELECT min(no) FROM outbox)", [], |row| {
            row.get::<_, Option<i64>>(0)
        })?;
    // Numbers are given out once, so there are no more notices than these. There may be much fewer.
    if span.is_none_or(|span| span < most) {
        return Ok(Vec::new());
    }
    // Counted, and not looked up: what is counted elsewhere may make no sense, and drops nothing.
    let mut statement =
        connection.prepare_cached("SELECT recipient, count(*) AS notices FROM outbox GROUP BY recipient")?;
    let mut counts = all(statement.query([])?, |row| {
        Ok(Surplus { recipient: row.get("recipient")?, notices: row.get("notices")? })
    })?;
    counts.sort_unstable_by_key(|count| count.notices);
    let share = share_of_notices(counts.iter().map(|count| count.notices), most);
    let mut left = range::limit(rows);
    let too_many = counts.into_iter().rev().map_while(|Surplus { recipient, notices }| {
        let notices = (notices - share).min(left);
        left -= notices.max(0);
        (notices > 0).then_some(Surplus { recipient, notices })
    });
    Ok(too_many.collect())
}

/// Drops the oldest of what is too much; says how many.
pub(crate) fn drop_surplus(tx: &Tx<'_>, surplus: &[Surplus]) -> Result<usize, SqlError> {
    let mut dropped = 0;
    for Surplus { recipient, notices } in surplus {
        dropped += drop_of_those_with_most(tx, recipient, *notices)?;
    }
    if dropped > 0 {
        let recipients = surplus.len();
        tracing::warn!(
            notices = dropped,
            recipients,
            "operational webhooks were dropped, because too many waited to be sent"
        );
    }
    Ok(dropped)
}

/// Drops so many notices to somebody: the oldest ones of those applications that have more than their share, which is what each may
/// have if those that have less keep all. Says how many.
fn drop_of_those_with_most(connection: &Connection, recipient: &dyn ToSql, notices: i64) -> Result<usize, SqlError> {
    let sql = "SELECT application_no, count(*) FROM outbox WHERE recipient = ? GROUP BY application_no";
    let mut statement = connection.prepare_cached(sql)?;
    let mut counts: Vec<(i64, i64)> = all(statement.query([recipient])?, |row| Ok((row.get(0)?, row.get(1)?)))?;
    counts.sort_unstable_by_key(|(_, count)| *count);
    let waiting: i64 = counts.iter().map(|(_, count)| count).sum();
    let share = share_of_notices(counts.iter().map(|(_, count)| *count), (waiting - notices).max(0));
    let mut delete = connection.prepare_cached(
        "DELETE FROM outbox WHERE no IN
             (SELECT no FROM outbox WHERE recipient = ?1 AND application_no = ?2 ORDER BY no LIMIT ?3)",
    )?;
    let (mut left, mut dropped) = (notices, 0);
    for (application, count) in counts.into_iter().rev() {
        let surplus = (count - share).min(left);
        if surplus <= 0 {
            break;
        }
        left -= surplus;
        dropped += delete.execute(params![recipient, application, surplus])?;
    }
    Ok(dropped)
}

// What is added ------------------------------------------------------------------------------------------------------------

/// An endpoint whose operator wants to be told.
struct Reported {
    recipient: String,
    application: i64,
    app_id: ApplicationId,
    app_uid: Option<Uid>,
    endpoint_id: EndpointId,
    endpoint_uid: Option<Uid>,
    failing_since: Option<Timestamp>,
    disabled_reason: Option<DisableReason>,
    disabled_since: Option<Timestamp>,
}

const REPORTED_SQL: &str =
    "SELECT endpoint.no, environment.id AS recipient, application_no, application.id AS app_id, application.uid AS app_uid,
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
            application: columns.get("application_no")?,
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

/// Whether so many notices wait for an operator that one more needs room. What is counted of them is looked at only if there may be
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

/// So many notices are dropped at once: to find out who has most is work, and whoever fills the outbox is to cause it now and then.
const DROPPED_AT_ONCE: i64 = 100;

/// When the log last said so, and how many were dropped since.
static DROPPED: Mutex<(Option<Instant>, usize)> = Mutex::new((None, 0));

fn warn_of_dropped(recipient: &str, notices: usize) {
    let mut dropped = DROPPED.lock();
    dropped.1 += notices;
    let now = Instant::now();
    if dropped.1 == 0 || dropped.0.is_some_and(|last| now.duration_since(last) < WARNING_INTERVAL) {
        return;
    }
    let count = dropped.1;
    tracing::warn!(
        recipient,
        dropped = count,
        "operational webhooks are dropped: too many wait, and these are about the applications with most"
    );
    *dropped = (Some(now), 0);
}

/// What a notice is about.
struct About<'a> {
    recipient: &'a str,
    application: i64,
    endpoint: EndpointKey,
}

fn add<T: Serialize>(tx: &Tx<'_>, about: &About<'_>, kind: NoticeKind, data: &T) -> Result<(), SqlError> {
    let payload = notice::payload(kind, data)
        .map_err(|error| SqlError::Driver(rusqlite::Error::ToSqlConversionFailure(Box::new(error))))?;
    let About { recipient, application, endpoint } = *about;
    if kind == NoticeKind::EndpointUpdated {
        // One that is being submitted is submitted nevertheless. So it is a row of its own that takes its place.
        tx.prepare_cached(FORGET_UPDATED_SQL)?.execute([endpoint.0])?;
    }
    if is_full(tx, recipient)? {
        warn_of_dropped(recipient, drop_of_those_with_most(tx, &recipient, DROPPED_AT_ONCE)?);
    }
    tx.prepare_cached(
        "INSERT INTO outbox (recipient, application_no, endpoint_no, event_type, payload) VALUES (?, ?, ?, ?, ?)",
    )?
    .execute(params![recipient, application, endpoint.0, kind.event_type(), payload.as_ref()])?;
    tx.tell(News::NoticeAdded);
    Ok(())
}

const FORGET_UPDATED_SQL: &str = "DELETE FROM outbox WHERE endpoint_no = ? AND event_type = 'endpoint.updated'";

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
    add(tx, &About { recipient: &reported.recipient, application: reported.application, endpoint }, kind, &data)
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
    let Reported { recipient, application, app_id, app_uid, endpoint_id, .. } = reported;
    let about = About { recipient: &recipient, application, endpoint };
    add(tx, &about, kind, &AttemptNotice { app_id, app_uid, msg_id, msg_event_id, endpoint_id, last_attempt })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(connection: &rusqlite::Connection, sql: &str) -> Option<i64> {
        connection.query_row(sql, [], |row| row.get(0)).optional().unwrap()
    }

    #[test]
    fn what_waits_for_an_operator_is_counted_however_it_comes_and_goes() {
        let connection = crate::engine::plans::database();
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
        let (before, after) = crate::engine::migrate::MIGRATIONS.split_at(16);
        for migration in before {
            connection.execute_batch(migration).unwrap();
        }
        let add = "INSERT INTO outbox (recipient, event_type, payload) VALUES ('a', 'a', x'7b7d'), ('a', 'b', x'7b7d')";
        connection.execute(add, []).unwrap();
        for migration in after {
            connection.execute_batch(migration).unwrap();
        }
        assert_eq!(count(&connection, "SELECT notices FROM outbox_room WHERE recipient = 'a'"), Some(2));
        // Nor was noted whose they are about, and they are sent nevertheless.
        let waiting = in_turn(&connection, "a", None, 10).unwrap();
        assert_eq!(waiting.iter().map(|notice| notice.application).collect::<Vec<_>>(), [ApplicationKey(0); 2]);
    }

    #[test]
    fn what_is_too_much_is_of_who_has_most() {
        let connection = crate::engine::plans::database();
        let many = |recipient, count: i64| {
            let add = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?2)
                INSERT INTO outbox (recipient, event_type, payload) SELECT ?1, 'a', x'7b7d' FROM n";
            connection.execute(add, params![recipient, count]).unwrap();
        };
        let found = |most, rows| {
            let surplus = surplus(&connection, most, rows).unwrap();
            surplus.into_iter().map(|Surplus { recipient, notices }| (recipient, notices)).collect::<Vec<_>>()
        };
        assert_eq!(found(10, 100), []);
        many("victim", 3);
        many("evil", 50);
        many("worse", 60);
        many("victim", 2);
        let text = |text: &str| Value::Text(text.to_owned());
        assert_eq!(found(115, 100), []);
        assert_eq!(found(15, 1_000), [(text("worse"), 55), (text("evil"), 45)]);
        assert_eq!(found(15, 60), [(text("worse"), 55), (text("evil"), 5)]);
        // Numbers alone drop nothing: most of them were sent.
        connection.execute("DELETE FROM outbox WHERE recipient <> 'victim'", []).unwrap();
        assert_eq!(found(15, 1_000), []);
    }

    #[test]
    fn whose_turn_it_is_is_found_by_an_index() {
        for (sql, index) in [
            (RECIPIENTS_SQL, "(recipient>?)"),
            (APPLICATIONS_SQL, "outbox_by_application (recipient=? AND application_no>?)"),
            (OLDEST_SQL, "outbox_by_application (recipient=? AND application_no=?)"),
            (FORGET_UPDATED_SQL, "outbox_updated (endpoint_no=?)"),
        ] {
            let plan = crate::engine::plans::plan(sql);
            let costly = |step: &String| step.contains("SCAN outbox") || step.contains("ORDER BY");
            assert!(!plan.iter().any(costly), "{plan:#?}");
            assert!(plan.iter().any(|step| step.contains(index)), "{plan:#?}");
        }
        let mut connection = crate::engine::plans::database();
        let add = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)
            INSERT INTO outbox (recipient, event_type, payload) SELECT CASE WHEN n < 20000 THEN 'a' ELSE 'b' END, 'a', x'7b7d' FROM n";
        connection.execute(add, []).unwrap();
        let turn = NoticeTurn { recipients: 10, each: 2, ..NoticeTurn::default() };
        let steps = crate::engine::plans::steps(&mut connection, |connection| {
            assert_eq!(recipients(connection, &turn).unwrap(), ["a", "b"]);
            assert_eq!(in_turn(connection, "b", None, 2).unwrap().len(), 1);
            assert_eq!(in_turn(connection, "a", None, 2).unwrap().len(), 2);
        });
        assert!(steps < 3, "{steps} thousand steps");
    }

    #[test]
    fn whether_an_operator_is_told_is_looked_up_by_indexes() {
        let plan = crate::engine::plans::plan(REPORTED_SQL);
        assert!(!plan.iter().any(|step| step.starts_with("SCAN")), "{plan:#?}");
    }
}
