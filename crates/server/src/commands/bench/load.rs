//! The load: connections that post messages, as fast as the server answers or at a fixed rate.
//!
//! At a fixed rate a latency counts from the moment at which the request was due, not from when a connection was free
//! for it: a server that stalls can't hide the requests that it kept from being sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use postrider_domain::settings::is_unseen;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::clock::{micros, span};
use super::http::Connection;
use super::idempotency;
use super::message::{Stamp, Template};
use super::phase::Phase;
use super::progress::Progress;
use super::tally::Counts;
use crate::commands::STACK_BYTES;

/// How long a server may say nothing, or nothing but errors, before the run is given up.
const PATIENCE: Duration = Duration::from_secs(30);
const ERROR_PATIENCE: Duration = Duration::from_secs(5);
/// Before a request is tried on a new connection.
const RECONNECT_WAIT: Duration = Duration::from_millis(50);

/// A server to which messages are posted.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// What people call it.
    pub(super) name: String,
    /// Where it is.
    pub(super) address: SocketAddr,
    /// What the `host` header says.
    pub(super) host: String,
    /// What the `authorization` header says.
    pub(super) authorization: Option<HeaderValue>,
    /// Its process, if it can be looked at.
    pub(super) pid: Option<u32>,
}

/// How fast to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// Each connection sends again as soon as it is answered.
    Closed,
    /// So many per second over all connections.
    Rate(f64),
}

/// When to stop sending.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Extent {
    /// After so long.
    Time(Duration),
    /// After so many messages.
    Messages(u64),
}

/// In what form messages are posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Manner {
    /// Whether each request has an idempotency key of its own, as the SDKs send it.
    pub(super) idempotency: bool,
    /// How many messages are in a request.
    pub(super) batch: usize,
}

impl Manner {
    /// Messages in a request of many.
    const BATCH: usize = 500;
    /// Connections that post many at a time: a few keep any server busy.
    const BATCH_CONNECTIONS: usize = 8;

    /// One message in each request.
    pub(super) fn single(idempotency: bool) -> Self {
        Self { idempotency, batch: 1 }
    }

    /// Many messages in each request.
    pub(super) fn batches(idempotency: bool) -> Self {
        Self { idempotency, batch: Self::BATCH }
    }

    /// How many connections send in this manner, if so many would send single messages.
    pub(super) fn connections(self, single: usize) -> usize {
        if self.batch > 1 { single.min(Self::BATCH_CONNECTIONS) } else { single }
    }
}

/// What one phase sends.
pub(super) struct Load {
    /// To whom.
    pub(super) target: Target,
    /// Paths to post to, in turn.
    pub(super) paths: Vec<Uri>,
    /// What to post.
    pub(super) template: Arc<Template>,
    /// In what form.
    pub(super) manner: Manner,
    /// How fast.
    pub(super) pace: Pace,
    /// How many connections, each with one request at a time.
    pub(super) connections: usize,
    /// For how long.
    pub(super) extent: Extent,
}

/// When it began, and what it could not send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    /// When sending began, by the stopwatch.
    pub(super) began: u64,
    /// Requests that a fixed rate called for, and that no connection was free for.
    pub(super) unsent: u64,
}

/// What the connections of a load share.
struct Run {
    load: Load,
    headers: HeaderMap,
    phase: Arc<Phase>,
    next: AtomicU64,
    due: Semaphore,
    began: u64,
    /// How many messages there are at most.
    last: u64,
    /// A closed loop sends nothing from here on.
    end: u64,
    /// No request is sent from here on, however late the server is.
    give_up: u64,
}

/// Sends it all. Fails if the server answers nothing, or nothing but errors.
pub(super) async fn send(load: Load, phase: &Arc<Phase>, progress: &Progress) -> anyhow::Result<Sent> {
    let run = Arc::new(Run::new(load, Arc::clone(phase)));
    let mut connections = JoinSet::new();
    for number in 0..run.load.connections {
        connections.spawn(connection(Arc::clone(&run), number));
    }
    if let Pace::Rate(rate) = run.load.pace {
        pace(Arc::clone(&run), rate)?;
    }
    let all = async { while connections.join_next().await.is_some() {} };
    tokio::select! {
        () = all => {}
        gone = watch(&run, progress) => gone?,
    }
    let unsent = match run.load.pace {
        Pace::Closed => 0,
        Pace::Rate(_) => run.last.saturating_sub(run.next.load(Relaxed)),
    };
    Ok(Sent { began: run.began, unsent })
}

impl Run {
    fn new(load: Load, phase: Arc<Phase>) -> Self {
        let began = micros();
        let (end, give_up) = match load.extent {
            Extent::Time(time) => (began + span(time), began + span(time) + span(PATIENCE)),
            Extent::Messages(_) => (u64::MAX, u64::MAX),
        };
        let last = match (load.extent, load.pace) {
            (Extent::Messages(count), _) => count,
            (Extent::Time(time), Pace::Rate(rate)) => ((time.as_secs_f64() * rate) as u64).max(1),
            (Extent::Time(_), Pace::Closed) => u64::MAX,
        };
        let headers = headers(&load.target);
        Self { load, headers, phase, next: AtomicU64::new(0), due: Semaphore::new(0), began, last, end, give_up }
    }

    /// The next message to send; `None` when there is none.
    async fn next(&self) -> Option<Stamp> {
        if self.load.pace != Pace::Closed {
            self.due.acquire().await.ok()?.forget();
        }
        let now = micros();
        if now >= self.give_up || (self.load.pace == Pace::Closed && now >= self.end) {
            return None;
        }
        let number = self.next.fetch_add(1, Relaxed);
        let sent = match self.load.pace {
            Pace::Closed => now,
            Pace::Rate(rate) => self.due_at(number, rate),
        };
        (number < self.last).then_some(Stamp { phase: self.phase.number, sequence: u32::try_from(number).ok()?, sent })
    }

    fn due_at(&self, number: u64, rate: f64) -> u64 {
        self.began + (number as f64 * 1e6 / rate) as u64
    }

    /// The messages of the next request; none when there are none.
    async fn stamps(&self) -> Vec<Stamp> {
        let mut stamps = Vec::with_capacity(self.load.manner.batch);
        while stamps.len() < self.load.manner.batch {
            match self.next().await {
                Some(stamp) => stamps.push(stamp),
                None => break,
            }
        }
        stamps
    }

    fn request(&self, stamps: &[Stamp]) -> Request<Full<bytes::Bytes>> {
        let template = &self.load.template;
        let body = match stamps {
            [stamp] if self.load.manner.batch == 1 => template.stamped(*stamp),
            stamps => template.batch(stamps),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        let turn = stamps.first().map_or(0, |stamp| stamp.sequence as usize);
        *request.uri_mut() = self.load.paths[turn % self.load.paths.len()].clone();
        *request.headers_mut() = self.headers.clone();
        if self.load.manner.idempotency {
            request.headers_mut().insert(idempotency::HEADER, idempotency::key());
        }
        request
    }
}

impl Run {
    /// Notes what a request had accepted: the message, or those of the batch that were.
    fn accepted(&self, number: usize, stamps: &[Stamp], status: StatusCode, body: &[u8]) {
        let now = micros();
        if self.load.manner.batch > 1 && !body.windows(ALL_ACCEPTED.len()).take(100).any(|text| text == ALL_ACCEPTED) {
            self.phase.fail(number, "part of a batch", || excerpt(status, body));
            return;
        }
        stamps.iter().for_each(|stamp| self.phase.accept(number, *stamp, now));
    }
}

/// Begins the answer to a batch of which everything was accepted.
const ALL_ACCEPTED: &[u8] = br#""rejected":0"#;

fn headers(target: &Target) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(host) = HeaderValue::from_str(&target.host) {
        headers.insert(header::HOST, host);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(authorization) = &target.authorization {
        headers.insert(header::AUTHORIZATION, authorization.clone());
    }
    headers
}

/// One connection's part of the load; reconnects when it has to.
async fn connection(run: Arc<Run>, number: usize) {
    let mut open: Option<Connection> = None;
    loop {
        let stamps = run.stamps().await;
        if stamps.is_empty() {
            return;
        }
        match exchange(&run, &mut open, &stamps).await {
            Ok((status, body)) if status.is_success() => run.accepted(number, &stamps, status, &body),
            Ok((status, body)) => run.phase.fail(number, status.as_str(), || excerpt(status, &body)),
            Err(error) => {
                open = None;
                run.phase.fail(number, "no answer", || format!("{error:#}"));
                tokio::time::sleep(RECONNECT_WAIT).await;
            }
        }
    }
}

/// Posts what is in one request. A connection that the server closed while it was idle is replaced: that is no error.
async fn exchange(
    run: &Run,
    open: &mut Option<Connection>,
    stamps: &[Stamp],
) -> anyhow::Result<(StatusCode, bytes::Bytes)> {
    if let Some(connection) = open {
        match connection.exchange(run.request(stamps)).await {
            Ok(answer) => return Ok(answer),
            Err(failed) if !failed.unsent => return Err(failed.error),
            Err(_) => {}
        }
    }
    let connection = open.insert(Connection::open(run.load.target.address).await?);
    connection.exchange(run.request(stamps)).await.map_err(|failed| failed.error)
}

fn excerpt(status: StatusCode, body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().filter(|letter| !is_unseen(*letter)).take(300).collect();
    format!("{status} {text}")
}

/// Tells the connections when a request is due. A thread of its own, because the runtime's timer is only good to a
/// millisecond, and may be late under load.
fn pace(run: Arc<Run>, rate: f64) -> anyhow::Result<()> {
    const SHORTEST_SLEEP: u64 = 200;
    let last = run.last;
    let pacer = move || {
        let mut given = 0;
        while given < last && Arc::strong_count(&run) > 1 {
            let now = micros();
            let due = (((now - run.began) as f64 * rate / 1e6) as u64 + 1).min(last);
            run.due.add_permits((due - given) as usize);
            given = due;
            let wait = run.due_at(given, rate).saturating_sub(micros()).max(SHORTEST_SLEEP);
            std::thread::sleep(Duration::from_micros(wait));
        }
        // One each, so that every connection learns that nothing is left.
        run.due.add_permits(run.load.connections);
    };
    std::thread::Builder::new()
        .name("pace".into())
        .stack_size(STACK_BYTES)
        .spawn(pacer)
        .context("can't start a thread")?;
    Ok(())
}

/// Shows progress, and ends with an error if the server is of no use.
async fn watch(run: &Run, progress: &Progress) -> anyhow::Result<()> {
    let (mut before, mut since) = (Counts::default(), micros());
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    loop {
        ticks.tick().await;
        let counts = run.phase.counts();
        progress.show(&run.phase, counts, run.began);
        if counts.accepted > before.accepted || run.load.pace != Pace::Closed && counts == Counts::default() {
            (before, since) = (counts, micros());
            continue;
        }
        let silent = micros() - since;
        if counts.failed > before.failed && silent > span(ERROR_PATIENCE) {
            let errors = run.phase.sum().errors;
            let sample = errors.into_values().max_by_key(|failures| failures.count).unwrap_or_default().sample;
            bail!("{} accepts nothing: {sample}", run.load.target.name);
        }
        if silent > span(PATIENCE) {
            bail!("{} has not answered for {} s", run.load.target.name, PATIENCE.as_secs());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pace: Pace, extent: Extent) -> Run {
        let target = Target {
            name: "test".into(),
            address: ([127, 0, 0, 1], 1).into(),
            host: "localhost".into(),
            authorization: None,
            pid: None,
        };
        let paths = vec![Uri::from_static("/a"), Uri::from_static("/b")];
        let template = Arc::new(Template::new(100));
        let load = Load { target, paths, template, manner: Manner::single(true), pace, connections: 1, extent };
        Run::new(load, Arc::new(Phase::new(0, 1)))
    }

    #[tokio::test]
    async fn so_many_messages_are_sent_and_no_more() {
        let run = run(Pace::Closed, Extent::Messages(2));
        let sequences = [run.next().await, run.next().await, run.next().await].map(|stamp| stamp.map(|s| s.sequence));
        assert_eq!(sequences, [Some(0), Some(1), None]);
    }

    #[tokio::test]
    async fn at_a_fixed_rate_a_late_request_counts_from_when_it_was_due() {
        let run = run(Pace::Rate(1_000.0), Extent::Messages(10));
        run.due.add_permits(10);
        for number in 0..10 {
            assert_eq!(run.next().await.unwrap().sent, run.began + number * 1_000);
        }
    }

    #[tokio::test]
    async fn a_rate_and_a_time_that_do_not_match_end_at_the_last_whole_message() {
        let run = run(Pace::Rate(3.0), Extent::Time(Duration::from_millis(1_200)));
        run.due.add_permits(4);
        let mut sent = 0;
        while run.next().await.is_some() {
            sent += 1;
        }
        assert_eq!((sent, run.due.available_permits()), (3, 0));
    }

    #[test]
    fn paths_are_used_in_turn_and_every_key_is_new() {
        let run = run(Pace::Closed, Extent::Messages(2));
        let request = |sequence| run.request(&[Stamp { phase: 0, sequence, sent: 0 }]);
        assert_eq!([0, 1, 2].map(|sequence| request(sequence).uri().path().to_owned()), ["/a", "/b", "/a"]);
        assert_ne!(request(0).headers()[&idempotency::HEADER], request(0).headers()[&idempotency::HEADER]);
    }
}
