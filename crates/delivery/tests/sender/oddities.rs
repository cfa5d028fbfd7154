//! A table of responses, from usual to hostile, and what each comes to: the verdict, what is kept of the body, and whether
//! the connection is used again. `docs/sending.md` says the same in words.

use postrider_delivery::sender::Slot;
use postrider_domain::delivery::Outcome;
use tokio::io::AsyncWriteExt as _;

use crate::support::*;

/// What is expected of a response that comes twice, over as few connections as the sender thinks right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The status and the body; the connection is used again.
    Kept(u16, &'static str),
    /// The status and the body; the connection isn't used again, although the receiver leaves it open.
    Dropped(u16, &'static str),
    /// The status and the body, which goes on until the receiver closes the connection.
    Ended(u16, &'static str),
    /// No verdict of the receiver's.
    Failed(&'static str),
}
use Verdict::{Dropped, Ended, Failed, Kept};

const TWO_LENGTHS: &str =
    "the receiver responded 200, but with framing that cannot be trusted: there are two different Content-Lengths";
const BOTH: &str = "the receiver responded 200, but with framing that cannot be trusted: Content-Length and \
     Transfer-Encoding contradict each other";
const NO_HTTP: &str = "the response is not valid HTTP";

/// After `HTTP/1.1 200 OK` and the end of that line.
const HEADS: [(&str, Verdict); 58] = [
    ("Content-Length: 2\r\n\r\nok", Kept(200, "ok")),
    ("content-length:2\r\n\r\nok", Kept(200, "ok")),
    ("CONTENT-LENGTH: \t 2 \t\r\n\r\nok", Kept(200, "ok")),
    ("Content-Length: 2\n\nok", Kept(200, "ok")),
    ("Content-Length: 002\r\n\r\nok", Kept(200, "ok")),
    ("Content-Length: 2, 2\r\n\r\nok", Kept(200, "ok")),
    ("Content-Length: 2\r\nContent-Length: 2\r\n\r\nok", Kept(200, "ok")),
    ("Content-Length: 0\r\n\r\n", Kept(200, "")),
    ("Content-Length: 2\r\nContent-Encoding: gzip\r\n\r\nok", Kept(200, "ok")),
    ("Content-Length: 2\r\nConnection: keep-alive, X\r\n\r\nok", Kept(200, "ok")),
    ("Content-Length: 2\r\nX-A:\r\nX-A: \u{fc}\u{7f}\u{1}\r\n\r\nok", Kept(200, "ok")),
    ("Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Kept(200, "ok")),
    ("Transfer-Encoding: CHUNKED\r\n\r\n1;x=y\r\no\r\n01\r\nk\r\n0\r\nX-Sum: 1\r\n\r\n", Kept(200, "ok")),
    ("Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Kept(200, "ok")),
    ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Kept(200, "ok")),
    ("Transfer-Encoding: chunked\r\n\r\n00000000000002\r\nok\r\n000\r\n\r\n", Kept(200, "ok")),
    // What another reader might see otherwise.
    ("Connection: close\r\nContent-Length: 2\r\n\r\nok", Dropped(200, "ok")),
    ("Connection: x, CLOSE\r\nContent-Length: 2\r\n\r\nok", Dropped(200, "ok")),
    ("Connection:\r\n close\r\nContent-Length: 2\r\n\r\nok", Dropped(200, "ok")),
    ("Content-Length : 2\r\n\r\nok", Dropped(200, "ok")),
    ("Content-Length:\r\n 2\r\n\r\nok", Dropped(200, "ok")),
    ("Content-Length: 2\r\n \r\n\r\nok", Dropped(200, "ok")),
    ("Content-Length: 2,\r\n\t2\r\n\r\nok", Dropped(200, "ok")),
    ("X-A: b\r\n folded\r\nContent-Length: 2\r\n\r\nok", Dropped(200, "ok")),
    ("Content-Length: 2\r\nX-A: b\r\n Content-Length: 3\r\n\r\nok", Dropped(200, "ok")),
    (" begins folded\r\nContent-Length: 2\r\n\r\nok", Dropped(200, "ok")),
    ("no colon\r\nContent-Length: 2\r\n\r\nok", Dropped(200, "ok")),
    (": no name\r\nContent-Length: 2\r\n\r\nok", Dropped(200, "ok")),
    ("X A: b\r\nContent-Length: 2\r\n\r\nok", Dropped(200, "ok")),
    ("X: a\rContent-Length: 7\r\nContent-Length: 2\r\n\r\nok", Dropped(200, "ok")),
    ("X: a\0b\r\nContent-Length: 2\r\n\r\nok", Dropped(200, "ok")),
    ("Content-Length: 2\r\n\r\nok and more", Dropped(200, "ok")),
    ("Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\nok", Dropped(200, "ok")),
    ("Content-Length: 2\r\nTransfer-Encoding: Identity\r\n\r\nok", Dropped(200, "ok")),
    ("Content-Length: 2\r\nTransfer-Encoding:\r\n\r\nok", Dropped(200, "ok")),
    ("Transfer-Encoding: chunked, identity\r\n\r\n2\r\nok\r\n0\r\n\r\n", Dropped(200, "ok")),
    ("Transfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Dropped(200, "ok")),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Dropped(200, "ok")),
    ("Transfer-Encoding:\r\n chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Dropped(200, "ok")),
    ("Transfer-Encoding: gzip,\r\n chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Dropped(200, "ok")),
    ("Transfer-Encoding: chunked\r\n\r\n2\r\nokk\r\n0\r\n\r\n", Dropped(200, "ok")),
    ("Transfer-Encoding: chunked\r\n\r\nno size\r\n", Dropped(200, "")),
    ("Transfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n", Dropped(200, "")),
    ("Transfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n", Dropped(200, "")),
    ("Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\nok", Dropped(200, "")),
    // A body without an end of its own.
    ("\r\nok", Ended(200, "ok")),
    ("Transfer-Encoding: identity\r\n\r\nok", Ended(200, "ok")),
    ("Transfer-Encoding: gzip\r\n\r\nok", Ended(200, "ok")),
    ("Transfer-Encoding: chunked, gzip\r\n\r\nok", Ended(200, "ok")),
    ("Transfer-Encoding: xchunked\r\n\r\nok", Ended(200, "ok")),
    ("Transfer-Encoding:\r\n\r\nok", Ended(200, "ok")),
    ("Content-Length: two\r\n\r\nok", Ended(200, "ok")),
    ("Content-Length: -2\r\n\r\nok", Ended(200, "ok")),
    ("Content-Length: 1\r\n 2\r\n\r\nok", Ended(200, "ok")),
    ("Content-Length: 9\r\n\r\nok", Ended(200, "ok")),
    ("Transfer-Encoding: chunked\r\n\r\n9\r\nok", Ended(200, "ok")),
    ("X-A: the head is cut", Ended(200, "")),
    ("", Ended(200, "")),
];

/// Whole responses.
const RESPONSES: [(&str, Verdict); 34] = [
    ("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", Kept(200, "ok")),
    ("HTTP/1.1  200  \r\nContent-Length: 2\r\n\r\nok", Kept(200, "ok")),
    ("HTTP/1.1 200 \u{fc}\u{1}\r\nContent-Length: 2\r\n\r\nok", Kept(200, "ok")),
    ("\r\n\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Kept(200, "ok")),
    ("HTTP/1.9 200 OK\r\nContent-Length: 2\r\n\r\nok", Kept(200, "ok")),
    ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", Kept(200, "ok")),
    ("HTTP/1.1 204 No\r\n\r\n", Kept(204, "")),
    ("HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", Kept(204, "")),
    ("HTTP/1.1 410 Gone\r\nContent-Length: 2\r\n\r\nno", Kept(410, "no")),
    ("HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n", Kept(599, "")),
    ("HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", Kept(999, "")),
    ("HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Kept(200, "ok")),
    ("HTTP/1.1 103 Hint\r\nContent-Length: 9\r\nX\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Kept(200, "")),
    ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Dropped(200, "ok")),
    (
        "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        Dropped(200, "ok"),
    ),
    ("HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n", Dropped(204, "")),
    ("HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", Dropped(204, "")),
    ("HTTP/1.1 304 Same\r\nContent-Length: 2\r\n\r\n", Dropped(304, "")),
    ("HTTP/1.1 101 Switch\r\nUpgrade: x\r\n\r\n", Dropped(101, "")),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 500 No\r\n\r\n", Dropped(200, "")),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", Failed(TWO_LENGTHS)),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok", Failed(TWO_LENGTHS)),
    ("HTTP/1.1 200 OK\r\nContent-Length:\r\n 2\r\nContent-Length: 3\r\n\r\nok", Failed(TWO_LENGTHS)),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: x\r\n\r\nok", Failed(TWO_LENGTHS)),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok", Failed(BOTH)),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nok", Failed(BOTH)),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\nContent-Length : 2\r\n\r\nok", Failed(BOTH)),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", Failed(BOTH)),
    ("HTTP/1.1 2000 OK\r\n\r\n", Failed(NO_HTTP)),
    ("HTTP/1.1 099 Low\r\n\r\n", Failed(NO_HTTP)),
    ("HTTP/2.0 200 OK\r\n\r\n", Failed(NO_HTTP)),
    ("ICY 200 OK\r\n\r\n", Failed(NO_HTTP)),
    ("<html>200 OK</html>", Failed(NO_HTTP)),
    ("\u{15}\u{3}\u{1}\0\u{2}\u{2}F", Failed("the response is TLS, not HTTP: is it https instead of http?")),
];

/// What a receiver's response comes to when it is given to two requests in a row.
async fn verdict(response: &'static [u8], expected: Verdict) -> Result<(), String> {
    let closes = matches!(expected, Ended(..));
    let receiver = Receiver::start(move |mut stream, _| async move {
        while read_request(&mut stream).await.is_some() {
            if stream.write_all(response).await.is_err() || closes {
                return;
            }
        }
    })
    .await;
    let (client, mut slot) = (Client::local(), Slot::default());
    let mut sent = client.send_with(&receiver.url(), &mut slot).await;
    if matches!(expected, Kept(..) | Dropped(..) | Failed(_)) {
        sent = client.send_with(&receiver.url(), &mut slot).await;
    }
    let connections = if matches!(expected, Dropped(..) | Failed(_)) { 2 } else { 1 };
    let as_expected = match (&sent.outcome, expected) {
        (Outcome::Answered { status, body, .. }, Kept(code, text) | Dropped(code, text) | Ended(code, text)) => {
            (*status, &body[..]) == (code, text.as_bytes())
        }
        (Outcome::Failed { detail, .. }, Failed(text)) => detail == text,
        _ => false,
    };
    if as_expected && receiver.connections() == connections {
        return Ok(());
    }
    let (outcome, connections) = (sent.outcome, receiver.connections());
    Err(format!("{}: {outcome:?} over {connections} connections, not {expected:?}", response.escape_ascii()))
}

#[tokio::test]
async fn every_odd_response_comes_to_what_the_table_says() {
    let heads = HEADS.map(|(head, expected)| (format!("HTTP/1.1 200 OK\r\n{head}"), expected));
    let whole = RESPONSES.map(|(response, expected)| (response.to_owned(), expected));
    let mut wrong = Vec::new();
    for (response, expected) in heads.into_iter().chain(whole) {
        wrong.extend(verdict(response.into_bytes().leak(), expected).await.err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_reason_without_an_end_is_not_read_to_it_and_the_status_counts() {
    for (first, status) in [("HTTP/1.1 200 ", 200), ("HTTP/1.1 103 x\r\n\r\nHTTP/1.0 503\t", 503)] {
        let response = [first.as_bytes(), &[b'x'; 100_000]].concat().leak();
        verdict(response, Dropped(status, "")).await.unwrap();
    }
    let interim = [b"HTTP/1.1 103 ", &[b'x'; 100_000][..]].concat().leak();
    let why = "the head of the response is too large";
    verdict(interim, Failed(why)).await.unwrap();
}
