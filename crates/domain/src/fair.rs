//! How much of what is shared an environment, and an application of it, may take: the rule, without anything that counts. It holds
//! for what deliveries take, and for callers' requests under way.
//!
//! Shares follow a dynamic threshold: whoever has something may take more as long as that leaves enough. An environment leaves a
//! third of what it has, and an application as much as it has of what there is for its environment. So the more want, the less
//! each gets.
//!
//! That alone leaves nothing to whoever comes after many, of which each has taken a part of what the one before has left: seven
//! environments, or a dozen applications of one, would have nearly all, and whoever comes next waits until they give it back,
//! which may be as long as receivers hang. So an eighth of what there is is kept for environments that have next to nothing, and
//! an eighth of what an environment may have for its applications that have next to nothing. They take crumbs of it, and one with
//! nothing may take something larger as long as half of what is kept remains.

crate::limits! {
    in "Shares";
    /// Of callers' requests under way, and in delivering of requests under way, memory for messages that wait, look-ups of names and places to wait: one environment has so many times what it leaves; one application as much as it leaves of that
    pub const ENVIRONMENT_FACTOR: i64 = 3, "times", beyond "429 or 503; in delivering, its endpoints wait for their turn, and no attempt is counted";
    /// Of the same, one part of so many is kept for environments, and of what an environment may have for applications, that have next to nothing
    pub const KEPT_PART: i64 = 8, "parts", beyond "whoever has more waits, or is refused";
    /// Next to nothing: one part of so many, and at least one request or place, 64 KiB for large messages and 1 KiB for small ones
    pub const CRUMBS: i64 = 1_024, "parts", beyond "of what is kept nothing more is given";
}

/// What there is of something, and what of it is free.
#[derive(Debug, Clone, Copy)]
pub struct Stock {
    /// All of it.
    pub total: i64,
    /// Less than nothing, if more was taken than there is.
    pub free: i64,
    /// At least so much is next to nothing.
    pub least: i64,
}

impl Stock {
    fn kept(self) -> i64 {
        self.total / KEPT_PART
    }

    /// How much an environment that has `taken` may take now.
    pub fn room(self, taken: i64) -> i64 {
        self.common(taken).max(self.of_what_is_kept(taken, self.total, self.free.max(0), self.kept())).max(0)
    }

    /// How much of that is not of what is kept.
    pub fn common(self, taken: i64) -> i64 {
        let free = self.free - self.kept();
        let leaves = free.saturating_mul(ENVIRONMENT_FACTOR).saturating_sub(taken);
        // Rounded up: of one that is free there is one.
        (leaves.saturating_add(ENVIRONMENT_FACTOR) / (ENVIRONMENT_FACTOR + 1)).min(free)
    }

    /// Whether an application that has `own` may take `amount`, whose environment has `taken` with that.
    pub fn may_take(self, own: i64, taken: i64, amount: i64) -> bool {
        let room = self.room(taken);
        let total = taken.saturating_add(room);
        let kept = if taken == 0 { 0 } else { total / KEPT_PART };
        amount <= room
            && (leaves_enough(own, amount, room - kept) || amount <= self.of_what_is_kept(own, total, room, kept))
    }

    /// Whether whoever an environment belongs to may take `amount` for himself, who has `own`, and his environment `taken` with that. He
    /// may have all of it but what is kept for those in it who have next to nothing.
    pub fn owner_may_take(self, own: i64, taken: i64, amount: i64) -> bool {
        let room = self.room(taken);
        let total = taken.saturating_add(room);
        let kept = if taken == 0 { 0 } else { total / KEPT_PART };
        amount <= room && (amount <= room - kept || amount <= self.of_what_is_kept(own, total, room, kept))
    }

    /// How much of what is kept of a total, of which so much is free, somebody may take who has `own`. Who has nothing may take more
    /// than crumbs as long as half of it remains, and a little until it is gone.
    fn of_what_is_kept(self, own: i64, total: i64, free: i64, kept: i64) -> i64 {
        let crumb = (total / CRUMBS).max(self.least) - own;
        let first = if own == 0 { ((free - kept / 2) / 2).max(kept / 16) } else { 0 };
        crumb.max(first).min(free)
    }
}

/// Whether an application that has `own` leaves as much as it has of what there is.
pub fn leaves_enough(own: i64, amount: i64, room: i64) -> bool {
    own < room && (own == 0 || own.saturating_add(amount) <= room) && amount <= room
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Who has taken how much of something.
    struct Taken {
        total: i64,
        least: i64,
        of: HashMap<(i64, i64), i64>,
    }

    impl Taken {
        fn new(total: i64) -> Self {
            Self { total, least: 1, of: HashMap::new() }
        }

        fn all(&self) -> i64 {
            self.of.values().sum()
        }

        fn of_environment(&self, environment: i64) -> i64 {
            self.of.iter().filter(|((of, _), _)| *of == environment).map(|(_, taken)| taken).sum()
        }

        fn take(&mut self, environment: i64, application: i64, amount: i64) -> bool {
            let stock = Stock { total: self.total, free: self.total - self.all(), least: self.least };
            let taken = self.of_environment(environment);
            let own = self.of.entry((environment, application)).or_default();
            let takes = stock.may_take(*own, taken, amount);
            if takes {
                *own += amount;
            }
            takes
        }

        /// Takes as much as it may have, so much at a time; returns how much it has then.
        fn fill(&mut self, environment: i64, application: i64, amount: i64) -> i64 {
            while self.take(environment, application, amount) {}
            self.of[&(environment, application)]
        }
    }

    #[test]
    fn whoever_is_alone_has_a_good_part() {
        let alone = Taken::new(4_096).fill(1, 1, 1);
        assert!((1_024..=2_048).contains(&alone), "{alone}");
    }

    #[test]
    fn after_many_greedy_environments_the_next_one_finds_something() {
        let mut taken = Taken::new(4_096);
        for environment in 0..120 {
            for application in 0..12 {
                taken.fill(environment, application, 1);
            }
        }
        let next = taken.fill(999, 1, 1);
        assert!(next >= 1, "{next}");
        assert!(taken.all() <= 4_096);
    }

    #[test]
    fn after_many_greedy_applications_of_an_environment_the_next_one_finds_something() {
        let mut taken = Taken::new(4_096);
        for application in 0..150 {
            taken.fill(1, application, 1);
        }
        let next = taken.fill(1, 999, 1);
        assert!(next >= 1, "{next}");
        assert!(taken.of_environment(1) <= 4_096 * 3 / 4);
        assert!(taken.fill(2, 1, 1) >= 256, "and another environment has a good part");
    }

    #[test]
    fn large_amounts_leave_small_ones_something_of_what_is_kept() {
        const MIB: i64 = 1 << 20;
        let mut taken = Taken { least: 64 << 10, ..Taken::new(20 * MIB) };
        for application in 0..200 {
            let amount = [2 * MIB, MIB / 2, MIB / 4, MIB / 8][application % 4];
            taken.fill(1, application as i64, amount);
        }
        let small = (1_000..1_020).filter(|application| taken.take(1, *application, 17 * 1_024)).count();
        assert_eq!(small, 20);
    }

    #[test]
    fn of_few_whoever_comes_first_has_one() {
        for total in 1..16 {
            assert!(Taken::new(total).take(1, 1, 1), "{total}");
        }
    }
}
