//! What applications have used of what they may use in a day.

use std::time::Duration;

use postrider_domain::allowance::Allowance;
use postrider_domain::time::Timestamp;
use postrider_store::ApplicationKey;

use crate::records::Use;
use crate::state::State;

impl State {
    /// What is left.
    pub(crate) fn left(&self, application: ApplicationKey, used: Use) -> Allowance {
        self.asked.get(&(application, used)).copied().unwrap_or(Allowance::WHOLE)
    }

    /// Notes that so much was used, and returns what is left; or notes nothing, and says how long it takes until there is room.
    pub(crate) fn spend(
        &mut self,
        application: ApplicationKey,
        used: Use,
        amount: u64,
        per_day: u64,
        now: Timestamp,
    ) -> Result<Allowance, Duration> {
        let left = self.left(application, used).spend(amount, per_day, now)?;
        self.asked.insert((application, used), left);
        Ok(left)
    }

    /// Notes that so much was used, though there may not be so much left: then nothing is.
    pub(crate) fn take(&mut self, application: ApplicationKey, used: Use, amount: u64, per_day: u64, now: Timestamp) {
        let left = self.left(application, used).left(per_day, now);
        let spent = self.spend(application, used, amount.min(left), per_day, now);
        debug_assert!(spent.is_ok(), "there is so much");
    }
}
