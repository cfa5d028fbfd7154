//! Writes that are carried out once under a key. Those of accepting are in `work`.

use std::time::Duration;

use postrider_domain::time::Timestamp;
use postrider_store::{Once, Owner, StoredAnswer, WriteError, Written};

use crate::records::{Answer, Subject};
use crate::state::{Kind, State};

/// What is dated further ahead of the newest answer was dated by a clock that was wrong.
const AHEAD: Duration = Duration::from_secs(24 * 3_600);

impl State {
    /// Carries a write out, unless it was under its key; then nothing is written.
    pub(crate) fn once<T, E: From<WriteError>>(
        &mut self,
        once: Option<Once<T>>,
        subject: Subject,
        now: Timestamp,
        write: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<Written<T>, E> {
        let Some(Once { key, owner, most, not_before, answer }) = once else { return write(self).map(Written::Done) };
        let is_it = |known: &&Answer| known.owner == owner && known.key == key && known.subject == subject;
        let known = self.answers.values().rev().find(is_it);
        if let Some(known) = known.filter(|known| known.created_at >= not_before) {
            return Ok(Written::Replayed(known.answer.clone()));
        }
        self.check_room(&owner, most, not_before, StoredAnswer::OVERHEAD)?;
        let written = write(self)?;
        let answer = answer(&written);
        self.check_room(&owner, most, not_before, answer.room())?;
        let number = self.next_number(Kind::Answer);
        self.answers.insert(number, Answer { owner, key, subject, created_at: now, answer });
        Ok(Written::Done(written))
    }

    /// Refuses an answer that has no room among those of its owner, and finds out when it will, if ever.
    fn check_room(&self, owner: &Owner, most: u64, not_before: Timestamp, needed: u64) -> Result<(), WriteError> {
        if needed > most {
            return Err(WriteError::KeysFull { wait: None });
        }
        let counts = |answer: &&Answer| answer.owner == *owner && answer.created_at >= not_before;
        let mut taken: Vec<_> = self.answers.values().filter(counts).collect();
        taken.sort_by_key(|answer| answer.created_at);
        let mut room: u64 = taken.iter().map(|answer| answer.answer.room()).sum();
        let mut wait = None;
        for oldest in taken {
            if room.saturating_add(needed) <= most {
                break;
            }
            room -= oldest.answer.room();
            wait = Some(oldest.created_at.saturating_add(Duration::from_micros(1)).since(not_before));
        }
        wait.map_or(Ok(()), |wait| Err(WriteError::KeysFull { wait: Some(wait) }))
    }

    /// Removes the oldest answers, as far as they are from before `before`, at most `limit` of them; returns whether there are
    /// more. Those that a wrong clock dated ahead are as old as what came after them; those that are neither came before a clock
    /// went back, and stay.
    pub(crate) fn forget_answers(&mut self, before: Timestamp, limit: usize) -> bool {
        let Some((_, newest)) = self.answers.last_key_value() else { return false };
        let ahead = newest.created_at.max(before).saturating_add(AHEAD);
        let is_old = |answer: &Answer| answer.created_at < before;
        let last_old = self.answers.iter().rev().find(|(_, answer)| is_old(answer)).map(|(number, _)| *number);
        let Some(last_old) = last_old else { return false };
        let goes = |answer: &Answer| is_old(answer) || answer.created_at > ahead;
        let gone = self.answers.range(..=last_old).filter(|(_, answer)| goes(answer));
        let gone: Vec<i64> = gone.map(|(number, _)| *number).collect();
        for number in gone.iter().take(limit) {
            self.answers.remove(number);
        }
        gone.len() > limit
    }
}
