//! Hostile receivers: one tenant's endpoints lead to them, and another tenant must not notice.

use std::time::Duration;

use bytes::Bytes;
use postrider_testkit::{Receiver, Reply, TestServer, TestServerBuilder};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::hostile::Hostile;
use crate::neighbour::unharmed;

/// Endpoints at the hostile receiver.
const ENDPOINTS: usize = 20;

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider")).set("delivery.request_timeout", "5s")
}

/// Sends to `ENDPOINTS` endpoints at `url` for as long as the attack goes on.
async fn flood(server: &TestServer, url: &str) -> JoinSet<()> {
    flood_some(server, url, ENDPOINTS).await
}

/// Sends to so many endpoints at `url` for as long as the attack goes on.
pub(crate) async fn flood_some(server: &TestServer, url: &str, endpoints: usize) -> JoinSet<()> {
    let hostile = Hostile::on(server).await;
    for number in 0..endpoints {
        hostile.tenant.endpoint(&format!("{url}{number}")).await;
    }
    // The first one is accepted, so something goes to the receiver.
    hostile.operator.send("user.created", &json!({})).await;
    let mut attack = JoinSet::new();
    attack.spawn(async move {
        loop {
            let message = json!({ "eventType": "user.created", "payload": {} });
            let path = hostile.operator.path("/msg");
            let _ = hostile.operator.client.request(http::Method::POST, &path).json(&message).try_send().await;
            sleep(Duration::from_millis(50)).await;
        }
    });
    attack
}

async fn does_no_harm(reply: Reply) {
    let receiver = Receiver::builder(move |_| reply.clone()).forgetful().start().await;
    unharmed(server(), async |server| flood(server, &receiver.url()).await).await;
}

#[tokio::test]
async fn hanging() {
    does_no_harm(Reply::hang()).await;
}

#[tokio::test]
async fn a_body_without_an_end() {
    does_no_harm(Reply::endless_body(200)).await;
}

#[tokio::test]
async fn a_byte_at_a_time() {
    does_no_harm(Reply::dripping_body(Duration::from_millis(100))).await;
}

#[tokio::test]
async fn a_head_without_an_end() {
    does_no_harm(Reply::dripping_head(Duration::from_millis(5))).await;
}

#[tokio::test]
async fn resets() {
    does_no_harm(Reply::reset()).await;
}

#[tokio::test]
async fn very_many_headers() {
    // Made once: the receiver's own work must not take the machine's cores.
    let headers: String = (0..2_000).map(|number| format!("x-header-{number}: value\r\n")).collect();
    does_no_harm(Reply::raw(format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n"))).await;
}

#[tokio::test]
async fn a_wait_of_a_day_that_is_asked_for() {
    does_no_harm(Reply::status(503).header("retry-after", "86400")).await;
}

#[tokio::test]
async fn nothing_but_errors() {
    does_no_harm(Reply::status(500).body("e".repeat(60_000))).await;
}

/// A thousand messages, each with names of its own and names that all have.
fn batch_with_names(batch: usize) -> Value {
    let message = |number: usize| {
        let own = |kind: &str| format!("{kind}-{batch}-{number}");
        json!({
            "eventType": "user.created",
            "payload": { "text": "x".repeat(200) },
            "tags": [own("order"), own("customer"), "shop", format!("region-{}", number % 10)],
            "channels": [own("project"), "all"],
        })
    };
    (0..1_000).map(message).collect()
}

#[tokio::test]
async fn nothing_but_errors_for_batches_with_names_to_many_endpoints() {
    unharmed(server(), async |server| {
        let hostile = Hostile::on(server).await;
        let failing = Box::leak(Box::new(Receiver::builder(|_| Reply::status(500)).forgetful().start().await));
        for number in 0..16 {
            hostile.tenant.endpoint(&failing.at(&number.to_string())).await;
        }
        for batch in 0..3 {
            let path = hostile.operator.path("/msg/batch");
            hostile.operator.client.post(&path, &batch_with_names(batch)).await.expect(202);
        }
        // 48,000 deliveries, each of which fails and is tried again.
        JoinSet::new()
    })
    .await;
}

/// A receiver on its own listener that answers each request with `head` once, and with `filler` for as long as it is read.
async fn endless(head: &'static [u8], filler: Bytes) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has free ports");
    let url = format!("http://{}/", listener.local_addr().expect("a listener has an address"));
    let mut set = JoinSet::new();
    set.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let filler = filler.clone();
            open.spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(head).await;
                while stream.write_all(&filler).await.is_ok() {}
            });
        }
    });
    (url, set)
}

#[tokio::test]
async fn interim_responses_without_an_end() {
    let filler = Bytes::from("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(100));
    let (url, _receiver) = endless(b"", filler).await;
    unharmed(server(), async |server| flood(server, &url).await).await;
}

#[tokio::test]
async fn surplus_bytes_without_an_end() {
    let filler = Bytes::from("HTTP/1.1 200 FAKE\r\ncontent-length: 0\r\n\r\n".repeat(100));
    let (url, _receiver) = endless(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", filler).await;
    unharmed(server(), async |server| flood(server, &url).await).await;
}
