//! Messages, and erasing their payloads.

use std::sync::Arc;

use async_trait::async_trait;
use postrider_domain::ids::{Id as _, Ksuid, MessageId};
use postrider_domain::message::Message;
use postrider_domain::names::IdOrUid;
use postrider_store::{ApplicationKey, MessageFilter, MessageKey, Messages, Scan, StoreError, Stored, Walked};

use crate::ModelStore;
use crate::lists::{self, Names};
use crate::state::{News, Sent, State};

#[async_trait]
impl Messages for ModelStore {
    async fn message(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<MessageId>,
        with_payload: bool,
    ) -> Result<Option<Stored<MessageKey, Message>>, StoreError> {
        self.read(|state| {
            let found = state.find_message(application, id);
            found.map(|(key, sent)| Stored { key, value: shown(&sent.message, with_payload) })
        })
    }

    async fn messages(
        &self,
        application: ApplicationKey,
        filter: &MessageFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Message>, StoreError> {
        let MessageFilter { channel, event_types, tag, with_payload } = filter;
        let names = Names { event_types: event_types.as_deref(), channel: channel.as_ref(), tag: tag.as_ref() };
        self.read(|state| {
            let all = state.messages_of(application).filter(|_| state.has_application(application));
            let let_through = all.filter(|(_, sent)| names.let_through(&sent.message));
            let rows = let_through.map(|(_, sent)| (sent.message.id.ksuid(), shown(&sent.message, *with_payload)));
            lists::walk(rows, &scan, lists::payload_bytes)
        })
    }

    async fn expunge_message(&self, message: MessageKey) -> Result<(), StoreError> {
        self.write(|state| state.erase_payloads(vec![message]))
    }

    async fn expunge_messages(
        &self,
        application: ApplicationKey,
        ids: Vec<IdOrUid<MessageId>>,
    ) -> Result<Vec<bool>, StoreError> {
        self.write(|state| {
            let found: Vec<_> = ids.iter().map(|id| state.find_message(application, id).map(|(key, _)| key)).collect();
            state.erase_payloads(found.iter().flatten().copied().collect());
            found.iter().map(Option::is_some).collect()
        })
    }
}

/// A message as it is shown.
pub(crate) fn shown(message: &Message, with_payload: bool) -> Message {
    Message {
        id: message.id,
        event_id: message.event_id.clone(),
        event_type: message.event_type.clone(),
        channels: message.channels.clone(),
        payload: message.payload.clone().filter(|_| with_payload),
        tags: message.tags.clone(),
        deliver_at: message.deliver_at,
        expires_at: message.expires_at,
        created_at: message.created_at,
    }
}

impl State {
    /// The messages of an application, in the order of their acceptance.
    pub(crate) fn messages_of(&self, application: ApplicationKey) -> impl Iterator<Item = (MessageKey, &Sent)> {
        self.messages.iter().filter(move |(_, sent)| sent.application == application).map(|(key, sent)| (*key, sent))
    }

    /// The message with this id or event id, unless its application was deleted.
    fn find_message(&self, application: ApplicationKey, id: &IdOrUid<MessageId>) -> Option<(MessageKey, &Sent)> {
        let is_it = |message: &Message| match id {
            IdOrUid::Id(id) => message.id == *id,
            IdOrUid::Uid(uid) => message.event_id.as_ref().is_some_and(|own| own.as_str() == &**uid),
        };
        let mut all = self.messages_of(application).filter(|_| self.has_application(application));
        all.find(|(_, sent)| is_it(&sent.message))
    }

    /// Erases payloads, and tells observers.
    pub(crate) fn erase_payloads(&mut self, messages: Vec<MessageKey>) {
        for key in &messages {
            if let Some(sent) = self.messages.get_mut(key) {
                Arc::make_mut(&mut sent.message).payload = None;
            }
        }
        if !messages.is_empty() {
            self.news.push(News::MessagesExpunged(messages));
        }
    }

    /// Whether a message has its payload.
    pub(crate) fn has_payload(&self, message: MessageKey) -> bool {
        self.messages.get(&message).is_some_and(|sent| sent.message.payload.is_some())
    }
}
