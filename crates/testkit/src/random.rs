//! Random numbers and names for tests.

use std::time::Duration;

use postrider_domain::entropy::{Entropy as _, OsEntropy};

/// A name of 20 characters that no other test has.
pub fn name() -> String {
    let mut bytes = [0u8; 10];
    OsEntropy.fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A number in `[0, 1)`.
pub fn unit() -> f64 {
    OsEntropy.unit()
}

/// A duration between `from` and `to`.
pub fn duration(from: Duration, to: Duration) -> Duration {
    from + to.saturating_sub(from).mul_f64(unit())
}
