//! Reading messages, and erasing payloads. The hot path writes them.

use async_trait::async_trait;
use postrider_domain::ids::{Id as _, Ksuid, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::{Channel, EventTypeName, IdOrUid, Tag};
use postrider_store::{ApplicationKey, MessageFilter, MessageKey, Messages, Scan, StoreError, Stored};
use rusqlite::{Connection, params};

use crate::SqliteStore;
use crate::decode::{SqlError, all, first};
use crate::hot::json_list;
use crate::range::Range;
use crate::rows::{MESSAGE_COLUMNS, decode_message};
use crate::writer::{Abort, News};

#[async_trait]
impl Messages for SqliteStore {
    async fn message(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<MessageId>,
    ) -> Result<Option<Stored<MessageKey, Message>>, StoreError> {
        let id = id.clone();
        self.readers.run(move |connection| find(connection, application, &id)).await
    }

    async fn messages(
        &self,
        application: ApplicationKey,
        filter: &MessageFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Vec<Message>, StoreError> {
        let filter = filter.clone();
        self.lists.run(move |connection| list(connection, application, &filter, scan)).await
    }

    async fn expunge_message(&self, message: MessageKey) -> Result<(), StoreError> {
        self.writer
            .run(move |tx| {
                tx.prepare_cached("UPDATE message SET payload = NULL WHERE no = ?")?.execute([message.0])?;
                tx.tell(News::MessagesExpunged(vec![message]));
                Ok::<_, Abort<StoreError>>(())
            })
            .await
    }
}

/// What the application of a message that can be found meets.
const LIVE: &str = "EXISTS (SELECT 1 FROM application WHERE no = ?1 AND deleted_at IS NULL)";

/// Which messages a filter lets through, given its list of types as ?5, its channel as ?6 and its tag as ?8.
pub(crate) const FILTER: &str = "(?5 IS NULL OR message.event_type IN (SELECT value FROM json_each(?5)))
     AND (?6 IS NULL OR EXISTS (SELECT 1 FROM json_each(message.channels) WHERE value = ?6))
     AND (?8 IS NULL OR EXISTS (SELECT 1 FROM json_each(message.tags) WHERE value = ?8))";

/// A filter's list of types, for [`FILTER`].
pub(crate) fn types(names: Option<&Vec<EventTypeName>>) -> Option<String> {
    names.map(|names| json_list(names.iter().map(EventTypeName::as_str)))
}

fn find(
    connection: &Connection,
    application: ApplicationKey,
    id: &IdOrUid<MessageId>,
) -> Result<Option<Stored<MessageKey, Message>>, SqlError> {
    let by = match id {
        IdOrUid::Id(_) => "id",
        IdOrUid::Uid(_) => "event_id",
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {MESSAGE_COLUMNS}, payload FROM message WHERE application_no = ?1 AND {by} = ?2 AND {LIVE}"
    ))?;
    let rows = match id {
        IdOrUid::Id(id) => statement.query(params![application.0, id.ksuid().as_bytes()])?,
        IdOrUid::Uid(uid) => statement.query(params![application.0, uid])?,
    };
    first(rows, decode_message)
}

fn list_sql(order: &str) -> String {
    format!(
        "SELECT {MESSAGE_COLUMNS}, CASE WHEN ?7 THEN payload END AS payload FROM message
         WHERE application_no = ?1 AND id >= ?2 AND id < ?3 AND {LIVE} AND {FILTER}
         ORDER BY id {order} LIMIT ?4"
    )
}

fn list(
    connection: &Connection,
    application: ApplicationKey,
    filter: &MessageFilter,
    scan: Scan<Ksuid>,
) -> Result<Vec<Message>, SqlError> {
    let Range { low, high, order, limit } = Range::of_ids(scan);
    let mut statement = connection.prepare_cached(&list_sql(order))?;
    let rows = statement.query(params![
        application.0,
        low,
        high,
        limit,
        types(filter.event_types.as_ref()),
        filter.channel.as_ref().map(Channel::as_str),
        filter.with_payload,
        filter.tag.as_ref().map(Tag::as_str)
    ])?;
    all(rows, |row| Ok(decode_message(row)?.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plans::assert_walks;

    #[test]
    fn a_page_walks_the_index_of_its_application() {
        for order in ["ASC", "DESC"] {
            assert_walks(&list_sql(order), "message USING INDEX message_by_id (application_no=? AND id>? AND id<?)");
        }
    }
}
