//! What a request costs, charged to who sent it: one place among the requests under way, bytes of its body, bytes of its
//! answer. Whatever one caller sends, the others find room, because every budget is shared out (see
//! [`postrider_ingest::budget`]): an operator is a party of his own, the tokens of his applications are another, and each
//! of those applications has only part of that.
//!
//! An account is opened with the request, named when its caller is known, and closed with the last byte of its answer.
//! What is not named costs nothing: bodies are read, and lists made, for known callers only.
//!
//! **In which order a request waits.** Who waits keeps what he has from others, so he has nothing that they need at once:
//!
//! 1. room, for the bytes of the body ([`Account::charge`]) and of the answer ([`Account::reserve_list`], [`Account::reserve_whole`]):
//!    it depends on what clients send and read, and may take as long as they like;
//! 2. a turn, to have something large read or written (`large.rs`): that depends on what is done in others' turns. Whoever has
//!    one waits neither for room nor for a place; it ends with the reading or writing;
//! 3. a place to be worked on ([`Account::begin_work`]). Waiting for room, for bytes or for a turn lets it go, and who waited begins
//!    again.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::ApplicationId;
use postrider_domain::memory::Part;
use postrider_ingest::LimitOptions;
use postrider_ingest::budget::{Budget, Held, Refused, Share};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::at_work::AtWork;
use crate::auth::Principal;
use crate::error::{ApiError, Result};
use crate::router::Shared;

postrider_domain::limits! {
    in "Requests";
    /// Requests under way of an operator, in percent of `server.max_connections`
    pub const OPERATOR_PERCENT: u64 = 87, "%", beyond "429";
    /// Requests under way of an application's tokens, in percent of `server.max_connections`
    pub const APPLICATION_PERCENT: u64 = 35, "%", beyond "429";
    /// Bytes of request bodies in memory
    setting "limits.request_bytes", beyond "waits up to 5 s, then 429 (own share) or 503";
    /// Bytes of answers in memory until they are read
    setting "limits.response_bytes", beyond "waits up to 5 s, then 429 (own share) or 503";
    /// What a list, a message or an event type counts as among the answers, until what is in it is known
    pub const LIST_BYTES: u64 = 6_291_456, "bytes", beyond "waits up to 5 s, then 429 or 503";
    /// All event types of an environment in one answer (export, catalogue)
    pub const WHOLE_BYTES: u64 = 8_388_608, "bytes of their texts", beyond "413";
    /// What a byte of a body counts as: what came, and what is made of it
    pub const BODY_FACTOR: u64 = 2, "bytes", beyond "429 or 503";
    /// How long a request waits for its share
    pub const PATIENCE_SECONDS: u64 = 5, "seconds", beyond "429 or 503 with `Retry-After`";
    /// The body of a request: its first byte, and each that follows
    setting "limits.body_stall", beyond "408";
    /// Applications of an environment
    unbounded because "only the operator makes them; each is a row in the store, and what is in memory of them has its own bound";
    /// Endpoints of an application
    setting "limits.endpoints_per_application", beyond "400 `limit_reached`";
    /// Event types of an environment
    setting "limits.event_types_per_environment", beyond "400 `limit_reached`";
    /// The body of a request as a whole
    setting "limits.body_timeout", beyond "408";
}

/// What callers take in memory at most, beside their connections.
pub fn memory(limits: &LimitOptions) -> Vec<Part> {
    vec![
        Part::set("limits.request_bytes", "bodies of requests", limits.request_bytes),
        Part::set("limits.response_bytes", "answers that are not read yet", limits.response_bytes),
        Part::fixed("tokens of callers, remembered", crate::auth::CACHE_BYTES),
    ]
}

const PATIENCE: Duration = Duration::from_secs(PATIENCE_SECONDS);

/// Who shares.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Party {
    /// An operator, calling for himself.
    Operator(EnvironmentId),
    /// The tokens of all applications of an environment.
    Applications(EnvironmentId),
    /// The tokens of one application.
    Application(ApplicationId),
    /// Everybody who reads what an environment has published.
    Public(EnvironmentId),
}

type Shares = Arc<[Share<Party>]>;

/// The parties to which a caller's requests are charged.
fn shares(principal: &Principal) -> Shares {
    match principal {
        Principal::Environment(environment) => {
            Arc::new([Share { party: Party::Operator(environment.clone()), divisor: 1 }])
        }
        Principal::Application { environment, application, .. } => Arc::new([
            Share { party: Party::Applications(environment.clone()), divisor: 2 },
            Share { party: Party::Application(*application), divisor: 4 },
        ]),
    }
}

/// The budgets of the API.
pub(crate) struct Budgets {
    requests: Arc<Budget<Party>>,
    uploads: Arc<Budget<Party>>,
    answers: Arc<Budget<Party>>,
    at_work: AtWork,
    /// Deadlines of bodies.
    pub(crate) stall: Duration,
    pub(crate) timeout: Duration,
}

impl Budgets {
    /// `connections` is how many there can be at once, each with one request. Those are twice as many places: the share of a
    /// party is smaller than what it may have of the connections.
    pub(crate) fn new(options: &LimitOptions, connections: u64) -> Self {
        Self {
            requests: Budget::new(connections.saturating_mul(2)),
            uploads: Budget::new(options.request_bytes),
            answers: Budget::new(options.response_bytes),
            at_work: AtWork::default(),
            stall: options.body_stall.0,
            timeout: options.body_timeout.0,
        }
    }
}

/// What one request costs.
pub(crate) struct Account {
    pub(crate) budgets: Arc<Budgets>,
    shares: OnceLock<Shares>,
    /// The places of the application whose token it is.
    line: OnceLock<Arc<Semaphore>>,
    held: Mutex<Holdings>,
}

#[derive(Default)]
struct Holdings {
    place: Option<Held<Party>>,
    /// The request is worked on.
    work: Option<OwnedSemaphorePermit>,
    upload: Option<Held<Party>>,
    answer: Option<Held<Party>>,
}

/// Marks requests for lists, whose answers may be large.
#[derive(Clone, Copy)]
pub(crate) struct IsList;

impl Account {
    pub(crate) fn new(budgets: Arc<Budgets>) -> Arc<Self> {
        Arc::new(Self { budgets, shares: OnceLock::new(), line: OnceLock::new(), held: Mutex::default() })
    }

    /// Names the caller, who gets one place among the requests under way, and if it asks for a list, room for a page. Then the token
    /// of an application waits until there is a place to be worked on.
    pub(crate) async fn open(&self, principal: &Principal, is_list: bool) -> Result<()> {
        let shares = shares(principal);
        if self.shares.set(Arc::clone(&shares)).is_err() {
            // Named already, by another argument of the same handler.
            return Ok(());
        }
        let place =
            self.budgets.requests.try_take(&shares, 1).map_err(|refused| over(refused, "requests under way"))?;
        self.held.lock().place = Some(place);
        if let Principal::Application { application, .. } = principal {
            let _ = self.line.set(self.budgets.at_work.line(*application));
        }
        if is_list {
            self.reserve_list().await?;
        }
        self.begin_work().await
    }

    /// Waits for a place to be worked on. To be called with what else the request needs, and without a turn.
    pub(crate) async fn begin_work(&self) -> Result<()> {
        let Some(line) = self.line.get() else { return Ok(()) };
        if self.held.lock().work.is_some() {
            return Ok(());
        }
        let place = tokio::time::timeout(PATIENCE, Arc::clone(line).acquire_owned()).await;
        let place = place.ok().and_then(std::result::Result::ok);
        let place = place.ok_or_else(|| over(Refused::Share, "requests that are worked on"))?;
        self.held.lock().work = Some(place);
        Ok(())
    }

    /// The request waits for something else: others may be worked on meanwhile.
    pub(crate) fn pause_work(&self) {
        self.held.lock().work = None;
    }

    /// Makes whoever reads what an environment has published pay for it together.
    pub(crate) fn open_to_all(&self, environment: &EnvironmentId) {
        let share = Share { party: Party::Public(environment.clone()), divisor: 2 };
        // It may be set already; then somebody pays.
        let _ = self.shares.set(Arc::new([share]));
    }

    /// Whose caller it is, once that is known.
    pub(crate) fn environment(&self) -> Option<&EnvironmentId> {
        self.shares.get()?.iter().find_map(|share| match &share.party {
            Party::Operator(environment) | Party::Applications(environment) | Party::Public(environment) => {
                Some(environment)
            }
            Party::Application(_) => None,
        })
    }

    /// Makes room for a page, or for something else that may be as large. To be called without a turn; work on the request pauses.
    pub(crate) async fn reserve_list(&self) -> Result<()> {
        self.reserve(LIST_BYTES).await
    }

    /// Makes room for all event types of an environment: the rows, and the answer that is made of them. To be called without a
    /// turn; work on the request pauses.
    pub(crate) async fn reserve_whole(&self) -> Result<()> {
        self.reserve(2 * WHOLE_BYTES).await
    }

    async fn reserve(&self, bytes: u64) -> Result<()> {
        self.pause_work();
        let Some(shares) = self.shares.get() else { return Ok(()) };
        let room = self.budgets.answers.take(shares, bytes, PATIENCE).await;
        let room = room.map_err(|refused| over(refused, "answers that are not read yet"))?;
        self.held.lock().answer = Some(room);
        Ok(())
    }

    /// Charges bytes of a body that were read, or are about to be. To be called without a turn; work on the request pauses.
    pub(crate) async fn charge(&self, bytes: usize) -> Result<()> {
        self.pause_work();
        let Some(shares) = self.shares.get() else { return Ok(()) };
        let mut upload = self.held.lock().upload.take();
        let amount = (bytes as u64).saturating_mul(BODY_FACTOR);
        let taken = match &mut upload {
            Some(held) => held.grow(amount, PATIENCE).await,
            None => self.budgets.uploads.take(shares, amount, PATIENCE).await.map(|held| upload = Some(held)),
        };
        self.held.lock().upload = upload;
        taken.map_err(|refused| over(refused, "request bodies under way"))
    }

    /// Gives back all but `bytes` of what the body was charged.
    pub(crate) fn keep(&self, bytes: usize) {
        if let Some(upload) = &mut self.held.lock().upload {
            upload.shrink_to((bytes as u64).saturating_mul(BODY_FACTOR));
        }
    }

    /// Charges an answer that is about to be sent, until the client has read it. What was made for it is not needed any
    /// more, nor is the body of the request. An answer to a change is sent in any case: what was done is done. It is paid
    /// from what the request was charged, as far as that goes.
    pub(crate) fn seal(&self, body: Bytes, is_change: bool) -> Result<Body> {
        self.pause_work();
        let (Some(shares), false) = (self.shares.get(), body.is_empty()) else { return Ok(Body::from(body)) };
        let (upload, room) = {
            let mut held = self.held.lock();
            (held.upload.take(), held.answer.take())
        };
        let amount = body.len() as u64;
        let larger = upload.into_iter().chain(room).max_by_key(Held::amount);
        if let Some(mut paid) = larger.filter(|paid| paid.amount() >= amount) {
            paid.shrink_to(amount);
            return Ok(charged(body, paid));
        }
        match self.budgets.answers.try_take(shares, amount) {
            Ok(held) => Ok(charged(body, held)),
            Err(_) if is_change => Ok(Body::from(body)),
            Err(refused) => Err(over(refused, "answers that are not read yet")),
        }
    }
}

fn charged(body: Bytes, held: Held<Party>) -> Body {
    Body::from(Bytes::from_owner(Charged { body, _held: held }))
}

/// The account of a request, for handlers whose answers are large without being lists.
pub(crate) struct Ledger(pub(crate) Arc<Account>);

impl FromRequestParts<Shared> for Ledger {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self> {
        let account = parts.extensions.get::<Arc<Account>>().cloned();
        Ok(Self(account.unwrap_or_else(|| Account::new(Arc::clone(&state.budgets)))))
    }
}

/// Bytes that count until the last slice of them is gone, wherever it waits to be written.
struct Charged {
    body: Bytes,
    _held: Held<Party>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// 429 if the caller has too much of something, 503 if everybody has.
fn over(refused: Refused, what: &str) -> ApiError {
    match refused {
        Refused::Share => {
            let detail = format!("You have too many {what} at once. Try again in a moment, with fewer at a time.");
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", detail)
        }
        Refused::Full => {
            let detail = format!("The server has too many {what} at once. Try again in a moment.");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail)
        }
    }
}

/// Says when to come back, on every answer that means "not now".
pub(crate) fn retry_after(response: &mut Response) {
    if matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        response.headers_mut().entry(header::RETRY_AFTER).or_insert(HeaderValue::from_static("1"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use postrider_domain::ids::{Id as _, Ksuid};
    use postrider_domain::time::Timestamp;

    use crate::at_work::MAX_AT_WORK;

    fn token(seconds: u64) -> Principal {
        let at = Timestamp::EPOCH.saturating_add(Duration::from_secs(2_000_000_000 + seconds));
        Principal::Application {
            environment: EnvironmentId::default_environment(),
            application: ApplicationId::from_ksuid(Ksuid::floor(at)),
            feature_flags: Vec::new(),
            rights: crate::auth::Rights::ALL,
        }
    }

    #[tokio::test]
    async fn so_many_requests_of_an_applications_tokens_are_worked_on_and_those_of_others_do_not_wait() {
        let budgets = Arc::new(Budgets::new(&LimitOptions::default(), 1_000));
        let open = async |seconds| {
            let account = Account::new(Arc::clone(&budgets));
            account.open(&token(seconds), false).await.map(|()| account)
        };
        let mut at_work = Vec::new();
        for _ in 0..MAX_AT_WORK {
            at_work.push(open(1).now_or_never().expect("there is a place").unwrap());
        }
        assert!(open(1).now_or_never().is_none(), "one more waits");
        assert!(open(2).now_or_never().is_some(), "another application's does not");
        let line = budgets.at_work.line(match token(1) {
            Principal::Application { application, .. } => application,
            Principal::Environment(_) => unreachable!(),
        });
        // Who waits for his body, or has his answer, lets others work.
        at_work[0].pause_work();
        assert_eq!(line.available_permits(), 1);
        let another = open(1).now_or_never().expect("there is a place").unwrap();
        assert!(at_work[0].begin_work().now_or_never().is_none(), "and waits for his turn");
        let _ = another.seal(Bytes::from_static(b"{}"), true);
        assert!(at_work[0].begin_work().now_or_never().is_some());
        drop((at_work, another));
        assert_eq!(line.available_permits(), MAX_AT_WORK);
    }

    #[test]
    fn the_shares_of_requests_are_what_is_said_of_them() {
        let environment = EnvironmentId::default_environment();
        let application = ApplicationId::from_ksuid(Ksuid::floor(Timestamp::EPOCH));
        let rights = crate::auth::Rights::ALL;
        let portal =
            Principal::Application { environment: environment.clone(), application, feature_flags: Vec::new(), rights };
        for (principal, percent) in
            [(Principal::Environment(environment), OPERATOR_PERCENT), (portal, APPLICATION_PERCENT)]
        {
            let budgets = Budgets::new(&LimitOptions::default(), 1_000);
            let shares = shares(&principal);
            let places: Vec<_> = std::iter::from_fn(|| budgets.requests.try_take(&shares, 1).ok()).collect();
            assert_eq!(places.len() as u64 / 10, percent);
        }
    }
}
