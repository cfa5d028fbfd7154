//! What came of delivering.

use std::collections::BTreeSet;
use std::convert::Infallible;

use async_trait::async_trait;
use postrider_domain::ids::{Id as _, Ksuid};
use postrider_store::{
    ApplicationKey, Attempted, AttemptedFilter, AttemptedMessage, DeliveryKey, Destination, EndpointKey, MessageKey,
    Scan, StoreError, Story, Tried, Walked,
};

use crate::lists::{self, Names};
use crate::state::State;
use crate::{ModelStore, endpoints, messages};

#[async_trait]
impl Attempted for ModelStore {
    async fn attempted_messages(
        &self,
        application: ApplicationKey,
        endpoint: EndpointKey,
        filter: &AttemptedFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<AttemptedMessage>, StoreError> {
        let AttemptedFilter { standing, channel, event_types, tag, with_payload } = filter;
        let names = Names { event_types: event_types.as_deref(), channel: channel.as_ref(), tag: tag.as_ref() };
        self.read(|state| {
            let all = state.messages_of(application).filter(|_| state.has_application(application));
            let let_through = all.filter(|(_, sent)| names.let_through(&sent.message));
            let attempted = let_through.filter_map(|(key, sent)| {
                let story = state.story(endpoint, key)?;
                let shown = || AttemptedMessage {
                    message: messages::shown(&sent.message, *with_payload),
                    succeeded: story.latest().succeeded,
                    next_attempt_at: story.latest().next_attempt_at,
                    canceled: story.is_canceled(),
                };
                let is_wanted = standing.is_none_or(|wanted| wanted == story.standing());
                is_wanted.then(|| (sent.message.id.ksuid(), shown()))
            });
            lists::walk(attempted, &scan, |attempted| lists::payload_bytes(&attempted.message))
        })
    }

    async fn destinations(&self, message: MessageKey, scan: Scan<Ksuid>) -> Result<Walked<Destination>, StoreError> {
        self.read(|state| {
            let tried = state.attempts.keys().filter(|(_, of, _)| *of == message).map(|(endpoint, ..)| *endpoint);
            let destinations = tried.collect::<BTreeSet<_>>().into_iter().filter_map(|endpoint| {
                let (receiver, story) = (state.endpoints.get(&endpoint)?, state.story(endpoint, message)?);
                let shown = Destination {
                    endpoint: state.shown(endpoint, receiver),
                    succeeded: story.latest().succeeded,
                    next_attempt_at: story.latest().next_attempt_at,
                    canceled: story.is_canceled(),
                };
                Some((receiver.endpoint.id.ksuid(), shown))
            });
            lists::walk(destinations, &scan, |destination| endpoints::bytes_of(&destination.endpoint))
        })
    }
}

impl State {
    /// What came of a message at an endpoint; `None` if it was never attempted there.
    fn story(&self, endpoint: EndpointKey, message: MessageKey) -> Option<Story> {
        let tried = self.attempts_of(endpoint, message).map(|(id, logged)| Tried {
            id: id.ksuid(),
            started_at: logged.record.started_at,
            number: logged.number.into(),
            succeeded: logged.record.succeeded,
            next_attempt_at: logged.next_attempt_at,
        });
        let story = tried.fold(None, |known, tried| Some(Story::with(known, tried)))?;
        let is_pending = |due_at| self.deliveries.contains_key(&(endpoint, DeliveryKey { due_at, message }));
        let Ok(story) = story.checked(|at| Ok::<_, Infallible>(is_pending(at)));
        Some(story)
    }
}
