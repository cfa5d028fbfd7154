//! Name resolution by the system's files, against name servers that behave and misbehave.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use postrider_delivery::resolve::{Files, Resolve as _, ResolveError, SystemResolver};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

use crate::support::*;

const A: u16 = 1;
const AAAA: u16 = 28;
const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
/// No machine has a way there: which of its networks it is in is not said.
const UNREACHABLE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 7);

/// What a name server does with a question.
enum Reply {
    Address(IpAddr),
    /// So many addresses; none of them fits into a datagram.
    Addresses(u16),
    /// One that must not be remembered.
    Passing(IpAddr),
    NoAddress,
    NoSuchName,
    Refused,
    /// Who else to ask, of a server that does not find out itself.
    Referral,
    /// "I cannot read that", without the question.
    Unread,
    Nothing,
}

/// A name server on a port of its own.
struct NameServer {
    port: u16,
    /// Names without the last dot, in lower case, and record types.
    questions: Arc<Mutex<Vec<(String, u16)>>>,
    task: tokio::task::JoinHandle<()>,
}

/// A port that is free for both.
async fn listen() -> (TcpListener, UdpSocket) {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
            return (listener, socket);
        }
    }
}

impl NameServer {
    async fn start(reply: impl Fn(&str, u16) -> Reply + Send + Sync + 'static) -> Self {
        let (listener, socket) = listen().await;
        let port = socket.local_addr().unwrap().port();
        let questions = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&questions);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                tokio::select! {
                    received = socket.recv_from(&mut buffer) => {
                        let (length, peer) = received.unwrap();
                        let (name, kind, end) = question(&buffer[..length]);
                        log.lock().push((name.clone(), kind));
                        if let Some(answer) = answer(&buffer[..end], &reply(&name, kind), false) {
                            socket.send_to(&answer, peer).await.unwrap();
                        }
                    }
                    accepted = listener.accept() => {
                        let mut stream = accepted.unwrap().0;
                        let length = usize::from(stream.read_u16().await.unwrap());
                        stream.read_exact(&mut buffer[..length]).await.unwrap();
                        let (name, kind, end) = question(&buffer[..length]);
                        if let Some(answer) = answer(&buffer[..end], &reply(&name, kind), true) {
                            let frame = [&(answer.len() as u16).to_be_bytes(), answer.as_slice()].concat();
                            // Whoever asked may have read enough before the end.
                            let _ = stream.write_all(&frame).await;
                        }
                    }
                }
            }
        });
        Self { port, questions, task }
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.questions.lock().iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// A second name server, on the same port of another address, that knows every name.
async fn second_server(port: u16) {
    let socket = UdpSocket::bind(("127.0.0.2", port)).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            let (name, kind, end) = question(&buffer[..length]);
            let answer = answer(&buffer[..end], &both(&name, kind), false).unwrap();
            socket.send_to(&answer, peer).await.unwrap();
        }
    });
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The name and type that are asked for, and where the question ends.
fn question(message: &[u8]) -> (String, u16, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while message[at] != 0 {
        let end = at + 1 + usize::from(message[at]);
        labels.push(String::from_utf8_lossy(&message[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), u16::from_be_bytes([message[at + 1], message[at + 2]]), at + 5)
}

/// The answer to a message that ends with its question.
fn answer(question: &[u8], reply: &Reply, over_tcp: bool) -> Option<Vec<u8>> {
    let (code, data) = match reply {
        Reply::Addresses(count) => return Some(long_answer(question, if over_tcp { *count } else { 0 })),
        Reply::Unread => return Some([&question[..2], &[0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]].concat()),
        Reply::Address(IpAddr::V4(address)) | Reply::Passing(IpAddr::V4(address)) => (0, address.octets().to_vec()),
        Reply::Address(IpAddr::V6(address)) | Reply::Passing(IpAddr::V6(address)) => (0, address.octets().to_vec()),
        Reply::NoAddress | Reply::Referral => (0, Vec::new()),
        Reply::NoSuchName => (3, Vec::new()),
        Reply::Refused => (5, Vec::new()),
        Reply::Nothing => return None,
    };
    let count = u8::from(!data.is_empty());
    let recursion = if matches!(reply, Reply::Referral) { 0 } else { 0x80 };
    let ttl = if matches!(reply, Reply::Passing(_)) { 0 } else { 60 };
    let mut message = [&question[..2], &[0x81, recursion | code, 0, 1, 0, count, 0, 0, 0, 0], &question[12..]].concat();
    if !data.is_empty() {
        let kind = &question[question.len() - 4..question.len() - 2];
        message.extend([&[0xc0, 12], kind, &[0, 1, 0, 0, 0, ttl, 0, data.len() as u8], &data].concat());
    }
    Some(message)
}

/// An answer with so many addresses; with none it is one that was cut.
fn long_answer(question: &[u8], count: u16) -> Vec<u8> {
    let cut = if count == 0 { 2 } else { 0 };
    let [high, low] = count.to_be_bytes();
    let mut message = [&question[..2], &[0x81 | cut, 0x80, 0, 1, high, low, 0, 0, 0, 0], &question[12..]].concat();
    let kind = &question[question.len() - 4..question.len() - 2];
    for number in 0..count {
        let address = match kind {
            [0, 1] => Ipv4Addr::from(0x0a00_0000 + u32::from(number)).octets().to_vec(),
            _ => Ipv6Addr::from(u128::from(number)).octets().to_vec(),
        };
        message.extend([&[0xc0, 12], kind, &[0, 1, 0, 0, 0, 60, 0, address.len() as u8], &address].concat());
    }
    message
}

/// The system's files of a test.
struct System {
    folder: tempfile::TempDir,
    clock: Arc<ShiftedClock>,
    resolver: SystemResolver,
}

impl System {
    fn start(resolv_conf: Option<&str>, hosts: &str, dns_port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files =
            Files { resolv_conf: folder.path().join("resolv.conf"), hosts: folder.path().join("hosts"), dns_port };
        if let Some(text) = resolv_conf {
            std::fs::write(&files.resolv_conf, text).unwrap();
        }
        std::fs::write(&files.hosts, hosts).unwrap();
        let clock = Arc::new(ShiftedClock::default());
        let resolver = SystemResolver::with_files(&options(&[], PATIENCE), Arc::clone(&clock) as _, files).unwrap();
        Self { folder, clock, resolver }
    }

    /// Writes a file, and lets the time pass after which it is looked at again.
    fn rewrite(&self, name: &str, text: &str) {
        let (path, new) = (self.folder.path().join(name), self.folder.path().join("new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, Path::new(&path)).unwrap();
        self.clock.advance(Duration::from_secs(10));
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        tokio::time::timeout(PATIENCE, self.resolver.resolve(host)).await.unwrap()
    }
}

const CONF: &str = "nameserver 127.0.0.1\n";
const CONF_OF_TWO: &str = "nameserver 127.0.0.1\nnameserver 127.0.0.2\noptions timeout:1\n";

fn both(_: &str, kind: u16) -> Reply {
    match kind {
        A => Reply::Address(V4.into()),
        AAAA => Reply::Address(V6.into()),
        _ => Reply::NoAddress,
    }
}

#[tokio::test]
async fn a_name_has_the_addresses_of_both_families() {
    let server = NameServer::start(both).await;
    let system = System::start(Some(CONF), "", server.port);
    assert_eq!(system.resolve("hooks.example").await, Ok(vec![V6.into(), V4.into()]));
}

#[tokio::test]
async fn a_name_server_that_drops_the_queries_of_one_family_holds_nothing_up() {
    for (dropped, found) in [(AAAA, IpAddr::from(Ipv4Addr::LOCALHOST)), (A, IpAddr::from(Ipv6Addr::LOCALHOST))] {
        let answers = move |_: &str, kind| if kind == dropped { Reply::Nothing } else { Reply::Address(found) };
        let server = NameServer::start(answers).await;
        let system = System::start(Some(CONF), "", server.port);
        for host in ["one.example", "two.example", "three.example"] {
            // A query that is not answered is given up after several seconds.
            let answer = tokio::time::timeout(Duration::from_secs(2), system.resolver.resolve(host)).await;
            assert_eq!(answer.unwrap(), Ok(vec![found]));
        }
    }
}

#[tokio::test]
async fn a_family_that_is_denied_or_refused_does_not_hide_the_other() {
    for reply in [|| Reply::NoAddress, || Reply::NoSuchName, || Reply::Refused] {
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        let answers = move |_: &str, kind| if kind == AAAA { reply() } else { Reply::Address(address) };
        let server = NameServer::start(answers).await;
        let system = System::start(Some(CONF), "", server.port);
        assert_eq!(system.resolve("hooks.example").await, Ok(vec![address]));
    }
}

#[tokio::test]
async fn names_are_absolute_whatever_the_search_list_and_ndots_say() {
    let wildcard = |name: &str, kind| if name.ends_with("wild.example") { both(name, kind) } else { Reply::NoSuchName };
    let server = NameServer::start(wildcard).await;
    let conf = "search wild.example other.wild.example\ndomain wild.example\noptions ndots:5\nnameserver 127.0.0.1\n";
    let system = System::start(Some(conf), "", server.port);
    for host in ["hooks.customer.test", "hooks.customer.test.", "intranet"] {
        assert_eq!(system.resolve(host).await, Err(ResolveError::NoSuchName), "{host}");
    }
    assert_eq!(server.names(), ["hooks.customer.test", "intranet"]);
}

#[tokio::test]
async fn a_resolv_conf_that_is_missing_or_empty_at_start_is_read_when_it_is_there() {
    let server = NameServer::start(both).await;
    for at_start in [None, Some(""), Some("# nothing yet\n"), Some("nameserver\n"), Some("nameserver not-an-address\n")]
    {
        let system = System::start(at_start, "", server.port);
        // What libc would ask then, too: this machine, where the server of this test is. So it is another one that counts.
        system.rewrite("resolv.conf", "nameserver 127.0.0.2\n");
        let other = UdpSocket::bind(("127.0.0.2", server.port)).await.unwrap();
        let resolving = system.resolver.resolve("hooks.example");
        tokio::pin!(resolving);
        let mut buffer = [0; 1500];
        tokio::select! {
            answer = &mut resolving => panic!("{at_start:?}: {answer:?}"),
            asked = other.recv_from(&mut buffer) => assert!(asked.is_ok()),
            () = tokio::time::sleep(PATIENCE) => panic!("{at_start:?}: the new server was not asked"),
        }
    }
}

#[tokio::test]
async fn without_a_name_server_it_is_this_machine_that_cannot_look_up_until_there_is_one() {
    // Nobody listens there.
    let unused = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let system = System::start(None, "192.0.2.1 known.example\n", unused);
    assert_eq!(system.resolve("hooks.example").await, Err(ResolveError::NoNameServer));
    assert_eq!(system.resolve("known.example").await, Ok(vec!["192.0.2.1".parse().unwrap()]));
    // After a while it is taken for the configuration of a machine without DNS.
    system.clock.advance(Duration::from_secs(3_600));
    assert_eq!(system.resolve("hooks.example").await, Err(ResolveError::Unanswered));
}

#[tokio::test]
async fn a_change_of_resolv_conf_or_the_hosts_file_is_followed() {
    let server = NameServer::start(|_, _| Reply::NoSuchName).await;
    let system = System::start(Some(CONF), "192.0.2.7 Printer printer.lan # the third floor\n", server.port);
    for host in ["printer", "printer.lan", "PRINTER.lan.", "printer.lan."] {
        assert_eq!(system.resolve(host).await, Ok(vec![V4.into()]), "{host}");
    }
    system.rewrite("hosts", "192.0.2.8 printer.lan\n\u{fffd}\n192.0.2.9 scanner.lan\n");
    assert_eq!(system.resolve("printer.lan").await, Ok(vec!["192.0.2.8".parse().unwrap()]));
    assert_eq!(system.resolve("scanner.lan").await, Ok(vec!["192.0.2.9".parse().unwrap()]));
    assert_eq!(system.resolve("printer").await, Err(ResolveError::NoSuchName));
    assert_eq!(server.names(), ["printer"], "what the file knows is not asked for");
}

#[tokio::test]
async fn a_name_that_was_not_found_is_remembered_for_some_seconds() {
    let server = NameServer::start(|_, _| Reply::NoSuchName).await;
    let system = System::start(Some(CONF), "", server.port);
    for _ in 0..50 {
        assert_eq!(system.resolve("nowhere.example").await, Err(ResolveError::NoSuchName));
    }
    assert_eq!(server.questions.lock().len(), 2, "once for each family");
    system.clock.advance(Duration::from_secs(10));
    assert_eq!(system.resolve("nowhere.example").await, Err(ResolveError::NoSuchName));
    assert_eq!(server.questions.lock().len(), 4);
}

#[tokio::test]
async fn however_many_ask_for_a_name_it_is_looked_up_once() {
    let server = NameServer::start(both).await;
    let system = System::start(Some(CONF), "", server.port);
    let answers = futures_util::future::join_all((0..200).map(|_| system.resolve("hooks.example"))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(server.questions.lock().len(), 2);
}

#[tokio::test]
async fn names_that_are_never_answered_are_looked_up_in_bounded_number_and_forgotten_with_those_who_asked() {
    let server =
        NameServer::start(|name, kind| if name.starts_with("slow") { Reply::Nothing } else { both(name, kind) });
    let server = server.await;
    let system = System::start(Some(CONF), "", server.port);
    {
        let names: Vec<String> = (0..1_030).map(|number| format!("slow{number}.example")).collect();
        let mut asking: Vec<_> = names.iter().map(|name| Box::pin(system.resolver.resolve(name))).collect();
        let busy = asking.iter_mut().filter_map(|asking| {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            match asking.as_mut().poll(&mut context) {
                std::task::Poll::Ready(answer) => Some(answer),
                std::task::Poll::Pending => None,
            }
        });
        let busy: Vec<_> = busy.collect();
        assert_eq!(busy, vec![Err(ResolveError::Busy); 6]);
    }
    assert_eq!(system.resolve("hooks.example").await, Ok(vec![V6.into(), V4.into()]));
}

#[tokio::test]
async fn what_is_no_name_does_not_exist() {
    let system = System::start(Some(CONF), "", 1);
    assert_eq!(system.resolve(&"a".repeat(300)).await, Err(ResolveError::NoSuchName));
}

#[tokio::test]
async fn of_a_name_with_thousands_of_addresses_a_few_of_each_family_are_used() {
    let server = NameServer::start(|_, kind| Reply::Addresses(if kind == A { 4_000 } else { 2_300 })).await;
    let system = System::start(Some(CONF), "", server.port);
    for _ in 0..2 {
        let addresses = system.resolve("hooks.example").await.unwrap();
        let v6 = addresses.iter().filter(|address| address.is_ipv6()).count();
        assert_eq!((v6, addresses.len() - v6), (16, 16));
        assert!(addresses.contains(&Ipv4Addr::new(10, 0, 0, 0).into()), "they are the first ones");
    }
    assert_eq!(server.questions.lock().len(), 2, "they are remembered");
}

#[tokio::test]
async fn an_address_that_was_found_is_remembered_for_its_time_to_live_but_not_for_longer_than_half_a_minute() {
    let server = NameServer::start(both).await;
    let system = System::start(Some(CONF), "", server.port);
    for (passed, asked) in [(0, 2), (20, 2), (9, 2), (1, 4)] {
        system.clock.advance(Duration::from_secs(passed));
        assert_eq!(system.resolve("hooks.example").await, Ok(vec![V6.into(), V4.into()]));
        assert_eq!(server.questions.lock().len(), asked, "{passed} s later");
    }
}

#[tokio::test]
async fn a_name_server_that_is_silent_or_fails_leaves_the_turn_to_the_next_which_is_asked_first_from_then_on() {
    for reply in [|| Reply::Nothing, || Reply::Refused, || Reply::Referral, || Reply::Unread] {
        let bad = NameServer::start(move |_, _| reply()).await;
        second_server(bad.port).await;
        let system = System::start(Some(CONF_OF_TWO), "", bad.port);
        assert_eq!(system.resolve("one.example").await, Ok(vec![V6.into(), V4.into()]));
        assert_eq!(system.resolve("two.example").await, Ok(vec![V6.into(), V4.into()]));
        assert_eq!(bad.names(), ["", "one.example"], "and of the root");
    }
}

#[tokio::test]
async fn a_name_for_which_the_first_name_server_fails_makes_nobody_ask_another_one_first() {
    for reply in [|| Reply::Nothing, || Reply::Refused] {
        let refusing = move |name: &str, kind| if name == "theirs.example" { reply() } else { both(name, kind) };
        let first = NameServer::start(refusing).await;
        second_server(first.port).await;
        let system = System::start(Some(CONF_OF_TWO), "", first.port);
        for name in ["theirs.example", "ours.example"] {
            assert_eq!(system.resolve(name).await, Ok(vec![V6.into(), V4.into()]));
        }
        assert_eq!(first.names(), ["", "ours.example", "theirs.example"]);
    }
}

#[tokio::test]
async fn a_hosts_file_that_is_too_large_is_used_as_far_as_it_is_read() {
    let server = NameServer::start(|_, _| Reply::NoSuchName).await;
    let system = System::start(Some(CONF), "", server.port);
    let filler = format!("# {}\n", "x".repeat(1_000)).repeat(1_100);
    system.rewrite("hosts", &format!("192.0.2.7 first.example\n{filler}192.0.2.8 last.example\n"));
    assert_eq!(system.resolve("first.example").await, Ok(vec![V4.into()]));
    assert_eq!(system.resolve("last.example").await, Err(ResolveError::NoSuchName));
}

/// Counts the questions for one family, and answers none but those from the second on.
fn from_the_second_on(counter: &AtomicUsize, reply: Reply) -> Reply {
    if counter.fetch_add(1, Ordering::SeqCst) == 0 { Reply::Nothing } else { reply }
}

#[tokio::test]
async fn an_answer_that_lacks_a_family_is_not_remembered() {
    let asked = AtomicUsize::new(0);
    let server = NameServer::start(move |_, kind| match kind {
        A => from_the_second_on(&asked, Reply::Address(V4.into())),
        _ => Reply::Address(Ipv6Addr::LOCALHOST.into()),
    })
    .await;
    let system = System::start(Some(CONF), "", server.port);
    assert!(system.resolve("hooks.example").await.unwrap().contains(&Ipv6Addr::LOCALHOST.into()));
    assert_eq!(system.resolve("hooks.example").await, Ok(vec![Ipv6Addr::LOCALHOST.into(), V4.into()]));
}

#[tokio::test]
async fn where_there_is_no_way_to_one_family_the_other_is_waited_for_although_its_answer_was_lost() {
    let asked = AtomicUsize::new(0);
    let server = NameServer::start(move |_, kind| match kind {
        A => from_the_second_on(&asked, Reply::Address(V4.into())),
        _ => Reply::Address(UNREACHABLE.into()),
    })
    .await;
    let system = System::start(Some(CONF), "", server.port);
    assert_eq!(system.resolve("hooks.example").await, Ok(vec![UNREACHABLE.into(), V4.into()]));
}

#[tokio::test]
async fn what_no_name_server_says_is_not_unreachable() {
    let answers = |_: &str, kind| if kind == A { Reply::Refused } else { Reply::Address(UNREACHABLE.into()) };
    let server = NameServer::start(answers).await;
    let system = System::start(Some(CONF), "", server.port);
    assert_eq!(system.resolve("hooks.example").await, Err(ResolveError::Unanswered));
}

#[tokio::test]
async fn whoever_waited_for_a_look_up_that_is_over_leaves_the_next_one_of_the_name_alone() {
    let asked = Mutex::new(HashMap::new());
    // Its second look-up is never answered.
    let server = NameServer::start(move |name, kind| {
        if name != "hooks.example" {
            return both(name, kind);
        }
        let mut asked = asked.lock();
        let times: &mut u32 = asked.entry(kind).or_default();
        *times += 1;
        match (*times, both(name, kind)) {
            (1, Reply::Address(address)) => Reply::Passing(address),
            _ => Reply::Nothing,
        }
    })
    .await;
    let system = System::start(Some(CONF), "", server.port);
    let twice = async || {
        system.resolve("hooks.example").await.unwrap();
        system.resolver.resolve("hooks.example").await
    };
    let asking = async { tokio::join!(twice(), twice()) };
    tokio::pin!(asking);
    while server.questions.lock().len() < 4 {
        tokio::select! {
            answers = &mut asking => panic!("{answers:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    // A third one would have asked by now, and before this.
    system.resolve("other.example").await.unwrap();
    assert_eq!(server.questions.lock().iter().filter(|(name, _)| name == "hooks.example").count(), 4);
}

#[tokio::test]
async fn the_first_name_server_is_asked_first_again_after_half_a_minute() {
    let silent =
        |name: &str, kind| if ["", "silent.example"].contains(&name) { Reply::Nothing } else { both(name, kind) };
    let first = NameServer::start(silent).await;
    second_server(first.port).await;
    let system = System::start(Some(CONF_OF_TWO), "", first.port);
    for (name, passed) in [("silent.example", 0), ("second.example", 10), ("first.example", 30), ("also.example", 0)] {
        system.clock.advance(Duration::from_secs(passed));
        assert_eq!(system.resolve(name).await, Ok(vec![V6.into(), V4.into()]));
    }
    assert_eq!(first.names(), ["", "also.example", "first.example", "silent.example"]);
}

#[tokio::test]
async fn name_servers_that_fail_at_once_are_given_time_before_they_are_asked_again() {
    let began = Mutex::new(None);
    // It needs half a second to be ready.
    let server = NameServer::start(move |name, kind| {
        let began = *began.lock().get_or_insert_with(tokio::time::Instant::now);
        if began.elapsed() < Duration::from_millis(500) { Reply::Refused } else { both(name, kind) }
    })
    .await;
    let system = System::start(Some(CONF), "", server.port);
    assert!(system.resolve("hooks.example").await.is_ok());
}

#[tokio::test]
async fn a_refusal_without_the_question_is_not_waited_out() {
    let first = NameServer::start(|_, _| Reply::Unread).await;
    second_server(first.port).await;
    let system = System::start(Some("nameserver 127.0.0.1\nnameserver 127.0.0.2\n"), "", first.port);
    assert_eq!(system.resolve("hooks.example").await, Ok(vec![V6.into(), V4.into()]));
    assert_eq!(
        first.questions.lock().len(),
        4,
        "one of each family for the name, and one for the root: what seems lost is repeated after a second"
    );
}
