//! What the API may take in memory at most.

use postrider_domain::memory::Part;
use postrider_ingest::LimitOptions;

use postrider_ingest::IMPORTS;

use crate::access::auth::CACHE_BYTES;
use crate::http::account::UNPAID_BYTES;
use crate::wire::model::environment::IMPORT_MEMORY;

/// What callers take in memory at most, beside their connections.
pub fn memory(limits: &LimitOptions, connections: u64) -> Vec<Part> {
    vec![
        Part::set("limits.request_bytes", "bodies of requests", limits.request_bytes),
        Part::set("limits.response_bytes", "responses that clients have not read yet", limits.response_bytes),
        Part::set(
            "server.max_connections",
            "small responses to changes, of clients that do not read theirs",
            connections.saturating_mul(UNPAID_BYTES),
        ),
        Part::fixed("imports being read (OpenAPI documents with many values)", IMPORTS as u64 * IMPORT_MEMORY),
        Part::fixed("cache of tokens", CACHE_BYTES),
    ]
}
