//! Points in time as the store and the API know them: microseconds since the Unix epoch, UTC.
//!
//! A [`Timestamp`] is truncated to microseconds when it is made, so what a create answers is what a later get answers.
//! Parsing is lenient (rest-contract §1.1): blank or `T`, `Z`, `UTC`, `+00:00` or `+0000`, any fraction, and a value
//! without an offset is UTC.

use std::fmt;
use std::time::Duration;

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// 9999-12-30T22:00:00Z: the last instant that can be shown in every time zone. Sums saturate here.
const MAX_MICROS: i64 = 253_402_207_200_000_000;

impl Timestamp {
    /// The latest instant there is; later sums stay here.
    pub const MAX: Self = Self(MAX_MICROS);
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// From microseconds since the epoch, clamped to what the wire format can show.
    pub const fn from_micros(micros: i64) -> Self {
        if micros > MAX_MICROS {
            Self(MAX_MICROS)
        } else if micros < 0 {
            Self(0)
        } else {
            Self(micros)
        }
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn as_seconds(self) -> i64 {
        self.0 / 1_000_000
    }

    /// The instant `wait` later, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn saturating_add(self, wait: Duration) -> Self {
        let micros = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_add(micros))
    }

    /// The instant `wait` earlier, at least the epoch.
    #[must_use]
    pub fn saturating_sub(self, wait: Duration) -> Self {
        let micros = i64::try_from(wait.as_micros()).unwrap_or(i64::MAX);
        Self::from_micros(self.0.saturating_sub(micros))
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Parses a date leniently, as described above. What was before 1970 is 1970: nothing is older.
    pub fn parse(text: &str) -> Result<Self, ParseTimestampError> {
        let text = text.trim();
        let text = text.strip_suffix("UTC").map_or(text, str::trim_end);
        // jiff wants an offset; a text without one is UTC here.
        let at = text.parse::<jiff::Timestamp>().or_else(|_| format!("{text}Z").parse());
        match at {
            Ok(at) if jiff::tz::Offset::UTC.to_datetime(at).year() >= FIRST_YEAR => {
                Ok(Self::from_micros(at.as_microsecond()))
            }
            Ok(_) => Err(ParseTimestampError::OutOfRange),
            Err(_) if is_beyond(text) => Err(ParseTimestampError::OutOfRange),
            Err(_) => Err(ParseTimestampError::NotADate),
        }
    }
}

/// The first year that RFC 3339 can write.
const FIRST_YEAR: i16 = 0;

/// Whether a text that was not understood is a date and a time all the same, but one that no clock shows everywhere.
fn is_beyond(text: &str) -> bool {
    let Ok(pieces) = jiff::fmt::temporal::Pieces::parse(text) else { return false };
    let Some(time) = pieces.time() else { return false };
    let offset = pieces.to_numeric_offset().unwrap_or(jiff::tz::Offset::UTC);
    offset.to_timestamp(pieces.date().to_datetime(time)).is_err()
}

/// Why a text is no [`Timestamp`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseTimestampError {
    /// It is no date with a time.
    #[error("not a date-time: write it as 2026-01-31T12:00:00Z")]
    NotADate,
    /// It is one, but too early or too late.
    #[error("out of range: must be between 0000-01-01T00:00:00Z and {}", Timestamp::MAX)]
    OutOfRange,
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with `Z`, and 0, 3 or 6 digits of fraction as needed (rest-contract §1.3).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = jiff::Timestamp::from_microsecond(self.0).map_err(|_| fmt::Error)?;
        let digits = match self.0 % 1_000_000 {
            0 => 0,
            micros if micros % 1_000 == 0 => 3,
            _ => 6,
        };
        write!(f, "{at:.digits$}")
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str) -> i64 {
        Timestamp::parse(text).unwrap_or_else(|_| panic!("{text} should parse")).as_micros()
    }

    #[test]
    fn every_lenient_spelling_of_an_instant_is_the_same_instant() {
        let want = micros("2026-01-02T03:04:05.123456Z");
        for text in [
            "2026-01-02 03:04:05.123456 UTC",
            "2026-01-02T03:04:05.123456+00:00",
            "2026-01-02T03:04:05.123456+0000",
            "2026-01-02T03:04:05.123456",
            "2026-01-02T05:04:05.123456+02:00",
            "2026-01-02T03:04:05.123456789Z",
        ] {
            assert_eq!(micros(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in ["", "now", "2026-13-01T00:00:00Z", "1614265330", "2026-01-02T03:04:05 Mars"] {
            assert!(Timestamp::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_a_date_but_cannot_be_shown_everywhere_is_out_of_range() {
        for text in [
            "9999-12-31T23:59:59Z",
            "9999-12-31 23:59:59.9999999 UTC",
            "9999-12-30T22:00:01Z",
            "9999-12-31T23:59:59",
            "9999-12-31T00:00:00+0000",
            "9999-12-30T22:00:00-01:00",
            "-000001-12-31T23:59:59Z",
        ] {
            assert_eq!(Timestamp::parse(text), Err(ParseTimestampError::OutOfRange), "{text}");
        }
        let text = "out of range: must be between 0000-01-01T00:00:00Z and 9999-12-30T22:00:00Z";
        assert_eq!(ParseTimestampError::OutOfRange.to_string(), text);
        for (text, want) in [
            ("9999-12-30T22:00:00Z", Timestamp::MAX),
            ("9999-12-31T00:00:00+02:00", Timestamp::MAX),
            ("0000-01-01T00:00:00Z", Timestamp::EPOCH),
            ("0001-01-01T00:00:00Z", Timestamp::EPOCH),
            ("1969-12-31T23:59:59Z", Timestamp::EPOCH),
        ] {
            assert_eq!(Timestamp::parse(text), Ok(want), "{text}");
        }
        for text in ["9999-12-31", "9999-12-32T00:00:00Z", "9999-12-31T24:61:00Z", "2026-01-02T03:04:05[Europe/Berlin]"]
        {
            assert_eq!(Timestamp::parse(text), Err(ParseTimestampError::NotADate), "{text}");
        }
    }

    #[test]
    fn the_fraction_has_as_many_digits_as_it_needs() {
        for (micros, text) in [
            (1_767_323_045_000_000, "2026-01-02T03:04:05Z"),
            (1_767_323_045_120_000, "2026-01-02T03:04:05.120Z"),
            (1_767_323_045_120_001, "2026-01-02T03:04:05.120001Z"),
        ] {
            assert_eq!(Timestamp::from_micros(micros).to_string(), text);
        }
    }

    #[test]
    fn sums_stay_within_what_can_be_shown() {
        assert_eq!(Timestamp::MAX.saturating_add(Duration::MAX), Timestamp::MAX);
        assert_eq!(Timestamp::EPOCH.saturating_sub(Duration::MAX), Timestamp::EPOCH);
        assert_eq!(Timestamp::MAX.to_string(), "9999-12-30T22:00:00Z");
    }
}
