//! The healthy tenant beside whom others misbehave, and the verdict on what it suffered.
//!
//! It sends at a steady rate, whatever becomes of earlier messages, first alone and then beside the attack, on the same
//! server. Judged are the 99th percentiles of accepting and of accept to arrival, as a ratio to the same figures alone: at
//! most twice as long, plus 20 ms. [`unharmed_with_changes`] judges what its operator changes, and asks of the server's health, in
//! the same way; [`unharmed_with_texts`] has messages of more than those that are small to the server.
//!
//! One round says little, neither a bad one nor a good one, so the middle of three is judged: two of them are alike. A machine that
//! is busy with something else spoils a round: where other programs had more than [`OTHERS_PERCENT`] of its processors, as the
//! system counts that, another one is measured. If there are no three, because the machine stays busy, one good round is enough:
//! harm by the attack is there in every round, because the attack goes on. And if the
//! machine has become slower since, so would be whoever is alone: that is measured again then, on a server of its own.
//! `POSTRIDER_ISOLATION_ROUNDS` measures that many rounds whatever the first ones say, and judges their median.

use std::collections::HashMap;
use std::future::poll_fn;
use std::time::Duration;

use postrider_testkit::{App, Receiver, TestServer, TestServerBuilder, wait};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

/// What a healthy tenant sends in one round.
const MESSAGES: usize = 150;

/// Between two of its messages.
const EVERY: Duration = Duration::from_millis(10);

/// More than what delivering takes for a small message.
const TEXT_BYTES: usize = 17_000;

/// What it may suffer: this many times what it was alone, and the allowance.
const FACTOR: u32 = 2;
const ALLOWANCE: Duration = Duration::from_millis(20);

/// Rounds of which the middle one is judged.
const ROUNDS: usize = 3;

/// Rounds that are measured, at most, until there are as many that are not spoiled.
const MOST_ROUNDS: usize = 7;

/// A round is spoiled in which other programs had more of the processors' time than this.
const OTHERS_PERCENT: u64 = 10;

/// Attacks take turns: two at a time would measure each other.
static TURN: Mutex<()> = Mutex::const_new(());

/// The healthy tenant.
struct Neighbour {
    app: App,
    receiver: Receiver,
    habits: Habits,
}

/// What the healthy tenant does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habits {
    Sends,
    /// With each message, an application is created, and somebody asks whether the server is well.
    SendsAndChanges,
    /// Messages of [`TEXT_BYTES`].
    SendsTexts,
}

/// Latencies of one round.
#[derive(Debug, Clone, Copy)]
struct Figures {
    accept_p99: Duration,
    arrival_p99: Duration,
    /// Nothing, if nothing is changed.
    change_p99: Duration,
    health_p99: Duration,
}

impl Figures {
    fn are_near(&self, alone: &Self) -> bool {
        let near = |(now, then): (Duration, Duration)| now <= then * FACTOR + ALLOWANCE;
        self.all().into_iter().zip(alone.all()).all(near)
    }

    fn or_slower(self, other: &Self) -> Self {
        Self {
            accept_p99: self.accept_p99.max(other.accept_p99),
            arrival_p99: self.arrival_p99.max(other.arrival_p99),
            change_p99: self.change_p99.max(other.change_p99),
            health_p99: self.health_p99.max(other.health_p99),
        }
    }

    fn all(&self) -> [Duration; 4] {
        [self.accept_p99, self.arrival_p99, self.change_p99, self.health_p99]
    }
}

impl Neighbour {
    async fn of(server: &TestServer, habits: Habits) -> Self {
        let (app, receiver) = (server.app().await, Receiver::ok().await);
        app.endpoint(&receiver.url()).await;
        Self { app, receiver, habits }
    }

    /// How long a change takes, and an answer of the health check.
    async fn change(app: App) -> [Duration; 2] {
        let began = Instant::now();
        app.client.post("/api/v1/app", &json!({ "name": "neighbour" })).await.expect(201);
        let changed = Instant::now();
        app.client.get("/api/v1/health").await.expect(204);
        [changed - began, changed.elapsed()]
    }

    /// Sends one round, and waits until all of it has arrived.
    async fn round(&self) -> Figures {
        let before = self.receiver.requests().len();
        let mut ticks = interval(EVERY);
        let mut callers = JoinSet::new();
        let mut changes = JoinSet::new();
        let text = "x".repeat(if self.habits == Habits::SendsTexts { TEXT_BYTES } else { 0 });
        for number in 0..MESSAGES {
            ticks.tick().await;
            if self.habits == Habits::SendsAndChanges {
                changes.spawn(Self::change(self.app.clone()));
            }
            let (app, payload) = (self.app.clone(), json!({ "number": number, "text": text }));
            callers.spawn(async move {
                let began = Instant::now();
                let id = app.send("user.created", &payload).await;
                (id, began, began.elapsed())
            });
        }
        let sent = wait::within("the healthy tenant's messages to be accepted", callers.join_all()).await;
        let changed = wait::within("changes and checks beside them", changes.join_all()).await;
        let all = self.receiver.wait_for(before + MESSAGES).await;
        let arrived =
            |id: &str| all[before..].iter().find(|request| request.id() == Some(id)).map(|request| request.at);
        let arrivals = sent.iter().map(|(id, began, _)| {
            let at = arrived(id).unwrap_or_else(|| panic!("{id} was accepted and did not arrive"));
            at.saturating_duration_since(*began)
        });
        Figures {
            accept_p99: percentile_99(sent.iter().map(|(.., took)| *took).collect()),
            arrival_p99: percentile_99(arrivals.collect()),
            change_p99: percentile_99(changed.iter().map(|[change, _]| *change).collect()),
            health_p99: percentile_99(changed.iter().map(|[_, health]| *health).collect()),
        }
    }
}

fn percentile_99(mut of: Vec<Duration>) -> Duration {
    of.sort_unstable();
    let place = (of.len() * 99).div_ceil(100);
    place.checked_sub(1).map_or(Duration::ZERO, |place| of[place])
}

/// Where attackers and their receivers run: on a thread of their own, so that their work does not stand in front of the
/// healthy tenant's in a queue of this process. They are on other machines, in earnest.
struct Elsewhere(Option<Runtime>);

impl Elsewhere {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Self(Some(runtime.expect("a thread")))
    }

    /// Drives a future so that whatever it spawns runs there.
    async fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        poll_fn(|context| {
            let _guard = self.0.as_ref().map(Runtime::enter);
            future.as_mut().poll(context)
        })
        .await
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Waits for nobody: this is called in a runtime itself.
            runtime.shutdown_background();
        }
    }
}

/// Runs an attack beside a healthy tenant. `attack` returns when it is going on; what it returns is aborted at the end.
///
/// # Panics
/// If the healthy tenant is harmed in most rounds, or memory exceeds what the server states of its settings, or it ends.
pub(crate) async fn unharmed(server: TestServerBuilder, attack: impl AsyncFnOnce(&TestServer) -> JoinSet<()>) {
    judge(server, Habits::Sends, attack).await;
}

/// As [`unharmed`], of a tenant whose messages are no small ones.
///
/// # Panics
/// As [`unharmed`].
pub(crate) async fn unharmed_with_texts(
    server: TestServerBuilder,
    attack: impl AsyncFnOnce(&TestServer) -> JoinSet<()>,
) {
    judge(server, Habits::SendsTexts, attack).await;
}

/// As [`unharmed`], of a tenant whose operator changes something with each message, and asks whether the server is well, which it
/// must always be.
///
/// # Panics
/// As [`unharmed`], and if the server says that it is not well.
pub(crate) async fn unharmed_with_changes(
    server: TestServerBuilder,
    attack: impl AsyncFnOnce(&TestServer) -> JoinSet<()>,
) {
    judge(server, Habits::SendsAndChanges, attack).await;
}

#[expect(clippy::print_stdout, reason = "the figures are for whoever runs it with --nocapture")]
async fn judge(server: TestServerBuilder, habits: Habits, attack: impl AsyncFnOnce(&TestServer) -> JoinSet<()>) {
    let _turn = TURN.lock().await;
    let calm = server.clone();
    let mut server = server.start().await;
    let memory_bytes = server.stated_memory_bytes().await;
    let neighbour = Neighbour::of(&server, habits).await;
    neighbour.round().await;
    let alone = neighbour.round().await;
    let elsewhere = Elsewhere::start();
    let attackers = elsewhere.run(attack(&server)).await;
    let asked = std::env::var("POSTRIDER_ISOLATION_ROUNDS").ok().and_then(|rounds| rounds.parse::<usize>().ok());
    let mut beside = Vec::new();
    for _ in 0..asked.unwrap_or(MOST_ROUNDS) {
        let before = Processors::now();
        let figures = neighbour.round().await;
        beside.push(Round { figures, is_spoiled: Processors::now().others_percent_since(&before) > OTHERS_PERCENT });
        if asked.is_none() && is_unharmed(&beside, &alone).is_some() {
            break;
        }
    }
    let peak = server.peak_memory_bytes();
    drop(attackers);
    assert!(server.terminate().await.success(), "the server ends in order after the attack");
    let verdict = |alone: &Figures| match asked {
        Some(_) => median(&beside).are_near(alone),
        None => is_unharmed(&beside, alone).unwrap_or_else(|| beside.iter().any(|round| round.figures.are_near(alone))),
    };
    let alone = if verdict(&alone) { alone } else { alone.or_slower(&again_alone(calm, habits).await) };
    println!(
        "alone {alone:?}, beside {:?} of {} rounds, {} spoiled, memory {} of {} MiB",
        median(&beside),
        beside.len(),
        beside.iter().filter(|round| round.is_spoiled).count(),
        peak >> 20,
        memory_bytes >> 20
    );
    assert!(verdict(&alone), "the healthy tenant was harmed: alone {alone:?}, beside the attack {beside:?}");
    assert!(peak <= memory_bytes, "{} MiB of memory, {} allowed", peak >> 20, memory_bytes >> 20);
}

/// A round beside the attack.
#[derive(Debug, Clone, Copy)]
struct Round {
    figures: Figures,
    is_spoiled: bool,
}

/// The round in the middle, by the time to arrive.
fn median(rounds: &[Round]) -> Figures {
    let mut figures = rounds.iter().map(|round| round.figures).collect::<Vec<_>>();
    figures.sort_unstable_by_key(|figures| figures.arrival_p99);
    figures[figures.len() / 2]
}

/// Whether most of the first [`ROUNDS`] that are not spoiled are near what it was alone; `None` as long as they do not say.
fn is_unharmed(rounds: &[Round], alone: &Figures) -> Option<bool> {
    let told = rounds.iter().filter(|round| !round.is_spoiled).take(ROUNDS);
    let (near, far): (Vec<&Round>, Vec<&Round>) = told.partition(|round| round.figures.are_near(alone));
    let is_most = |some: &[&Round]| some.len() > ROUNDS / 2;
    (is_most(&near) || is_most(&far)).then(|| is_most(&near))
}

/// What the processors have done, in the system's ticks.
struct Processors {
    /// All the time there was.
    all: u64,
    /// What programs had of it. What the system does for a network is nobody's.
    programs: u64,
    /// What this test had, with its server and whatever that has started.
    ours: u64,
}

impl Processors {
    fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").expect("the system counts what its processors do");
        let line = stat.lines().next().expect("a line of all processors");
        let times = line.split_whitespace().skip(1).take(8).map(|time| time.parse().expect("a number of ticks"));
        let times = times.collect::<Vec<u64>>();
        // User, nice, system, idle, waiting, interrupts (two kinds), and what another guest of the same machine had.
        let programs = times[0] + times[1] + times[2] + times[7];
        Self { all: times.iter().sum(), programs, ours: ticks_of_this_test() }
    }

    fn others_percent_since(&self, before: &Self) -> u64 {
        let programs = self.programs.saturating_sub(before.programs);
        let others = programs.saturating_sub(self.ours.saturating_sub(before.ours));
        others * 100 / self.all.saturating_sub(before.all).max(1)
    }
}

/// What this process has used, with its children, theirs, and those that have ended.
fn ticks_of_this_test() -> u64 {
    /// Where the fields are in `/proc/PID/stat`, behind the name in parentheses: the parent, and the first of four times.
    const PARENT: usize = 1;
    const TIMES: usize = 11;
    let processes = std::fs::read_dir("/proc").expect("the system lists its processes");
    let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let fields = |number: u32| {
        // One may end while it is looked at.
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        let fields = stat.rsplit(')').next()?.split_whitespace().skip(1);
        Some((
            number,
            [0].into_iter().chain(fields.map(|field| field.parse().unwrap_or_default())).collect::<Vec<u64>>(),
        ))
    };
    let processes = numbers.filter_map(fields).collect::<HashMap<u32, Vec<u64>>>();
    let is_ours = |mut number: u32| {
        while let Some(fields) = processes.get(&number) {
            if number == std::process::id() {
                return true;
            }
            number = u32::try_from(fields[PARENT]).unwrap_or_default();
        }
        false
    };
    let ours = processes.iter().filter(|(number, _)| is_ours(**number));
    ours.map(|(_, fields)| fields[TIMES..TIMES + 4].iter().sum::<u64>()).sum()
}

/// What the healthy tenant has on a server that nobody attacks, now.
async fn again_alone(server: TestServerBuilder, habits: Habits) -> Figures {
    let server = server.start().await;
    let neighbour = Neighbour::of(&server, habits).await;
    neighbour.round().await;
    neighbour.round().await
}

#[test]
fn most_of_three_rounds_that_are_not_spoiled_decide() {
    let took = |millis| Figures {
        accept_p99: Duration::from_millis(millis),
        arrival_p99: Duration::from_millis(millis),
        change_p99: Duration::ZERO,
        health_p99: Duration::ZERO,
    };
    let (near, far) = (Round { figures: took(10), is_spoiled: false }, Round { figures: took(500), is_spoiled: false });
    let spoiled = Round { is_spoiled: true, ..far };
    for (rounds, verdict) in [
        (&[][..], None),
        (&[near], None),
        (&[near, far], None),
        (&[spoiled, spoiled, spoiled, near], None),
        (&[near, near], Some(true)),
        (&[near, far, near], Some(true)),
        (&[far, near, far], Some(false)),
        (&[spoiled, near, spoiled, spoiled, near], Some(true)),
    ] {
        assert_eq!(is_unharmed(rounds, &took(10)), verdict, "{rounds:?}");
    }
}
