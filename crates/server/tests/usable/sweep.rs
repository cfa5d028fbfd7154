//! Every operation of the OpenAPI document that changes something, with every member of its body: each gets each of its extreme
//! values, while the rest of the body is plain. What is refused names the member; what is accepted is used at once, and is kept
//! for after the restart.

use http::Method;
use postrider_testkit::{Answer, wait};
use serde_json::{Value, json};

use crate::document::{self, Member, Operation};
use crate::{Made, TASKS, World, brief};

/// Members of which no value can be refused, or none accepted, in some operation.
const EXCEPTIONS: [(&str, &str); 1] = [
    // It is there so that what is read can be written back; the path says which event type it is.
    ("v1.event-type.update", "name"),
];

/// Members of which the document's bound alone says nothing: that of what surrounds them is lower, or they name what must be there.
const NOT_BY_THE_DOCUMENT: [&str; 3] = ["rawPayload", "specRaw", "appIds"];

/// A uid of an application to be made must be what the path says.
const AS_IN_PATH: &str = "{app_id}";

impl World {
    /// Tries everything that the document says can be given.
    pub(crate) async fn sweep(&mut self) {
        let document = self.client.get("/api/v1/openapi.json").await.expect(200).json();
        // Endpoints name event types that there are.
        let event_types =
            (0..=1_001).map(|at| json!({ "name": format!("l{at}"), "description": "" })).collect::<Value>();
        self.client.post("/api/v1/environment/import", &json!({ "eventTypes": event_types })).await.expect(204);
        for operation in document::operations(&document) {
            self.plainly(&operation).await;
            self.by_extreme_names(&operation).await;
            for member in operation.body.as_ref().map(document::members).unwrap_or_default() {
                self.member(&operation, &member).await;
            }
        }
    }

    /// What follows would prove nothing of an operation whose plain request is refused.
    async fn plainly(&mut self, operation: &Operation) {
        let path = self.place(operation, false).await;
        let body = self.body(operation, &path, None);
        let answer = self.request(operation.method.clone(), &path, &body).await;
        assert!(answer.succeeded(), "{} {path} {body}: {} {}", operation.method, answer.status, answer.text());
        self.keep(operation, &path, &answer, &body).await;
    }

    /// Each parameter of its path is something else, once.
    async fn by_extreme_names(&mut self, operation: &Operation) {
        let parameters = operation.path.split('/').filter(|part| part.starts_with('{')).collect::<Vec<_>>();
        for parameter in parameters {
            for name in document::extreme_names() {
                let template = Operation { path: operation.path.replacen(parameter, &name, 1), ..operation.clone() };
                let path = self.place(&template, false).await;
                let body = self.body(operation, &path, None);
                let answer = self.request(operation.method.clone(), &path, &body).await;
                if answer.succeeded() {
                    self.keep(operation, &path, &answer, &body).await;
                }
            }
        }
    }

    async fn member(&mut self, operation: &Operation, member: &Member) {
        let makes_application = member.names.iter().any(|name| name == "application");
        let mut path = self.place(operation, makes_application).await;
        let (mut accepted, mut refused) = (0, 0);
        let mut values = document::extremes(&member.schema);
        values.extend(self.of_its_own(member.name()));
        let mut values = values.into_iter().map(|value| (value, None)).collect::<Vec<_>>();
        let is_as_in_path = makes_application && member.name() == "uid";
        // There are few.
        let is_of_operator = operation.id.starts_with("v1.operational-webhook.") && member.name() == "eventTypes";
        let mut bounds = self.bounds_of_its_own(member.name());
        if !is_as_in_path && !is_of_operator && !NOT_BY_THE_DOCUMENT.contains(&member.name()) {
            bounds.extend(document::bounds(&member.schema));
        }
        values.extend(bounds.into_iter().flat_map(|(at, over)| [(at, Some(true)), (over, Some(false))]));
        for (value, is_within) in values {
            if makes_application {
                path = self.place(operation, true).await;
            }
            let body = self.body(operation, &path, Some((member, &value)));
            let answer = self.request(operation.method.clone(), &path, &body).await;
            let (status, problems) = verdict(&answer);
            let what = || {
                format!(
                    "{} of {} as {}: {}",
                    member.name(),
                    operation.id,
                    brief(&value.to_string()),
                    brief(&answer.text())
                )
            };
            if status == 422 {
                assert!(!problems.is_empty(), "nothing is blamed, {}", what());
                let places = problems.iter().map(|problem| problem["loc"].as_array().expect("a place"));
                assert!(
                    places.into_iter().all(|place| member.is_named_in(place)),
                    "another member is blamed, {}",
                    what()
                );
            }
            // What is not there (404), or somebody else has (409), is within the bound, too.
            let is_wrong = |within: bool| match within {
                true => status >= 300 && ![404, 409].contains(&status),
                false => ![413, 422].contains(&status),
            };
            assert!(
                !is_within.is_some_and(is_wrong),
                "{status}: {} the bound: {}",
                if is_within == Some(true) { "at" } else { "over" },
                what()
            );
            match status < 300 {
                true => accepted += 1,
                false => refused += 1,
            }
            if status < 300 {
                self.keep(operation, &path, &answer, &body).await;
            }
            if operation.takes_lines {
                let request = self.client.request(operation.method.clone(), &path);
                let lines = request.header("content-type", "application/x-ndjson").body(format!("{}\n", body[0]));
                let told = lines.send().await;
                let first = told.body.split(|byte| *byte == b'\n').next().unwrap_or_default();
                let line: Value = serde_json::from_slice(first).unwrap_or_else(|_| panic!("{}", what()));
                let by_line = if told.succeeded() { line["status"].as_u64() } else { Some(u64::from(told.status)) };
                // The eventId is taken by then.
                let is_same = by_line == Some(u64::from(status)) || by_line == Some(409) && status < 300;
                assert!(is_same, "a line is judged otherwise, {}: {line}", what());
            }
        }
        let is_excepted = EXCEPTIONS.contains(&(&operation.id, member.name()));
        assert!(is_excepted || accepted > 0, "no value of {} of {} was accepted", member.names.join("."), operation.id);
        assert!(is_excepted || refused > 0, "no value of {} of {} was refused", member.names.join("."), operation.id);
    }

    /// Values that only this member has.
    fn of_its_own(&mut self, name: &str) -> Vec<Value> {
        match name {
            "url" => {
                let url = self.receiver.url();
                let base = url.trim_end_matches('/');
                let long = |length: usize| json!(format!("{base}/{}", "a".repeat(length - base.len() - 1)));
                let odd =
                    ["ü", "\u{130}", "%", "%zz", "<", " ", "\\", "e\u{301}", "?", "#", "/../..", "\t", "\u{fb03}"];
                let mut urls = odd.map(|odd| json!(format!("{base}/{}", odd.repeat(30)))).to_vec();
                urls.push(long(20_000));
                urls.extend([220, 221, 700].map(|count| json!(format!("{base}/{}", "ü".repeat(count)))));
                urls.extend([
                    json!(base.replace("http://", "http://u:p%@")),
                    json!("http://\u{130}.example/"),
                    json!("http://[::1"),
                ]);
                urls
            }
            "secret" | "key" => {
                [0, 31, 32, 99, 1_000].map(|length| json!(format!("whsec_{}", "A".repeat(length)))).to_vec()
            }
            "headers" | "deleteHeaders" => vec![
                json!({ "X-A": "1", "x-a": "2" }),
                json!({ "host": "a" }),
                json!({ "content-length": "1" }),
                json!({ "authorization": "x".repeat(4_096) }),
                json!({ "x-a": "\t \t" }),
                json!(
                    (0..5).map(|at| (format!("x-{at}"), json!("y".repeat(4_096)))).collect::<serde_json::Map<_, _>>()
                ),
                json!(["X-A", "x-a"]),
            ],
            // Nobody else has these.
            "name" | "featureFlag" | "uid" | "eventId" => {
                let serial = self.next();
                let mut names = [1, 256, 257].map(|length| json!(format!("{serial:0>length$}"))).to_vec();
                names.extend([json!(AS_IN_PATH)]);
                names
            }
            "application" => vec![json!({ "name": "a" })],
            "eventType" => vec![json!(self.event_type_with_example)],
            "since" | "after" | "until" => vec![json!(self.since)],
            "specRaw" | "spec" => {
                let spec = json!({ "openapi": "3.1.0", "webhooks": { "from.spec": { "post": { "description": "x".repeat(4_096) } } } });
                let long = json!({ "openapi": "3.1.0", "webhooks": { "from.spec": { "post": { "description": "x".repeat(4_097) } } } });
                let of = |spec: Value| if name == "spec" { spec } else { json!(spec.to_string()) };
                vec![of(spec), of(long)]
            }
            _ => Vec::new(),
        }
    }

    /// As [`document::bounds`], where the document alone does not say how a value looks.
    fn bounds_of_its_own(&self, name: &str) -> Vec<(Value, Value)> {
        match name {
            "url" => {
                let long = |length: usize| json!(format!("{:a<length$}", self.receiver.at("")));
                vec![(long(2_048), long(2_049))]
            }
            // 24 and 75 bytes.
            "secret" | "key" => {
                let secret = |text: &str| json!(format!("whsec_{text}"));
                let padded = |bytes: usize, end: &str| secret(&format!("{}{end}", "A".repeat(bytes / 3 * 4)));
                vec![(padded(24, ""), padded(21, "AAA=")), (padded(75, ""), padded(75, "AA=="))]
            }
            "appIds" => {
                let nobody = |count: usize| (1..count).map(|at| json!(format!("a{at}")));
                let of = |count: usize| [json!(self.app.id)].into_iter().chain(nobody(count)).collect::<Value>();
                vec![(of(10_000), of(10_001))]
            }
            "metadata" => {
                let of = |length: usize| json!({ "k": "v".repeat(length - r#"{"k":""}"#.len()) });
                vec![(of(4_096), of(4_097))]
            }
            _ => Vec::new(),
        }
    }

    /// A plain body of an operation, with a member as it is told.
    fn body(&mut self, operation: &Operation, path: &str, with: Option<(&Member, &Value)>) -> Value {
        let Some(schema) = &operation.body else { return Value::Null };
        let serial = self.next();
        let (url, since, event_type) = (self.receiver.url(), self.since.clone(), self.event_type_with_example.clone());
        let is_example = operation.id.ends_with("send-example");
        let mut plain = |name: &str| match name {
            "url" => json!(url),
            "since" | "after" => json!(since),
            "until" => json!("2100-01-01T00:00:00Z"),
            "name" => json!(format!("p{serial}")),
            "description" => json!(""),
            "eventType" if is_example => json!(event_type),
            "eventType" => json!("e"),
            "payload" | "headers" => json!({}),
            _ => panic!("what is a plain value of {name}?"),
        };
        let names = with.map(|(member, _)| &*member.names).unwrap_or_default();
        let mut body = document::with(schema, names, with.map(|(_, value)| value), &mut plain);
        // An endpoint of a channel of its own gets no other's messages; nor does what fails in an import stand for a member.
        let is_whole = operation.path.ends_with("/endpoint")
            || operation.method == Method::PUT && operation.path.ends_with("{endpoint_id}");
        if is_whole && body.get("channels").is_none() {
            body["channels"] = json!([format!("only-{serial}")]);
        }
        if let Some(uid) = path.split('/').find(|part| part.starts_with("new-")) {
            let message = if body.is_array() { &mut body[0] } else { &mut body };
            let application = &mut message["application"];
            if application["uid"] == AS_IN_PATH || application.get("name").is_some() && application.get("uid").is_none()
            {
                application["uid"] = json!(uid);
            }
        }
        if operation.id.ends_with("import-openapi") && body.get("spec").is_none() && body.get("specRaw").is_none() {
            body["spec"] = json!({ "openapi": "3.1.0", "webhooks": {} });
        }
        body
    }

    /// The path of an operation, with something in the place of each parameter that was made for it.
    async fn place(&mut self, operation: &Operation, is_new_application: bool) -> String {
        let serial = self.next();
        let mut path = operation.path.clone();
        let is_about_application = ["/app/{app_id}", "/app-portal-access/{app_id}", "/dashboard-access/{app_id}"]
            .iter()
            .any(|end| path.ends_with(end))
            || path.ends_with("/expire-all");
        if is_new_application {
            path = path.replace("{app_id}", &format!("new-{serial}"));
        } else if is_about_application && path.contains("{app_id}") {
            let made = self.client.post("/api/v1/app", &json!({ "name": "a" })).await.expect(201).json();
            path = path.replace("{app_id}", made["id"].as_str().expect("an id"));
        }
        path = path.replace("{app_id}", &self.app.id);
        path = path.replace("{consumer_id}", &format!("c{serial}"));
        if path.contains("{event_type_name}") {
            let event_type = json!({ "name": format!("t{serial}"), "description": "" });
            self.client.post("/api/v1/event-type", &event_type).await.expect(201);
            path = path.replace("{event_type_name}", &format!("t{serial}"));
        }
        if !["{endpoint_id}", "{sink_id}", "{msg_id}", "{attempt_id}"].iter().any(|name| path.contains(name)) {
            return path;
        }
        let list = match path.contains("/operational-webhook/") {
            true => "/api/v1/operational-webhook/endpoint".to_owned(),
            false => self.app.path("/endpoint"),
        };
        let channel = format!("only-{serial}");
        let endpoint = json!({ "url": self.receiver.url(), "channels": [channel] });
        let made = self.client.post(&list, &endpoint).await.expect(201).json();
        let endpoint = made["id"].as_str().expect("an id");
        if path.contains("{msg_id}") || path.contains("{attempt_id}") {
            let message = json!({ "eventType": "e", "payload": {}, "channels": [channel] });
            let message = self.client.post(&self.app.path("/msg"), &message).await.expect(202).json();
            let id = message["id"].as_str().expect("an id");
            let attempts = self.app.logged_attempts(id, 1).await;
            path = path.replace("{msg_id}", id).replace("{attempt_id}", attempts[0]["id"].as_str().expect("an id"));
        }
        path.replace("{endpoint_id}", endpoint).replace("{sink_id}", endpoint)
    }

    /// Uses what was accepted, and notes what it made.
    async fn keep(&mut self, operation: &Operation, path: &str, answer: &Answer, body: &Value) {
        let (parent, name) = path.rsplit_once('/').expect("a path has a slash");
        let template = operation.path.rsplit('/').next().expect("a path has parts");
        let by = brief(&body.to_string());
        if operation.method == Method::DELETE {
            return;
        }
        let task = answer.status == 202 && !name.starts_with("msg") && answer.json()["status"].is_string();
        if task && answer.json()["task"].is_string() {
            self.made(answer, TASKS, "id", body).await;
            let path = format!("{TASKS}/{}", answer.json()["id"].as_str().expect("an id"));
            // Of one endpoint there is one at a time.
            wait::until("a task to end", async || {
                let shown = self.client.get(&path).await.expect(200).json();
                (shown["status"] != "running").then_some(())
            })
            .await;
            return;
        }
        match template {
            "app" | "endpoint" | "msg" => drop(self.made(answer, path, "id", body).await),
            "event-type" => drop(self.made(answer, path, "name", body).await),
            "{app_id}" if parent == "/api/v1/app" => self.note(parent, "id", &answer.json(), by).await,
            "{endpoint_id}" => self.note(parent, "id", &answer.json(), by).await,
            "{event_type_name}" => self.note(parent, "name", &answer.json(), by).await,
            "headers" => drop(self.client.get(path).await.expect(200)),
            // What is tried next is tried with the settings that there are by default.
            "settings" | "import" => {
                let settings = "/api/v1/environment/settings";
                self.client.get(settings).await.expect(200);
                self.client.put(settings, &json!({})).await.expect(200);
            }
            "rotate" => drop(self.client.get(parent).await.expect(200)),
            _ => {}
        }
        if body.get("application").or_else(|| body[0].get("application")).is_some_and(Value::is_object) {
            let application = path.split('/').find(|part| part.starts_with("new-"));
            if let Some(application) = application {
                let made = self.client.get(&format!("/api/v1/app/{application}")).await.expect(200).json();
                self.note("/api/v1/app", "id", &made, brief(&body.to_string())).await;
            }
        }
        if let Some(endpoint) = self.endpoint_in(path, answer) {
            self.delivered(&endpoint, body).await;
        }
    }

    /// The endpoint of an application that a request was about: the answer says which, if it was made.
    fn endpoint_in(&self, path: &str, answer: &Answer) -> Option<String> {
        let rest = path.strip_prefix(&*self.app.path("/endpoint"))?;
        let shown = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
        let by_answer = shown["id"].as_str().filter(|id| id.starts_with("ep_"));
        by_answer.or_else(|| rest.split('/').nth(1)).map(ToOwned::to_owned)
    }

    /// Notes what was changed or made, and uses it.
    async fn note(&mut self, list: &str, key: &'static str, shown: &Value, by: String) {
        let path = format!("{list}/{}", shown[key].as_str().expect("a name"));
        let made = Made { path, list: list.to_owned(), key, by };
        self.used(&made).await;
        if !self.made.iter().any(|other| other.path == made.path) {
            self.made.push(made);
        }
    }
}

/// What became of a request, or of the only item of a batch.
fn verdict(answer: &Answer) -> (u16, Vec<Value>) {
    let of = |json: &Value, status: u16| (status, json["detail"].as_array().cloned().unwrap_or_default());
    if answer.body.is_empty() {
        return (answer.status, Vec::new());
    }
    let json = answer.json();
    match json["data"][0]["status"].as_u64() {
        Some(status) if answer.succeeded() => of(&json["data"][0], u16::try_from(status).expect("a status")),
        _ => of(&json, answer.status),
    }
}
