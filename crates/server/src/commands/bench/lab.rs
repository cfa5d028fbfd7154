//! Where phases are run: the receivers, what is posted, and the progress that is shown.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::{HeaderValue, Uri};

use super::args::Args;
use super::clock::{micros, span};
use super::load::{self, Extent, Load, Manner, Pace, Target};
use super::measured::Measured;
use super::message::Template;
use super::phase::Phase;
use super::private::{Server, TemporaryStore};
use super::progress::Progress;
use super::receiver::Receivers;
use super::usage::Usage;
use super::{control, token};

/// When nothing has arrived for this long, people are told what is being waited for.
const DRAIN_NOTICE: Duration = Duration::from_secs(1);

/// All that the scenarios share.
pub(super) struct Lab {
    /// What was asked for.
    pub(super) args: Args,
    /// The healthy receivers.
    pub(super) receivers: Receivers,
    /// What people see.
    pub(super) progress: Progress,
    template: Arc<Template>,
}

/// The server to measure: one that runs somewhere, or a private one with its store.
pub(super) struct Subject {
    /// Where to post.
    pub(super) target: Target,
    /// `None` for a server that was there before.
    pub(super) private: Option<(Server, TemporaryStore)>,
}

impl Lab {
    /// Starts the receivers.
    pub(super) async fn new(args: Args) -> anyhow::Result<Self> {
        raise_descriptor_limit();
        let receivers = Receivers::start(args.bind, args.endpoints).await?;
        let template = Arc::new(Template::new(args.payload));
        Ok(Self { args, receivers, progress: Progress::new(), template })
    }

    /// Finds or starts the server.
    pub(super) async fn subject(&self) -> anyhow::Result<Subject> {
        let args = &self.args;
        if let Some(url) = &args.url {
            let (address, host) = control::locate(url).await?;
            let signed = || args.jwt_secret.as_deref().map(token::organization);
            let token = args.token.clone().or_else(signed).or_else(|| std::env::var("POSTRIDER_TOKEN").ok());
            let authorization = token.as_deref().map(bearer).transpose()?;
            let target = Target { name: url.clone(), address, host, authorization, pid: args.pid };
            return Ok(Subject { target, private: None });
        }
        self.progress.begin("starting a private server");
        let store = TemporaryStore::create(args.dir.as_deref())?;
        let server = store.serve().await?;
        let target = private_target(&server, &store)?;
        Ok(Subject { target, private: Some((server, store)) })
    }

    /// Warms up, then measures.
    pub(super) async fn measure(
        &self,
        label: &str,
        target: &Target,
        path: &Uri,
        manner: Manner,
    ) -> anyhow::Result<Measured> {
        let load = |extent| Load {
            target: target.clone(),
            paths: vec![path.clone()],
            template: Arc::clone(&self.template),
            manner,
            pace: self.args.pace(),
            connections: manner.connections(self.args.connections),
            extent,
        };
        if !self.args.warmup.0.is_zero() {
            self.progress.begin(format!("{label}: warming up"));
            let phase = self.receivers.open_phase(self.args.endpoints)?;
            load::send(load(Extent::Time(self.args.warmup.0)), &phase, &self.progress).await?;
            self.drain(label, &phase).await;
        }
        self.progress.begin(label);
        let phase = self.receivers.open_phase(self.args.endpoints)?;
        let before = usage(target);
        let sent = load::send(load(self.args.extent()), &phase, &self.progress).await?;
        self.drain(label, &phase).await;
        let server = before.and_then(|before| Some(usage(target)?.since(before)));
        Ok(Measured::of(&phase, sent, server))
    }

    /// Posts `count` messages that no healthy receiver gets, to these paths in turn, as fast as they are accepted.
    pub(super) async fn fill(&self, label: &str, target: &Target, paths: Vec<Uri>, count: u64) -> anyhow::Result<f64> {
        self.progress.begin(label);
        let phase = self.receivers.open_phase(0)?;
        let load = Load {
            target: target.clone(),
            paths,
            template: Arc::clone(&self.template),
            manner: Manner::single(false),
            pace: Pace::Closed,
            connections: self.args.connections,
            extent: Extent::Messages(count),
        };
        let sent = load::send(load, &phase, &self.progress).await?;
        let measured = Measured::of(&phase, sent, None);
        anyhow::ensure!(measured.accepted == count, "only {} of {count} messages were accepted", measured.accepted);
        Ok(count as f64 / measured.accepted_per_s)
    }

    /// Waits until everything accepted has arrived, or nothing has arrived for a while.
    async fn drain(&self, label: &str, phase: &Phase) {
        let (mut received, mut since, mut said) = (0, micros(), false);
        loop {
            let counts = phase.counts();
            // Counting is cheap, looking at every message is not: first whether it can be all.
            if counts.received >= counts.accepted * phase.endpoints as u64 && phase.missing() == 0 {
                return;
            }
            let idle = micros() - since;
            if counts.received > received {
                (received, since, said) = (counts.received, micros(), false);
            } else if idle > span(self.args.drain.0) {
                return;
            } else if idle > span(DRAIN_NOTICE) && !said {
                self.progress.begin(format!("{label}: waiting for {} deliveries", phase.missing()));
                said = true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Subject {
    /// Stops a private server in order, and starts it again on the same store. Gives the seconds that either took.
    pub(super) async fn restart(self) -> anyhow::Result<(Self, f64, f64)> {
        let (server, store) = self.private.context("only a private server can be restarted")?;
        let began = micros();
        server.stop().await?;
        let stopped = micros();
        let server = store.serve().await?;
        let target = private_target(&server, &store)?;
        control::ping(&target).await?;
        let seconds = |from: u64, to: u64| (to - from) as f64 / 1e6;
        let times = (seconds(began, stopped), seconds(stopped, micros()));
        Ok((Self { target, private: Some((server, store)) }, times.0, times.1))
    }

    /// Stops a private server in order; leaves any other alone.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        match self.private {
            Some((server, _store)) => server.stop().await,
            None => Ok(()),
        }
    }
}

/// How to reach a private server.
pub(super) fn private_target(server: &Server, store: &TemporaryStore) -> anyhow::Result<Target> {
    Ok(Target {
        name: "postrider".into(),
        address: server.address,
        host: server.address.to_string(),
        authorization: Some(bearer(&token::organization(store.jwt_secret()))?),
        pid: Some(server.pid),
    })
}

fn bearer(token: &str) -> anyhow::Result<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).context("the token can't be sent in a header")?;
    value.set_sensitive(true);
    Ok(value)
}

/// What the server uses now; `None` if it can't be looked at.
pub(super) fn usage(target: &Target) -> Option<Usage> {
    Usage::of(target.pid?).ok()
}

/// A thousand hanging endpoints hold more sockets than a shell usually allows.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // If it can't be raised, what needs more says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
