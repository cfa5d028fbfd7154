//! Every operation of the OpenAPI document, asked for by everybody who may not: a real server gives away nothing, not even
//! whether something exists.
//!
//! What is asked comes from the document, so that an operation that is added is judged without being named here. What a caller
//! with the right token gets is the matter of the API's own tests.

use std::collections::BTreeMap;

use http::Method;
use postrider_testkit::{Answer, App, Client, Receiver, TestServer, wait};
use serde_json::{Value, json};

/// Values of the parameters of paths, by name.
type Ids = BTreeMap<&'static str, String>;

struct Operation {
    method: Method,
    path: String,
    is_public: bool,
    /// Tokens of applications are refused here, as its description says.
    is_for_operators: bool,
}

impl Operation {
    async fn ask(&self, by: &Client, ids: &Ids) -> Answer {
        let path = ids.iter().fold(self.path.clone(), |path, (name, id)| path.replace(&format!("{{{name}}}"), id));
        assert!(!path.contains('{'), "{path}: nothing is known about that parameter");
        let request = by.request(self.method.clone(), &path);
        // No operation needs less, and none can be carried out by accident with more than that.
        let request = if self.method == Method::GET { request } else { request.json(&json!({})) };
        request.send().await
    }

    fn is_about(&self, parameter: &str) -> bool {
        self.path.contains(&format!("{{{parameter}}}"))
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

async fn operations(server: &TestServer) -> Vec<Operation> {
    let document = server.client().get("/api/v1/openapi.json").await.expect(200).json();
    let paths = document["paths"].as_object().expect("a document has paths");
    let mut operations = Vec::new();
    for (path, item) in paths {
        let methods = item.as_object().expect("a path has methods");
        for (method, operation) in methods.iter().filter(|(_, operation)| operation["responses"].is_object()) {
            let about = operation["description"].as_str().unwrap_or_default();
            operations.push(Operation {
                method: method.to_uppercase().parse().expect("a method"),
                path: path.clone(),
                is_public: operation["security"] == json!([]),
                is_for_operators: about.contains("Needs a token of the environment."),
            });
        }
    }
    assert!(operations.len() > 50, "the document has all operations");
    assert!(operations.iter().any(|operation| operation.is_for_operators), "descriptions say who may");
    operations
}

/// Something of every kind, in the environment of `app`.
async fn things(server: &TestServer, app: &App) -> Ids {
    let receiver = Receiver::ok().await;
    let client = server.client();
    client.post("/api/v1/event-type", &json!({ "name": "made", "description": "" })).await.expect(201);
    let made = async |path: String, body: Value, status: u16| {
        let answer = client.post(&path, &body).await.expect(status).json();
        answer["id"].as_str().expect("what is made has an id").to_owned()
    };
    let endpoint = made(app.path("/endpoint"), json!({ "url": receiver.url() }), 201).await;
    let message = made(app.path("/msg"), json!({ "eventType": "made", "payload": {} }), 202).await;
    let attempt = wait::until("an attempt", async || {
        let listed = client.get(&app.path(&format!("/attempt/msg/{message}"))).await.expect(200).json();
        listed["data"][0]["id"].as_str().map(str::to_owned)
    })
    .await;
    let task = client.request(Method::PUT, "/api/v1/stats/usage/event-types").send().await.expect(202).json();
    let task = task["id"].as_str().expect("a task has an id").to_owned();
    Ids::from([
        ("task_id", task),
        ("environment_id", "org_nobody".to_owned()),
        ("app_id", app.id.clone()),
        ("endpoint_id", endpoint.clone()),
        ("sink_id", endpoint),
        ("consumer_id", "consumer".to_owned()),
        ("msg_id", message),
        ("attempt_id", attempt),
        ("event_type_name", "made".to_owned()),
    ])
}

/// The same kinds of ids, of nothing.
fn nothing(things: &Ids) -> Ids {
    let of_nothing = |(name, id): (&&'static str, &String)| {
        let id = id.split_once('_').map_or("nothing".to_owned(), |(prefix, _)| format!("{prefix}_{}", "0".repeat(27)));
        (*name, id)
    };
    things.iter().map(of_nothing).collect()
}

/// What of an answer a caller can tell apart.
fn seen(answer: &Answer) -> (u16, String) {
    (answer.status, answer.text())
}

#[tokio::test]
async fn without_a_good_token_nothing_is_told() {
    let server = TestServer::builder(env!("CARGO_BIN_EXE_postrider")).start().await;
    let app = server.app().await;
    let things = things(&server, &app).await;
    let expired = json!({ "sub": server.org(), "iat": 0, "nbf": 0, "exp": 1_000_000_000 });
    let nobody = [
        ("no token", None),
        ("no token of ours", Some("nothing".to_owned())),
        ("a token that another secret signed", Some(format!("{}AA", server.token()))),
        ("an expired token", Some(server.sign(&expired))),
        ("an expired token of an application", {
            let mut claims = expired.clone();
            claims["sub"] = app.id.clone().into();
            claims["org"] = server.org().into();
            Some(server.sign(&claims))
        }),
    ];
    for operation in operations(&server).await.iter().filter(|operation| !operation.is_public) {
        for (who, token) in &nobody {
            let answer = operation.ask(&server.client_with(token.clone()), &things).await;
            assert_eq!(answer.status, 401, "{operation} with {who}: {}", answer.text());
            let mut told = answer.json();
            // Why, as far as whoever asks can know it: nothing of what is stored.
            let reason = told.as_object_mut().and_then(|members| members.remove("reason"));
            assert!(reason.is_some_and(|reason| reason.is_string()), "{operation} with {who}: {}", answer.text());
            assert_eq!(told, json!({ "code": "authentication_failed", "detail": "Invalid token" }));
        }
    }
}

#[tokio::test]
async fn a_stranger_cannot_tell_what_exists() {
    let server = TestServer::builder(env!("CARGO_BIN_EXE_postrider")).start().await;
    let (app, other) = (server.app().await, server.app().await);
    let things = things(&server, &app).await;
    let nothing = nothing(&things);
    let environment = json!({ "sub": "org_somebody_else", "iat": 0, "nbf": 0, "exp": 4_000_000_000_u64 });
    let strangers = [
        ("a token of another environment", server.sign(&environment)),
        ("a token of another application", server.application_token(&other.id)),
    ];
    for operation in operations(&server).await.iter().filter(|operation| operation.path.contains('{')) {
        // Event types belong to the environment: every application of it may see them.
        let is_of_the_environment = operation.is_about("event_type_name");
        for (who, token) in &strangers {
            if is_of_the_environment && who.ends_with("application") && !operation.is_for_operators {
                continue;
            }
            let stranger = server.client_with(Some(token.clone()));
            let (real, unreal) = (operation.ask(&stranger, &things).await, operation.ask(&stranger, &nothing).await);
            assert_eq!(seen(&real), seen(&unreal), "{operation} with {who}");
            assert!(real.status >= 400, "{operation} with {who}: {}", real.text());
            if operation.is_about("app_id") && who.ends_with("application") {
                let expected = if operation.is_for_operators { 403 } else { 404 };
                assert_eq!(real.status, expected, "{operation} with {who}: {}", real.text());
            }
        }
    }
}

#[tokio::test]
async fn the_token_of_an_application_is_refused_where_the_document_says() {
    let server = TestServer::builder(env!("CARGO_BIN_EXE_postrider")).start().await;
    let app = server.app().await;
    let things = things(&server, &app).await;
    let tenant = server.client_with(Some(server.application_token(&app.id)));
    for operation in operations(&server).await.iter().filter(|operation| !operation.is_public) {
        let answer = operation.ask(&tenant, &things).await;
        let is_refused = answer.status == 403;
        assert_eq!(is_refused, operation.is_for_operators, "{operation}: {} {}", answer.status, answer.text());
        if is_refused {
            assert_eq!(answer.json()["code"], "insufficient access", "{operation}");
        }
    }
}
