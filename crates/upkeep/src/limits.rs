//! For how long things are kept, and how much is worked on at a time, for `docs/limits.md`.

postrider_domain::limits! {
    in "The store";
    /// How long a payload is kept
    setting "retention.payload", beyond "it is removed";
    /// How long a message is kept with its attempts
    setting "retention.history", beyond "they are removed, unless a delivery is pending";
    in "Background tasks";
    /// Operational webhooks of one operator that are submitted before others have their turn
    pub const NOTICES_OF_TURN: usize = 8, "notices", beyond "they wait for their next turn";
    /// Operators whose operational webhooks are submitted at a time
    pub const RECIPIENTS_AT_A_TIME: usize = 256, "operators", beyond "they wait for their turn";
}
