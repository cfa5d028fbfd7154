//! Background tasks. What sends messages again goes step by step, because others may ask for as much meanwhile, and waits for what
//! may be asked for in a day. Everything else is done in one step.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use postrider_domain::application::EnvironmentId;
use postrider_domain::attempt::Trigger;
use postrider_domain::ids::{Id as _, Ksuid, TaskId};
use postrider_domain::message::Message;
use postrider_domain::task::{Task, TaskStatus};
use postrider_domain::time::Timestamp;
use postrider_store::{
    Advanced, Again, ApplicationKey, DeliveryKey, EndpointKey, Job, MAX_COUNTED_APPLICATIONS, MAX_COUNTED_TYPES,
    MAX_ENDED_TASKS, MAX_FIRST_TASKS_OF_ENVIRONMENT, MAX_RECOVERED, MAX_TASKS_OF_APPLICATION, MAX_TASKS_OF_ENVIRONMENT,
    MessageKey, NewTask, Once, Outcome, ReplayFilter, RunningTask, Scan, Share, Span, StoreError, TaskError,
    TaskFilter, Tasks, WAITING, Walked, Written,
};
use serde_json::{Map, Value, json};

use crate::ModelStore;
use crate::lists::{self, Names};
use crate::records::{Subject, Undertaking, Use};
use crate::state::{Delivery, Logged, News, State};

#[async_trait]
impl Tasks for ModelStore {
    async fn create_task(&self, new: NewTask, once: Option<Once<Task>>) -> Result<Written<Task>, TaskError> {
        self.try_write(|state| {
            state.once(once, subject(&new.job), new.created_at, |state| {
                state.check_tasks(&new)?;
                Ok(state.add_task(new))
            })
        })
    }

    async fn task(&self, environment: &EnvironmentId, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.read(|state| {
            let found = state.tasks.get(&id).filter(|found| found.environment == *environment);
            found.map(|found| found.task.clone())
        })
    }

    async fn task_of(&self, application: ApplicationKey, id: TaskId) -> Result<Option<Task>, StoreError> {
        self.read(|state| {
            let found = state.tasks.get(&id).filter(|found| found.application == Some(application));
            found.map(|found| found.task.clone())
        })
    }

    async fn tasks(
        &self,
        environment: &EnvironmentId,
        filter: TaskFilter,
        scan: Scan<Ksuid>,
    ) -> Result<Walked<Task>, StoreError> {
        let passes = |task: &Task| {
            filter.kind.is_none_or(|kind| kind == Some(task.kind))
                && filter.status.is_none_or(|status| status == task.status)
        };
        self.read(|state| {
            let all = state.tasks.values().filter(|found| found.environment == *environment);
            let shown = all.map(|found| &found.task).filter(|task| passes(task));
            lists::walk(shown.map(|task| (task.id.ksuid(), task.clone())), &scan, lists::small)
        })
    }

    async fn running_tasks(&self, limit: usize) -> Result<Vec<RunningTask>, StoreError> {
        self.read(|state| {
            let mut running: BTreeMap<(i64, Option<ApplicationKey>), Vec<TaskId>> = BTreeMap::new();
            for (id, found) in state.tasks.iter().filter(|(_, found)| found.is_running()) {
                let environment = state.environments.get(&found.environment).map_or(0, |found| found.key.0);
                running.entry((environment, found.application)).or_default().push(*id);
            }
            let named = running.into_iter().flat_map(|((environment, application), ids)| {
                ids.into_iter().take(limit).map(move |id| RunningTask { id, environment, application })
            });
            named.collect()
        })
    }

    async fn advance_task(&self, id: TaskId, rows: usize, now: Timestamp) -> Result<Advanced, StoreError> {
        let per_day = self.asked_per_day;
        self.write(|state| state.advance(id, rows, per_day, now))
    }

    async fn fail_task(&self, id: TaskId, problem: &str, now: Timestamp) -> Result<(), StoreError> {
        self.write(|state| {
            let Some(found) = state.tasks.get_mut(&id).filter(|found| found.is_running()) else { return };
            found.task.data.remove(WAITING.0);
            found.task.data.insert("error".to_owned(), problem.into());
            (found.task.status, found.task.updated_at) = (TaskStatus::Failed, now);
        })
    }

    async fn forget_tasks(&self, before: Timestamp, limit: usize) -> Result<usize, StoreError> {
        self.write(|state| {
            let ended = state.tasks.values().filter(|found| !found.is_running() && found.task.updated_at < before);
            let mut ended: Vec<_> = ended.map(|found| (found.task.updated_at, found.task.id)).collect();
            ended.sort_unstable();
            ended.truncate(limit);
            for (_, id) in &ended {
                state.tasks.remove(id);
            }
            ended.len()
        })
    }
}

/// What the request for a task names.
fn subject(job: &Job) -> Subject {
    match job {
        Job::PurgeContent { application } => Subject::application(*application),
        _ => job.endpoint().map_or(Subject::ENVIRONMENT, Subject::endpoint),
    }
}

/// The ids of what was made in a time.
fn ids(span: Span) -> std::ops::Range<Ksuid> {
    Ksuid::floor(span.since)..end(span.until)
}

/// The first id after a time. Ids resolve 4 ms; who needs it exact looks at the instant itself.
fn end(until: Timestamp) -> Ksuid {
    Ksuid::floor(until.saturating_add(Duration::from_millis(4)))
}

/// Adds to a count in a task's data.
fn count(data: &mut Map<String, Value>, name: &str, more: usize) {
    let sum = data.get(name).and_then(Value::as_u64).unwrap_or(0) + more as u64;
    data.insert(name.to_owned(), sum.into());
}

/// What a step has looked at, and what came of it.
struct Step {
    messages: Vec<MessageKey>,
    last: Option<Ksuid>,
    /// There is a message to send that is one too many.
    is_cut: bool,
    ended: bool,
}

impl State {
    /// The application that a job is about.
    fn application_of_job(&self, job: &Job) -> Option<ApplicationKey> {
        match job {
            Job::PurgeContent { application } => Some(*application),
            _ => self.application_of(job.endpoint()?),
        }
    }

    /// Refuses a task if too many are running.
    fn check_tasks(&self, new: &NewTask) -> Result<(), TaskError> {
        let running = || self.tasks.values().filter(|found| found.is_running());
        if let Some(endpoint) = new.job.endpoint() {
            if let Some(busy) = running().find(|found| found.job.endpoint() == Some(endpoint)) {
                return Err(TaskError::Busy(busy.task.id));
            }
            if self.is_full_of_manual(endpoint) {
                return Err(TaskError::TooManyDeliveries);
            }
        }
        // Those that send again, those that erase and those that count have places apart.
        let application = self.application_of_job(&new.job);
        let kind = |job: &Job, application: Option<ApplicationKey>| (job.endpoint().is_some(), application.is_some());
        let own_kind = kind(&new.job, application);
        let alike = || {
            let here = running().filter(|found| found.environment == new.environment);
            here.filter(|found| kind(&found.job, found.application) == own_kind)
        };
        let of_environment = alike().count();
        let (taken, has_room) = match application {
            None => (of_environment, of_environment < MAX_TASKS_OF_ENVIRONMENT),
            Some(_) => match alike().filter(|found| found.application == application).count() {
                0 => (of_environment, of_environment < MAX_FIRST_TASKS_OF_ENVIRONMENT),
                // It leaves as many places as it has.
                own => (own, own < MAX_TASKS_OF_APPLICATION && of_environment + own < MAX_TASKS_OF_ENVIRONMENT),
            },
        };
        if has_room { Ok(()) } else { Err(TaskError::TooMany(taken)) }
    }

    fn add_task(&mut self, new: NewTask) -> Task {
        let NewTask { id, environment, job, created_at } = new;
        self.environment(&environment);
        let (kind, status, data) = (job.kind(), TaskStatus::Running, Map::new());
        let task = Task { id, kind, status, data, created_at, updated_at: created_at };
        let application = self.application_of_job(&job);
        self.forget_ended(&environment, application);
        let undertaking = Undertaking { environment, application, job, task: task.clone(), looked_at: None };
        self.tasks.insert(id, undertaking);
        self.news.push(News::TaskAdded);
        task
    }

    /// Makes room for a task that will have ended.
    fn forget_ended(&mut self, environment: &EnvironmentId, application: Option<ApplicationKey>) {
        let is_of = |found: &&Undertaking| found.environment == *environment && found.application == application;
        let ended = self.tasks.values().filter(|found| !found.is_running()).filter(is_of);
        let mut ended: Vec<_> = ended.map(|found| (found.task.updated_at, found.task.id)).collect();
        ended.sort_unstable();
        for (_, id) in ended.iter().rev().skip(MAX_ENDED_TASKS - 1) {
            self.tasks.remove(id);
        }
    }

    fn advance(&mut self, id: TaskId, rows: usize, per_day: u64, now: Timestamp) -> Advanced {
        let Some(found) = self.tasks.get(&id).cloned() else {
            return Advanced { status: TaskStatus::Finished, wait: None };
        };
        if !found.is_running() {
            return Advanced { status: found.task.status, wait: None };
        }
        let mut data = found.task.data.clone();
        match &found.job {
            Job::PurgeContent { application } => {
                let purged = self.purge(*application, found.task.created_at);
                count(&mut data, "messages", purged);
            }
            Job::ApplicationStats { applications, span } => {
                self.count_usage(&found.environment, applications.as_deref(), *span, &mut data);
            }
            Job::AggregateEventTypes => self.count_types(&found.environment, found.task.created_at, &mut data),
            Job::Recover { endpoint, .. } | Job::Replay { endpoint, .. } | Job::BulkReplay { endpoint, .. } => {
                return self.send_again(found.clone(), *endpoint, rows, per_day, now);
            }
        }
        self.finish_step(id, data, TaskStatus::Finished, now)
    }

    fn finish_step(&mut self, id: TaskId, data: Map<String, Value>, status: TaskStatus, at: Timestamp) -> Advanced {
        if let Some(found) = self.tasks.get_mut(&id) {
            (found.task.data, found.task.status, found.task.updated_at) = (data, status, at);
        }
        Advanced { status, wait: None }
    }

    fn purge(&mut self, application: ApplicationKey, created_at: Timestamp) -> usize {
        let was_there = |message: &Message| message.id.ksuid() < end(created_at) && message.payload.is_some();
        let found = self.messages_of(application).filter(|(_, sent)| was_there(&sent.message));
        let found: Vec<_> = found.map(|(key, _)| key).collect();
        let purged = found.len();
        self.erase_payloads(found);
        purged
    }

    /// The applications of an environment, by id.
    fn applications_by_id(&self, environment: &EnvironmentId) -> Vec<ApplicationKey> {
        let live = self.applications.iter().filter(|(_, tenant)| tenant.deleted_at.is_none());
        let mut found: Vec<_> = live.filter(|(_, tenant)| tenant.environment == *environment).collect();
        found.sort_by_key(|(_, tenant)| tenant.application.id);
        found.into_iter().map(|(key, _)| *key).collect()
    }

    fn count_usage(
        &self,
        environment: &EnvironmentId,
        chosen: Option<&[ApplicationKey]>,
        span: Span,
        data: &mut Map<String, Value>,
    ) {
        let (mut list, span) = (Vec::new(), ids(span));
        for key in chosen.map_or_else(|| self.applications_by_id(environment), <[_]>::to_vec) {
            let Some(tenant) = self.applications.get(&key) else { continue };
            if list.len() >= MAX_COUNTED_APPLICATIONS {
                count(data, "otherApplications", 1);
                continue;
            }
            let messages = self.messages_of(key).filter(|(_, sent)| span.contains(&sent.message.id.ksuid()));
            let is_of = |endpoint: &EndpointKey| self.application_of(*endpoint) == Some(key);
            let attempts: Vec<_> = self
                .attempts
                .iter()
                .filter(|((endpoint, _, id), _)| is_of(endpoint) && span.contains(&id.ksuid()))
                .collect();
            let is_first = |logged: &Logged| logged.number == 1 && logged.trigger == Trigger::Scheduled;
            list.push(json!({
                "appId": tenant.application.id,
                "appUid": tenant.application.uid,
                "messages": messages.count(),
                "attempts": attempts.len(),
                "messageDestinations": attempts.iter().filter(|(_, logged)| is_first(logged)).count(),
            }));
        }
        data.insert("applications".to_owned(), list.into());
    }

    fn count_types(&self, environment: &EnvironmentId, created_at: Timestamp, data: &mut Map<String, Value>) {
        let mut types = Map::new();
        for application in self.applications_by_id(environment) {
            for (_, sent) in self.messages_of(application).filter(|(_, sent)| sent.message.id.ksuid() < end(created_at))
            {
                let name = sent.message.event_type.as_str();
                if types.len() >= MAX_COUNTED_TYPES && !types.contains_key(name) {
                    count(data, "otherEventTypes", 1);
                } else {
                    count(&mut types, name, 1);
                }
            }
        }
        data.insert("eventTypes".to_owned(), types.into());
    }

    /// One step of sending messages again.
    fn send_again(
        &mut self,
        mut found: Undertaking,
        endpoint: EndpointKey,
        rows: usize,
        per_day: u64,
        now: Timestamp,
    ) -> Advanced {
        let (id, waited_since) = (found.task.id, found.waits_since());
        let mut data = std::mem::take(&mut found.task.data);
        count(&mut data, "messages", 0);
        if let Some(reason) = self.refusal(endpoint) {
            data.remove(WAITING.0);
            data.insert("stopped".to_owned(), reason.into());
            return self.finish_step(id, data, TaskStatus::Finished, now);
        }
        let Some(application) = self.application_of(endpoint) else { unreachable!("it takes deliveries") };
        let again = if matches!(found.job, Job::Replay { .. }) { Again::ByTheSchedule } else { Again::Manually };
        let is_its_turn = !self.others_waited_longer(&found, waited_since);
        let share = Share::of(self.left(application, Use::Task), again, per_day, is_its_turn, now);
        let sent = data.get("messages").and_then(Value::as_u64).unwrap_or(0);
        let Step { messages, last, is_cut, ended } = self.choose(&found, endpoint, sent, rows, share);
        let wait = share.wait.filter(|_| is_cut);
        let since = waited_since.filter(|_| messages.is_empty());
        if let Some(wait) = wait.filter(|_| since.is_some() && last.is_none()) {
            // As before: there is nothing to write.
            return Advanced { status: TaskStatus::Running, wait: Some(wait) };
        }
        let (added, until_more) = self.deliver(endpoint, application, again, messages, per_day, now);
        count(&mut data, "messages", added);
        data.remove(WAITING.0);
        if wait.is_some() {
            data.insert(WAITING.0.to_owned(), WAITING.1.into());
        }
        if let (Some(stored), Some(last)) = (self.tasks.get_mut(&id), last) {
            stored.looked_at = Some(last);
        }
        let status = if ended { TaskStatus::Finished } else { TaskStatus::Running };
        let at = if wait.is_some() { since.unwrap_or(now) } else { now };
        self.finish_step(id, data, status, at);
        Advanced { status, wait: wait.map(|_| until_more) }
    }

    /// Why an endpoint takes no deliveries; `None` if it does.
    fn refusal(&self, endpoint: EndpointKey) -> Option<&'static str> {
        match self.live_endpoint(endpoint) {
            None => Some("endpoint_deleted"),
            Some(receiver) => receiver.endpoint.disabled.then_some("endpoint_disabled"),
        }
    }

    /// Whether other tasks of the application have waited for longer for what they may ask for.
    fn others_waited_longer(&self, one: &Undertaking, since: Option<Timestamp>) -> bool {
        let others = self.tasks.values().filter(|other| other.is_running() && other.task.id != one.task.id);
        let mut neighbours =
            others.filter(|other| other.environment == one.environment && other.application == one.application);
        neighbours.any(|other| {
            other
                .waits_since()
                .is_some_and(|waits| since.is_none_or(|since| (waits, other.task.id) < (since, one.task.id)))
        })
    }

    /// Chooses among the next `rows` of what the task goes through.
    fn choose(&self, found: &Undertaking, endpoint: EndpointKey, sent: u64, rows: usize, share: Share) -> Step {
        let most = MAX_RECOVERED.saturating_sub(usize::try_from(sent).unwrap_or(usize::MAX));
        let is_full = |chosen: usize| matches!(found.job, Job::Recover { .. }) && chosen >= most;
        let mut step = Step { messages: Vec::new(), last: None, is_cut: false, ended: false };
        let mut seen = 0;
        let left = self.walk_of(&found.job, endpoint).into_iter();
        for (id, message) in left.filter(|(id, _)| found.looked_at.is_none_or(|last| *id > last)).take(rows) {
            if is_full(step.messages.len()) {
                break;
            }
            let is_chosen = self.has_payload(message) && self.is_chosen(&found.job, endpoint, id, message);
            if is_chosen && step.messages.len() >= share.messages {
                step.is_cut = true;
                break;
            }
            if is_chosen {
                step.messages.push(message);
            }
            seen += 1;
            step.last = Some(id);
        }
        step.ended = !step.is_cut && seen < rows;
        step
    }

    /// What a task goes through, in order: attempts at the endpoint, or messages of its application.
    fn walk_of(&self, job: &Job, endpoint: EndpointKey) -> Vec<(Ksuid, MessageKey)> {
        let mut all: Vec<_> = match job {
            Job::Recover { span, .. } => {
                let all = self.attempts_at(endpoint).map(|(message, id, _)| (id.ksuid(), message));
                all.filter(|(id, _)| ids(*span).contains(id)).collect()
            }
            Job::Replay { span, .. } | Job::BulkReplay { span, .. } => {
                let Some(application) = self.application_of(endpoint) else { return Vec::new() };
                let is_of = |message: &Message| {
                    ids(*span).contains(&message.id.ksuid()) && (span.since..span.until).contains(&message.created_at)
                };
                let all = self.messages_of(application).filter(|(_, sent)| is_of(&sent.message));
                all.map(|(key, sent)| (sent.message.id.ksuid(), key)).collect()
            }
            _ => Vec::new(),
        };
        all.sort_unstable();
        all
    }

    /// Whether a message that has a payload is to be sent again.
    fn is_chosen(&self, job: &Job, endpoint: EndpointKey, id: Ksuid, message: MessageKey) -> bool {
        let Some(sent) = self.messages.get(&message) else { return false };
        match job {
            // The first failed attempt of the time, if there is no successful one.
            Job::Recover { span, .. } => {
                let of_time = |logged: &Logged| (span.since..span.until).contains(&logged.record.started_at);
                let mut tried = self.attempts_of(endpoint, message).filter(|(_, logged)| of_time(logged)).peekable();
                tried.peek().is_some_and(|(first, _)| first.ksuid() == id)
                    && tried.all(|(_, logged)| !logged.record.succeeded)
            }
            Job::Replay { .. } => {
                let wants = |message: &Message| {
                    let found = self.live_endpoint(endpoint);
                    found.is_some_and(|found| found.endpoint.wants(&message.event_type, message.channels.as_deref()))
                };
                let is_known = self.attempts_of(endpoint, message).next().is_some()
                    || self.pending(endpoint).any(|(key, _)| key.message == message);
                wants(&sent.message) && !is_known
            }
            Job::BulkReplay { filter, .. } => {
                let last = self.attempts_of(endpoint, message).last();
                last.is_some_and(|(_, last)| passes(filter, &sent.message, last))
            }
            _ => false,
        }
    }

    /// Adds deliveries, and tells observers; returns how many, and how long it takes until there may be another one. Messages that
    /// were attempted too often are left out.
    fn deliver(
        &mut self,
        endpoint: EndpointKey,
        application: ApplicationKey,
        again: Again,
        mut messages: Vec<MessageKey>,
        per_day: u64,
        now: Timestamp,
    ) -> (usize, Duration) {
        if again == Again::Manually {
            messages.retain(|message| !self.is_worn(endpoint, *message));
        }
        let each = again.attempts(per_day);
        let spent = self.spend(application, Use::Task, each * messages.len() as u64, per_day, now);
        let Ok(left) = spent else { unreachable!("no more were chosen than may be asked for") };
        for message in &messages {
            match again {
                Again::Manually => self.add_manual(endpoint, *message, now),
                Again::ByTheSchedule => self.add_scheduled(endpoint, *message, now),
            }
        }
        if !messages.is_empty() {
            self.lower_wake(endpoint, now);
            self.news.push(News::WorkAdded(endpoint, Some(application)));
        }
        (messages.len(), left.spend(each, per_day, now).err().unwrap_or_default())
    }

    /// Due when it would have been. A message that a clock dated that was ahead is due now.
    fn add_scheduled(&mut self, endpoint: EndpointKey, message: MessageKey, now: Timestamp) {
        let Some(sent) = self.messages.get(&message) else { return };
        let due_at = sent.message.deliver_at.unwrap_or(sent.message.created_at.min(now));
        let delivery = Delivery { made: 0, trigger: Trigger::Scheduled, fresh: false };
        self.deliveries.entry((endpoint, DeliveryKey { due_at, message })).or_insert(delivery);
    }
}

fn passes(filter: &ReplayFilter, message: &Message, last: &Logged) -> bool {
    let ReplayFilter { event_types, channel, tag, outcome, status_code_class } = filter;
    let names = Names { event_types: event_types.as_deref(), channel: channel.as_ref(), tag: tag.as_ref() };
    let came_to = match (last.record.succeeded, last.next_attempt_at) {
        (true, _) => Outcome::Succeeded,
        (false, None) => Outcome::Failed,
        (false, Some(_)) => Outcome::Waiting,
    };
    let status = last.record.status_code;
    let is_of_class = |class: u16| status >= class && status - class < 100;
    names.let_through(message)
        && outcome.is_none_or(|wanted| wanted == came_to)
        && status_code_class.is_none_or(is_of_class)
}
