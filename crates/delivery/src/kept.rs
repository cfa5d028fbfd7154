//! How much of receivers' answers is kept for the log of attempts.
//!
//! An answer is cut at [`MAX_KEPT_ANSWER_BYTES`] anyway. But one message to a thousand endpoints that fail eight times each makes
//! eight thousand rows of the log, and what each receiver puts into them is its own choice. So the long answers of one
//! application share an allowance; when it is used up, the first [`SHORT_ANSWER_BYTES`] of each are kept until some of it is
//! there again. Kept in memory: a restart gives back what was used. Nor is a long answer kept when there is no memory for it
//! until it is stored.

use std::collections::HashMap;

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_domain::allowance::Allowance;
use postrider_domain::attempt::{MAX_KEPT_ANSWER_BYTES, cut_text};
use postrider_domain::time::Timestamp;
use postrider_store::ApplicationKey;

postrider_domain::limits! {
    in "Responses of receivers";
    /// What an application's long responses may add to the log of attempts in a day, beyond the first 256 bytes of each
    setting "delivery.kept_responses_per_day", beyond "256 bytes of each are kept until some of it is there again";
    /// What is always kept of a response's body
    pub(crate) const SHORT_ANSWER_BYTES: usize = 256, "bytes", beyond "cut, at a character if it is text";
}

/// Applications without anything used are looked for when there are this many, and then whenever their number has doubled.
const FIRST_CLEANING: usize = 1_024;

/// What the applications' long answers used of late.
#[derive(Debug)]
pub(crate) struct KeptAnswers {
    per_day: u64,
    used: Mutex<Used>,
}

#[derive(Debug)]
struct Used {
    by_application: HashMap<ApplicationKey, Allowance, foldhash::fast::RandomState>,
    clean_at: usize,
}

impl KeptAnswers {
    /// Of each application, bytes in a day beyond the first ones of each answer.
    pub(crate) fn new(per_day: u64) -> Self {
        Self { per_day, used: Mutex::new(Used { by_application: HashMap::default(), clean_at: FIRST_CLEANING }) }
    }

    /// What is to be kept of an answer.
    pub(crate) fn cut(&self, application: ApplicationKey, mut answer: Bytes, now: Timestamp) -> Bytes {
        answer.truncate(MAX_KEPT_ANSWER_BYTES);
        let Some(beyond) = answer.len().checked_sub(SHORT_ANSWER_BYTES).filter(|beyond| *beyond > 0) else {
            return answer;
        };
        if self.used.lock().spend(application, beyond as u64, self.per_day, now) {
            return answer;
        }
        shorten(answer)
    }
}

/// What is always kept of an answer.
pub(crate) fn shorten(answer: Bytes) -> Bytes {
    match answer.get(..SHORT_ANSWER_BYTES) {
        // A copy: the rest of it is to be let go of.
        Some(short) => Bytes::copy_from_slice(cut_text(short).map_or(short, str::as_bytes)),
        None => answer,
    }
}

impl Used {
    fn spend(&mut self, application: ApplicationKey, bytes: u64, per_day: u64, now: Timestamp) -> bool {
        let allowance = self.by_application.entry(application).or_insert(Allowance::WHOLE);
        let spent = allowance.spend(bytes, per_day, now);
        if let Ok(after) = spent {
            *allowance = after;
        }
        if self.by_application.len() >= self.clean_at {
            self.by_application.retain(|_, allowance| !allowance.is_whole(now));
            self.clean_at = (self.by_application.len() * 2).max(FIRST_CLEANING);
        }
        spent.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);
    const ONE: ApplicationKey = ApplicationKey(1);

    fn long() -> Bytes {
        Bytes::from(vec![b'x'; 30_000])
    }

    #[test]
    fn long_answers_are_kept_until_the_days_worth_is_used_up_and_others_never_count() {
        let kept = KeptAnswers::new(3 * (MAX_KEPT_ANSWER_BYTES - SHORT_ANSWER_BYTES) as u64);
        let lengths = || kept.cut(ONE, long(), NOW).len();
        assert_eq!([lengths(), lengths(), lengths()], [MAX_KEPT_ANSWER_BYTES; 3]);
        assert_eq!(lengths(), SHORT_ANSWER_BYTES);
        let short = Bytes::from(vec![b'x'; SHORT_ANSWER_BYTES]);
        assert_eq!(kept.cut(ONE, short.clone(), NOW), short);
        assert_eq!(kept.cut(ApplicationKey(2), long(), NOW).len(), MAX_KEPT_ANSWER_BYTES, "another one's are kept");
        let later = NOW.saturating_add(Duration::from_secs(8 * 3_600));
        assert_eq!(
            kept.cut(ONE, long(), later).len(),
            MAX_KEPT_ANSWER_BYTES,
            "a third is there after a third of a day"
        );
        assert_eq!(kept.cut(ONE, long(), later).len(), SHORT_ANSWER_BYTES);
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        let kept = KeptAnswers::new(0);
        let text = format!("{}üüü", "x".repeat(SHORT_ANSWER_BYTES - 1));
        assert_eq!(kept.cut(ONE, text.into(), NOW).len(), SHORT_ANSWER_BYTES - 1);
        assert_eq!(kept.cut(ONE, vec![0xff; 1_000].into(), NOW).len(), SHORT_ANSWER_BYTES);
    }

    #[test]
    fn applications_whose_day_is_over_are_forgotten() {
        let kept = KeptAnswers::new(1 << 20);
        for application in 0..10_000 {
            let now = NOW.saturating_add(Duration::from_secs(3_600 * u64::try_from(application).unwrap()));
            kept.cut(ApplicationKey(application), long(), now);
        }
        assert!(kept.used.lock().by_application.len() <= FIRST_CLEANING);
    }
}
