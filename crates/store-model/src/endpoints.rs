//! Endpoints, their secrets and headers.

use async_trait::async_trait;
use postrider_domain::delivery::DisableReason;
use postrider_domain::endpoint::{Disablement, Endpoint, EndpointPatch, Headers};
use postrider_domain::headers::HeaderChanges;
use postrider_domain::ids::{EndpointId, Id as _, Ksuid};
use postrider_domain::names::{IdOrUid, Uid};
use postrider_domain::notice::NoticeKind;
use postrider_domain::signature::{Secret, SigningKeys};
use postrider_domain::time::Timestamp;
use postrider_store::{
    ApplicationKey, Capped, ChangeHeadersError, DELETED_KEPT, EndpointKey, Endpoints, Listed, MAX_DELETED_ENDPOINTS,
    NewEndpoint, Once, RotateError, Scan, StoreError, Stored, Upserted, WriteError, Written,
};

use crate::records::Subject;
use crate::state::{Kind, News, Receiver, State};
use crate::{ModelStore, lists};

#[async_trait]
impl Endpoints for ModelStore {
    async fn create_endpoint(
        &self,
        application: ApplicationKey,
        new: NewEndpoint,
        once: Option<Once<Endpoint>>,
    ) -> Result<Written<Endpoint>, WriteError> {
        let now = new.endpoint.created_at;
        let subject = Subject::application(application);
        self.try_write(|state| state.once(once, subject, now, |state| state.add_endpoint(application, new)))
    }

    async fn endpoint(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<EndpointId>,
    ) -> Result<Option<Stored<EndpointKey, Endpoint>>, StoreError> {
        self.read(|state| {
            let found = state.find_endpoint(application, id);
            found.map(|(key, receiver)| Stored { key, value: state.shown(key, receiver) })
        })
    }

    async fn endpoints(&self, application: ApplicationKey, scan: Scan<Ksuid>) -> Result<Listed<Endpoint>, StoreError> {
        self.read(|state| {
            let all = state.endpoints_of(application).filter(|_| state.has_application(application));
            let shown = all.map(|(key, receiver)| (receiver.endpoint.id.ksuid(), state.shown(key, receiver)));
            lists::page(shown, &scan, bytes_of)
        })
    }

    async fn update_endpoint(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<EndpointId>,
        patch: EndpointPatch,
        now: Timestamp,
    ) -> Result<Endpoint, WriteError> {
        self.try_write(|state| {
            let (key, _) = state.find_endpoint(application, id).ok_or(WriteError::NotFound)?;
            state.change_endpoint(key, patch, now)
        })
    }

    async fn upsert_endpoint(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<EndpointId>,
        patch: EndpointPatch,
        otherwise: NewEndpoint,
        now: Timestamp,
    ) -> Result<Upserted<Endpoint>, WriteError> {
        self.try_write(|state| match state.find_endpoint(application, id).map(|(key, _)| key) {
            Some(key) => state.change_endpoint(key, patch, now).map(Upserted::Updated),
            None => state.add_endpoint(application, otherwise).map(Upserted::Created),
        })
    }

    async fn delete_endpoint(
        &self,
        application: ApplicationKey,
        id: &IdOrUid<EndpointId>,
        now: Timestamp,
    ) -> Result<(), WriteError> {
        self.try_write(|state| {
            let (key, _) = state.find_endpoint(application, id).ok_or(WriteError::NotFound)?;
            let receiver = state.receiver(key);
            receiver.deleted_at = Some(now);
            receiver.endpoint.event_types = None;
            receiver.headers = Headers::new();
            state.report_endpoint(key, NoticeKind::EndpointDeleted);
            state.change_receiver(key, None);
            state.make_routes_newer(key);
            state.tell_changed(key);
            Ok(())
        })
    }

    async fn signing_keys(&self, endpoint: EndpointKey) -> Result<Option<SigningKeys>, StoreError> {
        self.read(|state| state.live_endpoint(endpoint).map(|receiver| receiver.keys.clone()))
    }

    async fn rotate_secret(
        &self,
        endpoint: EndpointKey,
        next: Secret,
        grace_until: Timestamp,
        now: Timestamp,
        once: Option<Once<Secret>>,
    ) -> Result<Written<Secret>, RotateError> {
        self.try_write(|state| {
            state.once(once, Subject::endpoint(endpoint), now, |state| {
                state.live_endpoint(endpoint).ok_or(WriteError::NotFound)?;
                state.receiver(endpoint).keys.rotate(next.clone(), grace_until, now)?;
                state.change_receiver(endpoint, Some(now));
                state.make_routes_newer(endpoint);
                state.tell_changed(endpoint);
                state.report_endpoint(endpoint, NoticeKind::EndpointUpdated);
                Ok(next)
            })
        })
    }

    async fn headers(&self, endpoint: EndpointKey) -> Result<Option<Headers>, StoreError> {
        self.read(|state| state.live_endpoint(endpoint).map(|receiver| receiver.headers.clone()))
    }

    async fn set_headers(&self, endpoint: EndpointKey, headers: Headers, now: Timestamp) -> Result<(), WriteError> {
        self.try_write(|state| {
            state.live_endpoint(endpoint).ok_or(WriteError::NotFound)?;
            state.change_headers(endpoint, &headers, now);
            Ok(())
        })
    }

    async fn merge_headers(
        &self,
        endpoint: EndpointKey,
        changes: HeaderChanges,
        now: Timestamp,
    ) -> Result<(), ChangeHeadersError> {
        self.try_write(|state| {
            let receiver = state.live_endpoint(endpoint).ok_or(WriteError::NotFound)?;
            let headers = receiver.headers.changed(changes)?;
            state.change_headers(endpoint, &headers, now);
            Ok(())
        })
    }
}

/// What may be large in an endpoint.
pub(crate) fn bytes_of(endpoint: &Endpoint) -> usize {
    let types: usize = endpoint.event_types.iter().flatten().map(|name| name.as_str().len()).sum();
    let metadata: usize = endpoint.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    endpoint.url.as_str().len() + endpoint.description.len() + types + metadata
}

impl State {
    /// Refuses a uid that another endpoint of the application has.
    fn check_endpoint_uid(
        &self,
        application: ApplicationKey,
        uid: Option<&Uid>,
        own: Option<EndpointKey>,
    ) -> Result<(), WriteError> {
        let Some(uid) = uid else { return Ok(()) };
        let taken = self.find_endpoint(application, &IdOrUid::Uid(uid.as_str().into()));
        if taken.is_some_and(|(key, _)| Some(key) != own) { Err(WriteError::Conflict) } else { Ok(()) }
    }

    /// Refuses another endpoint of an application of which too many were deleted of late.
    fn check_deleted(&self, application: ApplicationKey, now: Timestamp) -> Result<(), WriteError> {
        let since = now.saturating_sub(DELETED_KEPT);
        let deleted = self.endpoints.values().filter(|receiver| receiver.application == application);
        let mut deleted: Vec<_> = deleted.filter_map(|receiver| receiver.deleted_at).filter(|at| *at > since).collect();
        deleted.sort_unstable();
        let most = usize::try_from(MAX_DELETED_ENDPOINTS).unwrap_or(usize::MAX);
        match deleted.len().checked_sub(most) {
            Some(surplus) => {
                let wait = deleted[surplus].since(since);
                Err(WriteError::ManyDeleted { most: MAX_DELETED_ENDPOINTS, wait })
            }
            None => Ok(()),
        }
    }

    fn add_endpoint(&mut self, application: ApplicationKey, new: NewEndpoint) -> Result<Endpoint, WriteError> {
        if !self.has_application(application) {
            return Err(WriteError::NotFound);
        }
        let NewEndpoint { mut endpoint, secret, headers, most } = new;
        if self.endpoints_of(application).count() as u64 >= most {
            return Err(WriteError::Full { of: Capped::Endpoints, most });
        }
        self.check_deleted(application, endpoint.created_at)?;
        self.check_endpoint_uid(application, endpoint.uid.as_ref(), None)?;
        let by_hand = Disablement { reason: DisableReason::ByHand, since: endpoint.created_at };
        endpoint.disablement = endpoint.disabled.then_some(by_hand);
        let key = EndpointKey(self.next_number(Kind::Endpoint));
        let receiver = Receiver {
            application,
            endpoint: endpoint.clone(),
            headers,
            keys: SigningKeys::new(secret),
            number: 0,
            failing_since: None,
            newest: self.newest(),
            deleted_at: None,
        };
        self.endpoints.insert(key, receiver.into());
        self.make_routes_newer(key);
        self.tell_changed(key);
        self.report_endpoint(key, NoticeKind::EndpointCreated);
        Ok(endpoint)
    }

    fn change_endpoint(
        &mut self,
        key: EndpointKey,
        mut patch: EndpointPatch,
        now: Timestamp,
    ) -> Result<Endpoint, WriteError> {
        let receiver = self.receiver(key);
        let (before, application) = (receiver.endpoint.clone(), receiver.application);
        let inherits = before.url.authorization_taken_over(patch.url.as_ref());
        let authorized = receiver.headers.authorize(patch.authorization.take(), inherits);
        patch.apply(&mut receiver.endpoint, now);
        receiver.endpoint.updated_at = now;
        if !receiver.endpoint.disabled && (before.disabled || receiver.endpoint.url != before.url) {
            // It begins anew.
            receiver.failing_since = None;
        }
        let endpoint = receiver.endpoint.clone();
        self.check_endpoint_uid(application, endpoint.uid.as_ref(), Some(key))?;
        if endpoint.url != before.url {
            self.retire_url(key, application, &before.url, now)?;
        }
        if authorized || endpoint.url != before.url || endpoint.disabled != before.disabled {
            self.change_receiver(key, Some(now).filter(|_| !endpoint.disabled));
        }
        if authorized || !endpoint.is_routed_as(&before) {
            self.make_routes_newer(key);
        }
        self.tell_changed(key);
        self.report_endpoint(key, NoticeKind::EndpointUpdated);
        Ok(Endpoint { held: self.holds.get(&key).copied(), ..endpoint })
    }

    fn change_headers(&mut self, key: EndpointKey, headers: &Headers, now: Timestamp) {
        let before = std::mem::replace(&mut self.receiver(key).headers, headers.clone());
        if *headers != before {
            self.change_receiver(key, Some(now));
            self.make_routes_newer(key);
        }
        self.tell_changed(key);
    }

    /// Messages that are accepted after the commit are routed by what it made of the endpoint.
    pub(crate) fn make_routes_newer(&mut self, endpoint: EndpointKey) {
        if let Some(application) = self.application_of(endpoint) {
            self.tenant(application).version += 1;
        }
    }

    /// Has what is pending looked at anew, and tells observers after the commit.
    pub(crate) fn tell_changed(&mut self, endpoint: EndpointKey) {
        self.look_again(endpoint);
        self.news.push(News::EndpointChanged(endpoint, self.application_of(endpoint)));
    }
}
