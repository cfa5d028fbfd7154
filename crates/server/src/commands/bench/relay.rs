//! The machine's ceiling: a server that accepts, signs and forwards, and stores nothing.
//!
//! It does what any webhook sender must do on this machine, with the same runtime, the same HTTP library on both sides,
//! the same JSON and the same signature, and none of what makes a sender worth having: no store, no retries, no
//! authentication, no matching. What a durable server reaches is therefore a fraction of this. It takes no shortcut that
//! a good server could not take, and wastes nothing that a good server would not.
//!
//! A request is answered when it has been handed to a connection of every endpoint, so that the relay can't look fast by
//! queueing: each endpoint has a fixed number of connections, one request in flight on each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;
use postrider_domain::clock::{Clock as _, SystemClock};
use postrider_domain::entropy::OsEntropy;
use postrider_domain::ids::MessageId;
use postrider_domain::signature::SigningKeys;
use postrider_domain::time::Timestamp;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::http::{Connection, whole};
use crate::commands::STACK_BYTES;
use crate::commands::http1::{empty, serve};

/// Forward what is posted here, signed, and store nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct RelayArgs {
    /// Where to forward to; once per endpoint.
    #[arg(long = "to", required = true)]
    to: Vec<Uri>,
    /// What to sign with; once per endpoint, in the same order.
    #[arg(long = "secret", required = true)]
    secrets: Vec<String>,
    /// Connections per endpoint.
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
}

/// The members of a message that matter here.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageIn<'a> {
    #[serde(borrow)]
    event_type: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// The answer, in the shape of the contract.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageOut<'a> {
    channels: Option<()>,
    event_id: Option<()>,
    event_type: &'a str,
    id: MessageId,
    payload: &'a RawValue,
    timestamp: Timestamp,
}

struct Relay {
    clock: SystemClock,
    endpoints: Vec<Endpoint>,
}

/// The connections of one endpoint.
struct Endpoint {
    keys: SigningKeys,
    free: Semaphore,
    /// Connections without a request: the one used last is used next, because it is warm.
    idle: Mutex<Vec<usize>>,
    connections: Vec<mpsc::Sender<Job>>,
}

/// One request to forward.
struct Job {
    id: MessageId,
    at: Timestamp,
    payload: Bytes,
}

/// Serves until its standard input ends (so that it can't outlive who started it) or it is told to stop.
pub(super) async fn run(args: RelayArgs) -> anyhow::Result<()> {
    if args.to.len() != args.secrets.len() {
        bail!("one --secret for every --to");
    }
    let mut relay = Relay { clock: SystemClock::new(), endpoints: Vec::new() };
    let mut receivers = Vec::new();
    for (to, secret) in args.to.iter().zip(&args.secrets) {
        let (endpoint, jobs) = Endpoint::new(secret, args.in_flight)?;
        relay.endpoints.push(endpoint);
        receivers.push((to.clone(), jobs));
    }
    let relay = Arc::new(relay);
    for (endpoint, (to, jobs)) in receivers.into_iter().enumerate() {
        let line = Arc::new(Line::new(&to).await?);
        for (number, jobs) in jobs.into_iter().enumerate() {
            tokio::spawn(forward(Arc::clone(&relay), endpoint, number, Arc::clone(&line), jobs));
        }
    }
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    super::private::announce(listener.local_addr()?)?;
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        () = serve(listener, move |request| answer(Arc::clone(&relay), request)) => {}
        _ = input_ended() => {}
        _ = terminated.recv() => {}
    }
    Ok(())
}

/// Waits for the end of standard input: whoever started this is gone. On a thread of its own, because tokio's reading of it
/// would keep the process from ending.
fn input_ended() -> oneshot::Receiver<()> {
    let (ended, wait) = oneshot::channel();
    // Without a thread it counts as ended.
    let _ = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = ended.send(());
    });
    wait
}

impl Endpoint {
    fn new(secret: &str, connections: usize) -> anyhow::Result<(Self, Vec<mpsc::Receiver<Job>>)> {
        let keys = SigningKeys::new(secret.parse().context("--secret")?);
        let (senders, receivers) = (0..connections).map(|_| mpsc::channel(1)).unzip();
        let idle = Mutex::new((0..connections).collect());
        Ok((Self { keys, free: Semaphore::new(connections), idle, connections: senders }, receivers))
    }

    /// Hands a job to a connection, waiting until one is free.
    async fn hand_over(&self, job: Job) -> anyhow::Result<()> {
        self.free.acquire().await?.forget();
        let number = self.idle.lock().pop().context("a permit without a connection")?;
        self.connections[number].send(job).await?;
        Ok(())
    }

    fn release(&self, number: usize) {
        self.idle.lock().push(number);
        self.free.add_permits(1);
    }
}

async fn answer(relay: Arc<Relay>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    if parts.method != Method::POST || !path.starts_with("/api/v1/app/") || !path.ends_with("/msg") {
        return Ok(empty(StatusCode::NOT_FOUND));
    }
    let with_content = !parts.uri.query().is_some_and(|query| query.contains("with_content=false"));
    let body = whole(body).await?;
    Ok(accept(&relay, &body, with_content).await.unwrap_or_else(|_| empty(StatusCode::UNPROCESSABLE_ENTITY)))
}

async fn accept(relay: &Relay, body: &Bytes, with_content: bool) -> anyhow::Result<Response<Full<Bytes>>> {
    let message: MessageIn<'_> = serde_json::from_slice(body)?;
    if !message.payload.get().starts_with('{') {
        bail!("the payload is no object");
    }
    let at = relay.clock.now();
    let id = MessageId::new(at, &OsEntropy);
    let payload = body.slice_ref(message.payload.get().as_bytes());
    for endpoint in &relay.endpoints {
        endpoint.hand_over(Job { id, at: relay.clock.wall(), payload: payload.clone() }).await?;
    }
    let payload = if with_content { message.payload } else { serde_json::from_str("{}")? };
    let out =
        MessageOut { channels: None, event_id: None, event_type: &message.event_type, id, payload, timestamp: at };
    let mut response = Response::new(Full::new(Bytes::from(serde_json::to_vec(&out)?)));
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// What all requests to one endpoint have in common.
struct Line {
    address: SocketAddr,
    path: Uri,
    headers: HeaderMap,
}

impl Line {
    async fn new(url: &Uri) -> anyhow::Result<Self> {
        let authority = url.authority().context("--to must be a URL")?;
        let address = tokio::net::lookup_host((authority.host(), authority.port_u16().unwrap_or(80)))
            .await?
            .next()
            .context("--to has no address")?;
        let path = url.path_and_query().map_or(Ok(Uri::from_static("/")), |path| path.as_str().parse())?;
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("Postrider-relay"));
        Ok(Self { address, path, headers })
    }

    fn request(&self, keys: &SigningKeys, job: &Job) -> anyhow::Result<Request<Full<Bytes>>> {
        let timestamp = job.at.as_seconds().to_string();
        let signature = keys.sign(&job.id, &timestamp, &job.payload, job.at);
        let mut request = Request::new(Full::new(job.payload.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        headers.insert("webhook-id", job.id.to_string().try_into()?);
        headers.insert("webhook-timestamp", timestamp.try_into()?);
        headers.insert("webhook-signature", signature.try_into()?);
        Ok(request)
    }
}

/// One connection to an endpoint.
async fn forward(relay: Arc<Relay>, endpoint: usize, number: usize, line: Arc<Line>, mut jobs: mpsc::Receiver<Job>) {
    let endpoint = &relay.endpoints[endpoint];
    let mut open = None;
    while let Some(job) = jobs.recv().await {
        // Like the rest of it, forwarding is best effort: what fails a few times in a row is dropped.
        for _ in 0..3 {
            match deliver(&line, &endpoint.keys, &job, &mut open).await {
                Ok(()) => break,
                Err(_) => {
                    open = None;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
        endpoint.release(number);
    }
}

async fn deliver(line: &Line, keys: &SigningKeys, job: &Job, open: &mut Option<Connection>) -> anyhow::Result<()> {
    let request = line.request(keys, job)?;
    let connection = match open {
        Some(connection) => connection,
        None => open.insert(Connection::open(line.address).await?),
    };
    let (status, _) = connection.exchange(request).await.map_err(|failed| failed.error)?;
    if !status.is_success() {
        bail!("the endpoint answered {status}");
    }
    Ok(())
}
