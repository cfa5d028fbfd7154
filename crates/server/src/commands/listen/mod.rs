//! `postrider listen`: a receiver for trying things out. It verifies signatures, prints what arrives, and can be told to
//! fail, to be slow, to answer certain codes, so that a sender's retries can be watched, or to forward what it verified to
//! an application under development.
//!
//! What it answers is decided in [`behaviour`] or by the application ([`forward`]), how it is printed in [`printer`].
//! `serve --dev` brings one with it.

mod behaviour;
mod forward;
mod printer;

use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use parking_lot::Mutex;
use postrider_domain::clock::{Clock as _, SystemClock};
use postrider_domain::settings::Span;
use postrider_domain::verify::{SignedHeaders, TOLERANCE, VerifyError, VerifyingKey};
use tokio::net::TcpListener;

use super::{block_on, http1};
use crate::log::Output;
use behaviour::{Behaviour, Seen};
use forward::{Forward, Forwarded};
use printer::{Event, Printer, Verification};

/// More than any sender should send at once.
const LARGEST_BODY: usize = 16 * 1024 * 1024;

const EXAMPLES: &str = "\
Examples:
  postrider listen                                  print whatever arrives
  postrider listen --port 4000 --secret whsec_…     and verify that it was signed with this secret
  postrider listen --fail-first 2                   fail the first two attempts of every message
  postrider listen --status 200,503 --delay 2s      answer 200 and 503 in turn, each after two seconds
  postrider listen --forward-to http://localhost:3000/webhooks
                                                    pass it on to an application, and answer what it answers";

/// Receive webhooks here: verify their signatures and print them.
///
/// With a secret, a request whose signature does not verify gets 401, as from a careful receiver.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Port to listen on [default: any that is free]
    #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Address to listen on; 0.0.0.0 for requests from other machines
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// The endpoint's secret (whsec_…) or public key (whpk_…) to verify with; more than once during a rotation
    #[arg(long = "secret", value_name = "KEY", env = "POSTRIDER_ENDPOINT_SECRET", hide_env_values = true)]
    secrets: Vec<VerifyingKey>,
    /// Send what arrives on to this http URL, and answer with its response; with a secret only what verifies
    #[arg(long, value_name = "URL", conflicts_with = "status")]
    forward_to: Option<Forward>,
    /// What to answer, in turn
    #[arg(long, value_name = "CODES", value_delimiter = ',', default_value = "200", value_parser = status)]
    status: Vec<StatusCode>,
    /// How long to wait before each answer, e.g. 2s
    #[arg(long, value_name = "TIME", default_value = "0s", hide_default_value = true)]
    delay: Span,
    /// Answer the first N attempts of every message with 500
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    fail_first: u32,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Print no payloads
    #[arg(long)]
    quiet: bool,
    /// Print the headers as well; JSON has them always
    #[arg(long)]
    headers: bool,
}

struct Listener {
    keys: Vec<VerifyingKey>,
    delay: Duration,
    forward: Option<Forward>,
    clock: SystemClock,
    state: Mutex<State>,
}

struct State {
    behaviour: Behaviour,
    printer: Printer,
}

/// Receives until Ctrl-C or SIGTERM, then sums up.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    block_on(listen(args)).map(|()| ExitCode::SUCCESS)
}

async fn listen(args: Args) -> anyhow::Result<()> {
    // Before anything is printed: whoever reads the first line may end it at once.
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupted = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let socket = TcpListener::bind((args.bind, args.port)).await.map_err(|error| {
        super::cannot_listen(
            &std::net::SocketAddr::from((args.bind, args.port)).to_string(),
            &error,
            "--port",
            "--bind",
        )
    })?;
    let printer = Printer::new(args.json, args.quiet, args.headers);
    printer.start(socket.local_addr()?, !args.secrets.is_empty())?;
    let listener = Arc::new(Listener {
        keys: args.secrets,
        delay: args.delay.0,
        forward: args.forward_to,
        clock: SystemClock::new(),
        state: Mutex::new(State { behaviour: Behaviour::new(args.status, args.fail_first), printer }),
    });
    tokio::select! {
        () = serve(socket, Arc::clone(&listener)) => {}
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    listener.state.lock().printer.end()
}

async fn serve(socket: TcpListener, listener: Arc<Listener>) {
    http1::serve(socket, move |request| receive(Arc::clone(&listener), request)).await;
}

/// Receives on `socket` for as long as it is polled, verifies with `key`, and prints a line for each request and its
/// payload: the receiver that `serve --dev` brings with it.
pub(super) async fn demo(socket: TcpListener, key: VerifyingKey, stdout: Output) {
    let state =
        State { behaviour: Behaviour::new(Vec::new(), 0), printer: Printer::new(false, false, false).to(stdout) };
    let listener = Listener {
        keys: vec![key],
        delay: Duration::ZERO,
        forward: None,
        clock: SystemClock::new(),
        state: Mutex::new(state),
    };
    serve(socket, Arc::new(listener)).await;
}

async fn receive(listener: Arc<Listener>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    if listener.forward.is_some() && parts.headers.contains_key(forward::MARK) {
        return Ok(http1::empty(StatusCode::LOOP_DETECTED));
    }
    let Ok(body) = Limited::new(body, LARGEST_BODY).collect().await else {
        return Ok(http1::empty(StatusCode::PAYLOAD_TOO_LARGE));
    };
    let body = body.to_bytes();
    let header = |name: &'static str| parts.headers.get(name)?.to_str().ok();
    let verification = listener.verify(SignedHeaders::find(header), &body);
    let id = header("webhook-id").or_else(|| header("svix-id"));
    let seen = listener.state.lock().behaviour.next(id, !matches!(verification, Verification::Failed(_)));
    let forwarded = match &listener.forward {
        Some(forward) if seen.status.is_success() => Some(forward.send(&parts, body.clone()).await),
        _ => None,
    };
    listener.print(&parts, id, verification, seen, forwarded.as_ref(), &body);
    if !listener.delay.is_zero() {
        tokio::time::sleep(listener.delay).await;
    }
    Ok(forwarded.map_or_else(|| http1::empty(seen.status), Forwarded::into_response))
}

impl Listener {
    fn verify(&self, signed: Result<SignedHeaders<'_>, VerifyError>, body: &[u8]) -> Verification {
        if self.keys.is_empty() {
            return Verification::NoSecret;
        }
        match signed.and_then(|signed| signed.verify(&self.keys, body, self.clock.wall(), TOLERANCE)) {
            Ok(()) => Verification::Verified,
            Err(error) => Verification::Failed(error),
        }
    }

    /// Prints a request with what it is answered.
    fn print(
        &self,
        parts: &http::request::Parts,
        id: Option<&str>,
        verification: Verification,
        seen: Seen,
        forwarded: Option<&Forwarded>,
        body: &[u8],
    ) {
        let event = Event {
            at: self.clock.wall(),
            path: parts.uri.path(),
            id,
            attempt: seen.attempt,
            verification,
            status: forwarded.map_or(seen.status, Forwarded::status),
            forwarded,
            headers: &parts.headers,
            body,
        };
        // Whoever closed the output still gets the answers.
        let _ = self.state.lock().printer.event(&event);
    }
}

fn status(text: &str) -> Result<StatusCode, String> {
    // Below 200 is not an answer, but the announcement of one.
    StatusCode::from_bytes(text.trim().as_bytes())
        .ok()
        .filter(|status| (200..=599).contains(&status.as_u16()))
        .ok_or_else(|| "write a status from 200 to 599".into())
}
