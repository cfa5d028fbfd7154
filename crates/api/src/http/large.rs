//! Work on what is large: reading megabytes of JSON or thousands of values, writing an export. It takes its time, and a thread
//! that does it answers nobody meanwhile. So it is done by threads of their own, which give way to those that serve when cores are
//! short, as those that deliver do, and bodies are read on half of the cores at most; environments share
//! the time of that, and within one its applications; those who have no token are one caller, and behind the others.

use std::sync::Arc;
use std::time::Duration;

use postrider_ingest::Intake;

use rustix::time::{ClockId, clock_gettime};

use crate::http::account::Account;
use crate::http::lines::Line;
use crate::http::workers::Workers;
use crate::wire::decode;
use crate::wire::error::Result;

/// What is read at once.
const AT_ONCE_BYTES: usize = 64 * 1024;

/// The values in what is read at once, if each is decoded: half a microsecond each, however short they are.
pub(crate) const DECODED: usize = 500;

/// The values in what is read at once, if they are passed over, as those in messages are: a tenth of that.
pub(crate) const PASSED_OVER: usize = 5_000;

/// Whether a body takes its time to read, of which so many values are read at once.
pub(crate) fn takes_time(body: &[u8], values: usize) -> bool {
    body.len() > AT_ONCE_BYTES || decode::has_more_values(body, values)
}

/// Lines that are read at once. What is wrong with each, if that is much, costs more than it has bytes.
const AT_ONCE_LINES: usize = 100;

/// Whether lines of messages do, all together.
pub(crate) fn lines_take_time(lines: &[Line]) -> bool {
    let bytes: usize = lines.iter().map(Line::len).sum();
    lines.len() > AT_ONCE_LINES
        || bytes > AT_ONCE_BYTES
        || lines.iter().map(|line| decode::values(line.text())).sum::<usize>() > PASSED_OVER
}

/// Who reads, and in which order.
#[derive(Clone)]
pub(crate) struct Reading {
    /// Gives turns.
    pub(crate) intake: Arc<Intake>,
    /// The threads.
    pub(crate) workers: Arc<Workers>,
}

/// Reads what came in a body: when it is the turn of whose it is, if that takes its time. Whoever waits for that is not worked on,
/// and is when it is read.
///
/// The turn stays with the thread until it is done, also if whoever sent the body has gone.
pub(crate) async fn read<T: Send + 'static>(
    reading: &Reading,
    account: &Account,
    takes_time: bool,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let Some(tenant) = takes_time.then(|| account.tenant()).flatten() else {
        account.begin_work().await?;
        return Ok(read());
    };
    account.pause_work();
    let mut turn = reading.intake.reading_turn(tenant).await?;
    let read = move || {
        let begun = processor_time();
        let read = read();
        // To wait for a processor, of which others have too many, is nothing that it costs.
        turn.took(processor_time().saturating_sub(begun));
        drop(turn);
        read
    };
    let read = reading.workers.run(read).await?;
    account.begin_work().await?;
    Ok(read)
}

/// The processor time that this thread has used.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_its_time_is_what_is_long_or_has_many_values() {
        let members = |count: usize| format!("{{{}}}", vec![r#""a":"""#; count].join(","));
        for most in [DECODED, PASSED_OVER] {
            assert!(!takes_time(members(most).as_bytes(), most));
            assert!(takes_time(members(most + 1).as_bytes(), most));
        }
        assert!(!takes_time(&[b'x'; AT_ONCE_BYTES], DECODED));
        assert!(takes_time(&[b'x'; AT_ONCE_BYTES + 1], DECODED));
    }

    #[test]
    fn lines_count_together() {
        let lines = |text: &str| vec![Line::Text(text.to_owned().into()); 10];
        let values = |count: usize| ",".repeat(count / 10);
        assert!(!lines_take_time(&lines(&values(PASSED_OVER))));
        assert!(lines_take_time(&lines(&values(PASSED_OVER + 10))));
        assert!(lines_take_time(&lines(&"x".repeat(AT_ONCE_BYTES / 10 + 1))));
        assert!(!lines_take_time(&[Line::TooLong]));
        assert!(!lines_take_time(&vec![Line::TooLong; AT_ONCE_LINES]));
        assert!(lines_take_time(&vec![Line::TooLong; AT_ONCE_LINES + 1]));
    }
}
