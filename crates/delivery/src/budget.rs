//! What all lanes share: bytes of memory for waiting messages, and permits for requests.
//!
//! How much a lane, an application and an environment may have says `fair.rs` of `domain`. A lane may take more as long as what it has is less
//! than a fraction of what is still free, so there is always something left for the next one; an endpoint that hangs can't fill
//! the house.
//!
//! Memory is overdrawn at most by as much again as there is, and one message: every lane may have one, until then. What is overdrawn
//! is counted by itself, and shared by applications in the same way, so that one that overdraws takes nothing of what
//! others have for more than one message at a time. Small messages have a part of their own, so that a few endpoints with
//! large ones don't leave the others one message at a time.
//!
//! A permit stands for a request, and is never overdrawn. Each open lane has one, so that it can always make a request; it
//! takes more for more requests at a time.

use std::collections::HashMap;
use std::ops::{AddAssign, SubAssign};
use std::sync::Arc;

use parking_lot::Mutex;
use postrider_domain::fair::{Stock, leaves_enough};
use postrider_domain::message::Message;
use postrider_domain::time::Timestamp;
use postrider_store::{EnvironmentKey, MessageKey, TooLarge};

use crate::holders::{Amount, Holders, Owner, Whose, environment_of};
use crate::kept::SHORT_ANSWER_BYTES;
use crate::limits::STARVING;
use crate::payloads::Payloads;

/// How many times what there is may be taken: overdrawn by as much again.
pub(crate) const OVERDRAFT: u64 = 2;

/// A message that costs no more than this many bytes of memory is small.
pub(crate) const SMALL_BYTES: u64 = 16 * 1024;

/// What counts as next to nothing of what is for large messages, and for small ones.
const LEAST_OF_LARGE: u64 = 4 * SMALL_BYTES;
const LEAST_OF_SMALL: u64 = SMALL_BYTES / 16;

/// A resource with a fixed total.
#[derive(Debug)]
pub(crate) struct Budget {
    total: i64,
    /// A lane's share may reach what is free divided by this.
    divisor: i64,
    /// What is next to nothing.
    least: i64,
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    all: Own,
    holders: Holders<Own>,
    starving: HashMap<Line, Refused, foldhash::fast::RandomState>,
    /// When there are so many of them, those that are over are looked for.
    clean_at: usize,
}

/// Where a lane stands that has nothing and was refused, and when it last was: behind its application's others, if that has
/// something, and else behind its environment's, or, if that has nothing, behind everybody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Line {
    Application(Whose),
    Environment(Option<EnvironmentKey>),
    All,
}

/// Who stands in a line.
#[derive(Debug, Clone, Copy)]
struct Refused {
    /// When the last one was refused.
    at: Timestamp,
    /// The least of what was refused, and when.
    least: i64,
    least_at: Timestamp,
}

impl Refused {
    fn new(amount: i64, at: Timestamp) -> Self {
        Self { at, least: amount, least_at: at }
    }

    fn is_over(&self, now: Timestamp) -> bool {
        now.since(self.at) >= STARVING
    }

    fn again(&mut self, amount: i64, now: Timestamp) {
        self.at = now;
        if amount <= self.least || now.since(self.least_at) >= STARVING {
            (self.least, self.least_at) = (amount, now);
        }
    }
}

/// Lines that nobody stands in any more are looked for when there are this many, and then whenever their number has doubled.
const FIRST_CLEANING: usize = 1_024;

/// What something was taken of, to which it is to be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// What there is.
    Within,
    /// What may be overdrawn.
    Beyond,
}

impl Part {
    fn of(self, amount: i64) -> Own {
        match self {
            Self::Within => Own { within: amount, beyond: 0 },
            Self::Beyond => Own { within: 0, beyond: amount },
        }
    }
}

/// What one has taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Own {
    /// Of what there is.
    within: i64,
    /// Of what is overdrawn.
    beyond: i64,
}

impl Budget {
    pub(crate) fn new(total: u64, divisor: i64, least: u64) -> Self {
        let (total, least) = (signed(total), signed(least));
        let crumb = Stock { total, free: total, least, small: None }.crumb();
        let (all, holders) = (Own::default(), Holders::new(crumb));
        let (starving, clean_at) = (HashMap::default(), FIRST_CLEANING);
        let taken = Taken { all, holders, starving, clean_at };
        Self { total, divisor, least, taken: Mutex::new(taken) }
    }

    /// Notes that a lane that has nothing was refused so much.
    pub(crate) fn starves(&self, whose: Whose, amount: u64, now: Timestamp) {
        let (amount, mut taken) = (signed(amount), self.taken.lock());
        let (own, environment) = taken.holders.of(whose);
        let line = if own != Own::default() {
            Line::Application(whose)
        } else if environment != Own::default() {
            Line::Environment(environment_of(whose))
        } else {
            Line::All
        };
        let refused = taken.starving.entry(line).and_modify(|refused| refused.again(amount, now));
        refused.or_insert(Refused::new(amount, now));
        if taken.starving.len() >= taken.clean_at {
            taken.starving.retain(|_, refused| !refused.is_over(now));
            taken.clean_at = (taken.starving.len() * 2).max(FIRST_CLEANING);
        }
    }

    /// Whether a lane of the application, or of its environment, or of one that has nothing, was refused lately that has nothing:
    /// whoever has nothing, and was not refused, lets it go first. Not for crumbs, nor does one application wait for another whose
    /// messages are all larger: there may be no place for them for long.
    pub(crate) fn is_starving(&self, whose: Whose, amount: u64, now: Timestamp) -> bool {
        let amount = signed(amount);
        if amount <= self.least {
            return false;
        }
        let taken = self.taken.lock();
        if taken.starving.is_empty() {
            return false;
        }
        let line = |line| taken.starving.get(&line).filter(|refused| !refused.is_over(now));
        let others = [Line::Environment(environment_of(whose)), Line::All];
        line(Line::Application(whose)).is_some()
            || others.into_iter().filter_map(line).any(|refused| refused.least <= amount)
    }

    /// Takes `amount` for a lane of `whose` that has `share` already; `None` if that would be more than the due of the lane, of
    /// its application, or of its environment. A lane that has nothing may overdraw.
    pub(crate) fn try_take(&self, whose: Whose, share: u64, amount: u64) -> Option<Part> {
        self.take(&mut self.taken.lock(), whose, share, amount)
    }

    /// Takes `amount` as [`Self::try_take`] does, and with it so much `more` if that is within the due of all of them, without
    /// overdrawing: what is overdrawn is for one message of each lane.
    fn try_take_with(&self, whose: Whose, share: u64, amount: u64, more: u64) -> Option<Reserve> {
        let mut taken = self.taken.lock();
        let is_ample = self.gives_amply(&taken, whose, share, amount + more);
        let amount = if is_ample { amount + more } else { amount };
        let part = self.take(&mut taken, whose, share, amount)?;
        Some(Reserve { amount, part })
    }

    /// Whether `amount` more is within the due of a lane with this share, of its application and of its environment, without
    /// overdrawing.
    pub(crate) fn is_ample(&self, whose: Whose, share: u64, amount: u64) -> bool {
        self.gives_amply(&self.taken.lock(), whose, share, amount)
    }

    /// Whether a lane that asked for `amount` would have it.
    fn gives(&self, whose: Whose, share: u64, amount: u64) -> bool {
        self.part_for(&self.taken.lock(), whose, share, amount).is_some()
    }

    fn take(&self, taken: &mut Taken, whose: Whose, share: u64, amount: u64) -> Option<Part> {
        let part = self.part_for(taken, whose, share, amount)?;
        taken.add(whose, part.of(signed(amount)));
        Some(part)
    }

    /// Of what a lane would have `amount` more.
    fn part_for(&self, taken: &Taken, whose: Whose, share: u64, amount: u64) -> Option<Part> {
        let amount = signed(amount);
        let (own, environment) = taken.holders.of(whose);
        let within = self.within(taken, whose);
        let fits = within.may_take(own.within, environment.within, amount);
        if fits && (share == 0 || self.is_due(share, amount, within.free)) {
            return Some(Part::Within);
        }
        let overdraws = share == 0 && may_overdraw(self.beyond(taken), own.beyond, environment.beyond, amount);
        overdraws.then_some(Part::Beyond)
    }

    fn gives_amply(&self, taken: &Taken, whose: Whose, share: u64, amount: u64) -> bool {
        let amount = signed(amount);
        let (within, (own, environment)) = (self.within(taken, whose), taken.holders.of(whose));
        within.may_take(own.within, environment.within, amount) && self.is_due(share, amount, within.free)
    }

    /// What there is for an environment.
    fn within(&self, taken: &Taken, whose: Whose) -> Stock {
        let small = Some(taken.holders.of_small(environment_of(whose)));
        Stock { total: self.total, free: self.total - taken.all.within, least: self.least, small }
    }

    /// What may be overdrawn.
    fn beyond(&self, taken: &Taken) -> Stock {
        let total = self.overdraft();
        Stock { total, free: total - taken.all.beyond, least: self.least, small: None }
    }

    fn is_due(&self, share: u64, amount: i64, free: i64) -> bool {
        signed(share).saturating_add(amount) <= free / self.divisor
    }

    fn overdraft(&self) -> i64 {
        self.total.saturating_mul(signed(OVERDRAFT) - 1)
    }

    /// Takes `amount`, whatever is free: what is there already can only be counted.
    pub(crate) fn charge(&self, whose: Whose, amount: u64) {
        if amount > 0 {
            self.taken.lock().add(whose, Part::Within.of(signed(amount)));
        }
    }

    /// What was charged is charged no more.
    pub(crate) fn discharge(&self, whose: Whose, amount: u64) {
        self.give_back(whose, Part::Within, amount);
    }

    pub(crate) fn give_back(&self, whose: Whose, part: Part, amount: u64) {
        if amount > 0 {
            self.taken.lock().subtract(whose, part.of(signed(amount)));
        }
    }

    /// What is taken.
    pub(crate) fn used(&self) -> i64 {
        let Own { within, beyond } = self.taken.lock().all;
        within + beyond
    }

    /// What is left for an application; nothing if it has its due.
    fn free(&self, whose: Whose) -> u64 {
        let taken = self.taken.lock();
        let (own, environment) = taken.holders.of(whose);
        u64::try_from(self.within(&taken, whose).common(environment.within) - own.within).unwrap_or(0)
    }
}

/// Whether a lane that has nothing of an application that has `own` may overdraw. A message may be more than is left, of what is
/// not kept for those who have next to nothing, and of that for an environment that has nothing; and where nothing is overdrawn, it may
/// be more than there is.
fn may_overdraw(stock: Stock, own: i64, of_environment: i64, amount: i64) -> bool {
    let is_one_more = own == 0 && (stock.common(of_environment) > 0 || of_environment == 0 && stock.free > 0);
    let is_first = stock.free == stock.total && stock.total > 0;
    is_first || is_one_more || stock.may_take(own, of_environment, amount)
}

impl Taken {
    fn add(&mut self, whose: Whose, more: Own) {
        self.holders.add(whose, more);
        self.all += more;
    }

    fn subtract(&mut self, whose: Whose, less: Own) {
        self.holders.subtract(whose, less);
        self.all -= less;
    }
}

impl Amount for Own {
    fn size(self) -> i64 {
        self.within + self.beyond
    }
}

impl AddAssign for Own {
    fn add_assign(&mut self, more: Self) {
        self.within += more.within;
        self.beyond += more.beyond;
    }
}

impl SubAssign for Own {
    fn sub_assign(&mut self, less: Self) {
        self.within -= less.within;
        self.beyond -= less.beyond;
    }
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

/// What a delivery costs in memory beside its payload, roughly.
pub(crate) const OVERHEAD_BYTES: u64 = 512;

/// So many bytes of payload are loaded without asking whether there is memory for them: what is refused then was read in vain.
const LOOK_BYTES: u64 = 256 * 1024;

/// What deliveries cost in memory: of what is for small messages, and of what is for large ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    small: u64,
    large: u64,
}

impl Cost {
    /// Of one with so much payload, if nobody else has that. A large one costs as much as a small one beside it.
    fn of(payload_bytes: usize) -> Self {
        let payload = payload_bytes as u64;
        if OVERHEAD_BYTES + payload <= SMALL_BYTES {
            Self { small: OVERHEAD_BYTES + payload, large: 0 }
        } else {
            Self { small: OVERHEAD_BYTES, large: payload }
        }
    }

    /// Of one with this message, if nobody else has its payload.
    pub(crate) fn of_message(message: &Message) -> Self {
        Self::of(message.payload.as_ref().map_or(0, |payload| payload.len()))
    }

    /// Whether it is of a large message whose payload is to be paid for.
    pub(crate) fn is_large(self) -> bool {
        self.large > 0
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, more: Self) {
        self.small += more.small;
        self.large += more.large;
    }
}

impl SubAssign for Cost {
    fn sub_assign(&mut self, less: Self) {
        self.small -= less.small;
        self.large -= less.large;
    }
}

/// What was refused: so much of what is for small messages, or of what is for large ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Small(u64),
    Large(u64),
}

/// A part of one budget that was taken for what is to come.
#[derive(Debug)]
struct Reserve {
    amount: u64,
    part: Part,
}

impl Reserve {
    fn nothing() -> Self {
        Self { amount: 0, part: Part::Within }
    }

    /// Pays for a delivery of a lane that has `share` beside this; if this is not enough, all of it is asked for.
    fn pay(&mut self, budget: &Budget, whose: Whose, share: u64, amount: u64) -> Option<Part> {
        if amount > self.amount {
            return budget.try_take(whose, share + self.amount, amount);
        }
        self.amount -= amount;
        Some(self.part)
    }
}

/// Memory that was taken for what a load is to find: all that its first delivery costs, of both kinds.
#[derive(Debug)]
pub(crate) struct Reserved {
    small: Reserve,
    large: Reserve,
    payload_bytes: u64,
}

impl Reserved {
    pub(crate) fn nothing() -> Self {
        Self { small: Reserve::nothing(), large: Reserve::nothing(), payload_bytes: 0 }
    }

    /// How much payload may be loaded.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.payload_bytes
    }

    /// What it has of both kinds.
    pub(crate) fn cost(&self) -> Cost {
        Cost { small: self.small.amount, large: self.large.amount }
    }
}

/// Bytes of memory for messages that wait, by their size, and for what receivers answered until it is stored.
#[derive(Debug)]
pub(crate) struct Memory {
    small: Budget,
    large: Budget,
    answers: Budget,
    /// Those of large messages, each of which is paid for once.
    payloads: Payloads,
}

impl Memory {
    /// A quarter is for small messages only, and an eighth for long answers: whoever has a backlog fills what there is for his
    /// messages, and then his answers are worth most.
    pub(crate) fn new(total: u64) -> Self {
        let (small, answers) = (total / 4, total / 8);
        let new = |bytes, least| Budget::new(bytes, 2, least);
        let large = new(total - small - answers, LEAST_OF_LARGE);
        let (small, answers) = (new(small, LEAST_OF_SMALL), new(answers, LEAST_OF_SMALL));
        Self { small, large, answers, payloads: Payloads::default() }
    }

    /// What a delivery costs a lane that holds so much. The payload of a large message is paid for by the first who holds it. Whoever
    /// holds none may have what another one has, for what a delivery costs beside that; a second one he may have as if nobody else
    /// had it: what he holds for long, when the others have sent it, takes memory of its application.
    pub(crate) fn cost(&self, held: Cost, needs: TooLarge) -> Cost {
        let cost = Cost::of(needs.payload_bytes);
        let shares = !held.is_large() && cost.is_large() && self.payloads.has(needs.message);
        if shares { Cost { large: 0, ..cost } } else { cost }
    }

    /// Takes memory for a load that is to find what a lane needs, before anything is read: all that this costs, and for more of its kind if
    /// there is enough. What another one has at this moment may be gone when it is read; then the lane asks for all of it.
    pub(crate) fn reserve(&self, whose: Whose, held: Cost, needs: TooLarge) -> Result<Reserved, Refusal> {
        let (alone, cost) = (Cost::of(needs.payload_bytes), self.cost(held, needs));
        let more_small = if alone.is_large() { 0 } else { LOOK_BYTES };
        let small = self.small.try_take_with(whose, held.small, cost.small, more_small);
        let small = small.ok_or(Refusal::Small(cost.small))?;
        let large = if cost.is_large() {
            self.large.try_take_with(whose, held.large, cost.large, LOOK_BYTES)
        } else {
            Some(Reserve::nothing())
        };
        let Some(large) = large else {
            self.small.give_back(whose, small.part, small.amount);
            return Err(Refusal::Large(cost.large));
        };
        let more = small.amount + large.amount - cost.small - cost.large;
        Ok(Reserved { small, large, payload_bytes: needs.payload_bytes as u64 + more })
    }

    /// Gives back what is left of it.
    pub(crate) fn give_back(&self, whose: Whose, reserved: &Reserved) {
        self.small.give_back(whose, reserved.small.part, reserved.small.amount);
        self.large.give_back(whose, reserved.large.part, reserved.large.amount);
    }

    /// How much payload a lane that holds so much may load to see what is next. Nothing, if nothing of it could be held.
    pub(crate) fn look(&self, whose: Whose, held: Cost) -> u64 {
        let may_hold = self.small.gives(whose, held.small, OVERHEAD_BYTES);
        if may_hold { (self.free(whose) / 2).min(LOOK_BYTES) } else { 0 }
    }

    /// Notes that a lane that has nothing was refused it.
    pub(crate) fn starves(&self, whose: Whose, refusal: Refusal, now: Timestamp) {
        match refusal {
            Refusal::Small(amount) => self.small.starves(whose, amount, now),
            Refusal::Large(amount) => self.large.starves(whose, amount, now),
        }
    }

    /// Whether a lane that has nothing, and was not refused, lets others go first to whatever of that.
    pub(crate) fn is_starving(&self, whose: Whose, cost: Cost, now: Timestamp) -> bool {
        self.small.is_starving(whose, cost.small, now) || self.large.is_starving(whose, cost.large, now)
    }

    /// Takes memory for a delivery of a lane of `whose` that holds so much, of what is `reserved` for it as far as that is enough. Says what
    /// was refused, or else the message to be held, which is one that is there already, and of what was taken what it costs beside
    /// its payload.
    pub(crate) fn hold(
        &self,
        whose: Whose,
        held: Cost,
        key: MessageKey,
        message: &Arc<Message>,
        reserved: &mut Reserved,
    ) -> Result<(Arc<Message>, Part), Refusal> {
        let cost = Cost::of_message(message);
        let part = reserved.small.pay(&self.small, whose, held.small, cost.small);
        let part = part.ok_or(Refusal::Small(cost.small))?;
        if !cost.is_large() {
            return Ok((Arc::clone(message), part));
        }
        let is_reserved = cost.large <= reserved.large.amount;
        let may_share = || !held.is_large() || is_reserved || self.large.is_ample(whose, held.large, cost.large);
        let pays = || reserved.large.pay(&self.large, whose, held.large, cost.large);
        let Some(message) = self.payloads.hold(key, message, may_share, pays) else {
            self.small.give_back(whose, part, cost.small);
            return Err(Refusal::Large(cost.large));
        };
        Ok((message, part))
    }

    /// Gives back what was taken for a delivery.
    pub(crate) fn let_go(&self, whose: Whose, key: MessageKey, message: &Message, part: Part) {
        let cost = Cost::of_message(message);
        self.small.give_back(whose, part, cost.small);
        if cost.is_large()
            && let Some(part) = self.payloads.let_go(key)
        {
            self.large.give_back(whose, part, cost.large);
        }
    }

    /// What pays for the payload of a message of this size.
    #[cfg(test)]
    pub(crate) fn of(&self, bytes: u64) -> &Budget {
        if bytes <= SMALL_BYTES { &self.small } else { &self.large }
    }

    /// What pays for an answer of this size. A short one, which is kept in any case, counts beside its message.
    pub(crate) fn of_answer(&self, bytes: u64) -> &Budget {
        if bytes <= SHORT_ANSWER_BYTES as u64 { &self.small } else { &self.answers }
    }

    /// Whether there is memory for an answer.
    pub(crate) fn has_room_for_answer(&self, whose: Whose, bytes: u64) -> bool {
        bytes <= SHORT_ANSWER_BYTES as u64 || self.answers.is_ample(whose, 0, bytes)
    }

    /// What is taken in all.
    pub(crate) fn used(&self) -> i64 {
        self.small.used() + self.large.used() + self.answers.used()
    }

    /// What is left for an application.
    pub(crate) fn free(&self, whose: Whose) -> u64 {
        self.small.free(whose) + self.large.free(whose)
    }
}

/// Who holds permits. A lane that does not know yet whose endpoint it has is of nobody.
#[derive(Debug)]
pub(crate) struct Permits(Mutex<Shares>);

#[derive(Debug)]
struct Shares {
    /// So many requests a lane may make at a time, as long as it leaves twice as many permits as it has: if there are few
    /// permits in all, a fraction of them would be less than one.
    few: u32,
    total: u32,
    free: u32,
    held: Holders<u32>,
}

impl Permits {
    /// A permit of one lane may reach what is free divided by this.
    const LANE_DIVISOR: u32 = 8;

    /// Fewer permits than these in all are few.
    const FEW_PERMITS: u32 = 64;

    pub(crate) fn new(total: u32) -> Self {
        let few = if total < Self::FEW_PERMITS { (total / 2).min(4) } else { 0 };
        let total = total.max(1);
        let crumb = Stock { total: total.into(), free: total.into(), least: 1, small: None }.crumb();
        Self(Mutex::new(Shares { few, total, free: total, held: Holders::new(crumb) }))
    }

    /// A permit for a lane to open; false if none is free, or the application has its share.
    pub(crate) fn open(&self, of: Whose) -> bool {
        self.0.lock().take(of)
    }

    /// A permit for an application that may hold so many at most.
    pub(crate) fn open_within(&self, of: Owner, most: u32) -> bool {
        let mut shares = self.0.lock();
        shares.held.of_application(Some(of)) < most && shares.take(Some(of))
    }

    /// One more permit for a lane that makes `requests` at a time.
    pub(crate) fn more(&self, of: Whose, requests: u32) -> bool {
        let mut shares = self.0.lock();
        let within_few = requests < shares.few && requests * 2 <= shares.free;
        (within_few || requests < shares.free / Self::LANE_DIVISOR) && shares.take(of)
    }

    /// The lane of nobody turns out to be this application's; false if that has more than its share now.
    pub(crate) fn adopt(&self, by: Owner) -> bool {
        let mut shares = self.0.lock();
        shares.give_back(None);
        let granted = shares.take(Some(by));
        if !granted {
            // The lane holds it until it closes, which it is to do soon.
            shares.count(Some(by));
        }
        granted
    }

    /// Whether any is free. If none is, nobody need be asked whether it has its share.
    pub(crate) fn any_free(&self) -> bool {
        self.0.lock().free > 0
    }

    /// Whether there is any for an environment.
    pub(crate) fn has_room(&self, environment: Option<EnvironmentKey>) -> bool {
        let shares = self.0.lock();
        let free = i64::from(shares.free);
        let is_few = shares.total < Self::FEW_PERMITS;
        free > 0 && (is_few || shares.stock(environment).has_room(shares.held.of_environment(environment).into()))
    }

    /// Whether half of them or more are free.
    pub(crate) fn has_plenty(&self) -> bool {
        let shares = self.0.lock();
        shares.free >= shares.total.div_ceil(2)
    }

    /// Whether what this one holds is missing elsewhere: nothing is free, or it has its share.
    pub(crate) fn is_short(&self, of: Whose) -> bool {
        let shares = self.0.lock();
        shares.free == 0 || !shares.leaves_enough(of)
    }

    /// Whether another has less than this one: of two environments what they have counts, within one their applications. Of one
    /// application everybody has less than it.
    pub(crate) fn has_less(&self, other: Whose, than: Whose) -> bool {
        let held = &self.0.lock().held;
        if environment_of(other) == environment_of(than) {
            return other == than || held.of_application(other) < held.of_application(than);
        }
        held.of_environment(environment_of(other)) < held.of_environment(environment_of(than))
    }

    pub(crate) fn give_back(&self, of: Whose) {
        self.0.lock().give_back(of);
    }

    /// How many are held.
    pub(crate) fn used(&self) -> u32 {
        self.0.lock().held.amounts().sum()
    }

    #[cfg(test)]
    pub(crate) fn free(&self) -> u32 {
        self.0.lock().free
    }
}

impl Shares {
    /// Whether an application may have one more, of what there is for its environment.
    fn leaves_enough(&self, of: Whose) -> bool {
        let (own, environment) = self.held.of(of);
        // Of few there is nothing to keep for other environments.
        let is_few = self.total < Permits::FEW_PERMITS;
        if is_few {
            return leaves_enough(own.into(), 1, self.free.into());
        }
        self.stock(environment_of(of)).may_take(own.into(), environment.into(), 1)
    }

    /// What there is for an environment.
    fn stock(&self, environment: Option<EnvironmentKey>) -> Stock {
        let small = Some(self.held.of_small(environment));
        Stock { total: self.total.into(), free: self.free.into(), least: 1, small }
    }

    fn take(&mut self, of: Whose) -> bool {
        let granted = self.free > 0 && self.leaves_enough(of);
        if granted {
            self.count(of);
        }
        granted
    }

    fn count(&mut self, of: Whose) {
        self.free = self.free.saturating_sub(1);
        self.held.add(of, 1);
    }

    fn give_back(&mut self, of: Whose) {
        self.free += 1;
        self.held.subtract(of, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holders::owner;

    const A: Whose = own(1);
    const B: Whose = own(2);

    /// An application with an environment of its own.
    const fn own(number: i64) -> Whose {
        Some(owner(number, number))
    }

    /// Takes ones for a lane until it is refused; returns its share.
    fn fill(budget: &Budget, whose: Whose) -> u64 {
        (0..).take_while(|share| budget.try_take(whose, *share, 1).is_some()).count() as u64
    }

    /// Takes so much for each lane until one is refused; returns how many have it.
    fn lanes(budget: &Budget, whose: Whose, amount: u64) -> usize {
        (0..10_000).take_while(|_| budget.try_take(whose, 0, amount).is_some()).count()
    }

    fn fill_permits(permits: &Permits, of: i64) -> usize {
        (0..10_000).take_while(|_| permits.open(own(of))).count()
    }

    #[test]
    fn one_lane_never_takes_all() {
        let budget = Budget::new(1_000, 2, 1);
        let share = fill(&budget, A);
        assert!((250..=500).contains(&share), "{share}");
    }

    #[test]
    fn a_thousand_greedy_lanes_leave_something_for_the_next() {
        let budget = Budget::new(100_000, 2, 1);
        for _ in 0..1_000 {
            fill(&budget, A);
        }
        assert!(fill(&budget, A) >= 1);
    }

    #[test]
    fn every_lane_may_have_one_until_memory_is_overdrawn_by_as_much_again() {
        let budget = Budget::new(100, 2, 1);
        let applications = (1..).map(own);
        let has_one = |of: &Whose| budget.try_take(*of, 0, 10).is_some();
        assert_eq!(applications.take_while(has_one).count(), 18);
        assert!(budget.free(own(99)) < 10);
        budget.give_back(A, Part::Within, 10);
        assert!(budget.try_take(A, 0, 10).is_some());
    }

    #[test]
    fn an_application_leaves_as_much_memory_as_it_has_and_overdraws_as_much_as_it_leaves_for_that() {
        let budget = Budget::new(1_000, 2, 1);
        assert_eq!(lanes(&budget, A, 10), 56, "less than a third of what there is, and as much again");
        assert!(
            budget.try_take(B, 0, 10).and(budget.try_take(B, 10, 100)).is_some(),
            "others have more than one message at a time"
        );
        assert!(lanes(&budget, B, 10) >= 25);
        let others = (3..).map(own);
        assert!(
            others.take_while(|of| budget.try_take(*of, 0, 10).is_some()).count() >= 10,
            "whoever has nothing has one"
        );
        assert!(budget.used() <= 2_000);
    }

    #[test]
    fn who_starves_goes_before_all_who_share_what_he_was_refused() {
        let (budget, now) = (Budget::new(1_000, 2, 1), Timestamp::from_micros(0));
        let starving = |of: [Whose; 3]| of.map(|of| budget.is_starving(of, 10, now));
        let [mine, beside, elsewhere] = [owner(1, 1), owner(1, 2), owner(2, 3)].map(Some);
        budget.starves(mine, 10, now);
        assert_eq!(starving([mine, beside, elsewhere]), [true; 3], "nobody of his environment has anything");
        let later = now.saturating_add(STARVING);
        assert!(!budget.is_starving(beside, 10, later));
        budget.charge(beside, 10);
        budget.starves(mine, 10, later);
        assert!(budget.is_starving(beside, 10, later) && !budget.is_starving(elsewhere, 10, later));
        let last = later.saturating_add(STARVING);
        budget.charge(mine, 10);
        budget.starves(mine, 10, last);
        assert!(budget.is_starving(mine, 10, last) && !budget.is_starving(beside, 10, last));
    }

    #[test]
    fn what_is_given_back_is_all_that_was_taken() {
        let budget = Budget::new(1_000, 2, 1);
        let parts: Vec<_> = std::iter::from_fn(|| budget.try_take(A, 0, 10)).collect();
        assert!(parts.contains(&Part::Within) && parts.contains(&Part::Beyond));
        budget.charge(A, 300);
        budget.charge(B, 7);
        for part in parts {
            budget.give_back(A, part, 10);
        }
        assert_eq!(budget.used(), 307);
        budget.discharge(A, 300);
        budget.discharge(B, 7);
        assert_eq!(budget.used(), 0);
        assert!(budget.taken.lock().holders.is_empty());
    }

    /// The first messages are overdrawn, and answers come and go.
    #[test]
    fn what_is_charged_and_discharged_makes_no_room_for_more_that_is_overdrawn() {
        let budget = Budget::new(1_000, 2, 1);
        let most = lanes(&budget, A, 10);
        for _ in 0..100 {
            budget.charge(A, 20);
            budget.discharge(A, 20);
        }
        assert_eq!((lanes(&budget, A, 10), budget.used()), (0, 10 * most as i64));
    }

    #[test]
    fn large_messages_leave_room_for_small_ones() {
        let memory = Memory::new(32 << 20);
        while memory.of(2 << 20).try_take(A, 0, 2 << 20).is_some() {}
        assert!((1..=100).all(|nth| memory.of(1_000).try_take(A, (nth - 1) * 1_000, 1_000).is_some()));
    }

    #[test]
    fn an_application_that_waits_with_all_the_messages_it_may_has_memory_for_answers() {
        let memory = Memory::new(32 << 20);
        while memory.of(1_000).try_take(A, 0, 1_000).is_some() {}
        while memory.of(100_000).try_take(A, 0, 100_000).is_some() {}
        let mut kept = 0;
        while memory.has_room_for_answer(A, 2_000) {
            memory.of_answer(2_000).charge(A, 2_000);
            kept += 1;
        }
        assert!((500..=1_000).contains(&kept), "less than a third of an eighth of what there is: {kept}");
        assert!(memory.has_room_for_answer(B, 2_000), "others' are kept, too");
    }

    #[test]
    fn an_application_leaves_as_many_permits_as_it_holds_of_what_there_is_for_its_environment() {
        let permits = Permits::new(1_000);
        assert_eq!(fill_permits(&permits, 1), 267);
        assert_eq!(fill_permits(&permits, 2), 180);
        assert_eq!(permits.free(), 553);
        let others = (3..1_000).take_while(|of| permits.open(own(*of))).count();
        assert_eq!((others, permits.free()), (553, 0), "whoever has none gets one as long as there is one");
    }

    #[test]
    fn an_environment_leaves_a_third_of_what_it_has_however_many_applications_it_has() {
        let (permits, budget) = (Permits::new(1_000), Budget::new(1_000, 2, 1));
        let (one, other) = ((0..2_000).map(|of| Some(owner(1, of))), Some(owner(2, 2_000)));
        assert_eq!(one.clone().filter(|of| permits.open(*of)).count(), 610);
        assert_eq!((1..1_000).take_while(|_| permits.open(other)).count(), 67);
        assert_eq!(one.filter(|of| budget.try_take(*of, 0, 1).is_some()).count(), 1_267);
        assert!(budget.try_take(other, 0, 10).and(budget.try_take(other, 10, 50)).is_some());
    }

    #[test]
    fn two_that_have_much_leave_their_environment_something_whatever_other_environments_have() {
        let (permits, budget) = (Permits::new(4_096), Budget::new(20 << 20, 2, LEAST_OF_LARGE));
        let fill = |of: Whose, most: usize| {
            (0..most).take_while(|_| permits.open(of)).count();
            (0..most).take_while(|taken| budget.try_take(of, *taken as u64 * 17_000, 17_000).is_some()).count()
        };
        (0..2).for_each(|of| assert!(fill(Some(owner(99, of)), 40) > 0));
        for environment in 0..8 {
            (0..12).for_each(|of| _ = fill(Some(owner(environment, 100 * environment + of)), 4_096));
        }
        for of in 1_000..1_005 {
            let of = Some(owner(99, of));
            assert!(permits.has_room(environment_of(of)) && permits.open(of));
            assert_eq!(budget.try_take(of, 0, 17_000), Some(Part::Within));
        }
    }

    #[test]
    fn there_are_never_more_requests_than_permits() {
        for total in 1..40 {
            let permits = Permits::new(total);
            let lanes = (0..100).filter(|of| permits.open(own(*of))).count();
            let more = (0..100).filter(|of| permits.more(own(*of), 1)).count();
            assert!(lanes + more <= total as usize);
        }
    }

    #[test]
    fn with_few_permits_a_lane_makes_more_than_one_request_and_leaves_some() {
        for (total, most) in [(1, 1), (2, 1), (3, 1), (4, 2), (8, 3), (16, 4), (63, 7), (64, 7)] {
            let (permits, of) = (Permits::new(total), A);
            assert!(permits.open(of));
            let requests = (1..).take_while(|requests| permits.more(of, *requests)).count() + 1;
            assert_eq!((requests, permits.free()), (most, total - most as u32), "of {total}");
        }
    }

    #[test]
    fn a_lane_of_nobody_counts_for_its_application_when_that_is_known() {
        let permits = Permits::new(4);
        assert!(permits.open(None) && permits.adopt(owner(1, 1)));
        assert!(permits.open(None) && permits.adopt(owner(1, 1)));
        assert!(permits.open(None) && !permits.adopt(owner(1, 1)), "it has its share");
        for _ in 0..3 {
            permits.give_back(A);
        }
        assert_eq!(permits.free(), 4);
    }

    /// Each lane is of another application of the same environment, and its endpoint is read before the next one opens.
    #[test]
    fn lanes_of_nobody_give_an_environment_no_more_than_its_share() {
        let permits = Permits::new(1_000);
        let lanes = (0..1_000).take_while(|_| permits.open(None));
        let within = lanes.enumerate().take_while(|(number, _)| permits.adopt(owner(1, *number as i64))).count();
        assert_eq!(within, 610, "the next one is to close at once");
    }
}
