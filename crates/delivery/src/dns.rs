//! Asking name servers for the addresses of a name.
//!
//! A stub, as the system has one: it asks the name servers of this machine, which know how to find out, one after the other,
//! and believes what they say. One that fails, is silent, or only says whom else to ask leaves the turn to the next. What counts
//! here is what a look-up costs others, because whose name it is decides what its name servers do:
//!
//! * **[`SOCKETS_PER_LOOK_UP`] sockets at a time**, one for each family, however many servers are asked and how often.
//! * **Little is read and kept**: the first [`MAX_ANSWER_BYTES`] of an answer, and of those the first [`MAX_OF_FAMILY`] addresses.
//!   An answer over UDP that was cut is good enough if there is an address in it: one that works is all that is wanted.
//! * **No port is kept**: a connection to a name server is reset when it has answered.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::entropy::{Entropy as _, OsEntropy};
use postrider_domain::time::Timestamp;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, sleep_until, timeout};

use crate::ours;

/// A name did not resolve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name servers say that there is no such name.
    #[error("the host name does not exist")]
    NoSuchName,
    /// The name exists, but has neither an A nor an AAAA record.
    #[error("the host name has no address")]
    NoAddress,
    /// The name servers could not be reached, did not answer, or failed.
    #[error("the host name could not be looked up: the name servers gave no answer")]
    Unanswered,
    /// There is no name server to ask.
    #[error("the host name could not be looked up: no name server is configured")]
    NoNameServer,
    /// As many names are looked up as may be.
    #[error("the host name could not be looked up: too many look-ups are in progress here")]
    Busy,
    /// This machine has no more open files, or the like.
    #[error("the host name could not be looked up: a limit of this machine was reached")]
    Exhausted,
}

postrider_domain::limits! {
    in "Name resolution";
    /// Addresses of each family (IPv4, IPv6) that are used of a name
    pub const MAX_OF_FAMILY: usize = 16, "addresses", beyond "the name server's first ones are used, the rest is not read";
    /// What is read of a name server's answer
    pub const MAX_ANSWER_BYTES: usize = 4_096, "bytes", beyond "the addresses among them are used, the rest is not read";
}

/// Each family has one.
pub(crate) const SOCKETS_PER_LOOK_UP: u32 = 2;

/// The most that comes over UDP without having been asked for (RFC 1035 §4.2.1).
const DATAGRAM_BYTES: usize = 512;
/// A datagram may be lost: after so long without an answer it is sent again. So long, too, the servers are left alone if all
/// of them have failed at once.
const REPEAT: Duration = Duration::from_secs(1);
/// How often each server has its turn.
const ROUNDS: usize = 2;
/// How long another server than the first is asked first because the first one did not work.
const BACK_TO_THE_FIRST: Duration = Duration::from_secs(30);

const HEADER_BYTES: usize = 12;
/// The response code, and what else is read of the flags.
const CODE: u8 = 0x0f;
const NO_ERROR: u8 = 0;
const NO_SUCH_NAME: u8 = 3;
const IS_ANSWER: u8 = 0x80;
const IS_AUTHORITATIVE: u8 = 0x04;
const WAS_CUT: u8 = 0x02;
const RECURSION_AVAILABLE: u8 = 0x80;
const RECURSION_DESIRED: u8 = 0x01;
const INTERNET: u16 = 1;
const CNAME: u16 = 5;

/// The records that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    fn record_type(self) -> u16 {
        match self {
            Self::V4 => 1,
            Self::V6 => 28,
        }
    }

    fn address(self, data: &[u8]) -> Option<IpAddr> {
        match self {
            Self::V4 => <[u8; 4]>::try_from(data).ok().map(|octets| Ipv4Addr::from(octets).into()),
            Self::V6 => <[u8; 16]>::try_from(data).ok().map(|octets| Ipv6Addr::from(octets).into()),
        }
    }
}

/// A name as name servers are asked for it: each label behind its length (RFC 1035 §3.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    /// The one of the root.
    fn root() -> Self {
        Self(vec![0])
    }

    const MAX_BYTES: usize = 255;
    const MAX_LABEL_BYTES: usize = 63;

    /// `None` for what cannot be the name of a host. The dot at the end makes no difference: names are absolute.
    pub(crate) fn parse(host: &str) -> Option<Self> {
        let mut bytes = Vec::with_capacity(host.len() + 2);
        for label in host.strip_suffix('.').unwrap_or(host).split('.') {
            let length = u8::try_from(label.len())
                .ok()
                .filter(|length| (1..=Self::MAX_LABEL_BYTES).contains(&usize::from(*length)))?;
            bytes.push(length);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        (bytes.len() <= Self::MAX_BYTES && host.is_ascii()).then_some(Self(bytes))
    }
}

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Not empty.
    pub(crate) addresses: Vec<IpAddr>,
    /// How long it may be remembered.
    pub(crate) ttl: Duration,
}

/// A name server, and, if its address is link-local, in which network that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    address: SocketAddr,
    /// The interface to the network, by name or number.
    zone: Option<Box<str>>,
}

impl From<SocketAddr> for Server {
    fn from(address: SocketAddr) -> Self {
        Self { address, zone: None }
    }
}

impl Server {
    /// As `resolv.conf` has it: `192.0.2.1`, `fe80::1%eth0`.
    pub(crate) fn parse(text: &str, port: u16) -> Option<Self> {
        let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
        Some(Self { address: SocketAddr::new(address.parse().ok()?, port), zone: zone.map(Into::into) })
    }

    fn lacks_ports(&self, error: &io::Error) -> bool {
        self.address().is_ok_and(|address| ours::lacks_ports(address, error))
    }

    /// Where it is to be asked. The interface is looked for each time: they come and go.
    fn address(&self) -> io::Result<SocketAddr> {
        let (SocketAddr::V6(address), Some(zone)) = (self.address, &self.zone) else { return Ok(self.address) };
        let interface = zone.parse().or_else(|_| interface(zone))?;
        Ok(SocketAddrV6::new(*address.ip(), address.port(), 0, interface).into())
    }
}

#[cfg(target_os = "linux")]
fn interface(name: &str) -> io::Result<u32> {
    // Which socket is asked through makes no difference.
    let socket = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    Ok(rustix::net::netdevice::name_to_index(&socket, name)?)
}

#[cfg(not(target_os = "linux"))]
fn interface(_: &str) -> io::Result<u32> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The name servers of this machine.
#[derive(Debug)]
pub(crate) struct Servers {
    servers: Vec<Server>,
    /// How long each is waited for.
    patience: Duration,
    lead: Mutex<Lead>,
}

/// Which server is asked first: the one that answered last, and the first of all again after a while.
#[derive(Debug, Default)]
struct Lead {
    server: usize,
    since: Timestamp,
}

impl Servers {
    pub(crate) fn new(servers: Vec<Server>, patience: Duration) -> Self {
        Self { servers, patience, lead: Mutex::default() }
    }

    /// The addresses of one family. A server that fails or is silent leaves the turn to the next. The next is asked first from then
    /// on if the other one does not work at all: it may fail for one name alone, as that name's own servers like, and
    /// names that only the first one knows would be lost to everybody.
    pub(crate) async fn ask(&self, name: &Name, family: Family, now: Timestamp) -> Result<Found, ResolveError> {
        let (first, count) = (self.first(now), self.servers.len());
        for round in 0..ROUNDS {
            let began = Instant::now();
            for turn in 0..count {
                let number = (first + turn) % count;
                let question = Question::new(name, family);
                let said = match timeout(self.patience, question.ask(&self.servers[number])).await {
                    Ok(Ok(said)) => said,
                    Ok(Err(error)) if ours::is_limit(&error) || self.servers[number].lacks_ports(&error) => {
                        return Err(ResolveError::Exhausted);
                    }
                    Ok(Err(_)) | Err(_) => continue,
                };
                if said != Err(ResolveError::Unanswered) {
                    if number == 0 || (number != first && !self.works(first).await) {
                        *self.lead.lock() = Lead { server: number, since: now };
                    }
                    return said;
                }
            }
            if round + 1 < ROUNDS {
                sleep_until(began + REPEAT).await;
            }
        }
        Err(ResolveError::Unanswered)
    }

    /// Which one to begin with. If it is time to try the first one again, one look-up does it, and the others go on without.
    fn first(&self, now: Timestamp) -> usize {
        let mut lead = self.lead.lock();
        if lead.server != 0 && now.since(lead.since) >= BACK_TO_THE_FIRST {
            lead.since = now;
            return 0;
        }
        lead.server
    }

    /// Whether a server knows the root, in which nobody's name servers have a say.
    async fn works(&self, number: usize) -> bool {
        let question = Question::new(&Name::root(), Family::V4);
        let server = &self.servers[number];
        match timeout(self.patience.min(REPEAT), question.ask(server)).await {
            Ok(Ok(said)) => said != Err(ResolveError::Unanswered),
            // What this machine lacks says nothing of the server.
            Ok(Err(error)) => ours::is_limit(&error) || server.lacks_ports(&error),
            Err(_) => false,
        }
    }
}

/// A message that asks for the addresses of a name.
struct Question {
    bytes: Vec<u8>,
    family: Family,
}

/// What a server said: addresses, or that there are none, or that it cannot say.
type Said = Result<Found, ResolveError>;

impl Question {
    fn new(name: &Name, family: Family) -> Self {
        let mut number = [0; 2];
        OsEntropy.fill(&mut number);
        let mut bytes = vec![number[0], number[1], RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&name.0);
        bytes.extend_from_slice(&family.record_type().to_be_bytes());
        bytes.extend_from_slice(&INTERNET.to_be_bytes());
        Self { bytes, family }
    }

    /// Asks one server: over UDP, and over TCP if the answer does not fit there.
    async fn ask(&self, server: &Server) -> io::Result<Said> {
        let server = server.address()?;
        match self.read(&self.over_udp(server).await?) {
            Some(said) => Ok(said),
            None => Ok(self.read(&self.over_tcp(server).await?).unwrap_or(Err(ResolveError::Unanswered))),
        }
    }

    async fn over_udp(&self, server: SocketAddr) -> io::Result<Vec<u8>> {
        let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // A port of the system's choice, and nothing comes in but from the server.
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(server).await?;
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            socket.send(&self.bytes).await?;
            if let Ok(length) = timeout(REPEAT, self.hear(&socket, &mut buffer)).await {
                buffer.truncate(length?);
                return Ok(buffer);
            }
        }
    }

    /// Waits for the answer; what is none to this question is passed over.
    async fn hear(&self, socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let length = socket.recv(buffer).await?;
            if self.is_answered_by(&buffer[..length]) {
                return Ok(length);
            }
        }
    }

    async fn over_tcp(&self, server: SocketAddr) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(server).await?;
        // However it ends, it is reset: whoever closes first keeps the port for a minute.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        let length = u16::try_from(self.bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), self.bytes.as_slice()].concat()).await?;
        let length = usize::from(stream.read_u16().await?);
        let mut answer = vec![0; length.min(MAX_ANSWER_BYTES)];
        stream.read_exact(&mut answer).await?;
        if self.is_answered_by(&answer) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Whether a message is the answer to this question: it has its number, and repeats it. A server that refuses need not
    /// repeat it.
    fn is_answered_by(&self, message: &[u8]) -> bool {
        let Some(header) = message.get(..HEADER_BYTES) else { return false };
        let has_number = header[..2] == self.bytes[..2] && header[2] & IS_ANSWER != 0;
        let refuses = header[4..6] == [0, 0] && ![NO_ERROR, NO_SUCH_NAME].contains(&(header[3] & CODE));
        has_number && (refuses || self.is_repeated_in(message))
    }

    fn is_repeated_in(&self, message: &[u8]) -> bool {
        message.get(..self.bytes.len()).is_some_and(|beginning| {
            beginning[4..6] == self.bytes[4..6]
                && beginning[HEADER_BYTES..].eq_ignore_ascii_case(&self.bytes[HEADER_BYTES..])
        })
    }

    /// What an answer says; `None` if that was cut off.
    fn read(&self, answer: &[u8]) -> Option<Said> {
        let (flags, more_flags) = (*answer.get(2)?, *answer.get(3)?);
        match more_flags & CODE {
            NO_ERROR => {}
            NO_SUCH_NAME => return Some(Err(ResolveError::NoSuchName)),
            _ => return Some(Err(ResolveError::Unanswered)),
        }
        let count = u16::from_be_bytes([*answer.get(6)?, *answer.get(7)?]);
        let mut records = Records(answer.get(self.bytes.len()..)?);
        let (mut addresses, mut ttl) = (Vec::new(), u32::MAX);
        let mut whole = true;
        for _ in 0..count {
            let Some(record) = records.next() else {
                whole = false;
                break;
            };
            if record.class != INTERNET || ![CNAME, self.family.record_type()].contains(&record.kind) {
                continue;
            }
            ttl = ttl.min(record.ttl);
            if record.kind != CNAME {
                addresses.extend(self.family.address(record.data));
            }
            if addresses.len() >= MAX_OF_FAMILY {
                break;
            }
        }
        match addresses.is_empty() {
            false => Some(Ok(Found { addresses, ttl: Duration::from_secs(ttl.into()) })),
            true if flags & WAS_CUT != 0 || !whole => None,
            // A server that does not know, and finds nothing out, says who might: that the name has none is not said.
            true if flags & IS_AUTHORITATIVE == 0 && more_flags & RECURSION_AVAILABLE == 0 => {
                Some(Err(ResolveError::Unanswered))
            }
            true => Some(Err(ResolveError::NoAddress)),
        }
    }
}

struct Record<'a> {
    kind: u16,
    class: u16,
    ttl: u32,
    data: &'a [u8],
}

/// The records of an answer that have not been read.
struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    /// `None` if what is left is no whole record.
    fn next(&mut self) -> Option<Record<'a>> {
        self.skip_name()?;
        let fixed = self.take(10)?;
        let number = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
        let ttl = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        // With its highest bit a time to live is none (RFC 2181 §8).
        let ttl = if ttl > i32::MAX as u32 { 0 } else { ttl };
        let data = self.take(number(8).into())?;
        Some(Record { kind: number(0), class: number(2), ttl, data })
    }

    /// A name ends with an empty label, or with a reference to where it goes on.
    fn skip_name(&mut self) -> Option<()> {
        loop {
            match *self.take(1)?.first()? {
                0 => return Some(()),
                length if length >= 0xc0 => return self.take(1).map(|_| ()),
                length => self.take(length.into())?,
            };
        }
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        Question::new(&Name::parse("hooks.example").unwrap(), Family::V4)
    }

    /// The answer with these records behind the question, of which it says that there are `count`.
    fn answer(to: &Question, count: u16, records: &[u8]) -> Vec<u8> {
        let mut answer = to.bytes.clone();
        answer[2] |= IS_ANSWER;
        answer[6..8].copy_from_slice(&count.to_be_bytes());
        answer.extend_from_slice(records);
        answer
    }

    fn record(number: u8) -> [u8; 16] {
        [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, number, 0, 4, 192, 0, 2, number]
    }

    #[test]
    fn a_name_has_labels_of_up_to_63_bytes_and_255_in_all() {
        let label = "a".repeat(63);
        assert_eq!(Name::parse("ab.c."), Some(Name(vec![2, b'a', b'b', 1, b'c', 0])));
        assert_eq!(Name::parse("ab.c."), Name::parse("ab.c"));
        assert!(Name::parse(&[&label[..61], &label, &label, &label].map(String::from).join(".")).is_some());
        for none in [
            "",
            ".",
            "a..b",
            ".a",
            &"a".repeat(64),
            &[&label[..62], &label, &label, &label].map(String::from).join("."),
            "é",
        ] {
            assert_eq!(Name::parse(none), None, "{none}");
        }
    }

    #[test]
    fn an_answer_is_told_by_its_number_and_its_question() {
        let question = question();
        let good = answer(&question, 0, &[]);
        assert!(question.is_answered_by(&good));
        assert!(!question.is_answered_by(&question.bytes), "a question is no answer");
        for place in [0, 1, 5, 14, good.len() - 3] {
            let mut other = good.clone();
            other[place] ^= 1;
            assert!(!question.is_answered_by(&other), "{place}");
        }
    }

    #[test]
    fn a_refusal_need_not_repeat_the_question_and_nothing_else_is_believed_without_it() {
        let question = question();
        for (code, believed) in [(0, false), (1, true), (2, true), (3, false), (4, true), (5, true)] {
            let bare = [&question.bytes[..2], &[IS_ANSWER, code, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
            assert_eq!(question.is_answered_by(&bare), believed, "{code}");
            if believed {
                assert_eq!(question.read(&bare), Some(Err(ResolveError::Unanswered)));
            }
            let other = [&[!question.bytes[0]], &bare[1..]].concat();
            assert!(!question.is_answered_by(&other), "{code}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_link_local_server_is_asked_in_its_network() {
        let at = |text: &str| Server::parse(text, 53).unwrap().address();
        let scoped = |scope| SocketAddr::from(SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, scope));
        assert_eq!(
            [at("fe80::1%lo").unwrap(), at("fe80::1%7").unwrap(), at("fe80::1").unwrap()],
            [1, 7, 0].map(scoped)
        );
        assert!(at("fe80::1%none").is_err());
        assert_eq!(at("192.0.2.1%lo").unwrap(), "192.0.2.1:53".parse().unwrap());
    }

    #[test]
    fn of_an_answer_that_ends_early_what_is_there_counts() {
        let question = question();
        let whole = answer(&question, 3, &[record(9), record(7), record(8)].concat());
        let start = question.bytes.len();
        for end in start..=whole.len() {
            let found = match question.read(&whole[..end]) {
                None => 0,
                Some(said) => said.unwrap().addresses.len(),
            };
            assert_eq!(found, (end - start) / 16, "{end}");
        }
        let found = question.read(&whole).unwrap().unwrap();
        assert_eq!(found.ttl, Duration::from_secs(7), "the least of all");
    }

    #[test]
    fn no_message_makes_reading_fail() {
        let question = question();
        let whole = answer(&question, 3, &[record(9), record(7), record(8)].concat());
        for place in 0..whole.len() {
            for value in [0, 1, 0x3f, 0x7f, 0xbf, 0xc0, 0xff] {
                let mut other = whole.clone();
                other[place] = value;
                for end in 0..other.len() {
                    let _ = (question.is_answered_by(&other[..end]), question.read(&other[..end]));
                }
            }
        }
    }
}
