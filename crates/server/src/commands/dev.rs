//! `serve --dev`: what a newcomer finds, at the first start and at every later one: a key, an application with an endpoint,
//! and the receiver of that endpoint, which prints every delivery in the same terminal.
//!
//! Whatever is there is left as it is; only the endpoint's URL follows the receiver, which takes another port if its own is
//! in use. So the commands that are printed work however often the server was started.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use postrider_api::Api;
use postrider_domain::clock::Clock;
use postrider_domain::entropy::Entropy;
use postrider_domain::verify::VerifyingKey;
use postrider_store::Store;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{key, listen};
use crate::log::Output;
use crate::wiring::Server;

/// Where the receiver listens, if nobody else does.
const PORT: u16 = 8072;

/// What the keys are called that `--dev` makes, and how long they are valid. They are shown when they are made and never
/// again, so every start makes one.
const KEY_NAME: &str = "serve --dev";
const KEY_LIFETIME: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

/// Keys of earlier starts that stay valid, for terminals that still use them. Older ones are revoked.
const KEPT_KEYS: usize = 10;

/// Sets everything up, and says what to type next. The receiver ends when the returned task is aborted.
pub(super) async fn welcome(server: &Server, url: &str, stdout: &Output) -> anyhow::Result<JoinHandle<()>> {
    let (clock, entropy) = crate::wiring::machine();
    let key = new_key(server.store.as_ref(), clock.as_ref(), entropy.as_ref()).await?;
    let socket = match TcpListener::bind(("127.0.0.1", PORT)).await {
        Ok(socket) => socket,
        Err(_) => TcpListener::bind(("127.0.0.1", 0)).await.context("no port is free for the demo receiver")?,
    };
    let receiver = format!("http://{}/", socket.local_addr()?);
    let secret = demo_endpoint(&Caller { api: &server.api, key: &key }, &receiver).await?;
    let secret: VerifyingKey = secret.parse().map_err(|error| anyhow::anyhow!("the endpoint's secret: {error}"))?;
    let receiving = tokio::spawn(listen::demo(socket, secret, stdout.clone()));
    stdout.say(&format!(
        "
Your API key, valid for a week (each start with --dev makes a new one):

    {key}

The application \"demo\" has an endpoint at {receiver}, whose receiver runs in here. In another terminal, send it a message
and see it arrive below, verified:

    export POSTRIDER_URL={url} POSTRIDER_TOKEN={key}
    curl {url}/api/v1/app/demo/msg -H \"Authorization: Bearer $POSTRIDER_TOKEN\" -d '{{\"eventType\": \"user.created\", \"payload\": {{\"name\": \"Ada\"}}}}'

The API's documentation: {url}/docs
"
    ));
    Ok(receiving)
}

async fn new_key(store: &dyn Store, clock: &dyn Clock, entropy: &dyn Entropy) -> anyhow::Result<String> {
    let mut old: Vec<_> = store.api_keys().await?.into_iter().filter(|key| key.name == KEY_NAME).collect();
    old.sort_unstable_by_key(|key| std::cmp::Reverse(key.created_at));
    for key in old.into_iter().skip(KEPT_KEYS) {
        store.revoke_api_key(key.id).await?;
    }
    let (_, text) = key::make(store, KEY_NAME, Some(KEY_LIFETIME), clock, entropy).await?;
    Ok(text)
}

/// Requests to the server's own API, without a socket.
struct Caller<'a> {
    api: &'a Api,
    key: &'a str,
}

impl Caller<'_> {
    async fn call(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<(StatusCode, Value)> {
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(http::header::HOST, "localhost")
            .header(http::header::AUTHORIZATION, format!("Bearer {}", self.key))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let (head, body) = self.api.respond(request).await.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok((head.status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    /// As [`Self::call`], of which nothing but success is expected.
    async fn expect(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        match self.call(method, path, body).await? {
            (status, value) if status.is_success() => Ok(value),
            (status, value) => bail!("the demo could not be set up: {path} answered {status} {value}"),
        }
    }
}

/// Sees to it that the application \"demo\" has its endpoint, and that this leads to `receiver`; returns its secret.
async fn demo_endpoint(caller: &Caller<'_>, receiver: &str) -> anyhow::Result<String> {
    let application = json!({ "name": "Demo", "uid": "demo" });
    caller.expect(Method::POST, "/app?get_if_exists=true", &application).await?;
    let (status, answer) =
        caller.call(Method::PATCH, "/app/demo/endpoint/demo", &json!({ "url": receiver, "disabled": false })).await?;
    if status == StatusCode::NOT_FOUND {
        let endpoint = json!({ "url": receiver, "uid": "demo", "description": "The receiver of serve --dev" });
        caller.expect(Method::POST, "/app/demo/endpoint", &endpoint).await?;
    } else if !status.is_success() {
        bail!("the demo's endpoint, {receiver}, is refused: {status} {answer}");
    }
    let secret = caller.expect(Method::GET, "/app/demo/endpoint/demo/secret", &Value::Null).await?;
    secret["key"].as_str().map(str::to_owned).context("the endpoint has no secret")
}
