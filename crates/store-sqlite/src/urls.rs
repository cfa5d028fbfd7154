//! Former URLs of endpoints. Each attempt names its URL by the number of a row, so a row stays as long as an attempt does.
//!
//! Nothing counts the attempts of a URL. A row that is retired gets no new ones, so whether it has any is found out by walking
//! the attempts of its endpoint, a slice at a time; what comes meanwhile names other rows.

use std::collections::BTreeSet;

use postrider_domain::time::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::decode::SqlError;
use crate::range;
use crate::writer::Tx;

/// Former URLs of an endpoint that are looked for at a time; if there are more, its attempts are walked again for the next.
const MAX_FORMER: usize = 10_000;

/// Where looking through the attempts is.
#[derive(Default)]
pub(crate) struct Former {
    /// The endpoint whose attempts are being looked through, or the last one.
    endpoint: i64,
    /// The last of its former URLs that was looked for, if there may be more: since when it is one, and its number.
    next: Option<(i64, i64)>,
    /// Its former URLs, as far as no attempt up to `after` names them.
    unnamed: BTreeSet<i64>,
    /// The last attempt that was looked at; null is none.
    after: Option<Value>,
    /// Whether that was the last one there is, so that those in `unnamed` can go.
    walked: bool,
}

/// What a look found.
pub(crate) struct Step {
    pub(crate) at: Former,
    /// Rows that no attempt names.
    pub(crate) unnamed: Vec<i64>,
}

const NEXT_SQL: &str = "SELECT endpoint_no FROM endpoint_url INDEXED BY endpoint_url_of
     WHERE endpoint_no > ? AND retired_at < ? ORDER BY endpoint_no LIMIT 1";

const RETIRED_SQL: &str = "SELECT retired_at, no FROM endpoint_url INDEXED BY endpoint_url_of
     WHERE endpoint_no = ?1 AND retired_at < ?2 AND (retired_at, no) > (?3, ?4) ORDER BY retired_at, no LIMIT ?5";

const NAMED_SQL: &str = "SELECT id, url_no FROM attempt WHERE endpoint_no = ? AND id > ? ORDER BY id LIMIT ?";

/// Looks at the next `rows` attempts of an endpoint with URLs that were retired before `before`; `None` after the last one.
pub(crate) fn look(
    connection: &Connection,
    mut at: Former,
    before: Timestamp,
    rows: usize,
) -> Result<Option<Step>, SqlError> {
    let before = before.as_micros();
    if at.unnamed.is_empty() {
        let Some(next) = next_former(connection, &at, before, MAX_FORMER)? else { return Ok(None) };
        at = next;
    }
    if !at.walked {
        walk(connection, &mut at, rows)?;
    }
    let unnamed = if at.walked { (0..rows).map_while(|_| at.unnamed.pop_first()).collect() } else { Vec::new() };
    Ok(Some(Step { at, unnamed }))
}

/// The next former URLs: of the same endpoint, if there may be more, else of the next one.
fn next_former(connection: &Connection, at: &Former, before: i64, most: usize) -> Result<Option<Former>, SqlError> {
    if let Some(last) = at.next {
        let more = former_of(connection, at.endpoint, last, before, most)?;
        if !more.unnamed.is_empty() {
            return Ok(Some(more));
        }
    }
    let next =
        connection.prepare_cached(NEXT_SQL)?.query_row(params![at.endpoint, before], |row| row.get(0)).optional()?;
    next.map(|endpoint| former_of(connection, endpoint, (i64::MIN, 0), before, most)).transpose()
}

/// The former URLs of an endpoint that come after `last`, at most `most` of them.
fn former_of(
    connection: &Connection,
    endpoint: i64,
    last: (i64, i64),
    before: i64,
    most: usize,
) -> Result<Former, SqlError> {
    let mut retired = connection.prepare_cached(RETIRED_SQL)?;
    let found = retired
        .query_map(params![endpoint, before, last.0, last.1, range::limit(most)], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<Vec<(i64, i64)>, _>>()?;
    let next = found.last().copied().filter(|_| found.len() == most);
    let unnamed = found.into_iter().map(|(_, number)| number).collect();
    Ok(Former { endpoint, next, unnamed, after: None, walked: false })
}

/// Looks at the next attempts of the endpoint.
fn walk(connection: &Connection, at: &mut Former, rows: usize) -> Result<(), SqlError> {
    let mut attempts = connection.prepare_cached(NAMED_SQL)?;
    let after = at.after.take().unwrap_or_else(|| Value::Blob(Vec::new()));
    let mut found = attempts.query(params![at.endpoint, after, range::limit(rows)])?;
    let mut seen = 0;
    while let Some(row) = found.next()? {
        seen += 1;
        at.after = Some(row.get(0)?);
        if let Value::Integer(named) = row.get(1)? {
            at.unnamed.remove(&named);
        }
    }
    at.walked = seen < rows;
    Ok(())
}

/// Removes rows that no attempt names.
pub(crate) fn remove(tx: &Tx<'_>, unnamed: &[i64]) -> Result<(), SqlError> {
    let mut delete = tx.prepare_cached("DELETE FROM endpoint_url WHERE no = ? AND retired_at IS NOT NULL")?;
    for number in unnamed {
        delete.execute([number])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::plan;

    #[test]
    fn of_a_store_that_had_urls_without_an_end_those_that_are_not_the_present_ones_are_former_ones() {
        let connection = Connection::open_in_memory().unwrap();
        let (before, after) = crate::migrate::MIGRATIONS.split_at(6);
        for migration in before {
            connection.execute_batch(migration).unwrap();
        }
        let rows = "INSERT INTO environment (id) VALUES ('org_a');
             INSERT INTO application (no, environment_no, id, name, metadata, created_at, updated_at)
                 VALUES (1, 1, zeroblob(20), 'a', '{}', 1, 1);
             INSERT INTO endpoint (no, application_no, id, url, description, version, disabled, metadata, headers, signing_keys,
                     created_at, updated_at)
                 VALUES (1, 1, zeroblob(20), 'https://2.test/', '', 1, 0, '{}', '{}', '{}', 1, 1);
             INSERT INTO endpoint_url (no, endpoint_no, url) VALUES (5, 1, 'https://1.test/'), (6, 1, 'https://2.test/')";
        connection.execute_batch(rows).unwrap();
        for migration in after {
            connection.execute_batch(migration).unwrap();
        }
        let step = look(&connection, Former::default(), Timestamp::from_micros(1), 10).unwrap().unwrap();
        assert_eq!(step.unnamed, [5]);
    }

    #[test]
    fn former_urls_beyond_as_many_as_are_looked_for_at_a_time_have_their_turn() {
        let connection = crate::plans::database();
        connection
            .execute_batch(
                "PRAGMA foreign_keys = OFF;
                 INSERT INTO endpoint_url (no, endpoint_no, url, retired_at)
                     VALUES (1, 1, 'a', 5), (2, 1, 'b', 5), (3, 1, 'c', 4), (4, 1, 'd', 9), (5, 2, 'e', 3)",
            )
            .unwrap();
        let (mut at, mut seen) = (Former::default(), Vec::new());
        while let Some(next) = next_former(&connection, &at, 9, 2).unwrap() {
            seen.push((next.endpoint, next.unnamed.iter().copied().collect::<Vec<_>>()));
            at = next;
        }
        assert_eq!(seen, [(1, vec![1, 3]), (1, vec![2]), (2, vec![5])]);
    }

    #[test]
    fn only_attempts_of_one_endpoint_are_walked() {
        for sql in [NEXT_SQL, RETIRED_SQL, NAMED_SQL] {
            let plan = plan(sql);
            let costly = |step: &String| step.contains("TEMP B-TREE") || step.starts_with("SCAN");
            assert!(!plan.iter().any(costly), "{sql}: {plan:#?}");
        }
    }
}
