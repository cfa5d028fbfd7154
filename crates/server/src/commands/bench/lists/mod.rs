//! `--lists`: how long a page takes in a store with millions of messages and attempts, in every combination of filters.
//!
//! [`fill`] writes the rows past the API, [`cases`] are the queries. They are asked over HTTP, one after the other on one
//! connection, of a server that was just started on the store. The first time a query is asked is kept apart: then
//! neither the server nor its database has anything of it in memory.

mod cases;
mod fill;

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, Request, header};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;

use super::args::Args;
use super::clock::micros;
use super::control;
use super::http::Connection;
use super::lab::private_target;
use super::load::Target;
use super::private::TemporaryStore;
use super::progress::Progress;
use super::token::ORGANIZATION;
use crate::terminal::{STRONG, paint};
use cases::Case;

/// How often each query is asked after the first time.
const REPEATS: usize = 5;

/// Pages that are shown of one list under the same filters, together.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    list: &'static str,
    filtered_by: String,
    index: &'static str,
    queries: usize,
    first_ms: Spread,
    again_ms: Spread,
    /// The slowest query of all.
    worst: String,
}

#[derive(Debug, Serialize)]
struct Spread {
    p50: f64,
    p99: f64,
    max: f64,
}

/// What came out.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    rows: u64,
    fill_seconds: f64,
    database_bytes: u64,
    lists: Vec<Row>,
}

/// Fills a store, and measures.
pub(super) async fn run(args: &Args, rows: u64) -> anyhow::Result<Outcome> {
    ensure!(rows > 0, "--lists needs at least one row");
    let progress = Progress::new();
    let store = TemporaryStore::create(args.dir.as_deref())?;
    progress.begin("starting a private server");
    let server = store.serve().await?;
    let target = private_target(&server, &store)?;
    let application = create(&target, "/api/v1/app", json!({ "name": "postrider bench" })).await?;
    let endpoints = format!("/api/v1/app/{application}/endpoint");
    // Nothing is sent: what waits is due in a month, and nobody listens there.
    let endpoint = json!({ "url": "http://127.0.0.1:1025/", "version": 1 });
    let busy = create(&target, &endpoints, endpoint.clone()).await?;
    let idle = create(&target, &endpoints, endpoint).await?;
    server.stop().await?;

    let filled = fill::fill(&store.path(), (ORGANIZATION, &application, &busy), rows, &progress).await?;
    let server = store.serve().await?;
    let target = private_target(&server, &store)?;
    let cases = cases::all(&application, &busy, &idle, &filled);
    let lists = measure(&target, &cases, &progress).await?;
    server.stop().await?;
    progress.end();
    let database_bytes = std::fs::metadata(store.path()).map(|file| file.len()).unwrap_or_default();
    Ok(Outcome { rows, fill_seconds: filled.seconds, database_bytes, lists })
}

async fn create(target: &Target, path: &str, body: serde_json::Value) -> anyhow::Result<String> {
    let made = control::call(target, Method::POST, path, Some(&body)).await?;
    Ok(made["id"].as_str().context("no id")?.to_owned())
}

/// The times of one row of the table.
struct Times {
    index: &'static str,
    queries: usize,
    first: Histogram<u64>,
    again: Histogram<u64>,
    worst: (u64, String),
}

async fn measure(target: &Target, cases: &[Case], progress: &Progress) -> anyhow::Result<Vec<Row>> {
    progress.begin(format!("asking {} queries", cases.len()));
    let mut connection = Connection::open(target.address).await?;
    // The connection, the token's check and the first look-ups of the application are none of the lists' business.
    ask(&mut connection, target, "/api/v1/app").await?;
    let mut rows: BTreeMap<(&'static str, String), Times> = BTreeMap::new();
    for case in cases {
        let key = (case.list, case.filtered_by.clone());
        let times = match rows.entry(key) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(Times {
                index: case.index,
                queries: 0,
                first: Histogram::new(3)?,
                again: Histogram::new(3)?,
                worst: (0, String::new()),
            }),
        };
        times.queries += 1;
        for turn in 0..=REPEATS {
            let took = ask(&mut connection, target, &case.path).await?;
            if turn == 0 { &mut times.first } else { &mut times.again }.record(took)?;
            if turn > 0 && took > times.worst.0 {
                times.worst = (took, case.path.clone());
            }
        }
    }
    let row = |((list, filtered_by), times): ((&'static str, String), Times)| Row {
        list,
        filtered_by,
        index: times.index,
        queries: times.queries,
        first_ms: Spread::of(&times.first),
        again_ms: Spread::of(&times.again),
        worst: times.worst.1,
    };
    Ok(rows.into_iter().map(row).collect())
}

/// Asks once; gives the microseconds until the whole answer was there.
async fn ask(connection: &mut Connection, target: &Target, path: &str) -> anyhow::Result<u64> {
    let mut request = Request::builder().method(Method::GET).uri(path).header(header::HOST, &target.host);
    if let Some(authorization) = &target.authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    let request = request.body(Full::new(Bytes::new()))?;
    let asked = micros();
    let (status, answer) = connection.exchange(request).await.map_err(|failed| failed.error)?;
    let took = micros() - asked;
    ensure!(status.is_success(), "GET {path}: {status} {}", String::from_utf8_lossy(&answer));
    Ok(took)
}

impl Spread {
    fn of(times: &Histogram<u64>) -> Self {
        let ms = |micros: u64| micros as f64 / 1e3;
        Self { p50: ms(times.value_at_quantile(0.5)), p99: ms(times.value_at_quantile(0.99)), max: ms(times.max()) }
    }
}

impl Outcome {
    /// One JSON object on one line.
    pub(super) fn write_json(&self, out: &mut impl Write) -> anyhow::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)?;
        Ok(())
    }

    /// A table.
    pub(super) fn write_table(&self, out: &mut impl Write) -> std::io::Result<()> {
        let gigabytes = self.database_bytes as f64 / 1e9;
        writeln!(
            out,
            "{} messages and as many attempts, filled in {:.0} s, {gigabytes:.1} GB; times of a page of 50 in ms",
            self.rows, self.fill_seconds
        )?;
        let header = format!(
            "{:<26}{:<46}{:>8}{:>24}{:>24}  {}",
            "list", "filtered by", "queries", "first p50/p99/max", "again p50/p99/max", "served by"
        );
        writeln!(out, "{}", paint(STRONG, header))?;
        let spread = |spread: &Spread| format!("{:.2} / {:.2} / {:.2}", spread.p50, spread.p99, spread.max);
        for row in &self.lists {
            let Row { list, filtered_by, index, queries, first_ms, again_ms, .. } = row;
            let filtered_by = if filtered_by.is_empty() { "-" } else { filtered_by };
            let (first, again) = (spread(first_ms), spread(again_ms));
            writeln!(out, "{list:<26}{filtered_by:<46}{queries:>8}{first:>24}{again:>24}  {index}")?;
        }
        let worst = self.lists.iter().max_by(|a, b| a.again_ms.max.total_cmp(&b.again_ms.max));
        if let Some(worst) = worst {
            writeln!(out, "the slowest when asked again: {:.2} ms for {}", worst.again_ms.max, worst.worst)?;
        }
        Ok(())
    }
}
