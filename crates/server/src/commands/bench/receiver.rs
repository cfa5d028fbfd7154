//! The benchmark's receivers: one listener per endpoint, each noting what arrives and answering 200 with nothing.
//!
//! Every hundredth delivery's signature is verified, so that a server that does not sign can't look fast. A second kind
//! takes requests and never answers.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use postrider_domain::clock::{Clock as _, SystemClock};
use postrider_domain::entropy::OsEntropy;
use postrider_domain::signature::{Secret, SecretKind};
use postrider_domain::verify::{SignedHeaders, TOLERANCE, VerifyingKey};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

use super::clock::micros;
use super::http::whole;
use super::message::{PHASES, Stamp};
use super::phase::Phase;
use crate::commands::http1::{empty, serve};

/// Of how many deliveries one is verified.
const SAMPLE: u32 = 100;

/// Where a server should send, and the secret it should sign with.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// The receiver's URL.
    pub(super) url: String,
    /// `whsec_…`
    pub(super) secret: String,
}

/// The phases by number, and what belongs to none.
pub(super) struct Board {
    phases: [OnceLock<Arc<Phase>>; PHASES],
    strays: AtomicU64,
    clock: SystemClock,
}

/// Receivers that count. They end when this is dropped.
pub(super) struct Receivers {
    /// Where they are, in the order of their numbers.
    pub(super) addresses: Vec<Address>,
    board: Arc<Board>,
    _tasks: JoinSet<()>,
}

/// Receivers that take requests and never answer. They end when this is dropped.
pub(super) struct Hanging {
    /// Where they are.
    pub(super) addresses: Vec<Address>,
    held: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

/// A port on which nobody listens, and nobody else can as long as this lives.
pub(super) struct DeadPort {
    /// What would be there.
    pub(super) address: Address,
    _socket: TcpSocket,
}

impl Receivers {
    /// Starts `count` receivers.
    pub(super) async fn start(ip: IpAddr, count: usize) -> anyhow::Result<Self> {
        let board = Arc::new(Board {
            phases: std::array::from_fn(|_| OnceLock::new()),
            strays: AtomicU64::new(0),
            clock: SystemClock::new(),
        });
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::with_capacity(count);
        for endpoint in 0..count {
            let (listener, address) = listen(ip).await?;
            let key: Arc<VerifyingKey> = Arc::new(address.secret.parse()?);
            let board = Arc::clone(&board);
            tasks.spawn(serve(listener, move |request| note(Arc::clone(&board), endpoint, Arc::clone(&key), request)));
            addresses.push(address);
        }
        Ok(Self { addresses, board, _tasks: tasks })
    }

    /// Opens the books of the next phase, whose messages should reach `endpoints` receivers each.
    pub(super) fn open_phase(&self, endpoints: usize) -> anyhow::Result<Arc<Phase>> {
        for (number, place) in self.board.phases.iter().enumerate() {
            if place.get().is_none() {
                return Ok(Arc::clone(place.get_or_init(|| Arc::new(Phase::new(number as u8, endpoints)))));
            }
        }
        anyhow::bail!("too many rounds: one run has at most {PHASES} phases, warm-ups included")
    }

    /// Requests that were none of the benchmark's messages.
    pub(super) fn strays(&self) -> u64 {
        self.board.strays.load(Relaxed)
    }
}

impl Hanging {
    /// Starts `count` receivers.
    pub(super) async fn start(ip: IpAddr, count: usize) -> anyhow::Result<Self> {
        let held = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let (listener, address) = listen(ip).await?;
            let held = Arc::clone(&held);
            tasks.spawn(serve(listener, move |request: Request<Incoming>| hold(Arc::clone(&held), request)));
            addresses.push(address);
        }
        Ok(Self { addresses, held, _tasks: tasks })
    }

    /// How many requests wait for an answer now.
    pub(super) fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }
}

impl DeadPort {
    /// Reserves a port: bound, so that nobody else gets it, but not listening, so that connections are refused.
    pub(super) fn reserve(ip: IpAddr) -> anyhow::Result<Self> {
        let socket = if ip.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(ip, 0)).with_context(|| format!("can't take a port on {ip}"))?;
        Ok(Self { address: address(socket.local_addr()?), _socket: socket })
    }
}

async fn listen(ip: IpAddr) -> anyhow::Result<(TcpListener, Address)> {
    let listener = TcpListener::bind((ip, 0)).await.with_context(|| format!("can't listen on {ip}"))?;
    let address = address(listener.local_addr()?);
    Ok((listener, address))
}

fn address(at: SocketAddr) -> Address {
    let secret = Secret::generate(SecretKind::Hmac256, &OsEntropy);
    Address { url: format!("http://{at}/webhook"), secret: secret.as_str().to_owned() }
}

async fn note(
    board: Arc<Board>,
    endpoint: usize,
    key: Arc<VerifyingKey>,
    request: Request<Incoming>,
) -> Result<Response<http_body_util::Full<bytes::Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = whole(body).await?;
    let now = micros();
    let known = Stamp::read(&body).and_then(|stamp| Some((stamp, board.phases[usize::from(stamp.phase)].get()?)));
    match known {
        Some((stamp, phase)) => {
            let sampled = stamp.sequence.is_multiple_of(SAMPLE);
            let signature = sampled.then(|| is_signed(&parts.headers, &body, &key, &board.clock));
            // The endpoint's number spreads receivers over the shards, the message's its connections.
            phase.receive(endpoint.wrapping_add(stamp.sequence as usize), endpoint, stamp, now, signature);
        }
        None => {
            board.strays.fetch_add(1, Relaxed);
        }
    }
    Ok(empty(StatusCode::OK))
}

fn is_signed(headers: &http::HeaderMap, body: &[u8], key: &VerifyingKey, clock: &SystemClock) -> bool {
    SignedHeaders::find(|name| headers.get(name)?.to_str().ok())
        .and_then(|signed| signed.verify(std::slice::from_ref(key), body, clock.wall(), TOLERANCE))
        .is_ok()
}

async fn hold(
    held: Arc<AtomicU64>,
    request: Request<Incoming>,
) -> Result<Response<http_body_util::Full<bytes::Bytes>>, hyper::Error> {
    /// Counts a request for as long as its connection lives.
    struct Held(Arc<AtomicU64>);
    impl Drop for Held {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Relaxed);
        }
    }
    whole(request.into_body()).await?;
    held.fetch_add(1, Relaxed);
    let _held = Held(held);
    std::future::pending().await
}
