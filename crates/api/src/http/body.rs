//! Request bodies: read whole, with a limit, and drained when nobody reads them.
//!
//! A server that answers an upload before reading it all, and then closes the connection, makes the kernel reset it: the
//! client sees a broken pipe instead of the 413 or 401. So a body that is dropped unread is read and thrown away in the
//! background, within bounds, while the answer is on its way.
//!
//! What is read is charged to the account of its request before there is memory for it, and has deadlines: for the first
//! byte, for each that follows, and for the whole.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::RequestExt as _;
use axum::body::Body as AxumBody;
use axum::extract::{FromRequest, FromRequestParts};
use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use postrider_domain::message::MAX_BODY_BYTES;
use postrider_domain::settings::Span;
use tokio::time::Instant;

use crate::http::account::{Account, Patience};
use crate::http::params::Params;
use crate::wire::error::{ApiError, Result};

/// The most bytes that are thrown away for the sake of a readable answer.
const DRAIN_BYTES: usize = 16 * 1024 * 1024;

/// A piece of what is thrown away counts as so many bytes at least: to read it costs as much.
const PIECE_BYTES: usize = 1_024;

/// The longest time for which they are.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A body grows from this size; what a client merely announces reserves no memory.
const FIRST_CAPACITY: usize = 64 * 1024;

/// The body of a request, drained if it is dropped before its end.
pub(crate) struct Upload<B: Body<Data = Bytes> + Send + Unpin + 'static> {
    inner: Option<B>,
    drains: bool,
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Upload<B> {
    /// `awaits_consent`: the client sends the body only once it is told to continue, so there is nothing to drain.
    pub(crate) fn new(inner: B, awaits_consent: bool) -> Self {
        Self { inner: Some(inner), drains: !awaits_consent }
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Body for Upload<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(inner).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            this.inner = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl<B: Body<Data = Bytes> + Send + Unpin + 'static> Drop for Upload<B> {
    fn drop(&mut self) {
        if !self.drains || self.is_end_stream() {
            return;
        }
        if let (Some(inner), Ok(runtime)) = (self.inner.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(DRAIN_TIME, drain(inner)));
        }
    }
}

async fn drain<B: Body<Data = Bytes> + Unpin>(mut body: B) {
    let mut drained = 0;
    while drained < DRAIN_BYTES {
        match next_data(&mut body).await {
            Some(Ok(data)) => drained += data.len().max(PIECE_BYTES),
            Some(Err(_)) | None => return,
        }
    }
}

/// The next data of a body; trailers are skipped.
pub(crate) async fn next_data<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Result<Bytes, B::Error>> {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => return Some(Ok(data)),
            Ok(Err(_trailers)) => {}
            Err(error) => return Some(Err(error)),
        }
    }
}

/// The body of a request together with what it is charged to. To be taken last: the account is opened by whoever finds out
/// who is calling.
pub(crate) struct Incoming {
    body: AxumBody,
    account: Arc<Account>,
}

/// The account of a request, which whoever takes requests in has opened.
fn account_of(extensions: &http::Extensions) -> Result<Arc<Account>> {
    extensions.get::<Arc<Account>>().cloned().ok_or_else(ApiError::internal)
}

impl<S: Send + Sync> FromRequest<S> for Incoming {
    type Rejection = ApiError;

    async fn from_request(mut request: Request<AxumBody>, state: &S) -> Result<Self> {
        let account = account_of(request.extensions())?;
        if let Ok(params) = request.extract_parts_with_state::<Params, _>(state).await
            && let Ok(application) = params.name("app_id")
        {
            account.concerns(application);
        }
        Ok(Self { body: request.into_body(), account })
    }
}

/// The account of a request, for handlers whose answers are large without being lists.
pub(crate) struct Ledger(pub(crate) Arc<Account>);

impl<S: Send + Sync> FromRequestParts<S> for Ledger {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut http::request::Parts, _: &S) -> Result<Self> {
        account_of(&parts.extensions).map(Self)
    }
}

impl Incoming {
    /// Reads a whole body of at most [`MAX_BODY_BYTES`]. One that came in one piece is not copied. The request is not worked on
    /// from then on, until what was read is decoded ([`crate::http::large::read`]).
    pub(crate) async fn read(self) -> Result<Bytes> {
        self.read_up_to(MAX_BODY_BYTES).await
    }

    /// Reads a whole body of at most `limit` bytes.
    pub(crate) async fn read_up_to(self, limit: usize) -> Result<Bytes> {
        self.read_after(Bytes::new(), limit).await
    }

    /// Reads what follows the first piece of a body, and puts it together.
    pub(crate) async fn read_after(mut self, first: Bytes, limit: usize) -> Result<Bytes> {
        let announced = self.body.size_hint();
        let whole = announced.lower().saturating_add(first.len() as u64);
        if whole > limit as u64 {
            return Err(ApiError::payload_too_large(limit));
        }
        if self.body.is_end_stream() {
            return Ok(first);
        }
        self.account.pause_work();
        if announced.exact().is_some() {
            self.account.charge(announced.lower() as usize).await?;
        }
        let timeout = self.account.budgets.timeout;
        let read = self.read_rest(first, limit, announced.exact().is_none());
        tokio::time::timeout(timeout, read).await.unwrap_or_else(|_| Err(too_slow(timeout)))
    }

    /// The next piece of a body that is read as it comes; `None` at its end. It is not charged yet.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        let stall = self.account.budgets.stall;
        let piece = tokio::time::timeout(stall, next_data(&mut self.body)).await.map_err(|_| too_slow(stall))?;
        piece.transpose().map_err(broken)
    }

    /// The same of what has to come to its end until then.
    pub(crate) async fn next_until(&mut self, deadline: Option<Instant>) -> Result<Option<Bytes>> {
        let Some(deadline) = deadline else { return self.next().await };
        let timeout = self.account.budgets.timeout;
        tokio::time::timeout_at(deadline, self.next()).await.unwrap_or_else(|_| Err(too_slow(timeout)))
    }

    /// Until when something has to come to its end that begins now.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.account.budgets.timeout
    }

    /// What it is charged to.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    async fn read_rest(&mut self, first: Bytes, limit: usize, is_open_ended: bool) -> Result<Bytes> {
        let mut patience = Patience::default();
        let mut only = first;
        let mut whole = BytesMut::new();
        while let Some(data) = self.next().await? {
            let len = only.len() + whole.len() + data.len();
            if len > limit {
                return Err(ApiError::payload_too_large(limit));
            }
            if is_open_ended {
                self.account.charge_piece(data.len(), &mut patience).await?;
            }
            if len == data.len() {
                only = data;
                continue;
            }
            if whole.is_empty() {
                whole.reserve(len.max(FIRST_CAPACITY));
                whole.extend_from_slice(&std::mem::take(&mut only));
            }
            whole.extend_from_slice(&data);
        }
        Ok(if whole.is_empty() { only } else { whole.freeze() })
    }
}

fn broken<E>(_: E) -> ApiError {
    ApiError::bad_request("the body could not be read")
}

fn too_slow(time: Duration) -> ApiError {
    let detail = format!("the body did not arrive, or go on, within {}", Span(time));
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
}

#[cfg(test)]
impl Incoming {
    pub(crate) fn charged_to(body: AxumBody, account: Arc<Account>) -> Self {
        Self { body, account }
    }

    /// A body that nobody pays for.
    pub(crate) fn of_nobody(body: AxumBody) -> Self {
        let options = postrider_ingest::LimitOptions::default();
        Self { body, account: Account::new(Arc::new(crate::http::account::Budgets::new(&options, 10))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A body of pieces that counts the bytes that were taken, and tells when it is dropped.
    struct Pieces {
        left: VecDeque<Bytes>,
        taken: Arc<AtomicUsize>,
        _dropped: tokio::sync::oneshot::Sender<()>,
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            let piece = self.left.pop_front();
            self.taken.fetch_add(piece.as_ref().map_or(0, Bytes::len), Ordering::SeqCst);
            Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn pieces(count: usize, len: usize) -> (Pieces, Arc<AtomicUsize>, tokio::sync::oneshot::Receiver<()>) {
        let taken = Arc::new(AtomicUsize::new(0));
        let (dropped, gone) = tokio::sync::oneshot::channel();
        let left = std::iter::repeat_n(Bytes::from(vec![b' '; len]), count).collect();
        (Pieces { left, taken: taken.clone(), _dropped: dropped }, taken, gone)
    }

    async fn read_pieces(count: usize, len: usize) -> Result<Bytes> {
        Incoming::of_nobody(AxumBody::new(Upload::new(pieces(count, len).0, false))).read().await
    }

    #[tokio::test]
    async fn a_body_is_read_whole_up_to_the_limit() {
        assert_eq!(read_pieces(0, 0).await.unwrap().len(), 0);
        assert_eq!(read_pieces(3, 1_000).await.unwrap().len(), 3_000);
        assert_eq!(read_pieces(32, MAX_BODY_BYTES / 32).await.unwrap().len(), MAX_BODY_BYTES);
    }

    #[tokio::test]
    async fn one_byte_more_than_the_limit_is_too_large() {
        for (count, len) in [(1, MAX_BODY_BYTES + 1), (33, MAX_BODY_BYTES / 32)] {
            let error = read_pieces(count, len).await.unwrap_err();
            assert!(matches!(error, ApiError::General { code: "payload_too_large", .. }), "{error:?}");
        }
    }

    #[tokio::test]
    async fn an_unread_body_is_drained_within_bounds() {
        let (body, taken, gone) = pieces(3, 1_000);
        drop(Upload::new(body, false));
        gone.await.unwrap_err();
        assert_eq!(taken.load(Ordering::SeqCst), 3_000);

        let (body, taken, gone) = pieces(1_000, 1_000_000);
        drop(Upload::new(body, false));
        gone.await.unwrap_err();
        assert_eq!(taken.load(Ordering::SeqCst), 17_000_000);
    }

    #[tokio::test]
    async fn a_client_that_awaits_consent_is_not_asked_for_its_body() {
        let (body, taken, gone) = pieces(3, 1_000);
        drop(Upload::new(body, true));
        gone.await.unwrap_err();
        assert_eq!(taken.load(Ordering::SeqCst), 0);
    }
}
