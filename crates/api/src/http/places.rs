//! Places for requests under way, as many as there are connections: each request has one from when its caller is known until its answer
//! was read. They are shared by the rule for all that environments share ([`postrider_domain::fair`]), so that those who have many, or let
//! their bodies come late, leave some to whoever has none, however many they are.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use postrider_domain::application::EnvironmentId;
use postrider_domain::fair::Stock;
use postrider_domain::ids::ApplicationId;
use postrider_ingest::budget::Refused;

/// Next to nothing of them, which whoever has no more finds in what is kept: one part of so many, eight of the usual 2,048.
const NEXT_TO_NOTHING: u64 = 256;

/// Of what there is for an environment, the tokens of its applications leave the operator one part of so many.
const OPERATORS_PART: i64 = 4;

/// Whose request it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Those who have no token are together what an environment is.
    environment: Option<EnvironmentId>,
    whose: Whose,
}

/// Who shares what there is for an environment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    /// Its operator, to whom it belongs.
    Operator,
    /// The tokens of one of its applications.
    Tokens(ApplicationId),
    /// Whoever reads what was published there.
    Published(EnvironmentId),
    /// Whoever asks for something of which it is not known yet whether it was.
    Strangers,
}

/// The places.
#[derive(Debug)]
pub(crate) struct Places {
    total: u64,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    environments: HashMap<Option<EnvironmentId>, OfEnvironment, foldhash::fast::RandomState>,
}

#[derive(Debug, Default)]
struct OfEnvironment {
    all: u64,
    of: HashMap<Whose, u64, foldhash::fast::RandomState>,
}

/// One of them; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    holder: Holder,
}

impl Holder {
    pub(crate) fn operator(environment: &EnvironmentId) -> Self {
        Self { environment: Some(environment.clone()), whose: Whose::Operator }
    }

    pub(crate) fn tokens(environment: &EnvironmentId, application: ApplicationId) -> Self {
        Self { environment: Some(environment.clone()), whose: Whose::Tokens(application) }
    }

    pub(crate) fn published(environment: &EnvironmentId) -> Self {
        Self { environment: None, whose: Whose::Published(environment.clone()) }
    }

    pub(crate) fn stranger() -> Self {
        Self { environment: None, whose: Whose::Strangers }
    }
}

impl Places {
    pub(crate) fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { total, taken: Mutex::default() })
    }

    /// Takes one.
    ///
    /// # Errors
    /// If whose request it is, or his environment, has as many as it may have.
    pub(crate) fn try_take(self: &Arc<Self>, holder: Holder) -> Result<Place, Refused> {
        self.taken.lock().take(&holder, self.total)?;
        Ok(Place { places: Arc::clone(self), holder })
    }

    /// How many are taken at present.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.taken.lock().all
    }
}

impl Taken {
    fn take(&mut self, holder: &Holder, total: u64) -> Result<(), Refused> {
        let least = signed(total / NEXT_TO_NOTHING).max(1);
        let stock = Stock { total: signed(total), free: signed(total.saturating_sub(self.all)), least, small: None };
        let environment = self.environments.get(&holder.environment);
        let taken = environment.map_or(0, |environment| environment.all);
        let own = environment.and_then(|environment| environment.of.get(&holder.whose).copied()).unwrap_or(0);
        let of_operator =
            environment.and_then(|environment| environment.of.get(&Whose::Operator).copied()).unwrap_or(0);
        let may_take = match holder.whose {
            Whose::Operator => stock.owner_may_take(signed(own), signed(taken), 1),
            Whose::Tokens(_) => {
                let room = stock.room(signed(taken));
                let kept = (signed(taken) + room) / OPERATORS_PART - signed(of_operator);
                room > kept && stock.may_take(signed(own), signed(taken), 1)
            }
            Whose::Published(_) | Whose::Strangers => stock.may_take(signed(own), signed(taken), 1),
        };
        if !may_take {
            return Err(if own > 0 { Refused::Share } else { Refused::Full });
        }
        let environment = self.environments.entry(holder.environment.clone()).or_default();
        *environment.of.entry(holder.whose.clone()).or_default() += 1;
        environment.all += 1;
        self.all += 1;
        Ok(())
    }

    fn give_back(&mut self, holder: &Holder) {
        let Some(environment) = self.environments.get_mut(&holder.environment) else { return };
        if let Some(own) = environment.of.get_mut(&holder.whose) {
            *own -= 1;
            if *own == 0 {
                environment.of.remove(&holder.whose);
            }
        }
        environment.all -= 1;
        if environment.all == 0 {
            self.environments.remove(&holder.environment);
        }
        self.all -= 1;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.lock().give_back(&self.holder);
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use postrider_domain::ids::{Id as _, Ksuid};
    use postrider_domain::time::Timestamp;

    fn environment(number: u32) -> EnvironmentId {
        EnvironmentId::parse(&format!("org_{number}")).unwrap()
    }

    fn application(number: u64) -> ApplicationId {
        let at = Timestamp::EPOCH.saturating_add(std::time::Duration::from_secs(2_000_000_000 + number));
        ApplicationId::from_ksuid(Ksuid::floor(at))
    }

    /// As many as there are for somebody.
    fn fill(places: &Arc<Places>, holder: &Holder) -> Vec<Place> {
        std::iter::from_fn(|| places.try_take(holder.clone()).ok()).collect()
    }

    /// What an environment can take by its operator and so many of its applications.
    fn fill_environment(places: &Arc<Places>, number: u32, applications: u64) -> Vec<Place> {
        let environment = environment(number);
        let operator = fill(places, &Holder::operator(&environment));
        let tokens = (0..applications).flat_map(|one| fill(places, &Holder::tokens(&environment, application(one))));
        operator.into_iter().chain(tokens).collect()
    }

    #[test]
    fn however_many_environments_take_all_that_they_may_the_next_one_finds_something() {
        for total in [256, 2_048] {
            for greedy in [1, 2, 4, 12] {
                for applications in [0, 4, 12] {
                    let places = Places::new(total);
                    let held: Vec<_> =
                        (0..greedy).flat_map(|number| fill_environment(&places, number, applications)).collect();
                    let is_said = format!("{greedy} environments of {applications} applications, of {total}");
                    assert!(places.used() < total, "{is_said}");
                    for next in [Holder::operator(&environment(99)), Holder::tokens(&environment(98), application(1))] {
                        let next = fill(&places, &next).len() as u64;
                        assert!(next >= total / 512, "{next} beside {is_said}");
                    }
                    drop(held);
                    assert_eq!(places.used(), 0);
                    assert!(places.taken.lock().environments.is_empty());
                }
            }
        }
    }

    #[test]
    fn beside_an_operator_and_many_applications_the_next_of_their_environment_finds_something() {
        let places = Places::new(2_048);
        let _held = fill_environment(&places, 1, 20);
        assert!(!fill(&places, &Holder::tokens(&environment(1), application(999))).is_empty());
    }

    #[test]
    fn however_many_applications_take_all_that_they_may_their_operator_has_his_part() {
        let places = Places::new(2_048);
        let _held: Vec<_> =
            (0..200).flat_map(|one| fill(&places, &Holder::tokens(&environment(1), application(one)))).collect();
        assert!(fill(&places, &Holder::operator(&environment(1))).len() >= 128);
        assert!(fill(&places, &Holder::operator(&environment(2))).len() >= 256);
    }

    #[test]
    fn who_has_no_token_is_one_of_many_and_leaves_most_to_the_others() {
        let places = Places::new(2_048);
        let mut held = fill(&places, &Holder::stranger());
        held.extend((0..100).flat_map(|number| fill(&places, &Holder::published(&environment(number)))));
        let operator = fill(&places, &Holder::operator(&environment(1))).len();
        assert!(operator >= 256, "{operator}");
    }

    #[test]
    fn whoever_is_refused_is_told_whether_it_is_for_what_he_has() {
        let places = Places::new(64);
        let _held = fill_environment(&places, 1, 0);
        assert_eq!(places.try_take(Holder::operator(&environment(1))).unwrap_err(), Refused::Share);
    }
}
