//! Which URLs endpoints may have.

use std::sync::Arc;

use postrider_domain::endpoint::EndpointUrl;

/// Why an endpoint may not have a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlRefused {
    /// For everybody.
    pub reason: String,
    /// What lets the operator have it. Customers do not choose settings, and are not told of them.
    pub remedy: Option<&'static str>,
}

/// Says whether an endpoint may have this URL, and if not, why.
pub type UrlCheck = Arc<dyn Fn(&EndpointUrl) -> Result<(), UrlRefused> + Send + Sync>;

/// Judges the URLs of endpoints.
pub(crate) struct UrlPolicy {
    /// The egress policy for literal addresses.
    pub(crate) check: UrlCheck,
    /// Refuse endpoints with http URLs.
    pub(crate) https_only: bool,
}

impl UrlPolicy {
    /// Whether an endpoint may have this URL, in words for who asks.
    pub(crate) fn judge(&self, url: &EndpointUrl, is_operator: bool) -> Result<(), String> {
        (self.check)(url).map_err(|UrlRefused { reason, remedy }| match remedy.filter(|_| is_operator) {
            Some(remedy) => format!("{reason}; {remedy}"),
            None => reason,
        })
    }
}
