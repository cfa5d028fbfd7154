//! `postrider send`: one signed delivery without a server, with retries, as the server would make it.
//!
//! The same sender and the same policy as the server's, so what a receiver sees here is what it will see in production.
//! One thing differs: any address may be sent to, because it is the user's own machine that sends. What is sent is put
//! together in [`payload`], what is shown in [`printer`].

mod payload;
mod printer;

use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use postrider_delivery::options::{DeliveryOptions, HeaderPrefix, Ports, Subnets};
use postrider_delivery::request::is_reserved;
use postrider_delivery::resolve::SystemResolver;
use postrider_delivery::sender::{Prepared, Sender, Slot};
use postrider_domain::attempt::Trigger;
use postrider_domain::clock::{Clock, SystemClock};
use postrider_domain::delivery::{Next, Progress, RetryPolicy, transition};
use postrider_domain::endpoint::EndpointUrl;
use postrider_domain::entropy::{Entropy as _, OsEntropy};
use postrider_domain::ids::MessageId;
use postrider_domain::message::Message;
use postrider_domain::names::EventTypeName;
use postrider_domain::retry::RetrySchedule;
use postrider_domain::settings::Span;
use postrider_domain::signature::{Secret, SecretKind, SigningKeys};

use super::block_on;
use crate::terminal;
use printer::{Made, Printer};

const EXAMPLES: &str = "\
Examples:
  postrider send http://localhost:4000/ --type user.created --data '{\"id\":7}'
  postrider send https://example.com/hook --secret whsec_… --file event.json --schedule 1s,5s,30s
  echo '{\"hello\":\"world\"}' | postrider send http://localhost:4000/

Exit code: 0 if it was delivered, 1 if it was not, 2 if it could not be tried.";

/// Deliver one signed message to a URL, without a server
///
/// Any address can be sent to, also local ones: it is your machine. With --guard the server's rules apply.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where to send it
    #[arg(value_parser = EndpointUrl::parse)]
    url: EndpointUrl,
    /// The secret to sign with, whsec_… or whsk_… [default: a new one, which is shown]
    #[arg(long, env = "POSTRIDER_ENDPOINT_SECRET", hide_env_values = true)]
    secret: Option<Secret>,
    /// The event's type: sends {"type":…,"timestamp":…,"data":…}; without it the data is sent as it is
    #[arg(long = "type", value_name = "TYPE", value_parser = EventTypeName::parse)]
    event_type: Option<EventTypeName>,
    /// What to send [default: what is piped into standard input, else an empty event]
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    data: Option<String>,
    /// File with what to send; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<String>,
    /// The message's id, to send an earlier message again [default: a new one]
    #[arg(long, value_name = "ID")]
    id: Option<MessageId>,
    /// An extra header; more than once for several
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// How often to try again, after 1s, 2s, 4s and so on, at most 1m
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "schedule")]
    retries: u8,
    /// When to try again: the waits after each attempt, e.g. 1s,5s,1m
    #[arg(long, value_name = "WAITS", value_parser = schedule)]
    schedule: Option<RetrySchedule>,
    /// How long one attempt may take
    #[arg(long, value_name = "TIME", default_value = "30s")]
    timeout: Span,
    /// Names of the signature's headers: webhook or svix
    #[arg(long, value_name = "PREFIX", default_value = "webhook", value_parser = header_prefix)]
    header_prefix: HeaderPrefix,
    /// Refuse private, local and reserved addresses, as the server does
    #[arg(long)]
    guard: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Sends, and tells by the exit code whether it was delivered.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    block_on(async {
        match Delivery::prepare(args) {
            Ok(delivery) => delivery.run().await,
            Err(error) => {
                terminal::error(&error);
                Ok(ExitCode::from(2))
            }
        }
    })
}

/// Everything that is needed for the attempts.
struct Delivery {
    clock: Arc<SystemClock>,
    sender: Sender,
    to: Prepared,
    message: Message,
    policy: RetryPolicy,
    printer: Printer,
}

impl Delivery {
    fn prepare(args: Args) -> anyhow::Result<Self> {
        let clock = Arc::new(SystemClock::new());
        let now = clock.now();
        if payload::is_ignored(args.data.as_deref(), args.file.as_deref()) {
            terminal::note_line("standard input is not read, because --data or --file says what to send");
        }
        let payload = payload::read(args.event_type.as_ref(), args.data, args.file.as_deref(), now)?;
        let retry_schedule = args.schedule.unwrap_or_else(|| doubling(args.retries));
        let options = DeliveryOptions {
            retry_schedule,
            request_timeout: args.timeout,
            header_prefix: args.header_prefix,
            allow_ports: if args.guard { Ports::default() } else { Ports(vec![0..=u16::MAX]) },
            allow_subnets: if args.guard { Subnets::default() } else { Subnets(EVERYWHERE.to_vec()) },
            ..DeliveryOptions::default()
        };
        let resolver = SystemResolver::new(&options, Arc::clone(&clock) as Arc<dyn Clock>)
            .context("can't set up name resolution")?;
        let sender = Sender::new(&options, Arc::clone(&clock) as Arc<dyn Clock>, Arc::new(resolver))
            .context("can't set up TLS")?;
        let made = args.secret.is_none();
        let secret = args.secret.unwrap_or_else(|| Secret::generate(SecretKind::Hmac256, &OsEntropy));
        let message = Message {
            id: args.id.unwrap_or_else(|| MessageId::new(now, &OsEntropy)),
            event_id: None,
            event_type: args
                .event_type
                .unwrap_or_else(|| EventTypeName::from_trusted(payload::DEFAULT_TYPE.to_owned())),
            channels: None,
            payload: Some(Bytes::from(payload)),
            tags: None,
            deliver_at: None,
            expires_at: None,
            created_at: now,
        };
        let policy = RetryPolicy {
            schedule: options.retry_schedule.clone(),
            retry_after_max: options.retry_after_max.0,
            disable_after: options.disable_after.0,
        };
        let printer = Printer::new(args.json, args.url.as_str().to_owned(), made.then(|| secret.as_str().to_owned()));
        let to = sender.prepare_parts(&args.url, &args.headers.into_iter().collect(), &SigningKeys::new(secret));
        Ok(Self { clock, sender, to, message, policy, printer })
    }

    async fn run(self) -> anyhow::Result<ExitCode> {
        self.printer.start(&self.message)?;
        let mut slot = Slot::default();
        for made in 0.. {
            let sent = self.sender.send(&self.to, &self.message, &mut slot).await;
            let now = self.clock.now();
            let progress = Progress { made, trigger: Trigger::Scheduled, silent: false };
            let next = transition(progress, &sent.outcome, &self.policy, now, OsEntropy.unit()).next;
            let until = match next {
                Next::Waiting(at) => Some(at),
                Next::Succeeded | Next::Exhausted | Next::Canceled => None,
            };
            self.printer.attempt(&Made { number: made + 1, sent: &sent, next: until.map(|at| at.since(now)) })?;
            let Some(until) = until else {
                self.printer.end(next, made + 1)?;
                return Ok(if next == Next::Succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            };
            // A wait may end early: see `Clock::sleep_until`.
            while self.clock.now() < until {
                self.clock.sleep_until(until).await;
            }
        }
        Ok(ExitCode::FAILURE)
    }
}

/// What `allow_subnets` must be so that nothing is forbidden.
const EVERYWHERE: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0)),
];

/// 1 s, 2 s, 4 s and so on, at most a minute.
fn doubling(retries: u8) -> RetrySchedule {
    let waits =
        (0..u32::from(retries).min(100)).map(|turn| Duration::from_secs(1 << turn.min(6)).min(Duration::from_secs(60)));
    RetrySchedule::try_new(waits.collect()).unwrap_or_default()
}

fn schedule(text: &str) -> Result<RetrySchedule, String> {
    let waits = text.split(',').map(|wait| Span::from_str(wait).map(|wait| wait.0)).collect::<Result<_, _>>();
    RetrySchedule::try_new(waits.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as name:value")?;
    let (name, value) = (name.trim(), value.trim());
    let parsed =
        HeaderName::try_from(name).map_err(|_| format!("'{}' can't be a header's name", name.escape_debug()))?;
    HeaderValue::try_from(value).map_err(|_| "the value has characters that a header can't have")?;
    if is_reserved(&parsed) {
        return Err(format!("{name} is set by the delivery itself"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn header_prefix(text: &str) -> Result<HeaderPrefix, String> {
    match text {
        "webhook" => Ok(HeaderPrefix::Webhook),
        "svix" => Ok(HeaderPrefix::Svix),
        _ => Err("write webhook or svix".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_wait_twice_as_long_each_time_up_to_a_minute() {
        let schedule = doubling(9);
        let waits: Vec<_> = (1..).map_while(|made| schedule.wait_after(made)).map(|wait| wait.as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(doubling(0).wait_after(1), None);
        assert_eq!(doubling(255).wait_after(100), Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_header_is_a_name_and_a_value_that_can_be_sent() {
        assert_eq!(header("X-Key: a:b "), Ok(("X-Key".to_owned(), "a:b".to_owned())));
        for text in ["novalue", "bad name: x", "x: a\nb", "Content-Length: 3", "webhook-id: x", ": x"] {
            assert!(header(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_schedule_is_a_list_of_waits() {
        assert_eq!(schedule("1s, 5s").unwrap().wait_after(2), Some(Duration::from_secs(5)));
        assert!(schedule("1s,soon").unwrap_err().contains("soon"));
    }
}
