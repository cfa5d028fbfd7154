//! Seeds of the simulation.
//!
//! `POSTRIDER_SIMULATION_SEEDS` says how many are run (300 if it does not), `POSTRIDER_SIMULATION_FIRST` with which they begin,
//! and `POSTRIDER_SIMULATION_SEED` runs that one and prints what happened. `POSTRIDER_SIMULATION_EXPECT` names a promise that
//! must be broken by one of the seeds: that is for sources with a fault (`scripts/test faults`). Seeds are run over both stores, or
//! over the one that `POSTRIDER_SIMULATION_STORE` names, `model` or `sqlite`.
//!
//! A seed says nothing of the store: it is the same world over both. So over the model, which takes a thirtieth of the time, many
//! seeds look for what is wrong with the engine; and over SQLite some look for what is wrong with that, by the same promises, and
//! because everything must happen there as it does over the model, line by line.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use postrider_simulation::{Broken, Change, Over, Report, is_found_without_hints, run};

const SEEDS: u64 = 300;

/// A seed takes less than a second. One that takes longer than this hangs.
const LONGEST: Duration = Duration::from_secs(60);

/// How often it is looked whether one hangs.
const LOOK: Duration = Duration::from_millis(200);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// What seeds are run over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Model,
    Sqlite,
}

impl Engine {
    /// Those that are asked for.
    fn asked_for() -> Vec<Self> {
        match std::env::var("POSTRIDER_SIMULATION_STORE").as_deref() {
            Ok("model") => vec![Self::Model],
            Ok("sqlite") => vec![Self::Sqlite],
            Ok(other) => panic!("there is no store {other:?}: model or sqlite"),
            Err(_) => vec![Self::Model, Self::Sqlite],
        }
    }

    /// Runs something; if there are files, in memory where there is such a folder: seeds write much, and nothing that anybody keeps.
    fn over<T>(self, run: impl FnOnce(Over<'_>) -> T) -> T {
        if self == Self::Model {
            return run(Over::Model);
        }
        let memory = Path::new("/dev/shm");
        let folder =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder");
        run(Over::Sqlite(folder.path()))
    }

    /// Runs a seed.
    fn run(self, seed: u64) -> Report {
        self.over(|over| run(seed, over))
    }

    /// Seeds that are run at a time on a core. Over SQLite, the threads of a seed wait for each other most of the time.
    fn at_a_time(self) -> usize {
        match self {
            Self::Model => 1,
            Self::Sqlite => 6,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Sqlite => "sqlite",
        }
    }
}

/// What happened, with the handles of messages as they came: a commit that fails may leave some out.
fn told(trace: &[String]) -> Vec<String> {
    let mut numbers = BTreeMap::new();
    let mut rename = |line: &String| {
        let words = line.split(' ').scan(false, |after_message, word| {
            let digits = word.trim_end_matches([',', ':']);
            let is_number = std::mem::replace(after_message, word == "message") && digits.parse::<i64>().is_ok();
            let next = numbers.len() + 1;
            Some(match is_number {
                true => format!("#{}", numbers.entry(digits.to_owned()).or_insert(next)),
                false => word.to_owned(),
            })
        });
        words.collect::<Vec<_>>().join(" ")
    };
    trace.iter().map(&mut rename).collect()
}

/// Where what happened in a seed over SQLite is not what happens over the model, if it must be.
fn difference(seed: u64, sqlite: &Report) -> Option<String> {
    if !sqlite.is_the_same_over_all {
        return None;
    }
    let (sqlite, model) = (told(&sqlite.trace), told(&Engine::Model.run(seed).trace));
    let same = model.iter().zip(&sqlite).take_while(|(one, other)| one == other).count();
    let is_same = same == model.len() && same == sqlite.len();
    (!is_same).then(|| format!("line {same} is {:?}, and over the model {:?}", sqlite.get(same), model.get(same)))
}

/// What is wrong with a seed, by the names of promises, and in words.
struct Failure {
    engine: Engine,
    seed: u64,
    names: Vec<String>,
    words: String,
}

impl Failure {
    fn of(engine: Engine, seed: u64, broken: &[Broken]) -> Option<Self> {
        let names = broken.iter().map(Broken::name).collect();
        (!broken.is_empty()).then(|| Self { engine, seed, names, words: format!("{broken:?}") })
    }

    fn other(engine: Engine, seed: u64, name: &str) -> Self {
        Self { engine, seed, names: vec![name.to_owned()], words: name.to_owned() }
    }

    fn shown(&self) -> String {
        let Self { engine, seed, words, .. } = self;
        let store = engine.name();
        format!(
            "seed {seed}: {words}; POSTRIDER_SIMULATION_STORE={store} POSTRIDER_SIMULATION_SEED={seed} shows what happened"
        )
    }
}

/// Seeds that are run on all cores, until one fails.
struct Seeds {
    engine: Engine,
    next: AtomicU64,
    end: u64,
    /// The seeds that are running, and for how many looks.
    running: Mutex<BTreeMap<u64, u32>>,
    failure: Mutex<Option<Failure>>,
    done: AtomicBool,
    deliveries: AtomicU64,
    requests: AtomicU64,
}

impl Seeds {
    fn new(engine: Engine, first: u64, count: u64) -> Self {
        let (running, failure, done) = (Mutex::default(), Mutex::default(), AtomicBool::new(false));
        let (next, deliveries, requests) = (AtomicU64::new(first), AtomicU64::default(), AtomicU64::default());
        Self { engine, next, end: first + count, running, failure, done, deliveries, requests }
    }

    fn run(&self) {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let workers = cores * self.engine.at_a_time();
        std::thread::scope(|scope| {
            scope.spawn(|| self.watch());
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(|| self.work())).collect();
            for worker in workers {
                worker.join().expect("what a seed does is caught");
            }
            self.done.store(true, Ordering::SeqCst);
        });
    }

    fn work(&self) {
        while self.failure.lock().is_none() {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end {
                return;
            }
            self.running.lock().insert(seed, 0);
            let result = catch_unwind(AssertUnwindSafe(|| self.engine.run(seed)));
            self.running.lock().remove(&seed);
            let failure = match result {
                Ok(report) => {
                    self.deliveries.fetch_add(report.deliveries as u64, Ordering::Relaxed);
                    self.requests.fetch_add(report.requests as u64, Ordering::Relaxed);
                    Failure::of(self.engine, seed, &report.broken).or_else(|| self.compare(seed, &report))
                }
                Err(_) => Some(Failure::other(self.engine, seed, "Panicked")),
            };
            if let Some(failure) = failure {
                self.failure.lock().get_or_insert(failure);
            }
        }
    }

    /// Over SQLite everything happens as over the model, except where a fault was put into either.
    fn compare(&self, seed: u64, report: &Report) -> Option<Failure> {
        let is_compared = self.engine == Engine::Sqlite && expected().is_none();
        let words = is_compared.then(|| difference(seed, report)).flatten()?;
        Some(Failure { words, ..Failure::other(self.engine, seed, "OtherThanTheModel") })
    }

    /// A seed that hangs keeps its thread: the process ends with it.
    fn watch(&self) {
        while !self.done.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
            let hanging = {
                let mut running = self.running.lock();
                running.values_mut().for_each(|looks| *looks += 1);
                running.iter().find(|(_, looks)| LOOK * **looks > LONGEST).map(|(seed, _)| *seed)
            };
            if let Some(seed) = hanging {
                let found = judge(Some(&Failure::other(self.engine, seed, "Hangs")), self.end);
                let (Ok(words) | Err(words)) = &found;
                // The process ends: if nobody reads it, the code says it.
                let _ = writeln!(std::io::stdout(), "{words}");
                std::process::exit(i32::from(found.is_err()));
            }
        }
    }
}

/// The promise that must be broken, if there is a fault.
fn expected() -> Option<String> {
    std::env::var("POSTRIDER_SIMULATION_EXPECT").ok().filter(|name| !name.is_empty())
}

/// Whether the seeds came to what they should have come to.
fn judge(failure: Option<&Failure>, seeds: u64) -> Result<String, String> {
    match (expected(), failure) {
        (None, None) => Ok("nothing was broken".to_owned()),
        (None, Some(failure)) => Err(failure.shown()),
        (Some(expected), None) => Err(format!("none of {seeds} seeds broke {expected}")),
        (Some(expected), Some(failure)) if failure.names.contains(&expected) => Ok(failure.shown()),
        (Some(expected), Some(failure)) => Err(format!("expected {expected}, but {}", failure.shown())),
    }
}

#[test]
fn what_is_promised_holds_for_every_seed() {
    for engine in Engine::asked_for() {
        if let Some(seed) = number("POSTRIDER_SIMULATION_SEED") {
            let report = engine.run(seed);
            println!("{}", report.trace.join("\n"));
            assert!(report.broken.is_empty(), "seed {seed} over {engine:?}: {:?}", report.broken);
            continue;
        }
        let count = number("POSTRIDER_SIMULATION_SEEDS").unwrap_or(SEEDS);
        let seeds = Seeds::new(engine, number("POSTRIDER_SIMULATION_FIRST").unwrap_or(0), count);
        seeds.run();
        let failure = seeds.failure.lock();
        match judge(failure.as_ref(), count) {
            Ok(found) => println!("{found}"),
            Err(problem) => panic!("{problem}"),
        }
        println!("{count} seeds over {engine:?}: {:?} deliveries, {:?} requests", seeds.deliveries, seeds.requests);
    }
}

#[test]
fn whatever_is_to_be_sent_is_sent_within_one_scan_though_nobody_is_told() {
    for engine in Engine::asked_for() {
        for change in Change::ALL {
            assert!(engine.over(|over| is_found_without_hints(change, over)), "{change:?} over {engine:?}");
        }
    }
}

#[test]
fn a_seed_happens_in_the_same_way_again() {
    for engine in Engine::asked_for() {
        for seed in 0..10 {
            assert_eq!(engine.run(seed).trace, engine.run(seed).trace, "seed {seed} over {engine:?}");
        }
    }
}
