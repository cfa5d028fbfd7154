//! How much of receivers' answers is kept for the log of attempts.
//!
//! An answer is cut at [`MAX_KEPT_ANSWER_BYTES`] anyway. But one message to a thousand endpoints that fail eight times each makes
//! eight thousand rows of the log, and what each receiver puts into them is its own choice. So the long answers of one
//! application share an allowance; when it is used up, the first [`SHORT_ANSWER_BYTES`] of each are kept until some of it is
//! there again. Kept in memory: a restart gives back what was used. Nor is a long answer kept when there is no memory for it
//! until it is stored; the log says how many were cut for that.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use postrider_domain::allowance::Allowance;
use postrider_domain::attempt::{MAX_KEPT_ANSWER_BYTES, cut_text};
use postrider_domain::time::Timestamp;
use postrider_store::ApplicationKey;

use crate::unsaid::Unsaid;

postrider_domain::limits! {
    in "Responses of receivers";
    /// What an application's long responses may add to the log of attempts in a day, beyond the first 256 bytes of each
    setting "delivery.kept_responses_per_day", beyond "256 bytes of each are kept until some of it is there again";
    /// Applications of which it is remembered how much of that they have used
    pub(crate) const MAX_ALLOWANCES: usize = 65_536, "applications", beyond "the half that has used least is forgotten, and has all of it again";
    /// What is always kept of a response's body
    pub(crate) const SHORT_ANSWER_BYTES: usize = 256, "bytes", beyond "cut, at a character if it is text";
}

/// Applications without anything used are looked for when there are this many, and then whenever their number has doubled.
const FIRST_CLEANING: usize = 1_024;

/// What is remembered of them takes at most, in bytes; a table that has just grown is half empty.
pub(crate) const ALLOWANCES_BYTES: u64 = (MAX_ALLOWANCES * 2 * size_of::<(ApplicationKey, Allowance)>()) as u64;

/// What the applications' long answers used of late.
#[derive(Debug)]
pub(crate) struct KeptAnswers {
    per_day: u64,
    used: Mutex<Used>,
    lack: Lack,
}

/// What was not kept for want of memory.
#[derive(Debug, Default)]
struct Lack {
    bytes: AtomicU64,
    unsaid: Unsaid,
}

#[derive(Debug)]
struct Used {
    by_application: HashMap<ApplicationKey, Allowance, foldhash::fast::RandomState>,
    clean_at: usize,
}

impl KeptAnswers {
    /// Of each application, bytes in a day beyond the first ones of each answer.
    pub(crate) fn new(per_day: u64) -> Self {
        let used = Mutex::new(Used { by_application: HashMap::default(), clean_at: FIRST_CLEANING });
        Self { per_day, used, lack: Lack::default() }
    }

    /// What is to be kept of an answer, if there is memory for so many bytes. Where there is none, nothing is used up.
    pub(crate) fn cut(
        &self,
        application: ApplicationKey,
        mut answer: Bytes,
        has_memory: impl FnOnce(u64) -> bool,
        now: Timestamp,
    ) -> Bytes {
        answer.truncate(MAX_KEPT_ANSWER_BYTES);
        let Some(beyond) = answer.len().checked_sub(SHORT_ANSWER_BYTES).filter(|beyond| *beyond > 0) else {
            return answer;
        };
        if !has_memory(answer.len() as u64) {
            let long = answer.len();
            let short = shorten(answer);
            self.lack.note(long - short.len(), now);
            return short;
        }
        if self.used.lock().spend(application, beyond as u64, self.per_day, now) {
            return answer;
        }
        shorten(answer)
    }

    /// Bytes of answers that were not kept for want of memory.
    pub(crate) fn cut_bytes(&self) -> u64 {
        self.lack.bytes.load(Ordering::Relaxed)
    }

    /// Says what was not said yet, if it is time for that. To be called now and then: nothing more may happen.
    pub(crate) fn say_the_rest(&self, now: Timestamp) {
        self.lack.say(0, now);
    }
}

impl Lack {
    fn note(&self, bytes: usize, now: Timestamp) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.say(1, now);
    }

    fn say(&self, answers: usize, now: Timestamp) {
        if let Some(answers) = self.unsaid.to_say(answers, now) {
            tracing::warn!(
                answers,
                "of responses no more than {SHORT_ANSWER_BYTES} bytes each were kept: there was no memory for more \
                 (delivery.memory_bytes)"
            );
        }
    }
}

/// What is always kept of an answer.
fn shorten(answer: Bytes) -> Bytes {
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
            if self.by_application.len() >= MAX_ALLOWANCES {
                self.forget_half();
            }
            self.clean_at = (self.by_application.len() * 2).clamp(FIRST_CLEANING, MAX_ALLOWANCES);
        }
        spent.is_ok()
    }

    /// Forgets those that have used least: so least is given back.
    fn forget_half(&mut self) {
        let mut ends: Vec<_> = self.by_application.values().map(|allowance| allowance.until()).collect();
        let middle = ends.len() / 2;
        let median = *ends.select_nth_unstable(middle).1;
        self.by_application.retain(|_, allowance| allowance.until() > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);
    const ONE: ApplicationKey = ApplicationKey(1);

    fn ample(_: u64) -> bool {
        true
    }

    fn long() -> Bytes {
        Bytes::from(vec![b'x'; 30_000])
    }

    #[test]
    fn long_answers_are_kept_until_the_days_worth_is_used_up_and_others_never_count() {
        let kept = KeptAnswers::new(3 * (MAX_KEPT_ANSWER_BYTES - SHORT_ANSWER_BYTES) as u64);
        let lengths = || kept.cut(ONE, long(), ample, NOW).len();
        assert_eq!([lengths(), lengths(), lengths()], [MAX_KEPT_ANSWER_BYTES; 3]);
        assert_eq!(lengths(), SHORT_ANSWER_BYTES);
        let short = Bytes::from(vec![b'x'; SHORT_ANSWER_BYTES]);
        assert_eq!(kept.cut(ONE, short.clone(), ample, NOW), short);
        assert_eq!(
            kept.cut(ApplicationKey(2), long(), ample, NOW).len(),
            MAX_KEPT_ANSWER_BYTES,
            "another one's are kept"
        );
        let later = NOW.saturating_add(Duration::from_secs(8 * 3_600));
        assert_eq!(
            kept.cut(ONE, long(), ample, later).len(),
            MAX_KEPT_ANSWER_BYTES,
            "a third is there after a third of a day"
        );
        assert_eq!(kept.cut(ONE, long(), ample, later).len(), SHORT_ANSWER_BYTES);
    }

    #[test]
    fn what_is_cut_for_want_of_memory_uses_nothing_of_the_day_and_is_counted() {
        let kept = KeptAnswers::new((MAX_KEPT_ANSWER_BYTES - SHORT_ANSWER_BYTES) as u64);
        for _ in 0..100 {
            assert_eq!(kept.cut(ONE, long(), |_| false, NOW).len(), SHORT_ANSWER_BYTES);
        }
        assert_eq!(kept.cut_bytes(), 100 * (MAX_KEPT_ANSWER_BYTES - SHORT_ANSWER_BYTES) as u64);
        assert_eq!(kept.cut(ONE, long(), ample, NOW).len(), MAX_KEPT_ANSWER_BYTES);
    }

    #[test]
    fn of_so_many_applications_it_is_remembered_what_they_have_used_and_most_of_those_that_used_most() {
        let kept = KeptAnswers::new(1 << 20);
        let used = |number: usize| Bytes::from(vec![b'x'; SHORT_ANSWER_BYTES + 1 + number % 10_000]);
        for number in 0..2 * MAX_ALLOWANCES {
            kept.cut(ApplicationKey(number as i64), used(number), ample, NOW);
            assert!(kept.used.lock().by_application.len() <= MAX_ALLOWANCES);
        }
        let used = kept.used.lock();
        assert!(used.by_application.len() >= MAX_ALLOWANCES / 4);
        assert!(used.by_application.contains_key(&ApplicationKey(9_999)), "it was one of the first, and used much");
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        let kept = KeptAnswers::new(0);
        let text = format!("{}üüü", "x".repeat(SHORT_ANSWER_BYTES - 1));
        assert_eq!(kept.cut(ONE, text.into(), ample, NOW).len(), SHORT_ANSWER_BYTES - 1);
        assert_eq!(kept.cut(ONE, vec![0xff; 1_000].into(), ample, NOW).len(), SHORT_ANSWER_BYTES);
    }

    #[test]
    fn applications_whose_day_is_over_are_forgotten() {
        let kept = KeptAnswers::new(1 << 20);
        for application in 0..10_000 {
            let now = NOW.saturating_add(Duration::from_secs(3_600 * u64::try_from(application).unwrap()));
            kept.cut(ApplicationKey(application), long(), ample, now);
        }
        assert!(kept.used.lock().by_application.len() <= FIRST_CLEANING);
    }
}
