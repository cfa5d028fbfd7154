//! Serving the API over HTTP/1.1: accepting connections, and ending them in order.
//!
//! A connection that does not send a request, sends it too slowly, or does not take its answer, is closed. So is one for which
//! nothing is done when there are too many (see [`crate::connections`]). One that is idle at shutdown is closed at once; one with
//! a request under way gets its answer first. For an answer that nobody with a good token reads, the end does not wait.
//!
//! What a client does not read, and what the server does not read of it, is bounded for each connection in the system's memory,
//! too; and a connection that has much to write takes turns with the others ([`crate::patient`]).

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, header};
use http_body_util::BodyExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use postrider_api::{Api, Progress, Response, Watched};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use crate::config::ServerOptions;
use crate::connections::{
    Busy, Connections, FAREWELL_SECONDS, MAX_FAREWELLS, MAX_HEAD_BYTES, Place, RECEIVE_BUFFER_BYTES, Receiving,
    SEND_BUFFER_BYTES, SHORTAGE, Told,
};
use crate::patient::{Line, Patient};

/// The pause when no connection can be accepted, mostly because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that wait to be accepted, as far as the system allows so many.
const BACKLOG: u32 = 1_024;

/// How long a connection may take to end whose request was turned away.
const FAREWELL: Duration = Duration::from_secs(FAREWELL_SECONDS);

/// How many connections there may be, and how long they may do nothing.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    most: u32,
    most_per_address: u32,
    head: Duration,
    idle: Duration,
    write: Duration,
}

impl Bounds {
    /// `most` is what the limit on open files leaves of the setting.
    pub(crate) fn new(options: &ServerOptions, most: u32) -> Self {
        Self {
            most,
            most_per_address: options.most_per_address(most),
            head: options.head_timeout.0,
            idle: options.idle_timeout.0,
            write: options.write_timeout.0,
        }
    }
}

/// What connections run on.
#[derive(Debug, Clone)]
pub(crate) struct Runtimes {
    /// Those that several requests in a row used without a good token ([`Place::is_strange`]).
    pub(crate) strangers: Handle,
    /// The others.
    pub(crate) known: Handle,
}

/// What all connections share.
struct Shared {
    api: Api,
    bounds: Bounds,
    runtimes: Runtimes,
    connections: Arc<Connections>,
    means: Means,
}

/// What a connection needs of what all share.
#[derive(Clone)]
struct Means {
    /// Where it waits if it has much to write.
    line: Line,
    /// For connections that end when their request was turned away, and its body has not come yet.
    farewells: Arc<Semaphore>,
}

impl Default for Means {
    fn default() -> Self {
        Self { line: Line::default(), farewells: Arc::new(Semaphore::new(MAX_FAREWELLS)) }
    }
}

/// Listens on the first address of this name on which that is possible.
pub(crate) async fn listen(address: &str) -> io::Result<TcpListener> {
    let mut failure = io::Error::new(io::ErrorKind::InvalidInput, "it is no address");
    for address in lookup_host(address).await? {
        match listen_on(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Connections have the buffers that their listener had before the first of them came. Left to itself, the system lets those of
/// each grow to megabytes, of which nobody here would know.
fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A server that is started again right after it ended finds connections that still end.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop` completes, then ends the connections in order. How long they may take is the caller's to bound.
pub(crate) async fn serve(
    listener: TcpListener,
    api: Api,
    bounds: Bounds,
    runtimes: Runtimes,
    stop: impl Future<Output = ()>,
) {
    let connections = Connections::new(bounds.most, bounds.most_per_address);
    let shared = Shared { api, bounds, runtimes, connections, means: Means::default() };
    // Whoever waits no longer for the end of this cuts what is left.
    let _cut = Cut(Arc::clone(&shared.connections));
    let mut stop = std::pin::pin!(stop);
    let mut tells = tokio::time::interval(SHORTAGE);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = tells.tick() => {
                shared.connections.tell_shortage();
                continue;
            }
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, peer)) => shared.admit(stream, peer.ip()),
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                shared.connections.close_one();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    shared.connections.end().await;
}

/// Ends all connections when it is dropped.
struct Cut(Arc<Connections>);

impl Drop for Cut {
    fn drop(&mut self) {
        self.0.cut();
    }
}

/// Answers a request, once what was answered before it is written (hyper would keep it all for a client that does not read), and others had
/// their turn. Until then the request has not come, and gives way to others with its connection.
async fn answer<A: Future<Output = Response>>(
    respond: impl FnOnce(Request) -> A,
    place: Arc<Place>,
    round: Arc<Round>,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<impl http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync>>, Infallible> {
    place.written().await;
    round.wait().await;
    if place.says_farewell() {
        // The connection is about to end: what comes on it is not begun.
        std::future::pending::<()>().await;
    }
    let busy = Arc::new(place.begin());
    let mut request = request.map(|body| Coming::new(body, &busy));
    let watcher: Arc<dyn Progress> = Arc::<Busy>::clone(&busy);
    request.extensions_mut().insert(Watched(Arc::downgrade(&watcher)));
    let turned_away = async {
        busy.ask_who();
        place.refused().await;
    };
    let answer = tokio::select! {
        // Who calls is mostly known before it is waited for anything.
        biased;
        answer = respond(request) => answer,
        () = turned_away => {
            place.turn_away();
            Api::give_way()
        }
    };
    busy.answer();
    let mut answer = answer.map(|body| Answer { body, busy });
    if place.is_ending() {
        // The request came in the instant in which the connection was chosen.
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(answer)
}

impl Shared {
    fn admit(&self, stream: TcpStream, address: IpAddr) {
        match self.connections.admit(address) {
            Some(place) => self.serve_connection(stream, place),
            None => {
                tracing::debug!(%address, "a connection was refused, because all others are busy");
                self.runtimes.strangers.spawn(refuse(stream));
            }
        }
    }

    fn serve_connection(&self, stream: TcpStream, place: Place) {
        // Answers are small and wait for nothing: Nagle's delay would only hold them back. Failing is harmless.
        let _ = stream.set_nodelay(true);
        let api = self.api.clone();
        let respond = move |request| {
            let api = api.clone();
            async move { api.respond(request).await }
        };
        let place = Arc::new(place);
        let carried = carry(stream, Arc::clone(&place), self.bounds.clone(), self.means.clone(), respond);
        go_on(Box::pin(carried), place, self.runtimes.clone());
    }
}

/// Has a connection carried where it belongs, until it belongs elsewhere: when there were several requests without a good token, or one
/// with. So what is sent without one again and again, on however many connections, waits behind its like, and nobody else does; whoever
/// comes anew does not, nor does who asks for the server's health over a connection of its own.
fn go_on(mut carried: Pin<Box<dyn Future<Output = ()> + Send>>, place: Arc<Place>, runtimes: Runtimes) {
    let is_strange = place.is_strange();
    let runtime = if is_strange { &runtimes.strangers } else { &runtimes.known };
    runtime.clone().spawn(async move {
        let is_over = poll_fn(|cx| match carried.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if place.is_strange() != is_strange => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        });
        if !is_over.await {
            go_on(carried, place, runtimes);
        }
    });
}

/// What a connection does before others have their turn: one request. However many a client sends at once, and even if each is answered
/// at once, nobody waits for more than one of them.
#[derive(Default)]
struct Round {
    has_begun_one: AtomicBool,
}

impl Round {
    /// The connection's task has its turn.
    fn begin(&self) {
        self.has_begun_one.store(false, Ordering::Relaxed);
    }

    /// Waits until this request is the first one in its turn.
    async fn wait(&self) {
        while self.has_begun_one.swap(true, Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    }
}

/// Polls a connection, with a round for each of its turns.
async fn in_rounds<C: Future>(round: &Round, mut connection: Pin<&mut C>) -> C::Output {
    poll_fn(|cx| {
        round.begin();
        connection.as_mut().poll(cx)
    })
    .await
}

/// Carries a connection to its end.
async fn carry<A: Future<Output = Response> + Send + 'static>(
    stream: TcpStream,
    place: Arc<Place>,
    bounds: Bounds,
    means: Means,
    respond: impl Fn(Request) -> A + Clone + Send + Sync + 'static,
) {
    let (first, round) = (Arc::new(Notify::new()), Arc::<Round>::default());
    let service = {
        let (place, first, round) = (Arc::clone(&place), Arc::clone(&first), Arc::clone(&round));
        service_fn(move |request: http::Request<hyper::body::Incoming>| {
            first.notify_one();
            answer(respond.clone(), Arc::clone(&place), Arc::clone(&round), request)
        })
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.idle)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(Patient::new(stream, &means.line, bounds.write, &place)), service);
    let mut connection = std::pin::pin!(connection);
    let mut too_slow = std::pin::pin!(async {
        if tokio::time::timeout(bounds.head, first.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    });
    let mut told = None;
    loop {
        tokio::select! {
            // What has come is read first: no request is begun and then dropped.
            biased;
            ended = in_rounds(&round, connection.as_mut()) => {
                if let Err(error) = ended {
                    // Clients come and go; nothing was lost that they were told is safe.
                    tracing::debug!(%error, "a connection ended early");
                }
                break;
            }
            () = &mut too_slow => {
                tracing::debug!("a connection was closed, because no request came");
                break;
            }
            what = place.told(told) => {
                told = Some(what);
                match what {
                    Told::Close => {
                        tracing::debug!("a connection for which nothing was done was closed");
                        if (place.is_turned_away() || place.body_comes())
                            && let Ok(_farewell) = means.farewells.try_acquire()
                        {
                            // While its request's body comes, to close it would take the answer from the client. When it has come, it
                            // ends by itself. Who was turned away was told so; after another answer hyper would wait for a request.
                            place.say_farewell();
                            if !place.is_turned_away() {
                                connection.as_mut().graceful_shutdown();
                            }
                            let _ = tokio::time::timeout(FAREWELL, in_rounds(&round, connection.as_mut())).await;
                        }
                        break;
                    }
                    Told::Cut => break,
                    // A request under way is answered, and then the connection ends by itself.
                    Told::Refuse | Told::Finish | Told::End => connection.as_mut().graceful_shutdown(),
                }
            }
        }
    }
}

/// Tells a client that there is no connection for it. Its buffer is empty, so this fits at once; if not, the client sees
/// the end of the connection alone.
async fn refuse(mut stream: TcpStream) {
    let told = async {
        stream.write_all(&last_answer(Api::give_way()).await?).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(ACCEPT_PAUSE, told).await;
}

/// An answer as it is written to whoever has no connection: nothing follows it.
async fn last_answer(answer: Response) -> io::Result<Vec<u8>> {
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut written =
        format!("HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: {}\r\n", head.status, body.len()).into_bytes();
    for (name, value) in &head.headers {
        written.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    written.extend_from_slice(b"\r\n");
    written.extend_from_slice(&body);
    Ok(written)
}

type Request = http::Request<Coming<hyper::body::Incoming>>;

/// The body of a request, of which is told when it does not come, as long as the request is under way.
struct Coming<B> {
    body: B,
    busy: Weak<Busy>,
    moved: usize,
    /// Until its end.
    receiving: Option<Receiving>,
}

impl<B: http_body::Body> Coming<B> {
    fn new(body: B, busy: &Arc<Busy>) -> Self {
        let receiving = (!body.is_end_stream()).then(|| busy.receive());
        Self { body, busy: Arc::downgrade(busy), moved: 0, receiving }
    }
}

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for Coming<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let busy = this.busy.upgrade();
        match &polled {
            Poll::Pending => {
                if let Some(busy) = busy {
                    busy.await_body(&mut this.moved);
                }
            }
            Poll::Ready(frame) => {
                let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
                this.moved += data.map_or(0, Bytes::len);
                if !matches!(frame, Some(Ok(_))) || this.body.is_end_stream() {
                    this.receiving = None;
                }
                if let Some(busy) = busy {
                    busy.go_on();
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Coming<B> {
    fn drop(&mut self) {
        if let Some(busy) = self.busy.upgrade() {
            busy.go_on();
        }
    }
}

/// The body of an answer. Until its last byte is written its request is under way: what hyper has taken it may have to keep for as
/// long as the client takes to read it.
struct Answer<B> {
    body: B,
    busy: Arc<Busy>,
}

/// A piece of a body that keeps its request under way until it is written.
struct Unwritten {
    bytes: Bytes,
    _busy: Arc<Busy>,
}

impl AsRef<[u8]> for Unwritten {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A piece no longer than this is in the socket's buffer at once, mostly. If it is not, the connection is not idle all the same, because
/// its client is waited for.
const SHORT_BYTES: usize = 4 * 1024;

impl<B: http_body::Body<Data = Bytes> + Unpin> http_body::Body for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let busy = &self.busy;
        polled.map_ok(|frame| {
            frame.map_data(|bytes| {
                if bytes.len() <= SHORT_BYTES {
                    return bytes;
                }
                Bytes::from_owner(Unwritten { bytes, _busy: Arc::clone(busy) })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::STRANGE_AFTER;
    use tokio::io::AsyncReadExt as _;

    /// Sends a request over `client`, and says the name of the thread that responded, as the response does.
    async fn responded_on(client: &mut TcpStream, path: &str) -> String {
        client.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let (mut answer, mut length) = (vec![0; 1_024], 0);
        while !answer[..length].ends_with(b".") {
            let read = client.read(&mut answer[length..]).await.unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&answer[..length]));
            length += read;
        }
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        text.rsplit_once("\r\n\r\n").unwrap().1.trim_end_matches('.').to_owned()
    }

    #[test]
    fn a_connection_is_among_strangers_after_some_requests_without_a_good_token_until_one_has_one() {
        let named = |name: &str| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name(name)
                .enable_all()
                .build()
                .unwrap()
        };
        let (known, strangers) = (named("known"), named("strangers"));
        let runtimes = Runtimes { strangers: strangers.handle().clone(), known: known.handle().clone() };
        known.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, peer) = listener.accept().await.unwrap();
            let place = Arc::new(Connections::new(1, 1).admit(peer.ip()).unwrap());
            let respond = |request: Request| async move {
                if request.uri().path() == "/known" {
                    let watched = request.extensions().get::<Watched>().unwrap().0.upgrade().unwrap();
                    if watched.caller_is_known() {
                        tokio::task::yield_now().await;
                    }
                }
                let name = std::thread::current().name().unwrap_or_default().to_owned();
                Response::new(format!("{name}.").into())
            };
            let minute = Duration::from_secs(60);
            let bounds = Bounds { most: 1, most_per_address: 1, head: minute, idle: minute, write: minute };
            go_on(Box::pin(carry(stream, Arc::clone(&place), bounds, Means::default(), respond)), place, runtimes);
            let strange = usize::from(STRANGE_AFTER);
            for (path, thread) in [
                ("/", "known", strange),
                ("/", "strangers", 3),
                // Before anything is begun for it.
                ("/known", "known", 3),
                ("/", "known", strange - 1),
                ("/known", "known", 1),
                ("/", "known", strange),
                ("/", "strangers", 1),
            ]
            .map(|(path, thread, times)| std::iter::repeat_n((path, thread), times))
            .into_iter()
            .flatten()
            {
                assert_eq!(responded_on(&mut client, path).await, thread, "{path}");
            }
        });
        strangers.shutdown_background();
    }

    #[tokio::test]
    async fn a_request_that_is_turned_away_is_told_so_also_while_its_body_comes() {
        const LEN: usize = 1_000_000;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {LEN}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let connections = Connections::new(1, 1);
        let place = Arc::new(connections.admit(peer.ip()).unwrap());
        // Who calls is looked up for ever. What is dropped of a body is read to its end, as the API does.
        let begun = Arc::new(Notify::new());
        let respond = {
            let begun = Arc::clone(&begun);
            move |request: Request| {
                tokio::spawn(request.into_body().collect());
                begun.notify_one();
                std::future::pending()
            }
        };
        let second = Duration::from_secs(1);
        let bounds = Bounds { most: 1, most_per_address: 1, head: second, idle: second, write: second };
        let carried = tokio::spawn(carry(stream, place, bounds, Means::default(), respond));
        begun.notified().await;
        let other = loop {
            match connections.admit(IpAddr::from([127, 0, 0, 2])) {
                Some(place) => break place,
                None => tokio::task::yield_now().await,
            }
        };
        let mut answer = vec![0; 12];
        client.read_exact(&mut answer).await.unwrap();
        client.write_all(&vec![b'x'; LEN]).await.expect("the connection is not reset");
        client.read_to_end(&mut answer).await.expect("nor is it then");
        assert!(answer.starts_with(b"HTTP/1.1 503"));
        carried.await.unwrap();
        drop(other);
    }

    #[tokio::test]
    async fn a_client_that_still_sends_has_its_answer_when_its_connection_goes_for_another() {
        const LEN: usize = 1_000_000;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {LEN}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let connections = Connections::new(1, 1);
        let place = Arc::new(connections.admit(peer.ip()).unwrap());
        // A known caller's, whose body is not needed.
        let respond = |request: Request| {
            request.extensions().get::<Watched>().unwrap().0.upgrade().unwrap().caller_is_known();
            tokio::spawn(request.into_body().collect());
            std::future::ready(Api::give_way())
        };
        let second = Duration::from_secs(1);
        let bounds = Bounds { most: 1, most_per_address: 1, head: second, idle: second, write: second };
        let carried = tokio::spawn(carry(stream, place, bounds, Means::default(), respond));
        client.readable().await.unwrap();
        let other = loop {
            match connections.admit(IpAddr::from([127, 0, 0, 2])) {
                Some(place) => break place,
                None => tokio::task::yield_now().await,
            }
        };
        client.write_all(&vec![b'x'; LEN]).await.expect("the connection is not reset");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("nor is it then");
        assert!(answer.starts_with(b"HTTP/1.1 503"));
        carried.await.unwrap();
        drop(other);
    }
}
