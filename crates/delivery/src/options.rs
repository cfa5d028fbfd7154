//! The settings of the section `delivery`.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use postrider_domain::retry::RetrySchedule;
use postrider_domain::settings::Span;
use serde::de::Error as _;

/// Which names the headers of a request have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderPrefix {
    /// `webhook-id`, `webhook-timestamp`, `webhook-signature`: Standard Webhooks.
    #[default]
    Webhook,
    /// `svix-id` and so on, for receivers that know only those.
    Svix,
}

/// A list of networks, from a list or from text (`["10.0.0.0/8"]` or `10.0.0.0/8,fd00::/8`).
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Subnets(pub Vec<IpNet>);

impl<'de> serde::Deserialize<'de> for Subnets {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let items = postrider_domain::settings::string_list(deserializer)?;
        items.iter().map(|item| network(item)).collect::<Result<_, _>>().map(Self).map_err(D::Error::custom)
    }
}

/// A network; a bare address is the network of that one address.
fn network(item: &str) -> Result<IpNet, String> {
    let parsed = item.parse::<IpNet>().or_else(|_| item.parse::<std::net::IpAddr>().map(IpNet::from));
    let network = parsed.map_err(|_| format!("'{item}' is not a network: write it as 10.0.0.0/8 or fd00::/8"))?;
    if network.trunc() != network {
        // Whoever wrote it meant either the one or the other.
        let (whole, one) = (network.trunc(), network.addr());
        return Err(format!(
            "'{item}' is an address within a network: write {whole} for the network, or {one} for the one address"
        ));
    }
    Ok(network)
}

/// Ports and ranges of ports, from a list or from text (`[25, "6000-6063"]` or `25,6000-6063`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ports(pub Vec<RangeInclusive<u16>>);

impl Ports {
    /// Whether a port is among them.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl<'de> serde::Deserialize<'de> for Ports {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Item {
            Port(i64),
            Text(String),
        }

        #[derive(serde::Deserialize)]
        #[serde(untagged, expecting = "write ports and ranges of ports, as in [8080, \"6000-6063\"]")]
        enum Given {
            List(Vec<Item>),
            Text(String),
        }

        let text = match Given::deserialize(deserializer)? {
            Given::Text(text) => text,
            Given::List(items) => {
                let shown = |item: Item| match item {
                    Item::Port(port) => port.to_string(),
                    Item::Text(text) => text,
                };
                items.into_iter().map(shown).collect::<Vec<_>>().join(",")
            }
        };
        let items = text.trim().trim_start_matches('[').trim_end_matches(']').split(',').map(str::trim);
        items
            .filter(|item| !item.is_empty())
            .map(port_range)
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(D::Error::custom)
    }
}

fn port_range(item: &str) -> Result<RangeInclusive<u16>, String> {
    let item = item.trim_matches('"');
    let (first, last) = item.split_once('-').unwrap_or((item, item));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("'{item}' is neither a port nor a range of ports: write it as 25 or 6000-6063")),
    }
}

impl serde::Serialize for Ports {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|range| format!("{}-{}", range.start(), range.end())))
    }
}

fn span(text: &str) -> Span {
    text.parse().unwrap_or(Span(std::time::Duration::ZERO))
}

postrider_domain::options! {
    /// How messages are delivered.
    pub struct DeliveryOptions in "delivery" {
        /// The waits after the first attempt. `[]` means one attempt. Each wait is moved by up to 20 % either way.
        #[within("0s", "30d")]
        pub retry_schedule: RetrySchedule = RetrySchedule::default(),
        /// The longest wait that a receiver can ask for with `Retry-After`.
        #[within("0s", "30d")]
        pub retry_after_max: Span = span("1d"),
        /// The time that one attempt may take: resolving, connecting, TLS, request and answer together.
        #[within("10ms", "10m")]
        pub request_timeout: Span = span("30s"),
        /// An endpoint whose deliveries keep running out of retries for this long without one success is disabled. When it began to fail is
        /// forgotten after twice this time: an endpoint that exhausts a delivery less often than that is not disabled by it.
        #[within("1ms", "3650d")]
        pub disable_after: Span = span("5d"),
        /// The age at which a connection to a receiver gets no more requests. The next request resolves the name again, so
        /// a host that moves to another address is followed within this time. A connection gets 60 to 90 % of it, so that
        /// connections that were opened together are not replaced together.
        #[within("100ms", "1d")]
        pub connection_max_age: Span = span("5m"),
        /// Networks that may be delivered to although they are private, local or reserved, or hold addresses of this machine.
        pub allow_subnets: Subnets = Subnets::default(),
        /// Ports of well-known services (22, 25, 6379 and so on: the "bad ports" of the Fetch standard, databases, caches,
        /// queues and remote control) that may be delivered to all the same, e.g. `[25, "6000-6063"]`. All other ports may.
        pub allow_ports: Ports = Ports::default(),
        /// Refuse endpoints with http URLs.
        pub https_only: bool = false,
        /// The names of the signature headers: `webhook` (Standard Webhooks) or `svix`.
        pub header_prefix: HeaderPrefix = HeaderPrefix::Webhook,
        /// The most requests in flight to one endpoint. A lane starts with 4 and works up to it while the
        /// receiver answers; a receiver that is slow or failing gets less.
        #[within(1, 10_000)]
        pub concurrency: u32 = 32,
        /// The most requests in flight in all. Bounded by the limit on open files, too.
        #[within(1, 1_000_000)]
        pub max_in_flight: u32 = 4096,
        /// The most bytes of messages waiting in memory for their turn; whatever is beyond waits in the store. An eighth of it
        /// is for responses until they are stored.
        #[within(1_048_576, 1_099_511_627_776_u64)]
        pub memory_bytes: u64 = 32 * 1024 * 1024,
        /// The most bytes that the responses to one application's messages add to the log of attempts in a day, beyond the first
        /// 256 of each: so many at once, and as many again over each day. When they are used up, 256 bytes of each response are
        /// kept. A restart forgets what was used. Nor is more than that kept of a response for which there is no room in
        /// `delivery.memory_bytes`; the log says how many were cut.
        #[within(0, 1_099_511_627_776_u64)]
        pub kept_responses_per_day: u64 = 256 * 1024 * 1024,
        /// How long a shutdown may take in all. Requests in flight, to endpoints and at the API, get most of it to finish;
        /// deliveries that are not done by then stay due and are made at the next start. Containers are killed 10 s (Docker)
        /// or 30 s (Kubernetes) after they were asked to stop: keep it below that.
        #[within("100ms", "1h")]
        pub drain_timeout: Span = span("8s"),
    }
}
