//! What sick endpoints do to a healthy one: some that never answer, or one that refuses connections with much waiting.

use std::time::Duration;

use anyhow::Context as _;
use http::Uri;

use super::clock::{micros, span};
use super::control::Application;
use super::lab::{Lab, Subject, usage};
use super::load::{Manner, Target};
use super::receiver::{Address, DeadPort, Hanging};
use super::report::{Column, Fact, LATENCIES, Report};

/// How long the server may take until every hanging endpoint holds a request of its.
const HANG_DEADLINE: Duration = Duration::from_secs(30);

/// A healthy endpoint at a fixed rate: alone, and beside endpoints that never answer.
pub(super) async fn hanging(lab: &Lab, count: usize) -> anyhow::Result<Report> {
    let subject = lab.subject().await?;
    let target = subject.target.clone();
    let healthy = Application::create(&target, "postrider bench", &lab.receivers.addresses).await?;
    let path = healthy.messages()?;
    let mut columns = vec![column(lab, "alone", &target, &path).await?];

    let sick = Hanging::start(lab.args.bind, count).await?;
    lab.progress.begin(format!("making {count} endpoints that never answer"));
    let (applications, paths) = applications(&target, &sick.addresses).await?;
    let messages = u64::from(lab.args.hang_messages) * count as u64;
    let label = format!("queueing {} messages for each of {count} hanging endpoints", lab.args.hang_messages);
    lab.fill(&label, &target, paths, messages).await?;
    until_held(&sick, count).await.context("not every hanging endpoint was tried")?;
    let requests = sick.held();

    columns.push(column(lab, "beside hanging", &target, &path).await?);
    // Let go first: a server in order waits for the answer to what it has sent.
    drop(sick);
    leave(subject, healthy, applications).await?;
    let mut report = Report::new(columns, &LATENCIES, lab.receivers.strays());
    report.facts = vec![
        Fact { key: "hanging_endpoints", label: "hanging endpoints", value: count as f64 },
        Fact { key: "messages_waiting", label: "messages waiting for them", value: messages as f64 },
        Fact { key: "requests_hanging", label: "requests that hung at once", value: requests as f64 },
    ];
    Ok(report)
}

/// A healthy endpoint at a fixed rate: before and after `count` messages wait for a dead one, and after a restart.
pub(super) async fn backlog(lab: &Lab, count: u32) -> anyhow::Result<Report> {
    let mut subject = lab.subject().await?;
    let healthy = Application::create(&subject.target, "postrider bench", &lab.receivers.addresses).await?;
    let path = healthy.messages()?;
    let mut columns = vec![column(lab, "before", &subject.target, &path).await?];

    let port = DeadPort::reserve(lab.args.bind)?;
    let dead =
        Application::create(&subject.target, "postrider bench, dead", std::slice::from_ref(&port.address)).await?;
    let label = format!("queueing {count} messages for a dead endpoint");
    let seconds = lab.fill(&label, &subject.target, vec![dead.messages()?], count.into()).await?;
    let mut facts = vec![
        Fact { key: "messages_waiting", label: "messages waiting", value: count.into() },
        Fact { key: "queued_per_s", label: "accepted/s while they were queued", value: f64::from(count) / seconds },
    ];
    facts.extend(memory("memory_with_backlog_mb", "server memory with them, MB", &subject.target));
    columns.push(column(lab, "with backlog", &subject.target, &path).await?);

    if subject.private.is_some() {
        lab.progress.begin("restarting");
        let (restarted, stop_seconds, start_seconds) = subject.restart().await?;
        subject = restarted;
        facts.push(Fact { key: "stop_seconds", label: "stop, s", value: stop_seconds });
        facts.push(Fact { key: "start_seconds", label: "start until it answers, s", value: start_seconds });
        facts.extend(memory("memory_after_restart_mb", "server memory after the restart, MB", &subject.target));
        columns.push(column(lab, "after restart", &subject.target, &path).await?);
        facts.extend(memory("memory_at_end_mb", "server memory at the end, MB", &subject.target));
    }
    leave(subject, healthy, vec![dead]).await?;
    let mut report = Report::new(columns, &LATENCIES, lab.receivers.strays());
    report.facts = facts;
    Ok(report)
}

async fn column(lab: &Lab, name: &str, target: &Target, path: &Uri) -> anyhow::Result<Column> {
    let mut rounds = Vec::new();
    for _ in 0..lab.args.rounds() {
        rounds.push(lab.measure(name, target, path, Manner::single(lab.args.idempotency)).await?);
    }
    Ok(Column { name: name.into(), rounds })
}

/// One application with one endpoint for each address, as different customers would have.
async fn applications(target: &Target, addresses: &[Address]) -> anyhow::Result<(Vec<Application>, Vec<Uri>)> {
    let mut made = Vec::with_capacity(addresses.len());
    for address in addresses {
        made.push(Application::create(target, "postrider bench, hanging", std::slice::from_ref(address)).await?);
    }
    let paths = made.iter().map(Application::messages).collect::<anyhow::Result<_>>()?;
    Ok((made, paths))
}

async fn until_held(sick: &Hanging, count: usize) -> anyhow::Result<()> {
    let began = micros();
    while sick.held() < count as u64 {
        anyhow::ensure!(
            micros() - began < span(HANG_DEADLINE),
            "only {} requests of {count} endpoints hang",
            sick.held()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn memory(key: &'static str, label: &'static str, target: &Target) -> Option<Fact> {
    usage(target).map(|usage| Fact { key, label, value: usage.memory_bytes as f64 / 1e6 })
}

/// Leaves a server as it was found.
async fn leave(subject: Subject, healthy: Application, sick: Vec<Application>) -> anyhow::Result<()> {
    if subject.private.is_none() {
        healthy.delete(&subject.target).await?;
        for application in sick {
            application.delete(&subject.target).await?;
        }
    }
    subject.stop().await
}
