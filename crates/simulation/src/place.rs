//! An endpoint of a world.

use postrider_domain::ids::{ApplicationId, EndpointId};
use postrider_store::{ApplicationKey, EndpointKey};

/// An endpoint and whose it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) application: ApplicationKey,
    pub(crate) application_id: ApplicationId,
    pub(crate) endpoint: EndpointKey,
    pub(crate) endpoint_id: EndpointId,
}
