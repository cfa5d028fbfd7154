//! The work table, for the contract: batches go to the writer's hot loops, the rest is a statement or two each.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::{Hold, HoldReason};
use postrider_domain::endpoint::Health;
use postrider_domain::ids::{ApplicationId, Id as _};
use postrider_domain::message::Message;
use postrider_domain::names::IdOrUid;
use postrider_domain::time::Timestamp;
use postrider_store::{
    AcceptError, Accepted, ApplicationKey, Capped, DeliveryKey, Due, DueSlice, EndpointKey, EnvironmentKey,
    IdempotencyKey, MAX_ATTEMPTS_OF_MESSAGE, MAX_MANUAL_OF_ENDPOINT, MessageKey, NewMessage, Once, ResendError, Resent,
    Routes, Settlement, StoreError, Target, TooLarge, Unstorable, Wakes, Woken, Work, WriteError, Written,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::areas::environments::{RULES_COLUMNS, decode_rules};
use crate::engine::askers::Whose;
use crate::engine::decode::{Columns, SqlError, all, first, readable};
use crate::engine::range;
use crate::engine::rows::{
    MESSAGE_COLUMNS, MESSAGE_WIDTH, TARGET_COLUMNS, decode_disablement, decode_held, decode_message, decode_target,
};
use crate::engine::tx::{Abort, FEW_ROWS, News};
use crate::store::SqliteStore;
use crate::write::asked::{self, Use};
use crate::write::deliveries::{
    LOWER_WAKE_SQL, MISDATED_ROWS, Misdated, add_manual, decode_misdated, is_full_of_manual, is_worn, lower_wake,
    make_due,
};
use crate::write::hot::delivery_key;
use crate::write::owners::ROUTES_VERSION;
use crate::write::{idempotency, keys, set_back};

impl SqliteStore {
    /// Has deliveries wait from now that were dated by a clock that was ahead; returns how many there were. See `set_back`.
    async fn pull_back(&self, now: Timestamp) -> Result<u64, StoreError> {
        let behind = self.lists.run(move |connection| set_back::behind(connection, now)).await?;
        if behind.is_zero() {
            return Ok(0);
        }
        let micros = now.as_micros();
        let (mut mended, mut place) = (0_i64, set_back::FIRST);
        loop {
            let walked = self.lists.run(move |connection| set_back::waiting(connection, &place, micros)).await?;
            let set_back::Walked { found, next } = walked;
            let is_last = next.is_none();
            mended = self
                .writer
                .run(Whose::Process, move |tx| {
                    let mut mended = mended;
                    for waiting in &found {
                        // Each at an instant of its own: see `make_due`.
                        mended += i64::from(waiting.mend(tx, micros + mended)?);
                    }
                    if is_last {
                        set_back::end(tx, micros, behind)?;
                    }
                    Ok::<_, Abort<StoreError>>(mended)
                })
                .await?;
            let Some(next) = next else {
                tracing::info!(?behind, mended, "the clock was set back since the store was used last");
                return Ok(mended.unsigned_abs());
            };
            place = next;
        }
    }
}

#[async_trait]
impl Work for SqliteStore {
    async fn routes(
        &self,
        environment: &EnvironmentId,
        application: &IdOrUid<ApplicationId>,
    ) -> Result<Option<Routes>, StoreError> {
        let (environment, application) = (environment.clone(), application.clone());
        self.readers.run(move |connection| read_routes(connection, &environment, &application)).await
    }

    async fn target(&self, endpoint: EndpointKey) -> Result<Option<Target>, StoreError> {
        self.readers
            .run_own(move |connection| {
                let sql = format!(
                    "SELECT {TARGET_COLUMNS}
                     FROM endpoint JOIN application ON application.no = application_no WHERE endpoint.no = ?"
                );
                let mut statement = connection.prepare_cached(&sql)?;
                let mut rows = statement.query([endpoint.0])?;
                rows.next()?.map(decode_target).transpose()
            })
            .await
    }

    async fn accept(&self, batch: Vec<NewMessage>) -> Vec<Result<Accepted, AcceptError>> {
        self.writer.accept(batch).await
    }

    async fn accepted_under(
        &self,
        application: ApplicationKey,
        key: IdempotencyKey,
        not_before: Timestamp,
    ) -> Result<Option<Message>, StoreError> {
        self.readers
            .run(move |connection| {
                let Some(number) = keys::find(connection, &key)? else { return Ok(None) };
                let mut statement = connection.prepare_cached(&format!(
                    "SELECT {MESSAGE_COLUMNS}, NULL AS payload FROM message
                     WHERE no = ? AND application_no = ? AND created_at >= ?"
                ))?;
                let rows = statement.query(params![number, application.0, not_before.as_micros()])?;
                first(rows, |row| Ok(decode_message(row)?.value))
            })
            .await
    }

    async fn settle(&self, batch: Vec<Settlement>) -> Result<Vec<Unstorable>, StoreError> {
        self.writer.settle(batch).await
    }

    async fn due(
        &self,
        endpoint: EndpointKey,
        now: Timestamp,
        after: Option<DeliveryKey>,
        held: HashSet<DeliveryKey>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<DueSlice, StoreError> {
        let after = after.unwrap_or(DeliveryKey { due_at: Timestamp::EPOCH, message: MessageKey(i64::MIN) });
        let slice = Slice { until: now, after, held, limit, max_bytes };
        self.readers.run_own(move |connection| read_due(connection, endpoint, &slice)).await
    }

    async fn take_wakes(&self, now: Timestamp, limit: usize) -> Result<Wakes, StoreError> {
        self.writer
            .take(move |tx| {
                let mut due = tx.prepare_cached(
                    "SELECT endpoint_no, due_at, application_no, environment_no
                     FROM wake LEFT JOIN endpoint ON endpoint.no = endpoint_no
                         LEFT JOIN application ON application.no = application_no
                     ORDER BY due_at, endpoint_no LIMIT ?",
                )?;
                let mut rows = due.query([range::limit(limit.saturating_add(1))])?;
                let mut wakes = Wakes::default();
                while let Some(row) = rows.next()? {
                    let Some(due_at) = readable(row.get(1).map_err(SqlError::from))?.map(Timestamp::from_micros) else {
                        continue;
                    };
                    if due_at > now || wakes.endpoints.len() == limit {
                        wakes.next_at = Some(due_at);
                        break;
                    }
                    // Of one that makes no sense it is not known whose it is, until the endpoint itself is read.
                    let number = |column| readable(row.get::<_, Option<i64>>(column).map_err(SqlError::from));
                    let (application, environment) = (number(2)?.flatten(), number(3)?.flatten());
                    let (application, environment) = (application.map(ApplicationKey), environment.map(EnvironmentKey));
                    wakes.endpoints.push(Woken { endpoint: EndpointKey(row.get(0)?), application, environment });
                }
                let mut delete = tx.prepare_cached("DELETE FROM wake WHERE endpoint_no = ?")?;
                for woken in &wakes.endpoints {
                    delete.execute([woken.endpoint.0])?;
                }
                Ok::<_, Abort<StoreError>>(wakes)
            })
            .await
    }

    async fn park(&self, endpoint: EndpointKey, after: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.writer
            .run(Whose::Engine(endpoint), move |tx| {
                tx.prepare_cached("DELETE FROM endpoint_hold WHERE endpoint_no = ?")?.execute([endpoint.0])?;
                let next: Option<i64> = tx
                    .prepare_cached(
                        "SELECT min(due_at) FROM delivery WHERE endpoint_no = ? AND due_at > ? AND due_at < ''",
                    )?
                    .query_row(params![endpoint.0, after.as_micros()], |row| row.get(0))?;
                if let Some(due_at) = next {
                    lower_wake(tx, endpoint, Timestamp::from_micros(due_at))?;
                }
                // An earlier one is somebody else's: of what was added since the caller looked.
                let wake = tx
                    .prepare_cached("SELECT due_at FROM wake WHERE endpoint_no = ?")?
                    .query_row([endpoint.0], |row| row.get(0))
                    .optional()?;
                Ok::<_, Abort<StoreError>>(wake.map(Timestamp::from_micros))
            })
            .await
    }

    async fn hold(&self, endpoint: EndpointKey, hold: Hold, receiver: Option<u64>) -> Result<bool, StoreError> {
        let Hold { until, reason } = hold;
        self.writer
            .run(Whose::Engine(endpoint), move |tx| {
                let present = tx
                    .prepare_cached("SELECT CAST(receiver AS INTEGER) FROM endpoint WHERE no = ?")?
                    .query_row([endpoint.0], |row| row.get::<_, i64>(0))
                    .optional()?;
                if receiver.zip(present).is_some_and(|(asked, present)| asked != present.unsigned_abs()) {
                    return Ok::<_, Abort<StoreError>>(false);
                }
                tx.prepare_cached(
                    "INSERT INTO endpoint_hold (endpoint_no, not_before, reason) VALUES (?, ?, ?)
                     ON CONFLICT DO UPDATE SET not_before = excluded.not_before, reason = excluded.reason",
                )?
                .execute(params![endpoint.0, until.as_micros(), reason.as_str()])?;
                tx.prepare_cached(
                    "INSERT INTO wake (endpoint_no, due_at) VALUES (?, ?)
                     ON CONFLICT DO UPDATE SET due_at = excluded.due_at",
                )?
                .execute(params![endpoint.0, until.as_micros()])?;
                Ok(true)
            })
            .await
    }

    async fn hold_of(&self, endpoint: EndpointKey) -> Result<Option<Hold>, StoreError> {
        self.readers
            .run_own(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT endpoint_no, not_before, reason FROM endpoint_hold WHERE endpoint_no = ?",
                )?;
                // One that makes no sense holds nothing.
                Ok(readable(first(statement.query([endpoint.0])?, |row| Ok(decode_hold(row)?.1)))?.flatten())
            })
            .await
    }

    async fn holds(&self) -> Result<Vec<(EndpointKey, Hold)>, StoreError> {
        self.readers
            .run_own(|connection| {
                let mut statement =
                    connection.prepare_cached("SELECT endpoint_no, not_before, reason FROM endpoint_hold")?;
                all(statement.query([])?, decode_hold)
            })
            .await
    }

    async fn wake_later(&self, endpoints: Vec<EndpointKey>, at: Timestamp) -> Result<(), StoreError> {
        self.writer
            .run(Whose::Process, move |tx| {
                let mut lower = tx.prepare_cached(LOWER_WAKE_SQL)?;
                for endpoint in &endpoints {
                    lower.execute(params![endpoint.0, at.as_micros()])?;
                }
                Ok::<_, Abort<StoreError>>(())
            })
            .await
    }

    async fn pull_in(&self, now: Timestamp, longest: Duration) -> Result<u64, StoreError> {
        let latest = now.saturating_add(longest).as_micros();
        self.writer
            .run(Whose::Process, move |tx| {
                let unreadable = "typeof(not_before) <> 'integer' OR typeof(reason) <> 'text'";
                let removed = tx.execute(&format!("DELETE FROM endpoint_hold WHERE {unreadable}"), [])?;
                if removed > 0 {
                    tracing::warn!(removed, "what held endpoints back made no sense, and was removed");
                }
                tx.execute("UPDATE endpoint_hold SET not_before = ?1 WHERE not_before > ?1", [latest])?;
                Ok::<_, Abort<StoreError>>(())
            })
            .await?;
        let mended = self.pull_back(now).await?;
        let (mut pulled, mut senseless) = (0, 0);
        loop {
            let found = self.lists.run(move |connection| misdated(connection, latest, senseless)).await?;
            let MisdatedSlice { found, seen } = found;
            let count = found.len();
            senseless += seen - count;
            let first = now.as_micros() + pulled as i64;
            self.writer
                .run(Whose::Process, move |tx| {
                    for (due, row) in (first..).zip(&found) {
                        make_due(tx, row, due)?;
                    }
                    Ok::<_, Abort<StoreError>>(())
                })
                .await?;
            pulled += count as u64;
            if seen < MISDATED_ROWS {
                return Ok(mended + pulled);
            }
        }
    }

    async fn rebuild_wakes(&self) -> Result<u64, StoreError> {
        self.writer
            .run(Whose::Process, |tx| {
                tx.execute("DELETE FROM wake", [])?;
                // Nobody could look after one that is not there.
                tx.execute("DELETE FROM endpoint_hold WHERE endpoint_no NOT IN (SELECT no FROM endpoint)", [])?;
                // A loose index scan: from each endpoint straight to the next one, past all its other deliveries.
                tx.execute(
                    "WITH RECURSIVE busy (endpoint_no) AS (
                         SELECT min(endpoint_no) FROM delivery
                         UNION ALL
                         SELECT (SELECT min(delivery.endpoint_no) FROM delivery WHERE delivery.endpoint_no > busy.endpoint_no)
                         FROM busy WHERE busy.endpoint_no IS NOT NULL
                     )
                     INSERT INTO wake (endpoint_no, due_at)
                     SELECT endpoint_no, due_at FROM (
                         SELECT endpoint_no, coalesce(
                             (SELECT not_before FROM endpoint_hold WHERE endpoint_no = busy.endpoint_no),
                             (SELECT min(due_at) FROM delivery WHERE delivery.endpoint_no = busy.endpoint_no)
                         ) AS due_at
                         FROM busy WHERE endpoint_no IS NOT NULL
                     ) WHERE typeof(endpoint_no) = 'integer' AND typeof(due_at) = 'integer'",
                    [],
                )?;
                let endpoints = tx.changes();
                tx.execute(
                    "INSERT OR IGNORE INTO wake (endpoint_no, due_at)
                     SELECT endpoint_no, not_before FROM endpoint_hold WHERE typeof(not_before) = 'integer'",
                    [],
                )?;
                Ok::<_, Abort<StoreError>>(endpoints)
            })
            .await
    }

    async fn cancel_deliveries(&self, endpoint: EndpointKey, limit: usize) -> Result<usize, StoreError> {
        self.writer
            .run_rows(Whose::Engine(endpoint), limit, move |tx| {
                let removed = tx
                    .prepare_cached(
                        "DELETE FROM delivery WHERE (endpoint_no, due_at, message_no) IN
                         (SELECT endpoint_no, due_at, message_no FROM delivery WHERE endpoint_no = ?1 LIMIT ?2)
                         AND NOT EXISTS (
                             SELECT 1 FROM endpoint JOIN application ON application.no = application_no
                             WHERE endpoint.no = ?1 AND NOT disabled
                                 AND endpoint.deleted_at IS NULL AND application.deleted_at IS NULL
                         )",
                    )?
                    .execute(params![endpoint.0, range::limit(limit)])?;
                Ok::<_, Abort<StoreError>>(removed)
            })
            .await
    }

    async fn resend(
        &self,
        endpoint: EndpointKey,
        message: MessageKey,
        now: Timestamp,
        once: Option<Once<Resent>>,
    ) -> Result<Written<Resent>, ResendError> {
        let per_day = self.asked_per_day;
        self.writer
            .run_rows(endpoint, RESEND_ROWS, move |tx| {
                let subject = idempotency::Subject::message_at(message, endpoint);
                if let Some(answer) = idempotency::replay(tx, once.as_ref(), subject)? {
                    return Ok(Written::Replayed(answer));
                }
                let payload_gone: Option<bool> = tx
                    .prepare_cached(
                        "SELECT NOT EXISTS (SELECT 1 FROM payload WHERE message_no = no) FROM message WHERE no = ?",
                    )?
                    .query_row([message.0], |row| row.get(0))
                    .optional()?;
                match payload_gone {
                    None => return Err(Abort::Refused(WriteError::NotFound.into())),
                    Some(true) => return Err(Abort::Refused(ResendError::MissingPayload)),
                    Some(false) => {}
                }
                let mut statement = tx.prepare_cached(
                    "SELECT endpoint.no, application_no, disabled, disabled_reason, disabled_since,
                         not_before AS held_until, reason AS held_reason
                     FROM endpoint JOIN application ON application.no = application_no
                         LEFT JOIN endpoint_fact ON endpoint_fact.endpoint_no = endpoint.no
                         LEFT JOIN endpoint_hold ON endpoint_hold.endpoint_no = endpoint.no
                     WHERE endpoint.no = ? AND endpoint.deleted_at IS NULL AND application.deleted_at IS NULL",
                )?;
                let found = first(statement.query([endpoint.0])?, |row| {
                    let columns = Columns::new(row, "endpoint");
                    let held = decode_held(&columns)?.filter(|hold| hold.until > now);
                    let resent = match columns.get("disabled")? {
                        true => Resent::Disabled(decode_disablement(&columns)?),
                        false => held.map_or(Resent::Due, Resent::Held),
                    };
                    Ok((ApplicationKey(columns.get("application_no")?), resent))
                })?;
                let (application, resent) = found.ok_or(Abort::Refused(ResendError::Write(WriteError::NotFound)))?;
                if !matches!(resent, Resent::Disabled(_)) {
                    // The smaller number first: who asks for one message again and again is refused by it.
                    if is_worn(tx, endpoint, message)? {
                        let full = WriteError::Full { of: Capped::Attempts, most: MAX_ATTEMPTS_OF_MESSAGE as u64 };
                        return Err(Abort::Refused(ResendError::Write(full)));
                    }
                    if is_full_of_manual(tx, endpoint)? {
                        return Err(Abort::Refused(ResendError::TooMany));
                    }
                    if let Err(wait) = asked::spend(tx, application, (Use::Call, 1), per_day, now)? {
                        return Err(Abort::Refused(ResendError::Spent { per_day, wait }));
                    }
                    add_manual(tx, endpoint, message, now)?;
                    tx.tell(News::WorkAdded(endpoint, Some(application)));
                }
                idempotency::remember(tx, once, subject, &resent, now)?;
                Ok(Written::Done(resent))
            })
            .await
    }

    async fn forget_keys(&self, before: Timestamp, limit: usize) -> Result<bool, StoreError> {
        self.writer
            .run_rows(Whose::Process, limit, move |tx| {
                let dropped = keys::drop_old_run(tx, before)?;
                if let Some(run) = dropped {
                    tx.tell(News::KeysDropped(run));
                }
                let more = idempotency::forget(tx, before, limit)?;
                // Another run may be old.
                Ok::<_, Abort<StoreError>>(more || dropped.is_some())
            })
            .await
    }

    async fn health(&self, endpoint: EndpointKey) -> Result<Option<Health>, StoreError> {
        self.readers
            .run_own(move |connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT no, failing_since FROM endpoint LEFT JOIN endpoint_fact ON endpoint_no = no WHERE no = ?",
                )?;
                first(statement.query([endpoint.0])?, |row| {
                    Ok(Health { failing_since: Columns::new(row, "endpoint").maybe_instant("failing_since")? })
                })
            })
            .await
    }

    async fn backlog(&self, endpoint: EndpointKey, limit: usize) -> Result<usize, StoreError> {
        self.readers
            .run(move |connection| {
                let count = connection
                    .prepare_cached("SELECT count(*) FROM (SELECT 1 FROM delivery WHERE endpoint_no = ? LIMIT ?)")?
                    .query_row(params![endpoint.0, range::limit(limit)], |row| row.get(0))?;
                Ok(count)
            })
            .await
    }
}

fn decode_hold(row: &Row<'_>) -> Result<(EndpointKey, Hold), SqlError> {
    let columns = Columns::new(row, "endpoint_hold");
    let reason: String = columns.get("reason")?;
    let reason =
        HoldReason::parse(&reason).ok_or_else(|| columns.inconsistent("reason", &"there is no such reason"))?;
    let until = columns.instant("not_before")?;
    Ok((EndpointKey(columns.get("endpoint_no")?), Hold { until, reason }))
}

/// What sending a message again counts as: it counts up to [`MAX_MANUAL_OF_ENDPOINT`] entries of an index, of which about 200
/// cost as much as a row that is written.
const RESEND_ROWS: usize = FEW_ROWS + MAX_MANUAL_OF_ENDPOINT / 200;

/// Deliveries that are due after ?1 although nobody scheduled them for then: from each endpoint straight to its last ones.
const MISDATED_SQL: &str = "WITH RECURSIVE busy (endpoint_no) AS (
         SELECT min(endpoint_no) FROM delivery
         UNION ALL
         SELECT (SELECT min(delivery.endpoint_no) FROM delivery WHERE delivery.endpoint_no > busy.endpoint_no)
         FROM busy WHERE busy.endpoint_no IS NOT NULL
     )
     SELECT delivery.endpoint_no, due_at, message_no, made, trigger
     FROM busy CROSS JOIN delivery ON delivery.endpoint_no = busy.endpoint_no
     WHERE due_at > ?1
         AND NOT EXISTS (SELECT 1 FROM message WHERE no = message_no AND made = 0 AND deliver_at = due_at)
     LIMIT ?2 OFFSET ?3";

/// The next of them.
struct MisdatedSlice {
    /// Those that make sense.
    found: Vec<Misdated>,
    seen: usize,
}

/// Those that are due after `latest`, behind so many that make no sense, which stay where they are.
fn misdated(connection: &Connection, latest: i64, senseless: usize) -> Result<MisdatedSlice, SqlError> {
    let mut statement = connection.prepare_cached(MISDATED_SQL)?;
    let mut rows = statement.query(params![latest, range::limit(MISDATED_ROWS), range::limit(senseless)])?;
    let (mut found, mut seen) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        found.extend(readable(decode_misdated(row))?);
        seen += 1;
    }
    Ok(MisdatedSlice { found, seen })
}

fn read_routes(
    connection: &Connection,
    environment: &EnvironmentId,
    application: &IdOrUid<ApplicationId>,
) -> Result<Option<Routes>, SqlError> {
    let by = match application {
        IdOrUid::Id(_) => "application.id",
        IdOrUid::Uid(_) => "application.uid",
    };
    // Application and endpoints in one snapshot: the version must be the one that these endpoints belong to.
    let snapshot = connection.unchecked_transaction()?;
    let mut statement = snapshot.prepare_cached(&format!(
        "SELECT application.no, application.id, {ROUTES_VERSION} AS version, rules_version, {RULES_COLUMNS} FROM application
         JOIN environment ON environment.no = environment_no
         WHERE environment.id = ? AND {by} = ? AND deleted_at IS NULL"
    ))?;
    let mut rows = match application {
        IdOrUid::Id(id) => statement.query(params![environment.as_str(), id.ksuid().as_bytes()])?,
        IdOrUid::Uid(uid) => statement.query(params![environment.as_str(), uid])?,
    };
    let Some(row) = rows.next()? else { return Ok(None) };
    let columns = Columns::new(row, "application");
    let (key, id, version) = (ApplicationKey(columns.get("no")?), columns.id("id")?, columns.get("version")?);
    let (rules, rules_version) = (decode_rules(row)?, columns.get("rules_version")?);
    let mut statement = snapshot.prepare_cached(&format!(
        "SELECT {TARGET_COLUMNS} FROM endpoint JOIN application ON application.no = application_no
         WHERE application_no = ? AND endpoint.deleted_at IS NULL ORDER BY endpoint.id"
    ))?;
    let mut rows = statement.query([key.0])?;
    let mut targets = Vec::new();
    while let Some(row) = rows.next()? {
        // One that makes no sense gets nothing; its neighbours do.
        targets.extend(readable(decode_target(row))?.map(Arc::new));
    }
    Ok(Some(Routes { application: key, id, version, rules, rules_version, targets }))
}

fn due_sql() -> String {
    format!(
        // Of a payload that is too large the length only: that is in the row's head, and nothing else of it is read.
        "SELECT {MESSAGE_COLUMNS}, CASE WHEN octet_length(body) <= ?5 THEN body END AS payload, octet_length(body) AS payload_bytes,
             due_at, delivery.message_no AS message_no, made, trigger
         FROM delivery LEFT JOIN message ON message.no = delivery.message_no
             LEFT JOIN payload ON payload.message_no = delivery.message_no
         WHERE endpoint_no = ?1 AND due_at >= ?2 AND due_at <= ?4
             AND (due_at > ?2 OR delivery.message_no > ?3)
         ORDER BY due_at, delivery.message_no"
    )
}

/// What part of an endpoint's due deliveries is read.
struct Slice {
    until: Timestamp,
    after: DeliveryKey,
    held: HashSet<DeliveryKey>,
    limit: usize,
    max_bytes: usize,
}

fn read_due(connection: &Connection, endpoint: EndpointKey, slice: &Slice) -> Result<DueSlice, SqlError> {
    let mut due = connection.prepare_cached(&due_sql())?;
    let DeliveryKey { due_at, message: MessageKey(after) } = slice.after;
    let largest = i64::try_from(slice.max_bytes).unwrap_or(i64::MAX);
    let mut rows = due.query(params![endpoint.0, due_at.as_micros(), after, slice.until.as_micros(), largest])?;
    let receiver = connection
        .prepare_cached("SELECT CAST(receiver AS INTEGER) FROM endpoint WHERE no = ?")?
        .query_row([endpoint.0], |row| row.get::<_, i64>(0))
        .optional()?;
    let (mut found, mut bytes) =
        (DueSlice { receiver: receiver.map(i64::unsigned_abs), ..DueSlice::default() }, 0_usize);
    while let Some(row) = rows.next()? {
        if found.due.len() >= slice.limit {
            break;
        }
        // What makes no sense waits until it does.
        let Some(pending) = readable(Pending::of(row))? else { continue };
        if slice.held.contains(&pending.key) {
            continue;
        }
        bytes = bytes.saturating_add(pending.payload_bytes);
        if bytes > slice.max_bytes {
            found.too_large = Some(TooLarge { message: pending.key.message, payload_bytes: pending.payload_bytes });
            break;
        }
        found.due.extend(readable(pending.with_message(row))?);
    }
    Ok(found)
}

/// What a row of what is due says of the delivery itself.
struct Pending {
    key: DeliveryKey,
    made: u32,
    trigger: u8,
    payload_bytes: usize,
}

impl Pending {
    fn of(row: &Row<'_>) -> Result<Self, SqlError> {
        let columns = Columns::in_order_from(MESSAGE_WIDTH, row, "delivery");
        Ok(Self {
            payload_bytes: columns.get::<Option<usize>>("payload_bytes")?.unwrap_or(0),
            key: delivery_key(columns.get("due_at")?, columns.get("message_no")?),
            made: columns.get("made")?,
            trigger: columns.get("trigger")?,
        })
    }

    fn with_message(self, row: &Row<'_>) -> Result<Due, SqlError> {
        let Self { key, made, trigger, .. } = self;
        // None if the message itself is gone.
        let number: Option<i64> = row.get(0)?;
        let message = number.map(|_| decode_message(row)).transpose()?.map(|stored| stored.value);
        let message = message.filter(|message| message.payload.is_some()).map(Arc::new);
        let fresh = made == 0 && trigger == Trigger::Scheduled.code();
        Ok(Due { key, made, trigger: Trigger::from_code(trigger), fresh, message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_is_walked_in_order() {
        crate::engine::plans::assert_walks(
            &due_sql(),
            "delivery USING PRIMARY KEY (endpoint_no=? AND due_at>? AND due_at<?)",
        );
    }
}
