//! How many signed requests one core sends: `cargo run --release -p postrider-delivery --example send_rate [requests]`.
//!
//! The receiver is another process, so that the figure is the sender's own: CPU time per request, which says more than
//! requests per second on a machine that does other things as well.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postrider_delivery::options::{DeliveryOptions, Subnets};
use postrider_delivery::resolve::SystemResolver;
use postrider_delivery::sender::{Sender, Slot};
use postrider_domain::clock::{Clock, SystemClock};
use postrider_domain::endpoint::{EndpointUrl, Headers};
use postrider_domain::entropy::OsEntropy;
use postrider_domain::ids::MessageId;
use postrider_domain::message::Message;
use postrider_domain::names::EventTypeName;
use postrider_domain::signature::{Secret, SecretKind, SigningKeys};

const CONCURRENCY: u64 = 16;
const PAYLOAD_BYTES: usize = 1_024;

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match std::env::args().nth(1).as_deref() {
        Some("receive") => runtime.block_on(receive()),
        requests => {
            let requests = requests.map_or(Ok(200_000), str::parse)?;
            let mut receiver = Command::new(std::env::current_exe()?).arg("receive").stdout(Stdio::piped()).spawn()?;
            let mut url = String::new();
            BufReader::new(receiver.stdout.take().ok_or("no output")?).read_line(&mut url)?;
            let result = runtime.block_on(send(url.trim(), requests));
            receiver.kill()?;
            receiver.wait()?;
            result
        }
    }
}

async fn receive() -> Result<(), Error> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "http://{}/hook", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| async {
            let _ = request.into_body().collect().await;
            Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()))
        });
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

#[expect(clippy::disallowed_methods, reason = "this measures")]
fn instant() -> Instant {
    Instant::now()
}

/// The CPU time that this process has used; Linux only.
fn cpu_time() -> Result<Duration, Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // After the name, which is in parentheses: user and system time are the 12th and 13th field, in hundredths of a second.
    let fields = stat.rsplit(')').next().ok_or("no fields")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

async fn send(url: &str, requests: u64) -> Result<(), Error> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let allow_subnets = Subnets(vec!["127.0.0.0/8".parse()?]);
    let options = DeliveryOptions { allow_subnets, ..DeliveryOptions::default() };
    let sender = Arc::new(Sender::new(
        &options,
        Arc::clone(&clock),
        Arc::new(SystemResolver::new(&options, Arc::clone(&clock))?),
    )?);
    let keys = SigningKeys::new(Secret::generate(SecretKind::Hmac256, &OsEntropy));
    let to = Arc::new(sender.prepare_parts(&EndpointUrl::parse(url)?, &Headers::new(), &keys));
    let message = Arc::new(Message {
        id: MessageId::new(clock.now(), &OsEntropy),
        event_id: None,
        event_type: EventTypeName::parse("user.created")?,
        channels: None,
        payload: Some(Bytes::from(vec![b' '; PAYLOAD_BYTES])),
        tags: None,
        deliver_at: None,
        expires_at: None,
        created_at: clock.now(),
    });
    let left = Arc::new(AtomicU64::new(requests));
    let (started, cpu_before) = (instant(), cpu_time()?);
    let workers = (0..CONCURRENCY).map(|_| {
        let (sender, to, message, left) =
            (Arc::clone(&sender), Arc::clone(&to), Arc::clone(&message), Arc::clone(&left));
        tokio::spawn(async move {
            let mut slot = Slot::default();
            let mut failed = 0u64;
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                failed += u64::from(!sender.send(&to, &message, &mut slot).await.outcome.succeeded());
            }
            failed
        })
    });
    let mut failed = 0;
    for worker in workers.collect::<Vec<_>>() {
        failed += worker.await?;
    }
    let (wall, cpu) = (started.elapsed(), cpu_time()?.saturating_sub(cpu_before));
    let count = requests as f64;
    writeln!(
        std::io::stdout(),
        "{requests} requests, {failed} failed: {:.0}/s, {:.2} µs CPU each ({:.0}/s from a whole core)",
        count / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / count,
        count / cpu.as_secs_f64(),
    )?;
    Ok(())
}
