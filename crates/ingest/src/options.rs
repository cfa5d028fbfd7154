//! The settings of the section `limits`: how much of the server callers may use, together and each for himself.

use postrider_domain::settings::Span;
use postrider_store::ASKED_PER_DAY;

fn span(text: &str) -> Span {
    text.parse().unwrap_or(Span(std::time::Duration::ZERO))
}

postrider_domain::options! {
    /// How much of the server callers may use. Of whatever is shared, an operator gets less than half even while nobody else wants
    /// any, the tokens of all his applications less than a third, and those of one application less than a fifth.
    pub struct LimitOptions in "limits" {
        /// The most bytes of request bodies in memory. What does not fit waits, and is answered with 429 or 503 after a while. The
        /// least is what makes the largest body fit into the share of its sender.
        #[within(41_943_040, 1_099_511_627_776u64)]
        pub request_bytes: u64 = 64 * 1024 * 1024,
        /// The most bytes of answers in memory, until their clients have read them. The least is what makes the largest answer fit into
        /// the share of whoever asks for it.
        #[within(58_720_256, 1_099_511_627_776u64)]
        pub response_bytes: u64 = 64 * 1024 * 1024,
        /// The most bytes of accepted messages that wait for their commit.
        #[within(1_048_576, 1_099_511_627_776u64)]
        pub queue_bytes: u64 = 64 * 1024 * 1024,
        /// The time in which a request's body must begin, and come on once it has begun.
        #[within("100ms", "10m")]
        pub body_stall: Span = span("20s"),
        /// The time for a whole body, except lines of messages (`application/x-ndjson`), which may go on for ever.
        #[within("1s", "1h")]
        pub body_timeout: Span = span("60s"),
        /// The most endpoints of an application.
        #[within(1, 1_000_000)]
        pub endpoints_per_application: u64 = 1_000,
        /// The most event types of an environment.
        #[within(1, 1_000_000)]
        pub event_types_per_environment: u64 = 10_000,
        /// The most attempts that the callers of one application may ask for in a day by `resend`, and as many by tasks (`recover` and
        /// replays): so many at once, and as many again over each day. What is logged of each stays for `retention.history`.
        #[within(1, 1_000_000_000)]
        pub asked_per_day: u64 = ASKED_PER_DAY,
    }
}
