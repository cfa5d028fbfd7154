//! Many submissions at once: judged and matched each by itself, and stored by one commit.
//!
//! Nothing that is wrong with one of them concerns the others. Only when somebody changes endpoints or rules between the
//! look at them and the commit, those that it concerns are stored by a second commit.

use std::collections::HashMap;
use std::sync::Arc;

use postrider_store::{AcceptError, Accepted, NewMessage, Routes, StoreError, Target};
use tokio::sync::oneshot;

use crate::batcher::Waiting;
use crate::intake::{Draft, Intake, MAX_RELOADS, too_many_changes};
use crate::routes::Name;
use crate::rules::Verdict;
use crate::submission::{Submission, SubmitError, Submitted, Violation};

/// How many messages are judged before others get their turn on this thread. Matching takes too little time to count.
const TURN: usize = 64;

/// A submission on its way.
struct Pending {
    place: usize,
    name: Name,
    draft: Draft,
    /// What is wrong with the application that it brought along.
    flaw: Option<SubmitError>,
    warnings: Vec<Violation>,
}

/// Routes that were looked up for this batch.
type Known = HashMap<Name, Result<Arc<Routes>, SubmitError>, foldhash::fast::RandomState>;

type Results = Vec<Option<Result<Submitted, SubmitError>>>;

/// A message that is ready to be stored, and where it goes.
type Ready = (NewMessage, Vec<Arc<Target>>);

impl Intake {
    /// Accepts messages: one result for each, in order. `Ok` means that it is on disk. An application that one of them
    /// brings along is there for all of them.
    pub async fn submit_all(&self, submissions: Vec<Submission>) -> Vec<Result<Submitted, SubmitError>> {
        let (mut known, mut flaws) = self.create_missing(&submissions).await;
        let now = self.clock.now();
        let mut results: Results = submissions.iter().map(|_| None).collect();
        let mut pending = Vec::with_capacity(submissions.len());
        for (place, submission) in submissions.into_iter().enumerate() {
            let name = (submission.environment.clone(), submission.application.clone());
            match self.draft(submission, now) {
                Ok(draft) => {
                    pending.push(Pending { place, name, draft, flaw: flaws.remove(&place), warnings: Vec::new() });
                }
                Err(error) => results[place] = Some(Err(error)),
            }
        }
        for _ in 0..MAX_RELOADS {
            pending = self.attempt(pending, &mut known, &mut results).await;
            if pending.is_empty() {
                break;
            }
            known.clear();
            for stale in &pending {
                if !known.contains_key(&stale.name) {
                    known.insert(stale.name.clone(), self.reload(&stale.name).await);
                }
            }
        }
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(too_many_changes()))).collect()
    }

    /// Makes the applications that are missing and were brought along. What was wrong with one that was brought along is
    /// returned by the place of its submission; it only matters if nobody else brought a better one.
    async fn create_missing(&self, submissions: &[Submission]) -> (Known, HashMap<usize, SubmitError>) {
        let (mut known, mut flaws) = (Known::default(), HashMap::new());
        for (place, submission) in submissions.iter().enumerate() {
            if submission.create_application.is_none() {
                continue;
            }
            let name = (submission.environment.clone(), submission.application.clone());
            if let Some(Ok(_)) = known.get(&name) {
                continue;
            }
            let mut found = self.look_up(&name).await;
            if let Err(SubmitError::ApplicationNotFound) = found {
                let new = submission.create_application.clone();
                match self.create_application(&submission.environment, &submission.application, new).await {
                    Ok(()) => found = self.reload(&name).await,
                    Err(flaw) => drop(flaws.insert(place, flaw)),
                }
            }
            known.insert(name, found);
        }
        (known, flaws)
    }

    /// The routes, from the cache if the environment has no rules. With rules they are loaded once for the whole batch,
    /// so that a refusal is one by the rules as they are now.
    async fn look_up(&self, name: &Name) -> Result<Arc<Routes>, SubmitError> {
        match self.routes.get(self.store.as_ref(), name).await? {
            Some(routes) if routes.rules.are_none() => Ok(routes),
            Some(_) => self.reload(name).await,
            None => Err(SubmitError::ApplicationNotFound),
        }
    }

    /// Has everything accepted that can be, by one commit. What was done is in `results`; what has to be tried again with
    /// newer routes is returned.
    async fn attempt(&self, pending: Vec<Pending>, known: &mut Known, results: &mut Results) -> Vec<Pending> {
        let mut drafts = Vec::with_capacity(pending.len());
        let mut waiting = Vec::with_capacity(pending.len());
        let mut judged = 0;
        for mut item in pending {
            if judged == TURN {
                judged = 0;
                tokio::task::yield_now().await;
            }
            match self.prepare(&mut item, known, &mut judged).await {
                Ok(draft) => {
                    drafts.push(draft);
                    waiting.push(item);
                }
                Err(result) => results[item.place] = Some(*result),
            }
        }
        let answers = self.store_together(drafts).await;
        let mut stale = Vec::new();
        for (item, answer) in waiting.into_iter().zip(answers) {
            results[item.place] = Some(match answer {
                Ok(Accepted::New(_)) => {
                    Ok(Submitted { message: item.draft.message, replayed: false, warnings: item.warnings })
                }
                Ok(Accepted::Replayed(message)) => Ok(Submitted { message, replayed: true, warnings: item.warnings }),
                Err(Failure::Accept(AcceptError::Conflict)) => Err(SubmitError::Conflict),
                Err(Failure::Accept(AcceptError::Store(error))) => Err(error.into()),
                Err(Failure::Overloaded) => Err(SubmitError::Overloaded),
                Err(Failure::Accept(AcceptError::Stale)) => {
                    stale.push(item);
                    continue;
                }
            });
        }
        stale
    }

    /// Judges and matches one message: what to store, or what becomes of it without. Counts what is judged.
    async fn prepare(
        &self,
        item: &mut Pending,
        known: &mut Known,
        judged: &mut usize,
    ) -> Result<Ready, Box<Result<Submitted, SubmitError>>> {
        if !known.contains_key(&item.name) {
            known.insert(item.name.clone(), self.look_up(&item.name).await);
        }
        let routes = match known.get(&item.name) {
            Some(Ok(routes)) => routes,
            Some(Err(SubmitError::ApplicationNotFound)) | None => {
                return Err(Box::new(Err(item.flaw.take().unwrap_or(SubmitError::ApplicationNotFound))));
            }
            Some(Err(error)) => return Err(Box::new(Err(error.clone()))),
        };
        if item.draft.is_judged_by(routes) {
            *judged += 1;
            let verdict =
                Box::pin(self.rules.judge(self.store.as_ref(), &item.name.0, routes, &item.draft.message)).await;
            match verdict.map_err(|error| Box::new(Err(error.into())))? {
                Verdict::Passes(warnings) => item.warnings = warnings,
                Verdict::Refused(violations) => {
                    return Err(Box::new(self.refuse(routes, &item.draft, violations).await));
                }
            }
        }
        Ok(item.draft.fan_out(routes))
    }

    /// Has messages stored by one commit, and waits for it: a result for each.
    async fn store_together(&self, drafts: Vec<Ready>) -> Vec<Result<Accepted, Failure>> {
        let count = drafts.len();
        if count == 0 {
            return Vec::new();
        }
        let (reply, answer) = oneshot::channel();
        if self.batcher.push(Waiting::Many { drafts, reply }).is_err() {
            return vec![Err(Failure::Overloaded); count];
        }
        match answer.await {
            Ok(answers) => answers.into_iter().map(|answer| answer.map_err(Failure::Accept)).collect(),
            Err(_) => vec![Err(Failure::Accept(StoreError::Closed.into())); count],
        }
    }
}

/// Why a message was not stored.
#[derive(Clone)]
enum Failure {
    Overloaded,
    Accept(AcceptError),
}
