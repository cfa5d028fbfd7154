//! A connection that carries many requests at a time, over HTTP/2. It is shared by everybody who sends to its host, so its
//! I/O has a task of its own.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use postrider_domain::time::Timestamp;

use crate::answer::{Stage, Trouble};
use crate::connection::{Broken, describe};
use crate::limits::{MAX_BODY_BYTES, MAX_HEAD_BYTES};
use crate::transport::Transport;

/// The body of a request.
pub(crate) type Payload = Full<Bytes>;

/// A connection that carries many requests at a time. Clones share it; it closes when the last one is gone.
#[derive(Clone)]
pub(crate) struct Http2 {
    requests: http2::SendRequest<Payload>,
}

/// How often a receiver is asked whether it is still there while it owes answers, and how long it has to say so.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

impl Http2 {
    pub(crate) async fn start(transport: Transport) -> Result<Self, Trouble> {
        let (requests, io) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            // hyper's defaults are for downloads: nobody may send us more than we would read.
            .initial_stream_window_size(MAX_BODY_BYTES as u32)
            .initial_connection_window_size(16 * MAX_BODY_BYTES as u32)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .handshake(TokioIo::new(transport))
            .await
            .map_err(|error| describe(&error))?;
        tokio::spawn(async move {
            if let Err(error) = io.await {
                tracing::debug!(%error, "an HTTP/2 connection ended");
            }
        });
        Ok(Self { requests })
    }

    pub(crate) fn is_open(&self) -> bool {
        self.requests.is_ready()
    }

    /// Makes a request. The response is in `stage`.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Payload>,
        stage: &Stage,
        wall: Timestamp,
    ) -> Result<(), Broken> {
        let response = self.requests.send_request(request).await;
        let (parts, mut body) = response.map_err(|error| Broken::new(&error, was_unheard(&error)))?.into_parts();
        stage.reading(parts.status, &parts.headers, wall);
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) if frame.data_ref().is_none_or(|data| stage.received().keep(data)) => {}
                _ => return Ok(()),
            }
        }
        stage.received().finish();
        Ok(())
    }
}

/// Whether it was the connection that ended, or the receiver says that it did not process the request.
fn was_unheard(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    error.is_canceled()
        || error.is_closed()
        || cause.is_some_and(|cause| {
            cause.is_io() || cause.is_go_away() || cause.reason() == Some(h2::Reason::REFUSED_STREAM)
        })
}
