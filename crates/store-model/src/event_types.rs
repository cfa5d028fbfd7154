//! Event types.

use std::sync::Arc;

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::event_type::{EventType, EventTypePatch};
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use postrider_store::{
    Capped, EventTypeFilter, EventTypes, Once, Scan, StoreError, Upserted, Walked, WriteError, Written,
};

use crate::records::Subject;
use crate::state::State;
use crate::{ModelStore, lists};

#[async_trait]
impl EventTypes for ModelStore {
    async fn create_event_type(
        &self,
        environment: &EnvironmentId,
        most: u64,
        event_type: EventType,
        once: Option<Once<EventType>>,
    ) -> Result<Written<EventType>, WriteError> {
        let now = event_type.created_at;
        self.try_write(|state| {
            state.once(once, Subject::ENVIRONMENT, now, |state| {
                let mut new = event_type;
                match state.find_event_type(environment, new.name.as_str()) {
                    Some(found) if !found.archived => return Err(WriteError::Conflict),
                    Some(found) => new.created_at = found.created_at,
                    None => state.check_event_types(environment, 1, most)?,
                }
                state.put_event_type(environment, new.clone());
                Ok(new)
            })
        })
    }

    async fn event_type(&self, environment: &EnvironmentId, name: &str) -> Result<Option<EventType>, StoreError> {
        self.read(|state| state.find_event_type(environment, name).cloned())
    }

    async fn event_types(
        &self,
        environment: &EnvironmentId,
        filter: &EventTypeFilter,
        scan: Scan<String>,
    ) -> Result<Walked<EventType, String>, StoreError> {
        self.read(|state| {
            let shown = state.event_types_of(environment).filter(|one| passes(filter, one));
            lists::walk(shown.map(|one| (one.name.to_string(), shown_as(filter, one))), &scan, bytes_of)
        })
    }

    async fn all_event_types(
        &self,
        environment: &EnvironmentId,
        filter: &EventTypeFilter,
        most: u64,
    ) -> Result<Option<Vec<EventType>>, StoreError> {
        self.read(|state| {
            let shown = state.event_types_of(environment).filter(|one| passes(filter, one));
            let all: Vec<_> = shown.map(|one| shown_as(filter, one)).collect();
            let bytes: usize = all.iter().map(bytes_of).sum();
            (bytes as u64 <= most).then_some(all)
        })
    }

    async fn missing_event_types(
        &self,
        environment: &EnvironmentId,
        names: &[EventTypeName],
        feature_flags: Option<&[String]>,
    ) -> Result<Vec<EventTypeName>, StoreError> {
        let filter = EventTypeFilter { feature_flags: feature_flags.map(<[_]>::to_vec), ..EventTypeFilter::default() };
        self.read(|state| {
            let is_seen = |name: &str| {
                state.find_event_type(environment, name).is_some_and(|event_type| passes(&filter, event_type))
            };
            names.iter().filter(|name| !is_seen(name.as_str())).cloned().collect()
        })
    }

    async fn update_event_type(
        &self,
        environment: &EnvironmentId,
        name: &str,
        patch: EventTypePatch,
        now: Timestamp,
    ) -> Result<EventType, WriteError> {
        self.try_write(|state| {
            let found = state.find_event_type(environment, name).ok_or(WriteError::NotFound)?.clone();
            Ok(state.change_event_type(environment, found, patch, now))
        })
    }

    async fn upsert_event_type(
        &self,
        environment: &EnvironmentId,
        most: u64,
        name: &str,
        patch: EventTypePatch,
        otherwise: EventType,
        now: Timestamp,
    ) -> Result<Upserted<EventType>, WriteError> {
        self.try_write(|state| {
            if let Some(found) = state.find_event_type(environment, name).cloned() {
                return Ok(Upserted::Updated(state.change_event_type(environment, found, patch, now)));
            }
            state.check_event_types(environment, 1, most)?;
            state.put_event_type(environment, otherwise.clone());
            Ok(Upserted::Created(otherwise))
        })
    }

    async fn delete_event_type(
        &self,
        environment: &EnvironmentId,
        name: &str,
        expunge: bool,
        now: Timestamp,
    ) -> Result<(), WriteError> {
        self.try_write(|state| {
            let found = state.find_event_type(environment, name).ok_or(WriteError::NotFound)?.clone();
            if expunge {
                state.event_types.remove(&(environment.clone(), name.to_owned()));
                state.event_types_changed(environment);
            } else if !found.archived {
                state.change_event_type(environment, found, archived(), now);
            }
            Ok(())
        })
    }
}

/// What archives an event type.
pub(crate) fn archived() -> EventTypePatch {
    EventTypePatch { archived: Some(true), ..EventTypePatch::default() }
}

fn passes(filter: &EventTypeFilter, event_type: &EventType) -> bool {
    let is_flagged = |flags: &Vec<String>| event_type.feature_flag.as_ref().is_none_or(|flag| flags.contains(flag));
    (filter.include_archived || !event_type.archived) && filter.feature_flags.as_ref().is_none_or(is_flagged)
}

fn shown_as(filter: &EventTypeFilter, event_type: &EventType) -> EventType {
    let schemas = event_type.schemas.clone().filter(|_| filter.with_schemas);
    EventType { schemas, ..event_type.clone() }
}

/// The bytes of its texts.
fn bytes_of(event_type: &EventType) -> usize {
    let schemas = event_type.schemas.iter().flatten().map(|(version, schema)| version.len() + schema.get().len());
    let others = [&event_type.feature_flag, &event_type.group_name];
    event_type.name.as_str().len()
        + event_type.description.len()
        + others.into_iter().flatten().map(String::len).sum::<usize>()
        + schemas.sum::<usize>()
}

impl State {
    pub(crate) fn find_event_type(&self, environment: &EnvironmentId, name: &str) -> Option<&EventType> {
        self.event_types.get(&(environment.clone(), name.to_owned())).map(Arc::as_ref)
    }

    /// All of an environment, by name.
    pub(crate) fn event_types_of(&self, environment: &EnvironmentId) -> impl Iterator<Item = &EventType> {
        self.event_types.iter().filter(move |((of, _), _)| of == environment).map(|(_, event_type)| event_type.as_ref())
    }

    /// Refuses so many more if there is no room for them.
    pub(crate) fn check_event_types(
        &self,
        environment: &EnvironmentId,
        more: u64,
        most: u64,
    ) -> Result<(), WriteError> {
        let there = self.event_types_of(environment).count() as u64;
        if more > most.saturating_sub(there) {
            return Err(WriteError::Full { of: Capped::EventTypes, most });
        }
        Ok(())
    }

    /// Adds an event type, or overwrites it.
    pub(crate) fn put_event_type(&mut self, environment: &EnvironmentId, event_type: EventType) {
        self.environment(environment);
        self.event_types.insert((environment.clone(), event_type.name.to_string()), event_type.into());
        self.event_types_changed(environment);
    }

    pub(crate) fn change_event_type(
        &mut self,
        environment: &EnvironmentId,
        mut event_type: EventType,
        patch: EventTypePatch,
        now: Timestamp,
    ) -> EventType {
        patch.apply(&mut event_type);
        event_type.updated_at = now;
        self.put_event_type(environment, event_type.clone());
        event_type
    }

    /// What intake knows of event types is out of date, if it looks at them at all.
    fn event_types_changed(&mut self, environment: &EnvironmentId) {
        let environment = self.environment(environment);
        if !environment.settings.rules.are_none() {
            environment.rules_version += 1;
        }
    }
}
