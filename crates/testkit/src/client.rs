//! A small client of the REST API: one request at a time per call, kept connections, JSON.
//!
//! It does nothing clever: no retries, no redirects. A request that gets no answer is an error for those who ask with
//! [`Request::try_send`], and the failure of the test for all others.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::wait;

/// Why there was no answer.
pub type NoAnswer = Box<dyn std::error::Error + Send + Sync>;

/// A client with a token. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    address: watch::Receiver<SocketAddr>,
    token: Option<Arc<str>>,
    idle: Arc<Mutex<Vec<Idle>>>,
}

/// A kept connection, and where it leads.
type Idle = (SocketAddr, SendRequest<Full<Bytes>>);

/// A request being put together.
#[derive(Debug)]
pub struct Request<'a> {
    client: &'a Client,
    builder: http::request::Builder,
    body: Bytes,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Client {
    /// A client of the server at `address`, wherever that moves.
    pub fn new(address: watch::Receiver<SocketAddr>, token: Option<String>) -> Self {
        Self { address, token: token.map(Into::into), idle: Arc::default() }
    }

    /// Somebody else's of the same server, without a token and without a connection.
    pub fn stranger(&self) -> Self {
        Self { address: self.address.clone(), token: None, idle: Arc::default() }
    }

    /// Starts a request with the client's token. `path` begins with `/`.
    pub fn request(&self, method: Method, path: &str) -> Request<'_> {
        let mut builder = http::Request::builder().method(method).uri(path);
        if let Some(token) = &self.token {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        Request { client: self, builder, body: Bytes::new() }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path).send().await
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::POST, path).json(body).send().await
    }

    /// PUT with a JSON body.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::PUT, path).json(body).send().await
    }

    /// PATCH with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.request(Method::PATCH, path).json(body).send().await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.request(Method::DELETE, path).send().await
    }

    async fn exchange(&self, mut request: http::Request<Full<Bytes>>) -> Result<Answer, NoAnswer> {
        let address = *self.address.borrow();
        request.headers_mut().insert("host", address.to_string().parse()?);
        while let Some(mut sender) = self.take_idle(address) {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return self.read(address, sender, response).await,
                // A connection that had been closed gives the request back, untouched.
                Err(mut error) => request = error.take_message().ok_or_else(|| error.into_error())?,
            }
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await?;
        self.read(address, sender, response).await
    }

    async fn read(
        &self,
        address: SocketAddr,
        sender: SendRequest<Full<Bytes>>,
        response: http::Response<hyper::body::Incoming>,
    ) -> Result<Answer, NoAnswer> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        // An answer that came before the whole body was sent leaves a connection of which hyper at times never says that it is
        // ready again.
        if head.status != StatusCode::PAYLOAD_TOO_LARGE {
            self.idle.lock().push((address, sender));
        }
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    fn take_idle(&self, address: SocketAddr) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock();
        idle.retain(|(of, _)| *of == address);
        idle.pop().map(|(_, sender)| sender)
    }
}

impl Request<'_> {
    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.header(name, value);
        self
    }

    /// Sets a JSON body.
    #[must_use]
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it.
    pub async fn try_send(self) -> Result<Answer, NoAnswer> {
        let request = self.builder.body(Full::new(self.body))?;
        tokio::time::timeout(wait::DEADLINE, self.client.exchange(request)).await?
    }

    /// Sends it.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn send(self) -> Answer {
        self.try_send().await.unwrap_or_else(|error| panic!("no answer: {error}"))
    }
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer, if it has this status.
    ///
    /// # Panics
    /// If it has another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Whether the status is 2xx.
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// An application and what tests do with it.
#[derive(Debug, Clone)]
pub struct App {
    /// The client that made it.
    pub client: Client,
    /// Its id.
    pub id: String,
}

impl App {
    /// Creates an application.
    pub async fn create(client: Client) -> Self {
        let answer = client.post("/api/v1/app", &json!({ "name": "a test" })).await.expect(201);
        let id = text(&answer.json()["id"]);
        Self { client, id }
    }

    /// A path below the application: `path("/msg")`.
    pub fn path(&self, rest: &str) -> String {
        format!("/api/v1/app/{}{rest}", self.id)
    }

    /// Creates an endpoint that wants everything; returns its id.
    pub async fn endpoint(&self, url: &str) -> String {
        self.endpoint_with(json!({ "url": url })).await
    }

    /// Creates an endpoint; returns its id.
    pub async fn endpoint_with(&self, endpoint: Value) -> String {
        text(&self.client.post(&self.path("/endpoint"), &endpoint).await.expect(201).json()["id"])
    }

    /// The secret of an endpoint, as its receiver would be told.
    pub async fn secret(&self, endpoint: &str) -> String {
        text(&self.client.get(&self.path(&format!("/endpoint/{endpoint}/secret"))).await.expect(200).json()["key"])
    }

    /// Sends a message with this payload; returns its id.
    pub async fn send(&self, event_type: &str, payload: &Value) -> String {
        let message = json!({ "eventType": event_type, "payload": payload });
        text(&self.client.post(&self.path("/msg"), &message).await.expect(202).json()["id"])
    }

    /// The attempts that were made for a message, newest first.
    pub async fn attempts(&self, message: &str) -> Vec<Value> {
        let answer = self.client.get(&self.path(&format!("/attempt/msg/{message}?limit=250"))).await.expect(200).json();
        answer["data"].as_array().expect("a list has data").clone()
    }

    /// Waits until at least `count` attempts for a message are logged; returns them, oldest first.
    pub async fn logged_attempts(&self, message: &str, count: usize) -> Vec<Value> {
        wait::until(&format!("{count} attempts for {message}"), async || {
            let mut attempts = self.attempts(message).await;
            attempts.reverse();
            (attempts.len() >= count).then_some(attempts)
        })
        .await
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is not a text")).to_owned()
}
