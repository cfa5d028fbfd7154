//! The byte stream under HTTP: TCP or TLS, with some things that streams do not do by themselves.
//!
//! * A failed write is not the end. A receiver may respond before it has read everything (413, 401) and close; the response
//!   is then in the receive buffer while writing fails already. So what cannot be written is dropped, and reading tells
//!   how things stand: it finds the response, the end, or the error.
//! * [`Transport::is_quiet`] says whether the receiver has closed the connection or said anything unasked. It asks the
//!   kernel, because the runtime may not have heard of it yet.
//! * What comes off the network is counted ([`Meter`]).
//! * What TLS has let through is read before it is told what was wrong with that which followed: whether both came at once is
//!   chance.
//! * A connection that is not used again is reset. Whoever closes first keeps the port for a minute, and what was not read for
//!   several; whoever closes second keeps them until the other side confirms it. A receiver that leaves closing to us, or does
//!   not confirm it, would take all ports in a minute, and with every connection the kernel would look for a free one. One that
//!   was idle is closed in order ([`Transport::part`]).

use std::borrow::Cow;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ClientConnection;
use socket2::SockRef;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::meter::Meter;
use crate::outbox;
use crate::tls::{self, Asked};

/// More TLS records than these between two requests are not quiet, whatever is in them.
const MAX_QUIET_READS: usize = 16;

/// A TCP connection whose writes do not fail once it is connected.
#[derive(Debug)]
pub(crate) struct Wire {
    tcp: TcpStream,
    broken: bool,
    /// It is closed in order.
    in_order: bool,
    meter: Arc<Meter>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if !self.in_order {
            // Fails if the connection is gone, and then there is nothing to keep.
            let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Wire {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, broken: false, in_order: false, meter: Arc::default() }
    }

    /// Reads what is there, without waiting, and counts it.
    fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.meter.check_wire()?;
        let read = self.look(buffer)?;
        self.meter.count_bytes(read);
        Ok(read)
    }

    fn look(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*SockRef::from(&self.tcp)).read(buffer)
    }

    /// Whether something that was written has not reached the receiver's system yet, and still may.
    fn is_under_way(&self) -> bool {
        !self.broken && outbox::bytes(&self.tcp) > 0 && !self.has_failed()
    }

    /// Whether the connection was cut. An end that is in order is none: the receiver may still read.
    fn has_failed(&self) -> bool {
        !matches!(self.tcp.take_error(), Ok(None))
    }

    fn is_quiet(&self) -> bool {
        !self.broken && self.look(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Takes the result of a write; `dropped` is what to say if the connection is broken.
    fn forgive<T>(&mut self, result: Poll<io::Result<T>>, dropped: T) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Err(_)) => {
                self.broken = true;
                Poll::Ready(Ok(dropped))
            }
            other => other,
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.meter.check_wire()?;
        let before = buf.filled().len();
        let result = Pin::new(&mut self.tcp).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        self.broken |= matches!(result, Poll::Ready(Err(_)));
        self.meter.count_bytes(count);
        result
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut self.tcp).poll_write(cx, buf);
        self.forgive(result, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let whole = bufs.iter().map(|buf| buf.len()).sum();
        if self.broken {
            return Poll::Ready(Ok(whole));
        }
        let result = Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs);
        self.forgive(result, whole)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TCP has nothing to flush.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.tcp).poll_shutdown(cx);
        self.forgive(result, ())
    }
}

#[derive(Debug)]
enum Layer {
    Plain(Wire),
    Tls(Box<TlsStream<Wire>>),
}

/// What HTTP is spoken over.
#[derive(Debug)]
pub(crate) struct Transport {
    layer: Layer,
    asked: Asked,
    fault: Fault,
    /// What reading fails with next.
    failed: Option<io::Error>,
}

/// Why TLS failed after the handshake, if it did. hyper tells those who wait for an HTTP/2 response only that the connection
/// has ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fault(Arc<OnceLock<Cow<'static, str>>>);

impl Fault {
    pub(crate) fn text(&self) -> Option<Cow<'static, str>> {
        self.0.get().cloned()
    }

    fn note(&self, error: &io::Error) {
        if let Some(reason) = tls::reason(error) {
            // The first is the cause, and what follows its consequence.
            let _ = self.0.set(reason);
        }
    }
}

impl Transport {
    pub(crate) fn plain(wire: Wire) -> Self {
        Self { layer: Layer::Plain(wire), asked: Asked::default(), fault: Fault::default(), failed: None }
    }

    /// `asked`: whether the receiver wanted to see a certificate in the handshake.
    pub(crate) fn tls(stream: TlsStream<Wire>, asked: Asked) -> Self {
        stream.get_ref().0.meter.secured();
        Self { layer: Layer::Tls(Box::new(stream)), asked, fault: Fault::default(), failed: None }
    }

    /// Whether it can be used for a request: the receiver has not closed it, and has not said anything since its last
    /// response. If not, it cannot be used for anything.
    pub(crate) fn is_quiet(&mut self) -> bool {
        match &mut self.layer {
            Layer::Plain(wire) => wire.is_quiet(),
            Layer::Tls(stream) => {
                let (wire, session) = stream.get_mut();
                is_quiet_within_tls(wire, session)
            }
        }
    }

    /// It was idle for long, and is about to be dropped.
    pub(crate) fn part(&mut self) {
        self.wire_mut().in_order = true;
    }

    /// Whether something that was written has not reached the receiver's system yet, and still may.
    pub(crate) fn is_under_way(&self) -> bool {
        self.wire().is_under_way()
    }

    fn wire(&self) -> &Wire {
        match &self.layer {
            Layer::Plain(wire) => wire,
            Layer::Tls(stream) => stream.get_ref().0,
        }
    }

    fn wire_mut(&mut self) -> &mut Wire {
        match &mut self.layer {
            Layer::Plain(wire) => wire,
            Layer::Tls(stream) => stream.get_mut().0,
        }
    }

    pub(crate) fn fault(&self) -> Fault {
        self.fault.clone()
    }

    /// What counts the bytes of this connection.
    pub(crate) fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.wire().meter)
    }

    /// Whether the receiver chose HTTP/2 in the TLS handshake.
    pub(crate) fn speaks_http2(&self) -> bool {
        match &self.layer {
            Layer::Plain(_) => false,
            Layer::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }
}

/// TLS has business of its own between requests, such as session tickets, which is no word of the receiver's.
fn is_quiet_within_tls(wire: &Wire, session: &mut ClientConnection) -> bool {
    if wire.broken {
        return false;
    }
    for _ in 0..MAX_QUIET_READS {
        match session.process_new_packets() {
            Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
            _ => return false,
        }
        match session.read_tls(&mut Now(wire)) {
            Ok(read) if read > 0 => {}
            Ok(_) => return false,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    false
}

/// Reads from a connection what is there, without waiting.
struct Now<'a>(&'a Wire);

impl io::Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read_now(buffer)
    }
}

/// Without TLS all that comes is HTTP.
fn poll_read_plain(wire: &mut Wire, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    let before = buf.filled().len();
    let result = Pin::new(&mut *wire).poll_read(cx, buf);
    wire.meter.explain(buf.filled().len() - before);
    result
}

/// Reads what one record holds, so that all that was read is explained before more comes off the network. An error comes after
/// what was good before it.
fn poll_read_tls(
    stream: &mut TlsStream<Wire>,
    failed: &mut Option<io::Error>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    if failed.is_none() {
        match Pin::new(&mut *stream).poll_fill_buf(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(data)) => {
                let count = data.len().min(buf.remaining());
                buf.put_slice(&data[..count]);
                Pin::new(&mut *stream).consume(count);
                stream.get_ref().0.meter.explain(count);
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Err(error)) => *failed = Some(error),
        }
    }
    let (wire, session) = stream.get_mut();
    let count = session.reader().read(buf.initialize_unfilled()).unwrap_or(0);
    buf.advance(count);
    wire.meter.explain(count);
    match failed.take_if(|_| count == 0) {
        Some(error) => Poll::Ready(Err(error)),
        None => Poll::Ready(Ok(())),
    }
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let result = match &mut this.layer {
            Layer::Plain(wire) => poll_read_plain(wire, cx, buf),
            Layer::Tls(stream) => poll_read_tls(stream, &mut this.failed, cx, buf),
        };
        result.map_err(|error| {
            let error = self.asked.explain(error);
            self.fault.note(&error);
            error
        })
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.layer {
            Layer::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Layer::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.layer {
            Layer::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Layer::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.layer {
            Layer::Plain(stream) => stream.is_write_vectored(),
            Layer::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
