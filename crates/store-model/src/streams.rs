//! Reading an application's messages as a stream. This engine gives its handles out in the order of commits, so they are numbers of
//! streams, too.

use async_trait::async_trait;
use postrider_domain::ids::{Id as _, Ksuid};
use postrider_domain::message::Message;
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationKey, Capped, EndpointKey, MAX_CONSUMERS, MessageKey, PAGE_BYTES, StoreError, StreamFilter, StreamNumber,
    StreamPosition, StreamSlice, Streams, WriteError,
};

use crate::state::{Reader, State, number_of};
use crate::{ModelStore, lists};

#[async_trait]
impl Streams for ModelStore {
    async fn stream_beginning(&self, endpoint: EndpointKey) -> Result<StreamPosition, StoreError> {
        self.read(|state| {
            let receiver = state.endpoints.get(&endpoint);
            let created_at = receiver.map_or(Timestamp::EPOCH, |receiver| receiver.endpoint.created_at);
            let (last, after) =
                (receiver.map_or(StreamNumber::BEFORE_ALL, |receiver| receiver.newest), Ksuid::floor(created_at));
            StreamPosition::Behind { last, after }
        })
    }

    async fn stream(
        &self,
        application: ApplicationKey,
        filters: Vec<StreamFilter>,
        from: StreamPosition,
        limit: usize,
    ) -> Result<StreamSlice, StoreError> {
        self.read(|state| state.read_stream(application, &filters, from, limit))
    }

    async fn stream_position(&self, endpoint: EndpointKey, reader: &str) -> Result<Option<StreamPosition>, StoreError> {
        self.read(|state| state.readers.get(&(endpoint, reader.to_owned())).map(|reader| reader.position))
    }

    async fn begin_stream(
        &self,
        endpoint: EndpointKey,
        reader: &str,
        beginning: StreamPosition,
        now: Timestamp,
    ) -> Result<StreamPosition, WriteError> {
        self.try_write(|state| match state.readers.get(&(endpoint, reader.to_owned())) {
            Some(known) => Ok(known.position),
            None => state.note_reader(endpoint, reader, beginning, now),
        })
    }

    async fn set_stream_position(
        &self,
        endpoint: EndpointKey,
        reader: &str,
        position: StreamPosition,
        now: Timestamp,
    ) -> Result<StreamPosition, WriteError> {
        self.try_write(|state| state.note_reader(endpoint, reader, position, now))
    }
}

impl State {
    fn note_reader(
        &mut self,
        endpoint: EndpointKey,
        reader: &str,
        position: StreamPosition,
        now: Timestamp,
    ) -> Result<StreamPosition, WriteError> {
        let position = position.begun(self.newest());
        let others = self.readers.keys().filter(|(of, name)| *of == endpoint && name != reader).count();
        if others >= MAX_CONSUMERS {
            return Err(WriteError::Full { of: Capped::Consumers, most: MAX_CONSUMERS as u64 });
        }
        self.readers.insert((endpoint, reader.to_owned()), Reader { position, updated_at: now });
        Ok(position)
    }

    fn read_stream(
        &self,
        application: ApplicationKey,
        filters: &[StreamFilter],
        from: StreamPosition,
        limit: usize,
    ) -> StreamSlice {
        let passes = |message: &Message| {
            filters.iter().all(|filter| filter.passes(&message.event_type, message.channels.as_deref()))
        };
        let mut position = from.begun(self.newest());
        let (mut messages, mut bytes) = (Vec::new(), 0);
        while let Some((key, message)) = self.next_in_stream(application, &mut position) {
            if messages.len() >= limit || bytes >= PAGE_BYTES {
                return StreamSlice { messages, position, done: false };
            }
            position = match position {
                StreamPosition::Behind { after, .. } => {
                    StreamPosition::Behind { last: number_of(key), after: after.max(message.id.ksuid()) }
                }
                StreamPosition::Among { newest, .. } => StreamPosition::Among { after: message.id.ksuid(), newest },
                StreamPosition::Since(_) => unreachable!("it has begun"),
            };
            if passes(message) {
                bytes += lists::payload_bytes(message);
                messages.push(message.clone());
            }
        }
        StreamSlice { messages, position, done: true }
    }

    /// What a reader has to look at next. One that has gone through what there was when it began goes by number from then on.
    fn next_in_stream(
        &self,
        application: ApplicationKey,
        position: &mut StreamPosition,
    ) -> Option<(MessageKey, &Message)> {
        let all = || self.messages_of(application).map(|(key, sent)| (key, sent.message.as_ref()));
        if let StreamPosition::Among { after, newest } = *position {
            let is_left = |key: MessageKey, message: &Message| number_of(key) <= newest && message.id.ksuid() > after;
            let left = all().filter(|(key, message)| is_left(*key, message));
            if let Some(next) = left.min_by_key(|(_, message)| message.id) {
                return Some(next);
            }
            *position = StreamPosition::Behind { last: newest, after };
        }
        let StreamPosition::Behind { last, .. } = *position else { return None };
        all().find(|(key, _)| number_of(*key) > last)
    }
}
