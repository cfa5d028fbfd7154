//! The settings of the section `delivery`.

use ipnet::IpNet;
use postrider_domain::retry::RetrySchedule;
use postrider_domain::settings::Span;

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
        use serde::de::Error;

        let items = postrider_domain::settings::string_list(deserializer)?;
        let parse = |item: &String| {
            // A bare address is the network of that one address.
            item.parse::<IpNet>()
                .or_else(|_| item.parse::<std::net::IpAddr>().map(IpNet::from))
                .map_err(|_| D::Error::custom(format!("'{item}' is not a network: write it as 10.0.0.0/8 or fd00::/8")))
        };
        items.iter().map(parse).collect::<Result<_, _>>().map(Self)
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
        /// An endpoint that keeps exhausting deliveries for this long without one success is disabled.
        #[within("1ms", "3650d")]
        pub disable_after: Span = span("5d"),
        /// Networks that may be delivered to although they are private, local or reserved.
        pub allow_subnets: Subnets = Subnets::default(),
        /// Refuse endpoints with http URLs.
        pub https_only: bool = false,
        /// The names of the signature headers: `webhook` (Standard Webhooks) or `svix`.
        pub header_prefix: HeaderPrefix = HeaderPrefix::Webhook,
        /// The most requests under way to one endpoint at a time. A lane starts with 4 and works up to it while the
        /// receiver answers; a receiver that is slow or failing gets less.
        #[within(1, 10_000)]
        pub concurrency: u32 = 32,
        /// The most requests under way in all. Bounded by the limit on open files, too.
        #[within(1, 1_000_000)]
        pub max_in_flight: u32 = 4096,
        /// The most bytes of messages waiting in memory for their turn; whatever is beyond waits in the store.
        #[within(1_048_576, 1_099_511_627_776_u64)]
        pub memory_bytes: u64 = 32 * 1024 * 1024,
        /// How long a shutdown may take in all. Requests under way, to endpoints and at the API, get most of it to finish;
        /// deliveries that are not done by then stay due and are made at the next start. Containers are killed 10 s (Docker)
        /// or 30 s (Kubernetes) after they were asked to stop: keep it below that.
        #[within("100ms", "1h")]
        pub drain_timeout: Span = span("8s"),
    }
}
