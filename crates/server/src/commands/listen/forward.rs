//! Passing what arrived on to an application under development, with the headers and bytes that it came with, and taking its
//! response back. One connection per request, http only: the application is near.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long the application has.
const DEADLINE: Duration = Duration::from_secs(30);

/// More than any answer to a webhook has to say.
const LARGEST_RESPONSE: usize = 1024 * 1024;

/// Marks what was forwarded, so that a listener that is its own application does not forward without an end.
pub(super) const MARK: header::HeaderName = header::HeaderName::from_static("postrider-forwarded");

/// Headers that concern one connection only, and those that are written anew.
const NOT_FORWARDED: [header::HeaderName; 5] =
    [header::CONNECTION, header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::UPGRADE];

/// Where to forward to: an http URL.
#[derive(Debug, Clone)]
pub(super) struct Forward {
    url: Uri,
    authority: String,
}

impl std::str::FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url: Uri = text.parse().map_err(|error| format!("not a URL: {error}"))?;
        if url.scheme_str() == Some("https") {
            return Err(
                "cannot forward to https: give the http URL of the application, as in http://localhost:3000/webhooks"
                    .to_owned(),
            );
        }
        let authority = url.authority().filter(|_| url.scheme_str() == Some("http"));
        let Some(authority) = authority.map(ToString::to_string) else {
            return Err("write an http URL, as in http://localhost:3000/webhooks".to_owned());
        };
        Ok(Self { url, authority })
    }
}

/// What the application said.
#[derive(Debug)]
pub(super) struct Forwarded(anyhow::Result<Response<Bytes>>);

impl Forward {
    /// Sends a request on. Whatever goes wrong is a 502.
    pub(super) async fn send(&self, parts: &http::request::Parts, body: Bytes) -> Forwarded {
        let exchange = tokio::time::timeout(DEADLINE, self.exchange(parts, body));
        Forwarded(exchange.await.unwrap_or_else(|_| Err(anyhow!("timed out after {DEADLINE:?}"))))
    }

    async fn exchange(&self, parts: &http::request::Parts, body: Bytes) -> anyhow::Result<Response<Bytes>> {
        let host = self.url.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream =
            TcpStream::connect((host, self.url.port_u16().unwrap_or(80))).await.context("connection failed")?;
        let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let io = tokio::spawn(connection);
        let response = requests.send_request(self.request(parts, body)?).await.context("no response")?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LARGEST_RESPONSE).collect().await.map_err(|error| anyhow!("{error}"))?;
        io.abort();
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    fn request(&self, parts: &http::request::Parts, body: Bytes) -> anyhow::Result<Request<Full<Bytes>>> {
        let target = self.url.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::builder().method(parts.method.clone()).uri(target).body(Full::new(body))?;
        *request.headers_mut() = passed_on(&parts.headers);
        request.headers_mut().insert(header::HOST, self.authority.parse()?);
        request.headers_mut().insert(MARK, header::HeaderValue::from_static("1"));
        Ok(request)
    }
}

/// The headers without those of the connection.
fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in NOT_FORWARDED {
        headers.remove(name);
    }
    headers
}

impl Forwarded {
    /// What to answer.
    pub(super) fn status(&self) -> StatusCode {
        self.0.as_ref().map_or(StatusCode::BAD_GATEWAY, Response::status)
    }

    /// The application's response, for the sender.
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        match self.0 {
            Ok(response) => {
                let (mut head, body) = response.into_parts();
                head.headers = passed_on(&head.headers);
                Response::from_parts(head, Full::new(body))
            }
            Err(error) => {
                let mut response = Response::new(Full::from(format!("forwarding failed: {error:#}")));
                *response.status_mut() = StatusCode::BAD_GATEWAY;
                response
            }
        }
    }
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(response) => write!(f, "forwarded, {} bytes back", response.body().len()),
            Err(error) => write!(f, "forwarding failed: {error:#}"),
        }
    }
}

impl serde::Serialize for Forwarded {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_urls_can_be_forwarded_to() {
        for text in ["http://localhost:3000/webhooks?a=b", "http://[::1]:3000", "http://app"] {
            assert!(text.parse::<Forward>().is_ok(), "{text}");
        }
        for text in ["https://localhost/", "localhost:3000", "/webhooks", ""] {
            assert!(text.parse::<Forward>().is_err(), "{text}");
        }
    }
}
