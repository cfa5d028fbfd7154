//! Those without a token: whatever anybody can send who reaches the port.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use postrider_testkit::{TestServer, TestServerBuilder};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::hostile::connect_from_elsewhere;
use crate::neighbour::{unharmed, unharmed_with_changes};

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

/// Asks for the largest answer that anybody can have, thirty times over one connection.
async fn ask_for_documents(address: SocketAddr) -> Option<tokio::net::TcpStream> {
    let request = "GET /api/v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(30);
    let mut stream = connect_from_elsewhere(address).await?;
    stream.write_all(request.as_bytes()).await.ok()?;
    Some(stream)
}

#[tokio::test]
async fn documents_that_are_not_read() {
    unharmed(server(), async |server| {
        let address = server.address();
        let document = server.client_with(None).get("/api/v1/openapi.json").await.expect(200);
        assert!(document.body.len() > 200_000, "more than the system takes: {}", document.body.len());
        let mut attack = JoinSet::new();
        for _ in 0..900 {
            attack.spawn(async move {
                let _unread = ask_for_documents(address).await;
                sleep(Duration::from_secs(600)).await;
            });
        }
        for _ in 0..100 {
            attack.spawn(async move {
                loop {
                    let unread = ask_for_documents(address).await;
                    sleep(Duration::from_secs(1)).await;
                    drop(unread);
                }
            });
        }
        attack
    })
    .await;
}

/// How many requests are sent at once.
const AT_ONCE: usize = 32;

/// Asks so many times at once, reads the answers, and asks again.
async fn ask_many_at_once(address: SocketAddr) -> Option<()> {
    let request = "GET /api/v1/app HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut stream = connect_from_elsewhere(address).await?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answers = vec![0; 64 * 1024];
    let mut length = 0;
    while !answers[..length].ends_with(b"}") {
        length += stream.read(&mut answers[length..]).await.ok().filter(|read| *read > 0)?;
    }
    assert!(answers.starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&answers[..length]));
    loop {
        stream.write_all(request.repeat(AT_ONCE).as_bytes()).await.ok()?;
        stream.read_exact(&mut answers[..AT_ONCE * length]).await.ok()?;
    }
}

#[tokio::test]
async fn requests_of_which_many_are_sent_at_once() {
    unharmed(server(), async |server| {
        let address = server.address();
        let mut attack = JoinSet::new();
        for _ in 0..200 {
            attack.spawn(async move {
                loop {
                    ask_many_at_once(address).await;
                }
            });
        }
        attack
    })
    .await;
}

/// Sends this request over a thousand connections, one at a time over each, all the time.
fn ask_over_a_thousand(address: SocketAddr, request: &str) -> JoinSet<()> {
    let mut attack = JoinSet::new();
    for _ in 0..1_000 {
        let request = request.to_owned();
        attack.spawn(async move {
            loop {
                let Some(mut stream) = connect_from_elsewhere(address).await else { continue };
                let mut answer = [0; 4_096];
                while stream.write_all(request.as_bytes()).await.is_ok() {
                    if !matches!(stream.read(&mut answer).await, Ok(1..)) {
                        break;
                    }
                    assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
                }
            }
        });
    }
    attack
}

#[tokio::test]
async fn requests_over_a_thousand_connections() {
    let request = "GET /api/v1/app HTTP/1.1\r\nhost: x\r\n\r\n";
    unharmed_with_changes(server(), async |server| ask_over_a_thousand(server.address(), request)).await;
}

#[tokio::test]
async fn long_requests_over_a_thousand_connections() {
    let request = format!("DELETE /{}event-type/x HTTP/1.1\r\nhost: x\r\n\r\n", "./".repeat(30_000));
    unharmed_with_changes(server(), async |server| ask_over_a_thousand(server.address(), &request)).await;
}

/// Sends this all the time, over so many connections.
fn ask_again_and_again(address: SocketAddr, request: &str, connections: usize) -> JoinSet<()> {
    let mut attack = JoinSet::new();
    for _ in 0..connections {
        let request = request.to_owned();
        attack.spawn(async move {
            loop {
                let Some(mut stream) = connect_from_elsewhere(address).await else { continue };
                let mut answer = [0; 4_096];
                while stream.write_all(request.as_bytes()).await.is_ok() {
                    if !matches!(stream.read(&mut answer).await, Ok(1..)) {
                        break;
                    }
                    assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
                    sleep(Duration::from_millis(5)).await;
                }
            }
        });
    }
    attack
}

#[tokio::test]
async fn paths_of_thousands_of_steps() {
    let request = format!("DELETE /{}event-type/x HTTP/1.1\r\nhost: x\r\n\r\n", "./".repeat(32_000));
    unharmed(server(), async |server| ask_again_and_again(server.address(), &request, 16)).await;
}

#[tokio::test]
async fn queries_of_thousands_of_parameters() {
    let query = "a&".repeat(32_000);
    let request = format!("GET /api/v1/app/x/attempt/endpoint/y?{query} HTTP/1.1\r\nhost: x\r\n\r\n");
    unharmed(server(), async |server| ask_again_and_again(server.address(), &request, 100)).await;
}

#[tokio::test]
async fn tokens_as_long_as_a_head_can_be() {
    unharmed(server(), async |server| {
        let address = server.address();
        let part = |text: &str| BASE64.encode(text);
        // With the header of those that the server makes, and of a length that is taken, and of one that is not.
        let mut attack = JoinSet::new();
        for number in 0..300 {
            let subject = "x".repeat(if number % 2 == 0 { 15_000 } else { 40_000 });
            let claims = part(&format!(r#"{{"sub":"{subject}","org":"org_x"}}"#));
            let header = part(r#"{"typ":"JWT","alg":"HS256"}"#);
            let token = format!("{header}.{claims}.{}", part(&"x".repeat(32)));
            let request = format!("GET /api/v1/app HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
            attack.spawn(async move {
                let Some(mut stream) = connect_from_elsewhere(address).await else { return };
                let mut answer = [0; 4_096];
                while stream.write_all(request.as_bytes()).await.is_ok() {
                    if !matches!(stream.read(&mut answer).await, Ok(1..)) {
                        return;
                    }
                    assert!(answer.starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&answer));
                    sleep(Duration::from_millis(50)).await;
                }
            });
        }
        attack
    })
    .await;
}
