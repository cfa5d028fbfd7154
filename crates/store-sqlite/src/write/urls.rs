//! Former URLs of endpoints. Each attempt names its URL by the number of a row, so a row stays as long as an attempt does.
//!
//! The row of an endpoint's present URL is made with the first attempt that names it, and retired when the URL changes. What was
//! under way then names it when it ends; so do not those that begin later.
//!
//! Nothing counts the attempts of a URL. A row that was retired before anything began that is under way gets no new ones, so
//! whether it has any is found out by walking the attempts of its endpoint, a slice at a time; what comes meanwhile names other
//! rows.

use std::collections::BTreeSet;

use postrider_domain::endpoint::EndpointUrl;
use postrider_domain::time::Timestamp;
use postrider_store::{EndpointKey, FORMER_URLS_PER_DAY, URL_OVERHEAD};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::engine::decode::{SqlError, readable};
use crate::engine::range;
use crate::engine::tx::Tx;
use crate::write::asked::{self, Use};
use crate::write::owners::application_of;

/// Rows that were retired since an attempt began, of which one may be its URL's: the first, unless it began with a URL that had
/// just been changed.
const MAX_RETIRED_MEANWHILE: usize = 16;

const PRESENT_SQL: &str = "SELECT no FROM endpoint_url WHERE endpoint_no = ? AND url = ? AND retired_at IS NULL";

const MEANWHILE_SQL: &str = "SELECT no FROM (
         SELECT no, url FROM endpoint_url INDEXED BY endpoint_url_of
         WHERE endpoint_no = ?1 AND retired_at >= ?2 ORDER BY retired_at, no LIMIT ?3
     ) WHERE url = ?4 LIMIT 1";

/// The row that an attempt names which began and ended at these instants. Without one it is made; of a URL that is not the
/// endpoint's present one as a former one, which takes of what its application may have of those.
pub(crate) fn number_of(
    connection: &Connection,
    endpoint: EndpointKey,
    url: &str,
    (began, ended): (Timestamp, Timestamp),
) -> Result<i64, SqlError> {
    let present =
        connection.prepare_cached(PRESENT_SQL)?.query_row(params![endpoint.0, url], |row| row.get(0)).optional()?;
    if let Some(number) = present {
        return Ok(number);
    }
    if is_present(connection, endpoint, url)? {
        return insert(connection, endpoint, url, None);
    }
    let most = range::limit(MAX_RETIRED_MEANWHILE);
    let former = connection
        .prepare_cached(MEANWHILE_SQL)?
        .query_row(params![endpoint.0, began.as_micros(), most, url], |row| row.get(0))
        .optional()?;
    if let Some(number) = former {
        return Ok(number);
    }
    // Whatever makes no sense there keeps no result from being stored.
    if let Some(application) = readable(application_of(connection, endpoint))?.flatten() {
        let bytes = url.len() as u64 + URL_OVERHEAD;
        readable(asked::take(connection, application, (Use::Urls, bytes), FORMER_URLS_PER_DAY, ended))?;
    }
    insert(connection, endpoint, url, Some(ended))
}

/// Whether an endpoint has this URL, apart from credentials.
fn is_present(connection: &Connection, endpoint: EndpointKey, url: &str) -> Result<bool, SqlError> {
    let mut statement = connection.prepare_cached("SELECT url FROM endpoint WHERE no = ?")?;
    let present = statement.query_row([endpoint.0], |row| row.get(0)).optional();
    let present: Option<String> = readable(present.map_err(SqlError::from))?.flatten();
    Ok(present.is_some_and(|present| present == url || EndpointUrl::from_trusted(present).as_str() == url))
}

/// Makes a row for a URL.
pub(crate) fn insert(
    connection: &Connection,
    endpoint: EndpointKey,
    url: &str,
    retired_at: Option<Timestamp>,
) -> Result<i64, SqlError> {
    let sql = "INSERT INTO endpoint_url (endpoint_no, url, retired_at) VALUES (?, ?, ?)";
    Ok(connection.prepare_cached(sql)?.insert(params![endpoint.0, url, retired_at.map(Timestamp::as_micros)])?)
}

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
    use crate::engine::plans::plan;

    #[test]
    fn of_a_store_that_had_urls_without_an_end_those_that_are_not_the_present_ones_are_former_ones() {
        let connection = Connection::open_in_memory().unwrap();
        let (before, after) = crate::engine::migrate::MIGRATIONS.split_at(6);
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
        let connection = crate::engine::plans::database();
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
        for sql in [NEXT_SQL, RETIRED_SQL, NAMED_SQL, MEANWHILE_SQL] {
            let plan = plan(sql);
            let costly = |step: &String| {
                step.contains("TEMP B-TREE") || (step.starts_with("SCAN") && !step.contains("(subquery-"))
            };
            assert!(!plan.iter().any(costly), "{sql}: {plan:#?}");
        }
    }
}
