//! Schemas are run in processes of their own, because what they cost can't be known beforehand and a thread can't be
//! stopped: operators write the schemas, anybody writes what they are tried on.
//!
//! A process (`postrider __judge`) has a limit on its memory that the kernel enforces and a limit on its processor time
//! that it enforces itself; one that exceeds either is gone, and the next question starts another. Tenants take turns
//! (`turns.rs`) by the time that theirs take: of short turns an environment never has more than half of the processes at a time, an
//! application a quarter, of long ones likewise, and those whose comparisons lately took long leave a process to the others; so
//! expensive schemas delay nobody but those who use them. Nothing of a schema or a payload is ever parsed by the server itself.

mod child;
mod idle;
mod process;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider_domain::application::EnvironmentId;
use postrider_domain::settings::Span;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub use child::{Bounds, run as run_child};
pub use process::Program;

use crate::submission::Violation;
use crate::turns::{Crowded, Tenant, Turn, Turns};
use idle::Idle;
use process::{Child, Ended, Failure};

postrider_domain::limits! {
    in "Schemas";
    /// JSON values in a schema
    pub const MAX_VALUES: usize = 100_000, "values", beyond "422; of what was stored before, messages are treated as too costly";
    /// Patterns in a schema
    pub const MAX_PATTERNS: usize = 1_000, "patterns", beyond "422";
    /// Subschemas that apply to one value, counted through references
    pub const MAX_EXPANSION: u64 = 10_000, "subschemas", beyond "422";
    /// References and subschemas that lead from one to the next for one value
    pub const MAX_CHAIN: usize = 500, "steps", beyond "422";
    /// Processor time for checking a new schema
    pub const CHECK_MILLIS: u64 = 500, "ms", beyond "422";
    /// Time for checking all schemas of one request, not counting the wait for turns
    pub const CHECK_ALL_SECONDS: u64 = 15, "s", beyond "422";
    /// Mismatches that are told of one payload
    pub const MAX_VIOLATIONS: usize = 50, "mismatches", beyond "the others are not listed";
    /// What is told of one payload's mismatches, as JSON
    pub const MAX_DETAIL_BYTES: usize = 16_384, "bytes", beyond "the others are not listed, and that is said";
    /// Processor time for comparing one payload with its schema
    setting "schemas.time", beyond "by `schemas.beyond_budget`";
    /// Memory of a process that compares payloads with schemas
    setting "schemas.memory_bytes", beyond "422 for a schema; for a message by `schemas.beyond_budget`";
    /// Processes that compare payloads with schemas; an environment has half of them at a time, an application a quarter: of those that are expected to be short, and of the others
    setting "schemas.processes", beyond "waits for its turn";
    /// For how long such a process waits for its next question
    setting "schemas.idle", beyond "it ends, and another is started when there is one";
    /// Messages and schemas of one application that wait for their turn
    pub const MAX_WAITING: usize = 1_024, "messages", beyond "503";
    /// Messages and schemas of everybody that wait for their turn; of one environment, half of what the others leave
    pub const MAX_WAITING_IN_ALL: usize = 16_384, "messages", beyond "503";
    /// The longest wait for a turn; of the schemas of one request, for all their turns together
    pub const MAX_WAIT_SECONDS: u64 = 10, "s", beyond "503";
}

/// What happens to a message that can't be compared with its schema within the limits, where schemas are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BeyondBudget {
    /// It is refused.
    Refuse,
    /// It passes, and the answer has a warning.
    Pass,
}

/// Imports that are read at a time, of everybody.
pub const IMPORTS: usize = 2;

fn span(text: &str) -> Span {
    text.parse().unwrap_or(Span(Duration::MAX))
}

postrider_domain::options! {
    /// Comparing payloads with schemas, which happens in processes of its own.
    pub struct SchemaOptions in "schemas" {
        /// The most processor time that comparing one payload with its schema may take.
        #[within("1ms", "1m")]
        pub time: Span = span("250ms"),
        /// The most memory that such a process may have, in bytes beyond what the program takes by itself.
        #[within(67_108_864, 17_179_869_184_u64)]
        pub memory_bytes: u64 = 268_435_456,
        /// The most such processes at a time; 0 is one per core, and at least two. There are none until an environment
        /// enforces schemas or an event type gets one.
        #[within(0, 256)]
        pub processes: usize = 0,
        /// For how long such a process waits for its next question before it ends. While it waits it may keep half of
        /// `memory_bytes`.
        #[within("1s", "1d")]
        pub idle: Span = span("1m"),
        /// What happens to a message that can't be compared within these limits, in an environment that refuses what does
        /// not match: `refuse` or `pass`. In one that only warns it passes.
        pub beyond_budget: BeyondBudget = BeyondBudget::Refuse,
    }
}

impl SchemaOptions {
    /// How many processes there are at most: by the setting, or by the machine's cores.
    pub fn most_processes(&self) -> usize {
        match self.processes {
            0 => std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2)),
            processes => processes,
        }
    }
}

/// Where schemas are run.
#[derive(Debug, Clone)]
pub enum Place {
    /// In processes of this program.
    Processes(Program),
    /// On threads of this process, which nothing can stop. For tests that have no program.
    Threads,
}

/// What became of comparing a payload with a schema.
#[derive(Debug)]
pub(crate) enum Judgement {
    /// It matches.
    Fits,
    /// It does not, and this is where.
    Differs(Vec<Violation>),
    /// Nothing can be compared with the schema, for this reason.
    Unusable(String),
    /// The limits were reached first.
    TooCostly,
    /// There was no turn in time, or the host has no process to spare.
    Busy,
}

/// A schema was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckError {
    /// It is none, or too complex, for this reason.
    Refused(String),
    /// Nobody had time to look.
    Busy,
}

/// Runs schemas.
pub struct Judges {
    place: Place,
    options: SchemaOptions,
    turns: Arc<Turns>,
    imports: Arc<Turns>,
    idle: Arc<Idle<Child>>,
}

impl Judges {
    /// Makes one. No process is started before there is something to judge.
    pub fn new(place: Place, options: SchemaOptions) -> Arc<Self> {
        Arc::new(Self {
            place,
            turns: Turns::for_work(options.most_processes()),
            idle: Idle::new(options.idle.0),
            options,
            imports: Turns::new(IMPORTS),
        })
    }

    /// What happens to a message that is too costly.
    pub(crate) fn beyond_budget(&self) -> BeyondBudget {
        self.options.beyond_budget
    }

    /// Checks schemas of an environment; returns the first problem of each that has one, by its place.
    pub async fn check(
        self: &Arc<Self>,
        environment: &EnvironmentId,
        schemas: &[&str],
    ) -> Result<Vec<(usize, String)>, CheckError> {
        let tenant = Tenant::environment(environment.clone());
        let (mut patience, mut time) = (Duration::from_secs(MAX_WAIT_SECONDS), Duration::from_secs(CHECK_ALL_SECONDS));
        let mut problems = Vec::new();
        for (place, schema) in schemas.iter().enumerate() {
            // To wait for others is nothing that the schemas cost.
            let waited = Instant::now();
            let turn = self.turn(&tenant, patience).await.map_err(|Crowded| CheckError::Busy)?;
            patience = patience.saturating_sub(waited.elapsed());
            let begun = Instant::now();
            let asked = self.ask_to_the_end(turn, wire::CHECK, (*schema).into(), Bytes::new());
            let asked = tokio::time::timeout(time, asked).await;
            time = time.saturating_sub(begun.elapsed());
            let too_long = || {
                CheckError::Refused(format!(
                    "checking the schemas takes longer than {CHECK_ALL_SECONDS} s: send fewer at a time"
                ))
            };
            match asked.map_err(|_| too_long())? {
                Ok(wire::Answer::Fits) => {}
                Ok(wire::Answer::Problem(problem)) => problems.push((place, problem)),
                Err(Failure::TooCostly) => problems.push((place, "is too costly to be tried on payloads".to_owned())),
                Ok(_) | Err(Failure::Unavailable) => return Err(CheckError::Busy),
            }
        }
        Ok(problems)
    }

    /// Compares a payload with a schema.
    pub(crate) async fn compare(self: &Arc<Self>, tenant: &Tenant, schema: &Arc<str>, payload: &Bytes) -> Judgement {
        let turn = self.turn(tenant, Duration::from_secs(MAX_WAIT_SECONDS)).await;
        let Ok(turn) = turn else { return Judgement::Busy };
        match self.ask_to_the_end(turn, wire::COMPARE, Arc::clone(schema), payload.clone()).await {
            Ok(wire::Answer::Fits) => Judgement::Fits,
            Ok(wire::Answer::Differs(violations)) => Judgement::Differs(violations),
            Ok(wire::Answer::Problem(problem)) => Judgement::Unusable(problem),
            Ok(wire::Answer::Incomparable(problem)) => {
                Judgement::Differs(vec![Violation::of_schema(vec!["payload".into()], problem)])
            }
            Err(Failure::TooCostly) => Judgement::TooCostly,
            Err(Failure::Unavailable) => Judgement::Busy,
        }
    }

    /// Waits until an environment may read another import: one of each at a time, and a few in all. Whoever has the turn waits for
    /// nothing that depends on what clients send or read.
    pub async fn import_turn(&self, environment: &EnvironmentId) -> Result<Turn, CheckError> {
        let tenant = Tenant::environment(environment.clone());
        let turn = tokio::time::timeout(Duration::from_secs(MAX_WAIT_SECONDS), self.imports.take(tenant)).await;
        turn.unwrap_or(Err(Crowded)).map_err(|Crowded| CheckError::Busy)
    }

    /// Waits for a turn of the tenant.
    async fn turn(&self, tenant: &Tenant, patience: Duration) -> Result<Turn, Crowded> {
        tokio::time::timeout(patience, self.turns.take(tenant.clone())).await.unwrap_or(Err(Crowded))
    }

    /// Asks, and has the question answered although nobody waits for that any more: to end it would end the process, and whoever comes
    /// next would wait for another one. A question takes no longer than it may.
    async fn ask_to_the_end(
        self: &Arc<Self>,
        mut turn: Turn,
        kind: u8,
        schema: Arc<str>,
        payload: Bytes,
    ) -> Result<wire::Answer, Failure> {
        let judges = Arc::clone(self);
        let asking = tokio::spawn(async move {
            let question = wire::Question { kind, schema: schema.as_bytes(), payload: &payload };
            judges.ask(question, &mut turn).await
        });
        asking.await.unwrap_or(Err(Failure::Unavailable))
    }

    /// Asks, in a turn, which takes as much as the process says that the question took of the processor: to start a process, because
    /// somebody else's question ended the last one, or to wait for a processor is nothing that it costs. See [`ask_child`] for one
    /// that is lost over the question.
    async fn ask(&self, question: wire::Question<'_>, turn: &mut Turn) -> Result<wire::Answer, Failure> {
        match &self.place {
            Place::Threads => self.ask_thread(question).await,
            Place::Processes(program) => self.ask_process(program, question, turn).await,
        }
    }

    async fn ask_process(
        &self,
        program: &Program,
        question: wire::Question<'_>,
        turn: &mut Turn,
    ) -> Result<wire::Answer, Failure> {
        let bounds = Bounds { time: self.options.time.0, memory_bytes: self.options.memory_bytes };
        turn.takes_at_most(bounds.longest());
        let mut lost = Duration::ZERO;
        if let Some(mut child) = self.idle.take() {
            let (answered, took) = ask_child(&mut child, &question, bounds).await;
            match answered {
                // It did not come to this question, or what the host did says nothing of it.
                Err(Ended::InOrder | Ended::ByTheHost) => {}
                // Maybe for what it had been asked before.
                Err(Ended::Otherwise) => lost = took,
                answered => return self.end(turn, child, answered, took),
            }
        }
        turn.took(lost);
        let mut child = Child::start(program, bounds)?;
        let (answered, took) = ask_child(&mut child, &question, bounds).await;
        self.end(turn, child, answered, lost.saturating_add(took))
    }

    /// Says what the turn took, and keeps a process for the next question, unless it is gone.
    fn end(
        &self,
        turn: &mut Turn,
        child: Child,
        answered: Result<(wire::Answer, bool), Ended>,
        took: Duration,
    ) -> Result<wire::Answer, Failure> {
        turn.took(took);
        match answered {
            Ok((answer, complete)) => {
                if complete {
                    self.idle.put(child);
                }
                Ok(answer)
            }
            Err(Ended::ByTime | Ended::Otherwise | Ended::InOrder) => Err(Failure::TooCostly),
            Err(Ended::ByTheHost) => Err(process::unavailable("it was ended by the system, or got no time from it")),
        }
    }

    async fn ask_thread(&self, question: wire::Question<'_>) -> Result<wire::Answer, Failure> {
        let owned = (question.kind, question.schema.to_vec(), question.payload.to_vec());
        let answering = tokio::task::spawn_blocking(move || child::answer_once(owned.0, &owned.1, &owned.2));
        answering.await.map_err(|_| Failure::TooCostly)
    }
}

/// Asks a process, and what of the processor that took: as it says itself, if it has answered in full. One that was lost says nothing any
/// more; then it is as long as it was at it, but if the host ended it, or gave it no time: that says nothing of the question.
async fn ask_child(
    child: &mut Child,
    question: &wire::Question<'_>,
    bounds: Bounds,
) -> (Result<(wire::Answer, bool), Ended>, Duration) {
    let asked = Instant::now();
    let answered = child.ask(question, bounds).await;
    let took = match &answered {
        Ok((_, true)) => child.spent,
        Err(Ended::ByTheHost) => Duration::ZERO,
        _ => asked.elapsed(),
    };
    (answered, took)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn environment(name: &str) -> EnvironmentId {
        EnvironmentId::parse(&format!("org_{name}")).unwrap()
    }

    /// Judges with one turn, which another environment takes again and again for so long.
    fn busy(time: Duration) -> Arc<Judges> {
        let judges = Judges::new(Place::Threads, SchemaOptions { processes: 1, ..SchemaOptions::default() });
        let turns = Arc::clone(&judges.turns);
        tokio::spawn(async move {
            let tenant = Tenant::environment(environment("other"));
            while let Ok(turn) = turns.take(tenant.clone()).await {
                tokio::time::sleep(time).await;
                drop(turn);
            }
        });
        judges
    }

    /// A program that stands for the judging processes, and makes for each of them what the shell makes of `script`.
    fn judges(script: &str) -> Arc<Judges> {
        so_many_judges(2, script)
    }

    fn so_many_judges(processes: usize, script: &str) -> Arc<Judges> {
        let place = Place::Processes(Program::shell(&format!("{SAY}\n{script}")));
        Judges::new(place, SchemaOptions { processes, ..SchemaOptions::default() })
    }

    /// A part of an answer, after a tenth of a millisecond of a processor's time; longer than what is a long turn; and to wait for a
    /// question, whose length is that of [`QUESTION`].
    const SAY: &str = r"
        say() { printf '%s\144\0\0\0\0\0\0\0' $1; }
        differs() { say -; printf 'd\144\0\0\0\002\0\0\0[]'; }
        long() { sleep 0.03; }
        question() { dd bs=1 count=15 2>/dev/null >/dev/null; }";

    const QUESTION: (&str, &[u8]) = ("true", b"{}");

    async fn compared(judges: &Arc<Judges>, name: &str) -> Judgement {
        let (schema, payload) = QUESTION;
        judges.compare(&Tenant::environment(environment(name)), &schema.into(), &Bytes::from_static(payload)).await
    }

    /// Whether two environments have both turns: those whose comparisons take long have one of them together.
    async fn are_short(judges: &Judges) -> bool {
        let take = async |name| judges.turns.take(Tenant::environment(environment(name))).await.unwrap();
        let _one = take("one").await;
        Box::pin(take("another")).now_or_never().is_some()
    }

    #[tokio::test]
    async fn a_turn_takes_as_much_as_a_process_says_that_has_answered_in_full() {
        let judges = judges("question; long; differs; question");
        for name in ["one", "another"] {
            assert!(matches!(compared(&judges, name).await, Judgement::Differs(_)));
        }
        assert!(are_short(&judges).await);
    }

    #[tokio::test]
    async fn whoever_hangs_up_leaves_the_process_to_the_next() {
        // A second process would say of its first question what this one does.
        let judges = so_many_judges(1, "question; long; differs; question; say +; question");
        assert!(Box::pin(compared(&judges, "one")).now_or_never().is_none(), "it is asked");
        assert!(matches!(compared(&judges, "another").await, Judgement::Fits));
    }

    #[tokio::test]
    async fn a_turn_in_which_a_process_is_lost_over_the_details_takes_what_it_took_until_then() {
        let judges = judges("question; say -; long; exit 3");
        for name in ["one", "another"] {
            assert!(matches!(compared(&judges, name).await, Judgement::Differs(_)));
        }
        assert!(!are_short(&judges).await);
    }

    #[tokio::test]
    async fn that_the_host_ends_a_process_is_nothing_that_a_question_costs() {
        // The first one is ended over the first question, and the second one, which was idle, over the third.
        for script in ["question; long; kill -9 $$", "question; differs; question; long; kill -9 $$"] {
            let judges = judges(script);
            for name in ["one", "another", "one", "another"] {
                let _ = compared(&judges, name).await;
            }
            assert!(are_short(&judges).await, "{script}");
        }
    }

    #[tokio::test]
    async fn a_turn_takes_what_all_its_processes_took() {
        // Each answers once, and is lost over the next question, which another one answers.
        let judges = judges("question; say +; question; long; exit 101");
        for name in ["first", "one", "another"] {
            assert!(matches!(compared(&judges, name).await, Judgement::Fits));
        }
        assert!(!are_short(&judges).await);
    }

    #[tokio::test]
    async fn that_a_process_takes_its_time_to_end_is_nothing_that_the_next_question_costs() {
        let judges = judges("question; say +; long");
        for name in ["one", "another", "one", "another"] {
            assert!(matches!(compared(&judges, name).await, Judgement::Fits));
        }
        assert!(are_short(&judges).await);
    }

    #[tokio::test(start_paused = true)]
    async fn schemas_that_wait_for_others_are_not_blamed_for_it() {
        let judges = busy(Duration::from_secs(MAX_WAIT_SECONDS - 1));
        tokio::task::yield_now().await;
        let checked = judges.check(&environment("mine"), &["true"; 3]).await;
        assert_eq!(checked, Err(CheckError::Busy), "the wait for the second is too long");
    }

    #[tokio::test(start_paused = true)]
    async fn schemas_that_wait_for_less_than_they_may_are_checked() {
        let judges = busy(Duration::from_secs(2));
        tokio::task::yield_now().await;
        let schemas = ["true", r#"{"type": "text"}"#, r#"{"pattern": "(?=a)"}"#];
        let problems = judges.check(&environment("mine"), &schemas).await.unwrap();
        let places: Vec<_> = problems.iter().map(|problem| problem.0).collect();
        assert_eq!(places, [1, 2]);
    }
}
