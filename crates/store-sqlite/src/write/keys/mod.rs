//! The idempotency keys of messages: which message was accepted under a key.
//!
//! Keys come in no order, so an ordinary index would have a page of its own to write for nearly each of them. Instead, the
//! keys of a batch are written together, as one row of `key_log`. When the log holds [`RUN_KEYS`] keys, they are sorted into
//! the buckets of a run, one row each, and the log begins anew. Runs are never changed, and go as a whole when all their
//! keys are too old. Everything is appended; nothing is written at a random place.
//!
//! Runs on the writer's thread, and is part of its transactions: the log and the runs are the truth. In memory are the keys
//! of the log, and filters that say which runs may hold a key (`filter`). A new key therefore costs no read at all.

mod filter;

use foldhash::HashMap;
use postrider_domain::time::Timestamp;
use postrider_store::IdempotencyKey;
use rusqlite::{Connection, OptionalExtension as _, Row, Statement, params};

use self::filter::{Filter, mixed};
use crate::engine::decode::{Columns, SqlError, readable};

pub(crate) use self::filter::RUN_KEYS;

/// Buckets of a run: with 128 keys in each, they fill a page.
const BUCKETS: i64 = 256;

/// A key and the number of its message.
const ENTRY_BYTES: usize = 24;

/// What the number of a run meets: those of its buckets are numbers, too.
const IS_RUN: &str = "no BETWEEN 0 AND 0xffffffffffff";

const BUCKET_SQL: &str = "SELECT entries FROM key_bucket WHERE no = ?";

type Young = HashMap<IdempotencyKey, i64>;

/// What the writer knows of keys.
pub(crate) struct Keys<'c> {
    append: Statement<'c>,
    bucket: Statement<'c>,
    insert_bucket: Statement<'c>,
    insert_run: Statement<'c>,
    clear_log: Statement<'c>,
    run_keys: usize,
    next_run: i64,
    /// The keys of the log, and those of this transaction.
    young: Young,
    /// When the newest message of the log was created, in microseconds since 1970.
    newest_at: i64,
    /// The same of the logs that this transaction made runs of.
    newest_before: i64,
    filter: Filter,
    /// Keys of this transaction, in order. What lies before `logged` is in the log.
    fresh: Vec<IdempotencyKey>,
    logged: usize,
    /// Runs that this transaction made of `young`, and what they hold.
    made: Vec<(i64, Young)>,
}

impl<'c> Keys<'c> {
    /// Reads what there is. A run is made of so many keys.
    pub(crate) fn prepare(connection: &'c Connection, run_keys: usize) -> Result<Self, SqlError> {
        let prepare = |sql: &str| connection.prepare(sql);
        let (young, newest_at) = read_log(connection)?;
        let (filter, next_run) = read_runs(connection)?;
        Ok(Self {
            append: prepare("INSERT INTO key_log (newest_at, entries) VALUES (?, ?)")?,
            bucket: prepare(BUCKET_SQL)?,
            insert_bucket: prepare("INSERT INTO key_bucket (no, entries) VALUES (?, ?)")?,
            insert_run: prepare("INSERT INTO key_run (no, newest_at) VALUES (?, ?)")?,
            clear_log: prepare("DELETE FROM key_log")?,
            run_keys,
            next_run,
            young,
            newest_at,
            newest_before: 0,
            filter,
            fresh: Vec::new(),
            logged: 0,
            made: Vec::new(),
        })
    }

    /// The number of the message that was accepted last under a key.
    pub(crate) fn find(&mut self, key: &IdempotencyKey) -> Result<Option<i64>, SqlError> {
        let young = std::iter::once(&self.young).chain(self.made.iter().rev().map(|(_, held)| held));
        if let Some(number) = young.filter_map(|held| held.get(key)).next() {
            return Ok(Some(*number));
        }
        for run in self.filter.candidates(key) {
            if let Some(number) = find_in_run(&mut self.bucket, run, key)? {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Notes the key of a message that is being stored. It takes the place of an older message's.
    pub(crate) fn insert(&mut self, key: IdempotencyKey, message: i64, created_at: i64) {
        self.young.insert(key, message);
        self.fresh.push(key);
        self.newest_at = self.newest_at.max(created_at);
    }

    /// Stores what was noted: to be called before the transaction commits.
    pub(crate) fn store(&mut self) -> Result<(), SqlError> {
        let fresh = &self.fresh[self.logged..];
        if fresh.is_empty() {
            return Ok(());
        }
        let mut entries = Vec::with_capacity(fresh.len() * ENTRY_BYTES);
        for key in fresh {
            // Twice under one key in one batch is possible only if the first of them is too old.
            push_entry(&mut entries, key, self.young[key]);
        }
        self.append.execute(params![self.newest_at, entries])?;
        self.logged = self.fresh.len();
        if self.young.len() >= self.run_keys { self.make_runs() } else { Ok(()) }
    }

    /// Makes runs of the keys in the log.
    fn make_runs(&mut self) -> Result<(), SqlError> {
        let held = std::mem::take(&mut self.young);
        // More than one only after the upgrade of a store that had more keys.
        let count = held.len() / self.run_keys;
        let first = self.made.len();
        self.made.extend((0..count).zip(self.next_run..).map(|(_, run)| (run, Young::default())));
        for (place, (key, number)) in held.into_iter().enumerate() {
            self.made[first + place % count].1.insert(key, number);
        }
        // All of them are among those that were made before the first is written: if one cannot be, none is lost.
        for (run, held) in &self.made[first..] {
            for (bucket, entries) in (0..).zip(buckets(held)) {
                self.insert_bucket.execute(params![run * BUCKETS + bucket, entries])?;
            }
            self.insert_run.execute(params![run, self.newest_at])?;
            self.next_run = run + 1;
        }
        self.clear_log.execute([])?;
        // That of the next log is learned from its own keys: a clock that was wrong once dates no more than a run.
        self.newest_before = self.newest_before.max(std::mem::take(&mut self.newest_at));
        Ok(())
    }

    /// The transaction reached the disk.
    pub(crate) fn committed(&mut self) {
        for (run, held) in self.made.drain(..) {
            self.filter.add(run, held.keys());
        }
        self.fresh.clear();
        self.logged = 0;
        self.newest_before = 0;
    }

    /// The transaction came to nothing.
    pub(crate) fn rolled_back(&mut self) {
        for (run, held) in self.made.drain(..) {
            for (key, number) in held {
                self.young.entry(key).or_insert(number);
            }
            self.next_run = self.next_run.min(run);
        }
        self.newest_at = self.newest_at.max(std::mem::take(&mut self.newest_before));
        // If a key was there before, it was too old to count.
        for key in self.fresh.drain(..) {
            self.young.remove(&key);
        }
        self.logged = 0;
    }

    /// A run is no longer in the store.
    pub(crate) fn dropped(&mut self, run: i64) {
        self.filter.remove(run);
    }
}

/// The message that was accepted last under a key, for those who don't have what the writer knows: reads the log, and a
/// bucket of each run.
pub(crate) fn find(connection: &Connection, key: &IdempotencyKey) -> Result<Option<i64>, SqlError> {
    // The log first: keys only move from there to a run.
    let mut log = connection.prepare_cached("SELECT entries FROM key_log ORDER BY no DESC")?;
    let mut rows = log.query([])?;
    while let Some(row) = rows.next()? {
        let Some(entries) = readable(entries(row, 0))? else { continue };
        if let Some(number) = find_in(entries, key) {
            return Ok(Some(number));
        }
    }
    let mut runs = connection.prepare_cached(&format!("SELECT no FROM key_run WHERE {IS_RUN} ORDER BY no DESC"))?;
    let mut bucket = connection.prepare_cached(BUCKET_SQL)?;
    let mut rows = runs.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(number) = find_in_run(&mut bucket, row.get(0)?, key)? {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Removes the oldest run if all its messages were created before `before`; returns which it was. A run that is older than one
/// which is old is old, too, whatever a clock said that was wrong.
pub(crate) fn drop_old_run(connection: &Connection, before: Timestamp) -> Result<Option<i64>, SqlError> {
    let old: Option<i64> = connection
        .prepare_cached(&format!(
            "SELECT no FROM key_run WHERE {IS_RUN} AND no <= (SELECT max(no) FROM key_run WHERE {IS_RUN} AND newest_at < ?) ORDER BY no LIMIT 1"
        ))?
        .query_row([before.as_micros()], |row| row.get(0))
        .optional()?;
    if let Some(run) = old {
        connection.prepare_cached("DELETE FROM key_run WHERE no = ?")?.execute([run])?;
        connection
            .prepare_cached("DELETE FROM key_bucket WHERE no >= ? AND no < ?")?
            .execute([run * BUCKETS, (run + 1) * BUCKETS])?;
    }
    Ok(old)
}

/// Entries in a column.
fn entries<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8], SqlError> {
    let columns = Columns::new(row, "key_log");
    row.get_ref(column)?.as_blob().map_err(|error| columns.inconsistent("entries", &error))
}

/// The keys of the log, and when the newest of their messages was created.
fn read_log(connection: &Connection) -> Result<(Young, i64), SqlError> {
    let (mut young, mut newest_at) = (Young::default(), 0);
    let mut log = connection.prepare("SELECT newest_at, entries FROM key_log ORDER BY no")?;
    let mut rows = log.query([])?;
    while let Some(row) = rows.next()? {
        let read = || Ok((row.get(0)?, entries(row, 1)?));
        // Keys that make no sense lead nowhere.
        let Some((at, entries)) = readable(read())? else { continue };
        newest_at = newest_at.max(at);
        young.extend(entries.chunks_exact(ENTRY_BYTES).map(entry));
    }
    Ok((young, newest_at))
}

/// The filters of all runs, and the number of the next one.
fn read_runs(connection: &Connection) -> Result<(Filter, i64), SqlError> {
    let mut filter = Filter::default();
    let mut runs = connection.prepare(&format!("SELECT no FROM key_run WHERE {IS_RUN} ORDER BY no"))?;
    let mut buckets = connection.prepare("SELECT entries FROM key_bucket WHERE no >= ? AND no < ?")?;
    let mut rows = runs.query([])?;
    let mut next = 0;
    while let Some(row) = rows.next()? {
        let run: i64 = row.get(0)?;
        let mut held = Vec::with_capacity(RUN_KEYS);
        let mut rows = buckets.query([run * BUCKETS, (run + 1) * BUCKETS])?;
        while let Some(row) = rows.next()? {
            let Some(entries) = readable(entries(row, 0))? else { continue };
            held.extend(entries.chunks_exact(ENTRY_BYTES).map(|bytes| entry(bytes).0));
        }
        filter.add(run, held.iter());
        next = run + 1;
    }
    Ok((filter, next))
}

fn bucket_of(key: &IdempotencyKey) -> i64 {
    (mixed(key) >> 56).cast_signed()
}

/// The rows of a run, by bucket.
fn buckets(held: &Young) -> Vec<Vec<u8>> {
    let mut buckets = vec![Vec::new(); BUCKETS as usize];
    for (key, number) in held {
        push_entry(&mut buckets[bucket_of(key) as usize], key, *number);
    }
    buckets
}

fn push_entry(entries: &mut Vec<u8>, key: &IdempotencyKey, message: i64) {
    entries.extend_from_slice(&key.0);
    entries.extend_from_slice(&message.to_be_bytes());
}

fn entry(bytes: &[u8]) -> (IdempotencyKey, i64) {
    let (mut key, mut number) = ([0; 16], [0; 8]);
    key.copy_from_slice(&bytes[..16]);
    number.copy_from_slice(&bytes[16..]);
    (IdempotencyKey(key), i64::from_be_bytes(number))
}

/// The message of a key among entries; the last one counts.
fn find_in(entries: &[u8], key: &IdempotencyKey) -> Option<i64> {
    entries.chunks_exact(ENTRY_BYTES).rev().find(|bytes| bytes[..16] == key.0).map(|bytes| entry(bytes).1)
}

/// The message of a key in a run. A run that is gone holds nothing: filters hear of that after the commit, and a reader may
/// have seen it a moment before.
fn find_in_run(bucket: &mut Statement<'_>, run: i64, key: &IdempotencyKey) -> Result<Option<i64>, SqlError> {
    let mut rows = bucket.query([run * BUCKETS + bucket_of(key)])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(readable(entries(row, 0))?.and_then(|entries| find_in(entries, key)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use rusqlite::types::Null;

    use super::*;
    use crate::engine::plans::database;

    /// Keys of a run here, so that there are many runs.
    const FEW: usize = 8;

    fn key(number: u8) -> IdempotencyKey {
        let mut key = [number / 16; 16];
        key[15] = number;
        IdempotencyKey(key)
    }

    /// A transaction with batches of keys.
    fn write(connection: &Connection, keys: &mut Keys<'_>, batches: &[Vec<(IdempotencyKey, i64)>], commit: bool) {
        connection.execute_batch("BEGIN").unwrap();
        for batch in batches {
            for (key, message) in batch {
                keys.insert(*key, *message, *message * 1_000);
            }
            keys.store().unwrap();
        }
        if commit {
            connection.execute_batch("COMMIT").unwrap();
            keys.committed();
        } else {
            connection.execute_batch("ROLLBACK").unwrap();
            keys.rolled_back();
        }
    }

    fn count(connection: &Connection, table: &str) -> i64 {
        connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// Batches of keys, and whether they are committed.
        Write(Vec<Vec<u8>>, bool),
        Reopen,
        /// Runs go whose messages are all older than so many of the newest.
        DropOld(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let batches = || prop::collection::vec(prop::collection::vec(0..80u8, 0..12), 1..4);
        let step = prop_oneof![
            6 => batches().prop_map(|batches| Step::Write(batches, true)),
            2 => batches().prop_map(|batches| Step::Write(batches, false)),
            1 => Just(Step::Reopen),
            2 => (0..60u8).prop_map(Step::DropOld),
        ];
        prop::collection::vec(step, 1..30)
    }

    proptest! {
        #[test]
        fn every_key_leads_to_its_last_message_until_it_is_too_old(steps in steps()) {
            let connection = database();
            let mut keys = Keys::prepare(&connection, FEW).unwrap();
            let mut known: HashMap<IdempotencyKey, i64> = HashMap::new();
            let (mut message, mut oldest) = (0, 0);
            for step in steps {
                match step {
                    Step::Write(batches, commit) => {
                        // A key is only taken again when what it stood for is too old.
                        let (known_before, now_old) = (known.clone(), oldest);
                        let fresh = |key: &IdempotencyKey, known: &HashMap<_, i64>| {
                            known.get(key).is_none_or(|message| commit && *message < now_old)
                        };
                        let mut numbered = Vec::new();
                        for batch in batches {
                            let mut taken = Vec::new();
                            for key in batch.into_iter().map(key) {
                                if fresh(&key, &known) {
                                    message += 1;
                                    known.insert(key, message);
                                    taken.push((key, message));
                                }
                            }
                            numbered.push(taken);
                        }
                        write(&connection, &mut keys, &numbered, commit);
                        if !commit {
                            known = known_before;
                        }
                    }
                    Step::Reopen => {
                        drop(keys);
                        keys = Keys::prepare(&connection, FEW).unwrap();
                    }
                    Step::DropOld(kept) => {
                        oldest = oldest.max(message - i64::from(kept));
                        while let Some(run) = drop_old_run(&connection, Timestamp::from_micros(oldest * 1_000)).unwrap() {
                            keys.dropped(run);
                        }
                    }
                }
                prop_assert!(keys.young.len() < FEW);
                prop_assert_eq!(count(&connection, "key_bucket"), BUCKETS * count(&connection, "key_run"));
                for number in 0..100 {
                    let key = key(number);
                    let wanted = known.get(&key).copied();
                    for found in [keys.find(&key).unwrap(), find(&connection, &key).unwrap()] {
                        let gone = found.is_none() && wanted.is_some_and(|message| message < oldest);
                        prop_assert!(found == wanted || gone, "{:?} instead of {:?}", found, wanted);
                    }
                }
            }
        }
    }

    #[test]
    fn a_run_that_could_not_be_written_loses_no_keys() {
        let connection = database();
        let mut keys = Keys::prepare(&connection, FEW).unwrap();
        let known: Vec<_> = (1..FEW as u8).map(|number| (key(number), i64::from(number))).collect();
        write(&connection, &mut keys, std::slice::from_ref(&known), true);
        let full = "CREATE TEMP TRIGGER full BEFORE INSERT ON key_run BEGIN SELECT RAISE(ABORT, 'disk full'); END";
        connection.execute_batch(full).unwrap();
        connection.execute_batch("BEGIN").unwrap();
        keys.insert(key(0), 100, 100_000);
        assert!(keys.store().is_err());
        connection.execute_batch("ROLLBACK").unwrap();
        keys.rolled_back();
        for (key, number) in known {
            assert_eq!(keys.find(&key).unwrap(), Some(number));
        }
        assert_eq!(keys.find(&key(0)).unwrap(), None);
        connection.execute_batch("DROP TRIGGER full").unwrap();
        write(&connection, &mut keys, &[vec![(key(0), 101)]], true);
        assert_eq!((count(&connection, "key_run"), count(&connection, "key_log")), (1, 0));
    }

    #[test]
    fn a_clock_that_was_wrong_once_keeps_no_run_for_ever() {
        let connection = database();
        let mut keys = Keys::prepare(&connection, FEW).unwrap();
        let batch = |first: u8| -> Vec<_> { (first..first + FEW as u8).map(|number| (key(number), 1)).collect() };
        for (first, at) in [(0, i64::MAX), (20, 1_000), (40, 2_000)] {
            connection.execute_batch("BEGIN").unwrap();
            for (key, message) in batch(first) {
                keys.insert(key, message, at);
            }
            keys.store().unwrap();
            connection.execute_batch("COMMIT").unwrap();
            keys.committed();
        }
        assert_eq!(drop_old_run(&connection, Timestamp::from_micros(1_500)).unwrap(), Some(0));
        assert_eq!(drop_old_run(&connection, Timestamp::from_micros(1_500)).unwrap(), Some(1));
        assert_eq!(drop_old_run(&connection, Timestamp::from_micros(1_500)).unwrap(), None);
    }

    #[test]
    fn a_run_that_goes_in_the_same_transaction_holds_nothing_any_more() {
        let connection = database();
        let mut keys = Keys::prepare(&connection, FEW).unwrap();
        let all: Vec<_> = (0..FEW as u8).map(|number| (key(number), i64::from(number))).collect();
        write(&connection, &mut keys, &[all], true);
        connection.execute_batch("BEGIN").unwrap();
        assert_eq!(drop_old_run(&connection, Timestamp::MAX).unwrap(), Some(0));
        assert_eq!(keys.find(&key(1)).unwrap(), None);
        connection.execute_batch("ROLLBACK").unwrap();
        assert_eq!(keys.find(&key(1)).unwrap(), Some(1));
    }

    #[test]
    fn a_store_that_had_keys_in_another_form_keeps_them() {
        let connection = Connection::open_in_memory().unwrap();
        let [initial, whole, ..] = crate::engine::migrate::MIGRATIONS;
        connection.execute_batch(initial).unwrap();
        let mut insert = connection
            .prepare("INSERT INTO idempotency (key, created_at, message_no, status, body) VALUES (?, ?, ?, ?, ?)")
            .unwrap();
        for number in 0..20u8 {
            insert
                .execute(params![key(number).0, i64::from(number) * 1_000, i64::from(number) << 33, Null, Null])
                .unwrap();
        }
        insert.execute(params![key(99).0, 5_000, Null, 201, [1u8]]).unwrap();
        drop(insert);
        connection.execute_batch(whole).unwrap();
        let mut keys = Keys::prepare(&connection, FEW).unwrap();
        assert_eq!(count(&connection, "idempotency"), 1);
        write(&connection, &mut keys, &[vec![(key(50), 1)]], true);
        assert_eq!((count(&connection, "key_run"), count(&connection, "key_log")), (2, 0));
        for number in 0..20u8 {
            assert_eq!(keys.find(&key(number)).unwrap(), Some(i64::from(number) << 33));
        }
        assert_eq!(keys.find(&key(99)).unwrap(), None);
    }

    #[test]
    fn a_key_that_is_looked_for_costs_a_look_up_by_number() {
        assert_eq!(crate::engine::plans::plan(BUCKET_SQL), ["SEARCH key_bucket USING INTEGER PRIMARY KEY (rowid=?)"]);
    }
}
