//! Whatever becomes of standard error and output, the server goes on accepting, delivering and recording, and ends in order.

use std::path::PathBuf;

use postrider_testkit::server::Stderr;
use postrider_testkit::{Authority, Received, Receiver, Reply, TestServer, TestServerBuilder};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// At the level `trace`, this many messages log far more than a pipe holds.
const MESSAGES: usize = 30;

fn server() -> TestServerBuilder {
    TestServer::builder(env!("CARGO_BIN_EXE_postrider")).set("log.level", "trace")
}

/// Every message goes to an endpoint that works and one that fails; every attempt is recorded.
async fn delivers_and_ends(mut server: TestServer) {
    let app = server.app().await;
    let answer =
        |request: &Received| if request.target.starts_with("/fails") { Reply::status(500) } else { Reply::ok() };
    let receiver = Receiver::builder(answer).start().await;
    app.endpoint(&receiver.at("works")).await;
    app.endpoint(&receiver.at("fails")).await;
    for number in 0..MESSAGES {
        let message = app.send("a", &json!({ "number": number })).await;
        // One that works at once, and the four of the one that never does.
        app.logged_attempts(&message, 5).await;
    }
    server.client().get("/api/v1/health").await.expect(204);
    assert_eq!(server.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_log_whose_reader_has_gone() {
    delivers_and_ends(server().stderr(Stderr::ClosedPipe).start().await).await;
}

#[tokio::test]
async fn a_log_on_a_device_without_room() {
    delivers_and_ends(server().stderr(Stderr::File(PathBuf::from("/dev/full"))).start().await).await;
}

#[tokio::test]
async fn a_log_that_nobody_reads() {
    delivers_and_ends(server().stderr(Stderr::UnreadPipe).start().await).await;
}

#[tokio::test]
async fn a_log_that_could_not_be_written_for_a_while_says_how_many_lines_are_missing() {
    for format in ["text", "json"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let server = server().set("log.format", format).survives_file_size_limit().stderr(Stderr::File(path.clone()));
        let mut server = server.start().await;
        // Only the log grows beyond this: everything else that is written goes into files that are smaller.
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().set_len(1 << 30).unwrap();
        server.limit_file_size(Some(1 << 30));
        let app = server.app().await;
        let receiver = Receiver::always(Reply::ok()).await;
        app.endpoint(&receiver.url()).await;
        let message = app.send("a", &json!({})).await;
        app.logged_attempts(&message, 1).await;
        server.limit_file_size(None);
        assert_eq!(server.terminate().await.code(), Some(0));
        let text = end_of(&path);
        let notice = text.lines().find(|line| line.contains("are missing here")).unwrap_or_else(|| panic!("{text}"));
        assert!(notice.contains("lost"), "{notice}");
        // The last line of an orderly end is there, too.
        assert!(text.lines().last().unwrap().contains("stopped"), "{text}");
        if format == "json" {
            for line in text.lines() {
                serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            }
        }
    }
}

#[tokio::test]
async fn a_line_in_json_has_each_key_once_and_says_why_there_was_no_response() {
    // Whoever reads a key that is there twice gets either of its values.
    #[derive(serde::Deserialize)]
    struct Line {
        message: String,
        message_id: Option<String>,
        reason: Option<String>,
    }

    let schedule = [("delivery.retry_schedule", "[]"), ("log.format", "json"), ("log.level", "debug")];
    let server = schedule.into_iter().fold(server(), |server, (name, value)| server.set(name, value)).start().await;
    let app = server.app().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    app.endpoint(&format!("http://{nobody}/")).await;
    let message = app.send("a", &json!({})).await;
    let line = server.logged("attempts exhausted").await;
    let line: Line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!((&*line.message, line.message_id), ("attempts exhausted", Some(message)));
    let reason = line.reason.expect("there is one");
    assert!(reason.contains("refused"), "{reason}");
}

/// What was written beyond the part of the file that was skipped.
fn end_of(path: &std::path::Path) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};

    let mut file = std::fs::File::open(path).expect("the file is there");
    file.seek(SeekFrom::Start(1 << 30)).expect("files can be sought in");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("the log is text");
    text
}

#[tokio::test]
async fn a_start_although_nobody_reads_standard_output_and_error() {
    use std::io::Write as _;

    // A port that is free now.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (_reader, mut writer) = std::io::pipe().unwrap();
    let full = writer.try_clone().unwrap();
    // Fills it: the thread stays blocked until the test ends.
    std::thread::spawn(move || while writer.write_all(&[b'x'; 4_096]).is_ok() {});
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_postrider"))
        .args(["serve", "--dev", "--listen", &address.to_string()])
        .env_clear()
        .current_dir(folder.path())
        .stdout(full.try_clone().unwrap())
        .stderr(full)
        .spawn()
        .unwrap();
    postrider_testkit::wait::until("the server to listen", async || tokio::net::TcpStream::connect(address).await.ok())
        .await;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
}

#[tokio::test]
async fn a_receiver_writes_no_lines_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (log, authority) = (folder.path().join("log"), Authority::new());
    let certificates = authority.write_pem(folder.path()).display().to_string();
    let server = TestServer::builder(env!("CARGO_BIN_EXE_postrider")).variable("SSL_CERT_FILE", certificates);
    let mut server = server.stderr(Stderr::File(log.clone())).start().await;
    let acceptor = authority.issue(&["127.0.0.1"]).acceptor(&[b"h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    // Settings; acknowledgements of what nobody asked; and 200, at the end of the first stream.
    let hello = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let unasked = [&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &[0; 8]].concat().repeat(4);
    let answer = [&unasked[..], &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88]].concat();
    let receiver = tokio::spawn(async move {
        let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        // The request's head comes after the preface and the settings.
        let mut came = Vec::new();
        while !came.windows(9).any(|head| head[3] == 1 && head[5..] == [0, 0, 0, 1]) {
            stream.read_buf(&mut came).await.unwrap();
        }
        stream.write_all(&answer).await.unwrap();
        stream.flush().await.unwrap();
        while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {}
    });
    let app = server.app().await;
    app.endpoint(&url).await;
    let message = app.send("a", &json!({})).await;
    assert_eq!(app.logged_attempts(&message, 1).await[0]["responseStatusCode"], 200);
    server.terminate().await;
    receiver.abort();
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.contains("PING"), "{log}");
}
