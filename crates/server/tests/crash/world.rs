//! A server under a load of all that it does, and what must be true of it afterwards, however often it was ended.
//!
//! Callers send alone and in batches, with idempotency keys. Of the endpoints three are healthy; one takes only so many requests
//! a second; one hangs until it gets another URL; one is new, and gets what was sent before it was there by a replay; one gets
//! another URL and another secret again and again; and one is disabled and enabled.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::Method;
use postrider_testkit::load::{BATCHED, list_attempts, list_messages};
use postrider_testkit::{
    Acked, Answer, App, Ledger, Load, Received, Receiver, Reply, TestServer, TestServerBuilder, random, wait,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const ENDPOINTS: usize = 3;
const CALLERS: usize = 8;
/// `delivery.concurrency`: the most requests under way to one endpoint.
const CONCURRENCY: u64 = 16;
/// The most repeats that one end may cause at one endpoint: requests under way, and as many again whose results were on
/// their way into the store.
const UNDER_WAY: u64 = 2 * CONCURRENCY;
/// Requests in a second to the endpoint that takes no more.
const RATE: u64 = 250;
/// Between a change that failed and the next try, and between one and the next.
const PAUSE: Duration = Duration::from_millis(5);

/// Where what is sent to the endpoint is noted that is moved.
const MOVED: &str = "/moved";

/// A server for it. Nothing that hangs comes to its end by itself.
pub(crate) fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
        .set("delivery.concurrency", CONCURRENCY.to_string())
        .set("delivery.request_timeout", "10m")
}

/// The load.
pub(crate) struct World {
    /// What is ended. Whoever ends it starts it again.
    pub(crate) server: TestServer,
    app: App,
    /// Before all messages.
    since: Value,
    load: Load,
    healthy: Ledger,
    endpoints: Vec<String>,
    /// What arrives at the endpoints that are not healthy.
    odd: Ledger,
    hanging: String,
    moved: String,
    toggled: String,
    changes: watch::Sender<bool>,
    changer: JoinHandle<u64>,
    receivers: [Receiver; 2],
}

impl World {
    pub(crate) async fn begin(server: TestServer) -> Self {
        let app = server.app().await;
        let (healthy, odd) = (Ledger::new(), Ledger::new());
        let [noted, odd_noted] = [healthy.clone(), odd.clone()];
        let takes_a_while = move |request: &_| {
            noted.note(request);
            Reply::ok().after(random::duration(Duration::ZERO, Duration::from_millis(10)))
        };
        let is_odd = move |request: &Received| {
            // Wherever it has moved to meanwhile.
            let moved = request.target.starts_with(MOVED);
            let target = if moved { MOVED.to_owned() } else { request.target.clone() };
            odd_noted.note(&Received { target, ..request.clone() });
            if request.target == "/hanging" { Reply::hang() } else { Reply::ok() }
        };
        let receivers = [
            Receiver::builder(takes_a_while).forgetful().start().await,
            Receiver::builder(is_odd).forgetful().start().await,
        ];
        let mut endpoints = Vec::new();
        for number in 0..ENDPOINTS {
            endpoints.push(app.endpoint(&receivers[0].at(&number.to_string())).await);
        }
        app.client
            .post("/api/v1/event-type", &json!({ "name": BATCHED, "description": "in batches" }))
            .await
            .expect(201);
        let odd_one = |path| json!({ "url": receivers[1].at(path), "filterTypes": [BATCHED] });
        let hanging = app.endpoint_with(odd_one("hanging")).await;
        let mut throttled = odd_one("throttled");
        throttled["throttleRate"] = json!(RATE);
        app.endpoint_with(throttled).await;
        let moved = app.endpoint_with(odd_one("moved")).await;
        let toggled = app.endpoint_with(odd_one("toggled")).await;
        let changes = watch::Sender::new(true);
        let ids = [moved.clone(), toggled.clone()];
        let changer = tokio::spawn(change(app.clone(), ids, receivers[1].at("moved"), changes.subscribe()));
        let since = app.client.get(&app.path("")).await.expect(200).json()["createdAt"].clone();
        let load = Load::start(&app, CALLERS);
        Self { server, app, since, load, healthy, endpoints, odd, hanging, moved, toggled, changes, changer, receivers }
    }

    /// Makes an endpoint that gets what was sent before it was there; the server may end meanwhile.
    pub(crate) async fn add_endpoint(&self, name: &str) {
        let endpoint = json!({ "url": self.receivers[1].at(name), "filterTypes": [BATCHED], "uid": name });
        insist(&self.app, Method::POST, "/endpoint", &endpoint).await;
        insist(&self.app, Method::POST, &format!("/endpoint/{name}/replay-missing"), &json!({ "since": self.since }))
            .await;
    }

    /// Lets the load end; then all of it must have arrived. `ends` says how often the server was ended, `replayed` which
    /// endpoints were added. Returns a line about it.
    pub(crate) async fn end(mut self, ends: u64, replayed: &[String]) -> String {
        self.load.progress(100).await;
        let acked = self.load.finish().await;
        self.changes.send_replace(false);
        let last = wait::within("the last change", &mut self.changer).await.expect("nothing panicked");
        let shown = self.app.client.get(&self.app.path(&format!("/endpoint/{}", self.moved))).await.expect(200).json();
        assert_eq!(
            shown["url"],
            format!("{}-{last}", self.receivers[1].at("moved")),
            "a change that was acked is there"
        );
        let shown =
            self.app.client.get(&self.app.path(&format!("/endpoint/{}/secret", self.moved))).await.expect(200).json();
        assert_eq!(shown["key"], secret(last), "so is a secret");
        // Before anybody asks anything else of it, which would wake what sleeps there.
        wait::until("what is pending at the endpoint that was enabled last", async || {
            (pending(&self.server, "toggled") == 0).then_some(())
        })
        .await;
        let replay = format!("/endpoint/{}/replay-missing", self.toggled);
        insist(&self.app, Method::POST, &replay, &json!({ "since": self.since })).await;

        // What hangs is sent anew when the server starts again, and finds another URL.
        insist(
            &self.app,
            Method::PATCH,
            &format!("/endpoint/{}", self.hanging),
            &json!({ "url": self.receivers[1].at("thawed") }),
        )
        .await;
        self.server.kill().await;
        self.server.start().await;
        let ends = ends + 1;

        let ids: Vec<&str> = acked.iter().map(|message| message.id.as_str()).collect();
        let targets: Vec<String> = (0..ENDPOINTS).map(|number| format!("/{number}")).collect();
        self.healthy.wait_for(&targets, &ids).await;
        let batched: Vec<&str> =
            acked.iter().filter(|message| message.event_type == BATCHED).map(|message| message.id.as_str()).collect();
        let odd: Vec<String> = ["thawed", "throttled", "moved", "toggled"]
            .into_iter()
            .map(ToOwned::to_owned)
            .chain(replayed.iter().cloned())
            .map(|name| format!("/{name}"))
            .collect();
        self.odd.wait_for(&odd, &batched).await;

        expect_each_accepted_once(&self.app, &acked).await;
        for message in &acked {
            for target in &targets {
                let body = self.healthy.body(target, &message.id).expect("the same bytes each time");
                assert_eq!(body, message.payload, "{message:?}");
            }
        }
        assert_eq!(
            self.healthy.deliveries(),
            acked.len() * ENDPOINTS,
            "deliveries of messages that nobody was told of"
        );
        let (repeats, bound) = (self.healthy.repeats(), ends * ENDPOINTS as u64 * UNDER_WAY);
        assert!(repeats <= bound, "{repeats} repeats, {bound} at most were under way");

        // All of it is settled: another start sends nothing again.
        assert!(self.server.terminate().await.success());
        self.server.start().await;
        expect_each_recorded_once(&self.app, &self.endpoints, &acked).await;
        let one_more = self.app.send("a", &json!({})).await;
        self.healthy.wait_for(&targets, &[&one_more]).await;
        assert_eq!(self.healthy.repeats(), repeats);
        let one_more = self.app.send(BATCHED, &json!({})).await;
        self.odd.wait_for(&["/toggled".to_owned(), MOVED.to_owned()], &[&one_more]).await;

        let repeated_requests: u32 = acked.iter().map(|message| message.requests - 1).sum();
        let (messages, deliveries) = (acked.len(), acked.len() * ENDPOINTS);
        format!(
            "{messages} messages acked ({repeated_requests} requests repeated), {} of them in batches, 0 lost of {deliveries} \
             deliveries, {repeats} repeated ({bound} allowed), {last} changes kept",
            batched.len()
        )
    }

    /// How many messages that were acked the server does not know any more.
    pub(crate) async fn forgotten(self) -> usize {
        let acked = self.load.abandon().await;
        self.changer.abort();
        let mut forgotten = 0;
        for message in &acked {
            let answer = self.app.client.get(&self.app.path(&format!("/msg/{}", message.id))).await;
            forgotten += usize::from(answer.status == 404);
        }
        forgotten
    }
}

/// Asks until the answer is a success; the server may end meanwhile.
pub(crate) async fn insist(app: &App, method: Method, path: &str, body: &Value) -> Answer {
    let key = random::name();
    loop {
        let request = app.client.request(method.clone(), &app.path(path)).header("idempotency-key", &key);
        match request.json(body).try_send().await {
            Ok(answer) if answer.succeeded() => return answer,
            Ok(answer) => assert!(answer.status >= 500, "{} {}", answer.status, answer.text()),
            Err(_) => {}
        }
        sleep(PAUSE).await;
    }
}

/// How many deliveries the store has for the endpoint with this path.
fn pending(server: &TestServer, path: &str) -> i64 {
    let sql = "SELECT count(*) FROM delivery JOIN endpoint ON endpoint.no = endpoint_no WHERE url LIKE '%/' || ?";
    let store = rusqlite::Connection::open(server.store_path()).expect("the store can be read beside the server");
    store.query_row(sql, [path], |row| row.get(0)).expect("it is a store")
}

/// The secret of the endpoint that is moved, after so many changes.
fn secret(change: u64) -> String {
    format!("whsec_{}", BASE64.encode(format!("secret number {change:0>20}")))
}

/// Changes endpoints again and again: the URL and the secret of the first, and whether the second is disabled. Returns how often.
async fn change(app: App, [moved, toggled]: [String; 2], url: String, goes_on: watch::Receiver<bool>) -> u64 {
    let mut last = 0;
    // With the last change it is enabled.
    while last % 2 == 1 || last == 0 || *goes_on.borrow() {
        last += 1;
        insist(&app, Method::PATCH, &format!("/endpoint/{moved}"), &json!({ "url": format!("{url}-{last}") })).await;
        let rotate = format!("/endpoint/{moved}/secret/rotate");
        insist(&app, Method::POST, &rotate, &json!({ "key": secret(last), "gracePeriodSeconds": 0 })).await;
        insist(&app, Method::PATCH, &format!("/endpoint/{toggled}"), &json!({ "disabled": last % 2 == 1 })).await;
        // As fast as it can be told; messages are to go out meanwhile.
        sleep(PAUSE).await;
    }
    last
}

/// Every key was accepted as exactly one message, the one whose id its caller was told.
async fn expect_each_accepted_once(app: &App, acked: &[Acked]) {
    let mut ids: HashMap<String, Vec<String>> = HashMap::new();
    for message in list_messages(app).await {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        ids.entry(text(&message["payload"]["key"])).or_default().push(text(&message["id"]));
    }
    for message in acked {
        assert_eq!(ids.get(&message.key), Some(&vec![message.id.clone()]), "{message:?}");
    }
    assert_eq!(ids.len(), acked.len(), "messages that nobody was told of");
}

/// Every delivery has exactly one attempt in the log, a success: none was made again whose result had been stored.
async fn expect_each_recorded_once(app: &App, endpoints: &[String], acked: &[Acked]) {
    for endpoint in endpoints {
        let attempts = list_attempts(app, endpoint).await;
        let messages: HashSet<&str> = attempts.iter().filter_map(|attempt| attempt["msgId"].as_str()).collect();
        assert_eq!((attempts.len(), messages.len()), (acked.len(), acked.len()), "{endpoint}");
        let failed = attempts.iter().find(|attempt| attempt["status"] != 0);
        assert_eq!(failed, None);
    }
}
