//! Choices, all of them from one seed.

use std::time::Duration;

use postrider_domain::entropy::{Entropy, SeededEntropy};

/// Whoever decides.
#[derive(Debug)]
pub(crate) struct Dice(SeededEntropy);

impl Dice {
    /// The choices of a seed, for one purpose: each purpose has its own, so that a change in one leaves the others alone.
    pub(crate) fn new(seed: u64, purpose: u64) -> Self {
        // Neighbouring seeds must not begin alike: xorshift needs some rounds to forget where it began.
        let dice = Self(SeededEntropy::new(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose.wrapping_mul(0xd1b5_4a32_d192_ed03),
        ));
        for _ in 0..8 {
            dice.0.unit();
        }
        dice
    }

    /// Whether something happens that does so with this probability.
    pub(crate) fn happens(&self, probability: f64) -> bool {
        self.0.unit() < probability
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&self, end: usize) -> usize {
        (self.0.unit() * end as f64) as usize
    }

    /// One of several.
    pub(crate) fn one<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A time up to `longest`.
    pub(crate) fn time(&self, longest: Duration) -> Duration {
        longest.mul_f64(self.0.unit())
    }
}

impl Entropy for Dice {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }
}
