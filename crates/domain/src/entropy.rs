//! Randomness as something that is passed in.
//!
//! Production uses [`OsEntropy`], a cryptographically secure generator; tests pass one they control, so that jitter and
//! ids are repeatable. Everything secret (keys, endpoint secrets) and every id comes from here.

/// A source of random bytes. Implementations used in production must be cryptographically secure.
pub trait Entropy: Send + Sync {
    /// Fills `bytes` with random bytes.
    fn fill(&self, bytes: &mut [u8]);

    /// A number in `[0, 1)`, uniformly distributed.
    fn unit(&self) -> f64 {
        let mut bytes = [0u8; 8];
        self.fill(&mut bytes);
        // 53 bits are what an f64 in [0, 1) can hold without rounding.
        (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The thread's own ChaCha generator, seeded and re-seeded by the operating system.
#[derive(Debug, Default, Clone, Copy)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that may")]
    fn fill(&self, bytes: &mut [u8]) {
        use rand::Rng as _;
        rand::rng().fill_bytes(bytes);
    }
}

/// A repeatable sequence for tests: xorshift from a seed. Never use it for anything secret.
#[derive(Debug)]
pub struct SeededEntropy(parking_lot::Mutex<u64>);

impl SeededEntropy {
    /// Starts the sequence at `seed`; 0 is replaced, because xorshift never leaves it.
    pub fn new(seed: u64) -> Self {
        Self(parking_lot::Mutex::new(seed.max(1)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        let mut state = self.0.lock();
        for chunk in bytes.chunks_mut(8) {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_never_one() {
        struct Max;
        impl Entropy for Max {
            fn fill(&self, bytes: &mut [u8]) {
                bytes.fill(0xff);
            }
        }
        assert!(Max.unit() < 1.0);
    }

    #[test]
    fn a_seed_repeats_its_sequence() {
        let (a, b) = (SeededEntropy::new(7), SeededEntropy::new(7));
        assert_eq!((a.unit(), a.unit()), (b.unit(), b.unit()));
    }
}
