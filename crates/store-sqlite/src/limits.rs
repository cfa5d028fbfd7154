//! What one store keeps at most, for `docs/limits.md`.

postrider_domain::limits! {
    in "The store";
    /// Operational webhooks that wait to be sent
    pub const MAX_NOTICES: i64 = 100_000, "notices", beyond "the oldest are dropped, with a warning in the log";
}
