//! What a request costs, charged to who sent it: one place among the requests under way, bytes of its body, bytes of its
//! answer. Whatever one caller sends, the others find room, because places ([`crate::http::places`]) and every budget are shared out (see
//! [`postrider_ingest::budget`]): an operator is a party of his own, the tokens of his applications are another, and each
//! of those applications has only part of that.
//!
//! An account is opened with the request, named when its caller is known, and closed with the last byte of its answer: its place, too,
//! is given back only when that was read. If its body has not come by then, its connection is one of the first that go when they are
//! short. What is not named costs nothing: bodies are read, and lists made, for known callers only.
//!
//! **What was done is answered.** Whatever changes something, and then answers with what may be large, makes room for that first
//! ([`Account::reserve_answer`]): if there is none, nothing is done. Other changes have small answers ([`UNPAID_BYTES`]), which are sent
//! whether or not there is room, as many as there are places.
//!
//! **In which order a request waits.** Who waits keeps what he has from others, so he has nothing that they need at once:
//!
//! 1. room, for the bytes of the body ([`Account::charge`]) and of the answer ([`Account::reserve_list`], [`Account::reserve_whole`],
//!    [`Account::reserve_answer`]):
//!    it depends on what clients send and read, and may take as long as they like;
//! 2. a turn, to have something large read or written (`large.rs`): that depends on what is done in others' turns. Whoever has
//!    one waits neither for room nor for a place; it ends with the reading or writing;
//! 3. a place to be worked on ([`Account::begin_work`]). Waiting for room, for bytes or for a turn lets it go, and who waited begins
//!    again.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use postrider_domain::application::EnvironmentId;
use postrider_domain::ids::ApplicationId;
use postrider_ingest::budget::{Budget, Held, Refused, Share};
use postrider_ingest::{Caller, LimitOptions, Tenant, Whose};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::http::at_work::AtWork;
use crate::http::places::{Holder, Place, Places};
use crate::http::principal::Principal;
use crate::http::progress::{Progress, Watched};
use crate::wire::error::{ApiError, Result};

postrider_domain::limits! {
    in "Requests";
    /// Requests under way of an operator, in percent of `server.max_connections`, while nobody else has any
    pub const OPERATOR_PERCENT: u64 = 57, "%", beyond "429";
    /// Requests under way of an application's tokens, in percent of `server.max_connections`, while nobody else has any
    pub const APPLICATION_PERCENT: u64 = 28, "%", beyond "429";
    /// Requests under way that send lines of messages, of all callers, in percent of `server.max_connections`; one operator has half
    pub const LINES_PERCENT: u64 = 25, "%", beyond "429 (own share) or 503";
    /// Bytes of request bodies in memory
    setting "limits.request_bytes", beyond "waits up to 5 s, then 429 (own share) or 503";
    /// Bytes of answers in memory until they are read
    setting "limits.response_bytes", beyond "waits up to 5 s, then 429 (own share) or 503";
    /// What a list, a message or an event type counts as among the answers, until what is in it is known
    pub const LIST_BYTES: u64 = 6_291_456, "bytes", beyond "waits up to 5 s, then 429 or 503";
    /// All event types of an environment in one answer (export, catalogue)
    pub const WHOLE_BYTES: u64 = 8_388_608, "bytes of their texts", beyond "413";
    /// What the answer to a change of an endpoint counts as, until it is known
    pub const ENDPOINT_BYTES: u64 = 655_360, "bytes", beyond "waits up to 5 s, then 429 or 503 before anything is changed";
    /// What the answer to a change of an event type counts as, until it is known
    pub const EVENT_TYPE_BYTES: u64 = 1_179_648, "bytes", beyond "waits up to 5 s, then 429 or 503 before anything is changed";
    /// An answer to a change that is sent though its caller has no room for answers left; a larger one has its room before anything is
    /// changed
    pub const UNPAID_BYTES: u64 = 40_960, "bytes", beyond "429 or 503 before anything is changed";
    /// What a byte of a body counts as: what came, and what is made of it
    pub const BODY_FACTOR: u64 = 2, "bytes", beyond "429 or 503";
    /// How long a request waits for its share; of a body whose length is not said, all its pieces together, and of lines those of each
    pub const PATIENCE_SECONDS: u64 = 5, "seconds", beyond "429 or 503 with `Retry-After`";
    /// The body of a request: its first byte, and each that follows
    setting "limits.body_stall", beyond "408";
    /// Applications of an environment
    unbounded because "only the operator makes them; each is a row in the store, and what is in memory of them has its own bound";
    /// Endpoints of an application
    setting "limits.endpoints_per_application", beyond "400 `limit_reached`";
    /// Event types of an environment
    setting "limits.event_types_per_environment", beyond "400 `limit_reached`";
    /// The body of a request as a whole; of lines, each line from its first byte
    setting "limits.body_timeout", beyond "408";
}

/// However few connections there may be, so many requests send lines.
const FEWEST_LINES: u64 = 4;

const PATIENCE: Duration = Duration::from_secs(PATIENCE_SECONDS);

/// For how long the pieces of one body, or of one line of it, may still wait for room.
pub(crate) struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(PATIENCE)
    }
}

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
    requests: Arc<Places>,
    lines: Arc<Budget<Party>>,
    uploads: Arc<Budget<Party>>,
    answers: Arc<Budget<Party>>,
    at_work: AtWork,
    /// Deadlines of bodies.
    pub(crate) stall: Duration,
    pub(crate) timeout: Duration,
}

impl Budgets {
    /// `connections` is how many there can be at once, each with one request.
    pub(crate) fn new(options: &LimitOptions, connections: u64) -> Self {
        Self {
            requests: Places::new(connections),
            lines: Budget::new((connections * LINES_PERCENT / 100).max(FEWEST_LINES)),
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
    /// The application that the path names.
    application: OnceLock<Arc<str>>,
    /// Who is told how far the request is.
    watched: Option<Watched>,
}

#[derive(Default)]
struct Holdings {
    place: Option<Place>,
    /// The request is worked on.
    work: Option<OwnedSemaphorePermit>,
    upload: Option<Held<Party>>,
    answer: Option<Held<Party>>,
}

/// A place among the requests that send lines.
pub(crate) struct LinesPlace {
    _held: Held<Party>,
}

/// Marks requests for lists, whose answers may be large.
#[derive(Clone, Copy)]
pub(crate) struct IsList;

impl Account {
    #[cfg(test)]
    pub(crate) fn new(budgets: Arc<Budgets>) -> Arc<Self> {
        Self::watched(budgets, None)
    }

    /// The account of a request of which somebody is told how far it is.
    pub(crate) fn watched(budgets: Arc<Budgets>, watched: Option<Watched>) -> Arc<Self> {
        let (shares, line, application) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Arc::new(Self { budgets, shares, line, held: Mutex::default(), application, watched })
    }

    fn watcher(&self) -> Option<Arc<dyn Progress>> {
        self.watched.as_ref()?.watcher()
    }

    /// Names the caller, who gets one place among the requests under way, and if it asks for a list, room for a page. Then the token
    /// of an application waits until there is a place to be worked on.
    pub(crate) async fn open(&self, principal: &Principal, is_list: bool) -> Result<()> {
        let shares = shares(principal);
        if self.shares.set(Arc::clone(&shares)).is_err() {
            // Named already, by another argument of the same handler.
            return Ok(());
        }
        // Whoever is turned away for what he has under way already is as good as unknown: his connection goes before others'.
        self.take_place(match principal {
            Principal::Environment(environment) => Holder::operator(environment),
            Principal::Application { environment, application, .. } => Holder::tokens(environment, *application),
        })?;
        let gives_way = self.watcher().is_some_and(|watcher| watcher.caller_is_known());
        if gives_way {
            tokio::task::yield_now().await;
        }
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

    /// Gives whoever has no token one of the places that all of them share, until it is known what he may read.
    pub(crate) fn open_to_strangers(&self) -> Result<()> {
        self.take_place(Holder::stranger())
    }

    /// Makes whoever reads what an environment has published pay for it together.
    pub(crate) fn open_to_all(&self, environment: &EnvironmentId) -> Result<()> {
        self.take_place(Holder::published(environment))?;
        let shares: Shares = Arc::new([Share { party: Party::Public(environment.clone()), divisor: 2 }]);
        // It may be set already; then somebody pays.
        let _ = self.shares.set(shares);
        Ok(())
    }

    /// Takes a place among the requests under way, instead of the one that there may have been.
    fn take_place(&self, holder: Holder) -> Result<()> {
        let place = self.budgets.requests.try_take(holder).map_err(|refused| over(refused, "requests in flight"))?;
        self.held.lock().place = Some(place);
        Ok(())
    }

    /// Takes a place among the requests that send lines, which may go on for ever, until it is dropped.
    pub(crate) fn take_lines(&self) -> Result<Option<LinesPlace>> {
        let Some(shares) = self.shares.get() else { return Ok(None) };
        let place = self.budgets.lines.try_take(shares, 1);
        place.map(|place| Some(LinesPlace { _held: place })).map_err(|refused| over(refused, "requests of lines"))
    }

    /// What has come of the body is worked on, and its client is not waited for until more is asked for.
    pub(crate) fn body_is_worked_on(&self) {
        if let Some(watcher) = self.watcher() {
            watcher.body_is_worked_on();
        }
    }

    /// Notes the application that the path names.
    pub(crate) fn concerns(&self, application: &str) {
        let _ = self.application.set(application.into());
    }

    /// Among whom the request waits to have its body read, once its caller is known. A token waits among those of its application,
    /// and nobody else does; the operator once for each application, so that what he sends for one does not wait behind what he
    /// sends for another; whoever has none among all who have none.
    pub(crate) fn tenant(&self) -> Option<Tenant> {
        let mut whose = self.application.get().cloned().map_or(Whose::Environment, Whose::Named);
        let mut caller = None;
        for share in self.shares.get()?.iter() {
            match &share.party {
                Party::Operator(of) | Party::Applications(of) => caller = Some(Caller::Environment(of.clone())),
                Party::Application(application) => whose = Whose::Tokens(*application),
                Party::Public(of) => return Some(Tenant::public(of.clone())),
            }
        }
        Some(Tenant { caller: caller?, whose })
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

    /// Makes room for an answer of so many bytes at most, unless what the body was charged covers it; then the request is worked on
    /// again. To be called without a turn, and before anything is changed that would be answered.
    pub(crate) async fn reserve_answer(&self, most: u64) -> Result<()> {
        let is_covered = self.held.lock().upload.as_ref().is_some_and(|upload| upload.amount() >= most);
        if !is_covered {
            self.reserve(most).await?;
        }
        self.begin_work().await
    }

    /// Makes room for part of an answer that is made as it is read, of so many bytes at most.
    pub(crate) async fn reserve_part(&self, most: u64) -> Result<()> {
        self.reserve(most).await
    }

    /// Charges part of an answer, for which there is room, until the client has read it.
    pub(crate) fn seal_part(&self, part: Bytes) -> Bytes {
        match self.held.lock().answer.take() {
            Some(mut paid) if !part.is_empty() => {
                paid.shrink_to(part.len() as u64);
                Bytes::from_owner(Charged { body: part, _held: Some(paid), _place: None })
            }
            _ => part,
        }
    }

    async fn reserve(&self, bytes: u64) -> Result<()> {
        self.pause_work();
        if self.held.lock().answer.as_ref().is_some_and(|room| room.amount() >= bytes) {
            return Ok(());
        }
        let Some(shares) = self.shares.get() else { return Ok(()) };
        let room = self.budgets.answers.take(shares, bytes, PATIENCE).await;
        let room = room.map_err(|refused| over(refused, "answers that are not read yet"))?;
        self.held.lock().answer = Some(room);
        Ok(())
    }

    /// Charges bytes of a body that were read, or are about to be. To be called without a turn; work on the request pauses.
    pub(crate) async fn charge(&self, bytes: usize) -> Result<()> {
        self.charge_within(bytes, PATIENCE).await
    }

    /// Charges a piece of what comes in many, which wait for room together no longer than one would.
    pub(crate) async fn charge_piece(&self, bytes: usize, patience: &mut Patience) -> Result<()> {
        let waited = Instant::now();
        let charged = self.charge_within(bytes, patience.0).await;
        patience.0 = patience.0.saturating_sub(waited.elapsed());
        charged
    }

    async fn charge_within(&self, bytes: usize, patience: Duration) -> Result<()> {
        self.pause_work();
        let Some(shares) = self.shares.get() else { return Ok(()) };
        let mut upload = self.held.lock().upload.take();
        let amount = (bytes as u64).saturating_mul(BODY_FACTOR);
        let taken = match &mut upload {
            Some(held) => held.grow(amount, patience).await,
            None => self.budgets.uploads.take(shares, amount, patience).await.map(|held| upload = Some(held)),
        };
        self.held.lock().upload = upload;
        taken.map_err(|refused| over(refused, "request bodies in flight"))
    }

    /// Gives back all but `bytes` of what the body was charged.
    pub(crate) fn keep(&self, bytes: usize) {
        if let Some(upload) = &mut self.held.lock().upload {
            upload.shrink_to((bytes as u64).saturating_mul(BODY_FACTOR));
        }
    }

    /// Charges an answer that is about to be sent, until the client has read it. What was made for it is not needed any
    /// more, nor is the body of the request. It is paid from what the request was charged, as far as that goes. A small answer to a
    /// change is sent in any case; what is large and done has its room since before.
    pub(crate) fn seal(&self, body: Bytes, is_change: bool) -> Result<Body> {
        self.pause_work();
        let (place, upload, room) = {
            let mut held = self.held.lock();
            (held.place.take(), held.upload.take(), held.answer.take())
        };
        let (Some(shares), false) = (self.shares.get(), body.is_empty()) else { return Ok(Body::from(body)) };
        let amount = body.len() as u64;
        let larger = upload.into_iter().chain(room).max_by_key(Held::amount);
        let paid = match larger.filter(|paid| paid.amount() >= amount) {
            Some(mut paid) => {
                paid.shrink_to(amount);
                Ok(Some(paid))
            }
            None => self.budgets.answers.try_take(shares, amount).map(Some),
        };
        let paid = paid.or_else(|refused| if is_change && amount <= UNPAID_BYTES { Ok(None) } else { Err(refused) });
        let paid = paid.map_err(|refused| over(refused, "answers that are not read yet"))?;
        Ok(Body::from(Bytes::from_owner(Charged { body, _held: paid, _place: place })))
    }
}

/// Bytes that count until the last slice of them is gone, wherever it waits to be written.
struct Charged {
    body: Bytes,
    _held: Option<Held<Party>>,
    _place: Option<Place>,
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

    use crate::http::at_work::MAX_AT_WORK;

    fn token(seconds: u64) -> Principal {
        let at = Timestamp::EPOCH.saturating_add(Duration::from_secs(2_000_000_000 + seconds));
        Principal::Application {
            environment: EnvironmentId::default_environment(),
            application: ApplicationId::from_ksuid(Ksuid::floor(at)),
            feature_flags: Vec::new(),
            rights: crate::http::rights::Rights::ALL,
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

    #[tokio::test]
    async fn the_shares_of_requests_are_what_is_said_of_them() {
        let environment = EnvironmentId::default_environment();
        let application = ApplicationId::from_ksuid(Ksuid::floor(Timestamp::EPOCH));
        let rights = crate::http::rights::Rights::ALL;
        let portal =
            Principal::Application { environment: environment.clone(), application, feature_flags: Vec::new(), rights };
        for (principal, percent) in
            [(Principal::Environment(environment), OPERATOR_PERCENT), (portal, APPLICATION_PERCENT)]
        {
            let budgets = Arc::new(Budgets::new(&LimitOptions::default(), 1_000));
            let open = || {
                let account = Account::new(Arc::clone(&budgets));
                account.open(&principal, false).now_or_never();
                let is_open = account.held.lock().place.is_some();
                is_open.then_some(account)
            };
            let places: Vec<_> = std::iter::from_fn(open).collect();
            assert_eq!(places.len() as u64 / 10, percent);
        }
    }

    /// An account of the operator's, and the budgets that it is part of.
    async fn operator() -> (Arc<Budgets>, Arc<Account>) {
        let budgets = Arc::new(Budgets::new(&LimitOptions::default(), 1_000));
        let account = opened(&budgets).await;
        (budgets, account)
    }

    async fn opened(budgets: &Arc<Budgets>) -> Arc<Account> {
        let account = Account::new(Arc::clone(budgets));
        account.open(&Principal::Environment(EnvironmentId::default_environment()), false).await.unwrap();
        account
    }

    /// As much of the room for answers as the operator can have.
    async fn unread(budgets: &Arc<Budgets>) -> Vec<Body> {
        let mut unread = Vec::new();
        while let Ok(body) = opened(budgets).await.seal(vec![b' '; 1 << 20].into(), false) {
            unread.push(body);
        }
        unread
    }

    #[tokio::test]
    async fn an_answer_is_paid_from_the_larger_of_what_is_held() {
        for (upload, room, answer, from_uploads) in [(1_000, 100, 900, true), (100, 1_000, 900, false)] {
            let (budgets, account) = operator().await;
            account.charge(upload / 2).await.unwrap();
            account.reserve(room).await.unwrap();
            let body = account.seal(vec![b' '; answer].into(), true).unwrap();
            let held = (budgets.uploads.used(), budgets.answers.used());
            assert_eq!(held, if from_uploads { (900, 0) } else { (0, 900) });
            drop(body);
            assert_eq!((budgets.uploads.used(), budgets.answers.used()), (0, 0));
        }
    }

    #[tokio::test]
    async fn a_request_has_its_place_until_its_answer_was_read_also_if_that_could_not_be_paid() {
        let (budgets, account) = operator().await;
        let body = account.seal(Bytes::from_static(b"{}"), false).unwrap();
        drop(account);
        assert_eq!(budgets.requests.used(), 1);
        drop(body);
        assert_eq!(budgets.requests.used(), 0);
        let unread = unread(&budgets).await;
        let unpaid = opened(&budgets).await.seal(vec![b' '; 40_000].into(), true).unwrap();
        assert_eq!(budgets.requests.used(), unread.len() as u64 + 1);
        drop((unread, unpaid));
        assert_eq!(budgets.requests.used(), 0);
    }

    #[tokio::test]
    async fn a_large_answer_to_a_change_is_sent_only_if_there_was_room_before() {
        let (budgets, account) = operator().await;
        account.reserve_answer(1 << 20).await.unwrap();
        let unread = unread(&budgets).await;
        let answered = account.seal(vec![b' '; 1 << 20].into(), true).unwrap();
        assert!(opened(&budgets).await.seal(vec![b' '; 1 << 20].into(), true).is_err());
        drop((unread, answered));
    }

    #[tokio::test(start_paused = true)]
    async fn the_smallest_settings_have_room_for_the_largest_body_and_answer_of_everybody() {
        let least = |name: &str| {
            let setting = LimitOptions::reference().into_iter().find(|setting| setting.name == name).unwrap();
            setting.range.unwrap().low.replace('_', "").parse().unwrap()
        };
        let options = LimitOptions {
            request_bytes: least("request_bytes"),
            response_bytes: least("response_bytes"),
            ..LimitOptions::default()
        };
        let budgets = Arc::new(Budgets::new(&options, 1_000));
        let environment = EnvironmentId::default_environment();
        let shares_of_all: Shares = Arc::new([Share { party: Party::Public(environment.clone()), divisor: 2 }]);
        let (array, body) =
            (crate::wire::model::environment::MAX_IMPORT_BYTES, postrider_domain::message::MAX_BODY_BYTES);
        for (shares, upload, answer) in [
            (shares(&Principal::Environment(environment)), array, 2 * WHOLE_BYTES),
            (shares(&token(1)), body, LIST_BYTES),
            (shares_of_all, 0, 2 * WHOLE_BYTES),
        ] {
            let upload = BODY_FACTOR * upload as u64;
            assert_eq!(budgets.uploads.try_take(&shares, upload).unwrap().amount(), upload);
            assert_eq!(budgets.answers.try_take(&shares, answer).unwrap().amount(), answer);
        }
    }
}
