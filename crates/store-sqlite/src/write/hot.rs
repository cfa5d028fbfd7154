//! The statements of the hot path, prepared once, and the loops over batches that use them.
//!
//! Runs on the writer's thread. What is remembered here between statements (versions of routes,
//! numbers of URLs) is only ever what this very thread wrote or read in the database it owns.

use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashSet};
use postrider_domain::attempt::Trigger;
use postrider_domain::delivery::{DisableReason, EndpointChange, EndpointFact, Next};
use postrider_domain::names::Uid;
use postrider_domain::time::Timestamp;
use postrider_store::{
    AcceptError, Accepted, ApplicationKey, AttemptRecord, DeliveryKey, Elsewhere, EndpointKey, MessageKey, NewMessage,
    Settlement,
};
use rusqlite::{Connection, OptionalExtension as _, Row, Statement, params};

use crate::engine::bulk::Bulk;
use crate::engine::decode::{SqlError, readable};
use crate::engine::rows::{MESSAGE_COLUMNS, decode_message};
use crate::engine::tx::{News, Place, Tx};
use crate::lists::indexer::Indexer;
use crate::write::deliveries::{LOWER_WAKE_SQL, SCHEDULED_LATER, change_receiver, look_again};
use crate::write::inserts::{AttemptRow, DeliveryRow, MessageRow, PayloadRow};
use crate::write::keys::{Keys, RUN_KEYS};
use crate::write::owners::{NEXT_VERSION, ROUTES_VERSION, application_of};
use crate::write::{notices, set_back, urls};

/// How many message numbers are reserved at a time. A crash skips what was left of them, which costs nothing.
const RESERVE: i64 = 1 << 20;

/// Remembered URLs; the memory of an endpoint that comes back later is one look-up.
const MAX_URLS: usize = 4_096;

pub(crate) struct Hot<'c> {
    connection: &'c Connection,
    version: Statement<'c>,
    event_id_taken: Statement<'c>,
    messages: Bulk<'c, MessageRow>,
    payloads: Bulk<'c, PayloadRow>,
    deliveries: Bulk<'c, DeliveryRow>,
    insert_waiting: Statement<'c>,
    message: Statement<'c>,
    delete_delivery: Statement<'c>,
    attempts: Bulk<'c, AttemptRow>,
    lower_wake: Statement<'c>,
    reserve: Statement<'c>,
    note_shown: Statement<'c>,
    change: Changes<'c>,
    indexer: Indexer<'c>,
    keys: Keys<'c>,
    /// Endpoints that may be noted as failing: all that are, and perhaps some that were enabled since.
    failing: HashSet<EndpointKey>,
    /// Those that this transaction found to work again.
    recovered: Vec<EndpointKey>,
    versions: HashMap<ApplicationKey, Option<Version>>,
    urls: HashMap<EndpointKey, (Arc<str>, i64)>,
    next_message: i64,
    reserved: i64,
}

/// What is compared of an application's routes.
#[derive(Debug, Clone, Copy)]
struct Version {
    routes: i64,
    /// The part of it that is the environment's.
    rules: i64,
}

/// Statements for what seldom happens at a settle.
struct Changes<'c> {
    recovered: Statement<'c>,
    enabled: Statement<'c>,
    receiver: Statement<'c>,
    failing_since: Statement<'c>,
    disable: Statement<'c>,
    disabled: Statement<'c>,
    bump_version: Statement<'c>,
    scheduled_due: Statement<'c>,
}

impl<'c> Hot<'c> {
    pub(crate) fn prepare(connection: &'c Connection) -> Result<Self, SqlError> {
        let prepare = |sql: &str| connection.prepare(sql);
        let failing = connection
            .prepare("SELECT endpoint_no FROM endpoint_fact WHERE failing_since IS NOT NULL")?
            .query_map([], |row| row.get(0).map(EndpointKey))?
            .collect::<Result<_, _>>()?;
        let next = next_number(connection)?;
        Ok(Self {
            connection,
            version: prepare(&format!(
                "SELECT {ROUTES_VERSION}, rules_version FROM application JOIN environment ON environment.no = environment_no
                 WHERE application.no = ? AND deleted_at IS NULL"
            ))?,
            event_id_taken: prepare("SELECT 1 FROM message WHERE application_no = ? AND event_id = ?")?,
            messages: Bulk::prepare(connection)?,
            payloads: Bulk::prepare(connection)?,
            deliveries: Bulk::prepare(connection)?,
            insert_waiting: prepare(
                "INSERT OR IGNORE INTO delivery (endpoint_no, due_at, message_no, made, trigger)
                 SELECT ?1, ?2, ?3, ?4, ?5 FROM endpoint JOIN application ON application.no = application_no
                 WHERE endpoint.no = ?1 AND endpoint.deleted_at IS NULL AND application.deleted_at IS NULL",
            )?,
            // Without the payload: everybody would wait for it.
            message: prepare(&format!(
                "SELECT {MESSAGE_COLUMNS}, NULL AS payload, application_no FROM message WHERE no = ?"
            ))?,
            delete_delivery: prepare("DELETE FROM delivery WHERE endpoint_no = ? AND due_at = ? AND message_no = ?")?,
            attempts: Bulk::prepare(connection)?,
            lower_wake: prepare(LOWER_WAKE_SQL)?,
            reserve: prepare("UPDATE sequence SET next = ? WHERE name = 'message'")?,
            note_shown: prepare(set_back::NOTE_SQL)?,
            change: Changes::prepare(connection)?,
            indexer: Indexer::prepare(connection)?,
            keys: Keys::prepare(connection, RUN_KEYS)?,
            failing,
            recovered: Vec::new(),
            versions: HashMap::default(),
            urls: HashMap::default(),
            next_message: next,
            reserved: next,
        })
    }

    /// A group of jobs begins, or a job of another kind runs: versions are read anew.
    pub(crate) fn begin(&mut self) {
        self.versions.clear();
    }

    /// The transaction came to nothing: so did what was reserved and noted in it.
    pub(crate) fn rolled_back(&mut self) {
        self.reserved = self.next_message;
        self.failing.extend(self.recovered.drain(..));
        self.urls.clear();
        self.messages.forget();
        self.payloads.forget();
        self.deliveries.forget();
        self.attempts.forget();
        self.indexer.forget();
        self.keys.rolled_back();
    }

    /// The transaction goes on without the results that were stored last: so does what was noted since it began, which is
    /// looked up again.
    pub(crate) fn settle_taken_back(&mut self) {
        self.failing.extend(self.recovered.drain(..));
        self.urls.clear();
        self.versions.clear();
        self.attempts.forget();
        self.indexer.forget();
    }

    /// The transaction reached the disk.
    pub(crate) fn committed(&mut self) {
        self.recovered.clear();
        self.indexer.committed();
        self.keys.committed();
    }

    /// What is remembered of where an owner's rows are is out of date.
    pub(crate) fn forget_place(&mut self, place: Place) {
        self.indexer.forget_place(place);
        if let Place::Endpoint(endpoint) = place {
            self.urls.remove(&EndpointKey(endpoint));
        }
    }

    /// Keys of messages were removed.
    pub(crate) fn keys_dropped(&mut self, run: i64) {
        self.keys.dropped(run);
    }

    pub(crate) fn accept(&mut self, batch: &[NewMessage]) -> Result<Vec<Result<Accepted, AcceptError>>, SqlError> {
        let results = batch.iter().map(|new| self.accept_one(new)).collect::<Result<_, _>>()?;
        self.messages.flush()?;
        self.payloads.flush()?;
        self.deliveries.flush()?;
        self.indexer.place_accepted()?;
        self.keys.store()?;
        self.note_shown(batch.iter().map(|new| new.message.created_at.as_micros()).max())?;
        Ok(results)
    }

    /// Checks come before the first write, so a refusal leaves nothing behind. `Err` is a failure of the whole batch.
    fn accept_one(&mut self, new: &NewMessage) -> Result<Result<Accepted, AcceptError>, SqlError> {
        let application = new.application;
        let current = self.current_version(application)?;
        let is_current = |current: Version| current.routes == new.version || new.rules == Some(current.rules);
        if !current.is_some_and(is_current) {
            return Ok(Err(AcceptError::Stale));
        }
        // A repeated request finds its own message under its event id, too: its key decides, not the event id.
        if let Some(known) = self.known(new)? {
            return Ok(known);
        }
        if let Some(event_id) = &new.message.event_id
            && self.is_taken(application, event_id)?
        {
            return Ok(Err(AcceptError::Conflict));
        }
        let number = self.next_number()?;
        let created_at = new.message.created_at.as_micros();
        if let Some((key, _)) = new.idempotency {
            self.keys.insert(key, number, created_at);
        }
        self.indexer.accepting(application)?;
        self.messages.push(MessageRow { number, application, message: Arc::clone(&new.message) })?;
        if new.message.payload.is_some() {
            self.payloads.push(PayloadRow { number, message: Arc::clone(&new.message) })?;
        }
        self.indexer.accepted(application, &new.message);
        match new.message.deliver_at {
            None => {
                for endpoint in &new.endpoints {
                    self.deliveries.push(DeliveryRow {
                        endpoint: *endpoint,
                        due_at: created_at,
                        number,
                        trigger: 0,
                    })?;
                }
            }
            Some(at) => self.schedule(new, number, at.as_micros())?,
        }
        Ok(Ok(Accepted::New(MessageKey(number))))
    }

    /// What is to be delivered later goes through the store: nobody holds it meanwhile.
    #[cold]
    fn schedule(&mut self, new: &NewMessage, number: i64, at: i64) -> rusqlite::Result<()> {
        for endpoint in &new.endpoints {
            self.deliveries.push(DeliveryRow { endpoint: *endpoint, due_at: at, number, trigger: SCHEDULED_LATER })?;
            self.lower_wake.execute(params![endpoint.0, at])?;
        }
        Ok(())
    }

    /// Whether a message of the application has this event id.
    fn is_taken(&mut self, application: ApplicationKey, event_id: &Uid) -> rusqlite::Result<bool> {
        let is_it =
            |row: &MessageRow| row.application == application && row.message.event_id.as_ref() == Some(event_id);
        Ok(self.messages.waiting().iter().any(is_it)
            || self.event_id_taken.exists(params![application.0, event_id.as_str()])?)
    }

    fn current_version(&mut self, application: ApplicationKey) -> Result<Option<Version>, SqlError> {
        if let Some(version) = self.versions.get(&application) {
            return Ok(*version);
        }
        let read = |row: &Row<'_>| Ok(Version { routes: row.get(0)?, rules: row.get(1)? });
        let version = self.version.query_row([application.0], read).optional()?;
        self.versions.insert(application, version);
        Ok(version)
    }

    fn next_number(&mut self) -> Result<i64, SqlError> {
        if self.next_message == self.reserved {
            self.reserve.execute([self.reserved + RESERVE])?;
            self.reserved += RESERVE;
        }
        self.next_message += 1;
        Ok(self.next_message - 1)
    }

    /// The message that this key stands for, if it is still valid. An error of reading concerns nobody else, since nothing was
    /// written for `new` so far, unless SQLite has taken the whole transaction back for it: what follows would be written
    /// without one.
    fn known(&mut self, new: &NewMessage) -> Result<Option<Result<Accepted, AcceptError>>, SqlError> {
        let Some((key, not_before)) = &new.idempotency else { return Ok(None) };
        let known = match self.keys.find(key) {
            Ok(None) => return Ok(None),
            Ok(Some(number)) => {
                // It may be of this very batch.
                self.messages.flush()?;
                self.read_known(number, new.application, *not_before)
            }
            Err(error) => Err(error),
        };
        match known {
            Ok(known) => Ok(known.map(Ok)),
            Err(error) if self.connection.is_autocommit() => Err(error),
            Err(error) => Ok(Some(Err(AcceptError::Store(error.into())))),
        }
    }

    fn read_known(
        &mut self,
        number: i64,
        application: ApplicationKey,
        not_before: Timestamp,
    ) -> Result<Option<Accepted>, SqlError> {
        let mut rows = self.message.query([number])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        // The key covers who asked and for which path; another application here would be somebody else's message.
        if row.get::<_, i64>("application_no")? != application.0 {
            return Ok(None);
        }
        let message = decode_message(row)?.value;
        let counts = message.created_at >= not_before;
        Ok(counts.then(|| Accepted::Replayed(Arc::new(message))))
    }

    pub(crate) fn settle(&mut self, batch: &[Settlement], tx: &Tx<'_>) -> Result<(), SqlError> {
        for settlement in batch {
            self.settle_one(settlement, tx)?;
        }
        self.attempts.flush()?;
        self.indexer.place_attempted()?;
        let ended = batch.iter().filter_map(|settlement| settlement.attempt.as_ref()).map(ended).max();
        self.note_shown(ended.map(Timestamp::as_micros))
    }

    /// Notes the latest time that the clock has shown: see `set_back`.
    fn note_shown(&mut self, latest: Option<i64>) -> Result<(), SqlError> {
        if let Some(latest) = latest {
            self.note_shown.execute([latest])?;
        }
        Ok(())
    }

    fn settle_one(&mut self, settlement: &Settlement, tx: &Tx<'_>) -> Result<(), SqlError> {
        let Settlement { endpoint, delivery, .. } = settlement;
        let gone = params![endpoint.0, delivery.due_at.as_micros(), delivery.message.0];
        let was_pending = self.delete_delivery.execute(gone)? == 1;
        let (next, against) = self.consequences(settlement)?;
        let next_at = match next {
            Next::Waiting(at) if was_pending => self.reschedule(settlement, at.as_micros())?,
            _ => None,
        };
        if let Some(attempt) = &settlement.attempt {
            self.log(settlement, attempt, next_at, was_pending)?;
        }
        if !was_pending {
            // Settled before, or canceled meanwhile.
            return Ok(());
        }
        let ends_series = settlement.trigger == Trigger::Manual && settlement.next == Next::Succeeded;
        if settlement.next == Next::Succeeded && self.failing.contains(endpoint) {
            self.change.recovered.execute([endpoint.0])?;
            self.failing.remove(endpoint);
            self.recovered.push(*endpoint);
        }
        let notice = settlement.notice.filter(|_| next == settlement.next);
        if ends_series || against.is_some() || notice.is_some() {
            // What follows may look at attempts.
            self.attempts.flush()?;
        }
        if ends_series {
            self.end_series(*endpoint, delivery.message)?;
        }
        if let Some(fact) = against {
            self.count_against(*endpoint, fact, tx)?;
        }
        if let (Some(kind), Some(attempt)) = (notice, &settlement.attempt) {
            notices::report_attempt(tx, *endpoint, delivery.message, attempt, kind)?;
        }
        Ok(())
    }

    /// What follows for the delivery, and what counts against its endpoint. Of another receiver than it has now an attempt says nothing.
    fn consequences(&mut self, settlement: &Settlement) -> Result<(Next, Option<EndpointFact>), SqlError> {
        let Settlement { next, elsewhere, against, .. } = settlement;
        let Some(Elsewhere { receiver, next: next_elsewhere }) = elsewhere.filter(|_| *next != Next::Succeeded) else {
            return Ok((*next, *against));
        };
        let present = self.change.receiver.query_row([settlement.endpoint.0], |row| row.get::<_, i64>(0)).optional()?;
        let is_other = present.is_some_and(|present| present.unsigned_abs() != receiver);
        Ok(if is_other { (next_elsewhere, None) } else { (*next, *against) })
    }

    /// Makes the delivery wait until `at`, unless its endpoint was deleted meanwhile; returns until when it waits.
    fn reschedule(&mut self, settlement: &Settlement, at: i64) -> Result<Option<i64>, SqlError> {
        let Settlement { endpoint, delivery, made, trigger, .. } = settlement;
        let row = params![endpoint.0, at, delivery.message.0, made.saturating_add(1), trigger.code()];
        if self.insert_waiting.execute(row)? == 0 {
            return Ok(None);
        }
        self.lower_wake.execute(params![endpoint.0, at])?;
        Ok(Some(at))
    }

    /// Logs an attempt. A result that is stored for the second time does not find its delivery pending; its attempt is
    /// there already.
    fn log(
        &mut self,
        settlement: &Settlement,
        attempt: &AttemptRecord,
        next_at: Option<i64>,
        was_pending: bool,
    ) -> Result<(), SqlError> {
        let url = self.url_number(settlement.endpoint, attempt)?;
        self.indexer.attempting(settlement.endpoint)?;
        let row = AttemptRow::new(settlement, attempt, url, next_at);
        // How the message stood before is read from the attempts to send it there.
        if self.attempts.waiting().iter().any(|before| before.is_of(settlement)) {
            self.attempts.flush()?;
        }
        if was_pending {
            self.attempts.push(row)?;
        } else if !self.attempts.insert(&row)? {
            return Ok(());
        }
        self.indexer.attempted(settlement, attempt, next_at)
    }

    fn url_number(&mut self, endpoint: EndpointKey, attempt: &AttemptRecord) -> Result<i64, SqlError> {
        let url = &attempt.url;
        if let Some((known, number)) = self.urls.get(&endpoint)
            && (Arc::ptr_eq(known, url) || known == url)
        {
            return Ok(*number);
        }
        let number = urls::number_of(self.connection, endpoint, url, (attempt.started_at, ended(attempt)))?;
        if self.urls.len() >= MAX_URLS {
            self.urls.clear();
        }
        self.urls.insert(endpoint, (Arc::clone(url), number));
        Ok(number)
    }

    /// A manual attempt succeeded: what the schedule still has for this message and endpoint would be a repeat.
    fn end_series(&mut self, endpoint: EndpointKey, message: MessageKey) -> Result<(), SqlError> {
        let due_at = self.change.scheduled_due.query_row([message.0, endpoint.0], |row| row.get::<_, Option<i64>>(0));
        if let Some(due_at) = due_at.optional()?.flatten() {
            self.delete_delivery.execute(params![endpoint.0, due_at, message.0])?;
        }
        Ok(())
    }

    /// An attempt says something against its endpoint: what follows is decided here, by what is stored. An endpoint that is
    /// disabled already is told of no more.
    fn count_against(&mut self, endpoint: EndpointKey, fact: EndpointFact, tx: &Tx<'_>) -> Result<(), SqlError> {
        let failing_since =
            self.change.enabled.query_row([endpoint.0], |row| row.get::<_, Option<i64>>(0)).optional()?;
        let Some(failing_since) = failing_since else { return Ok(()) };
        match fact.judge(failing_since.map(Timestamp::from_micros)) {
            None => Ok(()),
            Some(EndpointChange::FailingSince(at)) => {
                self.change.failing_since.execute(params![endpoint.0, at.as_micros()])?;
                self.failing.insert(endpoint);
                Ok(())
            }
            Some(EndpointChange::Disable(reason)) => self.disable(endpoint, reason, fact.at, tx),
        }
    }

    fn disable(
        &mut self,
        endpoint: EndpointKey,
        reason: DisableReason,
        at: Timestamp,
        tx: &Tx<'_>,
    ) -> Result<(), SqlError> {
        self.change.disable.execute([endpoint.0])?;
        self.change.disabled.execute(params![endpoint.0, reason.as_str(), at.as_micros()])?;
        self.versions.clear();
        self.change.bump_version.execute([endpoint.0])?;
        notices::report_disabled(tx, endpoint, at)?;
        change_receiver(tx, endpoint, None)?;
        look_again(tx, endpoint)?;
        tx.tell(News::EndpointChanged(endpoint, application_of(tx, endpoint)?));
        tx.tell(News::EndpointDisabled(endpoint, reason));
        Ok(())
    }
}

/// When an attempt ended.
fn ended(attempt: &AttemptRecord) -> Timestamp {
    attempt.started_at.saturating_add(Duration::from_millis(attempt.duration_ms.into()))
}

/// Numbers of messages are below this.
pub(crate) const MAX_NUMBER: i64 = 1 << 62;

/// The number of the next message. What is stored is not believed if there are messages above it, or no numbers.
fn next_number(connection: &Connection) -> Result<i64, SqlError> {
    let mut stored = connection.prepare("SELECT next FROM sequence WHERE name = 'message'")?;
    let stored = readable(stored.query_row([], |row| row.get(0)).optional().map_err(SqlError::from))?.flatten();
    let newest = "SELECT coalesce(max(no), 0) FROM message WHERE no < ?";
    let newest: i64 = connection.query_row(newest, [MAX_NUMBER - RESERVE], |row| row.get(0))?;
    match stored {
        Some(next) if next > newest && next < MAX_NUMBER => Ok(next),
        found => {
            let next = newest + 1;
            tracing::warn!(
                ?found,
                next,
                "the number of the next message made no sense; it is counted from the newest one"
            );
            connection.execute("INSERT OR REPLACE INTO sequence (name, next) VALUES ('message', ?)", [next])?;
            Ok(next)
        }
    }
}

/// When the pending scheduled delivery is due: what its last attempt said; if there was none, where it was put later, or when
/// it was accepted for. By number, not by id: retries may follow within the 4 ms that ids resolve.
const SCHEDULED_DUE_SQL: &str = "SELECT CASE WHEN last.id IS NULL THEN coalesce(
                (SELECT due_at FROM delivery INDEXED BY delivery_later
                 WHERE endpoint_no = ?2 AND message_no = ?1 AND trigger = 2),
                message.deliver_at, message.created_at)
            ELSE last.next_attempt_at END
     FROM message LEFT JOIN (
         SELECT id, message_no, next_attempt_at FROM attempt INDEXED BY attempt_by_message
         WHERE message_no = ?1 AND endpoint_no = ?2 AND trigger = 0 ORDER BY number DESC LIMIT 1
     ) AS last ON last.message_no = message.no
     WHERE message.no = ?1";

/// Notes why and since when an endpoint is disabled.
pub(crate) const DISABLED_SQL: &str = "INSERT INTO endpoint_fact (endpoint_no, disabled_reason, disabled_since)
     VALUES (?1, ?2, ?3)
     ON CONFLICT DO UPDATE SET disabled_reason = excluded.disabled_reason, disabled_since = excluded.disabled_since";

impl<'c> Changes<'c> {
    fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            recovered: connection.prepare("UPDATE endpoint_fact SET failing_since = NULL WHERE endpoint_no = ?")?,
            enabled: connection.prepare(
                "SELECT failing_since FROM endpoint LEFT JOIN endpoint_fact ON endpoint_no = no
                 WHERE no = ? AND NOT disabled AND deleted_at IS NULL",
            )?,
            receiver: connection.prepare("SELECT CAST(receiver AS INTEGER) FROM endpoint WHERE no = ?")?,
            failing_since: connection.prepare(
                "INSERT INTO endpoint_fact (endpoint_no, failing_since) VALUES (?1, ?2)
                 ON CONFLICT DO UPDATE SET failing_since = excluded.failing_since",
            )?,
            // As long as it was: of a row of many pages only the first is written.
            disable: connection.prepare("UPDATE endpoint SET disabled = 1 WHERE no = ?")?,
            disabled: connection.prepare(DISABLED_SQL)?,
            bump_version: connection.prepare(&format!(
                "UPDATE application SET version = {NEXT_VERSION}
                 WHERE no = (SELECT application_no FROM endpoint WHERE no = ?)"
            ))?,
            scheduled_due: connection.prepare(SCHEDULED_DUE_SQL)?,
        })
    }
}

/// Names a delivery row.
pub(crate) fn delivery_key(due_at: i64, message: i64) -> DeliveryKey {
    DeliveryKey { due_at: Timestamp::from_micros(due_at), message: MessageKey(message) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use postrider_domain::entropy::SeededEntropy;
    use postrider_domain::ids::MessageId;
    use postrider_domain::message::Message;
    use postrider_domain::names::EventTypeName;
    use postrider_store::IdempotencyKey;

    use super::*;

    fn message_under_a_key(number: u64) -> NewMessage {
        let (now, entropy) = (Timestamp::from_micros(1_767_323_045_000_000), SeededEntropy::new(number));
        let message = Message {
            id: MessageId::new(now, &entropy),
            event_id: None,
            event_type: EventTypeName::parse("a.b").unwrap(),
            channels: None,
            payload: Some(Bytes::from_static(b"{}")),
            tags: None,
            deliver_at: None,
            expires_at: None,
            created_at: now,
        };
        NewMessage {
            application: ApplicationKey(1),
            version: 1,
            rules: None,
            message: Arc::new(message),
            endpoints: Vec::new(),
            idempotency: Some((IdempotencyKey([7; 16]), Timestamp::EPOCH)),
        }
    }

    /// SQLite takes the whole transaction back for some errors, of reading, too.
    #[test]
    fn an_error_of_reading_that_ends_the_transaction_fails_the_batch() {
        let connection = crate::engine::plans::database();
        let rows = "INSERT INTO environment (no, id) VALUES (9, 'nine');
             INSERT INTO application (no, environment_no, id, name, metadata, created_at, updated_at)
             VALUES (1, 9, x'01', 'a', '{}', 0, 0);";
        connection.execute_batch(rows).unwrap();
        let mut hot = Hot::prepare(&connection).unwrap();
        connection.execute_batch("BEGIN").unwrap();
        let first = hot.accept(&[message_under_a_key(1)]).unwrap();
        assert!(matches!(first[..], [Ok(Accepted::New(_))]), "{first:?}");
        connection.execute_batch("COMMIT; UPDATE message SET id = x'00'").unwrap();
        hot.committed();
        for in_transaction in [true, false] {
            hot.begin();
            connection.execute_batch(if in_transaction { "BEGIN" } else { "" }).unwrap();
            let again = hot.accept(&[message_under_a_key(2), message_under_a_key(3)]);
            match again {
                Ok(results) => assert!(in_transaction && results.iter().all(Result::is_err), "{results:?}"),
                Err(error) => assert!(!in_transaction, "{error}"),
            }
            connection.execute_batch(if in_transaction { "ROLLBACK" } else { "" }).unwrap();
            hot.rolled_back();
        }
    }

    #[test]
    fn the_end_of_a_series_reads_its_own_attempts_only() {
        let plan = crate::engine::plans::plan(SCHEDULED_DUE_SQL);
        let searched = "SEARCH attempt USING INDEX attempt_by_message (message_no=? AND endpoint_no=?)";
        assert!(plan.contains(&searched.to_owned()), "{plan:#?}");
        let later = "SEARCH delivery USING COVERING INDEX delivery_later (endpoint_no=? AND message_no=?)";
        assert!(plan.contains(&later.to_owned()), "{plan:#?}");
        assert!(!plan.iter().any(|step| step.starts_with("SCAN") && !step.starts_with("SCAN last")), "{plan:#?}");
    }
}
