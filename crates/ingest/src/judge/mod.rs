//! Schemas are run in processes of their own, because what they cost can't be known beforehand and a thread can't be
//! stopped: operators write the schemas, anybody writes what they are tried on.
//!
//! A process (`postrider __judge`) has a limit on its memory that the kernel enforces and a limit on its processor time
//! that it enforces itself; one that exceeds either is gone, and the next question starts another. Tenants take turns
//! (`turns.rs`): an environment never has more than half of the processes, an application a quarter, so expensive schemas
//! delay nobody but those who use them. Nothing of a schema or a payload is ever parsed by the server itself.

mod child;
mod process;
mod turns;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_domain::application::EnvironmentId;
use postrider_domain::settings::Span;
use postrider_store::ApplicationKey;
use serde::{Deserialize, Serialize};

pub use child::{Bounds, run as run_child};
pub use process::Program;

use crate::submission::Violation;
use process::{Child, Failure};
pub use turns::Turn;
use turns::{Crowded, Turns};

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
    /// Time for checking all schemas of one request
    pub const CHECK_ALL_SECONDS: u64 = 15, "s", beyond "422";
    /// Mismatches that are told of one payload
    pub const MAX_VIOLATIONS: usize = 50, "mismatches", beyond "the others are not told";
    /// Processor time for comparing one payload with its schema
    setting "schemas.time", beyond "by `schemas.beyond_budget`";
    /// Memory of a process that compares payloads with schemas
    setting "schemas.memory_bytes", beyond "422 for a schema; for a message by `schemas.beyond_budget`";
    /// Processes that compare payloads with schemas; an environment has half of them at a time, an application a quarter
    setting "schemas.processes", beyond "waits for its turn";
    /// Messages and schemas of one application that wait for their turn
    pub const MAX_WAITING: usize = 1_024, "messages", beyond "503";
    /// Messages and schemas of everybody that wait for their turn
    pub const MAX_WAITING_IN_ALL: usize = 16_384, "messages", beyond "503";
    /// The longest wait for a turn
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
const IMPORTS: usize = 2;

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

/// Who has something judged: each waits for its turn beside the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenant {
    /// The environment.
    pub environment: EnvironmentId,
    /// The application; `None` for what concerns all of the environment.
    pub application: Option<ApplicationKey>,
}

/// What became of comparing a payload with a schema.
#[derive(Debug)]
pub(crate) enum Judgement {
    /// It matches.
    Fits,
    /// It does not, and this is where.
    Differs(Vec<Violation>),
    /// The limits were reached first.
    TooCostly,
    /// There was no turn in time, or no process could be started.
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
    idle: Mutex<Vec<Child>>,
}

impl Judges {
    /// Makes one. No process is started before there is something to judge.
    pub fn new(place: Place, options: SchemaOptions) -> Arc<Self> {
        Arc::new(Self {
            place,
            turns: Turns::new(options.most_processes()),
            options,
            imports: Turns::new(IMPORTS),
            idle: Mutex::default(),
        })
    }

    /// What happens to a message that is too costly.
    pub(crate) fn beyond_budget(&self) -> BeyondBudget {
        self.options.beyond_budget
    }

    /// Checks schemas of an environment; returns the first problem of each that has one, by its place.
    pub async fn check(
        &self,
        environment: &EnvironmentId,
        schemas: &[&str],
    ) -> Result<Vec<(usize, String)>, CheckError> {
        let all = async {
            let mut problems = Vec::new();
            for (place, schema) in schemas.iter().enumerate() {
                match self.check_one(environment, schema).await {
                    Ok(()) => {}
                    Err(CheckError::Refused(problem)) => problems.push((place, problem)),
                    Err(CheckError::Busy) => return Err(CheckError::Busy),
                }
            }
            Ok(problems)
        };
        let too_long = || format!("checking the schemas takes longer than {CHECK_ALL_SECONDS} s: send fewer at a time");
        let checked = tokio::time::timeout(Duration::from_secs(CHECK_ALL_SECONDS), all).await;
        checked.unwrap_or_else(|_| Err(CheckError::Refused(too_long())))
    }

    async fn check_one(&self, environment: &EnvironmentId, schema: &str) -> Result<(), CheckError> {
        let tenant = Tenant { environment: environment.clone(), application: None };
        let question = wire::Question { kind: wire::CHECK, schema: schema.as_bytes(), payload: b"" };
        match self.ask(&tenant, question).await {
            Ok((wire::Answer::Fits, _)) => Ok(()),
            Ok((wire::Answer::Problem(problem), _)) => Err(CheckError::Refused(problem)),
            Ok(_) => Err(CheckError::Busy),
            Err(Failure::TooCostly) => Err(CheckError::Refused("is too costly to be tried on payloads".to_owned())),
            Err(Failure::Unavailable) => Err(CheckError::Busy),
        }
    }

    /// Compares a payload with a schema. With `briefly` nothing is said of what does not match, which can cost far more
    /// than to know that something does not.
    pub(crate) async fn compare(&self, tenant: &Tenant, schema: &str, payload: &Bytes, briefly: bool) -> Compared {
        let kind = if briefly { wire::COMPARE_BRIEFLY } else { wire::COMPARE };
        let question = wire::Question { kind, schema: schema.as_bytes(), payload };
        let (answer, complete) = match self.ask(tenant, question).await {
            Ok(answered) => answered,
            Err(Failure::TooCostly) => {
                return Compared { judgement: Judgement::TooCostly, details_cost_too_much: false };
            }
            Err(Failure::Unavailable) => return Compared { judgement: Judgement::Busy, details_cost_too_much: false },
        };
        let judgement = match answer {
            wire::Answer::Fits => Judgement::Fits,
            wire::Answer::Differs(violations) => Judgement::Differs(violations),
            wire::Answer::Problem(problem) => Judgement::Differs(vec![Violation::unusable_schema(&problem)]),
            wire::Answer::Incomparable(problem) => {
                Judgement::Differs(vec![Violation::of_schema(vec!["payload".into()], problem)])
            }
        };
        Compared { judgement, details_cost_too_much: !complete }
    }

    /// Waits until an environment may read another import: one of each at a time, and a few in all.
    pub async fn import_turn(&self, environment: &EnvironmentId) -> Result<Turn, CheckError> {
        let tenant = Tenant { environment: environment.clone(), application: None };
        let turn = tokio::time::timeout(Duration::from_secs(MAX_WAIT_SECONDS), self.imports.take(tenant)).await;
        turn.unwrap_or(Err(Crowded)).map_err(|Crowded| CheckError::Busy)
    }

    /// Asks when it is the tenant's turn. The flag says whether the answer has all that was to be said.
    async fn ask(&self, tenant: &Tenant, question: wire::Question<'_>) -> Result<(wire::Answer, bool), Failure> {
        let wait = Duration::from_secs(MAX_WAIT_SECONDS);
        let turn = tokio::time::timeout(wait, self.turns.take(tenant.clone())).await;
        let _turn = turn.unwrap_or(Err(Crowded)).map_err(|Crowded| Failure::Unavailable)?;
        match &self.place {
            Place::Threads => self.ask_thread(question).await,
            Place::Processes(program) => self.ask_process(program, question).await,
        }
    }

    async fn ask_process(
        &self,
        program: &Program,
        question: wire::Question<'_>,
    ) -> Result<(wire::Answer, bool), Failure> {
        let bounds = Bounds { time: self.options.time.0, memory_bytes: self.options.memory_bytes };
        let used = self.idle.lock().pop();
        if let Some(mut child) = used {
            match child.ask(&question, bounds).await {
                Ok(answered) => return Ok(self.keep(child, answered)),
                Err(process::Ended::ByTime) => return Err(Failure::TooCostly),
                // Maybe for what it had been asked before.
                Err(process::Ended::Otherwise | process::Ended::NotReady) => {}
            }
        }
        let mut child = Child::start(program, bounds)?;
        match child.ask(&question, bounds).await {
            Ok(answered) => Ok(self.keep(child, answered)),
            Err(process::Ended::ByTime | process::Ended::Otherwise) => Err(Failure::TooCostly),
            Err(process::Ended::NotReady) => Err(Failure::Unavailable),
        }
    }

    /// Keeps a process for the next question, unless it is gone.
    fn keep(&self, child: Child, answered: (wire::Answer, bool)) -> (wire::Answer, bool) {
        if answered.1 {
            self.idle.lock().push(child);
        }
        answered
    }

    async fn ask_thread(&self, question: wire::Question<'_>) -> Result<(wire::Answer, bool), Failure> {
        let owned = (question.kind, question.schema.to_vec(), question.payload.to_vec());
        let answering = tokio::task::spawn_blocking(move || child::answer_once(owned.0, &owned.1, &owned.2));
        answering.await.map(|answer| (answer, true)).map_err(|_| Failure::TooCostly)
    }
}

/// A judgement, and whether the process was lost while it said what does not match.
pub(crate) struct Compared {
    pub(crate) judgement: Judgement,
    pub(crate) details_cost_too_much: bool,
}
