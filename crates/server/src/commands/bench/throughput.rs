//! The plain measurement, alone or in turn with something to compare with.

use http::Uri;

use super::args::{Args, Compare, Subject as Measure};
use super::control::Application;
use super::lab::{Lab, Subject};
use super::load::{Manner, Pace, Target};
use super::private::Server;
use super::report::{Column, LATENCIES, RATES, Report};

/// One of those that are measured in turn.
struct Contestant {
    name: String,
    target: Target,
    path: Uri,
    manner: Manner,
}

/// Measures each contestant once per round, in turn, so that what disturbs the machine disturbs all of them.
pub(super) async fn run(lab: &Lab) -> anyhow::Result<Report> {
    let logs = tempfile::tempdir()?;
    let mut contestants = Vec::new();
    let relay = match lab.args.relay || lab.args.subject == Measure::Relay {
        true => Some(Server::relay(&lab.receivers.addresses, logs.path()).await?),
        false => None,
    };
    if let Some(relay) = &relay {
        contestants.push(through_relay(relay, Manner::single(lab.args.idempotency))?);
    }
    let server = match lab.args.subject {
        Measure::Server => Some(enter(lab, &mut contestants).await?),
        Measure::Relay => None,
    };

    let mut columns: Vec<Column> =
        contestants.iter().map(|one| Column { name: one.name.clone(), rounds: Vec::new() }).collect();
    let rounds = lab.args.rounds();
    for round in 1..=rounds {
        for (one, column) in contestants.iter().zip(&mut columns) {
            let label = if rounds > 1 { format!("{} ({round} of {rounds})", one.name) } else { one.name.clone() };
            column.rounds.push(lab.measure(&label, &one.target, &one.path, one.manner).await?);
        }
    }
    lab.progress.begin("stopping");
    if let Some((subject, application)) = server {
        leave(subject, application).await?;
    }
    if let Some(relay) = relay {
        relay.stop().await?;
    }
    let figures = if lab.args.pace() == Pace::Closed { &RATES[..] } else { &LATENCIES[..] };
    let mut report = Report::new(columns, figures, lab.receivers.strays());
    if report.columns.len() == 3 {
        // Relay, without, with (or one by one, in batches): the last two are what was to be compared.
        report.compare(2, 1, figures);
    }
    Ok(report)
}

fn through_relay(relay: &Server, manner: Manner) -> anyhow::Result<Contestant> {
    let target = Target {
        name: "relay".into(),
        address: relay.address,
        host: relay.address.to_string(),
        authorization: None,
        pid: Some(relay.pid),
    };
    // The path that a server would have, with an application's id as long as any.
    let path = Uri::from_static("/api/v1/app/app_00000000000000000000000relay/msg?with_content=false");
    Ok(Contestant { name: "relay".into(), target, path, manner })
}

/// Finds the server, makes the application on it, and enters it once, or once in each condition to compare.
async fn enter(lab: &Lab, contestants: &mut Vec<Contestant>) -> anyhow::Result<(Subject, Application)> {
    let subject = lab.subject().await?;
    let application = Application::create(&subject.target, "postrider bench", &lab.receivers.addresses).await?;
    for (name, manner) in conditions(&lab.args, &subject.target.name) {
        let path = if manner.batch > 1 { application.batches() } else { application.messages() }?;
        contestants.push(Contestant { name, target: subject.target.clone(), path, manner });
    }
    Ok((subject, application))
}

fn conditions(args: &Args, name: &str) -> Vec<(String, Manner)> {
    match args.compare {
        None => vec![(name.to_owned(), Manner::single(args.idempotency))],
        Some(Compare::Idempotency) => {
            vec![("without keys".into(), Manner::single(false)), ("with keys".into(), Manner::single(true))]
        }
        Some(Compare::Batch) => {
            let keys = args.idempotency;
            vec![("single messages".into(), Manner::single(keys)), ("batches".into(), Manner::batches(keys))]
        }
    }
}

/// Leaves a server as it was found.
async fn leave(subject: Subject, application: Application) -> anyhow::Result<()> {
    if subject.private.is_none() {
        application.delete(&subject.target).await?;
    }
    subject.stop().await
}
