//! Background tasks: work that is too much for one request, and is done in small steps afterwards.

use serde_json::{Map, Value};

use crate::ids::TaskId;
use crate::time::Timestamp;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident => $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$of])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word on the wire and in the store.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// What a word stands for.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == word)
            }
        }
    };
}

words! {
    /// What a task does.
    TaskKind {
        /// Sends what failed at an endpoint once more.
        Recover => "endpoint.recover",
        /// Sends what an endpoint would have wanted, but never got.
        Replay => "endpoint.replay",
        /// Sends what was sent to an endpoint once more.
        BulkReplay => "endpoint.bulk-replay",
        /// Erases the payloads of an application's messages.
        PurgeContent => "application.purge_content",
        /// Counts what applications sent.
        ApplicationStats => "application.stats",
        /// Counts messages by event type.
        AggregateEventTypes => "event-type.aggregate",
    }
}

words! {
    /// How far a task is.
    TaskStatus {
        /// There is more to do.
        Running => "running",
        /// All is done.
        Finished => "finished",
        /// It was given up.
        Failed => "failed",
    }
}

/// A background task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// What it does.
    pub kind: TaskKind,
    /// How far it is.
    pub status: TaskStatus,
    /// What it has done, or found, so far.
    pub data: Map<String, Value>,
    /// When it was asked for; equals the instant in the id.
    pub created_at: Timestamp,
    /// When it last took a step.
    pub updated_at: Timestamp,
}
