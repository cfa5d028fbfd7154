//! The few calls of the REST contract that a benchmark needs around its load: applications, endpoints, the ping.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use serde_json::{Value, json};

use super::http::Connection;
use super::load::Target;
use super::receiver::Address;

const TIMEOUT: Duration = Duration::from_secs(30);

/// An application made for the benchmark.
#[derive(Debug, Clone)]
pub(super) struct Application {
    id: String,
}

impl Application {
    /// Creates one with an endpoint at each of `receivers`.
    pub(super) async fn create(target: &Target, name: &str, receivers: &[Address]) -> anyhow::Result<Self> {
        let made = call(target, Method::POST, "/api/v1/app", Some(&json!({ "name": name }))).await?;
        let id = made["id"].as_str().context("the new application has no id")?.to_owned();
        let path = format!("/api/v1/app/{id}/endpoint");
        for receiver in receivers {
            // `version` is only for servers that still ask for it.
            let endpoint = json!({ "url": receiver.url, "secret": receiver.secret, "version": 1 });
            call(target, Method::POST, &path, Some(&endpoint)).await?;
        }
        Ok(Self { id })
    }

    /// Where its messages are posted, as the SDKs do it: without having the payload sent back.
    pub(super) fn messages(&self) -> anyhow::Result<Uri> {
        Ok(format!("/api/v1/app/{}/msg?with_content=false", self.id).parse()?)
    }

    /// Where many at a time are posted.
    pub(super) fn batches(&self) -> anyhow::Result<Uri> {
        Ok(format!("/api/v1/app/{}/msg/batch", self.id).parse()?)
    }

    /// Removes it, with all that waits for its endpoints.
    pub(super) async fn delete(self, target: &Target) -> anyhow::Result<()> {
        call(target, Method::DELETE, &format!("/api/v1/app/{}", self.id), None).await.map(drop)
    }
}

/// Whether the server answers.
pub(super) async fn ping(target: &Target) -> anyhow::Result<()> {
    call(target, Method::GET, "/api/v1/health/ping", None).await.map(drop)
}

/// Where a URL leads: its address and the `host` header.
pub(super) async fn locate(url: &str) -> anyhow::Result<(SocketAddr, String)> {
    let uri: Uri = url.parse().with_context(|| format!("'{url}' is no URL"))?;
    if uri.scheme_str() != Some("http") {
        bail!("the load is sent over plain http: give a URL that begins with http://");
    }
    if !matches!(uri.path(), "" | "/") {
        bail!("give the server's root, without '{}'", uri.path());
    }
    let authority = uri.authority().context("the URL names no server")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let address = tokio::net::lookup_host((host, authority.port_u16().unwrap_or(80)))
        .await
        .with_context(|| format!("can't resolve {host}"))?
        .next()
        .with_context(|| format!("{host} has no address"))?;
    Ok((address, authority.to_string()))
}

/// Carries out one call, and gives what it was answered.
pub(super) async fn call(target: &Target, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    let what = format!("{method} {path} at {}", target.name);
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, &target.host)
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(authorization) = &target.authorization {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    let request = request.body(Full::new(body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()))))?;
    let exchange = async {
        let mut connection = Connection::open(target.address).await?;
        connection.exchange(request).await.map_err(|failed| failed.error)
    };
    let (status, answer) = tokio::time::timeout(TIMEOUT, exchange)
        .await
        .with_context(|| format!("{what}: no answer within {} s", TIMEOUT.as_secs()))?
        .with_context(|| what.clone())?;
    read(status, &answer).with_context(|| what)
}

fn read(status: StatusCode, answer: &[u8]) -> anyhow::Result<Value> {
    if !status.is_success() {
        let hint = if status == StatusCode::UNAUTHORIZED { " (give --token or --jwt-secret)" } else { "" };
        bail!("{status}{hint} {}", String::from_utf8_lossy(answer));
    }
    if answer.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(answer).context("the answer is no JSON")
}
