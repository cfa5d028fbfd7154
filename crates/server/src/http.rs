//! Serving the API over HTTP/1.1: accepting connections, and ending them in order.
//!
//! A connection that sends its head too slowly is closed; one that is idle at shutdown is closed at once; one with a
//! request under way gets its answer first.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use postrider_api::Api;
use tokio::net::{TcpListener, TcpStream};

/// The time for the head of a request. Also how long a connection may stay idle, so it is generous.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// The pause when no connection can be accepted, mostly because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` completes, then ends the connections in order. How long they may take is the caller's to bound.
pub(crate) async fn serve(listener: TcpListener, api: Api, stop: impl Future<Output = ()>) {
    let api = Arc::new(api);
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, _peer)) => serve_connection(stream, &api, &connections),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

fn serve_connection(stream: TcpStream, api: &Arc<Api>, connections: &GracefulShutdown) {
    // Answers are small and wait for nothing: Nagle's delay would only hold them back. Failing is harmless.
    let _ = stream.set_nodelay(true);
    let api = Arc::clone(api);
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(api.respond(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            // Clients come and go; nothing was lost that they were told is safe.
            tracing::debug!(%error, "a connection ended early");
        }
    });
}
