//! The egress policy: what may not be delivered to is refused when an endpoint names it, and again when it is dialled.

use http::Method;
use postrider_testkit::{App, Receiver, Reply, TestServer, TestServerBuilder};
use serde_json::{Value, json};

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider")).set("delivery.retry_schedule", "[]")
}

/// A server that exempts nothing from the policy.
fn strict() -> TestServerBuilder {
    server().set("delivery.allow_subnets", "[]")
}

/// Expects that neither a new endpoint nor a changed one may have this URL.
async fn expect_refused(app: &App, url: &str) {
    let answer = app.client.post(&app.path("/endpoint"), &json!({ "url": url })).await;
    assert_eq!(answer.status, 422, "{url}: {}", answer.text());
    assert!(answer.json()["detail"].is_array(), "{url}: {}", answer.text());
    let endpoint = app.endpoint("https://example.com/").await;
    let path = app.path(&format!("/endpoint/{endpoint}"));
    for method in [Method::PATCH, Method::PUT] {
        let answer = app.client.request(method.clone(), &path).json(&json!({ "url": url })).send().await;
        assert_eq!(answer.status, 422, "{method} {url}: {}", answer.text());
    }
    app.client.delete(&path).await.expect(204);
}

/// Expects that an attempt was made and refused.
#[track_caller]
fn expect_forbidden(attempt: &Value) {
    assert_eq!((&attempt["status"], &attempt["responseStatusCode"]), (&json!(2), &json!(0)), "{attempt}");
}

#[tokio::test]
async fn other_spellings_of_127_0_0_1_are_refused() {
    let server = strict().start().await;
    let app = server.app().await;
    for url in
        ["http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/", "http://127.1/", "https://127.0.0.1:8443/"]
    {
        expect_refused(&app, url).await;
    }
}

#[tokio::test]
async fn ipv6_addresses_that_lead_inside_are_refused() {
    let server = strict().start().await;
    let app = server.app().await;
    let addresses = [
        "[::]",
        "[::1]",
        "[::ffff:169.254.169.254]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[2002:7f00:1::]",
        "[2001:db8::1]",
        "[ff02::1]",
        "[100::1]",
        "[3fff::1]",
        "[5f00::1]",
    ];
    for address in addresses {
        expect_refused(&app, &format!("http://{address}/")).await;
    }
}

#[tokio::test]
async fn ipv4_addresses_that_are_not_public_are_refused() {
    let server = strict().start().await;
    let app = server.app().await;
    let addresses = [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
    ];
    for address in addresses {
        expect_refused(&app, &format!("http://{address}/")).await;
    }
    for neighbour in ["11.0.0.1", "172.32.0.1", "100.128.0.1", "198.20.0.1", "[2606:4700::1111]"] {
        app.endpoint(&format!("https://{neighbour}/")).await;
    }
}

#[tokio::test]
async fn other_schemes_and_what_is_no_url_are_422() {
    let server = server().start().await;
    let app = server.app().await;
    let urls = [
        "file:///etc/passwd",
        "gopher://x",
        "unix:/tmp/s",
        "ftp://example.com/",
        "javascript:alert(1)",
        "http://",
        "//example.com/",
        "example.com",
        "",
        "http://exa mple.com/",
        "http://example.com:99999/",
        "http://[::1/",
    ];
    for url in urls {
        expect_refused(&app, url).await;
    }
}

#[tokio::test]
async fn https_only_refuses_http() {
    let server = server().set("delivery.https_only", "true").start().await;
    let app = server.app().await;
    expect_refused(&app, "http://example.com/").await;
}

#[tokio::test]
async fn names_of_this_machine_are_refused_when_dialled() {
    let server = strict().start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    let port = receiver.address().port();
    for host in ["localhost", "localhost.", "LOCALHOST"] {
        let endpoint = app.endpoint(&format!("http://{host}:{port}/")).await;
        let message = app.send("a", &json!({})).await;
        expect_forbidden(&app.logged_attempts(&message, 1).await[0]);
        app.client.delete(&app.path(&format!("/endpoint/{endpoint}"))).await.expect(204);
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn an_address_that_was_allowed_once_is_refused_when_dialled() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::ok().await;
    let mut allowing = server().store_folder(folder.path()).start().await;
    let app = allowing.app().await;
    app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({})).await;
    assert_eq!(app.logged_attempts(&message, 1).await[0]["status"], 0);
    allowing.terminate().await;

    let strict = strict().store_folder(folder.path()).start().await;
    let token = allowing.token();
    let app = App { client: strict.client_with(Some(token)), id: app.id };
    let message = app.send("a", &json!({})).await;
    expect_forbidden(&app.logged_attempts(&message, 1).await[0]);
    assert_eq!(receiver.requests().len(), 1);
}

/// A public address, which the loopback interface must have been given.
const OWN: &str = "9.9.9.9";

#[tokio::test]
#[ignore = "needs a network of its own, with 9.9.9.9 at its loopback interface: scripts/test runs it where it can"]
async fn a_public_address_of_this_machine_is_refused_unless_it_is_allowed() {
    let url = format!("http://{OWN}:8080/");
    let server = strict().start().await;
    expect_refused(&server.app().await, &url).await;
    let server = self::server().set("delivery.allow_subnets", format!("[\"{OWN}/32\"]")).start().await;
    server.app().await.endpoint(&url).await;
}

#[tokio::test]
async fn an_answer_of_302_or_307_to_a_metadata_address_is_a_failed_attempt_with_that_status() {
    let server = server().start().await;
    let app = server.app().await;
    for status in [302, 307] {
        let redirect = Reply::status(status).header("location", "http://169.254.169.254/latest/meta-data/");
        let receiver = Receiver::always(redirect).await;
        let endpoint = app.endpoint(&receiver.url()).await;
        let message = app.send("a", &json!({})).await;
        let attempt = &app.logged_attempts(&message, 1).await[0];
        assert_eq!((&attempt["status"], &attempt["responseStatusCode"]), (&json!(2), &json!(status)));
        app.client.delete(&app.path(&format!("/endpoint/{endpoint}"))).await.expect(204);
    }
}

#[tokio::test]
async fn proxy_variables_are_not_followed() {
    let proxy = Receiver::ok().await;
    let mut builder = server();
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        builder = builder.variable(name, proxy.url());
    }
    let server = builder.start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    app.endpoint(&receiver.url()).await;
    let message = app.send("a", &json!({})).await;
    receiver.wait_for_id(&message).await;
    assert_eq!(proxy.connections(), 0);
}
