//! What the benchmark posts, and how a receiver recognises it.
//!
//! The payload begins `{"phase":…,"seq":…,"sent":…`, all numbers of a fixed width, so that a request is made by patching
//! digits into a copy, and read without a JSON parser. A server that reorders the members is still understood.

use bytes::Bytes;

/// The smallest payload that holds the stamp.
pub(super) const SMALLEST_PAYLOAD: usize = 80;
/// How many phases one run can have: two digits that begin with 1 to 9.
pub(super) const PHASES: usize = 90;

const HEAD: &str = r#"{"eventType":"bench.message","payload":"#;
// A number in JSON has no leading zeros: an offset keeps its width.
const PHASE_OFFSET: u64 = 10;
const SEQUENCE_OFFSET: u64 = 1_000_000_000;
const SENT_OFFSET: u64 = 1_000_000_000_000_000;
const PHASE: &[u8] = br#""phase":"#;
const SEQUENCE: &[u8] = br#""seq":"#;
const SENT: &[u8] = br#""sent":"#;

/// Which message this is, and when it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Which phase of the run it belongs to.
    pub(super) phase: u8,
    /// Its place in the phase, from 0.
    pub(super) sequence: u32,
    /// When it was (to be) sent, by the stopwatch.
    pub(super) sent: u64,
}

/// A request body with places for a stamp.
#[derive(Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    phase_at: usize,
    sequence_at: usize,
    sent_at: usize,
}

impl Template {
    /// A body whose payload has exactly `payload_bytes` bytes, but at least [`SMALLEST_PAYLOAD`].
    pub(super) fn new(payload_bytes: usize) -> Self {
        let stamp = format!(r#"{{"phase":10,"seq":{SEQUENCE_OFFSET},"sent":{SENT_OFFSET},"pad":""#);
        let padding = payload_bytes.max(SMALLEST_PAYLOAD) - stamp.len() - 2;
        let text = format!(r#"{HEAD}{stamp}{}"}}}}"#, "x".repeat(padding));
        let after = |name: &[u8]| end_of(text.as_bytes(), name).unwrap_or_default();
        let (phase_at, sequence_at, sent_at) = (after(PHASE), after(SEQUENCE), after(SENT));
        Self { bytes: text.into_bytes(), phase_at, sequence_at, sent_at }
    }

    /// The body for all of these stamps at once.
    pub(super) fn batch(&self, stamps: &[Stamp]) -> Bytes {
        let mut bytes = Vec::with_capacity(stamps.len() * (self.bytes.len() + 1) + 1);
        for stamp in stamps {
            bytes.push(if bytes.is_empty() { b'[' } else { b',' });
            bytes.extend_from_slice(&self.stamped(*stamp));
        }
        bytes.push(b']');
        bytes.into()
    }

    /// The body for this stamp.
    pub(super) fn stamped(&self, stamp: Stamp) -> Bytes {
        let mut bytes = self.bytes.clone();
        write_digits(&mut bytes[self.phase_at..self.phase_at + 2], PHASE_OFFSET + u64::from(stamp.phase));
        write_digits(&mut bytes[self.sequence_at..self.sequence_at + 10], SEQUENCE_OFFSET + u64::from(stamp.sequence));
        write_digits(&mut bytes[self.sent_at..self.sent_at + 16], SENT_OFFSET + stamp.sent);
        bytes.into()
    }
}

impl Stamp {
    /// The stamp of a payload that arrived; `None` if it is not one of ours.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let phase = number_after(payload, PHASE)?.checked_sub(PHASE_OFFSET)?;
        let sequence = number_after(payload, SEQUENCE)?.checked_sub(SEQUENCE_OFFSET)?;
        let sent = number_after(payload, SENT)?.checked_sub(SENT_OFFSET)?;
        let phase = u8::try_from(phase).ok().filter(|phase| usize::from(*phase) < PHASES)?;
        Some(Self { phase, sequence: u32::try_from(sequence).ok()?, sent })
    }
}

fn write_digits(place: &mut [u8], mut value: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn end_of(text: &[u8], name: &[u8]) -> Option<usize> {
    text.windows(name.len()).position(|window| window == name).map(|at| at + name.len())
}

fn number_after(text: &[u8], name: &[u8]) -> Option<u64> {
    let rest = text[end_of(text, name)?..].trim_ascii_start();
    let digits = rest.iter().take(19).take_while(|byte| byte.is_ascii_digit());
    let (count, value) = digits.fold((0, 0u64), |(n, value), digit| (n + 1, value * 10 + u64::from(digit - b'0')));
    (count > 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { phase: 7, sequence: 123_456_789, sent: 98_765_432_109 };

    #[test]
    fn a_body_is_json_of_the_size_asked_for_and_its_stamp_reads_back() {
        for size in [SMALLEST_PAYLOAD, 1_024, 20_000] {
            let body = Template::new(size).stamped(STAMP);
            let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(message["eventType"], "bench.message");
            let payload = &body[HEAD.len()..body.len() - 1];
            assert_eq!(payload.len(), size);
            assert_eq!(Stamp::read(payload), Some(STAMP));
        }
    }

    #[test]
    fn a_batch_is_an_array_of_bodies() {
        let template = Template::new(SMALLEST_PAYLOAD);
        let other = Stamp { sequence: 1, ..STAMP };
        let messages: Vec<serde_json::Value> = serde_json::from_slice(&template.batch(&[STAMP, other])).unwrap();
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[1], serde_json::from_slice::<serde_json::Value>(&template.stamped(other)).unwrap());
    }

    #[test]
    fn a_reordered_and_reformatted_payload_is_understood() {
        let text = br#"{ "pad": "x", "sent": 1000098765432109, "phase": 17, "seq":  1123456789 }"#;
        // Written with a blank after the colon, as Python does.
        assert_eq!(Stamp::read(text), Some(STAMP));
    }

    #[test]
    fn what_is_not_ours_has_no_stamp() {
        for text in [&b""[..], b"{}", br#"{"phase":10,"seq":5,"sent":6}"#, br#"{"phase":10,"seq":,"sent":}"#] {
            assert_eq!(Stamp::read(text), None);
        }
    }
}
