//! Many submissions at once: judged and matched each by itself, and stored by a few commits: one by one they go into the
//! queue in parts, so that no commit takes long and others have their turns in between.
//!
//! Nothing that is wrong with one of them concerns the others. Only when somebody changes endpoints or rules between the
//! look at them and the commit, those that it concerns are stored by a second commit.

use std::collections::HashMap;
use std::sync::Arc;

use postrider_domain::application::EnvironmentId;
use postrider_store::{AcceptError, Accepted, Routes, StoreError};
use tokio::sync::oneshot;

use crate::batcher::{PART_ROWS, Ready, Waiting};
use crate::intake::{Draft, Intake, MAX_RELOADS, RoutesRead};
use crate::routes::Name;
use crate::rules::Verdict;
use crate::submission::{NewApplication, Submission, SubmitError, Submitted, Violation};

/// How many messages are looked at before others get their turn on this thread.
const TURN: usize = 64;

/// A submission on its way.
struct Pending {
    place: usize,
    name: Name,
    draft: Draft,
    brought: Option<NewApplication>,
    /// What is wrong with the application that it brought along.
    flaw: Option<SubmitError>,
    warnings: Vec<Violation>,
}

/// How the messages of a batch were judged so far.
#[derive(Default)]
struct Judged {
    /// One waited for its turn until it was too late. The others would, too, one after the other.
    in_vain: bool,
}

/// Lets others have their turn on this thread after each [`TURN`] messages.
async fn give_way(count: usize) {
    if count % TURN == TURN - 1 {
        tokio::task::yield_now().await;
    }
}

/// Whether a message was not compared, because there was no turn in time.
fn is_in_vain(verdict: &Result<Verdict, SubmitError>) -> bool {
    match verdict {
        Ok(Verdict::Passes(warnings)) => warnings.iter().any(|warning| *warning == Violation::not_compared()),
        Ok(Verdict::Refused(_)) => false,
        Err(error) => matches!(error, SubmitError::NotCompared),
    }
}

/// Routes that were looked up for this batch.
type Known = HashMap<Name, Result<Arc<Routes>, SubmitError>, foldhash::fast::RandomState>;

type Results = Vec<Option<Result<Submitted, SubmitError>>>;

impl Intake {
    /// Accepts messages: one result for each, in order. `Ok` means that it is on disk. An application that one of them
    /// brings along is there for all of them.
    pub async fn submit_all(&self, submissions: Vec<Submission>) -> Vec<Result<Submitted, SubmitError>> {
        let (mut known, mut flaws) = self.create_missing(&submissions).await;
        let now = self.clock.now();
        let mut results: Results = submissions.iter().map(|_| None).collect();
        let mut pending = Vec::with_capacity(submissions.len());
        for (place, mut submission) in submissions.into_iter().enumerate() {
            give_way(place).await;
            let name = (submission.environment.clone(), submission.application.clone());
            let (brought, flaw) = (submission.create_application.take(), flaws.remove(&place));
            match self.draft(submission, now) {
                Ok(draft) => pending.push(Pending { place, name, draft, brought, flaw, warnings: Vec::new() }),
                Err(error) => results[place] = Some(Err(error)),
            }
        }
        for reloads in 0..MAX_RELOADS {
            let read = RoutesRead::after(reloads);
            pending = self.attempt(pending, read, &mut known, &mut results).await;
            if pending.is_empty() {
                break;
            }
            known = self.renew(&mut pending).await;
        }
        results.into_iter().map(|result| result.unwrap_or_else(|| Err(SubmitError::RulesChanging))).collect()
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
                match self.make(&name, submission.create_application.clone()).await {
                    Ok(made) => found = Ok(made),
                    Err(flaw) => drop(flaws.insert(place, flaw)),
                }
            }
            known.insert(name, found);
        }
        (known, flaws)
    }

    /// The routes as they are now of what is to be tried again. An application that is there no more, or by another name, is
    /// made if one of them brought it along.
    async fn renew(&self, pending: &mut [Pending]) -> Known {
        let mut known = Known::default();
        for stale in pending {
            if !known.contains_key(&stale.name) {
                known.insert(stale.name.clone(), self.reload(&stale.name).await);
            }
            let is_missing = matches!(known.get(&stale.name), Some(Err(SubmitError::ApplicationNotFound)));
            if is_missing && stale.brought.is_some() {
                match self.make(&stale.name, stale.brought.clone()).await {
                    Ok(made) => drop(known.insert(stale.name.clone(), Ok(made))),
                    Err(flaw) => stale.flaw = Some(flaw),
                }
            }
        }
        known
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

    /// Has everything accepted that can be, in parts of which each is stored by one commit. What was done is in `results`;
    /// what has to be tried again with newer routes is returned.
    async fn attempt(
        &self,
        pending: Vec<Pending>,
        read: RoutesRead,
        known: &mut Known,
        results: &mut Results,
    ) -> Vec<Pending> {
        let mut group = Group::default();
        let mut waiting = Vec::with_capacity(pending.len());
        let mut judged = Judged::default();
        for (count, mut item) in pending.into_iter().enumerate() {
            give_way(count).await;
            match self.prepare(&mut item, read, known, &mut judged).await {
                Ok(draft) => {
                    // Fan-outs are made as there is room for them, not all at once.
                    if !group.fits(&item, &draft) {
                        self.store_together(&mut group).await;
                    }
                    waiting.push((draft.1.len(), group.add(&item, draft), item));
                }
                Err(result) => results[item.place] = Some(*result),
            }
        }
        self.store_together(&mut group).await;
        let mut stale = Vec::new();
        let mut answers = group.answers().await;
        for (endpoints, place, item) in waiting {
            let answer = answers.get_mut(place).and_then(Option::take);
            results[item.place] = Some(match answer.unwrap_or(Err(Failure::Accept(StoreError::Closed.into()))) {
                Ok(Accepted::New(_)) => {
                    Ok(Submitted { message: item.draft.message, replayed: false, warnings: item.warnings, endpoints })
                }
                Ok(Accepted::Replayed(message)) => {
                    Ok(Submitted { message, replayed: true, warnings: item.warnings, endpoints })
                }
                Err(Failure::Accept(AcceptError::Conflict)) => Err(SubmitError::Conflict),
                Err(Failure::Accept(AcceptError::Store(error) | AcceptError::Unsure { error, .. })) => {
                    Err(error.into())
                }
                Err(Failure::Turned(error)) => Err(error),
                Err(Failure::Accept(AcceptError::Stale)) => {
                    stale.push(item);
                    continue;
                }
            });
        }
        stale
    }

    /// Judges and matches one message: what to store, or what becomes of it without.
    async fn prepare(
        &self,
        item: &mut Pending,
        read: RoutesRead,
        known: &mut Known,
        judged: &mut Judged,
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
            let (environment, message) = (&item.name.0, &item.draft.message);
            let waits = !judged.in_vain;
            let verdict = Box::pin(self.rules.judge(self.store.as_ref(), environment, routes, message, waits)).await;
            judged.in_vain |= is_in_vain(&verdict);
            match verdict.map_err(|error| Box::new(Err(error)))? {
                Verdict::Passes(warnings) => item.warnings = warnings,
                Verdict::Refused(violations) => {
                    return Err(Box::new(self.refuse(routes, &item.draft, violations).await));
                }
            }
        }
        Ok(item.draft.fan_out(routes, read))
    }

    /// Queues what is in the group, to be stored by one commit. Once there was no room, nothing more is tried.
    async fn store_together(&self, group: &mut Group) {
        let drafts = std::mem::take(&mut group.drafts);
        group.rows = 0;
        let (Some(environment), Some(first)) = (&group.environment, drafts.first()) else { return };
        let (application, count) = (first.0.application, drafts.len());
        let (reply, answer) = oneshot::channel();
        let pushed = match &group.turned {
            Some(error) => Err(error.clone()),
            None => {
                let waiting = Waiting::Many { drafts, reply };
                self.batcher.push(environment, application, waiting).await.map_err(SubmitError::from)
            }
        };
        group.turned = pushed.as_ref().err().cloned();
        group.queued.push((count, pushed.map(|()| answer)));
    }
}

/// The answers to messages that were queued together.
type Queued = oneshot::Receiver<Vec<Result<Accepted, AcceptError>>>;

/// Messages that are on their way to the queue, in parts of which each is stored by one commit.
#[derive(Default)]
struct Group {
    /// The part that is being put together: of one application, and not too many rows.
    drafts: Vec<Ready>,
    rows: usize,
    environment: Option<EnvironmentId>,
    /// The parts that are in the queue, or for which there was no room: how many messages each has.
    queued: Vec<(usize, Result<Queued, SubmitError>)>,
    turned: Option<SubmitError>,
    count: usize,
}

impl Group {
    fn fits(&self, item: &Pending, (new, _): &Ready) -> bool {
        let Some((first, _)) = self.drafts.first() else { return true };
        self.environment.as_ref() == Some(&item.name.0)
            && first.application == new.application
            && self.rows + new.rows() <= PART_ROWS
    }

    /// Adds a message; gives its place among the answers.
    fn add(&mut self, item: &Pending, draft: Ready) -> usize {
        self.environment = Some(item.name.0.clone());
        self.rows += draft.0.rows();
        self.drafts.push(draft);
        self.count += 1;
        self.count - 1
    }

    /// Waits for all parts: an answer for each message, in order.
    async fn answers(self) -> Vec<Option<Result<Accepted, Failure>>> {
        let mut all = Vec::with_capacity(self.count);
        for (count, part) in self.queued {
            match part {
                Ok(part) => match part.await {
                    Ok(answers) => all.extend(answers.into_iter().map(|answer| Some(answer.map_err(Failure::Accept)))),
                    Err(_) => all.extend((0..count).map(|_| Some(Err(Failure::Accept(StoreError::Closed.into()))))),
                },
                Err(error) => all.extend((0..count).map(|_| Some(Err(Failure::Turned(error.clone()))))),
            }
        }
        all
    }
}

/// Why a message was not stored.
#[derive(Clone)]
enum Failure {
    Turned(SubmitError),
    Accept(AcceptError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_one_waited_in_vain_the_others_of_the_batch_do_not_wait() {
        assert!(is_in_vain(&Err(SubmitError::NotCompared)));
        assert!(is_in_vain(&Ok(Verdict::Passes(vec![Violation::not_compared()]))));
        for verdict in [
            Ok(Verdict::Passes(Vec::new())),
            Ok(Verdict::Passes(vec![Violation::too_costly()])),
            Ok(Verdict::Refused(vec![Violation::too_costly()])),
            Err(SubmitError::TooMany),
        ] {
            assert!(!is_in_vain(&verdict), "{verdict:?}");
        }
    }
}
