//! What is accepted stays usable. Requests with extreme values (each member at, just over and far over its bound; texts that
//! grow when they are encoded, normalised or put in lower case; combinations) are either refused with a 4xx that names the
//! member, or what they made can be read, listed, changed, delivered to and deleted, also after a restart.
//!
//! `sweep` gives every member of every body in the OpenAPI document each of its extreme values, one at a time; what is here
//! combines them by chance.
//!
//! The values come from a seed, which is printed: `POSTRIDER_USABLE_SEED` repeats a run, `POSTRIDER_USABLE_CASES` makes it
//! longer.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod document;
mod sweep;

use std::collections::BTreeSet;

use http::Method;
use postrider_testkit::{Answer, App, Client, Receiver, TestServer, wait};
use serde_json::{Map, Value, json};

/// Makes an extreme value of one member.
type Extreme<'a> = &'a dyn Fn(&mut Dice) -> Value;

/// The event types that one import takes.
const IMPORTED_AT_A_TIME: usize = 10_000;

/// A number of the environment, or what it is by default.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Numbers that follow from a seed (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.roll(of.len())]
    }

    /// A length around a bound.
    fn length(&mut self, bound: usize) -> usize {
        *self.pick(&[0, 1, bound / 3, bound - 1, bound, bound, bound + 1, bound * 4, bound + 20_000])
    }

    /// A text around a bound, of one character: what is escaped, what grows, what is more than one unit in UTF-16, what
    /// means something in a URL, a header, JSON or a terminal.
    fn text(&mut self, bound: usize) -> String {
        const CHARACTERS: [&str; 19] = [
            "a",
            "a",
            "a",
            "ü",
            "\u{130}",
            "\u{fb03}",
            "\u{10ffff}",
            "e\u{301}",
            " ",
            "\"",
            "\\",
            "%",
            "<",
            "\u{1}",
            "\t",
            "\u{7f}",
            "\u{202e}",
            "..",
            "-",
        ];
        let (length, character) = (self.length(bound), *self.pick(&CHARACTERS));
        // Of a body that is far too large the server reads so much before it answers.
        character.repeat(length.min(4_000_000 / character.len()))
    }

    /// A name, or something that is none.
    fn name(&mut self, serial: usize) -> String {
        match self.roll(6) {
            0 => ".".repeat(self.roll(4)),
            1 => self.text(256),
            2 => format!("{serial}-").repeat(40),
            _ => format!("n-{serial}"),
        }
    }

    fn pairs(&mut self, bound: usize) -> Value {
        let count = self.length(bound).min(3_000);
        let value = self.text(*[10, 100, 4_000].get(count % 3).unwrap());
        let value = if count > 200 { String::new() } else { value };
        (0..count).map(|at| (format!("k{at}"), json!(value))).collect::<Map<_, _>>().into()
    }

    fn list(&mut self, bound: usize, item: &str) -> Value {
        let count = self.length(bound).min(3_000);
        (0..count).map(|at| json!(format!("{item}{at}"))).collect()
    }

    fn headers(&mut self) -> Value {
        match self.roll(6) {
            0 => json!({ "X-A": "1", "x-a": "2" }),
            1 => json!({ (self.text(256)): "1" }),
            2 => json!({ "x-a": self.text(4_096) }),
            3 => json!({ "host": self.text(20) }),
            4 => json!({ "Authorization": self.text(100), "x-b": self.text(4_096) }),
            _ => self.pairs(50),
        }
    }

    /// A URL that leads to the receiver if it is accepted.
    fn url(&mut self, receiver: &Receiver) -> String {
        let address = receiver.address();
        match self.roll(7) {
            0 => format!("http://{address}/{}", self.text(2_000)),
            1 => format!("http://{address}/?{}", self.text(2_000)),
            2 => format!("http://{address}/#{}", self.text(2_000)),
            3 => format!("http://{}@{address}/", self.text(100)),
            4 => format!("http://u:{}@{address}/", self.text(2_000)),
            5 => format!("HTTP://{address}/{}", self.text(650)),
            _ => receiver.url(),
        }
    }

    /// Gives some of the members some extreme value.
    fn members(&mut self, body: &mut Value, members: &[(&str, Extreme<'_>)]) {
        for (member, value) in members {
            if self.roll(3) == 0 {
                body[*member] = value(self);
            }
        }
    }

    fn number(&mut self) -> Value {
        self.pick(&[json!(0), json!(1), json!(65_535), json!(65_536), json!(-1), json!(1e300), Value::Null]).clone()
    }
}

/// What was made, and is to be usable.
#[derive(Debug, Clone)]
struct Made {
    /// Its path.
    path: String,
    /// The path of the list that it is in.
    list: String,
    /// What is listed of it.
    key: &'static str,
    /// The request that made it.
    by: String,
}

impl Made {
    /// Messages and tasks are what they are.
    fn can_be_changed(&self) -> bool {
        !self.list.ends_with("/msg") && self.list != TASKS
    }
}

/// The list of background tasks.
const TASKS: &str = "/api/v1/background-task";

struct World {
    client: Client,
    app: App,
    receiver: Receiver,
    dice: Dice,
    serial: usize,
    made: Vec<Made>,
    /// Tokens of applications, with what they are to read.
    tokens: Vec<(String, String)>,
    seen: BTreeSet<(String, u16)>,
    /// An instant of which everything may be asked that is asked since one.
    since: String,
    event_type_with_example: String,
}

/// A text for people, not all of it.
fn brief(text: &str) -> String {
    let head: String = text.chars().take(400).collect();
    format!("{head}… ({} bytes)", text.len())
}

impl World {
    /// Sends a request, and checks that it is done, or refused for a reason that names a member.
    async fn request(&mut self, method: Method, path: &str, body: &Value) -> Answer {
        let text = body.to_string();
        let answer = self.client.request(method.clone(), path).body(text.clone()).send().await;
        let what = || format!("{method} {} {}: {} {}", brief(path), brief(&text), answer.status, brief(&answer.text()));
        assert!(answer.status < 500, "{}", what());
        if answer.status == 422 {
            let problems = answer.json()["detail"].as_array().unwrap().clone();
            let names = |problem: &Value| problem["loc"].as_array().is_some_and(|loc| loc.len() > 1);
            assert!(problems.iter().all(names), "no member is named: {}", what());
            assert!(answer.body.len() < 100_000, "a large answer: {}", what());
        } else if answer.status >= 400 {
            assert!([400, 404, 409, 413, 429].contains(&answer.status), "{}", what());
            assert!(answer.json()["code"].is_string(), "{}", what());
        }
        let kind = path.split('/').skip(3).map(|part| if part.contains('_') { "*" } else { part }).collect::<Vec<_>>();
        self.seen.insert((format!("{method} /{}", kind.join("/").chars().take(60).collect::<String>()), answer.status));
        answer
    }

    /// Notes what a request made, and uses it.
    async fn made(&mut self, answer: &Answer, list: &str, key: &'static str, body: &Value) -> Option<String> {
        if !answer.succeeded() {
            return None;
        }
        let name = answer.json()[key].as_str().unwrap().to_owned();
        let made = Made { path: format!("{list}/{name}"), list: list.to_owned(), key, by: brief(&body.to_string()) };
        self.used(&made).await;
        self.made.push(made);
        Some(name)
    }

    /// Reads it, finds it in its list, and changes it without changing anything.
    async fn used(&self, made: &Made) {
        let Made { path, list, key, by } = made;
        self.read_and_changed(made).await;
        let listed = self.client.get(&format!("{list}?limit=250&with_content=true&include_archived=true")).await;
        assert_eq!(listed.status, 200, "{list} with {by}: {}", brief(&listed.text()));
        let is_whole = listed.json()["done"] == true;
        let is_listed =
            listed.json()["data"].as_array().unwrap().iter().any(|item| path.ends_with(item[*key].as_str().unwrap()));
        assert!(is_listed || !is_whole, "{path} by {by} is not listed");
    }

    async fn read_and_changed(&self, made: &Made) {
        let Made { path, by, .. } = made;
        let read = self.client.get(path).await;
        assert_eq!(read.status, 200, "{path} by {by}: {}", brief(&read.text()));
        if made.can_be_changed() {
            let patched = self.client.patch(path, &json!({})).await;
            assert_eq!(patched.status, 200, "{path} by {by}: {}", brief(&patched.text()));
        }
    }

    fn next(&mut self) -> usize {
        self.serial += 1;
        self.serial
    }

    async fn application(&mut self) {
        let serial = self.next();
        let mut body = json!({ "name": "a" });
        self.dice.members(
            &mut body,
            &[
                ("name", &|dice| json!(dice.text(1_024))),
                ("uid", &move |dice| json!(dice.name(serial))),
                ("metadata", &|dice| dice.pairs(100)),
                ("throttleRate", &Dice::number),
            ],
        );
        let answer = self.request(Method::POST, "/api/v1/app", &body).await;
        let Some(id) = self.made(&answer, "/api/v1/app", "id", &body).await else { return };
        let path = format!("/api/v1/app/{id}");
        let mut change = json!({ "name": "b" });
        self.dice.members(
            &mut change,
            &[
                ("name", &|dice| json!(dice.text(1_024))),
                ("uid", &move |dice| json!(dice.name(serial + 1))),
                ("metadata", &|dice| dice.pairs(100)),
            ],
        );
        let method = self.dice.pick(&[Method::PUT, Method::PATCH]).clone();
        self.request(method, &path, &change).await;
        let token = json!({
            "featureFlags": self.dice.list(50, "flag"),
            "sessionId": self.dice.text(256),
            "capabilities": vec!["ViewBase"; self.dice.length(16).min(100)],
        });
        let access = self.request(Method::POST, &format!("/api/v1/auth/app-portal-access/{id}"), &token).await;
        if access.succeeded() {
            let token = access.json()["token"].as_str().unwrap().to_owned();
            assert!(token.len() < 32_000, "a token that no request can carry: {}", token.len());
            self.tokens.push((path, token));
        }
    }

    async fn endpoint(&mut self) {
        let (serial, list) = (self.next(), self.app.path("/endpoint"));
        let url = self.dice.url(&self.receiver);
        let channel = format!("only-{serial}");
        let mut body = json!({ "url": url, "channels": [channel] });
        self.dice.members(
            &mut body,
            &[
                ("description", &|dice| json!(dice.text(4_096))),
                ("uid", &move |dice| json!(dice.name(serial))),
                ("metadata", &|dice| dice.pairs(100)),
                ("headers", &Dice::headers),
                ("eventTypes", &|dice| dice.list(1_000, "t")),
                ("version", &Dice::number),
                ("throttleRate", &Dice::number),
                ("secret", &|dice| json!(format!("whsec_{}", "A".repeat(4 * dice.length(25).min(100))))),
            ],
        );
        let operational = self.request(Method::POST, "/api/v1/operational-webhook/endpoint", &body).await;
        self.made(&operational, "/api/v1/operational-webhook/endpoint", "id", &body).await;
        let answer = self.request(Method::POST, &list, &body).await;
        let Some(id) = self.made(&answer, &list, "id", &body).await else { return };
        self.delivered(&id, &body).await;

        let path = format!("{list}/{id}");
        let mut change = json!({ "url": self.dice.url(&self.receiver), "channels": [channel] });
        self.dice.members(
            &mut change,
            &[
                ("description", &|dice| json!(dice.text(4_096))),
                ("uid", &move |dice| json!(dice.name(serial + 1))),
                ("metadata", &|dice| dice.pairs(100)),
            ],
        );
        let method = self.dice.pick(&[Method::PUT, Method::PATCH]).clone();
        self.request(method, &path, &change).await;
        let headers = json!({ "headers": self.dice.headers() });
        let method = self.dice.pick(&[Method::PUT, Method::PATCH]).clone();
        self.request(method, &format!("{path}/headers"), &headers).await;
        let removed = json!({ "headers": {}, "deleteHeaders": self.dice.list(100, "k") });
        self.request(Method::PATCH, &format!("{path}/headers"), &removed).await;
        let key = json!({ "key": format!("whsec_{}", "B".repeat(4 * self.dice.length(25).min(100))), "gracePeriodSeconds": 10 });
        self.request(Method::POST, &format!("{path}/secret/rotate"), &key).await;
        let consumer =
            self.dice.name(serial).replace(['/', '%', ' ', '"', '\\', '<', '\u{1}', '\t', '\u{7f}', '?', '#'], "_");
        if consumer.is_ascii() && consumer.len() < 2_000 {
            let seek = format!("{}/{id}/consumer/{consumer}/seek", self.app.path("/poller"));
            self.request(Method::POST, &seek, &json!({ "after": "2026-01-01T00:00:00Z" })).await;
            let mut query = format!("limit={}", self.dice.roll(3));
            for name in ["channel", "event_type"] {
                query += &format!("&{name}={}", self.dice.name(serial).len());
            }
            for poller in [format!("/poller/{id}"), format!("/poller/{id}/consumer/{consumer}")] {
                let polled = self.app.path(&format!("{poller}?{query}"));
                let read = self.request(Method::GET, &polled, &Value::Null).await;
                if read.succeeded() {
                    let next = format!("{polled}&iterator={}", read.json()["iterator"].as_str().unwrap());
                    self.client.get(&next).await.expect(200);
                }
            }
        }
        for name in ["headers", "secret", "stats", "attempt-stats"] {
            self.client.get(&format!("{path}/{name}")).await.expect(200);
        }
        self.tasks(&path).await;
        self.delivered(&id, &change).await;
    }

    /// An instant around what can be said of time.
    fn instant(&mut self) -> Value {
        let instants =
            ["2026-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "-009999-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"];
        match self.dice.roll(6) {
            0 => json!(self.dice.text(64)),
            1 => self.dice.number(),
            2 => json!("2126-01-01T00:00:00+23:59"),
            at => json!(instants[at % instants.len()]),
        }
    }

    /// Background tasks about an endpoint, and about everything.
    async fn tasks(&mut self, endpoint: &str) {
        let (since, until) = (self.instant(), self.instant());
        let mut span = json!({ "since": since });
        if self.dice.roll(2) == 0 {
            span["until"] = until;
        }
        let mut filtered = span.clone();
        self.dice.members(
            &mut filtered,
            &[
                ("eventTypes", &|dice| dice.list(10_000, "t")),
                ("channel", &|dice| json!(dice.text(256))),
                ("tag", &|dice| json!(dice.text(256))),
                ("status", &Dice::number),
                ("statusCodeClass", &Dice::number),
            ],
        );
        let mut usage = span.clone();
        usage["until"] = json!("2026-06-01T00:00:00Z");
        usage["appIds"] = self.dice.list(10_000, "app");
        for (method, path, body) in [
            (Method::POST, format!("{endpoint}/bulk-replay"), filtered),
            (Method::POST, format!("{endpoint}/recover"), span.clone()),
            (Method::POST, format!("{endpoint}/replay-missing"), span),
            (Method::POST, "/api/v1/stats/usage/app".to_owned(), usage),
            (Method::PUT, "/api/v1/stats/usage/event-types".to_owned(), Value::Null),
        ] {
            let answer = self.request(method, &path, &body).await;
            self.made(&answer, TASKS, "id", &body).await;
        }
    }

    /// Settings of the environment, which are as before afterwards.
    async fn settings(&mut self) {
        let path = "/api/v1/environment/settings";
        let before = self.client.get(path).await.expect(200).json();
        let mut body = json!({});
        let word = |dice: &mut Dice| match dice.roll(4) {
            0 => json!(dice.text(20)),
            1 => Value::Null,
            2 => json!("reject"),
            _ => json!("warn"),
        };
        self.dice.members(
            &mut body,
            &[
                ("schemaEnforcement", &word),
                ("unknownEventTypes", &word),
                ("publicCatalogue", &|dice| dice.pick(&[json!(true), json!("true"), Value::Null]).clone()),
            ],
        );
        let method = self.dice.pick(&[Method::PUT, Method::PATCH]).clone();
        self.request(method, path, &body).await;
        self.client.get(path).await.expect(200);
        let import = json!({ "eventTypes": [], "settings": body });
        self.request(Method::POST, "/api/v1/environment/import", &import).await;
        let mut export = self.client.post("/api/v1/environment/export", &json!({})).await.expect(200).json();
        let event_types = export["eventTypes"].take();
        for some in event_types.as_array().expect("event types").chunks(IMPORTED_AT_A_TIME) {
            export["eventTypes"] = json!(some);
            self.client.post("/api/v1/environment/import", &export).await.expect(204);
        }
        let back = ["schemaEnforcement", "unknownEventTypes", "publicCatalogue"]
            .map(|name| (name.to_owned(), before[name].clone()));
        self.client.patch(path, &Value::Object(back.into_iter().collect())).await.expect(200);
    }

    /// Sends a message that this endpoint wants: there is an attempt, and it got there.
    async fn delivered(&self, endpoint: &str, by: &Value) {
        if let Some(message) = self.sent_to(endpoint).await {
            self.arrived(&message, endpoint, &brief(&by.to_string())).await;
        }
    }

    /// Sends a message that this endpoint wants, if it is one that leads to the receiver. Returns its id.
    async fn sent_to(&self, endpoint: &str) -> Option<String> {
        let now = self.client.get(&self.app.path(&format!("/endpoint/{endpoint}"))).await.expect(200).json();
        // A character in the place of a password may end the host: then it leads elsewhere.
        let leads_here = now["url"].as_str().unwrap().starts_with(&format!("http://{}/", self.receiver.address()));
        if !leads_here || now["disabled"] == true {
            return None;
        }
        let event_type = now["eventTypes"][0].as_str().unwrap_or("e");
        let mut message = json!({ "eventType": event_type, "payload": {} });
        if now["channels"].is_array() {
            message["channels"] = json!([now["channels"][0]]);
        }
        let message = self.client.post(&self.app.path("/msg"), &message).await.expect(202).json();
        Some(message["id"].as_str().unwrap().to_owned())
    }

    async fn arrived(&self, message: &str, endpoint: &str, by: &str) {
        // It may go to many others.
        let path = self.app.path(&format!("/attempt/msg/{message}?endpoint_id={endpoint}"));
        let attempt = wait::until(&format!("an attempt of {message} for {endpoint} by {by}"), async || {
            let attempts = self.client.get(&path).await.expect(200).json();
            attempts["data"].as_array()?.last().cloned()
        })
        .await;
        assert_eq!(attempt["status"], 0, "{by} to {endpoint}: {attempt}");
    }

    async fn event_type(&mut self) {
        let serial = self.next();
        let mut body = json!({ "name": format!("type-{serial}"), "description": "" });
        self.dice.members(
            &mut body,
            &[
                ("name", &move |dice| json!(dice.name(serial))),
                ("description", &|dice| json!(dice.text(4_096))),
                ("groupName", &|dice| json!(dice.text(256))),
                ("featureFlag", &move |dice| json!(dice.name(serial))),
                ("featureFlags", &|dice| dice.list(1, "flag")),
                ("schemas", &|dice| match dice.roll(3) {
                    0 => json!({ (dice.text(64)): {} }),
                    1 => json!({ "1": { "$comment": dice.text(1_048_560) } }),
                    _ => (0..dice.length(100).min(300))
                        .map(|at| (at.to_string(), json!(true)))
                        .collect::<Map<_, _>>()
                        .into(),
                }),
            ],
        );
        let (list, import) = ("/api/v1/event-type", json!({ "eventTypes": [body] }));
        let answer = self.request(Method::POST, list, &body).await;
        let Some(name) = self.made(&answer, list, "name", &body).await else { return };
        self.request(Method::POST, "/api/v1/environment/import", &import).await;
        let by_path = format!("{list}/{name}");
        let method = self.dice.pick(&[Method::PUT, Method::PATCH]).clone();
        self.request(method, &by_path, &body).await;
        let spec = json!({ "openapi": "3.1.0", "webhooks": { (self.dice.name(serial + 1)): { "post": {
            "description": self.dice.text(4_096), "tags": [self.dice.text(256)] } } } });
        self.request(Method::POST, &format!("{list}/import/openapi"), &json!({ "spec": spec })).await;
        self.client.post("/api/v1/environment/export", &json!({})).await.expect(200);
    }

    async fn message(&mut self) {
        let (serial, list) = (self.next(), self.app.path("/msg"));
        let mut body = json!({ "eventType": "e", "payload": {}, "channels": ["nobody"] });
        self.dice.members(
            &mut body,
            &[
                ("eventType", &move |dice| json!(dice.name(serial))),
                ("eventId", &move |dice| json!(dice.name(serial))),
                ("channels", &|dice| dice.list(5, "c")),
                ("tags", &|dice| dice.list(10, "g")),
                ("payload", &|dice| json!({ (dice.text(100)): dice.text(30_000) })),
                ("payloadRetentionHours", &Dice::number),
                ("transformationsParams", &|dice| json!({ "rawPayload": dice.text(1_000) })),
            ],
        );
        let answer = self.request(Method::POST, &list, &body).await;
        self.made(&answer, &list, "id", &body).await;
        let batch = self.request(Method::POST, &format!("{list}/batch"), &json!([body])).await;
        if batch.succeeded() {
            assert!(batch.json()["data"][0]["status"].as_u64().unwrap() < 500, "{}", brief(&batch.text()));
        }
        let ids = json!({ "ids": self.dice.list(10_000, "m") });
        self.request(Method::POST, &format!("{list}/bulk-expunge"), &ids).await;
    }

    async fn case(&mut self) {
        match self.dice.roll(5) {
            0 => self.application().await,
            1 => self.event_type().await,
            2 => self.message().await,
            3 => self.settings().await,
            _ => self.endpoint().await,
        }
    }
}

impl World {
    async fn new(server: &TestServer, seed: u64) -> Self {
        let (client, app, receiver) = (server.client(), server.app().await, Receiver::ok().await);
        let shown = client.get(&app.path("")).await.expect(200).json();
        let example = "with.example".to_owned();
        let schemas = json!({ "1": { "examples": [{ "a": 1 }] } });
        let event_type = json!({ "name": example, "description": "", "schemas": schemas });
        client.post("/api/v1/event-type", &event_type).await.expect(201);
        Self {
            since: shown["createdAt"].as_str().unwrap().to_owned(),
            client,
            app,
            receiver,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            serial: 0,
            made: Vec::new(),
            tokens: Vec::new(),
            seen: BTreeSet::new(),
            event_type_with_example: example,
        }
    }

    /// After a restart: everything that was made is still read, listed, changed, delivered to, exported and deleted.
    async fn after_a_restart(mut self, server: &mut TestServer) {
        server.terminate().await;
        server.start().await;
        let made = std::mem::take(&mut self.made);
        for list in made.iter().map(|made| (&made.list, made.key)).collect::<BTreeSet<_>>() {
            let listed = self.listed(list.0, list.1).await;
            for made in made.iter().filter(|made| made.list == *list.0 && made.list != TASKS) {
                assert!(
                    listed.contains(made.path.rsplit('/').next().unwrap()),
                    "{made:?} is not listed after a restart"
                );
            }
        }
        for made in &made {
            self.read_and_changed(made).await;
        }
        for (path, token) in &self.tokens {
            server.client_with(Some(token.clone())).get(path).await.expect(200);
        }
        let mut sent = Vec::new();
        let endpoints = self.app.path("/endpoint");
        for made in made.iter().filter(|made| made.list == endpoints) {
            let endpoint = made.path.rsplit('/').next().unwrap();
            self.client.patch(&made.path, &json!({ "disabled": false })).await.expect(200);
            if let Some(message) = self.sent_to(endpoint).await {
                sent.push((message, endpoint, &made.by));
            }
        }
        for (message, endpoint, by) in sent {
            self.arrived(&message, endpoint, by).await;
        }
        let mut export = self.client.post("/api/v1/environment/export", &json!({})).await.expect(200).json();
        let event_types = export["eventTypes"].take();
        for some in event_types.as_array().expect("event types").chunks(IMPORTED_AT_A_TIME) {
            export["eventTypes"] = json!(some);
            self.client.post("/api/v1/environment/import", &export).await.expect(204);
        }
        for made in made.iter().filter(|made| made.list.ends_with("/msg")) {
            self.client.delete(&format!("{}/content", made.path)).await.expect(204);
        }
        for made in made.iter().filter(|made| made.can_be_changed()) {
            let path = if made.key == "name" { format!("{}?expunge=true", made.path) } else { made.path.clone() };
            self.client.delete(&path).await.expect(204);
            self.client.get(&made.path).await.expect(404);
        }
    }

    /// The names of all that a list shows, page by page.
    async fn listed(&self, list: &str, key: &str) -> BTreeSet<String> {
        let (mut names, mut iterator) = (BTreeSet::new(), String::new());
        loop {
            let page =
                self.client.get(&format!("{list}?limit=250&include_archived=true{iterator}")).await.expect(200).json();
            names.extend(page["data"].as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned()));
            if page["done"] == true {
                return names;
            }
            iterator = format!("&iterator={}", page["iterator"].as_str().unwrap());
        }
    }
}

#[tokio::test]
async fn what_is_accepted_stays_usable() {
    let (seed, cases) = (setting("POSTRIDER_USABLE_SEED", 20_261_126), setting("POSTRIDER_USABLE_CASES", 250));
    eprintln!("POSTRIDER_USABLE_SEED={seed} POSTRIDER_USABLE_CASES={cases}");
    let mut server = TestServer::builder(env!("CARGO_BIN_EXE_postrider")).start().await;
    let mut world = World::new(&server, seed).await;
    // Of each kind one, whatever is rolled.
    world.application().await;
    world.event_type().await;
    world.message().await;
    world.settings().await;
    world.endpoint().await;
    for _ in 0..cases {
        world.case().await;
    }
    // Both happen: a generator that is refused everything would prove nothing.
    for status in [200, 201, 202, 204, 422] {
        assert!(world.seen.iter().any(|(_, seen)| *seen == status), "{status} was never answered");
    }
    world.after_a_restart(&mut server).await;
}

#[tokio::test]
async fn every_member_of_every_body_in_the_document_is_refused_by_name_or_stays_usable() {
    // There is room for all that is made, so what is refused is refused for what it is.
    let builder = TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
        .set("limits.endpoints_per_application", "10000")
        .set("limits.event_types_per_environment", "30000");
    let mut server = builder.start().await;
    let mut world = World::new(&server, 1).await;
    world.sweep().await;
    world.after_a_restart(&mut server).await;
}
