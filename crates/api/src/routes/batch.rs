//! Many messages in one request: a JSON array, or lines of JSON, which are taken in chunks as they come, while the results
//! of earlier ones are on their way back. What is large is read in turn, on half of the machine's cores.
//!
//! What is wrong with an item is its result and concerns nobody else. Only if nothing at all could be done, and for the
//! same reason, the request as a whole fails, so that a client tries it again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use postrider_domain::message::MAX_BODY_BYTES;
use postrider_ingest::{Submission, SubmitError, Submitted};
use tokio::time::timeout;

use crate::access::caller::Operator;
use crate::http::account::LinesPlace;
use crate::http::body::Incoming;
use crate::http::lines::{Line, Lines};
use crate::http::params::Params;
use crate::http::{answer, large};
use crate::openapi::{Operation, Routes};
use crate::routes::messages::addressee;
use crate::state::Shared;
use crate::wire::error::{ApiError, Result};
use crate::wire::model::batch::{
    Batch, BatchIn, BatchOut, Details, FLAW_MILLIS, LOOK_AT_CALLER_SECONDS, MAX_ITEMS, room, write_result,
};
use crate::wire::schema::APPLICATION_PATTERN;

/// The largest body of an array, in bytes. Lines may go on for ever.
pub(crate) const MAX_ARRAY_BYTES: usize = 8 * 1024 * 1024;

/// How long the next lines of a request wait for each that was not accepted.
const FLAW: Duration = Duration::from_millis(FLAW_MILLIS);

/// How often the caller of lines is looked at while none come.
const LOOK_AT_CALLER: Duration = Duration::from_secs(LOOK_AT_CALLER_SECONDS);

const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// The routes.
pub(super) fn routes() -> Routes {
    Routes::new().post(
        "/app/{app_id}/msg/batch",
        create,
        Operation::new("v1.message.create-batch", "Create many messages")
            .description(
                "An array of at most 1,000 messages and 8 MiB is stored by a few commits, and answered after the last: \
                 each message by itself is stored with all its deliveries, or not at all. Lines of JSON \
                 (`application/x-ndjson`), of which there is no limit, are stored as they come, and answered with a line \
                 each. (With curl send them by `--data-binary` or `--upload-file`: `--data @file` takes the line ends out.) What is wrong with a message concerns no other: its result says what it is, as if it had been \
                 created by itself. A batch that is repeated under its `idempotency-key` finds the messages that were \
                 accepted, by their places.",
            )
            .path_pattern("app_id", APPLICATION_PATTERN)
            .body::<BatchIn>()
            .or_lines()
            .returns::<BatchOut>(StatusCode::ACCEPTED, "What became of each message."),
    )
}

pub(super) async fn create(
    operator: Operator,
    params: Params,
    State(state): State<Shared>,
    headers: HeaderMap,
    mut body: Incoming,
) -> Result<Response> {
    let application = addressee(params.text("app_id")?)?;
    let batch = Batch { environment: operator.environment, application, key: operator.once.map(|keyed| keyed.key) };
    // Reading the beginning also tells a client that waits for it to go on.
    let first = body.next().await?.unwrap_or_default();
    body.account().charge(first.len()).await?;
    if is_lines(&headers, &first) {
        let (caller, place) = (credentials(&headers), body.account().take_lines()?);
        let (lines, pause) = (Lines::new(first, body), Duration::ZERO);
        return Stream { state, caller, batch, lines, taken: 0, pause, _place: place }.answer().await;
    }
    let account = Arc::clone(body.account());
    let body = body.read_after(first, MAX_ARRAY_BYTES).await?;
    let takes_time = large::takes_time(&body, large::PASSED_OVER);
    let items = large::read(&state.reading, &account, takes_time, move || batch.read_array(&body)).await??;
    account.reserve_answer(room(items.len())).await?;
    let results = submit(&state, items).await?;
    Ok(answer::raw_json(StatusCode::ACCEPTED, write_array(results)))
}

/// Whether a body is lines: its media type says so, or, if that says nothing, it does not begin as an array does.
fn is_lines(headers: &HeaderMap, first: &[u8]) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media_type.as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => true,
        "application/json" => false,
        _ => !matches!(first.trim_ascii_start().first(), None | Some(b'[')),
    }
}

/// Has the items stored that can be: a result for each. `Err` if none could, for a reason that is not in any of them.
async fn submit(state: &Shared, items: Vec<Result<Submission>>) -> Result<Vec<Result<Submitted>>> {
    let mut submissions = Vec::with_capacity(items.len());
    let flaws: Vec<_> =
        items.into_iter().map(|item| item.map(|submission| submissions.push(submission)).err()).collect();
    let submitted = state.intake.submit_all(submissions).await;
    let is_hopeless = |result: &Result<Submitted, SubmitError>| {
        use SubmitError::{ApplicationNotFound, Overloaded, RulesChanging, TooMany, Unavailable};
        matches!(result, Err(ApplicationNotFound | Overloaded | RulesChanging | TooMany | Unavailable(_)))
    };
    if flaws.iter().all(Option::is_none) && submitted.iter().all(is_hopeless) {
        if let Some(Err(error)) = submitted.into_iter().next() {
            return Err(error.into());
        }
        return Ok(Vec::new());
    }
    let mut submitted = submitted.into_iter();
    let mut next =
        || submitted.next().map_or_else(|| Err(ApiError::internal()), |result| result.map_err(ApiError::from));
    Ok(flaws.into_iter().map(|flaw| flaw.map_or_else(&mut next, Err)).collect())
}

fn write_array(results: Vec<Result<Submitted>>) -> Bytes {
    let accepted = results.iter().filter(|result| result.is_ok()).count();
    let mut out = Vec::with_capacity(64 + results.len() * 128);
    let head = format!(r#"{{"accepted":{accepted},"rejected":{},"data":["#, results.len() - accepted);
    out.extend_from_slice(head.as_bytes());
    let mut details = Details::of(results.len());
    for (index, result) in results.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_result(&mut out, index, result, &mut details);
    }
    out.extend_from_slice(b"]}");
    out.into()
}

/// What of the headers says who is calling.
fn credentials(headers: &HeaderMap) -> HeaderMap {
    let value = headers.get(header::AUTHORIZATION).cloned();
    value.into_iter().map(|value| (header::AUTHORIZATION, value)).collect()
}

/// Lines that are being taken.
struct Stream {
    state: Shared,
    caller: HeaderMap,
    batch: Batch,
    lines: Lines,
    taken: usize,
    /// Before the next chunk is read.
    pause: Duration,
    _place: Option<LinesPlace>,
}

impl Stream {
    /// The answer begins with the results of the first chunk, so that a request that is wrong as a whole is answered as
    /// any other.
    async fn answer(mut self) -> Result<Response> {
        let lines = self.next().await?;
        self.lines.account().reserve_part(room(lines.len())).await?;
        let first = self.take(lines).await?;
        let rest = stream::unfold(Some(self), |this| async { Some(this?.more().await) });
        let results = stream::iter([first]).chain(rest).map(Ok::<_, Infallible>);
        let mut response = Body::from_stream(results).into_response();
        *response.status_mut() = StatusCode::ACCEPTED;
        response.headers_mut().insert(header::CONTENT_TYPE, LINES);
        Ok(response)
    }

    /// The next chunk. The caller may be none any more by the time it comes: nothing is taken of who was not let in now, and he is not
    /// waited for.
    async fn next(&mut self) -> Result<Vec<Line>> {
        let mut chunk = std::pin::pin!(self.lines.chunk(MAX_ITEMS));
        let lines = loop {
            if let Ok(lines) = timeout(LOOK_AT_CALLER, &mut chunk).await {
                break lines?;
            }
            // Who is silent is not turned away because the store is.
            let looked = self.state.authenticator.caller(&self.caller).await;
            if let Err(error @ ApiError::Unauthorized(_)) = looked {
                return Err(error);
            }
        };
        if !lines.is_empty() {
            self.state.authenticator.caller(&self.caller).await?;
        }
        Ok(lines)
    }

    /// The results of the next chunk, and what goes on; nothing does after the last one.
    async fn more(mut self) -> (Bytes, Option<Self>) {
        // While it pauses, nothing of the body is read.
        tokio::time::sleep(std::mem::take(&mut self.pause)).await;
        match self.next().await {
            Ok(lines) if lines.is_empty() => (Bytes::new(), None),
            Ok(lines) => {
                let count = lines.len();
                // Whoever does not read the results is told so once, and of what is left nothing is taken.
                if let Err(error) = self.lines.account().reserve_part(room(count)).await {
                    return (self.failed(1, &error), None);
                }
                let results = self.take(lines).await.unwrap_or_else(|error| self.failed(count, &error));
                (results, Some(self))
            }
            Err(error) => (self.failed(1, &error), None),
        }
    }

    /// Has a chunk stored, for the results of which there is room; gives them.
    async fn take(&mut self, lines: Vec<Line>) -> Result<Bytes> {
        let first = self.taken;
        let takes_time = large::lines_take_time(&lines);
        let batch = self.batch.clone();
        let read = move |(place, line)| match line {
            Line::Text(text) => batch.read_line(&text, first + place),
            Line::TooLong => Err(ApiError::payload_too_large(MAX_BODY_BYTES)),
        };
        let read_all = move || lines.into_iter().enumerate().map(read).collect();
        let items = large::read(&self.state.reading, self.lines.account(), takes_time, read_all).await?;
        let results = submit(&self.state, items).await?;
        let flaws = results.iter().filter(|result| result.is_err()).count();
        self.pause = FLAW * u32::try_from(flaws).unwrap_or(u32::MAX);
        let mut out = Vec::with_capacity(results.len() * 128);
        let mut details = Details::of(results.len());
        for (place, result) in results.into_iter().enumerate() {
            write_result(&mut out, first + place, result, &mut details);
            out.push(b'\n');
            self.taken += 1;
        }
        Ok(self.lines.account().seal_part(out.into()))
    }

    /// The results of lines that all failed for the same reason.
    fn failed(&mut self, count: usize, error: &ApiError) -> Bytes {
        let mut out = Vec::new();
        let mut details = Details::of(count);
        for _ in 0..count {
            write_result(&mut out, self.taken, Err(error.clone()), &mut details);
            out.push(b'\n');
            self.taken += 1;
        }
        self.lines.account().seal_part(out.into())
    }
}
