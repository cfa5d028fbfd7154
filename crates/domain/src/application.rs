//! Environments and applications: whom a message belongs to.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::event_type::set;
use crate::ids::ApplicationId;
use crate::names::Uid;
use crate::time::Timestamp;

crate::limits! {
    in "Applications";
    /// The name of an application
    pub const MAX_APPLICATION_NAME: usize = 1_024, "characters", beyond "422";
    in "Metadata of applications and endpoints";
    /// All of it, as compact JSON
    pub const MAX_METADATA_BYTES: usize = 4_096, "bytes", beyond "422";
    /// Its members
    pub const MAX_METADATA_MEMBERS: usize = 100, "members", beyond "422";
    /// The name of a member
    pub const MAX_METADATA_NAME: usize = 256, "characters", beyond "422";
    /// The value of a member
    pub const MAX_METADATA_VALUE: usize = 4_096, "characters", beyond "422";
}

/// Free text pairs that callers attach to their objects.
pub type Metadata = BTreeMap<String, String>;

/// An environment: the isolation unit of one operator. It exists as soon as a key or a signed token names it.
///
/// Cheap to clone: every request carries one along.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvironmentId(Arc<str>);

impl EnvironmentId {
    /// What every environment's id begins with.
    pub const PREFIX: &'static str = "org_";
    /// The environment that a fresh server's first key belongs to.
    pub const DEFAULT: &'static str = "org_default";

    /// The environment in which operators learn of their own: operational webhooks are its messages (rest-contract §11.1).
    pub const MANAGEMENT: &'static str = "org_00000000000SvixManagement00";

    /// Checks the text: `org_`, then up to 252 printable ASCII characters.
    pub fn parse(text: &str) -> Option<Self> {
        let legal =
            text.starts_with(Self::PREFIX) && text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic());
        legal.then(|| Self(text.into()))
    }

    /// The environment that a fresh server's first key belongs to.
    pub fn default_environment() -> Self {
        Self(Self::DEFAULT.into())
    }

    /// The environment of operational webhooks.
    pub fn management() -> Self {
        Self(Self::MANAGEMENT.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for EnvironmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for EnvironmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One customer of the operator: a tenant inside an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Application {
    /// Its id.
    pub id: ApplicationId,
    /// The caller's own identifier, unique in the environment.
    pub uid: Option<Uid>,
    /// Its name, for people.
    pub name: String,
    /// Messages per second over all its endpoints; `None` is unlimited.
    pub throttle_rate: Option<u16>,
    /// Free text pairs.
    pub metadata: Metadata,
    /// When it was made; equals the instant in the id.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// Changes to an application. `None` leaves a member as it is; a full replacement sets every member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApplicationPatch {
    /// See [`Application::name`].
    pub name: Option<String>,
    /// See [`Application::uid`].
    pub uid: Option<Option<Uid>>,
    /// See [`Application::throttle_rate`].
    pub throttle_rate: Option<Option<u16>>,
    /// See [`Application::metadata`]. The whole map is replaced.
    pub metadata: Option<Metadata>,
}

impl ApplicationPatch {
    /// Applies the changes. Dates are the caller's business.
    pub fn apply(self, to: &mut Application) {
        let Self { name, uid, throttle_rate, metadata } = self;
        set(&mut to.name, name);
        set(&mut to.uid, uid);
        set(&mut to.throttle_rate, throttle_rate);
        set(&mut to.metadata, metadata);
    }
}
