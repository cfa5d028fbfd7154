//! Applications and the environments that they are in.

use async_trait::async_trait;
use postrider_domain::application::{Application, ApplicationPatch, EnvironmentId};
use postrider_domain::ids::{ApplicationId, Id as _, Ksuid};
use postrider_domain::names::{IdOrUid, Uid};
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationFilter, ApplicationKey, Applications, EndpointKey, Once, Scan, StoreError, Stored, Upserted, Walked,
    WriteError, Written,
};
use rusqlite::{Connection, Row, params};

use crate::engine::askers::Whose;
use crate::engine::decode::{Columns, SqlError, encode_json, first, walked};
use crate::engine::range::Range;
use crate::engine::tx::{Abort, FEW_ROWS, News, Tx, taken};
use crate::store::SqliteStore;
use crate::write::deliveries::{change_receiver, look_again};
use crate::write::idempotency::{self, Subject};
use crate::write::owners::{NEXT_VERSION, environment_number};

#[async_trait]
impl Applications for SqliteStore {
    async fn create_application(
        &self,
        environment: &EnvironmentId,
        application: Application,
        once: Option<Once<Application>>,
    ) -> Result<Written<Application>, WriteError> {
        let environment = environment.clone();
        self.writer
            .run(Whose::from(&environment), move |tx| {
                if let Some(answer) = idempotency::replay(tx, once.as_ref(), Subject::ENVIRONMENT)? {
                    return Ok(Written::Replayed(answer));
                }
                insert(tx, &environment, &application)?;
                idempotency::remember(tx, once, Subject::ENVIRONMENT, &application, application.created_at)?;
                Ok(Written::Done(application))
            })
            .await
    }

    async fn application(
        &self,
        environment: &EnvironmentId,
        id: &IdOrUid<ApplicationId>,
    ) -> Result<Option<Stored<ApplicationKey, Application>>, StoreError> {
        let (environment, id) = (environment.clone(), id.clone());
        self.readers.run(move |connection| find(connection, &environment, &id)).await
    }

    async fn applications(
        &self,
        environment: &EnvironmentId,
        filter: ApplicationFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Application>, StoreError> {
        let environment = environment.clone();
        self.lists.run(move |connection| list(connection, &environment, filter, scan)).await
    }

    async fn update_application(
        &self,
        environment: &EnvironmentId,
        id: &IdOrUid<ApplicationId>,
        patch: ApplicationPatch,
        now: Timestamp,
    ) -> Result<Application, WriteError> {
        let (environment, id) = (environment.clone(), id.clone());
        let stored = endpoints_of(&environment, &id);
        self.writer
            .run_over(Whose::from(&environment), FEW_ROWS, stored, move |tx| {
                let found = find(tx, &environment, &id)?.ok_or(Abort::Refused(WriteError::NotFound))?;
                change(tx, found, patch, now)
            })
            .await
    }

    async fn upsert_application(
        &self,
        environment: &EnvironmentId,
        id: &IdOrUid<ApplicationId>,
        patch: ApplicationPatch,
        otherwise: Application,
        now: Timestamp,
    ) -> Result<Upserted<Application>, WriteError> {
        let (environment, id) = (environment.clone(), id.clone());
        let stored = endpoints_of(&environment, &id);
        self.writer
            .run_over(Whose::from(&environment), FEW_ROWS, stored, move |tx| {
                if let Some(found) = find(tx, &environment, &id)? {
                    return change(tx, found, patch, now).map(Upserted::Updated);
                }
                insert(tx, &environment, &otherwise)?;
                Ok(Upserted::Created(otherwise))
            })
            .await
    }

    async fn delete_application(
        &self,
        environment: &EnvironmentId,
        id: &IdOrUid<ApplicationId>,
        now: Timestamp,
    ) -> Result<(), WriteError> {
        let (environment, id) = (environment.clone(), id.clone());
        let stored = endpoints_of(&environment, &id);
        self.writer
            .run_over(Whose::from(&environment), FEW_ROWS, stored, move |tx| {
                let key = find_key(tx, &environment, &id)?.ok_or(Abort::Refused(WriteError::NotFound))?;
                let sql = format!("UPDATE application SET deleted_at = ?2, version = {NEXT_VERSION} WHERE no = ?1");
                tx.prepare_cached(&sql)?.execute(params![key.0, now.as_micros()])?;
                tell_endpoints(tx, key, true)?;
                tx.tell(News::ApplicationDeleted);
                Ok(())
            })
            .await
    }
}

/// What [`decode`] reads.
const COLUMNS: &str = "application.no, application.id, uid, name, throttle_rate, metadata, created_at, updated_at";

fn decode(row: &Row<'_>) -> Result<Stored<ApplicationKey, Application>, SqlError> {
    let columns = Columns::new(row, "application");
    let value = Application {
        id: columns.id("id")?,
        uid: columns.get::<Option<String>>("uid")?.map(Uid::from_trusted),
        name: columns.get("name")?,
        throttle_rate: columns.get("throttle_rate")?,
        metadata: columns.metadata()?,
        created_at: columns.instant("created_at")?,
        updated_at: columns.instant("updated_at")?,
    };
    Ok(Stored { key: ApplicationKey(columns.get("no")?), value })
}

/// Walks those that are not deleted. Whether a filter lets one through is looked up in indexes, and said in the last column.
fn list_sql(order: &str) -> String {
    format!(
        "SELECT {COLUMNS},
             (NOT ?4 OR EXISTS (SELECT 1 FROM endpoint INDEXED BY endpoint_of
                                WHERE application_no = application.no AND endpoint.deleted_at IS NULL))
             AND (NOT ?5
                  OR EXISTS (SELECT 1 FROM endpoint INDEXED BY endpoint_enabled
                             WHERE application_no = application.no AND endpoint.deleted_at IS NULL AND NOT disabled)
                  OR NOT EXISTS (SELECT 1 FROM endpoint INDEXED BY endpoint_of
                                 WHERE application_no = application.no AND endpoint.deleted_at IS NULL)) AS passes
         FROM application INDEXED BY application_live
         WHERE environment_no = (SELECT no FROM environment WHERE id = ?1) AND id >= ?2 AND id < ?3 AND deleted_at IS NULL
         ORDER BY id {order}"
    )
}

fn list(
    connection: &Connection,
    environment: &EnvironmentId,
    filter: ApplicationFilter,
    scan: Scan<Ksuid>,
) -> Result<Walked<Application>, SqlError> {
    let Range { low, high, order, limit } = Range::of_ids(scan);
    let mut statement = connection.prepare_cached(&list_sql(order))?;
    let ApplicationFilter { with_endpoints, without_disabled } = filter;
    let rows = statement.query(params![environment.as_str(), low, high, with_endpoints, without_disabled])?;
    let key = |row: &Row<'_>| Ok(Columns::new(row, "application").id::<ApplicationId>("id")?.ksuid());
    walked(rows, limit, key, |row| Ok(decode(row)?.value))
}

fn find(
    connection: &Connection,
    environment: &EnvironmentId,
    id: &IdOrUid<ApplicationId>,
) -> Result<Option<Stored<ApplicationKey, Application>>, SqlError> {
    find_columns(connection, environment, id, COLUMNS, decode)
}

/// For what happens to an application whatever is in its columns: nothing of it is decoded.
fn find_key(
    connection: &Connection,
    environment: &EnvironmentId,
    id: &IdOrUid<ApplicationId>,
) -> Result<Option<ApplicationKey>, SqlError> {
    find_columns(connection, environment, id, "no", |row| Ok(ApplicationKey(row.get(0)?)))
}

fn find_columns<T>(
    connection: &Connection,
    environment: &EnvironmentId,
    id: &IdOrUid<ApplicationId>,
    columns: &str,
    decode: impl Fn(&Row<'_>) -> Result<T, SqlError>,
) -> Result<Option<T>, SqlError> {
    let by = match id {
        IdOrUid::Id(_) => "id",
        IdOrUid::Uid(_) => "uid",
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {columns} FROM application
         WHERE environment_no = (SELECT no FROM environment WHERE id = ?) AND {by} = ? AND deleted_at IS NULL"
    ))?;
    let rows = match id {
        IdOrUid::Id(id) => statement.query(params![environment.as_str(), id.ksuid().as_bytes()])?,
        IdOrUid::Uid(uid) => statement.query(params![environment.as_str(), uid])?,
    };
    first(rows, decode)
}

fn insert(tx: &Tx<'_>, environment: &EnvironmentId, new: &Application) -> Result<(), Abort<WriteError>> {
    let environment = environment_number(tx, environment)?;
    tx.prepare_cached(
        "INSERT INTO application (environment_no, id, uid, name, throttle_rate, metadata, created_at, updated_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        environment,
        new.id.ksuid().as_bytes(),
        new.uid.as_ref().map(Uid::as_str),
        new.name,
        new.throttle_rate,
        encode_json(&new.metadata)?,
        new.created_at.as_micros(),
        new.updated_at.as_micros(),
    ])
    .map_err(taken)?;
    Ok(())
}

fn change(
    tx: &Tx<'_>,
    found: Stored<ApplicationKey, Application>,
    patch: ApplicationPatch,
    now: Timestamp,
) -> Result<Application, Abort<WriteError>> {
    let Stored { key, value: mut application } = found;
    let before = (application.uid.clone(), application.throttle_rate);
    patch.apply(&mut application);
    application.updated_at = now;
    // Caches know applications by their uid and hold their rate, so those are a change of the routes.
    let counts = application.uid != before.0 || application.throttle_rate != before.1;
    tx.prepare_cached(&format!(
        "UPDATE application SET uid = ?2, name = ?3, throttle_rate = ?4, metadata = ?5, updated_at = ?6,
                                version = CASE WHEN ?7 THEN {NEXT_VERSION} ELSE version END
         WHERE no = ?1"
    ))?
    .execute(params![
        key.0,
        application.uid.as_ref().map(Uid::as_str),
        application.name,
        application.throttle_rate,
        encode_json(&application.metadata)?,
        now.as_micros(),
        counts,
    ])
    .map_err(taken)?;
    if application.throttle_rate != before.1 {
        tell_endpoints(tx, key, false)?;
    }
    Ok(application)
}

/// What a change of an application counts as beside its own row: each of its endpoints may have to be looked at anew.
fn endpoints_of(
    environment: &EnvironmentId,
    id: &IdOrUid<ApplicationId>,
) -> impl Fn(&Connection) -> Result<usize, SqlError> + Send + 'static {
    let (environment, id) = (environment.clone(), id.clone());
    move |connection| {
        let Some(key) = find_key(connection, &environment, &id)? else { return Ok(0) };
        let count = "SELECT count(*) FROM endpoint WHERE application_no = ? AND deleted_at IS NULL";
        let count: i64 = connection.prepare_cached(count)?.query_row([key.0], |row| row.get(0))?;
        Ok(usize::try_from(count).unwrap_or(usize::MAX))
    }
}

/// Has what is pending at all endpoints of an application looked at anew, and tells observers that they changed. `ended`: they
/// want nothing any more, so nothing holds them back.
fn tell_endpoints(tx: &Tx<'_>, application: ApplicationKey, ended: bool) -> Result<(), SqlError> {
    let mut statement = tx.prepare_cached("SELECT no FROM endpoint WHERE application_no = ? AND deleted_at IS NULL")?;
    let mut rows = statement.query([application.0])?;
    while let Some(row) = rows.next()? {
        let endpoint = EndpointKey(row.get(0)?);
        if ended {
            change_receiver(tx, endpoint, None)?;
        }
        look_again(tx, endpoint)?;
        tx.tell(News::EndpointChanged(endpoint, Some(application)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use postrider_store::Direction;

    use super::*;
    use crate::engine::plans::{assert_walks, database, steps};

    #[test]
    fn a_page_walks_the_index_of_those_that_are_not_deleted() {
        for order in ["ASC", "DESC"] {
            assert_walks(
                &list_sql(order),
                "application USING INDEX application_live (environment_no=? AND id>? AND id<?)",
            );
        }
    }

    /// So many applications without an endpoint, one that has a disabled one, and one that has an enabled one.
    fn applications(without: u32) -> Connection {
        let connection = database();
        let rows = format!(
            "INSERT INTO environment (no, id) VALUES (7, 'org_a');
             WITH RECURSIVE n (a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM n LIMIT {without} + 2)
             INSERT INTO application (no, environment_no, id, name, metadata, created_at, updated_at)
                 SELECT a, 7, CAST(printf('%020d', a) AS BLOB), '', '{{}}', 0, 0 FROM n;
             INSERT INTO endpoint (application_no, id, url, description, version, disabled, metadata, headers, signing_keys,
                                   created_at, updated_at)
                 SELECT {without} + number, x'01', '', '', 1, 2 - number, '{{}}', '{{}}', '{{}}', 0, 0
                 FROM (SELECT 1 AS number UNION ALL SELECT 2);"
        );
        connection.execute_batch(&rows).unwrap();
        connection
    }

    fn page(connection: &Connection, filter: ApplicationFilter, scan: Scan<Ksuid>) -> Walked<Application> {
        list(connection, &EnvironmentId::parse("org_a").unwrap(), filter, scan).unwrap()
    }

    const WITH_ENDPOINTS: ApplicationFilter = ApplicationFilter { with_endpoints: true, without_disabled: false };

    #[test]
    fn a_page_looks_at_a_bounded_number_of_applications_that_its_filter_leaves_out() {
        let mut connection = applications(2_000);
        for (filter, found) in [
            (WITH_ENDPOINTS, vec![2_001, 2_002]),
            (ApplicationFilter { with_endpoints: true, without_disabled: true }, vec![2_002]),
        ] {
            let (mut scan, mut got, mut pages) = (Scan::all(Direction::Ascending, 10), Vec::new(), 0);
            loop {
                let walked = page(&connection, filter, scan.clone());
                got.extend(walked.listed.rows.iter().map(|application| application.id.ksuid()));
                pages += 1;
                let Some(reached) = walked.reached else { break };
                scan.lower = std::ops::Bound::Excluded(reached);
            }
            let id = |number: u32| Ksuid::from_bytes(format!("{number:020}").into_bytes().try_into().unwrap());
            assert_eq!(got, found.into_iter().map(id).collect::<Vec<_>>());
            assert_eq!(pages, 5);
        }
        let all = ApplicationFilter { with_endpoints: false, without_disabled: true };
        assert_eq!(page(&connection, all, Scan::all(Direction::Descending, 10)).listed.rows.len(), 10);
        let looked_at = |connection: &mut Connection| {
            steps(connection, |connection| {
                page(connection, WITH_ENDPOINTS, Scan::all(Direction::Ascending, 10));
            })
        };
        assert!(looked_at(&mut applications(20_000)) <= 2 * looked_at(&mut connection));
    }

    #[test]
    fn a_page_does_not_look_at_applications_that_were_deleted() {
        let mut connection = applications(20_000);
        connection.execute_batch("UPDATE application SET deleted_at = 1 WHERE no <= 20000").unwrap();
        let looked_at = steps(&mut connection, |connection| {
            let walked = page(connection, ApplicationFilter::default(), Scan::all(Direction::Ascending, 10));
            assert_eq!((walked.listed.rows.len(), walked.listed.cut), (2, false));
        });
        assert_eq!(looked_at, 0, "thousand steps");
    }
}
