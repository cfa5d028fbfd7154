//! Identifiers: a prefix for the kind, and a KSUID that sorts by creation time (rest-contract §1.4).
//!
//! 20 bytes: 4 bytes big-endian seconds since 1,400,000,000, 1 byte milliseconds ÷ 4, 15 random bytes; written as 27
//! base62 characters, whose bytewise order is the order of the 20 bytes. One Rust type per kind, so that an endpoint's
//! id can't be passed where a message's is meant.

use std::fmt;
use std::str::FromStr;

use crate::entropy::Entropy;
use crate::time::Timestamp;

const EPOCH_SECONDS: i64 = 1_400_000_000;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const TEXT_LEN: usize = 27;

/// The 20 bytes behind every id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ksuid([u8; 20]);

/// The text is not an id of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {prefix}…")]
pub struct ParseIdError {
    /// The prefix that this kind of id has.
    pub prefix: &'static str,
}

impl Ksuid {
    /// A new id for something made at `at`.
    pub fn new(at: Timestamp, entropy: &dyn Entropy) -> Self {
        let mut bytes = Self::floor(at).0;
        entropy.fill(&mut bytes[5..]);
        Self(bytes)
    }

    /// The lowest id of the 4 ms in which `at` lies: what time filters compare with.
    pub fn floor(at: Timestamp) -> Self {
        let micros = at.as_micros();
        let seconds = u32::try_from((micros.div_euclid(1_000_000) - EPOCH_SECONDS).max(0)).unwrap_or(u32::MAX);
        let mut bytes = [0u8; 20];
        bytes[..4].copy_from_slice(&seconds.to_be_bytes());
        bytes[4] = (micros.rem_euclid(1_000_000) / 4_000) as u8;
        Self(bytes)
    }

    /// The instant in the id, at 4 ms resolution.
    pub fn timestamp(self) -> Timestamp {
        let [a, b, c, d, quarter, ..] = self.0;
        let seconds = i64::from(u32::from_be_bytes([a, b, c, d])) + EPOCH_SECONDS;
        Timestamp::from_micros(seconds * 1_000_000 + i64::from(quarter) * 4_000)
    }

    /// The bytes, as stores keep them: their order is the order of creation.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// From the bytes that a store kept.
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    fn write(self, out: &mut [u8; TEXT_LEN]) {
        // Five digits at a time: 62^5 fits in 32 bits, so six rounds of long division over five limbs do it.
        const CHUNK: u64 = 62u64.pow(5);
        let mut limbs = [0u32; 5];
        for (limb, chunk) in limbs.iter_mut().zip(self.0.chunks_exact(4)) {
            *limb = u32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        }
        let mut end = TEXT_LEN;
        while end > 0 {
            let mut rest = 0u64;
            for limb in &mut limbs {
                let value = (rest << 32) | u64::from(*limb);
                *limb = (value / CHUNK) as u32;
                rest = value % CHUNK;
            }
            let digits = end.min(5);
            for place in (end - digits..end).rev() {
                out[place] = ALPHABET[(rest % 62) as usize];
                rest /= 62;
            }
            end -= digits;
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != TEXT_LEN {
            return None;
        }
        let mut limbs = [0u32; 5];
        for &byte in text {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'A'..=b'Z' => byte - b'A' + 10,
                b'a'..=b'z' => byte - b'a' + 36,
                _ => return None,
            };
            let mut carry = u64::from(digit);
            for limb in limbs.iter_mut().rev() {
                let value = u64::from(*limb) * 62 + carry;
                *limb = value as u32;
                carry = value >> 32;
            }
            if carry != 0 {
                return None;
            }
        }
        let mut bytes = [0u8; 20];
        for (chunk, limb) in bytes.chunks_exact_mut(4).zip(limbs) {
            chunk.copy_from_slice(&limb.to_be_bytes());
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Ksuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; TEXT_LEN];
        self.write(&mut text);
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Ksuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What all kinds of id have in common.
pub trait Id: Copy + Ord + fmt::Display + FromStr<Err = ParseIdError> {
    /// The text before the KSUID, with its underscore.
    const PREFIX: &'static str;
    /// The id with these 20 bytes.
    fn from_ksuid(ksuid: Ksuid) -> Self;
    /// The 20 bytes.
    fn ksuid(&self) -> Ksuid;
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ksuid);

        impl $name {
            /// A new id for something made at `at`.
            pub fn new(at: Timestamp, entropy: &dyn Entropy) -> Self {
                Self(Ksuid::new(at, entropy))
            }
        }

        impl Id for $name {
            const PREFIX: &'static str = $prefix;
            fn from_ksuid(ksuid: Ksuid) -> Self {
                Self(ksuid)
            }
            fn ksuid(&self) -> Ksuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix($prefix)
                    .and_then(|rest| Ksuid::parse(rest.as_bytes()))
                    .map(Self)
                    .ok_or(ParseIdError { prefix: $prefix })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

id!(
    /// An application: one customer of the operator.
    ApplicationId, "app_"
);
id!(
    /// An endpoint: a URL that wants messages.
    EndpointId, "ep_"
);
id!(
    /// A message; also the `webhook-id` of every request made for it.
    MessageId, "msg_"
);
id!(
    /// An attempt: one HTTP request made for a delivery.
    AttemptId, "atmpt_"
);
id!(
    /// A background task.
    TaskId, "qtask_"
);
id!(
    /// An API key (not its secret).
    KeyId, "key_"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_id_reads_back_from_its_text(bytes: [u8; 20]) {
            let id = MessageId::from_ksuid(Ksuid::from_bytes(bytes));
            prop_assert_eq!(id.to_string().parse::<MessageId>(), Ok(id));
        }

        #[test]
        fn text_order_is_byte_order(a: [u8; 20], b: [u8; 20]) {
            let (a, b) = (Ksuid::from_bytes(a), Ksuid::from_bytes(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_a_panic(text in ".{0,40}") {
            let _ = text.parse::<MessageId>();
        }
    }

    #[test]
    fn the_instant_is_kept_at_four_milliseconds() {
        let at = Timestamp::from_micros(1_767_323_045_123_456);
        let id = MessageId::new(at, &SeededEntropy::new(1));
        assert_eq!(id.ksuid().timestamp(), Timestamp::from_micros(1_767_323_045_120_000));
    }

    #[test]
    fn a_known_ksuid_is_read_as_published() {
        // The KSUID specification's own example: payload and time of 0ujtsYcgvSTl8PAuAdqWYSMnLOv.
        let id: MessageId = "msg_0ujtsYcgvSTl8PAuAdqWYSMnLOv".parse().unwrap();
        assert_eq!(id.ksuid().as_bytes()[..4], 107_608_047u32.to_be_bytes());
    }

    #[test]
    fn an_id_of_another_kind_or_out_of_range_is_refused() {
        for text in [
            "ep_0ujtsYcgvSTl8PAuAdqWYSMnLOv",
            "msg_",
            "msg_zzzzzzzzzzzzzzzzzzzzzzzzzzz",
            "msg_0ujtsYcgvSTl8PAuAdqWYSMnLO-",
        ] {
            assert!(text.parse::<MessageId>().is_err(), "{text}");
        }
    }
}
