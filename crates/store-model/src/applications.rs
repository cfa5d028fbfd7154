//! Applications.

use async_trait::async_trait;
use postrider_domain::application::{Application, ApplicationPatch, EnvironmentId};
use postrider_domain::ids::{ApplicationId, Id as _, Ksuid};
use postrider_domain::names::{IdOrUid, Uid};
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationFilter, ApplicationKey, Applications, Once, Scan, StoreError, Stored, Upserted, Walked, WriteError,
    Written,
};

use crate::ModelStore;
use crate::lists;
use crate::records::Subject;
use crate::state::{Kind, News, State, Tenant};

#[async_trait]
impl Applications for ModelStore {
    async fn create_application(
        &self,
        environment: &EnvironmentId,
        application: Application,
        once: Option<Once<Application>>,
    ) -> Result<Written<Application>, WriteError> {
        let now = application.created_at;
        self.try_write(|state| {
            state.once(once, Subject::ENVIRONMENT, now, |state| state.add_application(environment, application))
        })
    }

    async fn application(
        &self,
        environment: &EnvironmentId,
        id: &IdOrUid<ApplicationId>,
    ) -> Result<Option<Stored<ApplicationKey, Application>>, StoreError> {
        self.read(|state| {
            let found = state.find_application(environment, id);
            found.map(|(key, tenant)| Stored { key, value: tenant.application.clone() })
        })
    }

    async fn applications(
        &self,
        environment: &EnvironmentId,
        filter: ApplicationFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Application>, StoreError> {
        self.read(|state| {
            let there = |tenant: &Tenant| tenant.environment == *environment && tenant.deleted_at.is_none();
            let all = state.applications.iter().filter(|(_, tenant)| there(tenant));
            let shown = all.filter(|(key, _)| state.lets_through(filter, **key));
            lists::walk(
                shown.map(|(_, tenant)| (tenant.application.id.ksuid(), tenant.application.clone())),
                &scan,
                lists::small,
            )
        })
    }

    async fn update_application(
        &self,
        environment: &EnvironmentId,
        id: &IdOrUid<ApplicationId>,
        patch: ApplicationPatch,
        now: Timestamp,
    ) -> Result<Application, WriteError> {
        self.try_write(|state| {
            let (key, _) = state.find_application(environment, id).ok_or(WriteError::NotFound)?;
            state.change_application(key, patch, now)
        })
    }

    async fn upsert_application(
        &self,
        environment: &EnvironmentId,
        id: &IdOrUid<ApplicationId>,
        patch: ApplicationPatch,
        otherwise: Application,
        now: Timestamp,
    ) -> Result<Upserted<Application>, WriteError> {
        self.try_write(|state| match state.find_application(environment, id).map(|(key, _)| key) {
            Some(key) => state.change_application(key, patch, now).map(Upserted::Updated),
            None => state.add_application(environment, otherwise).map(Upserted::Created),
        })
    }

    async fn delete_application(
        &self,
        environment: &EnvironmentId,
        id: &IdOrUid<ApplicationId>,
        now: Timestamp,
    ) -> Result<(), WriteError> {
        self.try_write(|state| {
            let (key, _) = state.find_application(environment, id).ok_or(WriteError::NotFound)?;
            let tenant = state.tenant(key);
            tenant.deleted_at = Some(now);
            tenant.version += 1;
            state.tell_endpoints(key, true);
            state.news.push(News::ApplicationDeleted);
            Ok(())
        })
    }
}

impl State {
    /// An application that is there, to be changed.
    pub(crate) fn tenant(&mut self, key: ApplicationKey) -> &mut Tenant {
        let Some(tenant) = self.applications.get_mut(&key) else { unreachable!("it was looked up") };
        tenant
    }

    fn lets_through(&self, filter: ApplicationFilter, key: ApplicationKey) -> bool {
        let has_endpoints = self.endpoints_of(key).next().is_some();
        let is_heard = self.endpoints_of(key).any(|(_, receiver)| !receiver.endpoint.disabled);
        (!filter.with_endpoints || has_endpoints) && (!filter.without_disabled || is_heard || !has_endpoints)
    }

    /// Refuses a uid that another application of the environment has.
    fn check_uid(
        &self,
        environment: &EnvironmentId,
        uid: Option<&Uid>,
        own: Option<ApplicationKey>,
    ) -> Result<(), WriteError> {
        let Some(uid) = uid else { return Ok(()) };
        let taken = self.find_application(environment, &IdOrUid::Uid(uid.as_str().into()));
        if taken.is_some_and(|(key, _)| Some(key) != own) { Err(WriteError::Conflict) } else { Ok(()) }
    }

    fn add_application(
        &mut self,
        environment: &EnvironmentId,
        application: Application,
    ) -> Result<Application, WriteError> {
        self.check_uid(environment, application.uid.as_ref(), None)?;
        self.environment(environment);
        let key = ApplicationKey(self.next_number(Kind::Application));
        let environment = environment.clone();
        let tenant = Tenant { environment, application: application.clone(), version: 1, deleted_at: None };
        self.applications.insert(key, tenant);
        Ok(application)
    }

    fn change_application(
        &mut self,
        key: ApplicationKey,
        patch: ApplicationPatch,
        now: Timestamp,
    ) -> Result<Application, WriteError> {
        let Tenant { environment, application: before, .. } = self.tenant(key).clone();
        let mut application = before.clone();
        patch.apply(&mut application);
        application.updated_at = now;
        self.check_uid(&environment, application.uid.as_ref(), Some(key))?;
        let tenant = self.tenant(key);
        tenant.application = application.clone();
        // Caches know applications by their uid and hold their rate, so those are a change of the routes.
        if (&application.uid, application.throttle_rate) != (&before.uid, before.throttle_rate) {
            tenant.version += 1;
        }
        if application.throttle_rate != before.throttle_rate {
            self.tell_endpoints(key, false);
        }
        Ok(application)
    }

    /// Has what is pending at all endpoints of an application looked at anew, and tells observers that they changed. `ended`:
    /// they want nothing any more, so nothing holds them back.
    fn tell_endpoints(&mut self, application: ApplicationKey, ended: bool) {
        let endpoints: Vec<_> = self.endpoints_of(application).map(|(key, _)| key).collect();
        for endpoint in endpoints {
            if ended {
                self.change_receiver(endpoint, None);
            }
            self.tell_changed(endpoint);
        }
    }
}
