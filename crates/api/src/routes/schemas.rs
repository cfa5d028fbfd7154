//! Whether what came in as JSON Schemas is that: asked of the processes that run schemas, all of a request at once.

use http::StatusCode;
use postrider_domain::application::EnvironmentId;
use postrider_ingest::CheckError;

use crate::state::Shared;
use crate::wire::error::{ApiError, Result};
use crate::wire::placed::Placed;
use crate::wire::problem::{MAX_PROBLEMS, Problem};

/// Refuses a request with everything that is wrong with its schemas.
pub(crate) async fn check(state: &Shared, environment: &EnvironmentId, schemas: Vec<Placed<'_>>) -> Result<()> {
    let texts: Vec<_> = schemas.iter().map(|placed| placed.text).collect();
    let problems = match state.judges.check(environment, &texts).await {
        Ok(problems) => problems,
        Err(CheckError::Refused(problem)) => return Err(ApiError::invalid(&["body"], problem)),
        Err(CheckError::Busy) => return Err(busy("Too many schemas are being checked: try again in a moment.")),
    };
    if problems.is_empty() {
        return Ok(());
    }
    let problem =
        |(place, msg): (usize, String)| Problem { loc: schemas[place].loc.clone(), msg, kind: Problem::VALUE };
    Err(ApiError::Invalid(problems.into_iter().take(MAX_PROBLEMS).map(problem).collect()))
}

/// 503: others are before.
pub(crate) fn busy(detail: &'static str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail)
}
