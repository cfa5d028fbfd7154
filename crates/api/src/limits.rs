//! The limits of the API, for `docs/limits.md`: what each module declares where it holds.

use postrider_domain::limits::Limit;

/// Every limit of this crate.
pub fn limits() -> Vec<Limit> {
    [
        crate::auth::limits(),
        crate::idempotency::limits(),
        crate::at_work::limits(),
        crate::problem::limits(),
        crate::lines::limits(),
        crate::typos::limits(),
        crate::pagination::limits(),
        crate::query::limits(),
        crate::model::headers::limits(),
        crate::model::endpoint::limits(),
        crate::model::batch::limits(),
        crate::model::authentication::limits(),
        crate::model::environment::limits(),
        crate::model::task::limits(),
        crate::routes::poller::limits(),
    ]
    .concat()
}
