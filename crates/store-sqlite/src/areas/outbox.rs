//! The outbox, for the contract: notices in turn, and removing what was sent. What is in it, and how it gets there, is in `notices`.

use async_trait::async_trait;
use postrider_store::{Notice, NoticeKey, NoticeTurn, Outbox, StoreError};

use crate::engine::askers::Whose;
use crate::engine::tx::Abort;
use crate::store::SqliteStore;
use crate::write::notices::{in_turn, recipients};

#[async_trait]
impl Outbox for SqliteStore {
    async fn notices(&self, turn: NoticeTurn) -> Result<Vec<Notice>, StoreError> {
        self.readers
            .run_own(move |connection| {
                let mut notices = Vec::new();
                for recipient in recipients(connection, &turn)? {
                    let last = turn.after_application.get(recipient.as_str()).copied();
                    notices.extend(in_turn(connection, &recipient, last, turn.each)?);
                }
                Ok(notices)
            })
            .await
    }

    async fn remove_notices(&self, notices: Vec<NoticeKey>) -> Result<(), StoreError> {
        self.writer
            .run_rows(Whose::Process, notices.len(), move |tx| {
                let mut delete = tx.prepare_cached("DELETE FROM outbox WHERE no = ?")?;
                for notice in &notices {
                    delete.execute([notice.0])?;
                }
                Ok::<_, Abort<StoreError>>(())
            })
            .await
    }
}
