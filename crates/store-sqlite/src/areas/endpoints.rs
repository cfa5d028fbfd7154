//! Endpoints, their secrets and headers. Every write goes through [`tell`], which tells observers, and, if routes depend on what
//! it writes, through [`make_routes_newer`].

use async_trait::async_trait;
use postrider_domain::delivery::DisableReason;
use postrider_domain::endpoint::{Disablement, Endpoint, EndpointPatch, EndpointUrl, Headers};
use postrider_domain::headers::HeaderChanges;
use postrider_domain::ids::{EndpointId, Id as _, Ksuid};
use postrider_domain::names::{Channel, EventTypeName, IdOrUid, Uid};
use postrider_domain::notice::NoticeKind;
use postrider_domain::signature::{Secret, SigningKeys};
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationKey, Capped, ChangeHeadersError, DELETED_KEPT, EndpointKey, Endpoints, FORMER_URLS_PER_DAY, Listed,
    MAX_DELETED_ENDPOINTS, NewEndpoint, Once, RotateError, Scan, StoreError, Stored, URL_OVERHEAD, Upserted,
    WriteError, Written,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::areas::streams::newest_message;
use crate::engine::decode::{Columns, SqlError, encode_json, first, listed};
use crate::engine::range::{NO_LIMIT, Range};
use crate::engine::rows::{ENDPOINT_COLUMNS, decode_endpoint, decode_keys, encode_keys};
use crate::engine::tx::{Abort, FEW_ROWS, News, Place, Tx, rows_of, taken};
use crate::store::SqliteStore;
use crate::write::asked::{self, Use};
use crate::write::deliveries::{change_receiver, look_again, put_off};
use crate::write::hot::DISABLED_SQL;
use crate::write::idempotency::{self, Subject};
use crate::write::inserts::json_list;
use crate::write::owners::{NEXT_VERSION, application_of};
use crate::write::{notices, urls};

/// How many rows what a change of an endpoint brings counts as: the names of event types may be a quarter of a megabyte. What
/// is there is written again with it: see [`stored`].
fn weight(patch: &EndpointPatch) -> usize {
    let description = patch.description.as_ref().map_or(0, String::len);
    FEW_ROWS + rows_of(description + bytes_of(patch.event_types.as_ref().and_then(Option::as_deref)))
}

/// How many rows a new endpoint counts as; `copies` is how often it is written.
fn weight_of_new(endpoint: &Endpoint, copies: usize) -> usize {
    let bytes = endpoint.description.len() + bytes_of(endpoint.event_types.as_deref());
    FEW_ROWS + copies * rows_of(bytes)
}

/// What the names of event types take in their column, about.
fn bytes_of(types: Option<&[EventTypeName]>) -> usize {
    types.into_iter().flatten().map(|name| name.as_str().len() + QUOTES).sum()
}

/// What goes round a text in a list.
const QUOTES: usize = 3;

/// The bytes of an endpoint's row. Lengths are in the beginning of a row, so no text is read.
const BYTES: &str =
    "octet_length(description) + coalesce(octet_length(event_types), 0) + coalesce(octet_length(channels), 0)
     + octet_length(metadata) + octet_length(headers) + octet_length(signing_keys)";

/// How many rows an endpoint counts as that is read and written again, with the retries that are due when what holds it back is
/// lifted; none if it is not there.
fn stored(connection: &Connection, application: ApplicationKey, id: &IdOrUid<EndpointId>) -> Result<usize, SqlError> {
    let endpoint = find_key(connection, application, id)?;
    endpoint.map_or(Ok(0), |endpoint| stored_of(connection, endpoint))
}

/// The same of an endpoint that is known.
fn stored_of(connection: &Connection, endpoint: EndpointKey) -> Result<usize, SqlError> {
    let mut statement = connection.prepare_cached(&format!("SELECT {BYTES} FROM endpoint WHERE no = ?"))?;
    let bytes: Option<usize> = statement.query_row([endpoint.0], |row| row.get(0)).optional()?;
    let Some(bytes) = bytes else { return Ok(0) };
    Ok(rows_of(bytes) + put_off(connection, endpoint)?)
}

#[async_trait]
impl Endpoints for SqliteStore {
    async fn create_endpoint(
        &self,
        application: ApplicationKey,
        new: NewEndpoint,
        once: Option<Once<Endpoint>>,
    ) -> Result<Written<Endpoint>, WriteError> {
        // Beside its row there is the answer, which names the event types twice.
        let copies = if once.is_some() { 3 } else { 1 };
        self.writer
            .run_rows(application, weight_of_new(&new.endpoint, copies), move |tx| {
                let subject = Subject::application(application);
                if let Some(answer) = idempotency::replay(tx, once.as_ref(), subject)? {
                    return Ok(Written::Replayed(answer));
                }
                let endpoint = insert(tx, application, new)?;
                idempotency::remember(tx, once, subject, &endpoint, endpoint.created_at)?;
                Ok(Written::Done(endpoint))
            })
            .await
    }

    async fn endpoint(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<EndpointId>,
    ) -> Result<Option<Stored<EndpointKey, Endpoint>>, StoreError> {
        let id = id.clone();
        self.readers.run(move |connection| find(connection, application, &id)).await
    }

    async fn endpoints(&self, application: ApplicationKey, scan: Scan<Ksuid>) -> Result<Listed<Endpoint>, StoreError> {
        self.lists
            .run(move |connection| {
                let Range { low, high, order, limit } = Range::of_ids(scan);
                let mut statement = connection.prepare_cached(&format!(
                    "SELECT {ENDPOINT_COLUMNS} FROM endpoint
                     WHERE application_no = ?1 AND id >= ?2 AND id < ?3 AND {LIVE}
                     ORDER BY id {order} LIMIT ?4"
                ))?;
                let rows = statement.query(params![application.0, low, high, NO_LIMIT])?;
                listed(rows, limit, |row| Ok(decode_endpoint(row)?.value))
            })
            .await
    }

    async fn update_endpoint(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<EndpointId>,
        patch: EndpointPatch,
        now: Timestamp,
    ) -> Result<Endpoint, WriteError> {
        let (id, same) = (id.clone(), id.clone());
        let stored = move |connection: &Connection| stored(connection, application, &same);
        self.writer
            .run_over(application, weight(&patch), stored, move |tx| {
                let found = find(tx, application, &id)?.ok_or(Abort::Refused(WriteError::NotFound))?;
                change(tx, found, patch, now)
            })
            .await
    }

    async fn upsert_endpoint(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<EndpointId>,
        patch: EndpointPatch,
        otherwise: NewEndpoint,
        now: Timestamp,
    ) -> Result<Upserted<Endpoint>, WriteError> {
        let (id, same) = (id.clone(), id.clone());
        let stored = move |connection: &Connection| stored(connection, application, &same);
        // Either is written.
        let rows = weight(&patch).max(weight_of_new(&otherwise.endpoint, 1));
        self.writer
            .run_over(application, rows, stored, move |tx| match find(tx, application, &id)? {
                Some(found) => change(tx, found, patch, now).map(Upserted::Updated),
                None => insert(tx, application, otherwise).map(Upserted::Created),
            })
            .await
    }

    async fn delete_endpoint(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<EndpointId>,
        now: Timestamp,
    ) -> Result<(), WriteError> {
        let (id, same) = (id.clone(), id.clone());
        let stored = move |connection: &Connection| stored(connection, application, &same);
        self.writer
            .run_over(application, FEW_ROWS, stored, move |tx| {
                let key = find_key(tx, application, &id)?.ok_or(Abort::Refused(WriteError::NotFound))?;
                tx.prepare_cached(DELETE_SQL)?.execute(params![now.as_micros(), key.0])?;
                tx.prepare_cached(FORGET_SETTINGS_SQL)?.execute([key.0])?;
                notices::report_endpoint(tx, key, NoticeKind::EndpointDeleted)?;
                change_receiver(tx, key, None)?;
                Ok(changed(tx, key)?)
            })
            .await
    }

    async fn signing_keys(&self, endpoint: EndpointKey) -> Result<Option<SigningKeys>, StoreError> {
        self.readers.run(move |connection| read_keys(connection, endpoint)).await
    }

    async fn rotate_secret(
        &self,
        endpoint: EndpointKey,
        next: Secret,
        grace_until: Timestamp,
        now: Timestamp,
        once: Option<Once<Secret>>,
    ) -> Result<Written<Secret>, RotateError> {
        let stored = move |connection: &Connection| stored_of(connection, endpoint);
        self.writer
            .run_over(endpoint, FEW_ROWS, stored, move |tx| {
                let subject = Subject::endpoint(endpoint);
                if let Some(answer) = idempotency::replay(tx, once.as_ref(), subject)? {
                    return Ok(Written::Replayed(answer));
                }
                let mut keys = read_keys(tx, endpoint)?.ok_or(Abort::Refused(WriteError::NotFound.into()))?;
                keys.rotate(next.clone(), grace_until, now).map_err(|error| Abort::Refused(error.into()))?;
                tx.prepare_cached("UPDATE endpoint SET signing_keys = ? WHERE no = ?")?
                    .execute(params![encode_keys(&keys)?, endpoint.0])?;
                change_receiver(tx, endpoint, Some(now))?;
                changed(tx, endpoint)?;
                notices::report_endpoint(tx, endpoint, NoticeKind::EndpointUpdated)?;
                idempotency::remember(tx, once, subject, &next, now)?;
                Ok(Written::Done(next))
            })
            .await
    }

    async fn headers(&self, endpoint: EndpointKey) -> Result<Option<Headers>, StoreError> {
        self.readers.run(move |connection| read_headers(connection, endpoint)).await
    }

    async fn set_headers(&self, endpoint: EndpointKey, headers: Headers, now: Timestamp) -> Result<(), WriteError> {
        let stored = move |connection: &Connection| stored_of(connection, endpoint);
        self.writer
            .run_over(endpoint, FEW_ROWS, stored, move |tx| {
                let before = read_headers(tx, endpoint)?.ok_or(Abort::Refused(WriteError::NotFound))?;
                Ok(write_headers(tx, endpoint, (&before, &headers), now)?)
            })
            .await
    }

    async fn merge_headers(
        &self,
        endpoint: EndpointKey,
        changes: HeaderChanges,
        now: Timestamp,
    ) -> Result<(), ChangeHeadersError> {
        let stored = move |connection: &Connection| stored_of(connection, endpoint);
        self.writer
            .run_over(endpoint, FEW_ROWS, stored, move |tx| {
                let headers = read_headers(tx, endpoint)?.ok_or(Abort::Refused(WriteError::NotFound.into()))?;
                let after = headers.changed(changes).map_err(|error| Abort::Refused(error.into()))?;
                Ok(write_headers(tx, endpoint, (&headers, &after), now)?)
            })
            .await
    }
}

/// Deletes an endpoint, with what is large and is not shown of those that the log names.
const DELETE_SQL: &str = "UPDATE endpoint SET deleted_at = ?, event_types = NULL, headers = '{}' WHERE no = ?";

/// Takes everything else out that may be large, unless the log names it.
const FORGET_SETTINGS_SQL: &str = "UPDATE endpoint SET channels = NULL, description = '', metadata = '{}'
     WHERE no = ?1 AND NOT EXISTS (SELECT 1 FROM attempt WHERE endpoint_no = ?1)
         AND NOT EXISTS (SELECT 1 FROM delivery WHERE endpoint_no = ?1)";

/// The endpoints of an application, without those that were deleted.
const COUNT_SQL: &str =
    "SELECT count(*) FROM endpoint INDEXED BY endpoint_of WHERE application_no = ? AND deleted_at IS NULL";

/// When the oldest of the last so many endpoints of an application that were deleted was deleted.
const DELETED_SQL: &str = "SELECT deleted_at FROM endpoint INDEXED BY endpoint_of
     WHERE application_no = ? AND deleted_at > ? ORDER BY deleted_at DESC LIMIT 1 OFFSET ?";

/// What an endpoint that can be found meets, and its application.
const LIVE: &str = "endpoint.deleted_at IS NULL
     AND EXISTS (SELECT 1 FROM application WHERE application.no = application_no AND application.deleted_at IS NULL)";

fn find(
    connection: &Connection,
    application: ApplicationKey,
    id: &IdOrUid<EndpointId>,
) -> Result<Option<Stored<EndpointKey, Endpoint>>, SqlError> {
    find_columns(connection, application, id, ENDPOINT_COLUMNS, decode_endpoint)
}

/// For what happens to an endpoint whatever is in its columns: nothing of it is decoded.
fn find_key(
    connection: &Connection,
    application: ApplicationKey,
    id: &IdOrUid<EndpointId>,
) -> Result<Option<EndpointKey>, SqlError> {
    find_columns(connection, application, id, "no", |row| Ok(EndpointKey(row.get(0)?)))
}

fn find_columns<T>(
    connection: &Connection,
    application: ApplicationKey,
    id: &IdOrUid<EndpointId>,
    columns: &str,
    decode: impl Fn(&Row<'_>) -> Result<T, SqlError>,
) -> Result<Option<T>, SqlError> {
    let by = match id {
        IdOrUid::Id(_) => "id",
        IdOrUid::Uid(_) => "uid",
    };
    let mut statement = connection
        .prepare_cached(&format!("SELECT {columns} FROM endpoint WHERE application_no = ? AND {by} = ? AND {LIVE}"))?;
    let rows = match id {
        IdOrUid::Id(id) => statement.query(params![application.0, id.ksuid().as_bytes()])?,
        IdOrUid::Uid(uid) => statement.query(params![application.0, uid])?,
    };
    first(rows, decode)
}

fn read_keys(connection: &Connection, endpoint: EndpointKey) -> Result<Option<SigningKeys>, SqlError> {
    let sql = format!("SELECT no, signing_keys FROM endpoint WHERE no = ? AND {LIVE}");
    let mut statement = connection.prepare_cached(&sql)?;
    first(statement.query([endpoint.0])?, |row| decode_keys(&Columns::new(row, "endpoint")))
}

fn read_headers(connection: &Connection, endpoint: EndpointKey) -> Result<Option<Headers>, SqlError> {
    let sql = format!("SELECT no, headers FROM endpoint WHERE no = ? AND {LIVE}");
    let mut statement = connection.prepare_cached(&sql)?;
    first(statement.query([endpoint.0])?, |row: &Row<'_>| Columns::new(row, "endpoint").json("headers"))
}

fn write_headers(
    tx: &Tx<'_>,
    endpoint: EndpointKey,
    (before, after): (&Headers, &Headers),
    now: Timestamp,
) -> Result<(), SqlError> {
    // What is the same is no change: it sends nothing earlier than the receiver has asked for.
    if after != before {
        store_headers(tx, endpoint, after)?;
        change_receiver(tx, endpoint, Some(now))?;
        make_routes_newer(tx, endpoint)?;
    }
    tell(tx, endpoint)
}

fn store_headers(tx: &Tx<'_>, endpoint: EndpointKey, headers: &Headers) -> Result<(), SqlError> {
    tx.prepare_cached("UPDATE endpoint SET headers = ? WHERE no = ?")?
        .execute(params![encode_json(headers)?, endpoint.0])?;
    Ok(())
}

/// Sets the header `Authorization` of an endpoint, or, if that is not asked for, takes over the credentials that its URL
/// was stored with: the column will hold them no more. Whether it was set.
fn authorize(
    tx: &Tx<'_>,
    key: EndpointKey,
    before: &EndpointUrl,
    after: Option<&EndpointUrl>,
    authorization: Option<String>,
) -> Result<bool, SqlError> {
    let inherited = before.authorization_taken_over(after);
    if authorization.is_none() && inherited.is_none() {
        return Ok(false);
    }
    let mut headers = read_headers(tx, key)?.unwrap_or_default();
    if !headers.authorize(authorization, inherited) {
        return Ok(false);
    }
    store_headers(tx, key, &headers)?;
    Ok(true)
}

fn insert(tx: &Tx<'_>, application: ApplicationKey, new: NewEndpoint) -> Result<Endpoint, Abort<WriteError>> {
    let alive =
        tx.prepare_cached("SELECT 1 FROM application WHERE no = ? AND deleted_at IS NULL")?.exists([application.0])?;
    if !alive {
        return Err(Abort::Refused(WriteError::NotFound));
    }
    let NewEndpoint { mut endpoint, secret, headers, most } = new;
    let count: i64 = tx.prepare_cached(COUNT_SQL)?.query_row([application.0], |row| row.get(0))?;
    if count.unsigned_abs() >= most {
        return Err(Abort::Refused(WriteError::Full { of: Capped::Endpoints, most }));
    }
    check_deleted(tx, application, endpoint.created_at)?;
    let since = endpoint.created_at;
    endpoint.disablement = endpoint.disabled.then_some(Disablement { reason: DisableReason::ByHand, since });
    let number = tx
        .prepare_cached(
            "INSERT INTO endpoint (application_no, id, uid, url, description, version, disabled, event_types, channels,
                                   throttle_rate, metadata, headers, signing_keys, created_at, updated_at,
                                   newest_message)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .insert(params![
            application.0,
            endpoint.id.ksuid().as_bytes(),
            endpoint.uid.as_ref().map(Uid::as_str),
            endpoint.url.as_str(),
            endpoint.description,
            endpoint.version,
            endpoint.disabled,
            event_types(&endpoint),
            channels(&endpoint),
            endpoint.throttle_rate,
            encode_json(&endpoint.metadata)?,
            encode_json(&headers)?,
            encode_keys(&SigningKeys::new(secret))?,
            endpoint.created_at.as_micros(),
            endpoint.updated_at.as_micros(),
            newest_message(tx)?,
        ])
        .map_err(taken)?;
    if let Some(disablement) = endpoint.disablement {
        note_disabled(tx, EndpointKey(number), disablement)?;
    }
    changed(tx, EndpointKey(number))?;
    notices::report_endpoint(tx, EndpointKey(number), NoticeKind::EndpointCreated)?;
    Ok(endpoint)
}

fn note_disabled(tx: &Tx<'_>, endpoint: EndpointKey, disablement: Disablement) -> Result<(), SqlError> {
    let Disablement { reason, since } = disablement;
    tx.prepare_cached(DISABLED_SQL)?.execute(params![endpoint.0, reason.as_str(), since.as_micros()])?;
    Ok(())
}

/// Refuses another endpoint of an application of which too many were deleted of late: their rows are there for a while.
fn check_deleted(tx: &Tx<'_>, application: ApplicationKey, now: Timestamp) -> Result<(), Abort<WriteError>> {
    let since = now.saturating_sub(DELETED_KEPT);
    let first: Option<i64> = tx
        .prepare_cached(DELETED_SQL)?
        .query_row(params![application.0, since.as_micros(), MAX_DELETED_ENDPOINTS - 1], |row| row.get(0))
        .optional()?;
    let Some(first) = first else { return Ok(()) };
    let wait = Timestamp::from_micros(first).since(since);
    Err(Abort::Refused(WriteError::ManyDeleted { most: MAX_DELETED_ENDPOINTS, wait }))
}

fn change(
    tx: &Tx<'_>,
    found: Stored<EndpointKey, Endpoint>,
    mut patch: EndpointPatch,
    now: Timestamp,
) -> Result<Endpoint, Abort<WriteError>> {
    let Stored { key, value: mut endpoint } = found;
    let authorized = authorize(tx, key, &endpoint.url, patch.url.as_ref(), patch.authorization.take())?;
    let before = endpoint.clone();
    patch.apply(&mut endpoint, now);
    endpoint.updated_at = now;
    tx.prepare_cached(
        "UPDATE endpoint SET uid = ?2, url = ?3, description = ?4, version = ?5, disabled = ?6, event_types = ?7,
                             channels = ?8, throttle_rate = ?9, metadata = ?10, updated_at = ?11
         WHERE no = ?1",
    )?
    .execute(params![
        key.0,
        endpoint.uid.as_ref().map(Uid::as_str),
        endpoint.url.as_str(),
        endpoint.description,
        endpoint.version,
        endpoint.disabled,
        event_types(&endpoint),
        channels(&endpoint),
        endpoint.throttle_rate,
        encode_json(&endpoint.metadata)?,
        now.as_micros(),
    ])
    .map_err(taken)?;
    if !endpoint.disabled && (before.disabled || endpoint.url != before.url) {
        // It begins anew.
        tx.prepare_cached("DELETE FROM endpoint_fact WHERE endpoint_no = ?")?.execute([key.0])?;
    }
    if let Some(disablement) = endpoint.disablement.filter(|_| !before.disabled) {
        note_disabled(tx, key, disablement)?;
    }
    if endpoint.url != before.url {
        retire(tx, key, &before.url, now)?;
        tx.moved(Place::Endpoint(key.0));
    }
    if authorized || endpoint.url != before.url || endpoint.disabled != before.disabled {
        change_receiver(tx, key, Some(now).filter(|_| !endpoint.disabled))?;
        endpoint.held = None;
    }
    if authorized || !endpoint.is_routed_as(&before) {
        make_routes_newer(tx, key)?;
    }
    tell(tx, key)?;
    notices::report_endpoint(tx, key, NoticeKind::EndpointUpdated)?;
    Ok(endpoint)
}

/// Makes the URL that an endpoint had a former one, and finds room for it. Attempts that are under way name it when they end, so
/// it has a row also if none has yet; unless nothing was ever sent there.
fn retire(tx: &Tx<'_>, key: EndpointKey, url: &EndpointUrl, now: Timestamp) -> Result<(), Abort<WriteError>> {
    let mut retire = tx.prepare_cached(RETIRE_SQL)?;
    let mut retired = retire.query(params![now.as_micros(), key.0])?;
    let (mut bytes, mut has_row) = (0, false);
    while let Some(row) = retired.next()? {
        bytes += row.get::<_, u64>(0)? + URL_OVERHEAD;
        has_row |= row.get_ref(1)?.as_bytes().is_ok_and(|former| former == url.as_str().as_bytes());
    }
    if !has_row && tx.prepare_cached(USED_SQL)?.exists([key.0])? {
        urls::insert(tx, key, url.as_str(), Some(now))?;
        bytes += url.as_str().len() as u64 + URL_OVERHEAD;
    }
    let Some(application) = application_of(tx, key)? else { return Ok(()) };
    let spent = asked::spend(tx, application, (Use::Urls, bytes), FORMER_URLS_PER_DAY, now)?;
    spent.map(drop).map_err(|wait| Abort::Refused(WriteError::ManyUrls { most: FORMER_URLS_PER_DAY, wait }))
}

const RETIRE_SQL: &str = "UPDATE endpoint_url SET retired_at = ?1 WHERE endpoint_no = ?2 AND retired_at IS NULL
     RETURNING octet_length(url), url";

/// Whether anything was sent to an endpoint, or is to be.
const USED_SQL: &str = "SELECT 1 WHERE EXISTS (SELECT 1 FROM attempt WHERE endpoint_no = ?1)
     OR EXISTS (SELECT 1 FROM delivery WHERE endpoint_no = ?1)";

fn event_types(endpoint: &Endpoint) -> Option<String> {
    endpoint.event_types.as_ref().map(|names| json_list(names.iter().map(EventTypeName::as_str)))
}

fn channels(endpoint: &Endpoint) -> Option<String> {
    endpoint.channels.as_ref().map(|names| json_list(names.iter().map(Channel::as_str)))
}

/// Makes the application's routes newer, and tells of the change.
fn changed(tx: &Tx<'_>, endpoint: EndpointKey) -> Result<(), SqlError> {
    make_routes_newer(tx, endpoint)?;
    tell(tx, endpoint)
}

/// Messages that are accepted after the commit are routed by what it made of the endpoint. Only for what routes depend on: they
/// are read again for it.
fn make_routes_newer(tx: &Tx<'_>, endpoint: EndpointKey) -> Result<(), SqlError> {
    tx.prepare_cached(&format!(
        "UPDATE application SET version = {NEXT_VERSION} WHERE no = (SELECT application_no FROM endpoint WHERE no = ?)"
    ))?
    .execute([endpoint.0])?;
    Ok(())
}

/// Has what is pending looked at anew, and tells observers after the commit.
fn tell(tx: &Tx<'_>, endpoint: EndpointKey) -> Result<(), SqlError> {
    look_again(tx, endpoint)?;
    tx.tell(News::EndpointChanged(endpoint, application_of(tx, endpoint)?));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plans::plan;

    #[test]
    fn a_change_is_weighed_by_the_texts_that_it_brings() {
        let types = |bytes: usize| Some(vec![EventTypeName::from_trusted("a".repeat(bytes)); 1_000]);
        let patch = |event_types| EndpointPatch { event_types: Some(event_types), ..EndpointPatch::default() };
        assert_eq!([weight(&EndpointPatch::default()), weight(&patch(None))], [FEW_ROWS; 2]);
        assert_eq!([weight(&patch(types(1))), weight(&patch(types(256)))], [FEW_ROWS + 1, FEW_ROWS + 126]);
    }

    #[test]
    fn an_endpoint_is_weighed_without_reading_its_texts() {
        let connection = crate::engine::plans::database();
        let mut statement = connection.prepare(&format!("EXPLAIN SELECT {BYTES} FROM endpoint WHERE no = 1")).unwrap();
        let ops: Vec<(String, i64)> = statement
            .query_map([], |row| Ok((row.get("opcode")?, row.get("p5")?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let lengths = ops.iter().filter(|(op, _)| op == "Column").map(|(_, flags)| flags & 0xc0);
        assert!(lengths.clone().count() == 6 && lengths.clone().all(|flags| flags != 0), "{ops:?}");
    }

    #[test]
    fn counting_endpoints_reads_no_row_of_one() {
        for (sql, range) in [(COUNT_SQL, "="), (DELETED_SQL, ">")] {
            let walked =
                format!("SEARCH endpoint USING COVERING INDEX endpoint_of (application_no=? AND deleted_at{range}?)");
            assert_eq!(plan(sql), [walked]);
        }
    }
}
