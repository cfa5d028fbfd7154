//! What the memory of a server is spent on at most: a line for each part, so that `postrider config check` can print the sum.
//!
//! Whoever gives something in memory a bound adds a line to [`parts`]: by the setting that holds it, or as a constant.

use crate::config::Config;
use crate::log;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The program itself, its threads and what the allocator holds back.
const PROGRAM: u64 = 48 * MIB;
/// SQLite's page caches: two connections that write with 16 MiB each, five that read with 4 MiB each.
const SQLITE_CACHES: u64 = 2 * 16 * MIB + 5 * 4 * MIB;
/// Endpoints and applications whose routes are remembered, as `ingest` bounds them.
const ROUTES: u64 = 64 * MIB;
/// The head of a request, what is read ahead, and what waits to be written of an answer.
const CONNECTION: u64 = 2 * crate::connections::MAX_HEAD_BYTES as u64;
/// 10,000 tokens of at most 2 KiB each, with what is known of them.
const TOKENS: u64 = 10_000 * 3 * KIB;
/// What is read of an answer at most, and the buffers of its connection.
const REQUEST: u64 = 64 * KIB + 32 * KIB;
/// 1,024 connections that are kept for the next request.
const IDLE_CONNECTIONS: u64 = 1_024 * 40 * KIB;

/// One part of the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// What it is for.
    pub(crate) what: &'static str,
    /// The most that it takes.
    pub(crate) bytes: u64,
    /// The setting that bounds it, if one does.
    pub(crate) setting: Option<&'static str>,
}

/// Every part, the largest kinds first.
pub(crate) fn parts(config: &Config) -> Vec<Part> {
    let fixed = |what, bytes| Part { what, bytes, setting: None };
    let set = |setting, what, bytes| Part { what, bytes, setting: Some(setting) };
    let delivery = &config.delivery;
    vec![
        set("delivery.memory_bytes", "messages that wait to be sent", delivery.memory_bytes),
        set("delivery.max_in_flight", "requests under way to endpoints", u64::from(delivery.max_in_flight) * REQUEST),
        fixed("connections to endpoints kept for the next request", IDLE_CONNECTIONS),
        set("server.max_connections", "connections of callers", u64::from(config.server.max_connections) * CONNECTION),
        set("limits.request_bytes", "bodies of requests", config.limits.request_bytes),
        set("limits.response_bytes", "answers that are not read yet", config.limits.response_bytes),
        set("limits.queue_bytes", "messages that are being accepted", config.limits.queue_bytes),
        fixed("where messages go, remembered", ROUTES),
        set(
            "schemas.memory_bytes",
            "processes that compare payloads with schemas, once there are any",
            config.schemas.memory_bytes.saturating_mul(config.schemas.most_processes() as u64),
        ),
        fixed("tokens of callers, remembered", TOKENS),
        fixed("caches of the store", SQLITE_CACHES),
        fixed("lines of the log that wait to be written", log::MAX_WAITING_BYTES as u64),
        fixed("the program itself", PROGRAM),
    ]
}

/// The parts and their sum, for people.
pub(crate) fn as_text(parts: &[Part]) -> String {
    let sum = parts.iter().fold(0u64, |sum, part| sum.saturating_add(part.bytes));
    let row = |bytes: u64, what: &str, bound: &str| format!("{:>10.1} MiB  {what}{bound}\n", bytes as f64 / MIB as f64);
    let mut text = String::new();
    for part in parts {
        let bound = part.setting.map_or_else(String::new, |setting| format!(" ({setting})"));
        text.push_str(&row(part.bytes, part.what, &bound));
    }
    text.push_str(&row(sum, "in all, at most", ""));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_the_parts() {
        let parts = [
            Part { what: "tea", bytes: 3 * MIB / 2, setting: Some("tea.cups") },
            Part { what: "cake", bytes: MIB, setting: None },
        ];
        let text = as_text(&parts);
        assert!(text.contains("1.5 MiB  tea (tea.cups)\n") && text.ends_with("2.5 MiB  in all, at most\n"), "{text}");
    }
}
