//! A webhook receiver in the hands of a test: it records what arrives, and answers or misbehaves as it is told.
//!
//! HTTP/1.1 is spoken at the level of bytes, so that headers are recorded in their order and casing, and answers can be
//! as wrong as a test needs. HTTP/2 is hyper's.

mod http1;
mod http2;
mod record;
mod reply;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::certificates::Identity;
use crate::wait;

pub use record::Received;
pub use reply::{Reply, gzip_of_zeros};

use record::Record;

/// Decides what a request is answered with.
type Program = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

/// What happens to a connection before its first request is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeting {
    /// It is served.
    Serve,
    /// It is accepted and left alone, open.
    Silence,
    /// It is reset.
    Reset,
}

/// How to start a receiver.
pub struct ReceiverBuilder {
    program: Program,
    identity: Option<Identity>,
    http2: bool,
    greeting: Greeting,
    keep_requests: bool,
}

/// A running receiver. It ends with this value.
pub struct Receiver {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What the connections have in common.
struct Shared {
    program: Program,
    record: Record,
    connections: AtomicU64,
}

impl Shared {
    /// Records a request and decides about its answer.
    fn take(&self, received: Received) -> Reply {
        let reply = (self.program)(&received);
        self.record.add(received);
        reply
    }
}

impl ReceiverBuilder {
    /// Speaks TLS with this certificate.
    #[must_use]
    pub fn tls(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Speaks HTTP/2: over TLS if the client agrees by ALPN.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Treats connections like this.
    #[must_use]
    pub fn greeting(mut self, greeting: Greeting) -> Self {
        self.greeting = greeting;
        self
    }

    /// Counts requests without keeping them, for tests with very many.
    #[must_use]
    pub fn forgetful(mut self) -> Self {
        self.keep_requests = false;
        self
    }

    /// Starts on a free port of the loopback.
    pub async fn start(self) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has free ports");
        let address = listener.local_addr().expect("a listener has an address");
        let record = Record::new(self.keep_requests);
        let shared = Arc::new(Shared { program: self.program, record, connections: AtomicU64::new(0) });
        let protocols: &[&[u8]] = if self.http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        let tls = self.identity.map(|identity| identity.acceptor(protocols));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let accepting = tokio::spawn(accept(listener, tls, self.greeting, Arc::clone(&shared)));
        Receiver { address, scheme, shared, accepting }
    }
}

impl Receiver {
    /// A receiver that asks `program` what to answer.
    pub fn builder(program: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> ReceiverBuilder {
        ReceiverBuilder {
            program: Arc::new(program),
            identity: None,
            http2: false,
            greeting: Greeting::Serve,
            keep_requests: true,
        }
    }

    /// Starts one that asks `program` what to answer.
    pub async fn answering(program: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::builder(program).start().await
    }

    /// Starts one that answers 200.
    pub async fn ok() -> Self {
        Self::answering(|_| Reply::ok()).await
    }

    /// Starts one that does always the same.
    pub async fn always(reply: Reply) -> Self {
        Self::answering(move |_| reply.clone()).await
    }

    /// Starts one that goes through `replies` request by request, and then stays with the last.
    pub async fn sequence(replies: impl Into<Vec<Reply>>) -> Self {
        Self::answering(Reply::in_sequence(replies)).await
    }

    /// Its URL, with `/` at the end.
    pub fn url(&self) -> String {
        format!("{}://{}/", self.scheme, self.address)
    }

    /// Its URL with this path; `path` begins without `/`.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has arrived, in order.
    pub fn requests(&self) -> Vec<Arc<Received>> {
        self.shared.record.all()
    }

    /// How many connections were made.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Waits until `count` requests have arrived; returns all that have.
    pub async fn wait_for(&self, count: usize) -> Vec<Arc<Received>> {
        self.wait_until(&format!("{count} requests"), |all| (all.len() >= count).then(|| all.to_vec())).await
    }

    /// Waits for the first request with this `webhook-id`.
    pub async fn wait_for_id(&self, id: &str) -> Arc<Received> {
        let look = |all: &[Arc<Received>]| all.iter().find(|request| request.id() == Some(id)).cloned();
        self.wait_until(&format!("a request with the id {id}"), look).await
    }

    /// Waits until `look` finds something in what has arrived.
    pub async fn wait_until<T>(&self, what: &str, look: impl FnMut(&[Arc<Received>]) -> Option<T>) -> T {
        wait::within(what, self.shared.record.wait_until(look)).await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Its connections end with it: they belong to the set that it waits on.
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, greeting: Greeting, shared: Arc<Shared>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                open.spawn(connection(stream, tls.clone(), greeting, Arc::clone(&shared)));
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, greeting: Greeting, shared: Arc<Shared>) {
    let number = shared.connections.fetch_add(1, Ordering::SeqCst);
    match greeting {
        Greeting::Serve => {}
        Greeting::Silence => return hold(stream).await,
        Greeting::Reset => return stream.set_zero_linger().unwrap_or(()),
    }
    // Without this, an answer in several writes waits for acknowledgements.
    stream.set_nodelay(true).unwrap_or(());
    let Some(tls) = tls else { return http1::serve(stream, number, &shared).await };
    // A handshake that fails is for the other side to report.
    let Ok(stream) = tls.accept(stream).await else { return };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2::serve(stream, number, shared).await;
    } else {
        http1::serve(stream, number, &shared).await;
    }
}

/// Keeps something open until the receiver ends.
async fn hold<T>(held: T) {
    std::future::pending::<()>().await;
    drop(held);
}
