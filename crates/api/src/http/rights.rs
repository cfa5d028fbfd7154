//! What an application's token allows, where its maker restricted it (rest-contract §4.1).
//!
//! A handler names what it needs in its `Tenant` extractor; without a word, reading needs [`Capability::ViewBase`] and
//! everything else [`Capability::ManageEndpoint`], so that a new route is closed to restricted tokens until somebody opens
//! it.

/// One thing that a token may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
pub(crate) enum Capability {
    /// Reading everything but secrets.
    ViewBase,
    /// Reading the secrets of endpoints.
    ViewEndpointSecret,
    /// Rotating, and so also reading, the secrets of endpoints.
    ManageEndpointSecret,
    /// There are no transformations; known so that callers may name it.
    ManageTransformations,
    /// Having messages delivered again.
    CreateAttempts,
    /// Everything about endpoints, their secrets included.
    ManageEndpoint,
}

impl Capability {
    /// The length of the longest name.
    pub(crate) const MAX_BYTES: usize = "ManageTransformations".len();

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The capabilities of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights(u8);

impl Rights {
    /// What a token has whose maker restricted nothing.
    pub(crate) const ALL: Self = Self(u8::MAX);

    /// What a token has that may only look.
    pub(crate) const READ_ONLY: Self = Self(Capability::ViewBase.bit());

    /// These capabilities, and what each of them includes.
    pub(crate) fn of(capabilities: &[Capability]) -> Self {
        let bits = capabilities.iter().fold(Capability::ViewBase.bit(), |bits, capability| {
            bits | match capability {
                Capability::ManageEndpointSecret => capability.bit() | Capability::ViewEndpointSecret.bit(),
                Capability::ManageEndpoint => {
                    capability.bit() | Capability::ViewEndpointSecret.bit() | Capability::ManageEndpointSecret.bit()
                }
                _ => capability.bit(),
            }
        });
        Self(bits)
    }

    /// Whether `needed` is among them.
    pub(crate) fn allow(self, needed: Capability) -> bool {
        self.0 & needed.bit() != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_include_lesser_ones() {
        use Capability::{CreateAttempts, ManageEndpoint, ManageEndpointSecret, ViewBase, ViewEndpointSecret};
        for (given, allowed, refused) in [
            (vec![], vec![ViewBase], vec![ViewEndpointSecret, ManageEndpointSecret, CreateAttempts, ManageEndpoint]),
            (vec![CreateAttempts], vec![ViewBase, CreateAttempts], vec![ViewEndpointSecret, ManageEndpoint]),
            (vec![ManageEndpointSecret], vec![ViewBase, ViewEndpointSecret], vec![CreateAttempts, ManageEndpoint]),
            (vec![ManageEndpoint], vec![ViewEndpointSecret, ManageEndpointSecret], vec![CreateAttempts]),
        ] {
            let rights = Rights::of(&given);
            assert!(allowed.into_iter().all(|needed| rights.allow(needed)), "{given:?}");
            assert!(!refused.into_iter().any(|needed| rights.allow(needed)), "{given:?}");
        }
    }
}
