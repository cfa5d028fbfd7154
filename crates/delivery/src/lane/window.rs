//! What a lane has of its endpoint's deliveries: a window of what is due, what it is charged for it, and loading more.
//!
//! What is in the store is loaded slice by slice, from where the last load ended. A load that is under way has seen the store
//! as it was when it began; [`Meanwhile`] is what it could not know.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use postrider_domain::attempt::Trigger;
use postrider_domain::ids::MessageId;
use postrider_domain::message::Message;
use postrider_domain::time::Timestamp;
use postrider_store::{DeliveryKey, Due, DueSlice, MessageKey, TooLarge};

use super::{Budgets, Busy, State, Step};
use crate::budget::{Cost, Part, Refusal, Reserved};
use crate::limits::{LAST_HUNGER, MANNERS};

/// A window is this many times what may be under way, within these bounds.
const WINDOW_FACTOR: u32 = 8;
const MIN_WINDOW: u32 = 8;
const MAX_WINDOW: u32 = 256;

/// Loads that may go on where the last one ended, before one looks from the beginning again.
pub(super) const LOADS_IN_A_ROW: u32 = 32;

/// The most erased messages that a lane remembers while it loads; beyond that it loads again.
const MAX_ERASED_MEANWHILE: usize = 4_096;

/// A lane that was refused memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hungry {
    /// It was just now.
    Refused(Refusal),
    /// Nothing more is loaded before this instant.
    Until(Timestamp),
}

/// The first wait before memory that was refused is asked for again.
pub(super) const FIRST_HUNGER: Duration = Duration::from_millis(50);

/// The wait before a load is repeated that found nothing but what is still on its way through memory; twice as long each time.
pub(super) const FIRST_ON_ITS_WAY: Duration = Duration::from_millis(20);
const LAST_ON_ITS_WAY: Duration = Duration::from_millis(160);

/// Messages, by number.
pub(crate) type Messages = HashSet<MessageKey, foldhash::fast::RandomState>;

/// A delivery in the window.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) key: DeliveryKey,
    pub(crate) made: u32,
    pub(crate) trigger: Trigger,
    pub(crate) message: Arc<Message>,
    /// Of what its memory was taken.
    pub(super) part: Part,
}

/// What to load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    /// What is due at this instant.
    pub(crate) now: Timestamp,
    /// And comes after this one; from the beginning if there is none.
    pub(crate) after: Option<DeliveryKey>,
    /// At most so many deliveries.
    pub(crate) limit: usize,
    /// At most so many bytes of payload.
    pub(crate) max_bytes: usize,
}

impl Load {
    /// Whether it ended because there was nothing more.
    fn was_the_last(&self, found: &DueSlice) -> bool {
        found.due.len() < self.limit && found.too_large.is_none()
    }
}

/// What happened while a load was under way, which may have seen the store as it was before.
#[derive(Default)]
pub(super) struct Meanwhile {
    /// Keys that stopped being held.
    settled: HashSet<DeliveryKey>,
    /// Messages whose payloads were erased.
    erased: HashSet<MessageKey>,
    /// Messages that a hand has delivered: what the schedule had for them is over.
    delivered: HashSet<MessageKey>,
    /// There was more than is remembered: what was loaded is not to be used.
    too_much: bool,
}

impl Meanwhile {
    /// Whether a delivery that was loaded is none any more.
    fn has_ended(&self, due: &Due) -> bool {
        let by_hand = due.trigger == Trigger::Scheduled && self.delivered.contains(&due.key.message);
        by_hand || self.settled.contains(&due.key)
    }
}

/// What a message needs in memory; nothing, if there is no payload any more.
fn needs_of(key: MessageKey, message: &Message) -> Option<TooLarge> {
    let payload_bytes = message.payload.as_ref()?.len();
    Some(TooLarge { message: key, payload_bytes })
}

impl State {
    /// Offers a delivery straight from its accept commit. It is taken if there is room (true), else found in the store
    /// later.
    pub(crate) fn offer(&mut self, message: &Arc<Message>, key: MessageKey, budgets: &Budgets) -> bool {
        let key = DeliveryKey { due_at: message.created_at, message: key };
        // What waits in the store is older: taking this one first would let it overtake for ever.
        let free = !self.more && self.hungry.is_none() && self.window.len() < self.window_size();
        // Before it is known whose it is, nothing is charged to anybody. And whoever has nothing lets those go first who were refused.
        let needs = needs_of(key.message, message);
        let mut room = free && self.owner.is_some();
        if room && self.lets_others_go_first(needs, message.created_at, budgets) {
            // It asks for that memory when it is its turn.
            (room, self.needs) = (false, needs);
        }
        let (trigger, message) = (Trigger::Scheduled, Arc::clone(message));
        let delivery = Held { key, made: 0, trigger, message, part: Part::Within };
        let taken = self.held.contains(&key) || (room && self.hold(delivery, &mut Reserved::nothing(), budgets));
        if !taken {
            self.wake();
        }
        taken
    }

    /// Takes memory for a delivery, of what is `reserved` for it, and charge of it; false if that is refused.
    pub(super) fn hold(&mut self, mut delivery: Held, reserved: &mut Reserved, budgets: &Budgets) -> bool {
        let key = delivery.key.message;
        match budgets.memory.hold(self.owner, self.cost(), key, &delivery.message, reserved) {
            Ok((message, part)) => (delivery.message, delivery.part) = (message, part),
            Err(refusal) => {
                self.hungry.get_or_insert(Hungry::Refused(refusal));
                self.needs = needs_of(key, &delivery.message);
                return false;
            }
        }
        self.held_cost += Cost::of_message(&delivery.message);
        (self.hungry, self.hunger) = (None, FIRST_HUNGER);
        self.held.insert(delivery.key);
        self.window.push_back(delivery);
        self.prepared();
        true
    }

    /// A delivery's result is in the store. If it is to be tried again, that is due at `next_at`. Its answer took
    /// `answer_bytes` of memory.
    pub(crate) fn settled(
        &mut self,
        delivery: &Held,
        next_at: Option<Timestamp>,
        answer_bytes: u64,
        budgets: &Budgets,
    ) {
        budgets.memory.of_answer(answer_bytes).discharge(self.owner, answer_bytes);
        // A retry that became due before it was stored is missed by a load before the commit, and by parking after it.
        if next_at.is_some_and(|at| at <= self.loaded_until) {
            self.wake();
        }
        if self.held.remove(&delivery.key) {
            self.held_cost -= Cost::of_message(&delivery.message);
            budgets.memory.let_go(self.owner, delivery.key.message, &delivery.message, delivery.part);
            if self.held.is_empty() {
                // It may have one message now, if nobody else waits for one.
                self.hungry = None;
            }
            if self.busy == Some(Busy::Load) {
                self.meanwhile.settled.insert(delivery.key);
            }
        }
    }

    /// A hand has delivered a message, and with the result the store has ended what the schedule had for it.
    pub(crate) fn series_ended(&mut self, message: MessageKey, budgets: &Budgets) {
        // It may have been what memory was refused for.
        self.needs.take_if(|needs| needs.message == message);
        if self.busy == Some(Busy::Load) {
            self.meanwhile.delivered.insert(message);
        }
        let is_over = |delivery: &Held| delivery.key.message == message && delivery.trigger == Trigger::Scheduled;
        if let Some(place) = self.window.iter().position(is_over)
            && let Some(delivery) = self.window.remove(place)
        {
            self.settled(&delivery, None, 0, budgets);
            // If the store has not ended it after all, it is found again.
            self.wake();
        }
    }

    /// Takes what waits of these messages out of the window; it stays held until its end is stored. What is being loaded of
    /// them is taken for what has no payload.
    pub(crate) fn withdraw(&mut self, messages: &Messages) -> Vec<Held> {
        // One of them may have been what memory was refused for.
        self.needs.take_if(|needs| messages.contains(&needs.message));
        if self.busy == Some(Busy::Load) {
            self.meanwhile.too_much |= self.meanwhile.erased.len() + messages.len() > MAX_ERASED_MEANWHILE;
            if !self.meanwhile.too_much {
                self.meanwhile.erased.extend(messages);
            }
        }
        if !self.window.iter().any(|delivery| messages.contains(&delivery.key.message)) {
            return Vec::new();
        }
        let (withdrawn, left) = self.window.drain(..).partition(|delivery| messages.contains(&delivery.key.message));
        self.window = left;
        withdrawn.into()
    }

    /// Drops what waits in memory; the store has it, and it is to be loaded again.
    pub(super) fn empty_window(&mut self, budgets: &Budgets) {
        if !self.window.is_empty() {
            self.wake();
        }
        self.drop_window(budgets);
    }

    pub(super) fn drop_window(&mut self, budgets: &Budgets) {
        self.place = None;
        for delivery in std::mem::take(&mut self.window) {
            self.settled(&delivery, None, 0, budgets);
        }
    }

    /// Whether it has taken charge of a message that came from its accept commit.
    pub(crate) fn has(&self, message: &Message, key: MessageKey) -> bool {
        self.held.contains(&DeliveryKey { due_at: message.created_at, message: key })
    }

    /// What a load has to leave out.
    pub(crate) fn held_keys(&self, load: &Load) -> HashSet<DeliveryKey> {
        self.held.iter().filter(|key| Some(**key) > load.after).copied().collect()
    }

    /// How many more deliveries have a place in the window.
    pub(super) fn room(&self) -> usize {
        self.window_size().saturating_sub(self.window.len())
    }

    pub(super) fn window_size(&self) -> usize {
        (self.pace.limit() * WINDOW_FACTOR).clamp(MIN_WINDOW, MAX_WINDOW) as usize
    }

    /// Takes what a load found. One that `is_passed_over` is still on its way through memory: it will be offered, and whoever passed it
    /// over and does not have it then is woken. Deliveries without a payload are returned: there is nothing to send, they can only be canceled.
    pub(crate) fn loaded(
        &mut self,
        found: DueSlice,
        load: Load,
        is_passed_over: impl Fn(&MessageId) -> bool,
        budgets: &Budgets,
    ) -> Vec<Due> {
        self.busy = None;
        let mut reserved = self.reserved.take().unwrap_or_else(Reserved::nothing);
        let empty = self.take_found(found, load, is_passed_over, &mut reserved, budgets);
        budgets.memory.give_back(self.owner, &reserved);
        empty
    }

    /// What was reserved for the load pays for what it found.
    fn take_found(
        &mut self,
        found: DueSlice,
        load: Load,
        is_passed_over: impl Fn(&MessageId) -> bool,
        reserved: &mut Reserved,
        budgets: &Budgets,
    ) -> Vec<Due> {
        self.prepared();
        let meanwhile = std::mem::take(&mut self.meanwhile);
        if meanwhile.too_much {
            self.more = true;
            return Vec::new();
        }
        let (mut empty, asked) = (Vec::new(), reserved.cost());
        let ended = load.was_the_last(&found);
        self.more |= !ended || load.after.is_some();
        self.needs = found.too_large;
        if let Some(receiver) = found.receiver {
            self.sees_receiver(receiver);
        }
        let (mut place, mut passed_over, mut useful) = (load.after, false, false);
        for mut due in found.due {
            let key = due.key;
            if meanwhile.erased.contains(&key.message) {
                due.message = None;
            }
            if due.fresh && due.message.as_ref().is_some_and(|message| is_passed_over(&message.id)) {
                passed_over = true;
                continue;
            }
            useful = true;
            let has_ended = meanwhile.has_ended(&due);
            self.more |= has_ended && due.trigger == Trigger::Scheduled && !meanwhile.settled.contains(&key);
            let is_over = self.held.contains(&key) || has_ended;
            let has_charge = is_over
                || self.has_waited_for(&due, asked, load.now, budgets)
                    && self.take_over(due, &mut empty, reserved, budgets);
            if !has_charge {
                self.more = true;
                break;
            }
            if !passed_over {
                place = Some(key);
            }
        }
        self.place = place.filter(|_| !ended);
        if passed_over && !useful && self.more {
            // The next load would find the same, and the next, until they are handed over.
            self.retry_store_at = Some(load.now.saturating_add(self.on_its_way));
            self.on_its_way = (self.on_its_way * 2).min(LAST_ON_ITS_WAY);
        } else if useful {
            self.on_its_way = FIRST_ON_ITS_WAY;
        }
        empty
    }

    /// Whether it is this lane's turn to take memory for a delivery that was loaded. One that has nothing was let in for the kind
    /// of memory that it `asked` for; of the other kind others may have been refused.
    fn has_waited_for(&mut self, due: &Due, asked: Cost, now: Timestamp, budgets: &Budgets) -> bool {
        let Some(needs) = due.message.as_ref().and_then(|message| needs_of(due.key.message, message)) else {
            return true;
        };
        let is_other = budgets.memory.cost(self.cost(), needs).is_large() != asked.is_large();
        if is_other && self.lets_others_go_first(Some(needs), now, budgets) {
            self.needs = Some(needs);
            return false;
        }
        true
    }

    /// Whether a lane that has nothing would have what others with nothing were refused.
    fn lets_others_go_first(&self, needs: Option<TooLarge>, now: Timestamp, budgets: &Budgets) -> bool {
        let memory = &budgets.memory;
        self.held.is_empty()
            && needs.is_some_and(|needs| memory.is_starving(self.owner, memory.cost(self.cost(), needs), now))
    }

    /// What it costs that it holds, or has reserved.
    fn cost(&self) -> Cost {
        let mut cost = self.held_cost;
        if let Some(reserved) = &self.reserved {
            cost += reserved.cost();
        }
        cost
    }

    /// Takes charge of a delivery that was loaded; false if there is no room. One without a payload is put with the others
    /// of its kind.
    fn take_over(&mut self, due: Due, empty: &mut Vec<Due>, reserved: &mut Reserved, budgets: &Budgets) -> bool {
        let Some(message) = due.message.clone() else {
            self.held.insert(due.key);
            empty.push(due);
            return true;
        };
        let Due { key, made, trigger, .. } = due;
        self.hold(Held { key, made, trigger, message, part: Part::Within }, reserved, budgets)
    }

    /// A delivery without payload was canceled.
    pub(crate) fn canceled(&mut self, key: &DeliveryKey) {
        self.held.remove(key);
    }

    /// Until when nothing is loaded because memory was refused. What is known not to fit is not read before there is memory for
    /// it: a thousand lanes that wait for that would read it again and again, and leave no reader to anybody else.
    pub(super) fn hungry_until(&mut self, now: Timestamp, budgets: &Budgets) -> Option<Timestamp> {
        match self.hungry {
            Some(Hungry::Refused(refusal)) => return self.go_hungry(refusal, now, budgets),
            Some(Hungry::Until(until)) if until > now => return Some(until),
            None if self.lets_others_go_first(self.needs, now, budgets) => {
                let until = now.saturating_add(MANNERS);
                self.hungry = Some(Hungry::Until(until));
                return Some(until);
            }
            _ => {}
        }
        let Some(needs) = self.needs else {
            self.hungry = None;
            return None;
        };
        match budgets.memory.reserve(self.owner, self.held_cost, needs) {
            Ok(reserved) => (self.hungry, self.reserved) = (None, Some(reserved)),
            Err(refusal) => return self.go_hungry(refusal, now, budgets),
        }
        None
    }

    fn go_hungry(&mut self, refusal: Refusal, now: Timestamp, budgets: &Budgets) -> Option<Timestamp> {
        if self.held.is_empty() {
            budgets.memory.starves(self.owner, refusal, now);
        }
        let until = now.saturating_add(self.hunger);
        self.hungry = Some(Hungry::Until(until));
        self.hunger = (self.hunger * 2).min(LAST_HUNGER);
        Some(until)
    }

    /// What was taken for a load that found nothing.
    pub(super) fn give_back_reserved(&mut self, budgets: &Budgets) {
        if let Some(reserved) = self.reserved.take() {
            budgets.memory.give_back(self.owner, &reserved);
        }
    }

    pub(super) fn begin_load(&mut self, now: Timestamp, budgets: &Budgets) -> Step {
        self.more = false;
        self.loaded_until = now;
        let after = self.place.filter(|_| self.loads_in_a_row < LOADS_IN_A_ROW);
        self.loads_in_a_row = if after.is_some() { self.loads_in_a_row + 1 } else { 0 };
        let reserved = self.reserved.as_ref().map(Reserved::payload_bytes);
        let max_bytes = reserved.unwrap_or_else(|| budgets.memory.look(self.owner, self.held_cost));
        let max_bytes = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        self.begin(Busy::Load, Step::Load(Load { now, after, limit: self.room(), max_bytes }))
    }
}
