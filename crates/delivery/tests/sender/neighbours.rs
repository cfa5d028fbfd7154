//! What a request costs on a connection that others use, too, is that request's: a gateway whose tenants are of different
//! environments, one of which answers in a way that no connection should have to bear.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use postrider_delivery::sender::{Sent, Slot};
use postrider_domain::delivery::Failure;
use postrider_store::{ApplicationKey, EnvironmentKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::floods::{END_HEADERS, END_STREAM, HEADERS, SETTINGS, frame};
use crate::secure::{Authority, url};
use crate::support::{Client, PATIENCE, Receiver, answered, failed, message};

const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const PADDED: u8 = 8;
/// What the gateway takes of a body before it has read any of it, as a setting.
const WINDOW: usize = 1_000;
const SMALL_WINDOWS: [u8; 6] = [0, 4, 0, 0, 0x03, 0xe8];
/// `:status: 200`, indexed.
const STATUS_200: u8 = 0x88;

const TENANT: i64 = 1;
const NEIGHBOUR: i64 = 2;

/// A gateway that answers whoever asks it to wait only after it has answered one that does not, and never who asks it to hang. Of whoever
/// is stuck it reads only the beginning.
struct Gateway {
    receiver: Receiver,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Payloads, and how often each came.
    payloads: Mutex<HashMap<String, usize>>,
    waiting: watch::Sender<usize>,
    /// Requests that were answered and did not wait.
    done: watch::Sender<usize>,
}

impl Seen {
    /// Whether this payload came for the first time.
    fn note(&self, payload: String) -> bool {
        let mut payloads = self.payloads.lock();
        let times = payloads.entry(payload).or_default();
        *times += 1;
        *times == 1
    }
}

/// What the gateway sends for a request on this stream that does not wait. Each piece goes out by itself.
type Answer = Arc<dyn Fn(u32) -> Vec<Vec<u8>> + Send + Sync>;

impl Gateway {
    async fn start(authority: &Authority, answer: Answer) -> Self {
        let acceptor = authority.acceptor("hooks.example", &["h2"]);
        let seen = Arc::new(Seen::default());
        let told = Arc::clone(&seen);
        let receiver = Receiver::start(move |stream, _| {
            let (acceptor, seen, answer) = (acceptor.clone(), Arc::clone(&told), Arc::clone(&answer));
            async move {
                let _ = serve(acceptor, stream, &seen, &answer).await;
            }
        })
        .await;
        Self { receiver, seen }
    }

    async fn until_waiting(&self, count: usize) {
        let mut waiting = self.seen.waiting.subscribe();
        tokio::time::timeout(PATIENCE, waiting.wait_for(|waiting| *waiting >= count)).await.unwrap().unwrap();
    }

    fn url(&self) -> String {
        url(&self.receiver, "hooks.example")
    }

    /// How often each request came that waits.
    fn times(&self, round: usize) -> Vec<usize> {
        let payloads = self.seen.payloads.lock();
        let of_round = payloads.iter().filter(|(payload, _)| payload.starts_with(&format!("wait {round} ")));
        of_round.map(|(_, times)| *times).collect()
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, seen: &Arc<Seen>, answer: &Answer) -> std::io::Result<()> {
    let (mut reader, writer) = tokio::io::split(acceptor.accept(stream).await?);
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    send(&writer, vec![frame(SETTINGS, 0, 0, &SMALL_WINDOWS)]).await?;
    reader.read_exact(&mut [0; 24]).await?;
    let mut bodies = HashMap::<u32, Vec<u8>>::new();
    loop {
        let mut head = [0; 9];
        reader.read_exact(&mut head).await?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        reader.read_exact(&mut payload).await?;
        let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let is_stuck = bodies.get(&number).is_some_and(|body| body.starts_with(b"stuck"));
        if head[3] == WINDOW_UPDATE && is_stuck {
            bodies.remove(&number);
            for piece in more_than_is_read(number) {
                send(&writer, vec![piece]).await?;
                // Whoever reads it goes on before the next.
                tokio::task::yield_now().await;
            }
            seen.done.send_modify(|done| *done += 1);
            continue;
        }
        if head[3] != DATA {
            continue;
        }
        let body = bodies.entry(number).or_default();
        body.extend(payload);
        if body.len() == WINDOW && body.starts_with(b"stuck") {
            send(&writer, as_much_as_is_taken(number)).await?;
            continue;
        }
        if head[4] & END_STREAM == 0 {
            continue;
        }
        let body = String::from_utf8(bodies.remove(&number).unwrap_or_default()).unwrap();
        if body == "hello" {
            send(&writer, vec![accepted(number)]).await?;
        } else if body.starts_with("hang") {
            seen.note(body);
            seen.waiting.send_modify(|waiting| *waiting += 1);
        } else if !body.starts_with("wait") {
            let sent = send(&writer, answer(number)).await;
            seen.done.send_modify(|done| *done += 1);
            sent?;
        } else if seen.note(body) {
            let mut done = seen.done.subscribe();
            let (writer, before) = (Arc::clone(&writer), *done.borrow());
            seen.waiting.send_modify(|waiting| *waiting += 1);
            tokio::spawn(async move {
                let _ = done.wait_for(|done| *done > before).await;
                let _ = send(&writer, vec![accepted(number)]).await;
            });
        } else {
            send(&writer, vec![accepted(number)]).await?;
        }
    }
}

type Writer = tokio::sync::Mutex<tokio::io::WriteHalf<TlsStream<TcpStream>>>;

async fn send(writer: &Writer, pieces: Vec<Vec<u8>>) -> std::io::Result<()> {
    for piece in pieces {
        let mut writer = writer.lock().await;
        writer.write_all(&piece).await?;
        writer.flush().await?;
    }
    Ok(())
}

/// The whole response.
fn accepted(number: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, number, &[STATUS_200])
}

/// A response in so many pieces, each in a record of its own.
fn in_pieces(number: u32, count: usize, piece: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces = vec![frame(HEADERS, END_HEADERS, number, &[STATUS_200])];
    pieces.extend((1..count).map(|_| frame(DATA, 0, number, piece)));
    pieces.push(frame(DATA, END_STREAM, number, piece));
    pieces
}

/// A head, and of the body what may be sent before some of it is read.
fn as_much_as_is_taken(number: u32) -> Vec<Vec<u8>> {
    let mut pieces = vec![frame(HEADERS, END_HEADERS, number, &[STATUS_200])];
    pieces.extend((0..240).map(|_| frame(DATA, 0, number, &[b'x'; 255])));
    pieces
}

/// The rest of a body of which that is read, and at last nothing is wanted of the request any more. So much is read, and the small
/// pieces are not.
fn more_than_is_read(number: u32) -> Vec<Vec<u8>> {
    let mut pieces: Vec<_> = (0..20).map(|_| frame(DATA, 0, number, &[b'x'; 255])).collect();
    pieces.extend((0..600).map(|_| frame(DATA, 0, number, b"x")));
    pieces.push(frame(RST_STREAM, 0, number, &[0; 4]));
    pieces
}

/// Sends for the first application of an environment.
async fn send_of(client: &Client, environment: i64, url: &str, payload: String) -> Sent {
    send_of_application(client, environment, environment, url, payload).await
}

async fn send_of_application(client: &Client, environment: i64, application: i64, url: &str, payload: String) -> Sent {
    let to = client.prepare(url).of(EnvironmentKey(environment), ApplicationKey(application));
    client.sender.send(&to, &message(payload), &mut Slot::default()).await
}

/// Has requests of a neighbour wait while a tenant is answered like this, several times; returns what the tenant's came to.
async fn beside_a_neighbour(answer: Answer) -> (Vec<Sent>, Gateway) {
    beside_a_neighbour_of(&[TENANT; 3], answer).await
}

/// The same, with these applications of the tenant's in turn.
async fn beside_a_neighbour_of(applications: &[i64], answer: Answer) -> (Vec<Sent>, Gateway) {
    let authority = Authority::new();
    let gateway = Gateway::start(&authority, answer).await;
    let client = Arc::new(authority.client(PATIENCE));
    // From here on the host is known to speak HTTP/2.
    assert_eq!(answered(&send_of(&client, NEIGHBOUR, &gateway.url(), "hello".to_owned()).await).0, 200);
    let mut came = Vec::new();
    for (round, application) in applications.iter().enumerate() {
        let neighbours: tokio::task::JoinSet<Sent> = (0..5)
            .map(|number| {
                let (client, url) = (Arc::clone(&client), gateway.url());
                async move { send_of(&client, NEIGHBOUR, &url, format!("wait {round} {number}")).await }
            })
            .collect();
        gateway.until_waiting(5 * (round + 1)).await;
        came.push(send_of_application(&client, TENANT, *application, &gateway.url(), "go".to_owned()).await);
        for sent in tokio::time::timeout(PATIENCE, neighbours.join_all()).await.expect("they are answered") {
            assert_eq!(answered(&sent).0, 200);
        }
    }
    (came, gateway)
}

#[tokio::test]
async fn a_response_in_thousands_of_pieces_is_cut_and_leaves_the_connection_to_others() {
    let (came, gateway) = beside_a_neighbour(Arc::new(|number| in_pieces(number, 3_000, b"x"))).await;
    for sent in came {
        assert_eq!(answered(&sent).0, 200);
    }
    for round in 0..3 {
        assert_eq!(gateway.times(round), [1; 5], "nothing is given twice");
    }
    assert_eq!(gateway.receiver.connections(), 1);
}

#[tokio::test]
async fn a_head_that_cannot_be_decoded_costs_others_no_attempt_and_its_own_application_its_place_on_their_connections()
{
    let upper = |number| vec![frame(HEADERS, END_HEADERS | END_STREAM, number, b"\x88\x00\x03X-A\x01b")];
    let (came, gateway) = beside_a_neighbour(Arc::new(upper)).await;
    for sent in came {
        let text = "the receiver broke the rules of HTTP/2, or the head of its response is larger than 64 KiB, so its status is not known";
        assert_eq!(failed(&sent), (Failure::Protocol, text));
    }
    assert_eq!(gateway.times(0), [2; 5], "they may have been taken, and are made again at once");
    for round in 1..3 {
        assert_eq!(gateway.times(round), [1; 5], "whoever did that has connections of its own from then on");
    }
}

#[tokio::test]
async fn an_environment_each_application_of_which_ends_a_connection_once_has_its_own_after_a_few() {
    let upper = |number| vec![frame(HEADERS, END_HEADERS | END_STREAM, number, b"\x88\x00\x03X-A\x01b")];
    let (came, gateway) = beside_a_neighbour_of(&[101, 102, 103, 104, 105, 106, 107], Arc::new(upper)).await;
    assert!(came.iter().all(|sent| failed(sent).0 == Failure::Protocol));
    let times: Vec<usize> = (0..7).map(|round| gateway.times(round)[0]).collect();
    assert_eq!(times, [2, 2, 2, 2, 1, 1, 1]);
}

#[tokio::test]
async fn many_responses_in_pieces_at_a_time_and_such_of_which_some_are_empty_leave_the_connection_to_others() {
    let mixed = |number| {
        let mut pieces = in_pieces(number, 50, b"");
        pieces.splice(1..1, (0..100).map(|_| frame(DATA, 0, number, b"xy")));
        pieces
    };
    let answers: [Answer; 2] = [Arc::new(mixed), Arc::new(|number| in_pieces(number, 60_000, b"x"))];
    for answer in answers {
        let (came, gateway) = beside_a_neighbour(answer).await;
        for sent in came {
            assert_eq!(answered(&sent).0, 200);
        }
        assert!((0..3).flat_map(|round| gateway.times(round)).all(|times| times <= 2));
    }
}

#[tokio::test]
async fn frames_of_no_request_that_end_a_connection_are_no_failed_attempt_of_others() {
    let pings = |_| vec![frame(PING, 0, 0, &[0; 8]); 20_000];
    let (came, gateway) = beside_a_neighbour(Arc::new(pings)).await;
    for sent in came {
        // It was made again, alone.
        let text = "the receiver sent too much over HTTP/2 that is no response";
        assert_eq!(failed(&sent), (Failure::Protocol, text));
    }
    assert!((0..3).flat_map(|round| gateway.times(round)).all(|times| times <= 2));
}

#[tokio::test]
async fn a_request_that_is_given_up_before_it_is_sent_leaves_those_behind_it_their_numbers() {
    let authority = Authority::new();
    let gateway = Gateway::start(&authority, Arc::new(|number| in_pieces(number, 3_000, b"x"))).await;
    let client = Arc::new(authority.client(PATIENCE));
    let url = gateway.url();
    let hello = || send_of(&client, NEIGHBOUR, &url, "hello".to_owned()).boxed();
    assert_eq!(answered(&hello().await).0, 200);
    for _ in 0..10 {
        // As far as it gets without waiting: it is handed over.
        assert!(hello().now_or_never().is_none());
        assert_eq!(answered(&send_of(&client, TENANT, &url, "go".to_owned()).await).0, 200);
        assert_eq!(answered(&hello().await).0, 200);
    }
}

#[tokio::test]
async fn small_pieces_of_a_body_that_is_not_read_any_more_cost_others_nothing() {
    let authority = Authority::new();
    let gateway = Gateway::start(&authority, Arc::new(|number| vec![accepted(number)])).await;
    let client = Arc::new(authority.client(PATIENCE));
    assert_eq!(answered(&send_of(&client, NEIGHBOUR, &gateway.url(), "hello".to_owned()).await).0, 200);
    let send = |environment, payload: String| {
        let (client, url) = (Arc::clone(&client), gateway.url());
        tokio::spawn(async move { answered(&send_of(&client, environment, &url, payload).await).0 })
    };
    let hanging = send(NEIGHBOUR, "hang".to_owned());
    gateway.until_waiting(1).await;
    for _ in 0..10 {
        let stuck: Vec<_> = (0..4).map(|_| send(TENANT, format!("stuck{}", "x".repeat(WINDOW)))).collect();
        for stuck in stuck {
            assert_eq!(stuck.await.unwrap(), 200);
        }
    }
    assert_eq!(send(NEIGHBOUR, "hello".to_owned()).await.unwrap(), 200);
    assert_eq!(gateway.receiver.connections(), 1);
    assert!(!hanging.is_finished());
    hanging.abort();
}

#[tokio::test]
async fn pieces_with_nothing_but_padding_end_their_own_request_and_leave_the_connection_to_others() {
    let padding = [&[15; 1][..], &[0; 15]].concat();
    let padded = move |number| {
        let mut pieces = in_pieces(number, 2, b"x");
        pieces.splice(1..1, (0..60).map(|_| frame(DATA, PADDED, number, &padding)));
        pieces
    };
    let (came, gateway) = beside_a_neighbour(Arc::new(padded)).await;
    for sent in came {
        assert_eq!(answered(&sent).0, 200);
    }
    for round in 0..3 {
        assert_eq!(gateway.times(round), [1; 5], "nothing is given twice");
    }
    assert_eq!(gateway.receiver.connections(), 1);
}

/// Lets the time of a neighbour's request end whose connection a tenant's response ended.
async fn out_of_time_beside(answer: Answer) -> (Sent, Gateway, Client) {
    let authority = Authority::new();
    let gateway = Gateway::start(&authority, answer).await;
    let client = authority.client(Duration::from_secs(2));
    let url = gateway.url();
    assert_eq!(answered(&send_of(&client, NEIGHBOUR, &url, "hello".to_owned()).await).0, 200);
    let tenant = async {
        gateway.until_waiting(1).await;
        send_of(&client, TENANT, &url, "go".to_owned()).await
    };
    let (sent, _) = tokio::join!(send_of(&client, NEIGHBOUR, &url, "hang".to_owned()), tenant);
    assert_eq!(*gateway.seen.waiting.borrow(), 2, "it was made again");
    (sent, gateway, client)
}

#[tokio::test]
async fn an_attempt_whose_time_ends_while_it_makes_again_what_another_is_known_to_have_ended_is_none() {
    let upper = |number| vec![frame(HEADERS, END_HEADERS | END_STREAM, number, b"\x88\x00\x03X-A\x01b")];
    let (sent, gateway, client) = out_of_time_beside(Arc::new(upper)).await;
    assert_eq!(failed(&sent).0, Failure::Local);
    let own = send_of(&client, NEIGHBOUR, &gateway.url(), "hang".to_owned()).await;
    assert_eq!(failed(&own).0, Failure::Timeout, "nobody ended anything");
}

#[tokio::test]
async fn an_attempt_whose_time_ends_while_it_makes_again_what_nobody_is_known_to_have_ended_counts() {
    let pings = |_| vec![frame(PING, 0, 0, &[0; 8]); 20_000];
    let (sent, ..) = out_of_time_beside(Arc::new(pings)).await;
    assert_eq!(failed(&sent).0, Failure::Timeout);
}
