//! The log of attempts.

use async_trait::async_trait;
use bytes::Bytes;
use postrider_domain::attempt::Attempt;
use postrider_domain::endpoint_url::without_credentials;
use postrider_domain::ids::{AttemptId, Id as _, Ksuid};
use postrider_store::{
    ApplicationKey, AttemptFilter, AttemptStats, Attempts, EndpointKey, MessageKey, Scan, StoreError, Walked,
    WriteError, shown_bytes,
};

use crate::ModelStore;
use crate::lists::{self, Names};
use crate::messages;
use crate::state::{Logged, State};

#[async_trait]
impl Attempts for ModelStore {
    async fn attempts_by_endpoint(
        &self,
        endpoint: EndpointKey,
        filter: &AttemptFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Attempt>, StoreError> {
        self.read(|state| {
            let all = state.attempts_at(endpoint).map(|(message, _, logged)| (endpoint, message, logged));
            state.list_attempts(all, filter, &scan)
        })
    }

    async fn attempts_by_message(
        &self,
        message: MessageKey,
        endpoint: Option<EndpointKey>,
        filter: &AttemptFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Attempt>, StoreError> {
        self.read(|state| {
            let is_of = |at: EndpointKey, of: MessageKey| of == message && endpoint.is_none_or(|wanted| at == wanted);
            let all = state.attempts.iter().filter(|((at, of, _), _)| is_of(*at, *of));
            state.list_attempts(all.map(|((at, of, _), logged)| (*at, *of, logged)), filter, &scan)
        })
    }

    async fn attempt(
        &self,
        application: ApplicationKey,
        message: MessageKey,
        id: AttemptId,
    ) -> Result<Option<Attempt>, StoreError> {
        let filter = AttemptFilter { with_response: true, with_message: true, ..AttemptFilter::default() };
        self.read(|state| {
            let is_of = |sent: &crate::state::Sent| sent.application == application;
            if !state.has_application(application) || !state.messages.get(&message).is_some_and(is_of) {
                return None;
            }
            let found = state.attempts.iter().find(|((_, of, own), _)| (*of, *own) == (message, id));
            found.and_then(|((endpoint, ..), logged)| state.shown_attempt(*endpoint, message, logged, &filter))
        })
    }

    async fn expunge_attempt(&self, message: MessageKey, id: AttemptId) -> Result<(), WriteError> {
        self.try_write(|state| {
            let mut all = state.attempts.iter_mut();
            let found = all.find(|((_, of, own), _)| (*of, *own) == (message, id)).ok_or(WriteError::NotFound)?;
            found.1.is_expunged = true;
            found.1.record.response = Bytes::new();
            Ok(())
        })
    }

    async fn attempt_stats(&self, endpoint: EndpointKey, from: Ksuid, to: Ksuid) -> Result<AttemptStats, StoreError> {
        self.read(|state| {
            let mut stats = AttemptStats::default();
            for (_, id, logged) in state.attempts_at(endpoint).filter(|(_, id, _)| (from..to).contains(&id.ksuid())) {
                debug_assert_eq!(id, logged.record.id);
                *if logged.record.succeeded { &mut stats.succeeded } else { &mut stats.failed } += 1;
            }
            stats
        })
    }
}

impl State {
    fn list_attempts<'a>(
        &self,
        all: impl Iterator<Item = (EndpointKey, MessageKey, &'a Logged)>,
        filter: &AttemptFilter,
        scan: &Scan<Ksuid>,
    ) -> Walked<Attempt> {
        let let_through = all.filter(|(_, message, logged)| self.lets_attempt_through(filter, *message, logged));
        let shown = let_through
            .filter_map(|(endpoint, message, logged)| self.shown_attempt(endpoint, message, logged, filter))
            .map(|attempt| (attempt.id.ksuid(), attempt));
        lists::walk(shown, scan, |attempt| attempt.response.as_deref().map_or(0, shown_bytes))
    }

    fn lets_attempt_through(&self, filter: &AttemptFilter, message: MessageKey, logged: &Logged) -> bool {
        let AttemptFilter { succeeded, status_code_class, channel, event_types, tag, .. } = filter;
        let names = Names { event_types: event_types.as_deref(), channel: channel.as_ref(), tag: tag.as_ref() };
        let status = logged.record.status_code;
        let is_of_class = |class: u16| status >= class && status - class < 100;
        succeeded.is_none_or(|wanted| wanted == logged.record.succeeded)
            && status_code_class.is_none_or(is_of_class)
            && self.messages.get(&message).is_some_and(|sent| names.let_through(&sent.message))
    }

    /// An attempt as it is shown; `None` if its message or its endpoint is gone.
    fn shown_attempt(
        &self,
        endpoint: EndpointKey,
        message: MessageKey,
        logged: &Logged,
        filter: &AttemptFilter,
    ) -> Option<Attempt> {
        let Logged { record, is_expunged, url, trigger, next_attempt_at, .. } = logged;
        let message = &self.messages.get(&message)?.message;
        let response = if filter.with_response { record.response.clone() } else { Bytes::new() };
        Some(Attempt {
            id: record.id,
            message_id: message.id,
            endpoint_id: self.endpoints.get(&endpoint)?.endpoint.id,
            url: without_credentials(&self.urls.get(url)?.url).into_owned(),
            succeeded: record.succeeded,
            status_code: record.status_code,
            response: Some(response).filter(|_| !(*is_expunged && filter.with_response)),
            duration_ms: record.duration_ms,
            trigger: *trigger,
            started_at: record.started_at,
            next_attempt_at: *next_attempt_at,
            message: filter.with_message.then(|| Box::new(messages::shown(message, false))),
        })
    }
}
