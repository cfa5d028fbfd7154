//! The bounds of delivering, for `docs/limits.md`.

use postrider_domain::limits::Limit;

pub use responses::{MAX_BODY_BYTES, MAX_HEAD_BYTES, MAX_INTERIM};

/// Every bound of this crate.
pub fn limits() -> Vec<Limit> {
    [
        responses::limits(),
        crate::pool::limits(),
        crate::addresses::limits(),
        crate::resolve::limits(),
        crate::connect::limits(),
        crate::shared::limits(),
        crate::http2::limits(),
        crate::meter::limits(),
    ]
    .concat()
}

mod responses {
    postrider_domain::limits! {
        in "Responses of receivers";
        /// The heads of one response, those of interim responses included
        pub const MAX_HEAD_BYTES: usize = 64 * 1024, "bytes", beyond "the status counts if it was read, the rest is not read, and the connection is closed";
        /// What is read of a response's body, with what divides it into chunks
        pub const MAX_BODY_BYTES: usize = 64 * 1024, "bytes", beyond "the status counts, the rest is not read, and the connection is closed";
        /// Interim responses (1xx) of one attempt over HTTP/1
        pub const MAX_INTERIM: usize = 16, "responses", beyond "failed attempt, and the connection is closed";
    }
}
