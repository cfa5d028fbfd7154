//! What can be set, and is hardly ever meant: `postrider config check` says so, and goes on.

use std::time::Duration;

use ipnet::IpNet;
use postrider_delivery::egress;
use postrider_domain::settings::Span;

use super::Config;
use crate::memory;

/// A schedule that ends earlier gives up on a receiver that is only started again.
const SHORTEST_SCHEDULE: Duration = Duration::from_secs(60);

/// A line for each.
pub(crate) fn warnings(config: &Config) -> Vec<String> {
    let open = egress::opened_wide(&config.delivery).into_iter().map(opened);
    open.chain(short_schedule(config)).chain(too_much_memory(config)).collect()
}

fn opened(network: IpNet) -> String {
    format!(
        "delivery.allow_subnets opens all of {network} to the URLs of customers, so that they reach this machine, its network and \
         the cloud's metadata service: name the networks of receivers only"
    )
}

fn short_schedule(config: &Config) -> Option<String> {
    let schedule = &config.delivery.retry_schedule;
    let waits: Vec<_> = (1..).map_while(|made| schedule.wait_after(made)).collect();
    let total = waits.iter().fold(Duration::ZERO, |total, wait| total.saturating_add(*wait));
    (!waits.is_empty() && total < SHORTEST_SCHEDULE).then(|| {
        format!(
            "delivery.retry_schedule gives up after {} attempts within {}: what is sent while a receiver is started again is lost to it",
            waits.len() + 1,
            Span(total)
        )
    })
}

fn too_much_memory(config: &Config) -> Option<String> {
    let (most, there_is) = (memory::sum(&memory::parts(config)), memory::of_machine()?);
    (most > there_is).then(|| {
        format!(
            "the settings let memory grow to {}, and this machine or container has {}: lower those that take most (below)",
            memory::shown(most),
            memory::shown(there_is)
        )
    })
}
