//! A server without a network: the API on a store of its own, with a clock that only the test moves.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use postrider_api::{Api, AuthOptions, Parts, SigningOptions, UrlRefused, Workers};
use postrider_domain::application::EnvironmentId;
use postrider_domain::attempt::Trigger;
use postrider_domain::clock::{Clock, Sleep};
use postrider_domain::delivery::Next;
use postrider_domain::endpoint::EndpointUrl;
use postrider_domain::entropy::{Entropy, OsEntropy};
use postrider_domain::ids::{AttemptId, KeyId, MessageId};
use postrider_domain::names::IdOrUid;
use postrider_domain::settings::SecretText;
use postrider_domain::time::Timestamp;
use postrider_ingest::{Intake, Judges, LimitOptions, Place, SchemaOptions};
use postrider_store::{
    ApiKey, ApplicationKey, AttemptRecord, DeliveryKey, Dispatch, EndpointKey, HandOver, KeyHash, MessageKey,
    Settlement, Store,
};
use postrider_store_sqlite::{Ownership, SqliteStore};
use serde_json::{Value, json};
use tokio::sync::watch;

/// The secret that tokens of the test are signed with.
const SECRET: &str = "a secret for tests";

/// The environment of the test.
pub(crate) const ORG: &str = "org_test";

/// A clock that stands still until it is moved.
pub(crate) struct ManualClock(watch::Sender<Timestamp>);

impl ManualClock {
    pub(crate) fn advance(&self, step: Duration) {
        self.0.send_modify(|now| *now = now.saturating_add(step));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.borrow()
    }

    fn wall(&self) -> Timestamp {
        self.now()
    }

    fn sleep_until(&self, at: Timestamp) -> Sleep {
        let mut now = self.0.subscribe();
        Box::pin(async move {
            let _ = now.wait_for(|now| *now >= at).await;
        })
    }
}

/// Nothing is delivered.
struct Nowhere;

impl Dispatch for Nowhere {
    fn announce(&self, _: &[MessageId]) {}

    fn dispatch(&self, _: HandOver) {}
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body, if the status is this one.
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    /// Checks an error of the general shape.
    pub(crate) fn refused(&self, status: u16, code: &str) {
        let body = self.expect(status);
        assert_eq!(body["code"], code, "{body}");
        assert!(body["detail"].is_string(), "{body}");
    }

    /// Checks a 422, and gives the place of each problem.
    pub(crate) fn invalid(&self) -> Vec<String> {
        let body = self.expect(422);
        let problems = body["detail"].as_array().unwrap_or_else(|| panic!("no list: {body}"));
        let place = |problem: &Value| {
            assert!(problem["msg"].is_string() && problem["type"].is_string(), "{problem}");
            let loc = problem["loc"].as_array().unwrap().iter().map(|part| part.as_str().unwrap());
            loc.collect::<Vec<_>>().join(".")
        };
        assert!(!problems.is_empty());
        problems.iter().map(place).collect()
    }
}

/// What callers send besides method and path.
#[derive(Default)]
pub(crate) struct Extras<'a> {
    pub(crate) token: Option<&'a str>,
    pub(crate) headers: &'a [(&'static str, &'a str)],
    pub(crate) body: Bytes,
}

pub(crate) struct World {
    pub(crate) api: Api,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) intake: Arc<Intake>,
    _folder: tempfile::TempDir,
}

/// A token of an environment.
pub(crate) fn org_token(org: &str) -> String {
    sign(&json!({ "sub": org }))
}

/// A token of an application in the environment of the test.
pub(crate) fn app_token(app_id: &str, feature_flags: &[&str]) -> String {
    sign(&json!({ "sub": app_id, "org": ORG, "feature_flags": feature_flags }))
}

/// A token with these claims.
pub(crate) fn sign(claims: &Value) -> String {
    let text = format!("{}.{}", BASE64.encode(r#"{"typ":"JWT","alg":"HS256"}"#), BASE64.encode(claims.to_string()));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{text}.{}", BASE64.encode(ring::hmac::sign(&key, text.as_bytes())))
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(false)
    }

    pub(crate) fn with(https_only: bool) -> Self {
        Self::build(https_only, SecretText::try_new(SECRET.to_owned()).ok())
    }

    /// One whose settings name no secret for tokens.
    pub(crate) fn without_jwt_secret() -> Self {
        Self::build(false, None)
    }

    fn build(https_only: bool, jwt_secret: Option<SecretText>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(&folder.path().join("test.db"), Ownership::Owner).unwrap());
        // 2026-01-02T03:04:05Z.
        let clock = Arc::new(ManualClock(watch::Sender::new(Timestamp::from_micros(1_767_323_045_000_000))));
        let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
        let judges = Judges::new(Place::Threads, SchemaOptions::default());
        let intake = Arc::new(Intake::start(
            store.clone(),
            Arc::new(Nowhere),
            clock.clone(),
            entropy.clone(),
            &LimitOptions::default(),
            judges.clone(),
        ));
        let api = Api::new(Parts {
            store: store.clone(),
            intake: intake.clone(),
            judges,
            workers: Workers::start().unwrap(),
            clock: clock.clone(),
            entropy,
            check_url: Arc::new(|url: &EndpointUrl| match url.url().and_then(|url| url.host_str()) {
                Some("127.0.0.1") => {
                    Err(UrlRefused { reason: "is on this machine".to_owned(), remedy: Some("move it") })
                }
                _ => Ok(()),
            }),
            https_only,
            auth: AuthOptions { jwt_secret, ..AuthOptions::default() },
            signing: SigningOptions::default(),
            public_url: Some("https://hooks.example.com/".to_owned()),
            limits: LimitOptions::default(),
            connections: 1_000,
        });
        Self { api, store, clock, intake, _folder: folder }
    }

    /// Sends a request to the API as it is.
    pub(crate) async fn raw(&self, method: &str, path: &str, extras: Extras<'_>) -> Answer {
        let answer = self.any(method, path, extras).await;
        if !answer.text.is_empty() {
            let content_type = &answer.headers["content-type"];
            let is_json = content_type == "application/json" || content_type == "application/x-ndjson";
            assert!(is_json, "{content_type:?}: {}", answer.text);
        }
        answer
    }

    /// Gets a page for people.
    pub(crate) async fn page(&self, path: &str) -> Answer {
        self.any("GET", path, Extras::default()).await
    }

    /// Sends a request. Time passes between requests, so that ids are in their order.
    async fn any(&self, method: &str, path: &str, extras: Extras<'_>) -> Answer {
        self.clock.advance(Duration::from_millis(5));
        let mut request = Request::builder().method(method.parse::<Method>().unwrap()).uri(path);
        if !extras.headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "api.test");
        }
        if let Some(token) = extras.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in extras.headers {
            request = request.header(*name, *value);
        }
        let response = self.api.respond(request.body(Body::from(extras.body)).unwrap()).await;
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    /// Sends a request with a token and a JSON body.
    pub(crate) async fn send_as(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let path = format!("/api/v1{path}");
        self.raw(method, &path, Extras { token: Some(token), body, ..Extras::default() }).await
    }

    /// Sends a request as the operator of the environment of the test.
    pub(crate) async fn send(&self, method: &str, path: &str, body: Value) -> Answer {
        self.send_as(&org_token(ORG), method, path, Some(&body)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send_as(&org_token(ORG), "GET", path, None).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send_as(&org_token(ORG), "DELETE", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, body).await
    }

    /// Stores an API key of the environment of the test, as `postrider key create` would; gives its text.
    pub(crate) async fn operator_key(&self) -> String {
        let text = "pk_of_the_operator".to_owned();
        let hash = ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref().try_into().unwrap();
        let now = self.clock.now();
        let key = ApiKey {
            id: KeyId::new(now, &OsEntropy),
            hash: KeyHash(hash),
            hint: text[..6].to_owned(),
            name: "test".to_owned(),
            environment: EnvironmentId::parse(ORG).unwrap(),
            scopes: vec!["*".to_owned()],
            created_at: now,
            expires_at: None,
            last_used_at: None,
        };
        self.store.create_api_key(key).await.unwrap();
        text
    }

    /// Makes an application; gives its id.
    pub(crate) async fn app(&self, uid: &str) -> String {
        id(&self.post("/app", json!({ "name": uid, "uid": uid })).await.expect(201))
    }

    /// Makes an endpoint; gives its id.
    pub(crate) async fn endpoint(&self, app: &str, uid: &str) -> String {
        let body = json!({ "url": "https://example.com/hook", "uid": uid });
        id(&self.post(&format!("/app/{app}/endpoint"), body).await.expect(201))
    }

    /// Makes a message; gives its id.
    pub(crate) async fn message(&self, app: &str, event_type: &str) -> String {
        let body = json!({ "eventType": event_type, "payload": { "n": 1 } });
        id(&self.post(&format!("/app/{app}/msg"), body).await.expect(202))
    }

    /// Logs an attempt, as the engine would; gives its id.
    pub(crate) async fn attempt(&self, app: &str, endpoint: &str, message: &str, status: u16, answer: &[u8]) -> String {
        let next = if (200..300).contains(&status) { Next::Succeeded } else { Next::Exhausted };
        self.attempt_then((app, endpoint, message), (0, None), (status, answer), next).await
    }

    /// Logs an attempt of a delivery of which there were `made`, due at `due_at` or since the message was made.
    pub(crate) async fn attempt_then(
        &self,
        (app, endpoint, message): (&str, &str, &str),
        (made, due_at): (u32, Option<Timestamp>),
        (status, answer): (u16, &[u8]),
        next: Next,
    ) -> String {
        let settlement = self.settlement((app, endpoint, message), (made, due_at), (status, answer), next).await;
        let id = settlement.attempt.as_ref().unwrap().id;
        self.store.settle(vec![settlement]).await.unwrap();
        id.to_string()
    }

    async fn settlement(
        &self,
        (app, endpoint, message): (&str, &str, &str),
        (made, due_at): (u32, Option<Timestamp>),
        (status, answer): (u16, &[u8]),
        next: Next,
    ) -> Settlement {
        self.clock.advance(Duration::from_millis(5));
        let (_, endpoint, message, created_at) = self.keys(app, endpoint, message).await;
        let now = self.clock.now();
        let id = AttemptId::new(now, &OsEntropy);
        let succeeded = (200..300).contains(&status);
        Settlement {
            endpoint,
            delivery: DeliveryKey { due_at: due_at.unwrap_or(created_at), message },
            made,
            trigger: Trigger::Scheduled,
            attempt: Some(AttemptRecord {
                id,
                started_at: now,
                url: "https://example.com/hook".into(),
                succeeded,
                status_code: status,
                response: Bytes::copy_from_slice(answer),
                duration_ms: 12,
            }),
            next,
            elsewhere: None,
            against: None,
            notice: None,
            origin: None,
        }
    }

    /// Cancels what waits to be delivered to an endpoint that is disabled, as the server does.
    pub(crate) async fn cancel(&self, app: &str, endpoint: &str) {
        let app = self.application_key(app).await;
        let endpoint = self.store.endpoint(app, &IdOrUid::parse(endpoint)).await.unwrap().unwrap().key;
        self.store.cancel_deliveries(endpoint, 1_000).await.unwrap();
    }

    /// Logs an attempt of each of these messages that failed, after which another waits.
    pub(crate) async fn attempts_that_wait(&self, app: &str, endpoint: &str, messages: &[String], later: Timestamp) {
        let mut settlements = Vec::new();
        for message in messages {
            settlements
                .push(self.settlement((app, endpoint, message), (0, None), (500, b""), Next::Waiting(later)).await);
        }
        self.store.settle(settlements).await.unwrap();
    }

    async fn application_key(&self, app: &str) -> ApplicationKey {
        let environment = EnvironmentId::parse(ORG).unwrap();
        self.store.application(&environment, &IdOrUid::parse(app)).await.unwrap().unwrap().key
    }

    async fn keys(
        &self,
        app: &str,
        endpoint: &str,
        message: &str,
    ) -> (ApplicationKey, EndpointKey, MessageKey, Timestamp) {
        let app = self.application_key(app).await;
        let endpoint = self.store.endpoint(app, &IdOrUid::parse(endpoint)).await.unwrap().unwrap().key;
        let message = self.store.message(app, &IdOrUid::parse(message), false).await.unwrap().unwrap();
        (app, endpoint, message.key, message.value.created_at)
    }

    /// How many deliveries an endpoint has pending.
    pub(crate) async fn pending(&self, app: &str, endpoint: &str) -> usize {
        let environment = EnvironmentId::parse(ORG).unwrap();
        let app = self.store.application(&environment, &IdOrUid::parse(app)).await.unwrap().unwrap().key;
        let endpoint = self.store.endpoint(app, &IdOrUid::parse(endpoint)).await.unwrap().unwrap().key;
        self.store.backlog(endpoint, 1_000).await.unwrap()
    }

    pub(crate) async fn close(&self) {
        self.intake.close().await;
        self.store.close().await;
    }
}

/// The id of something that was answered.
pub(crate) fn id(value: &Value) -> String {
    value["id"].as_str().unwrap_or_else(|| panic!("no id: {value}")).to_owned()
}

/// The ids, or names, of a list.
pub(crate) fn ids(list: &Value) -> Vec<String> {
    let name = |item: &Value| item.get("id").or_else(|| item.get("name")).unwrap().as_str().unwrap().to_owned();
    list["data"].as_array().unwrap_or_else(|| panic!("no list: {list}")).iter().map(name).collect()
}
