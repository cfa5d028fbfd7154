//! What can be promised and not kept.

use postrider_delivery::Usage;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The world was calm for long, and something still waited.
    NotQuiet,
    /// Somebody was told that a message was accepted, and no commit has it.
    Lost(String),
    /// Two messages were accepted under one idempotency key.
    AcceptedTwice {
        /// Both.
        messages: [i64; 2],
    },
    /// A delivery was neither made nor given up for a cause that is known, and nothing waits.
    Asleep {
        /// The endpoint.
        endpoint: i64,
        /// The message.
        message: i64,
    },
    /// It was canceled, and nobody had erased it, and its endpoint was not shut after it was accepted.
    CanceledForNothing {
        /// The endpoint.
        endpoint: i64,
        /// The message.
        message: i64,
    },
    /// It was given up before its schedule was used up, or tried more often.
    OtherThanTheSchedule {
        /// The endpoint.
        endpoint: i64,
        /// The message.
        message: i64,
        /// How many attempts were stored.
        attempts: usize,
    },
    /// It was tried again before the instant that was stored for that.
    TooEarly {
        /// The endpoint.
        endpoint: i64,
        /// The message.
        message: i64,
    },
    /// It was sent again although its end was stored, and nobody had asked for that.
    SentAgain {
        /// The endpoint.
        endpoint: i64,
        /// The message.
        message: i64,
    },
    /// It was sent although its payload had been erased.
    SentErased {
        /// The endpoint.
        endpoint: i64,
        /// The message.
        message: i64,
    },
    /// A request was made to an endpoint as it had been before a change that the process had been told of.
    Outdated(i64),
    /// An endpoint, or an application, got more than its rate allows.
    TooFast(String),
    /// More requests were under way than there may be.
    TooManyRequests {
        /// How many there were.
        under_way: usize,
        /// How many there may be.
        most: usize,
    },
    /// More memory was taken than there may be.
    TooMuchMemory,
    /// Less memory was counted than was taken.
    Uncounted,
    /// When nothing was under way any more, something was still counted as taken.
    Leaked(Usage),
    /// The store was asked for the same again and again, and nothing came of it.
    Spins(&'static str),
    /// A message to an endpoint at which nothing else waited was not sent for long, because of others.
    Starved,
    /// An endpoint is held back as its receiver has asked, and that was another one: it was moved since.
    HeldForNothing(i64),
    /// An endpoint is disabled, and it had worked, or had not failed for long enough; or nothing is stored that says why.
    DisabledForNothing(i64),
    /// An endpoint failed for long, and is not disabled.
    NotDisabled(i64),
}

impl Broken {
    /// Its name.
    pub fn name(&self) -> String {
        let shown = format!("{self:?}");
        shown.split(|letter: char| !letter.is_alphanumeric()).next().unwrap_or_default().to_owned()
    }
}
