//! The limits of the API, for `docs/limits.md`: what each module declares where it holds.

use postrider_domain::limits::Limit;

/// Every limit of this crate.
pub fn limits() -> Vec<Limit> {
    [
        crate::access::auth::limits(),
        crate::access::idempotency::limits(),
        crate::http::at_work::limits(),
        crate::wire::problem::limits(),
        crate::router::limits(),
        crate::http::lines::limits(),
        crate::wire::typos::limits(),
        crate::http::pagination::limits(),
        crate::http::query::limits(),
        crate::wire::model::headers::limits(),
        crate::wire::model::endpoint::limits(),
        crate::wire::model::batch::limits(),
        crate::wire::model::authentication::limits(),
        crate::wire::model::environment::limits(),
        crate::wire::model::task::limits(),
        crate::routes::poller::limits(),
    ]
    .concat()
}
