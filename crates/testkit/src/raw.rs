//! A connection on which a test writes whatever bytes it likes, for requests that no client would send.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::wait;

/// A connection to a server.
#[derive(Debug)]
pub struct RawConnection {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug)]
pub struct RawAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The lines of the head after the first.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl RawAnswer {
    /// The value of a header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

impl RawConnection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server accepts connections");
        Self { stream, unread: Vec::new() }
    }

    /// Connects from this address of the machine.
    pub async fn open_from(own: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((own, 0).into()).expect("it is an address of this machine");
        let stream = socket.connect(address).await.expect("the server accepts connections");
        Self { stream, unread: Vec::new() }
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// If the server has closed the connection.
    pub async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        wait::within("a write to the server", self.stream.write_all(bytes)).await
    }

    /// Reads one answer; `None` if the server closed the connection in order before its first byte.
    ///
    /// # Errors
    /// If the connection was reset, or what came is no answer.
    pub async fn read_answer(&mut self) -> std::io::Result<Option<RawAnswer>> {
        wait::within("an answer of the server", self.read()).await
    }

    /// Waits until an answer has begun to come, and leaves what follows where it is.
    ///
    /// # Errors
    /// If the connection was reset.
    pub async fn answer_begins(&mut self) -> std::io::Result<()> {
        if self.unread.is_empty() {
            self.fill().await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> std::io::Result<Option<RawAnswer>> {
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await? {
                return if self.unread.is_empty() { Ok(None) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) };
            }
        };
        let head: Vec<u8> = self.unread.drain(..head_end).collect();
        let (status, headers) = parse_head(&head)?;
        let mut answer = RawAnswer { status, headers, body: Vec::new() };
        let length = answer.header("content-length").map_or(Ok(0), str::parse).map_err(std::io::Error::other)?;
        while self.unread.len() < length {
            if !self.fill().await? {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        answer.body = self.unread.drain(..length).collect();
        Ok(Some(answer))
    }

    async fn fill(&mut self) -> std::io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.unread).await? > 0)
    }
}

fn parse_head(head: &[u8]) -> std::io::Result<(u16, Vec<(String, String)>)> {
    let text = std::str::from_utf8(head).map_err(std::io::Error::other)?;
    let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("no status line"))?;
    let header = |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    Ok((status, lines.filter_map(header).collect()))
}
