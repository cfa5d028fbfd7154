//! Which runs may hold a key: Bloom filters of 64 runs side by side, so that one look at a few words rules all 64 out.
//!
//! In memory only, and only a hint: it is rebuilt from the runs at start. A run that holds a key is always named; one that
//! does not is named in about one look-up of a thousand. Two bytes of memory per key.

use std::collections::BTreeMap;

use postrider_store::IdempotencyKey;

/// Keys of a run when it is full: 16 bits of its filter for each.
pub(crate) const RUN_KEYS: usize = 1 << 15;

/// Bits of a run's filter.
const BITS: usize = RUN_KEYS * 16;

/// Bits set for a key.
const PROBES: u64 = 6;

/// Runs whose filters share their words: bit `n` of each word is the `n`th run's.
const SLAB_RUNS: i64 = 64;

/// A well-mixed number of a key, of which its bucket and its bits in a filter are made. Stored by way of the former, so it
/// never changes. Keys of one batch differ in their last bytes only.
pub(super) fn mixed(key: &IdempotencyKey) -> u64 {
    let [front, back] =
        [&key.0[..8], &key.0[8..]].map(|half| half.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    let product = u128::from(front ^ 0x9e37_79b9_7f4a_7c15) * u128::from(back ^ 0xd1b5_4a32_d192_ed03);
    let folded = (product ^ (product >> 64)) as u64;
    (folded ^ (folded >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// Filters of all runs there are.
#[derive(Default)]
pub(super) struct Filter {
    slabs: BTreeMap<i64, Slab>,
}

struct Slab {
    words: Box<[u64]>,
    /// The runs that are there.
    live: u64,
}

impl Filter {
    /// Adds a run.
    pub(super) fn add<'a>(&mut self, run: i64, keys: impl Iterator<Item = &'a IdempotencyKey>) {
        let (at, bit) = place(run);
        // Of a slab that is being filled all runs may go; it is of use until the next one begins.
        self.slabs.retain(|slab, filters| *slab == at || filters.live != 0);
        let slab = self.slabs.entry(at).or_insert_with(|| Slab { words: vec![0; BITS].into_boxed_slice(), live: 0 });
        slab.live |= bit;
        for key in keys {
            for at in probes(key) {
                slab.words[at] |= bit;
            }
        }
    }

    /// Forgets a run. Its bits stay until its neighbours are gone, too: numbers of runs are never used again.
    pub(super) fn remove(&mut self, run: i64) {
        let (at, bit) = place(run);
        if let Some(slab) = self.slabs.get_mut(&at) {
            slab.live &= !bit;
            if slab.live == 0 && self.slabs.keys().next_back() != Some(&at) {
                self.slabs.remove(&at);
            }
        }
    }

    /// The runs that may hold a key, newest first.
    pub(super) fn candidates(&self, key: &IdempotencyKey) -> impl Iterator<Item = i64> {
        let probes = probes(key);
        self.slabs.iter().rev().flat_map(move |(slab, filters)| {
            let mut runs = filters.live;
            for at in probes.clone() {
                runs &= filters.words[at];
                if runs == 0 {
                    break;
                }
            }
            (0..SLAB_RUNS).rev().filter(move |run| runs >> run & 1 == 1).map(move |run| slab * SLAB_RUNS + run)
        })
    }
}

/// Which slab a run is in, and which bit of its words is the run's.
fn place(run: i64) -> (i64, u64) {
    (run.div_euclid(SLAB_RUNS), 1 << run.rem_euclid(SLAB_RUNS))
}

/// Where the bits of a key are.
fn probes(key: &IdempotencyKey) -> impl Iterator<Item = usize> + Clone {
    let mixed = mixed(key);
    let (start, step) = (mixed & 0xffff_ffff, mixed >> 32 | 1);
    (0..PROBES).map(move |probe| ((start + probe * step) % BITS as u64) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::entropy::{Entropy as _, SeededEntropy};

    fn keys(entropy: &SeededEntropy, count: usize) -> Vec<IdempotencyKey> {
        let key = |_| {
            let mut key = [0; 16];
            entropy.fill(&mut key);
            IdempotencyKey(key)
        };
        (0..count).map(key).collect()
    }

    /// Keys as the items of a batch have them.
    fn siblings(count: usize) -> Vec<IdempotencyKey> {
        let key = |index: u32| {
            let mut key = [7; 16];
            key[12..].copy_from_slice(&index.to_be_bytes());
            IdempotencyKey(key)
        };
        (0..u32::try_from(count).unwrap()).map(key).collect()
    }

    #[test]
    fn a_run_that_holds_a_key_is_named_and_hardly_any_other() {
        let (mut filter, entropy) = (Filter::default(), SeededEntropy::new(1));
        let runs: Vec<Vec<_>> = (0..3).map(|_| keys(&entropy, RUN_KEYS)).chain([siblings(RUN_KEYS)]).collect();
        // Across the border of two slabs.
        for (run, held) in (62..).zip(&runs) {
            filter.add(run, held.iter());
        }
        let mut others = 0;
        for (run, held) in (62..).zip(&runs) {
            for key in held {
                let found: Vec<i64> = filter.candidates(key).collect();
                assert!(found.contains(&run) && found.is_sorted_by(|one, next| one > next), "{found:?}");
                others += found.len() - 1;
            }
        }
        let looks = 3 * 4 * RUN_KEYS;
        assert!(others * 500 < looks, "{others} of {looks}");
    }

    #[test]
    fn a_run_that_is_gone_is_not_named() {
        let mut filter = Filter::default();
        let held = keys(&SeededEntropy::new(1), 10);
        for run in [3, 4, 64] {
            filter.add(run, held.iter());
        }
        filter.remove(4);
        assert_eq!(filter.candidates(&held[0]).collect::<Vec<_>>(), [64, 3]);
        filter.remove(3);
        assert_eq!(filter.slabs.len(), 1, "memory goes with the runs");
        filter.remove(64);
        filter.add(65, held.iter());
        assert_eq!(filter.candidates(&held[0]).collect::<Vec<_>>(), [65]);
    }

    #[test]
    fn buckets_never_change_because_they_are_stored() {
        assert_eq!(siblings(3).iter().map(|key| mixed(key) >> 56).collect::<Vec<_>>(), [213, 102, 21]);
    }
}
