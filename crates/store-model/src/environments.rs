//! Settings of environments, and imports.

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::environment::{EnvironmentSettings, EnvironmentSettingsPatch};
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use postrider_store::{Environments, Import, ImportedEventType, Once, StoreError, WriteError, Written};

use crate::ModelStore;
use crate::event_types::archived;
use crate::records::Subject;
use crate::state::State;

#[async_trait]
impl Environments for ModelStore {
    async fn environment_settings(&self, environment: &EnvironmentId) -> Result<EnvironmentSettings, StoreError> {
        self.read(|state| state.environments.get(environment).map(|found| found.settings).unwrap_or_default())
    }

    async fn update_environment_settings(
        &self,
        environment: &EnvironmentId,
        patch: EnvironmentSettingsPatch,
        now: Timestamp,
    ) -> Result<EnvironmentSettings, StoreError> {
        self.write(|state| state.change_settings(environment, patch, now))
    }

    async fn import(
        &self,
        environment: &EnvironmentId,
        import: Import,
        now: Timestamp,
        once: Option<Once<Vec<EventTypeName>>>,
    ) -> Result<Written<Vec<EventTypeName>>, WriteError> {
        self.try_write(|state| {
            state.once(once, Subject::ENVIRONMENT, now, |state| state.bring_in(environment, import, now))
        })
    }
}

impl State {
    fn change_settings(
        &mut self,
        environment: &EnvironmentId,
        patch: EnvironmentSettingsPatch,
        now: Timestamp,
    ) -> EnvironmentSettings {
        let stored = self.environment(environment);
        let before = stored.settings;
        patch.apply(&mut stored.settings, now);
        if stored.settings.rules != before.rules {
            stored.rules_version += 1;
        }
        stored.settings
    }

    fn bring_in(
        &mut self,
        environment: &EnvironmentId,
        import: Import,
        now: Timestamp,
    ) -> Result<Vec<EventTypeName>, WriteError> {
        let Import { event_types, archive_others, settings, most } = import;
        let is_new = |one: &&ImportedEventType| self.find_event_type(environment, one.new.name.as_str()).is_none();
        self.check_event_types(environment, event_types.iter().filter(is_new).count() as u64, most)?;
        let mut changed = Vec::new();
        if archive_others {
            let is_among = |name: &EventTypeName| event_types.iter().any(|one| one.new.name == *name);
            let others = self.event_types_of(environment).filter(|one| !one.archived && !is_among(&one.name));
            let others: Vec<_> = others.cloned().collect();
            for other in others {
                changed.push(other.name.clone());
                self.change_event_type(environment, other, archived(), now);
            }
        }
        for ImportedEventType { new, patch } in event_types {
            let name = new.name.clone();
            match self.find_event_type(environment, name.as_str()).cloned() {
                Some(found) if !found.is_changed_by(&patch) => continue,
                Some(found) => drop(self.change_event_type(environment, found, patch, now)),
                None => self.put_event_type(environment, new),
            }
            changed.push(name);
        }
        self.change_settings(environment, settings, now);
        changed.sort();
        Ok(changed)
    }
}
