//! Where requests go, as connections see it.

/// Where connections go: what decides whether two endpoints can share one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) https: bool,
    pub(crate) host: url::Host,
    pub(crate) port: u16,
}
