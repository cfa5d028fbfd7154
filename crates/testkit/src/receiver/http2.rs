//! HTTP/2, served by hyper. Of the ways to misbehave only silence is offered here; the others break HTTP/1.1.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_rustls::server::TlsStream;

use super::record::Received;
use super::reply::Act;
use super::{Shared, hold};

/// Serves a connection until either side ends it.
pub(super) async fn serve(stream: TlsStream<TcpStream>, connection: u64, shared: Arc<Shared>) {
    let service = service_fn(move |request| answer(request, connection, Arc::clone(&shared)));
    // A connection that breaks is for the other side to report.
    let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    connection: u64,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(Response::default()) };
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let reply = shared.take(Received {
        at: Instant::now(),
        connection,
        version: Version::HTTP_2,
        method: head.method.to_string(),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: body.to_bytes(),
    });
    sleep(reply.delay).await;
    let Act::Answer { status, headers, body, .. } = reply.act else {
        hold(()).await;
        return Ok(Response::default());
    };
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(name, value);
    }
    Ok(builder.body(Full::new(body)).expect("a test gives headers that HTTP allows"))
}
