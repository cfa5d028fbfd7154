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
//!
//! What is kept for the applications of an environment is a part of what that may have, and so it is gone when other environments have
//! taken the rest. So where it is counted what small applications hold, those that have next to nothing, a sixteenth of all is kept for
//! them: those of an environment may hold a sixteenth of what it holds, whatever others have taken. In all that is never more than there is.

crate::limits! {
    in "Shares";
    /// Of callers' requests under way, and in delivering of requests under way, memory for messages that wait, look-ups of names and places to wait: one environment has so many times what it leaves; one application as much as it leaves of that
    pub const ENVIRONMENT_FACTOR: i64 = 3, "times", beyond "429 or 503; in delivering, its endpoints wait for their turn, and no attempt is counted";
    /// Of the same, one part of so many is kept for environments, and of what an environment may have for applications, that have next to nothing
    pub const KEPT_PART: i64 = 8, "parts", beyond "whoever has more waits, or is refused";
    /// Of requests under way to receivers, and of memory for messages, one part of so many is kept for applications that have next to nothing; of an environment they may hold one part of so many of what it holds
    pub const KEPT_FOR_SMALL: i64 = 16, "parts", beyond "the same";
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
    /// What applications of the environment in question hold that hold next to nothing; `None` if that is not counted.
    pub small: Option<i64>,
}

impl Stock {
    fn kept(self) -> i64 {
        self.total / KEPT_PART
    }

    fn kept_for_small(self) -> i64 {
        self.small.map_or(0, |_| self.total / KEPT_FOR_SMALL)
    }

    /// Next to nothing.
    pub fn crumb(self) -> i64 {
        (self.total / CRUMBS).max(self.least)
    }

    /// How much an application that has `own` finds in what is kept for small ones, whose environment has `taken` with that.
    fn of_small(self, own: i64, taken: i64) -> i64 {
        let Some(small) = self.small else { return 0 };
        let left = (taken / KEPT_FOR_SMALL).max(self.least) - small;
        let each = self.crumb().min(left / 8).max(self.least);
        (each - own).min(left).min(self.free - self.kept() / 2)
    }

    /// Whether an application of an environment that has `taken` may find something, at least if it has nothing.
    pub fn has_room(self, taken: i64) -> bool {
        self.room(taken) > 0 || self.of_small(0, taken) > 0
    }

    /// How much an environment that has `taken` may take now.
    pub fn room(self, taken: i64) -> i64 {
        self.common(taken).max(self.of_what_is_kept(taken, self.total, self.free.max(0), self.kept())).max(0)
    }

    /// How much of that is not of what is kept.
    pub fn common(self, taken: i64) -> i64 {
        let free = self.free - self.kept() - self.kept_for_small();
        let leaves = free.saturating_mul(ENVIRONMENT_FACTOR).saturating_sub(taken);
        // Rounded up: of one that is free there is one.
        (leaves.saturating_add(ENVIRONMENT_FACTOR) / (ENVIRONMENT_FACTOR + 1)).min(free)
    }

    /// Whether an application that has `own` may take `amount`, whose environment has `taken` with that.
    pub fn may_take(self, own: i64, taken: i64, amount: i64) -> bool {
        let room = self.room(taken);
        let total = taken.saturating_add(room);
        let kept = if taken == 0 { 0 } else { total / KEPT_PART };
        let is_due = leaves_enough(own, amount, room - kept) || amount <= self.of_what_is_kept(own, total, room, kept);
        amount <= room && is_due || amount <= self.of_small(own, taken)
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
        // Of little each has less, so that there is some for the next one.
        let crumb = (total / CRUMBS).min(free / 16).max(self.least) - own;
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
            let crumb = (self.total / CRUMBS).max(self.least);
            let small = self.of.iter().filter(|((of, _), taken)| *of == environment && **taken <= crumb);
            let small = Some(small.map(|(_, taken)| taken).sum());
            let stock = Stock { total: self.total, free: self.total - self.all(), least: self.least, small };
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

    /// Two applications of an environment have a part, and then many environments of a dozen have all that they may have.
    fn crowded(total: i64, environments: i64) -> Taken {
        let mut taken = Taken::new(total);
        for application in 0..2 {
            (0..total / 16).for_each(|_| assert!(taken.take(999, application, 1)));
        }
        for environment in 0..environments {
            (0..12).for_each(|application| _ = taken.fill(environment, application, 1));
        }
        taken
    }

    #[test]
    fn where_other_environments_have_taken_the_rest_an_application_finds_something_beside_two_of_its_own_that_have_much()
     {
        for environments in [1, 2, 8, 40] {
            let mut taken = crowded(4_096, environments);
            // With applications of which each has next to nothing, too.
            for environment in 0..environments {
                (100..160).for_each(|application| _ = taken.fill(environment, application, 1));
            }
            for application in 100..110 {
                assert!(taken.fill(999, application, 1) >= 1, "{application} beside {environments} environments");
            }
            assert!(taken.fill(1_000, 1, 1) >= 1, "and an environment that has nothing");
            assert!(taken.all() <= 4_096);
        }
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
