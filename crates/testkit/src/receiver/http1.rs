//! HTTP/1.1 byte by byte: what arrives is recorded as it is, what leaves is whatever the reply says.

use std::io;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::Version;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::server::TlsStream;

use super::record::Received;
use super::reply::{Act, Reply, Then};
use super::{Shared, hold};

/// A stream that leads to a TCP connection.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {
    fn tcp(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Socket for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Serves a connection until either side ends it.
pub(super) async fn serve(mut socket: impl Socket, connection: u64, shared: &Shared) {
    let mut unread = BytesMut::new();
    // A connection that breaks is for the other side to report; a request that is cut off is none.
    while let Ok(Some(received)) = read_request(&mut socket, &mut unread, connection).await {
        let reply = shared.take(received);
        sleep(reply.delay).await;
        match perform(&mut socket, reply).await {
            Ok(Then::KeepOpen) => {}
            Ok(Then::Close) | Err(_) => return,
            Ok(Then::Reset) => return socket.tcp().set_zero_linger().unwrap_or(()),
        }
    }
}

async fn perform(socket: &mut impl Socket, reply: Reply) -> io::Result<Then> {
    match reply.act {
        Act::Answer { status, headers, body, then } => {
            socket.write_all(&answer(status, &headers, &body)).await?;
            socket.flush().await?;
            if then == Then::Close {
                socket.shutdown().await?;
            }
            Ok(then)
        }
        Act::Raw(bytes) => {
            socket.write_all(&bytes).await?;
            socket.flush().await?;
            hold(socket).await;
            Ok(Then::Close)
        }
        Act::Hang => {
            hold(socket).await;
            Ok(Then::Close)
        }
        Act::Close => Ok(Then::Close),
        Act::Reset => Ok(Then::Reset),
        Act::Endless { head, filler } => {
            socket.write_all(&head).await?;
            loop {
                socket.write_all(&filler).await?;
            }
        }
        Act::Drip { head, every } => drip(socket, &head, every).await,
    }
}

async fn drip(socket: &mut impl Socket, head: &Bytes, every: Duration) -> io::Result<Then> {
    socket.write_all(head).await?;
    loop {
        socket.flush().await?;
        sleep(every).await;
        socket.write_all(b"x").await?;
    }
}

fn answer(status: u16, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status} Something\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// Reads one request; `None` if the other side closed the connection before its first byte.
async fn read_request(
    socket: &mut impl Socket,
    unread: &mut BytesMut,
    connection: u64,
) -> io::Result<Option<Received>> {
    let head_end = loop {
        if let Some(at) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if socket.read_buf(unread).await? == 0 {
            return if unread.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    };
    let head = unread.split_to(head_end);
    unread.advance(4);
    let (method, target, headers) = parse_head(&head)?;
    let length = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.map_or(Ok(0), |(_, value)| value.parse()).map_err(io::Error::other)?;
    while unread.len() < length {
        if socket.read_buf(unread).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let body = unread.split_to(length).freeze();
    Ok(Some(Received { at: Instant::now(), connection, version: Version::HTTP_11, method, target, headers, body }))
}

type Head = (String, String, Vec<(String, String)>);

fn parse_head(head: &[u8]) -> io::Result<Head> {
    let text = std::str::from_utf8(head).map_err(io::Error::other)?;
    let mut lines = text.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target)) = (first.next(), first.next()) else {
        return Err(io::Error::other("no request line"));
    };
    let header = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    Ok((method.to_owned(), target.to_owned(), lines.filter_map(header).collect()))
}
