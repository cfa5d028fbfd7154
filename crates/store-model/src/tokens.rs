//! The secret of this store's own tokens, and the rules by which tokens were ended.

use async_trait::async_trait;
use postrider_domain::names::IdOrUid;
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationKey, Capped, IssuedToken, MAX_TOKEN_RULES, Once, StoreError, TokenExpiry, Tokens, WriteError, Written,
};

use crate::ModelStore;
use crate::records::{Rule, Subject, Whose};
use crate::state::State;

#[async_trait]
impl Tokens for ModelStore {
    async fn token_secret(&self, candidate: [u8; 32]) -> Result<[u8; 32], StoreError> {
        self.write(|state| *state.token_secret.get_or_insert(candidate))
    }

    async fn expire_tokens(
        &self,
        application: ApplicationKey,
        expiry: TokenExpiry,
        once: Option<Once<()>>,
        now: Timestamp,
    ) -> Result<Written<()>, WriteError> {
        self.try_write(|state| {
            state.once(once, Subject::application(application), now, |state| state.end_tokens(application, expiry, now))
        })
    }

    async fn token_is_expired(&self, token: &IssuedToken, now: Timestamp) -> Result<bool, StoreError> {
        self.read(|state| {
            let found = state.find_application(&token.environment, &IdOrUid::Id(token.application));
            let Some((application, _)) = found else { return true };
            let of = token.session.iter().map(|session| Whose::Session(session.clone())).chain([Whose::All]);
            let rules = |whose| state.token_rules.get(&(application, whose)).into_iter().flatten();
            of.flat_map(rules).any(|rule| rule.ends(token, now))
        })
    }
}

impl State {
    fn end_tokens(
        &mut self,
        application: ApplicationKey,
        expiry: TokenExpiry,
        now: Timestamp,
    ) -> Result<(), WriteError> {
        let TokenExpiry { sessions, issued_before, refused_from } = expiry;
        let new = Rule { issued_before, refused_from };
        if sessions.is_empty() {
            for ((of, _), rules) in &mut self.token_rules {
                rules.retain(|rule| *of != application || !rule.is_covered_by(&new, now));
            }
            self.token_rules.entry((application, Whose::All)).or_default().push(new);
        }
        for session in sessions {
            let rules = self.token_rules.entry((application, Whose::Session(session))).or_default();
            rules.retain(|rule| !rule.is_covered_by(&new, now));
            rules.push(new);
        }
        self.token_rules.retain(|_, rules| !rules.is_empty());
        let of = self.token_rules.iter().filter(|((of, _), _)| *of == application);
        if of.map(|(_, rules)| rules.len()).sum::<usize>() > MAX_TOKEN_RULES {
            return Err(WriteError::Full { of: Capped::TokenRules, most: MAX_TOKEN_RULES as u64 });
        }
        Ok(())
    }
}
