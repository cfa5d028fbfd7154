//! What the memory of a server is spent on at most: a line for each part, so that `postrider config check` can print the sum.
//!
//! Whoever gives something in memory a bound adds a line where the bound is: each crate has a function `memory` beside
//! `limits`.

use postrider_domain::memory::{MIB, Part};

use crate::config::Config;
use crate::connections::{MAX_HEAD_BYTES, RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES};
use crate::log;

/// The program itself, its threads and what the allocator holds back.
const PROGRAM: u64 = 48 * MIB;
/// The head of a request, what is read ahead, and what waits to be written of an answer.
const CONNECTION: u64 = 2 * MAX_HEAD_BYTES as u64;
/// What the system has of a connection in its own memory: Linux takes twice what it is asked for, for what it adds to the bytes.
const IN_THE_SYSTEM: u64 = 2 * (SEND_BUFFER_BYTES as u64 + RECEIVE_BUFFER_BYTES as u64);

/// Every part.
pub(crate) fn parts(config: &Config) -> Vec<Part> {
    let connections = u64::from(config.server.max_connections);
    let own = vec![
        Part::set("server.max_connections", "connections of callers", connections * CONNECTION),
        Part::set(
            "server.max_connections",
            "connections of callers, in the system's buffers (if no client reads, and the server does not come to read)",
            connections * IN_THE_SYSTEM,
        )
        .apart(),
        Part::fixed("lines of the log that wait to be written", log::MAX_WAITING_BYTES as u64),
        Part::fixed("the program itself", PROGRAM),
    ];
    [
        postrider_delivery::memory(&config.delivery),
        postrider_api::memory(&config.limits),
        postrider_ingest::memory(&config.limits, &config.schemas),
        postrider_store_sqlite::memory(),
        own,
    ]
    .concat()
}

/// The parts and their sum, for people.
pub(crate) fn as_text(parts: &[Part]) -> String {
    let sum = |parts: &mut dyn Iterator<Item = &Part>| parts.fold(0u64, |sum, part| sum.saturating_add(part.bytes));
    let row = |bytes: u64, what: &str, bound: &str| format!("{:>10.1} MiB  {what}{bound}\n", bytes as f64 / MIB as f64);
    let mut text = String::new();
    for part in parts {
        let bound = part.setting.map_or_else(String::new, |setting| format!(" ({setting})"));
        text.push_str(&row(part.bytes, part.what, &bound));
    }
    text.push_str(&row(
        sum(&mut parts.iter().filter(|part| !part.is_apart)),
        "in the server's own process, at most",
        "",
    ));
    text.push_str(&row(sum(&mut parts.iter()), "in all, at most", ""));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_the_parts() {
        let parts = [
            Part::set("tea.cups", "tea", 3 * MIB / 2),
            Part::fixed("cake", MIB),
            Part::fixed("what guests bring", MIB / 2).apart(),
        ];
        let text = as_text(&parts);
        assert!(text.contains("1.5 MiB  tea (tea.cups)\n") && text.ends_with("3.0 MiB  in all, at most\n"), "{text}");
        assert!(text.contains("2.5 MiB  in the server's own process, at most\n"), "{text}");
    }
}
