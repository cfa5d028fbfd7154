//! When a failed delivery is tried again: the schedule, its jitter, and what a receiver may ask for.

use std::time::Duration;

use crate::settings::Span;
use crate::time::Timestamp;

/// The waits of Standard Webhooks after the first attempt: about three days in all.
const STANDARD: [u64; 9] = [5, 5 * 60, 30 * 60, 2 * 3_600, 5 * 3_600, 10 * 3_600, 14 * 3_600, 20 * 3_600, 24 * 3_600];

/// More waits than this are a mistake in a setting.
pub const MAX_WAITS: usize = 100;

/// A wait is lengthened or shortened by at most this share, so that failures of one moment don't come back as one burst.
pub const JITTER: f64 = 0.2;

/// The waits after the first attempt. Empty means that there is one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule(Vec<Duration>);

/// The schedule has too many waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a retry schedule has at most {MAX_WAITS} waits, this one has {0}")]
pub struct TooManyWaits(usize);

impl RetrySchedule {
    /// A schedule of these waits.
    pub fn try_new(waits: Vec<Duration>) -> Result<Self, TooManyWaits> {
        if waits.len() > MAX_WAITS { Err(TooManyWaits(waits.len())) } else { Ok(Self(waits)) }
    }

    /// The wait after the `made`-th attempt (1 after the first), without jitter; `None` if that was the last.
    pub fn wait_after(&self, made: u32) -> Option<Duration> {
        self.0.get(usize::try_from(made).ok()?.checked_sub(1)?).copied()
    }

    /// The longest wait that the schedule can lead to, with jitter.
    pub fn longest(&self) -> Duration {
        jittered_up(self.0.iter().max().copied().unwrap_or_default(), 1.0)
    }
}

impl Default for RetrySchedule {
    fn default() -> Self {
        Self(STANDARD.map(Duration::from_secs).to_vec())
    }
}

impl serde::Serialize for RetrySchedule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|wait| Span(*wait)))
    }
}

impl<'de> serde::Deserialize<'de> for RetrySchedule {
    /// A list of durations, or the same as text (`["5s","5m"]` or `5s,5m`), which is how environment variables hold it.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;

        let items = crate::settings::string_list(deserializer)?;
        let waits = items.iter().map(|item| item.parse::<Span>().map(|span| span.0)).collect::<Result<_, _>>();
        Self::try_new(waits.map_err(Error::custom)?).map_err(Error::custom)
    }
}

/// Applies jitter to a wait: `unit` in `[0, 1)` moves it by −20 % to +20 %.
pub fn jittered(wait: Duration, unit: f64) -> Duration {
    scale(wait, 1.0 + JITTER * (2.0 * unit - 1.0))
}

/// Applies jitter that only lengthens: for waits that a receiver asked for.
pub fn jittered_up(wait: Duration, unit: f64) -> Duration {
    scale(wait, 1.0 + JITTER * unit)
}

fn scale(wait: Duration, factor: f64) -> Duration {
    // `from_secs_f64` panics on what does not fit; no wait comes near a century.
    Duration::try_from_secs_f64(wait.as_secs_f64() * factor).unwrap_or(wait)
}

/// Reads a `Retry-After` header (RFC 9110 §10.2.3): seconds, here also with a fraction, or an HTTP date. What is broken
/// is `None`; what is negative or past is zero; what is absurdly long is `Duration::MAX`, for the caller to clamp.
pub fn parse_retry_after(value: &str, wall: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        if seconds.is_nan() {
            return None;
        }
        return Some(Duration::try_from_secs_f64(seconds.max(0.0).ceil()).unwrap_or(Duration::MAX));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let micros = date.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_micros());
    Some(Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX)).since(wall))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn jitter_stays_within_a_fifth(millis in 0u64..1_000_000_000, unit in 0.0f64..1.0) {
            let wait = Duration::from_millis(millis);
            let moved = jittered(wait, unit).as_secs_f64();
            prop_assert!(moved >= wait.as_secs_f64() * 0.799 && moved <= wait.as_secs_f64() * 1.201);
            prop_assert!(jittered_up(wait, unit) >= wait.mul_f64(0.999_999));
        }

        #[test]
        fn any_retry_after_is_read_or_ignored_without_a_panic(value in ".{0,40}") {
            let _ = parse_retry_after(&value, Timestamp::EPOCH);
        }
    }

    #[test]
    fn hostile_retry_after_values_are_harmless() {
        let wall = Timestamp::from_micros(1_767_323_045_000_000);
        for (value, want) in [
            ("120", Some(Duration::from_secs(120))),
            ("1.2", Some(Duration::from_secs(2))),
            ("1e18", Some(Duration::from_secs(1_000_000_000_000_000_000))),
            ("1e300", Some(Duration::MAX)),
            ("inf", Some(Duration::MAX)),
            ("-1", Some(Duration::ZERO)),
            ("NaN", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(Duration::ZERO)),
            ("Fri, 02 Jan 2026 03:05:05 GMT", Some(Duration::from_secs(60))),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
            ("", None),
        ] {
            assert_eq!(parse_retry_after(value, wall), want, "{value}");
        }
    }

    #[test]
    fn the_standard_schedule_is_ten_attempts_over_about_three_days() {
        let schedule = RetrySchedule::default();
        let waits: Vec<_> = (1..).map_while(|made| schedule.wait_after(made)).collect();
        assert_eq!(waits.len(), 9);
        assert_eq!(waits.iter().sum::<Duration>().as_secs() / 3_600, 75);
        assert_eq!(schedule.wait_after(0), None);
    }

    #[test]
    fn a_schedule_is_read_from_a_list_or_from_text() {
        let read = |json: &str| serde_json::from_str::<RetrySchedule>(json);
        let want = RetrySchedule::try_new(vec![Duration::from_secs(5), Duration::from_millis(1)]).unwrap();
        for json in [r#"["5s","1ms"]"#, r#""5s,1ms""#, r#""[\"5s\", \"1ms\"]""#] {
            assert_eq!(read(json).unwrap(), want, "{json}");
        }
        assert_eq!(read("[]").unwrap(), read(r#""[]""#).unwrap());
        assert!(read(r#"["5"]"#).is_err());
        assert!(read("5").is_err());
    }
}
