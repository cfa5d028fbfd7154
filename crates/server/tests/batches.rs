//! Batches through a real server: delivered, found again after a crash, and lines answered while more are being sent.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::time::Duration;

use http::Method;
use postrider_testkit::{App, Receiver, TestServer, TestServerBuilder, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

/// Generous: it is only ever reached when something is broken.
const DEADLINE: Duration = Duration::from_secs(30);

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider"))
}

fn message(number: usize) -> Value {
    json!({ "eventType": "a", "payload": { "number": number }, "eventId": format!("e-{number}") })
}

async fn send(app: &App, items: &[Value]) -> Value {
    let request = app.client.request(Method::POST, &app.path("/msg/batch")).header("idempotency-key", "import-7");
    request.json(&json!(items)).send().await.expect(202).json()
}

#[tokio::test]
async fn a_batch_is_delivered_and_found_again_after_a_crash() {
    let mut server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    app.endpoint(&receiver.at("hook")).await;
    let mut items: Vec<_> = (0..200).map(message).collect();
    items[100] = json!({ "eventType": "no name" });
    let first = send(&app, &items).await;
    assert_eq!((&first["accepted"], &first["rejected"]), (&json!(199), &json!(1)));
    let delivered = receiver.wait_for(199).await;
    let mut bodies: Vec<_> = delivered.iter().map(|request| request.body.clone()).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 199, "each payload is delivered as it was given");

    server.kill().await;
    server.start().await;
    assert_eq!(send(&app, &items).await, first);
    let listed = app.client.get(&app.path("/msg?limit=250")).await.expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 199);
}

/// A stream of lines whose results are read as they come.
struct Conversation {
    stream: BufReader<TcpStream>,
}

impl Conversation {
    async fn begin(server: &TestServer, path: &str) -> Self {
        Self::over(TcpStream::connect(server.address()).await.unwrap(), server, path).await
    }

    async fn over(mut stream: TcpStream, server: &TestServer, path: &str) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {}\r\n\
             content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n",
            server.token()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Sends a piece of the body.
    async fn say(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        self.stream.write_all(chunk.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        tokio::time::timeout(DEADLINE, self.stream.read_line(&mut line)).await.expect("an answer").unwrap();
        line
    }

    /// Reads the head of the answer.
    async fn head(&mut self) -> String {
        let mut head = self.line().await;
        while !head.ends_with("\r\n\r\n") {
            head.push_str(&self.line().await);
        }
        head
    }

    /// Reads the next results.
    async fn results(&mut self) -> Vec<Value> {
        let size = usize::from_str_radix(self.line().await.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        self.stream.read_exact(&mut chunk).await.unwrap();
        let text = String::from_utf8(chunk).unwrap();
        text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn lines_are_answered_while_more_are_sent() {
    let server = server().start().await;
    let app = server.app().await;
    let receiver = Receiver::ok().await;
    app.endpoint(&receiver.at("hook")).await;
    let mut talk = Conversation::begin(&server, &app.path("/msg/batch")).await;
    for number in 0..5 {
        let text = format!("{}\n", message(number));
        // Wherever the pieces end, a line is a line.
        let (begin, end) = text.split_at(10);
        talk.say(begin).await;
        talk.say(end).await;
        if number == 0 {
            let head = talk.head().await;
            assert!(head.starts_with("HTTP/1.1 202") && head.contains("application/x-ndjson"), "{head}");
        }
        let results = talk.results().await;
        assert_eq!((results.len(), &results[0]["index"], &results[0]["status"]), (1, &json!(number), &json!(202)));
        receiver.wait_for_id(results[0]["id"].as_str().unwrap()).await;
    }
    talk.say("").await;
    assert_eq!(talk.results().await, Vec::<Value>::new(), "the end");
}

#[tokio::test]
async fn what_was_sent_before_a_stream_broke_off_is_kept() {
    let server = server().start().await;
    let app = server.app().await;
    let mut talk = Conversation::begin(&server, &app.path("/msg/batch")).await;
    talk.say(&format!("{}\n{}\n{{\"eventType\":", message(0), message(1))).await;
    talk.head().await;
    let mut results = talk.results().await;
    while results.len() < 2 {
        results.extend(talk.results().await);
    }
    drop(talk);
    for (number, result) in results.iter().enumerate() {
        let read = app.client.get(&app.path(&format!("/msg/e-{number}"))).await.expect(200).json();
        assert_eq!(read["id"], result["id"]);
    }
    // Its connection is gone, and the server is as before.
    assert_eq!(send(&app, &[message(2)]).await["accepted"], 1);
}

#[tokio::test]
async fn a_client_that_does_not_read_its_results_holds_up_nobody_and_misses_none() {
    const PIECES: usize = 200;
    const LINES: usize = 200;
    let server = server().start().await;
    let app = server.app().await;
    let socket = TcpSocket::new_v4().unwrap();
    // Little room for results, so that they come to a stop long before the end.
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let stream = socket.connect(server.address()).await.unwrap();
    let talk = Conversation::over(stream, &server, &app.path("/msg/batch")).await;
    let (reading, mut writing) = talk.stream.into_inner().into_split();
    let sending = tokio::spawn(async move {
        for _ in 0..PIECES {
            let text = "{\"eventType\":\"a\",\"payload\":{}}\n".repeat(LINES);
            writing.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await.unwrap();
        }
        writing.write_all(b"0\r\n\r\n").await.unwrap();
        writing
    });
    assert_eq!(send(&app, &[message(0), message(1)]).await["accepted"], 2);
    let mut reading = BufReader::new(reading);
    let mut next = 0;
    let mut line = String::new();
    while next < PIECES * LINES {
        line.clear();
        let read = tokio::time::timeout(DEADLINE, reading.read_line(&mut line)).await.expect("more results").unwrap();
        assert!(read > 0, "the answer ended after {next} results");
        // Between results are the head and the sizes of pieces.
        if line.starts_with('{') {
            let result: Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&result["index"], &result["status"]), (&json!(next), &json!(202)));
            next += 1;
        }
    }
    sending.await.unwrap();
}

#[tokio::test]
async fn requests_of_lines_leave_connections_to_others_and_places_to_other_operators() {
    let server = server().set("server.max_connections", "64").start().await;
    let app = server.app().await;
    let (path, mut open) = (app.path("/msg/batch"), Vec::new());
    let refused = loop {
        let mut talk = Conversation::begin(&server, &path).await;
        talk.say(&format!("{}\n", message(open.len()))).await;
        let head = talk.head().await;
        if !head.starts_with("HTTP/1.1 202") {
            break head;
        }
        open.push(talk);
        assert!(open.len() < 16, "a quarter of the connections");
    };
    assert!(refused.starts_with("HTTP/1.1 429") && open.len() > 4, "{} were let in: {refused}", open.len());
    // All else goes on, and so do those who are in.
    assert_eq!(send(&app, &[message(100)]).await["accepted"], 1);
    assert_eq!(open[0].results().await[0]["status"], 202);
    open.pop();
    wait::until("the place that was given back", async || {
        let mut talk = Conversation::begin(&server, &path).await;
        talk.say(&format!("{}\n", message(200))).await;
        talk.head().await.starts_with("HTTP/1.1 202").then_some(())
    })
    .await;
}

#[tokio::test]
async fn lines_that_are_nothing_but_blanks_end_with_a_result_that_says_so() {
    let server = server().start().await;
    let app = server.app().await;
    let mut talk = Conversation::begin(&server, &app.path("/msg/batch")).await;
    talk.say(&format!("{}\n", message(0))).await;
    talk.head().await;
    assert_eq!(talk.results().await[0]["status"], 202);
    talk.say(&"\n".repeat(100_000)).await;
    let last = talk.results().await;
    assert_eq!((&last[0]["index"], &last[0]["status"]), (&json!(1), &json!(400)));
    assert_eq!(app.client.get(&app.path("/msg/e-0")).await.status, 200);
}
