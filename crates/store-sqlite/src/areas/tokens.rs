//! The secret of this store's own tokens, and the rules by which tokens were ended.

use async_trait::async_trait;
use postrider_domain::ids::Id as _;
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationKey, Capped, IssuedToken, MAX_TOKEN_RULES, Once, StoreError, TokenExpiry, Tokens, WriteError, Written,
};
use rusqlite::params;

use crate::engine::askers::Whose;
use crate::engine::decode::{SqlError, first, readable};
use crate::engine::range;
use crate::engine::tx::{Abort, FEW_ROWS, Tx};
use crate::store::SqliteStore;
use crate::write::idempotency::{self, Subject};

/// The session of a rule that ends the tokens of all sessions. No token can name it: theirs are not empty.
const ALL_SESSIONS: &str = "";

#[async_trait]
impl Tokens for SqliteStore {
    async fn token_secret(&self, candidate: [u8; 32]) -> Result<[u8; 32], StoreError> {
        // Read first: a server must be able to start when the disk is full.
        let stored = self.readers.run_own(|connection| {
            let mut statement = connection.prepare("SELECT secret FROM token_secret")?;
            first(statement.query([])?, |row| readable(row.get(0).map_err(SqlError::from)))
        });
        if let Some(secret) = stored.await?.flatten() {
            return Ok(secret);
        }
        self.writer
            .run(Whose::Process, move |tx| {
                tx.execute("INSERT OR IGNORE INTO token_secret (only_row, secret) VALUES (1, ?)", [candidate])?;
                let stored = tx.query_row("SELECT secret FROM token_secret", [], |row| row.get(0));
                if let Some(secret) = readable(stored.map_err(SqlError::from))? {
                    return Ok::<_, Abort<StoreError>>(secret);
                }
                tracing::warn!("the secret of this store's tokens made no sense; there is a new one, and all tokens that were made are invalid");
                tx.execute("UPDATE token_secret SET secret = ?", [candidate])?;
                Ok(candidate)
            })
            .await
    }

    async fn expire_tokens(
        &self,
        application: ApplicationKey,
        expiry: TokenExpiry,
        once: Option<Once<()>>,
        now: Timestamp,
    ) -> Result<Written<()>, WriteError> {
        // Each session is looked for, and noted.
        let rows = FEW_ROWS.max(2 * expiry.sessions.len());
        self.writer
            .run_rows(application, rows, move |tx| {
                let subject = Subject::application(application);
                if let Some(answer) = idempotency::replay(tx, once.as_ref(), subject)? {
                    return Ok(Written::Replayed(answer));
                }
                let TokenExpiry { mut sessions, issued_before, refused_from } = expiry;
                if sessions.is_empty() {
                    sessions.push(ALL_SESSIONS.to_owned());
                }
                let (before, from) = (issued_before.as_micros(), refused_from.as_micros());
                for session in &sessions {
                    add_rule(tx, application, session, before, from)?;
                    forget_covered(tx, application, session, now.as_micros())?;
                }
                check_rules(tx, application)?;
                idempotency::remember(tx, once, subject, &(), now)?;
                Ok::<_, Abort<WriteError>>(Written::Done(()))
            })
            .await
    }

    async fn token_is_expired(&self, token: &IssuedToken, now: Timestamp) -> Result<bool, StoreError> {
        let token = token.clone();
        self.readers
            .run(move |connection| {
                let is_good = connection.prepare_cached(GOOD_SQL)?.exists(params![
                    token.environment.as_str(),
                    token.application.ksuid().as_bytes(),
                    ALL_SESSIONS,
                    token.session,
                    token.issued_at.as_micros(),
                    now.as_micros(),
                ])?;
                Ok(!is_good)
            })
            .await
    }
}

/// Finds the application of a token that is good: one that is there, and has no rule that ends the token.
const GOOD_SQL: &str = "SELECT 1 FROM application
     WHERE environment_no = (SELECT no FROM environment WHERE id = ?1) AND id = ?2 AND deleted_at IS NULL
         AND NOT EXISTS (
             SELECT 1 FROM token_expiry
             WHERE application_no = application.no AND session IN (?3, ?4) AND issued_before > ?5 AND refused_from <= ?6
         )";

/// Adds a rule, in the place of those that say less.
fn add_rule(tx: &Tx<'_>, application: ApplicationKey, session: &str, before: i64, from: i64) -> Result<(), SqlError> {
    tx.prepare_cached(
        "DELETE FROM token_expiry WHERE application_no = ? AND session = ? AND issued_before <= ? AND refused_from >= ?",
    )?
    .execute(params![application.0, session, before, from])?;
    tx.prepare_cached(
        "INSERT INTO token_expiry (application_no, session, issued_before, refused_from) VALUES (?, ?, ?, ?)
         ON CONFLICT DO UPDATE SET refused_from = min(refused_from, excluded.refused_from)",
    )?
    .execute(params![application.0, session, before, from])?;
    Ok(())
}

/// The newest tokens that a rule refuses already.
const COUNTS_SQL: &str =
    "SELECT max(issued_before) FROM token_expiry WHERE application_no = ? AND session = ? AND refused_from <= ?";

/// Removes rules that another one has overtaken: what is refused already by a rule of as many tokens or more needs no other.
/// Those that are to count later stay, and go with the next rule after they do.
fn forget_covered(tx: &Tx<'_>, application: ApplicationKey, session: &str, now: i64) -> Result<(), SqlError> {
    let counts: Option<i64> =
        tx.prepare_cached(COUNTS_SQL)?.query_row(params![application.0, session, now], |row| row.get(0))?;
    let Some(counts) = counts else { return Ok(()) };
    tx.prepare_cached("DELETE FROM token_expiry WHERE application_no = ? AND session = ? AND issued_before < ?")?
        .execute(params![application.0, session, counts])?;
    if session == ALL_SESSIONS {
        tx.prepare_cached("DELETE FROM token_expiry WHERE application_no = ? AND session <> ? AND issued_before <= ?")?
            .execute(params![application.0, session, counts])?;
    }
    Ok(())
}

/// Refuses another rule if there are too many.
fn check_rules(tx: &Tx<'_>, application: ApplicationKey) -> Result<(), Abort<WriteError>> {
    let is_full = tx
        .prepare_cached("SELECT 1 FROM token_expiry WHERE application_no = ? LIMIT 1 OFFSET ?")?
        .exists(params![application.0, range::limit(MAX_TOKEN_RULES)])?;
    if is_full {
        return Err(Abort::Refused(WriteError::Full { of: Capped::TokenRules, most: MAX_TOKEN_RULES as u64 }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plans::assert_walks;

    #[test]
    fn a_token_is_judged_without_reading_all_applications_or_all_rules() {
        assert_walks(GOOD_SQL, "application USING INDEX application_by_id (environment_no=? AND id=?)");
        assert_walks(GOOD_SQL, "token_expiry USING PRIMARY KEY (application_no=? AND session=? AND issued_before>?)");
    }
}
