//! `postrider openapi`: the OpenAPI document of the API, for code generators and for `docs/openapi.json`.

use std::io::Write as _;
use std::process::ExitCode;

use crate::terminal;

/// Prints the document, as a running server has it at `/api/v1/openapi.json`.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    writeln!(terminal::stdout(), "{:#}", postrider_api::openapi_document())?;
    Ok(ExitCode::SUCCESS)
}
