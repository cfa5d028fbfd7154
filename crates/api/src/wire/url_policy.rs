//! Which URLs endpoints may have.

use std::sync::Arc;

use postrider_domain::endpoint::EndpointUrl;

/// Says whether an endpoint may have this URL, and if not, why.
pub type UrlCheck = Arc<dyn Fn(&EndpointUrl) -> Result<(), String> + Send + Sync>;

/// Judges the URLs of endpoints.
pub(crate) struct UrlPolicy {
    /// The egress policy for literal addresses.
    pub(crate) check: UrlCheck,
    /// Refuse endpoints with http URLs.
    pub(crate) https_only: bool,
}
