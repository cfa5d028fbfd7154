//! A judging process, seen from inside: it answers questions from its standard input until there are no more, or until
//! it reaches one of its limits, which ends it.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getppid, getpriority_process, getrlimit, setpriority_process, setrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::CHECK_MILLIS;
use super::wire::{self, Answer, Part};
use crate::payload;
use crate::schema::{self, Schema};

/// How a process ends that took too much time.
pub(super) const OUT_OF_TIME: i32 = 3;

/// How a process ends that could not begin.
pub(super) const NOT_READY: i32 = 4;

/// Schemas that are kept ready.
const KEPT: usize = 64;

/// Payloads from this size on, and new schemas, are followed by a look at the memory.
const LARGE: usize = 64 * 1024;

/// How often the time is looked at.
const TICK: Duration = Duration::from_millis(10);

/// So many looks without a question in between, and nobody looks until the next one.
const IDLE_TICKS: u32 = 100;

/// The limits of a process.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Processor time of one comparison.
    pub time: Duration,
    /// Address space beyond what the program takes by itself.
    pub memory_bytes: u64,
}

impl Bounds {
    /// As they are handed to a process, which reads them with [`run`].
    pub(super) fn as_arguments(self) -> [String; 2] {
        [self.time.as_micros().to_string(), self.memory_bytes.to_string()]
    }

    /// The most time that one question may take: compiling its schema, comparing, and saying what does not match.
    pub(super) fn longest(self) -> Duration {
        self.time.saturating_mul(2).saturating_add(Duration::from_millis(2 * CHECK_MILLIS))
    }
}

/// Answers questions until there are no more.
pub fn run(bounds: Bounds) -> ExitCode {
    stand_back();
    // Where memory is short for all of them, the system ends this process rather than the server.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let watch = Watch::start();
    bound_memory(memory(SIZE).saturating_add(bounds.memory_bytes));
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let mut ready = Ready::default();
    while let Ok(Some((kind, schema, payload))) = wire::read_question(&mut input) {
        let desk = Desk { watch: &watch, time: bounds.time, ready: &mut ready, begun: time_used() };
        if desk.answer(kind, &schema, &payload, &mut output).is_err() {
            break;
        }
        watch.rest();
        if (ready.has_new() || payload.len() >= LARGE) && memory(RESIDENT) > bounds.memory_bytes / 2 {
            // Another one begins with nothing.
            break;
        }
    }
    ExitCode::SUCCESS
}

/// How far a process stands back behind the server: whoever serves goes first. As far as those that deliver do, and read what is large:
/// further, and while the server is busy callers would wait until the time for a comparison is over.
const NICE: i32 = 5;

/// Makes this process give way to the server, as far as it may whoever started it: what is started has the priority of the thread that
/// does it, and some of the server's stand back themselves.
fn stand_back() {
    let server = getpriority_process(getppid()).unwrap_or(0);
    // The system takes the most that it knows for what is more.
    let _ = setpriority_process(None, server.saturating_add(NICE));
}

/// Answers one question with nothing kept and nothing bounded.
pub(super) fn answer_once(kind: u8, schema: &[u8], payload: &[u8]) -> Answer {
    let (watch, mut said) = (Watch::unwatched(), Vec::new());
    let desk = Desk { watch: &watch, time: Duration::MAX, ready: &mut Ready::default(), begun: time_used() };
    // Writing to memory does not fail.
    let _ = desk.answer(kind, schema, payload, &mut said);
    parsed(&said).unwrap_or_else(|| Answer::Problem("it can't be tried on anything".to_owned()))
}

fn parsed(mut said: &[u8]) -> Option<Answer> {
    let mut part = || {
        let (head, rest) = said.split_first_chunk()?;
        let (kind, _, length) = wire::part_head(*head);
        let (text, rest) = rest.split_at_checked(length)?;
        said = rest;
        Some((kind, text.to_vec()))
    };
    let (kind, text) = part()?;
    let first = wire::first_part(kind, text)?;
    let details = part().and_then(|(kind, text)| wire::details(kind, &text));
    Some(details.map_or(first, Answer::Differs))
}

fn bound_memory(bytes: u64) {
    for (resource, bound) in [(Resource::As, bytes), (Resource::Core, 0)] {
        let limit = Rlimit { current: Some(bound), maximum: getrlimit(resource).maximum };
        // A system that knows no such limit still has the limit on time.
        let _ = setrlimit(resource, limit);
    }
}

/// Places in `statm`.
const SIZE: usize = 0;
const RESIDENT: usize = 1;

/// The memory of this process, in bytes; 0 where the system does not tell.
fn memory(place: usize) -> u64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/statm") else { return 0 };
    let pages = text.split_whitespace().nth(place).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(rustix::param::page_size() as u64)
}

/// Where one question is worked on.
struct Desk<'a> {
    watch: &'a Watch,
    time: Duration,
    ready: &'a mut Ready,
    /// The processor time that was used before, in microseconds.
    begun: u64,
}

/// Says a part of an answer, and what the question has taken since it was begun.
fn say(output: &mut impl Write, begun: u64, part: &Part<'_>) -> io::Result<()> {
    let spent = u32::try_from(time_used().saturating_sub(begun)).unwrap_or(u32::MAX);
    wire::write_part(output, part, spent)
}

impl Desk<'_> {
    fn answer(self, kind: u8, schema: &[u8], payload: &[u8], output: &mut impl Write) -> io::Result<()> {
        let begun = self.begun;
        // What passes the check must not fail later for the sake of a millisecond.
        let share = if kind == wire::CHECK { 1 } else { 2 };
        self.watch.allow(Duration::from_millis(share * CHECK_MILLIS));
        let Ok(text) = std::str::from_utf8(schema) else {
            return say(output, begun, &Part::Problem("is not text"));
        };
        if kind == wire::CHECK {
            return match schema::check_schema(text) {
                Ok(()) => say(output, begun, &Part::Fits),
                Err(problem) => say(output, begun, &Part::Problem(&problem)),
            };
        }
        let schema = self.ready.schema(text);
        let schema = match &*schema {
            Ok(schema) => schema,
            Err(problem) => return say(output, begun, &Part::Problem(problem)),
        };
        self.watch.allow(self.time);
        let payload = match payload::read(payload) {
            Ok(payload) => payload,
            Err(problem) => return say(output, begun, &Part::Incomparable(problem)),
        };
        if schema.fits(&payload) {
            return say(output, begun, &Part::Fits);
        }
        say(output, begun, &Part::Differs)?;
        self.watch.allow(self.time);
        say(output, begun, &Part::Details(&schema.violations(&payload)))
    }
}

type Compiled = Rc<Result<Schema, String>>;

/// Schemas that were compiled, the one that was used last in front.
#[derive(Default)]
struct Ready {
    schemas: VecDeque<(Box<str>, Compiled)>,
    new: bool,
}

impl Ready {
    fn schema(&mut self, text: &str) -> Compiled {
        let known = self.schemas.iter().position(|(known, _)| **known == *text);
        self.new = known.is_none();
        let entry = known.and_then(|place| self.schemas.remove(place));
        let entry = entry.unwrap_or_else(|| (text.into(), Rc::new(Schema::compile(text))));
        let compiled = Rc::clone(&entry.1);
        self.schemas.push_front(entry);
        self.schemas.truncate(KEPT);
        compiled
    }

    /// Whether the last one had to be compiled.
    fn has_new(&self) -> bool {
        self.new
    }
}

/// Ends the process when a question takes more processor time than it may.
struct Watch {
    /// The processor time of this process at which it ends, in microseconds; 0 while there is no question.
    until: Arc<AtomicU64>,
    watcher: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    fn start() -> Self {
        let until = Arc::new(AtomicU64::new(0));
        let watched = Arc::clone(&until);
        let watcher = std::thread::Builder::new().stack_size(64 * 1024).spawn(move || look(&watched));
        if watcher.is_err() {
            // Nothing may be run without.
            std::process::exit(NOT_READY);
        }
        Self { until, watcher: watcher.ok() }
    }

    fn unwatched() -> Self {
        Self { until: Arc::default(), watcher: None }
    }

    /// Allows so much from now on.
    fn allow(&self, time: Duration) {
        let Some(watcher) = &self.watcher else { return };
        let until = time_used().saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)).max(1);
        if self.until.swap(until, Ordering::SeqCst) == 0 {
            watcher.thread().unpark();
        }
    }

    fn rest(&self) {
        self.until.store(0, Ordering::SeqCst);
    }
}

fn look(until: &AtomicU64) {
    let mut idle = 0;
    loop {
        let end = until.load(Ordering::SeqCst);
        if end == 0 {
            idle += 1;
        } else {
            idle = 0;
            if time_used() > end {
                std::process::exit(OUT_OF_TIME);
            }
        }
        if idle > IDLE_TICKS {
            std::thread::park();
            idle = 0;
        } else {
            std::thread::sleep(TICK);
        }
    }
}

/// The processor time that this process has used, in microseconds.
fn time_used() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0).saturating_mul(1_000_000) + u64::try_from(time.tv_nsec / 1_000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_starts_a_process_it_stands_as_far_behind_the_server() {
        /// The most that Linux knows.
        const MOST: i32 = 19;
        let server = getpriority_process(getppid()).unwrap();
        // Only this thread stands back, and was started by one that may do so.
        for before in [0, 5] {
            let of_thread = std::thread::spawn(move || {
                let _ = rustix::process::nice(before);
                stand_back();
                getpriority_process(None).unwrap()
            });
            assert_eq!(of_thread.join().unwrap(), (server + NICE).min(MOST), "{before} before");
        }
    }
}
