//! Removing what is kept no longer, a slice at a time.
//!
//! * Payloads go before their messages. Those that are kept for the server's time go in the order of their numbers, which is
//!   that of their creation: a cursor (`sequence`, name `retention`) stands at the first that may still have its payload.
//!   Those with a time of their own are in a partial index. A message that the cursor passes before it is due gets a time of
//!   its own.
//! * Messages go with their attempts, in the order of their numbers, except those of which a delivery is pending. Nothing
//!   says of a message whether one is, so all pending deliveries are looked through before a walk. Who adds one later, or moves one back, notes
//!   that in `held_message` (`work::hold`), which the commit that removes looks at.
//! * URLs that an endpoint has no longer go when no attempt names them (`urls`).
//! * What belongs to deleted applications goes at once: deliveries, then payloads, then everything else.
//!
//! Numbers are given out by commits, so their order can be trusted where times cannot: a row that a wrong clock dated ahead
//! is as old as the next one with a time that can be.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use postrider_domain::time::Timestamp;
use postrider_store::{
    AHEAD, ClockSeen, DELETED_KEPT, MAX_NOTICES_OF_ALL, MOST_AHEAD_OF_KEYS, MessageKey, Retention, StoreError, Swept,
};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::areas::messages::erase;
use crate::engine::askers::Whose;
use crate::engine::decode::{SqlError, readable};
use crate::engine::range;
use crate::engine::tx::{Abort, Place, Tx};
use crate::limits::MAX_BYTES_ERASED;
use crate::lists::blocks::{ATTEMPTS, Id, Log, MESSAGES};
use crate::lists::history::{self, MAX_COMPARED_FIRST, Removal};
use crate::store::SqliteStore;
use crate::write::progress::{Erasing, Walk};
use crate::write::urls::{self};
use crate::write::{notices, set_back};

/// Pending deliveries that are looked through at a time.
const PENDING_ROWS: usize = 20_000;

/// Messages with pending deliveries that a walk knows of. If there are more, it goes less far.
const MAX_HELD: usize = 100_000;

#[async_trait]
impl Retention for SqliteStore {
    async fn sweep_payloads(&self, now: Timestamp, kept: Duration, rows: usize) -> Result<Swept, StoreError> {
        // Nobody else moves the cursor, so it can be read apart from the write.
        let slice = self.lists.run(move |connection| read(connection, now, kept, rows)).await?;
        if slice.is_nothing() {
            return Ok(Swept { removed: 0, more: false });
        }
        let swept = Swept { removed: slice.expired.len(), more: slice.more };
        self.writer
            .run_rows(Whose::Process, rows, move |tx| Ok::<_, Abort<StoreError>>(write(tx, slice, kept)?))
            .await?;
        Ok(swept)
    }

    async fn sweep_messages(&self, now: Timestamp, kept: Duration, rows: usize) -> Result<Swept, StoreError> {
        let mut progress = self.progress.lock().await;
        let until = now.saturating_sub(kept).as_micros();
        let ahead = now.saturating_add(AHEAD).as_micros();
        // Forgotten if anything fails: then it begins anew.
        let walk = match progress.walk.take() {
            Some(walk) => walk,
            None => match self.begin_walk(until, ahead).await? {
                Some(walk) => walk,
                None => return Ok(Swept { removed: 0, more: false }),
            },
        };
        let read = move |connection: &Connection| choose_bounded(connection, walk, until, ahead, rows);
        let step = self.lists.run_at_once(read).await?;
        let Step { chosen, keeps_terms, walk, ended } = step;
        let remove = move |tx: &Tx<'_>| Ok::<_, Abort<StoreError>>(remove_chosen(tx, &chosen, keeps_terms)?);
        let removed = self.writer.run_rows(Whose::Process, rows, remove).await?;
        if !ended {
            progress.walk = Some(walk);
        }
        Ok(Swept { removed, more: !ended })
    }

    async fn erase_deleted(&self, now: Timestamp, rows: usize) -> Result<Swept, StoreError> {
        let mut progress = self.progress.lock().await;
        let at = progress.erasing.clone();
        let before = now.saturating_sub(DELETED_KEPT).as_micros();
        let read = move |connection: &Connection| next_erasure(connection, at, before, rows);
        let (at, erasure) = self.lists.run_at_once(read).await?;
        progress.erasing = at;
        let Some(erasure) = erasure else { return Ok(Swept { removed: 0, more: false }) };
        let removed = self
            .writer
            .run_rows(Whose::Process, rows, move |tx| Ok::<_, Abort<StoreError>>(erasure.carry_out(tx)?))
            .await?;
        Ok(Swept { removed, more: true })
    }

    async fn forget_urls(&self, before: Timestamp, rows: usize) -> Result<Swept, StoreError> {
        let mut progress = self.progress.lock().await;
        // Forgotten if anything fails: then it begins anew.
        let at = std::mem::take(&mut progress.urls);
        let step = self.lists.run_at_once(move |connection| urls::look(connection, at, before, rows)).await?;
        let Some(urls::Step { at, unnamed }) = step else { return Ok(Swept { removed: 0, more: false }) };
        progress.urls = at;
        let removed = unnamed.len();
        if removed > 0 {
            self.writer
                .run_rows(Whose::Process, removed, move |tx| Ok::<_, Abort<StoreError>>(urls::remove(tx, &unnamed)?))
                .await?;
        }
        Ok(Swept { removed, more: true })
    }

    async fn forget_leftovers(&self, before: Timestamp, rows: usize) -> Result<usize, StoreError> {
        let most = MAX_NOTICES_OF_ALL;
        let surplus = self.lists.run_at_once(move |connection| notices::surplus(connection, most, rows)).await?;
        self.writer
            .run(Whose::Process, move |tx| {
                let readers = tx
                    .prepare_cached(
                        "DELETE FROM stream_reader WHERE (endpoint_no, name) IN
                         (SELECT endpoint_no, name FROM stream_reader WHERE updated_at < ? LIMIT ?)",
                    )?
                    .execute(params![before.as_micros(), range::limit(rows)])?;
                let notices = notices::drop_surplus(tx, &surplus)?;
                let expired = "DELETE FROM api_key WHERE id IN (SELECT id FROM api_key WHERE expires_at < ? LIMIT ?)";
                let keys = tx.prepare_cached(expired)?.execute(params![before.as_micros(), range::limit(rows)])?;
                Ok::<_, Abort<StoreError>>(readers + notices + keys)
            })
            .await
    }

    async fn clock_seen(&self) -> Result<Option<ClockSeen>, StoreError> {
        self.readers
            .run_own(|connection| {
                let seen = seen(connection)?;
                let doubted = noted(connection, "doubted")?.and_then(|micros| micros.try_into().ok());
                let (right, doubted) = (Timestamp::from_micros(seen), Duration::from_micros(doubted.unwrap_or(0)));
                let shown = noted(connection, "doubted_at")?.map_or(right, Timestamp::from_micros);
                let keys = Timestamp::from_micros(keys_seen(connection)?);
                Ok((seen > 0).then_some(ClockSeen { right, doubted, shown, keys }))
            })
            .await
    }

    async fn note_clock(&self, now: Timestamp, keys: Timestamp) -> Result<(), StoreError> {
        self.writer
            .run(Whose::Process, move |tx| {
                write_seen(tx, ClockSeen { right: now, doubted: Duration::ZERO, shown: now, keys })?;
                set_back::note(tx, now)?;
                Ok::<_, Abort<StoreError>>(())
            })
            .await?;
        self.keys_seen.store(keys.as_micros(), Ordering::Relaxed);
        Ok(())
    }

    async fn note_doubt(&self, seen: ClockSeen) -> Result<(), StoreError> {
        self.writer.run(Whose::Process, move |tx| Ok::<_, Abort<StoreError>>(write_seen(tx, seen)?)).await?;
        self.keys_seen.store(seen.keys.as_micros(), Ordering::Relaxed);
        Ok(())
    }

    fn believed(&self, now: Timestamp) -> Timestamp {
        let seen = Timestamp::from_micros(self.keys_seen.load(Ordering::Relaxed));
        if seen > Timestamp::EPOCH && now.since(seen) > MOST_AHEAD_OF_KEYS { seen } else { now }
    }
}

fn write_seen(connection: &Connection, seen: ClockSeen) -> Result<(), rusqlite::Error> {
    let doubted = i64::try_from(seen.doubted.as_micros()).unwrap_or(i64::MAX);
    let mut write = connection.prepare_cached(
        "INSERT INTO sequence (name, next) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET next = excluded.next",
    )?;
    write.execute(params!["seen", seen.right.as_micros()])?;
    write.execute(params!["doubted", doubted])?;
    write.execute(params!["doubted_at", seen.shown.as_micros()])?;
    write.execute(params!["keys", seen.keys.as_micros()])?;
    Ok(())
}

/// A number that was noted under a name.
fn noted(connection: &Connection, name: &str) -> Result<Option<i64>, rusqlite::Error> {
    let sql = "SELECT next FROM sequence WHERE name = ? AND typeof(next) = 'integer'";
    connection.query_row(sql, [name], |row| row.get(0)).optional()
}

/// By which time idempotency keys are old, as it was noted last; 0 if nothing says so.
pub(crate) fn keys_seen(connection: &Connection) -> Result<i64, rusqlite::Error> {
    noted(connection, "keys")?.map_or_else(|| seen(connection), Ok)
}

/// When the clock was last known to be right; 0 if nothing says so.
pub(crate) fn seen(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.query_row(
        "SELECT CASE WHEN next > 0 THEN next ELSE coalesce(
             (SELECT created_at FROM message ORDER BY no DESC LIMIT 1), 0) END
         FROM sequence WHERE name = 'seen'",
        [],
        |row| row.get(0),
    )
}

// Messages ----------------------------------------------------------------------------------------------------------------

/// The first message above a number whose time can be true.
const NEXT_DATED_SQL: &str =
    "SELECT no, created_at FROM message WHERE no > ?1 AND created_at <= ?2 ORDER BY no LIMIT 1";

const PENDING_SQL: &str = "SELECT endpoint_no, due_at, message_no FROM delivery
     WHERE (endpoint_no, due_at, message_no) > (?1, ?2, ?3) ORDER BY endpoint_no, due_at, message_no LIMIT ?4";

const OLD_SQL: &str = "SELECT no, created_at, deliver_at,
         (SELECT length(body) FROM payload WHERE payload.message_no = message.no) AS bytes
     FROM message WHERE no >= ? AND no <= ? ORDER BY no LIMIT ?";

/// So many bytes of responses are removed in one transaction, or those of one attempt: to find an attempt, SQLite reads the
/// long rows beside it to their ends.
const MAX_RESPONSES: i64 = 512 * 1024;

/// A message that is to be removed, or as many of its attempts as fit into a slice.
struct Chosen {
    message: i64,
    attempts: Vec<(i64, Id)>,
    /// The bytes of their responses.
    responses: i64,
    /// What it costs to remove it, in rows: postings of names are some.
    rows: usize,
    whole: bool,
}

/// What a step of a walk found.
struct Step {
    chosen: Vec<Chosen>,
    /// [`Removal::keeps_terms`].
    keeps_terms: bool,
    walk: Walk,
    ended: bool,
}

impl Step {
    /// What is removed, except of messages that are held.
    fn removal(&self, is_held: impl Fn(i64) -> bool) -> Removal {
        Removal { keeps_terms: self.keeps_terms, ..removal(&self.chosen, is_held) }
    }

    /// Whether the first of what was chosen can be compared, if it is alone.
    fn begins_with_little(&self, connection: &Connection) -> Result<bool, SqlError> {
        let Some(first) = self.chosen.first() else { return Ok(true) };
        let mut least = Removal::default();
        match first.attempts.first() {
            Some(attempt) => drop(least.attempts.insert(*attempt)),
            None => drop(least.messages.insert(first.message)),
        }
        Ok(history::plan(connection, &least, MAX_COMPARED_FIRST)?.is_whole)
    }

    /// Leaves all but the first message to later steps, and the terms of that where they are.
    fn keep_terms(&mut self) {
        self.chosen.truncate(1);
        if let Some(first) = self.chosen.first() {
            self.walk.next = first.message + i64::from(first.whole);
        }
        (self.keeps_terms, self.ended) = (true, false);
    }

    /// Leaves half of what was chosen to later steps; false if it is a single attempt, or nothing.
    fn halve(&mut self) -> bool {
        match self.chosen.as_mut_slice() {
            [] => return false,
            [only] if only.attempts.len() <= 1 => return false,
            [only] => {
                only.attempts.truncate(only.attempts.len() / 2);
                only.whole = false;
                self.walk.next = only.message;
            }
            [first, ..] => {
                self.walk.next = first.message;
                self.chosen.truncate(self.chosen.len() / 2);
                if let Some(last) = self.chosen.last() {
                    self.walk.next = last.message + 1;
                }
            }
        }
        self.ended = false;
        true
    }
}

fn removal(chosen: &[Chosen], is_held: impl Fn(i64) -> bool) -> Removal {
    let mut removal = Removal::default();
    for chosen in chosen.iter().filter(|chosen| !is_held(chosen.message)) {
        removal.attempts.extend(&chosen.attempts);
        if chosen.whole {
            removal.messages.insert(chosen.message);
        }
    }
    removal
}

impl SqliteStore {
    /// Looks how far a walk may go, and what it must leave. `None` if there is nothing to remove.
    async fn begin_walk(&self, until: i64, ahead: i64) -> Result<Option<Walk>, StoreError> {
        let Some(last) = self.lists.run(move |connection| last_old(connection, until, ahead)).await? else {
            return Ok(None);
        };
        // From here on, who adds a delivery of a message up to this number says so.
        self.writer
            .run(Whose::Process, move |tx| {
                tx.execute("UPDATE sequence SET next = ? WHERE name = 'history'", [last])?;
                tx.execute("DELETE FROM held_message", [])?;
                Ok::<_, Abort<StoreError>>(())
            })
            .await?;
        let mut walk = Walk { until: last, next: i64::MIN, held: BTreeSet::new(), fewer: None };
        let mut after = Some((i64::MIN, i64::MIN, i64::MIN));
        while let Some(from) = after {
            (walk, after) = self.lists.run(move |connection| look_through(connection, walk, from)).await?;
        }
        Ok(Some(walk))
    }
}

/// The number of the last message that is old.
fn last_old(connection: &Connection, until: i64, ahead: i64) -> Result<Option<i64>, SqlError> {
    let newest: Option<i64> = connection.query_row("SELECT max(no) FROM message", [], |row| row.get(0))?;
    let mut next = connection.prepare_cached(NEXT_DATED_SQL)?;
    let (mut low, mut high, mut found) = (0, newest.unwrap_or(0), None);
    while low < high {
        let middle = low + (high - low) / 2;
        let row: Option<(i64, i64)> =
            next.query_row(params![middle, ahead], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        match row {
            Some((no, created_at)) if created_at <= until => (low, found) = (no, Some(no)),
            _ => high = middle,
        }
    }
    Ok(found)
}

/// Notes which of a walk's messages are in the next pending deliveries; returns where to go on. Deliveries move ahead of this, or
/// back with a note (`work::make_due`), so none is missed.
#[expect(clippy::type_complexity, reason = "a place in the table is its key")]
fn look_through(
    connection: &Connection,
    mut walk: Walk,
    from: (i64, i64, i64),
) -> Result<(Walk, Option<(i64, i64, i64)>), SqlError> {
    let mut pending = connection.prepare_cached(PENDING_SQL)?;
    let mut rows = pending.query(params![from.0, from.1, from.2, range::limit(PENDING_ROWS)])?;
    let (mut seen, mut last) = (0, from);
    while let Some(row) = rows.next()? {
        seen += 1;
        last = (row.get(0)?, row.get(1)?, row.get(2)?);
        if last.2 <= walk.until {
            walk.held.insert(last.2);
        }
        if walk.held.len() > MAX_HELD
            && let Some(highest) = walk.held.pop_last()
        {
            walk.until = highest - 1;
        }
    }
    Ok((walk, (seen == PENDING_ROWS).then_some(last)))
}

/// Chooses what the next step of a walk removes: about `rows` rows.
fn choose(connection: &Connection, mut walk: Walk, until: i64, ahead: i64, rows: usize) -> Result<Step, SqlError> {
    let mut old = connection.prepare_cached(OLD_SQL)?;
    let mut found = old.query(params![walk.next, walk.until, range::limit(rows)])?;
    let (mut chosen, mut seen, mut left, mut bytes, mut cut) = (Vec::<Chosen>::new(), 0, rows, 0, false);
    while let Some(row) = found.next()? {
        seen += 1;
        let (message, created_at): (i64, i64) = (row.get(0)?, row.get(1)?);
        let deliver_at: Option<i64> = row.get(2)?;
        let is_young = (created_at > until && created_at <= ahead) || deliver_at.is_some_and(|at| at > until);
        if !is_young && !walk.held.contains(&message) {
            let next = choose_one(connection, message, names_of(connection, message)?, rows)?;
            let size = next.rows;
            if (size > left || bytes >= MAX_BYTES_ERASED || !next.fits_beside(&chosen)) && !chosen.is_empty() {
                cut = true;
                break;
            }
            bytes += row.get::<_, Option<i64>>(3)?.unwrap_or(0);
            left = left.saturating_sub(size);
            cut = !next.whole;
            chosen.push(next);
            if cut {
                break;
            }
        }
        walk.next = message + 1;
    }
    Ok(Step { chosen, keeps_terms: false, walk, ended: !cut && seen < rows })
}

/// As [`choose`], but of what the postings of other rows take to be compared no more than one transaction should read. Reads it
/// first, so that the writer finds it in memory. What takes too long even for a single attempt keeps its terms posted.
fn choose_bounded(connection: &Connection, walk: Walk, until: i64, ahead: i64, rows: usize) -> Result<Step, SqlError> {
    let mut share = walk.fewer.map_or(rows, |fewer| 2 * fewer).clamp(1, rows);
    let mut step = choose(connection, walk, until, ahead, share)?;
    if !is_bounded(connection, &step)? && !step.begins_with_little(connection)? {
        step.keep_terms();
        return Ok(step);
    }
    while !is_bounded(connection, &step)? && step.halve() {
        share /= 2;
    }
    step.walk.fewer = (share < rows).then_some(share);
    Ok(step)
}

fn is_bounded(connection: &Connection, step: &Step) -> Result<bool, SqlError> {
    Ok(history::plan(connection, &step.removal(|_| false), MAX_COMPARED_FIRST)?.is_whole)
}

const RESPONSES_SQL: &str = "SELECT endpoint_no, id, coalesce(octet_length(response), 0)
     FROM attempt INDEXED BY attempt_by_message WHERE message_no = ?";

/// How many names a message has. What makes no sense has none, and stops nothing.
const NAMES_SQL: &str = "SELECT CASE WHEN json_valid(channels) THEN json_array_length(channels) ELSE 0 END
         + CASE WHEN json_valid(tags) THEN json_array_length(tags) ELSE 0 END
     FROM message WHERE no = ?";

/// Of how many lists by name an attempt is removed, at most: by how it ended, and once more if it failed; and its message by what
/// was attempted, and by how it stands.
const LISTS: usize = 4;

/// So many names of a message are taken out of lists one by one if nothing of its application is left.
const NO_NAMES: usize = 0;

fn names_of(connection: &Connection, message: i64) -> Result<usize, SqlError> {
    let names = connection.prepare_cached(NAMES_SQL)?.query_row([message], |row| row.get(0));
    Ok(readable(names.map_err(SqlError::from))?.unwrap_or(0))
}

/// A message with its attempts, at most `rows` rows and postings of so many names, and not many of those with long responses.
fn choose_one(connection: &Connection, message: i64, names: usize, rows: usize) -> Result<Chosen, SqlError> {
    let mut attempts = connection.prepare_cached(RESPONSES_SQL)?;
    let mut found = attempts.query([message])?;
    let mut chosen = Chosen { message, attempts: Vec::new(), responses: 0, rows: 1 + names, whole: true };
    while let Some(row) = found.next()? {
        if (chosen.rows > rows && !chosen.attempts.is_empty()) || chosen.responses >= MAX_RESPONSES {
            chosen.whole = false;
            break;
        }
        // One that makes no sense stays until its endpoint goes.
        let attempt = || Ok((row.get(0)?, row.get(1)?));
        chosen.attempts.extend(readable(attempt())?);
        chosen.rows += 1 + LISTS * names;
        chosen.responses += row.get::<_, i64>(2)?;
    }
    Ok(chosen)
}

impl Chosen {
    /// Whether its responses may be removed in the transaction of those of `others`.
    fn fits_beside(&self, others: &[Self]) -> bool {
        let before: i64 = others.iter().map(|other| other.responses).sum();
        before == 0 || before + self.responses <= MAX_RESPONSES
    }
}

/// Removes what was chosen, except what is to be delivered again; returns how many messages that were.
fn remove_chosen(tx: &Tx<'_>, chosen: &[Chosen], keeps_terms: bool) -> Result<usize, SqlError> {
    let mut held = tx.prepare_cached("SELECT 1 FROM held_message WHERE no = ?")?;
    let mut kept = BTreeSet::new();
    for chosen in chosen {
        if held.exists([chosen.message])? {
            kept.insert(chosen.message);
        }
    }
    let removal = Removal { keeps_terms, ..removal(chosen, |message| kept.contains(&message)) };
    history::remove(tx, &removal)?;
    Ok(removal.messages.len())
}

// What was deleted ----------------------------------------------------------------------------------------------------------

/// The key of a posting: its owner, its term, and where it leads.
type Posting = (i64, i64, Vec<u8>);

/// What is to be erased next.
enum Erasure {
    Deliveries(Vec<(i64, i64, i64)>),
    Payloads(Vec<MessageKey>),
    Messages(Vec<Chosen>),
    /// Of whom nothing is left that they could be of.
    Postings(Log, Vec<Posting>),
    /// Of whom there may be any number of these.
    OfEndpoints(OfEndpoints),
    /// Whatever refers to an application or its endpoints, or to an endpoint, by number; and then they themselves.
    Rows {
        application: Option<i64>,
        endpoints: Vec<i64>,
    },
}

const DELETED_SQL: &str = "SELECT no, deleted_at FROM application INDEXED BY application_deleted WHERE deleted_at IS NOT NULL AND no >= ? ORDER BY no LIMIT 1";

const UNWANTED_SQL: &str = "SELECT endpoint_no, due_at, message_no FROM endpoint
     CROSS JOIN delivery ON delivery.endpoint_no = endpoint.no WHERE application_no = ? LIMIT ?";

const PAYLOADS_SQL: &str = "SELECT message.id, message.no, length(body) FROM message INDEXED BY message_by_id
     CROSS JOIN payload ON payload.message_no = message.no
     WHERE application_no = ? AND id > ? ORDER BY id LIMIT ?";

const MESSAGES_SQL: &str =
    "SELECT no FROM message INDEXED BY message_by_id WHERE application_no = ? ORDER BY id LIMIT ?";

/// Endpoints that were deleted before ?1, of which nothing is left in the log.
const FORGOTTEN_SQL: &str =
    "SELECT no FROM endpoint INDEXED BY endpoint_deleted WHERE deleted_at IS NOT NULL AND deleted_at < ?1
         AND NOT EXISTS (SELECT 1 FROM attempt WHERE attempt.endpoint_no = endpoint.no)
         AND NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.endpoint_no = endpoint.no)
     ORDER BY no LIMIT ?2";

/// What is to be erased next, and where erasing is then.
fn next_erasure(
    connection: &Connection,
    mut at: Erasing,
    before: i64,
    rows: usize,
) -> Result<(Erasing, Option<Erasure>), SqlError> {
    let mut deleted = connection.prepare_cached(DELETED_SQL)?;
    // Each is in several tables.
    let few = (rows / 8).max(1);
    loop {
        let found: Option<(i64, i64)> =
            deleted.query_row([at.application], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((application, deleted_at)) = found else { break };
        if application != at.application {
            at = Erasing { application, erased: None };
        }
        if let Some(erasure) = erasure_of(connection, &mut at, rows)? {
            return Ok((at, Some(erasure)));
        }
        if deleted_at < before {
            let mut endpoints =
                connection.prepare_cached("SELECT no FROM endpoint WHERE application_no = ? LIMIT ?")?;
            let endpoints: Vec<i64> = endpoints
                .query_map(params![application, range::limit(few)], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            if let Some(many) = OfEndpoints::many(connection, &endpoints, rows)? {
                return Ok((at, Some(Erasure::OfEndpoints(many))));
            }
            let application = (endpoints.len() < few).then_some(application);
            return Ok((at, Some(Erasure::Rows { application, endpoints })));
        }
        at = Erasing { application: application + 1, erased: None };
    }
    let mut forgotten = connection.prepare_cached(FORGOTTEN_SQL)?;
    let endpoints: Vec<i64> =
        forgotten.query_map(params![before, range::limit(few)], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let postings_sql = postings_sql(ATTEMPTS);
    let mut left = None;
    for endpoint in &endpoints {
        left = left_postings(connection, ATTEMPTS, &postings_sql, *endpoint, rows)?;
        if left.is_some() {
            break;
        }
    }
    if left.is_none() {
        left = OfEndpoints::many(connection, &endpoints, rows)?.map(Erasure::OfEndpoints);
    }
    let erasure = left.or_else(|| (!endpoints.is_empty()).then_some(Erasure::Rows { application: None, endpoints }));
    // The next look begins anew.
    Ok((if erasure.is_some() { at } else { Erasing::default() }, erasure))
}

/// What is stored of endpoints by the number of their attempts and changes.
#[derive(Default)]
struct OfEndpoints {
    /// Endpoint and beginning of stretches that were counted.
    stretches: Vec<(i64, Value)>,
    urls: Vec<i64>,
}

const STRETCHES_SQL: &str = "SELECT endpoint_no, start FROM attempt_tally WHERE endpoint_no = ? LIMIT ?";

const URLS_SQL: &str = "SELECT no FROM endpoint_url INDEXED BY endpoint_url_of WHERE endpoint_no = ? LIMIT ?";

impl OfEndpoints {
    /// The next `rows` of these endpoints; `None` if there are fewer, which can go with the endpoints themselves.
    fn many(connection: &Connection, endpoints: &[i64], rows: usize) -> Result<Option<Self>, SqlError> {
        let (mut found, mut left) = (Self::default(), rows);
        let mut stretches = connection.prepare_cached(STRETCHES_SQL)?;
        let mut urls = connection.prepare_cached(URLS_SQL)?;
        for endpoint in endpoints {
            for stretch in
                stretches.query_map(params![endpoint, range::limit(left)], |row| Ok((row.get(0)?, row.get(1)?)))?
            {
                found.stretches.push(stretch?);
                left -= 1;
            }
            for url in urls.query_map(params![endpoint, range::limit(left)], |row| row.get(0))? {
                found.urls.push(url?);
                left -= 1;
            }
        }
        Ok((left == 0).then_some(found))
    }

    fn remove(&self, tx: &Tx<'_>) -> Result<(), SqlError> {
        let mut stretch = tx.prepare_cached("DELETE FROM attempt_tally WHERE endpoint_no = ? AND start = ?")?;
        for (endpoint, start) in &self.stretches {
            stretch.execute(params![endpoint, start])?;
        }
        let mut url = tx.prepare_cached("DELETE FROM endpoint_url WHERE no = ?")?;
        for number in &self.urls {
            url.execute([number])?;
        }
        Ok(())
    }
}

/// Postings of owner ?1, in the order in which they are stored.
fn postings_sql(log: Log) -> String {
    let Log { postings, owner, .. } = log;
    format!("SELECT {owner}, term, start FROM {postings} WHERE {owner} = ?1 ORDER BY term, start LIMIT ?2")
}

/// Postings of the endpoints of application ?1.
const POSTINGS_OF_ENDPOINTS_SQL: &str = "SELECT endpoint_no, term, start FROM endpoint
     CROSS JOIN attempt_posting ON attempt_posting.endpoint_no = endpoint.no WHERE application_no = ?1 LIMIT ?2";

/// The next postings that a statement finds for an owner, or for the application of the owners.
fn left_postings(
    connection: &Connection,
    log: Log,
    sql: &str,
    of: i64,
    rows: usize,
) -> Result<Option<Erasure>, SqlError> {
    let mut left = connection.prepare_cached(sql)?;
    let left: Vec<Posting> = left
        .query_map(params![of, range::limit(rows)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    Ok((!left.is_empty()).then_some(Erasure::Postings(log, left)))
}

/// What is left of an application: deliveries, then payloads, then messages with their attempts, then postings.
fn erasure_of(connection: &Connection, at: &mut Erasing, rows: usize) -> Result<Option<Erasure>, SqlError> {
    let limit = range::limit(rows);
    let mut unwanted = connection.prepare_cached(UNWANTED_SQL)?;
    let deliveries: Vec<_> = unwanted
        .query_map(params![at.application, limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    if !deliveries.is_empty() {
        return Ok(Some(Erasure::Deliveries(deliveries)));
    }
    let mut payloads = connection.prepare_cached(PAYLOADS_SQL)?;
    let after = at.erased.map_or(Vec::new(), |id| id.to_vec());
    let mut found = payloads.query(params![at.application, after, limit])?;
    let (mut erased, mut bytes) = (Vec::new(), 0);
    while let Some(row) = found.next()? {
        // The place of one that makes no sense is that of the one before it.
        at.erased = readable(row.get(0).map_err(SqlError::from))?.or(at.erased);
        erased.push(MessageKey(row.get(1)?));
        bytes += row.get::<_, i64>(2)?;
        if bytes >= MAX_BYTES_ERASED {
            break;
        }
    }
    if !erased.is_empty() {
        return Ok(Some(Erasure::Payloads(erased)));
    }
    let mut messages = connection.prepare_cached(MESSAGES_SQL)?;
    let mut found = messages.query(params![at.application, limit])?;
    let (mut chosen, mut left) = (Vec::<Chosen>::new(), rows);
    while let Some(row) = found.next()? {
        let next = choose_one(connection, row.get(0)?, NO_NAMES, rows)?;
        let size = next.rows;
        if (size > left || !next.fits_beside(&chosen)) && !chosen.is_empty() {
            break;
        }
        left = left.saturating_sub(size);
        chosen.push(next);
    }
    if !chosen.is_empty() {
        return Ok(Some(Erasure::Messages(chosen)));
    }
    let of_endpoints = left_postings(connection, ATTEMPTS, POSTINGS_OF_ENDPOINTS_SQL, at.application, rows)?;
    if of_endpoints.is_some() {
        return Ok(of_endpoints);
    }
    left_postings(connection, MESSAGES, &postings_sql(MESSAGES), at.application, rows)
}

impl Erasure {
    /// Erases it; returns how many payloads, messages, applications and endpoints that were.
    fn carry_out(self, tx: &Tx<'_>) -> Result<usize, SqlError> {
        match self {
            Self::Deliveries(deliveries) => {
                let mut delete =
                    tx.prepare_cached("DELETE FROM delivery WHERE endpoint_no = ? AND due_at = ? AND message_no = ?")?;
                for (endpoint, due_at, message) in deliveries {
                    delete.execute(params![endpoint, due_at, message])?;
                }
                Ok(0)
            }
            Self::Payloads(payloads) => {
                let count = payloads.len();
                erase(tx, payloads)?;
                Ok(count)
            }
            Self::Messages(chosen) => {
                let removal = removal(&chosen, |_| false);
                history::remove_rows(tx, &removal)?;
                Ok(removal.messages.len())
            }
            Self::Postings(log, left) => {
                remove_postings(tx, log, &left)?;
                Ok(0)
            }
            Self::OfEndpoints(many) => {
                many.remove(tx)?;
                Ok(0)
            }
            Self::Rows { application, endpoints } => remove_rows(tx, application, &endpoints),
        }
    }
}

fn remove_postings(tx: &Tx<'_>, log: Log, left: &[Posting]) -> Result<(), SqlError> {
    let Log { postings, owner: column, .. } = log;
    let sql = format!("DELETE FROM {postings} WHERE {column} = ? AND term = ? AND start = ?");
    let mut remove = tx.prepare_cached(&sql)?;
    let mut owners = BTreeSet::new();
    for (owner, term, start) in left {
        remove.execute(params![owner, term, start])?;
        owners.insert(*owner);
    }
    for owner in owners {
        tx.moved((log.place)(owner));
    }
    Ok(())
}

/// Removes rows of endpoints, or of an application with its endpoints, of which no message or attempt is left.
fn remove_rows(tx: &Tx<'_>, application: Option<i64>, endpoints: &[i64]) -> Result<usize, SqlError> {
    for endpoint in endpoints {
        for (table, column) in [
            ("attempt", "endpoint_no"),
            ("attempt_posting", "endpoint_no"),
            ("attempt_tally", "endpoint_no"),
            ("stream_reader", "endpoint_no"),
            ("wake", "endpoint_no"),
            ("endpoint_hold", "endpoint_no"),
            ("endpoint_fact", "endpoint_no"),
            ("endpoint_url", "endpoint_no"),
            ("endpoint", "no"),
        ] {
            tx.prepare_cached(&format!("DELETE FROM {table} WHERE {column} = ?"))?.execute([endpoint])?;
        }
        tx.moved(Place::Endpoint(*endpoint));
    }
    if let Some(application) = application {
        for (table, column) in [
            ("message_posting", "application_no"),
            ("token_expiry", "application_no"),
            ("asked", "application_no"),
            ("application", "no"),
        ] {
            tx.prepare_cached(&format!("DELETE FROM {table} WHERE {column} = ?"))?.execute([application])?;
        }
        tx.moved(Place::Application(application));
    }
    Ok(endpoints.len() + usize::from(application.is_some()))
}

// Payloads ----------------------------------------------------------------------------------------------------------------

/// What a sweep is to do.
#[derive(Default)]
struct Slice {
    expired: Vec<MessageKey>,
    /// Not due yet when the cursor passes them.
    put_off: Vec<MessageKey>,
    bytes: i64,
    /// Where the cursor moves to.
    next: Option<i64>,
    more: bool,
}

impl Slice {
    fn is_nothing(&self) -> bool {
        self.expired.is_empty() && self.next.is_none()
    }

    fn expires(&mut self, message: i64, bytes: i64) {
        self.expired.push(MessageKey(message));
        self.bytes += bytes;
    }

    fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES_ERASED
    }
}

const OWN_TIME_SQL: &str =
    "SELECT message_no, length(body) FROM payload WHERE expires_at <= ? ORDER BY expires_at LIMIT ?";

const CURSOR_SQL: &str = "SELECT message_no, length(body), payload.expires_at IS NOT NULL, created_at,
         coalesce(deliver_at, created_at)
     FROM payload CROSS JOIN message ON message.no = message_no
     WHERE message_no >= (SELECT next FROM sequence WHERE name = 'retention') ORDER BY message_no LIMIT ?";

fn read(connection: &Connection, now: Timestamp, kept: Duration, rows: usize) -> Result<Slice, SqlError> {
    let mut slice = Slice::default();
    let mut seen = 0;
    let mut own_time = connection.prepare_cached(OWN_TIME_SQL)?;
    let mut found = own_time.query(params![now.as_micros(), range::limit(rows)])?;
    while let Some(row) = found.next()? {
        seen += 1;
        slice.expires(row.get(0)?, row.get(1)?);
        if slice.is_full() {
            break;
        }
    }
    slice.more = seen == rows || slice.is_full();
    if slice.more {
        return Ok(slice);
    }
    let until = now.saturating_sub(kept).as_micros();
    // What lies below is old, whatever its time says.
    let ahead = now.saturating_add(AHEAD).as_micros();
    let last_old = last_old(connection, until, ahead)?.unwrap_or(0);
    let mut cursor = connection.prepare_cached(CURSOR_SQL)?;
    let mut found = cursor.query([range::limit(rows)])?;
    let mut passed = 0;
    while let Some(row) = found.next()? {
        let (message, bytes): (i64, i64) = (row.get(0)?, row.get(1)?);
        let (has_own_time, created_at, due_at): (bool, i64, i64) = (row.get(2)?, row.get(3)?, row.get(4)?);
        if (created_at > until && message > last_old) || slice.is_full() {
            break;
        }
        let is_misdated = created_at > ahead && due_at == created_at;
        passed += 1;
        slice.next = Some(message + 1);
        if has_own_time {
            continue;
        }
        if due_at > until && !is_misdated {
            slice.put_off.push(MessageKey(message));
        } else {
            slice.expires(message, bytes);
        }
    }
    slice.more = passed == rows || slice.is_full();
    Ok(slice)
}

fn write(tx: &Tx<'_>, slice: Slice, kept: Duration) -> Result<(), SqlError> {
    let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
    let mut put_off = tx.prepare_cached(
        "UPDATE payload SET expires_at = (SELECT coalesce(deliver_at, created_at) FROM message WHERE no = ?1) + ?2
             WHERE message_no = ?1 AND expires_at IS NULL",
    )?;
    for message in &slice.put_off {
        put_off.execute(params![message.0, kept])?;
    }
    erase(tx, slice.expired)?;
    if let Some(next) = slice.next {
        tx.prepare_cached("UPDATE sequence SET next = ? WHERE name = 'retention'")?.execute([next])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plans::{assert_walks, plan};

    #[test]
    fn only_what_has_a_time_of_its_own_is_in_the_index() {
        assert_walks(OWN_TIME_SQL, "payload USING INDEX payload_by_expiry (expires_at<?)");
    }

    #[test]
    fn the_rest_is_walked_from_the_cursor_on() {
        let plan = plan(CURSOR_SQL);
        let walked = "SEARCH payload USING INTEGER PRIMARY KEY (rowid>?)".to_owned();
        assert!(plan.contains(&walked) && !plan.iter().any(|step| step.contains("TEMP")), "{plan:#?}");
    }

    #[test]
    fn a_step_removes_no_more_than_can_be_compared_and_the_next_ones_the_rest() {
        // Each message has a tag of its own, so each of its terms is looked for in vain among all others of its block.
        let connection = history::tests::fan_out(300, 1);
        let mut walk = Walk { until: 16, next: 0, held: BTreeSet::new(), fewer: None };
        let mut steps = 0;
        loop {
            let step = choose_bounded(&connection, walk, 100, 100, 250).unwrap();
            let removal = step.removal(|_| false);
            assert!(history::plan(&connection, &removal, MAX_COMPARED_FIRST).unwrap().is_whole);
            history::tests::delete_rows(&connection, &removal);
            (walk, steps) = (step.walk, steps + 1);
            if step.ended {
                break;
            }
        }
        let left: i64 = connection
            .query_row("SELECT (SELECT count(*) FROM attempt) + (SELECT count(*) FROM message)", [], |row| row.get(0))
            .unwrap();
        assert_eq!(left, 0, "after {steps} steps");
        assert!(steps > 16 * 300 / 250 && steps < 300, "{steps}");
    }

    /// Removes everything that there is; returns in how many steps.
    fn remove_all(connection: &Connection, until: i64) -> usize {
        let mut walk = Walk { until, next: 0, held: BTreeSet::new(), fewer: None };
        for steps in 1.. {
            let step = choose_bounded(connection, walk, 100, 100, 250).unwrap();
            history::tests::delete_rows(connection, &step.removal(|_| false));
            walk = step.walk;
            if step.ended {
                return steps;
            }
        }
        unreachable!()
    }

    fn left(connection: &Connection) -> i64 {
        let sql = "SELECT (SELECT count(*) FROM attempt) + (SELECT count(*) FROM message)";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_block_of_any_number_of_rows_holds_up_nobodys_history() {
        // All in one block, and each with a tag of its own, which is looked for in vain.
        let connection = history::tests::one_block(20_000);
        let steps = remove_all(&connection, 20_000);
        assert_eq!(left(&connection), 0);
        // Each counts as two rows, because of its tag.
        assert!(steps <= 2 * 20_000 / 250 + 10, "{steps}");
    }

    #[test]
    fn an_attempt_that_takes_too_long_to_compare_alone_goes_with_others() {
        // Nothing else succeeded, which thousands of attempts of the messages beside it are looked through for.
        let connection = history::tests::fan_out(1, 3_000);
        let first = "UPDATE attempt SET succeeded = 1 WHERE id = (SELECT min(id) FROM attempt)";
        assert_eq!(connection.execute(first, []).unwrap(), 1);
        let walk = Walk { until: 16, next: 0, held: BTreeSet::new(), fewer: None };
        let step = choose_bounded(&connection, walk, 100, 100, 250).unwrap();
        assert!(step.keeps_terms && !step.ended && step.walk.next == 1);
        assert!(step.chosen[0].attempts.len() >= 50, "{}", step.chosen[0].attempts.len());
        history::tests::delete_rows(&connection, &step.removal(|_| false));
        assert!(!choose_bounded(&connection, step.walk, 100, 100, 250).unwrap().keeps_terms, "the rest is compared");
    }

    #[test]
    fn of_long_responses_few_are_removed_at_a_time() {
        const LONG: i64 = 20_000;
        let connection = crate::engine::plans::database();
        let insert = "INSERT INTO message (no, application_no, id, event_type, created_at)
             VALUES (?1, 1, ?2, 'a', 5)";
        let attempt =
            "INSERT INTO attempt (endpoint_no, id, message_no, url_no, number, trigger, started_at, duration_ms,
                 succeeded, status_code, response)
             VALUES (1, ?1, ?2, 1, 1, 0, 5, 1, 0, 500, zeroblob(?3))";
        let mut number = 0_u32;
        for (message, attempts, bytes) in [(1, 100, LONG), (2, 5, LONG), (3, 20, 0), (4, 5, LONG)] {
            connection.execute(insert, params![message, [message as u8; 20]]).unwrap();
            for _ in 0..attempts {
                number += 1;
                let id = [&[0; 16], &number.to_be_bytes()[..]].concat();
                connection.execute(attempt, params![id, message, bytes]).unwrap();
            }
        }
        let first = choose_one(&connection, 1, NO_NAMES, 250).unwrap();
        assert!(!first.whole && first.responses >= MAX_RESPONSES && first.responses < MAX_RESPONSES + LONG);
        let rest = [2, 3, 4].map(|message| choose_one(&connection, message, NO_NAMES, 250).unwrap());
        assert!(rest.iter().all(|chosen| chosen.whole));
        assert!(rest[0].fits_beside(&rest[1..]) && rest[0].fits_beside(&[]));
        assert!(!rest[0].fits_beside(&[choose_one(&connection, 1, NO_NAMES, 250).unwrap()]));
    }

    #[test]
    fn of_a_message_with_many_names_few_attempts_are_removed_at_a_time() {
        let connection = crate::engine::plans::database();
        let insert = "INSERT INTO message (no, application_no, id, event_type, channels, tags, created_at)
             VALUES (?1, 1, ?2, 'a', ?3, ?4, 5)";
        let names = |count: usize| serde_json::to_string(&vec!["a"; count]).unwrap();
        let attempt =
            "INSERT INTO attempt (endpoint_no, id, message_no, url_no, number, trigger, started_at, duration_ms,
                 succeeded, status_code)
             VALUES (1, ?1, ?2, 1, 1, 0, 5, 1, 0, 500)";
        for (message, channels, tags) in [(1, 5, 10), (2, 0, 0)] {
            let id = [u8::try_from(message).unwrap(); 20];
            connection.execute(insert, params![message, id, names(channels), names(tags)]).unwrap();
            for number in 0..100_u32 {
                let id = [&id[..16], &number.to_be_bytes()[..]].concat();
                connection.execute(attempt, params![id, message]).unwrap();
            }
        }
        let rows = 250;
        let choose = |message| choose_one(&connection, message, names_of(&connection, message).unwrap(), rows).unwrap();
        let [named, plain] = [1, 2].map(choose);
        assert!(!named.whole && named.rows > rows && named.rows <= rows + 1 + LISTS * 15, "{}", named.rows);
        assert_eq!((named.attempts.len(), plain.whole, plain.attempts.len()), (4, true, 100));
        connection.execute(insert, params![3, [3_u8; 20], "no list", "{"]).unwrap();
        assert_eq!(choose(3).rows, 1, "what makes no sense stops nothing");
    }

    #[test]
    fn a_store_that_had_payloads_in_its_messages_keeps_them() {
        let connection = Connection::open_in_memory().unwrap();
        let (before, after) = crate::engine::migrate::MIGRATIONS.split_at(2);
        for migration in before {
            connection.execute_batch(migration).unwrap();
        }
        let insert =
            "INSERT INTO message (no, application_no, id, event_type, event_id, created_at, expires_at, payload)
             VALUES (?1, 1, ?2, 'a', ?3, 5, ?4, ?5)";
        let messages = [(1, None, Some("one")), (2, Some(9), Some("two")), (3, Some(7), None)];
        for (no, expires_at, payload) in messages {
            let payload = payload.map(str::as_bytes);
            connection
                .execute(insert, params![no, [no as u8; 20], format!("event-{no}"), expires_at, payload])
                .unwrap();
        }
        for migration in after {
            connection.execute_batch(migration).unwrap();
        }
        let mut found = connection
            .prepare("SELECT no, message.expires_at, body, payload.expires_at FROM message LEFT JOIN payload ON message_no = no")
            .unwrap();
        let found = found.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
        type Payload = (i64, Option<i64>, Option<Vec<u8>>, Option<i64>);
        let found: Vec<Payload> = found.collect::<Result<_, _>>().unwrap();
        assert_eq!(
            found,
            [
                (1, None, Some(b"one".to_vec()), None),
                (2, Some(9), Some(b"two".to_vec()), Some(9)),
                (3, Some(7), None, None)
            ]
        );
    }

    #[test]
    fn nothing_is_looked_for_in_whole_tables() {
        for sql in [
            NEXT_DATED_SQL,
            PENDING_SQL,
            OLD_SQL,
            DELETED_SQL,
            UNWANTED_SQL,
            PAYLOADS_SQL,
            MESSAGES_SQL,
            POSTINGS_OF_ENDPOINTS_SQL,
            STRETCHES_SQL,
            URLS_SQL,
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([postings_sql(MESSAGES), postings_sql(ATTEMPTS)])
        {
            let plan = plan(&sql);
            let costly = |step: &String| step.contains("TEMP B-TREE") || step.starts_with("SCAN");
            assert!(!plan.iter().any(costly), "{sql}: {plan:#?}");
        }
        let plan = plan(FORGOTTEN_SQL);
        assert!(plan.iter().any(|step| step.contains("endpoint_deleted")), "{plan:#?}");
    }
}
