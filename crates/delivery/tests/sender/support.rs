//! Receivers that follow a script byte by byte, names that mean what a test says, and what a test sends.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use postrider_delivery::options::{DeliveryOptions, Subnets};
use postrider_delivery::resolve::{Resolve, ResolveError};
use postrider_delivery::sender::{Prepared, Sender, Sent, Slot};
use postrider_delivery::tls;
use postrider_domain::clock::{Clock, Sleep, SystemClock};
use postrider_domain::delivery::{Failure, Outcome};
use postrider_domain::endpoint::{EndpointUrl, Headers};
use postrider_domain::entropy::OsEntropy;
use postrider_domain::ids::MessageId;
use postrider_domain::message::Message;
use postrider_domain::names::EventTypeName;
use postrider_domain::settings::Span;
use postrider_domain::signature::{Secret, SecretKind, SigningKeys};
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, EnvironmentKey};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Long enough that it only passes if something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A receiver that hands every connection, with its number from 0, to a script.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Receiver {
    pub(crate) async fn start<F, S>(script: F) -> Self
    where
        F: Fn(TcpStream, usize) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        Self::on("127.0.0.1:0", script).await
    }

    pub(crate) async fn on<F, S>(address: &str, script: F) -> Self
    where
        F: Fn(TcpStream, usize) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(script(stream, counter.fetch_add(1, Ordering::SeqCst)));
            }
        });
        Self { address, connections, task }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One request as it came over the wire.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Reads one request; `None` if the connection ended first.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Received> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8(bytes).unwrap();
    let received = Received { head, body: Vec::new() };
    let length: usize = received.header("content-length").unwrap().parse().unwrap();
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(Received { body, ..received })
}

/// Answers every request on a connection with these bytes.
pub(crate) async fn answer_all(mut stream: TcpStream, answer: &[u8]) {
    while read_request(&mut stream).await.is_some() {
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// Ends a connection with a reset.
pub(crate) fn reset(stream: TcpStream) {
    let stream = stream.into_std().unwrap();
    // Closing with unread or lingering data at zero linger is what makes the kernel send RST instead of FIN.
    tokio::net::TcpSocket::from_std_stream(stream).set_zero_linger().unwrap();
}

pub(crate) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Names that mean what a test says. Each look-up takes the next answer of the list; the last one stays.
pub(crate) struct Names(Mutex<VecDeque<Option<Vec<IpAddr>>>>);

/// Says that this machine can look nothing up at present.
struct Busy;

#[async_trait]
impl Resolve for Busy {
    async fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
        Err(ResolveError::Busy)
    }
}

impl Names {
    /// Each answer is a list of addresses, separated by blanks.
    pub(crate) fn answering(answers: &[&str]) -> Arc<Self> {
        let parse = |text: &&str| Some(text.split(' ').map(|address| address.parse().unwrap()).collect());
        Arc::new(Self(Mutex::new(answers.iter().map(parse).collect())))
    }

    /// Knows no name.
    pub(crate) fn nowhere() -> Self {
        Self(Mutex::new(VecDeque::from([Some(Vec::new())])))
    }

    /// This machine can look nothing up.
    pub(crate) fn busy() -> Arc<dyn Resolve> {
        Arc::new(Busy)
    }

    /// Never answers.
    pub(crate) fn hanging() -> Arc<Self> {
        Arc::new(Self(Mutex::new(VecDeque::from([None]))))
    }

    fn next(&self) -> Option<Vec<IpAddr>> {
        let mut answers = self.0.lock();
        if answers.len() > 1 { answers.pop_front().unwrap() } else { answers.front().cloned().unwrap() }
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
        match self.next() {
            Some(addresses) if addresses.is_empty() => Err(ResolveError::NoSuchName),
            Some(addresses) => Ok(addresses),
            None => std::future::pending().await,
        }
    }
}

/// The machine's time, and as much more as a test says.
#[derive(Default)]
pub(crate) struct ShiftedClock {
    system: SystemClock,
    ahead: Mutex<Duration>,
}

impl ShiftedClock {
    pub(crate) fn advance(&self, by: Duration) {
        *self.ahead.lock() += by;
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        self.system.now().saturating_add(*self.ahead.lock())
    }

    fn wall(&self) -> Timestamp {
        self.system.wall()
    }

    fn sleep_until(&self, at: Timestamp) -> Sleep {
        self.system.sleep_until(at.saturating_sub(*self.ahead.lock()))
    }
}

/// What a test sends with.
pub(crate) struct Client {
    pub(crate) sender: Sender,
    pub(crate) keys: SigningKeys,
}

pub(crate) fn options(allow: &[&str], timeout: Duration) -> DeliveryOptions {
    DeliveryOptions {
        allow_subnets: Subnets(allow.iter().map(|network| network.parse().unwrap()).collect()),
        request_timeout: Span(timeout),
        ..DeliveryOptions::default()
    }
}

impl Client {
    /// May send to loopback addresses only; names mean 127.0.0.1.
    pub(crate) fn local() -> Self {
        Self::with_timeout(PATIENCE)
    }

    pub(crate) fn with_timeout(timeout: Duration) -> Self {
        Self::new(&options(&["127.0.0.0/8"], timeout), Names::answering(&["127.0.0.1"]), rustls::RootCertStore::empty())
    }

    pub(crate) fn new(options: &DeliveryOptions, names: Arc<dyn Resolve>, roots: rustls::RootCertStore) -> Self {
        Self::at(Arc::new(SystemClock::new()), options, names, roots)
    }

    /// Lives by this clock.
    pub(crate) fn at(
        clock: Arc<dyn Clock>,
        options: &DeliveryOptions,
        names: Arc<dyn Resolve>,
        roots: rustls::RootCertStore,
    ) -> Self {
        let tls = tls::config(roots).unwrap();
        let sender = Sender::with_tls(options, clock, names, tls);
        let keys = SigningKeys::new(Secret::generate(SecretKind::Hmac256, &OsEntropy));
        Self { sender, keys }
    }

    pub(crate) fn prepare(&self, url: &str) -> Prepared {
        self.sender.prepare_parts(&EndpointUrl::parse(url).unwrap(), &Headers::new(), &self.keys)
    }

    /// Sends once for this application.
    pub(crate) async fn send_for(&self, application: i64, url: &str) -> Sent {
        let to = self.prepare(url).of(EnvironmentKey(1), ApplicationKey(application));
        let message = message("{}");
        self.sender.send(&to, &message, &mut Slot::default()).await
    }

    /// Sends once with a slot of its own.
    pub(crate) async fn send(&self, url: &str) -> Sent {
        self.send_with(url, &mut Slot::default()).await
    }

    pub(crate) async fn send_with(&self, url: &str, slot: &mut Slot) -> Sent {
        self.send_message(url, &message("{\"a\":1}"), slot).await
    }

    pub(crate) async fn send_message(&self, url: &str, message: &Message, slot: &mut Slot) -> Sent {
        let to = self.prepare(url);
        tokio::time::timeout(PATIENCE * 2, self.sender.send(&to, message, slot))
            .await
            .expect("an attempt has a deadline")
    }
}

pub(crate) fn message(payload: impl Into<Bytes>) -> Message {
    let now = SystemClock::new().now();
    Message {
        id: MessageId::new(now, &OsEntropy),
        event_id: None,
        event_type: EventTypeName::parse("user.created").unwrap(),
        channels: None,
        payload: Some(payload.into()),
        tags: None,
        deliver_at: None,
        expires_at: None,
        created_at: now,
    }
}

/// The status and body of an answer.
#[track_caller]
pub(crate) fn answered(sent: &Sent) -> (u16, &[u8]) {
    match &sent.outcome {
        Outcome::Answered { status, body, .. } => (*status, body),
        Outcome::Failed { kind, detail } => panic!("{kind:?}: {detail}"),
    }
}

/// The kind and text of a failure.
#[track_caller]
pub(crate) fn failed(sent: &Sent) -> (Failure, &str) {
    match &sent.outcome {
        Outcome::Failed { kind, detail } => (*kind, detail),
        Outcome::Answered { status, .. } => panic!("answered {status}"),
    }
}
