//! What can be set, and is probably a mistake: `postrider config check` says so, and goes on. Of secrets that others can read, `serve`
//! says so, too.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use ipnet::IpNet;
use postrider_delivery::egress;
use postrider_domain::settings::Span;

use super::Config;
use super::load::{Loaded, SECRET_BYTES, Source};
use crate::memory;
use crate::terminal::harmless;

/// A schedule that ends earlier gives up on a receiver that is only started again.
const SHORTEST_SCHEDULE: Duration = Duration::from_secs(60);

/// Receivers that take longer to answer are not unusual.
const SHORTEST_REQUEST: Duration = Duration::from_secs(2);

/// A receiver whose operator sleeps is not gone.
const SHORTEST_FAILING: Duration = Duration::from_secs(12 * 3_600);

/// Callers over a slow line read their answers more slowly.
const SHORTEST_WRITE: Duration = Duration::from_secs(10);

/// A line for each.
pub(crate) fn warnings(loaded: &Loaded) -> Vec<String> {
    let config = &loaded.config;
    let open = egress::opened_wide(&config.delivery).into_iter().map(opened);
    let others = [
        short_secret(config),
        short_schedule(config),
        short_payloads(config),
        short_history(config),
        too_many_per_address(config),
        short_times(config),
        too_much_memory(config),
    ];
    readable_secret(loaded).into_iter().chain(open).chain(others.into_iter().flatten()).collect()
}

/// Says so if a file holds a secret and all users of the machine may read it.
pub(crate) fn readable_secret(loaded: &Loaded) -> Option<String> {
    const BY_ALL: u32 = 0o004;
    loaded.values.iter().filter(|valued| valued.setting.is_secret()).find_map(|valued| {
        let Source::File { path, .. } = &valued.source else { return None };
        let mode = std::fs::metadata(path).ok()?.permissions().mode();
        (mode & BY_ALL != 0).then(|| {
            let path = path.to_string_lossy();
            let (path, setting) = (harmless(&path), valued.setting.path());
            format!("{path} holds {setting}, and its mode lets all users of this machine read it: `chmod o-r {path}`")
        })
    })
}

fn short_secret(config: &Config) -> Option<String> {
    let bytes = config.auth.jwt_secret.as_ref()?.reveal().len();
    (bytes < SECRET_BYTES).then(|| {
        format!(
            "auth.jwt_secret has {bytes} bytes, which auth.allow_short_secret allows: it can be guessed from any token, and who has \
             it may do everything"
        )
    })
}

/// Waits between attempts, as they are set. Each may be longer by a fifth.
fn waits(config: &Config) -> Vec<Duration> {
    let schedule = &config.delivery.retry_schedule;
    (1..).map_while(|made| schedule.wait_after(made)).collect()
}

fn sum(waits: &[Duration]) -> Duration {
    waits.iter().fold(Duration::ZERO, |total, wait| total.saturating_add(*wait))
}

/// A time in its three largest units: 3d 18h 42m.
fn for_people(time: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = time.as_secs();
    let parts = UNITS.into_iter().filter_map(|(seconds, unit)| {
        let count = rest / seconds;
        rest %= seconds;
        (count > 0).then(|| format!("{count}{unit}"))
    });
    let text = parts.take(3).collect::<Vec<_>>().join(" ");
    if text.is_empty() { Span(time).to_string() } else { text }
}

fn short_history(config: &Config) -> Option<String> {
    let (payload, history) = (config.retention.payload, config.retention.history);
    (history.0 < payload.0).then(|| {
        format!(
            "retention.history is {history} and retention.payload {payload}: payloads are removed with their messages, after {history}"
        )
    })
}

fn too_many_per_address(config: &Config) -> Option<String> {
    let (of_address, all) = (config.server.max_connections_per_address?, config.server.max_connections);
    (of_address > all).then(|| {
        format!(
            "server.max_connections_per_address is {of_address}, which is more than server.max_connections: {all} is the limit for \
             one address, too"
        )
    })
}

fn short_payloads(config: &Config) -> Option<String> {
    let longest = sum(&waits(config)).saturating_mul(6) / 5;
    let kept = config.retention.payload;
    (kept.0 < longest).then(|| {
        format!(
            "retention.payload removes payloads after {kept}, and delivery.retry_schedule sends them for up to {}: what is not \
             delivered by then is canceled",
            for_people(longest)
        )
    })
}

/// One line for all times that are too short for anybody.
fn short_times(config: &Config) -> Option<String> {
    let times = [
        (
            "delivery.request_timeout",
            config.delivery.request_timeout,
            SHORTEST_REQUEST,
            "receivers that work are given up",
        ),
        (
            "delivery.disable_after",
            config.delivery.disable_after,
            SHORTEST_FAILING,
            "an endpoint that is down overnight is disabled",
        ),
        ("server.write_timeout", config.server.write_timeout, SHORTEST_WRITE, "callers over a slow line are cut"),
    ];
    let short: Vec<_> = times
        .into_iter()
        .filter(|(_, set, least, _)| set.0 < *least)
        .map(|(setting, set, _, so)| format!("{setting} is {set}, so {so}"))
        .collect();
    (!short.is_empty()).then(|| short.join("; "))
}

fn opened(network: IpNet) -> String {
    format!(
        "delivery.allow_subnets opens all of {network} to the URLs of customers, so that they reach this machine, its network and \
         the cloud's metadata service: name the networks of receivers only"
    )
}

fn short_schedule(config: &Config) -> Option<String> {
    let waits = waits(config);
    let total = sum(&waits);
    (!waits.is_empty() && total < SHORTEST_SCHEDULE).then(|| {
        format!(
            "delivery.retry_schedule gives up after {} attempts within {}: messages sent while a receiver restarts will not be delivered",
            waits.len() + 1,
            for_people(total)
        )
    })
}

fn too_much_memory(config: &Config) -> Option<String> {
    let (most, there_is) = (memory::sum(&memory::parts(config)), memory::of_machine()?);
    (most > there_is).then(|| {
        format!(
            "the settings let memory grow to {}, and this machine or container has {}: lower those that take most (`postrider config check --memory` lists them)",
            memory::shown(most),
            memory::shown(there_is)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_their_three_largest_units() {
        for (seconds, text) in [(326_526, "3d 18h 42m"), (59, "59s"), (3_600, "1h"), (86_401, "1d 1s"), (0, "0s")] {
            assert_eq!(for_people(Duration::from_secs(seconds)), text);
        }
        assert_eq!(for_people(Duration::from_millis(250)), "250ms");
    }
}
