//! For how long things are kept, for `docs/limits.md`.

postrider_domain::limits! {
    in "The store";
    /// How long a payload is kept
    setting "retention.payload", beyond "it is removed";
    /// How long a message is kept with its attempts
    setting "retention.history", beyond "they are removed, unless a delivery is pending";
}
