//! Reading what is large: on a thread of its own, and in turn. Megabytes of JSON take their time, and a thread that reads
//! them answers nobody meanwhile; so they are read on half of the machine's cores, and environments take turns.

use postrider_domain::application::EnvironmentId;

use crate::error::{ApiError, Result};
use crate::router::Shared;

/// What is read at once.
const AT_ONCE_BYTES: usize = 64 * 1024;

/// Reads what came of an environment in a body of so many bytes.
///
/// The turn stays with the thread until it is done, also if whoever sent the body has gone.
pub(crate) async fn read<T: Send + 'static>(
    state: &Shared,
    environment: &EnvironmentId,
    bytes: usize,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    if bytes <= AT_ONCE_BYTES {
        return Ok(read());
    }
    let turn = state.intake.reading_turn(environment).await?;
    let read = move || {
        let read = read();
        drop(turn);
        read
    };
    tokio::task::spawn_blocking(read).await.map_err(|_| ApiError::internal())
}
