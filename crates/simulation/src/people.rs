//! What people do while the process runs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_domain::application::ApplicationPatch;
use postrider_domain::endpoint::{EndpointPatch, EndpointUrl};
use postrider_domain::ids::TaskId;
use postrider_domain::names::{EventTypeName, IdOrUid};
use postrider_domain::signature::{Secret, SecretKind};
use postrider_ingest::{Submission, SubmitError, Submitted};
use postrider_store::{IdempotencyKey, Job, Messages, NewTask, ReplayFilter, Span, Tasks, Work};

use crate::book::{At, Limited, Rated};
use crate::bounds::LARGEST;
use crate::carrier::Manner;
use crate::image;
use crate::life::Life;
use crate::place::Place as Home;
use crate::store::Weather;

/// In which a receiver has asked to be left alone, and that is being noted.
const ASKING: Duration = Duration::from_millis(400);

/// The longest time for which this machine cannot reach a receiver.
const OUT_OF_REACH: Duration = Duration::from_secs(2);

/// So many idempotency keys an application uses.
const KEYS: usize = 4;

impl Life {
    /// Somebody does something.
    pub(crate) async fn deed(self: Arc<Self>) {
        let dice = &self.world.dice;
        match dice.below(25) {
            0..=6 => self.submit(1).await,
            7..=9 => self.submit(2 + dice.below(30)).await,
            10 | 11 => {
                let manner = *dice.one(&Manner::ALL);
                let home = self.some_home();
                self.line(|| format!("endpoint {} {manner:?} from now on", home.endpoint.0));
                self.world.receivers.set(home.endpoint, manner);
            }
            12 => {
                let weather = Weather::drawn(dice);
                self.line(|| format!("the weather changes: {weather:?}"));
                *self.store.weather.lock() = weather;
            }
            13 | 14 => self.resend().await,
            15 => self.erase().await,
            16 => self.replay().await,
            17 => self.disable(true).await,
            18 => self.disable(false).await,
            19 => self.limit().await,
            20 => self.limit_application().await,
            21 => self.rotate().await,
            22 => self.submit_apart().await,
            23 => self.submit_while_out_of_reach().await,
            _ if dice.happens(0.2) => self.delete().await,
            _ => self.move_away().await,
        }
    }

    fn some_home(&self) -> Home {
        *self.world.dice.one(&self.world.homes)
    }

    async fn submit(&self, count: usize) {
        let home = self.some_home();
        let submissions = (0..count).map(|_| self.submission(&home)).collect::<Vec<_>>();
        let keys = submissions.iter().map(|submission| submission.idempotency).collect::<Vec<_>>();
        let results = if count == 1 {
            let mut results = Vec::new();
            for submission in submissions {
                results.push(self.intake.submit(submission).await);
            }
            results
        } else {
            self.intake.submit_all(submissions).await
        };
        for (key, result) in keys.into_iter().zip(results) {
            self.note_answer(key, result);
        }
    }

    /// A message now and then, for as long as a rate lets them pass.
    async fn submit_apart(&self) {
        let home = self.some_home();
        for _ in 0..self.world.dice.below(12) {
            let submission = self.submission(&home);
            let key = submission.idempotency;
            self.note_answer(key, self.intake.submit(submission).await);
            tokio::time::sleep(self.world.dice.time(Duration::from_millis(300))).await;
        }
    }

    /// A message that this machine cannot send to one of its endpoints for a moment, which may be shorter than the message is on its way
    /// to the others.
    pub(crate) async fn submit_while_out_of_reach(&self) {
        let (home, dice) = (self.some_home(), &self.world.dice);
        self.line(|| format!("endpoint {} cannot be reached for a moment", home.endpoint.0));
        self.world.receivers.set(home.endpoint, Manner::CannotBeReachedFromHere);
        let submission = Submission { deliver_at: None, ..self.submission(&home) };
        self.note_answer(submission.idempotency, self.intake.submit(submission).await);
        tokio::time::sleep(dice.time(OUT_OF_REACH)).await;
        self.world.receivers.set(home.endpoint, Manner::Answers);
    }

    fn note_answer(&self, key: Option<IdempotencyKey>, result: Result<Submitted, SubmitError>) {
        let Ok(Submitted { message, .. }) = result else { return };
        self.world.book.note(|events| {
            let id = message.id.to_string();
            // Another message than the one under this key is one more.
            if let (Some(key), Some(message)) = (key, events.keys.get(&id).copied())
                && events.under.get(&key.0) != Some(&message)
            {
                events.accepted_under(key, message);
            }
            events.acked.insert(id);
        });
    }

    pub(crate) fn submission(&self, home: &Home) -> Submission {
        let dice = &self.world.dice;
        let later = dice.happens(0.1).then(|| self.clock.now().saturating_add(dice.time(Duration::from_secs(60))));
        let size = match dice.below(40) {
            0 => dice.below(LARGEST),
            1 | 2 => dice.below(300_000),
            _ => dice.below(100),
        };
        let mut payload = vec![b'1'; 1 + size];
        if dice.happens(0.03) {
            payload[0] = *dice.one(&[image::FAILS, image::ROLLS_BACK]);
        }
        let key = dice.happens(0.2).then(|| {
            let (application, number) = (home.application.0.to_be_bytes(), dice.below(KEYS).to_be_bytes());
            let mut key = [0; 16];
            key[..8].copy_from_slice(&application);
            key[8..].copy_from_slice(&number);
            IdempotencyKey(key)
        });
        if key.is_some() && dice.happens(self.world.failing_runs) {
            payload[0] = image::FAILS_RUN;
        }
        Submission {
            environment: self.world.environment.clone(),
            application: IdOrUid::Id(home.application_id),
            event_type: EventTypeName::from_trusted("a".to_owned()),
            event_id: None,
            channels: None,
            payload: Bytes::from(payload),
            tags: None,
            deliver_at: later,
            retention: None,
            create_application: None,
            only: None,
            idempotency: key,
        }
    }

    /// A delivery that was made some time.
    fn some_delivery(&self) -> Option<At> {
        self.world.book.note(|events| {
            let count = events.accepted.len();
            let nth = (count > 0).then(|| self.world.dice.below(count))?;
            events.accepted.keys().nth(nth).copied()
        })
    }

    async fn resend(&self) {
        let (Some((endpoint, message)), now) = (self.some_delivery(), self.clock.now()) else { return };
        self.line(|| format!("is asked to send message {} to endpoint {} again", message.0, endpoint.0));
        // It may be refused: the payload is gone, or the weather is bad.
        let _ = self.store.resend(endpoint, message, now, None).await;
    }

    async fn erase(&self) {
        let Some((_, message)) = self.some_delivery() else { return };
        self.world.book.note(|events| events.erasing.insert(message));
        if self.store.expunge_message(message).await.is_ok() {
            let now = self.clock.now();
            self.world.book.note(|events| {
                events.erased.entry(message).or_insert(now);
            });
            self.line(|| format!("has erased message {}", message.0));
        }
    }

    async fn replay(&self) {
        let (dice, now) = (&self.world.dice, self.clock.now());
        let home = self.some_home();
        let span = Span { since: now.saturating_sub(Duration::from_secs(600)), until: now };
        let endpoint = home.endpoint;
        let job = match dice.below(3) {
            0 => Job::Recover { endpoint, span },
            1 => Job::Replay { endpoint, span },
            _ => Job::BulkReplay { endpoint, span, filter: ReplayFilter::default() },
        };
        self.line(|| format!("is asked for {job:?}"));
        let (id, environment) = (TaskId::new(now, dice.as_ref()), self.world.environment.clone());
        self.world.book.note(|events| events.tasks.insert(id, endpoint));
        let new = NewTask { id, environment, job, created_at: now };
        // It may be refused: another one is under way.
        let _ = self.store.create_task(new, None).await;
    }

    async fn disable(&self, disabled: bool) {
        let home = self.some_home();
        self.line(|| format!("endpoint {}: disabled is set to {disabled}", home.endpoint.0));
        self.change(&home, EndpointPatch { disabled: Some(disabled), ..EndpointPatch::default() }).await;
    }

    async fn delete(&self) {
        let home = self.some_home();
        self.line(|| format!("endpoint {} is to be deleted", home.endpoint.0));
        let (below, id) = (&self.store.below, IdOrUid::Id(home.endpoint_id));
        let deletion = async {
            let deleted = below.delete_endpoint(home.application, &id, self.clock.now()).await;
            if deleted.is_ok() {
                self.world.book.note(|events| {
                    events.opens(home.endpoint, false);
                    events.deleted.insert(home.endpoint);
                });
            }
            deleted
        };
        // It may be deleted already.
        let _ = self.store.change("delete_endpoint", home.endpoint, deletion).await;
    }

    async fn move_away(&self) {
        let (home, dice) = (self.some_home(), &self.world.dice);
        if dice.happens(0.5) {
            // Many move because their receiver has too much to do.
            self.world.receivers.set(home.endpoint, Manner::AsksToWait);
            let submission = Submission { deliver_at: None, ..self.submission(&home) };
            self.note_answer(submission.idempotency, self.intake.submit(submission).await);
            tokio::time::sleep(dice.time(ASKING)).await;
        }
        let url = EndpointUrl::parse(&format!("https://elsewhere-{}.example/hook", dice.below(1_000))).ok();
        self.line(|| format!("endpoint {} moves", home.endpoint.0));
        self.change(&home, EndpointPatch { url, ..EndpointPatch::default() }).await;
    }

    /// Somebody changes how much an endpoint may get.
    async fn limit(&self) {
        let (home, rate) = (self.some_home(), self.world.some_rate());
        self.line(|| format!("endpoint {} may get {rate:?} a second", home.endpoint.0));
        let patch = EndpointPatch { throttle_rate: Some(rate), ..EndpointPatch::default() };
        if self.change(&home, patch).await {
            self.line(|| format!("endpoint {} gets {rate:?} a second", home.endpoint.0));
        }
    }

    async fn limit_application(&self) {
        let (home, rate) = (self.some_home(), self.world.some_rate());
        self.line(|| format!("application {} may get {rate:?} a second", home.application.0));
        let patch = ApplicationPatch { throttle_rate: Some(rate), ..ApplicationPatch::default() };
        let id = IdOrUid::Id(home.application_id);
        let change = async {
            let changed =
                self.store.below.update_application(&self.world.environment, &id, patch, self.clock.now()).await;
            if changed.is_ok() {
                self.note_rate(Limited::Application(home.application), rate);
            }
            changed
        };
        // Bad weather: somebody who cared would try again.
        let _ = self.store.call("update_application", change).await;
    }

    fn note_rate(&self, whose: Limited, rate: Option<u16>) {
        self.world.book.note(|events| {
            let rated = |rate| Rated { at: self.clock.now(), life: self.number, rate };
            // Before the first one there was none.
            let rates = events.rates.entry(whose).or_insert_with(|| vec![Rated::at_first(None)]);
            // What was in force when this life began was so within it, too.
            let before = rates.last().map(|before| before.rate);
            rates.extend(before.map(rated));
            rates.push(rated(rate));
        });
    }

    async fn rotate(&self) {
        let (home, now) = (self.some_home(), self.clock.now());
        self.line(|| format!("endpoint {} gets another secret", home.endpoint.0));
        let secret = Secret::generate(SecretKind::Hmac256, self.world.dice.as_ref());
        let below = &self.store.below;
        let grace_until = now.saturating_add(self.world.dice.time(Duration::from_secs(60)));
        let rotation = below.rotate_secret(home.endpoint, secret, grace_until, now, None);
        // Bad weather, or too many of them.
        let _ = self.store.change("rotate_secret", home.endpoint, rotation).await;
    }

    /// False in bad weather: somebody who cared would try again.
    async fn change(&self, home: &Home, patch: EndpointPatch) -> bool {
        let (below, id, rate) = (&self.store.below, IdOrUid::Id(home.endpoint_id), patch.throttle_rate);
        let change = async {
            let changed = below.update_endpoint(home.application, &id, patch, self.clock.now()).await;
            if let (Ok(_), Some(rate)) = (&changed, rate) {
                self.note_rate(Limited::Endpoint(home.endpoint), rate);
            }
            changed
        };
        self.store.change("update_endpoint", home.endpoint, change).await.is_ok()
    }
}
