//! The healthy tenant beside whom others misbehave, and the verdict on what it suffered.
//!
//! It sends at a steady rate, whatever becomes of earlier messages, first alone and then beside the attack, on the same
//! server. Judged are the 99th percentiles of accepting and of accept to arrival, as a ratio to the same figures alone: at
//! most twice as long, plus 20 ms. [`unharmed_with_changes`] judges what its operator changes, and asks of the server's health, in
//! the same way; [`unharmed_with_texts`] has messages of more than those that are small to the server, [`unharmed_with_schema`] such as
//! are compared with a schema.
//!
//! One round says little, neither a bad one nor a good one. So what it is alone is the median of three, and of three beside the attack two
//! decide. A machine that is busy with something else spoils a round: where other programs had more than [`OTHERS_PERCENT`] of its
//! processors, as the system counts that, another one is measured. If there are no three, because the machine stays busy, one good round
//! is enough: harm by the attack is there in every round, because the attack goes on. That must not excuse what the attack itself does:
//! what the system's own threads have (they write to disks, and look for memory) is nobody's, and a host that gives its
//! processors to other guests, which it does to whoever uses much, makes the machine too busy to judge. If the machine has become slower
//! since, so would be whoever is alone: that is measured again then, on a server of its own.
//! `POSTRIDER_ISOLATION_ROUNDS` measures that many rounds whatever the first ones say, and judges their median.

use std::collections::HashMap;
use std::future::poll_fn;
use std::num::{NonZeroUsize, ParseIntError};
use std::time::Duration;

use postrider_testkit::{App, Receiver, TestServer, TestServerBuilder, wait};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

/// What a healthy tenant sends in one round.
const MESSAGES: usize = 100;

/// Between two of its messages.
const EVERY: Duration = Duration::from_millis(10);

/// More than what delivering takes for a small message.
const TEXT_BYTES: usize = 17_000;

/// What it may suffer: this many times what it was alone, and the allowance.
const FACTOR: u32 = 2;
const ALLOWANCE: Duration = Duration::from_millis(20);

/// Rounds of which most decide, and of which the median counts where there is nothing to compare them with.
const ROUNDS: usize = 3;

/// Rounds that are measured, at most, until there are as many that are not spoiled.
const MOST_ROUNDS: usize = 7;

/// And of those alone, without which there is a verdict, too: a machine that stays busy then spoils those beside the attack as well.
const MOST_ALONE: usize = 5;

/// A round is spoiled in which other programs, or other guests of the host, had more of the processors' time than this.
const OTHERS_PERCENT: u64 = 10;

/// Attacks take turns: two at a time would measure each other.
static TURN: Mutex<()> = Mutex::const_new(());

/// Waits for a turn. Whatever is not measured, but runs in this suite, needs one too: what it does would count as the attack's.
pub(crate) async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

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
    /// What it sends must match a schema.
    SendsCompared,
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

    /// The median of each.
    fn median(of: &[Self]) -> Self {
        let median = |figure: fn(&Self) -> Duration| {
            let mut figures = of.iter().map(figure).collect::<Vec<_>>();
            figures.sort_unstable();
            figures[figures.len() / 2]
        };
        Self {
            accept_p99: median(|one| one.accept_p99),
            arrival_p99: median(|one| one.arrival_p99),
            change_p99: median(|one| one.change_p99),
            health_p99: median(|one| one.health_p99),
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
        if habits == Habits::SendsCompared {
            let schema = json!({ "type": "object", "required": ["number"] });
            let kind = json!({ "name": "user.created", "description": "", "schemas": { "1": schema } });
            app.client.post("/api/v1/event-type", &kind).await.expect(201);
            let settings = json!({ "schemaEnforcement": "reject" });
            app.client.patch("/api/v1/environment/settings", &settings).await.expect(200);
        }
        Self { app, receiver, habits }
    }

    /// How long a change takes, and an answer of the health check.
    async fn change(app: App) -> [Duration; 2] {
        let began = Instant::now();
        app.client.post("/api/v1/app", &json!({ "name": "neighbour" })).await.expect(201);
        let changed = Instant::now();
        // As those ask who watch over servers: over a new connection, without a token.
        app.client.stranger().get("/api/v1/health").await.expect(204);
        [changed - began, changed.elapsed()]
    }

    /// What it has alone: the median of the first [`ROUNDS`] that nothing spoils; if there are none, of all.
    async fn alone(&self) -> Figures {
        // The first is slower than those that follow, because much is done for the first time.
        self.send().await;
        let mut rounds = Vec::new();
        while rounds.len() < MOST_ALONE && whole(&rounds).len() < ROUNDS {
            rounds.push(self.round().await);
        }
        let whole = whole(&rounds);
        Figures::median(&if whole.is_empty() { figures(&rounds) } else { whole })
    }

    /// One round, and what others had of the processors meanwhile.
    async fn round(&self) -> Round {
        let before = Processors::now();
        let figures = self.send().await;
        Round { figures, spoiled: Processors::now().spoiled_since(&before) }
    }

    /// Sends one round, and waits until all of it has arrived.
    async fn send(&self) -> Figures {
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

/// As [`unharmed`], of a tenant whose messages are compared with a schema.
///
/// # Panics
/// As [`unharmed`].
pub(crate) async fn unharmed_with_schema(
    server: TestServerBuilder,
    attack: impl AsyncFnOnce(&TestServer) -> JoinSet<()>,
) {
    judge(server, Habits::SendsCompared, attack).await;
}

#[expect(clippy::print_stdout, reason = "the figures are for whoever runs it with --nocapture")]
async fn judge(server: TestServerBuilder, habits: Habits, attack: impl AsyncFnOnce(&TestServer) -> JoinSet<()>) {
    let _turn = turn().await;
    let asked = rounds_asked_for(std::env::var("POSTRIDER_ISOLATION_ROUNDS").ok().as_deref());
    let asked = asked.expect("POSTRIDER_ISOLATION_ROUNDS is a number from 1 on");
    let calm = server.clone();
    let mut server = server.start().await;
    let memory_bytes = server.stated_memory_bytes().await;
    let neighbour = Neighbour::of(&server, habits).await;
    let mut alone = neighbour.alone().await;
    let elsewhere = Elsewhere::start();
    let attackers = elsewhere.run(attack(&server)).await;
    let mut beside = Vec::new();
    while beside.len() < asked.unwrap_or(MOST_ROUNDS) && (asked.is_some() || decided(&beside, &alone).is_none()) {
        beside.push(neighbour.round().await);
    }
    let peak = server.peak_memory_bytes();
    let mut attackers = attackers;
    while let Some(ended) = attackers.try_join_next() {
        // An attack that has come to grief attacks nobody.
        ended.expect("the attack goes on as it was meant to");
    }
    drop(attackers);
    assert!(server.terminate().await.success(), "the server ends in order after the attack");
    let verdict_by = |alone: &Figures| match asked {
        Some(_) => Verdict::by(Figures::median(&figures(&beside)).are_near(alone)),
        None => verdict(&beside, alone),
    };
    let mut verdict = verdict_by(&alone);
    if verdict == Verdict::Harmed {
        let server = calm.start().await;
        alone = Neighbour::of(&server, habits).await.alone().await;
        verdict = verdict_by(&alone);
    }
    println!(
        "alone {alone:?}, beside {:?} of {} rounds, {} spoiled, memory {} of {} MiB",
        Figures::median(&figures(&beside)),
        beside.len(),
        beside.iter().filter(|round| round.spoiled.is_some()).count(),
        peak >> 20,
        memory_bytes >> 20
    );
    assert!(verdict != Verdict::Busy, "the machine is busy: alone {alone:?}, beside the attack {beside:?}");
    assert!(verdict != Verdict::Harmed, "the healthy tenant was harmed: alone {alone:?}, beside the attack {beside:?}");
    assert!(peak <= memory_bytes, "{} MiB of memory, {} allowed", peak >> 20, memory_bytes >> 20);
}

/// How many rounds somebody wants to have measured, who may not want none.
fn rounds_asked_for(text: Option<&str>) -> Result<Option<usize>, ParseIntError> {
    text.map(|text| text.parse().map(NonZeroUsize::get)).transpose()
}

/// A round, alone or beside the attack.
#[derive(Debug, Clone, Copy)]
struct Round {
    figures: Figures,
    spoiled: Option<Spoiled>,
}

/// Why a round says little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoiled {
    /// Other programs had much of the processors.
    ByOthers,
    /// The host gave much of them to other guests.
    ByHost,
}

fn figures(rounds: &[Round]) -> Vec<Figures> {
    rounds.iter().map(|round| round.figures).collect()
}

/// The first [`ROUNDS`] that nothing has spoiled.
fn whole(rounds: &[Round]) -> Vec<Figures> {
    rounds.iter().filter(|round| round.spoiled.is_none()).map(|round| round.figures).take(ROUNDS).collect()
}

/// What rounds beside an attack say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Unharmed,
    Harmed,
    /// Nothing: the host had no processors to spare.
    Busy,
}

impl Verdict {
    fn by(is_unharmed: bool) -> Self {
        if is_unharmed { Self::Unharmed } else { Self::Harmed }
    }
}

/// Whether most of the [`ROUNDS`] that nothing has spoiled are near what it was alone; `None` as long as they do not say. That they are
/// not is said by all of them: what it was alone may be measured again, and of two rounds one may then be near.
fn decided(rounds: &[Round], alone: &Figures) -> Option<bool> {
    let whole = whole(rounds);
    let near = whole.iter().filter(|figures| figures.are_near(alone)).count();
    let is_most = near > ROUNDS / 2;
    (is_most || whole.len() == ROUNDS).then_some(is_most)
}

/// What is said of all rounds that were measured. Where other programs spoiled so many that there are not enough, one good round
/// will do.
fn verdict(rounds: &[Round], alone: &Figures) -> Verdict {
    if let Some(is_unharmed) = decided(rounds, alone) {
        return Verdict::by(is_unharmed);
    }
    let by_others = rounds.iter().filter(|round| round.spoiled == Some(Spoiled::ByOthers)).count();
    if by_others <= MOST_ROUNDS - ROUNDS {
        return Verdict::Busy;
    }
    Verdict::by(rounds.iter().any(|round| round.figures.are_near(alone)))
}

/// What the processors have done, in the system's ticks.
struct Processors {
    /// All the time there was.
    all: u64,
    /// What programs had of it, and threads of the system. What that does for a network is nobody's.
    used: u64,
    /// What other guests of the same host had.
    stolen: u64,
    /// What each process has used.
    processes: HashMap<u32, Process>,
}

impl Processors {
    fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").expect("the system counts what its processors do");
        let line = stat.lines().next().expect("a line of all processors");
        let times = line.split_whitespace().skip(1).take(8).map(|time| time.parse().expect("a number of ticks"));
        let times = times.collect::<Vec<u64>>();
        // User, nice, system, idle, waiting, interrupts (two kinds), and what another guest of the same machine had.
        let used = times[0] + times[1] + times[2];
        Self { all: times.iter().sum(), used, stolen: times[7], processes: Process::all() }
    }

    /// What spoils a round that began then.
    fn spoiled_since(&self, before: &Self) -> Option<Spoiled> {
        let all = self.all.saturating_sub(before.all).max(1);
        let is_much = |ticks: u64| ticks * 100 / all > OTHERS_PERCENT;
        let others = self.used.saturating_sub(before.used).saturating_sub(self.own_or_nobodys_since(before));
        if is_much(others) {
            Some(Spoiled::ByOthers)
        } else {
            is_much(self.stolen.saturating_sub(before.stolen)).then_some(Spoiled::ByHost)
        }
    }

    /// What this test has used since then, with its server and whatever that has started, and the threads of the system: what is
    /// asked of disks, and of memory, is their work. (In a container they are not seen, and count as another program.)
    fn own_or_nobodys_since(&self, before: &Self) -> u64 {
        let ours = self.own_ticks().saturating_sub(before.own_ticks());
        let of_system = self.processes.iter().filter(|(_, process)| process.is_of_system).map(|(number, process)| {
            // Those that have ended since are not counted, and those that are new have done nothing before.
            process.ticks.saturating_sub(before.processes.get(number).map_or(0, |process| process.ticks))
        });
        ours + of_system.sum::<u64>()
    }

    fn own_ticks(&self) -> u64 {
        let own = self.processes.iter().filter(|(number, _)| self.is_ours(**number));
        own.map(|(_, process)| process.ticks).sum()
    }

    fn is_ours(&self, mut number: u32) -> bool {
        while let Some(process) = self.processes.get(&number) {
            if number == std::process::id() {
                return true;
            }
            number = process.parent;
        }
        false
    }
}

/// What the system says of a process.
struct Process {
    parent: u32,
    /// It is a thread of the system's own.
    is_of_system: bool,
    /// What it has used, with its children that have ended and were waited for.
    ticks: u64,
}

impl Process {
    fn all() -> HashMap<u32, Self> {
        let processes = std::fs::read_dir("/proc").expect("the system lists its processes");
        let numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        // One may end while it is looked at.
        let stat = |number: u32| std::fs::read_to_string(format!("/proc/{number}/stat")).ok();
        numbers.filter_map(|number| Some((number, Self::of(&stat(number)?)?))).collect()
    }

    /// By the line of `/proc/PID/stat`.
    fn of(stat: &str) -> Option<Self> {
        /// Where the fields are behind the name in parentheses: the parent, flags, and the first of four times.
        const PARENT: usize = 1;
        const FLAGS: usize = 6;
        const TIMES: usize = 11;
        /// The flag of a thread of the system (`PF_KTHREAD`).
        const OF_SYSTEM: u64 = 0x0020_0000;
        let fields = stat.rsplit(')').next()?.split_whitespace().collect::<Vec<_>>();
        let number = |field: usize| fields.get(field)?.parse::<u64>().ok();
        let times = (TIMES..TIMES + 4).map(number);
        Some(Self {
            parent: u32::try_from(number(PARENT)?).ok()?,
            is_of_system: number(FLAGS)? & OF_SYSTEM != 0,
            ticks: times.sum::<Option<u64>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(millis: u64) -> Figures {
        let time = Duration::from_millis(millis);
        Figures { accept_p99: time, arrival_p99: time, change_p99: Duration::ZERO, health_p99: Duration::ZERO }
    }

    fn round(millis: u64) -> Round {
        Round { figures: took(millis), spoiled: None }
    }

    fn spoiled(millis: u64, by: Spoiled) -> Round {
        Round { spoiled: Some(by), ..round(millis) }
    }

    #[test]
    fn most_of_three_rounds_that_are_not_spoiled_decide() {
        let (near, far, spoiled) = (round(10), round(500), spoiled(500, Spoiled::ByOthers));
        for (rounds, decides) in [
            (&[][..], None),
            (&[near], None),
            (&[near, far], None),
            (&[far, far], None),
            (&[spoiled, spoiled, spoiled, near], None),
            (&[near, near], Some(true)),
            (&[near, far, near], Some(true)),
            (&[far, near, far], Some(false)),
            (&[far, far, near], Some(false)),
            (&[spoiled, near, spoiled, spoiled, near], Some(true)),
        ] {
            assert_eq!(decided(rounds, &took(10)), decides, "{rounds:?}");
        }
    }

    #[test]
    fn one_good_round_is_enough_only_where_other_programs_spoiled_the_others() {
        let (near, far) = (round(10), round(500));
        let (by_others, by_host) = (spoiled(500, Spoiled::ByOthers), spoiled(500, Spoiled::ByHost));
        let near_by_others = spoiled(10, Spoiled::ByOthers);
        for (rounds, says) in [
            ([by_others, by_others, by_others, by_others, by_others, far, near], Verdict::Unharmed),
            ([by_others, by_others, by_others, by_others, by_others, by_others, near_by_others], Verdict::Unharmed),
            ([by_others, by_others, by_others, by_others, by_others, far, far], Verdict::Harmed),
            ([by_others; 7], Verdict::Harmed),
            ([by_host, by_others, by_others, by_others, by_others, far, near], Verdict::Busy),
            ([by_host, by_host, by_host, by_host, by_host, by_host, near], Verdict::Busy),
            ([by_host, by_host, by_host, by_host, near, far, near], Verdict::Unharmed),
            ([by_host, by_host, by_host, by_host, near, far, far], Verdict::Harmed),
        ] {
            assert_eq!(verdict(&rounds, &took(10)), says, "{rounds:?}");
        }
    }

    #[test]
    fn what_it_is_alone_now_takes_most_of_three_rounds_to_excuse_the_attack() {
        let rounds = [round(500), round(300), round(400)];
        for (alone, says) in [(10, Verdict::Harmed), (150, Verdict::Harmed), (200, Verdict::Unharmed)] {
            assert_eq!(verdict(&rounds, &took(alone)), says, "alone {alone} ms");
        }
    }

    #[test]
    fn one_that_is_slow_by_chance_says_nothing_of_the_others() {
        let slow = Figures { accept_p99: Duration::from_millis(900), ..took(10) };
        let [accept, arrival, ..] = Figures::median(&[took(12), slow, took(11)]).all();
        assert_eq!((accept, arrival), (Duration::from_millis(12), Duration::from_millis(11)));
    }

    #[test]
    fn what_threads_of_the_system_have_is_nobodys() {
        let of = |flags: u64, ticks: u64| {
            let stat = format!("9 (a (b) c) S 2 0 0 0 -1 {flags} 0 0 0 0 {ticks} 1 0 0 20 0");
            Process::of(&stat).expect("it is such a line")
        };
        let now = |all: u64, others: u64, of_system: u64, stolen: u64| Processors {
            all,
            used: others + of_system,
            stolen,
            processes: HashMap::from([(9, of(0x0020_8040, of_system)), (8, of(0x0040_0000, others))]),
        };
        let before = now(1_000, 0, 0, 0);
        for (others, of_system, stolen, by) in [
            (0, 500, 0, None),
            (100, 500, 100, None),
            (110, 0, 0, Some(Spoiled::ByOthers)),
            (0, 0, 110, Some(Spoiled::ByHost)),
        ] {
            assert_eq!(now(2_000, others, of_system, stolen).spoiled_since(&before), by);
        }
    }

    #[test]
    fn no_rounds_are_not_asked_for() {
        assert_eq!((rounds_asked_for(None), rounds_asked_for(Some("20"))), (Ok(None), Ok(Some(20))));
        for none in ["0", "", "few"] {
            assert!(rounds_asked_for(Some(none)).is_err(), "{none:?}");
        }
    }
}
