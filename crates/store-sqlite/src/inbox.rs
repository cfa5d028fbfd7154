//! What the writer was asked and has not begun, and in which order it comes.
//!
//! Messages and results come first, as they came. Other writes wait in lines of their own, so that however many somebody
//! asks for, nobody's message waits for more than a few: of small ones, a transaction has so many rows; a large one has a
//! transaction to itself, and after it everything else that waits has its turn. A small one that found no room in a transaction
//! is first in the next. Within a line it is first come, first served.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::group::{Kind, Waiting};

/// Rows of other writes in a transaction that has messages or results, or several of them.
const OTHER_ROWS: usize = 256;

/// What somebody asks the writer.
pub(crate) trait Command {
    /// What is known of it, if it is something to write.
    fn about(&self) -> Option<Waiting>;

    /// Whether it is the last.
    fn is_last(&self) -> bool;
}

/// The receiving end of the writer's queue.
pub(crate) struct Inbox<C> {
    queue: Receiver<C>,
    /// What is nothing to write.
    wishes: VecDeque<C>,
    urgent: VecDeque<C>,
    small: VecDeque<C>,
    large: VecDeque<C>,
    /// The last command, or the end of the queue, has come.
    is_over: bool,
    /// The last transaction began with a large one.
    was_large: bool,
    /// How many more rows of other writes this transaction takes.
    room: usize,
    /// Small ones waited when the transaction began, and none of them is in it.
    is_small_due: bool,
}

impl<C: Command> Inbox<C> {
    pub(crate) fn new(queue: Receiver<C>) -> Self {
        let (wishes, urgent, small, large) = Default::default();
        Self { queue, wishes, urgent, small, large, is_over: false, was_large: false, room: 0, is_small_due: false }
    }

    /// Waits for what the next transaction begins with; `None` when there will be nothing more.
    pub(crate) fn first(&mut self) -> Option<C> {
        loop {
            self.sort_all();
            let is_light = !self.urgent.is_empty() || !self.small.is_empty();
            self.room = OTHER_ROWS;
            if self.wishes.is_empty() && !self.large.is_empty() && !(is_light && self.was_large) {
                (self.was_large, self.room) = (true, 0);
                return self.large.pop_front();
            }
            self.was_large = false;
            if self.is_small_due && self.wishes.is_empty() {
                return self.more_small();
            }
            self.is_small_due = !self.small.is_empty();
            if let Some(command) = self.more() {
                return Some(command);
            }
            if self.is_over {
                return None;
            }
            match self.queue.recv() {
                Ok(command) => self.sort(command),
                Err(_) => self.is_over = true,
            }
        }
    }

    /// What goes into a transaction that was begun otherwise, with this.
    pub(crate) fn begin(&mut self) {
        (self.was_large, self.room) = (false, OTHER_ROWS);
    }

    /// What else goes into the transaction, if it is there.
    pub(crate) fn next(&mut self) -> Option<C> {
        self.sort_all();
        self.more()
    }

    /// As [`Inbox::next`], but waits for a moment.
    pub(crate) fn next_within(&mut self, patience: Duration) -> Option<C> {
        if let Some(command) = self.next() {
            return Some(command);
        }
        if self.is_over {
            return None;
        }
        match self.queue.recv_timeout(patience) {
            Ok(command) => self.sort(command),
            Err(RecvTimeoutError::Disconnected) => self.is_over = true,
            Err(RecvTimeoutError::Timeout) => {}
        }
        self.more()
    }

    fn more(&mut self) -> Option<C> {
        if let Some(wish) = self.wishes.pop_front() {
            return Some(wish);
        }
        if self.was_large && self.room == 0 {
            return None;
        }
        if let Some(urgent) = self.urgent.pop_front() {
            return Some(urgent);
        }
        self.more_small()
    }

    fn more_small(&mut self) -> Option<C> {
        let rows = self.small.front().and_then(Command::about)?.rows;
        self.room = self.room.checked_sub(rows)?;
        self.is_small_due = false;
        self.small.pop_front()
    }

    fn sort_all(&mut self) {
        while !self.is_over {
            match self.queue.try_recv() {
                Ok(command) => self.sort(command),
                Err(_) => return,
            }
        }
    }

    fn sort(&mut self, command: C) {
        if command.is_last() {
            self.is_over = true;
            return;
        }
        let line = match command.about() {
            None => &mut self.wishes,
            Some(Waiting { kind: Kind::Accept | Kind::Settle, .. }) => &mut self.urgent,
            Some(Waiting { rows, .. }) if rows <= OTHER_ROWS => &mut self.small,
            Some(_) => &mut self.large,
        };
        line.push_back(command);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Asked {
        Write(Kind, usize),
        Wish,
        Last,
    }
    use Asked::{Last, Wish, Write};

    impl Command for Asked {
        fn about(&self) -> Option<Waiting> {
            match self {
                Write(kind, rows) => Some(Waiting { kind: *kind, rows: *rows }),
                Wish | Last => None,
            }
        }

        fn is_last(&self) -> bool {
            *self == Last
        }
    }

    const ACCEPT: Asked = Write(Kind::Accept, 2);
    const SMALL: Asked = Write(Kind::Other, 100);
    const LARGE: Asked = Write(Kind::Other, 2_000);

    /// The transactions that are made of these.
    fn transactions(asked: &[Asked]) -> Vec<Vec<Asked>> {
        let (commands, queue) = mpsc::channel();
        for command in asked {
            commands.send(*command).unwrap();
        }
        drop(commands);
        let mut inbox = Inbox::new(queue);
        let mut transactions = Vec::new();
        while let Some(first) = inbox.first() {
            let mut transaction = vec![first];
            transaction.extend(std::iter::from_fn(|| inbox.next()));
            transactions.push(transaction);
        }
        transactions
    }

    #[test]
    fn a_message_waits_for_no_more_than_one_large_write_of_however_many() {
        let asked = [LARGE, LARGE, LARGE, ACCEPT, SMALL, ACCEPT];
        assert_eq!(transactions(&asked), [vec![LARGE], vec![ACCEPT, ACCEPT, SMALL], vec![LARGE], vec![LARGE]]);
    }

    #[test]
    fn a_message_is_with_a_few_small_writes_of_however_many() {
        let asked = [SMALL, SMALL, SMALL, SMALL, SMALL, ACCEPT];
        assert_eq!(transactions(&asked), [vec![ACCEPT, SMALL, SMALL], vec![SMALL, SMALL], vec![SMALL]]);
    }

    #[test]
    fn a_small_one_that_found_no_room_is_first_in_the_next_transaction() {
        let (commands, queue) = mpsc::channel();
        let mut inbox = Inbox::new(queue);
        commands.send(SMALL).unwrap();
        for expected in [ACCEPT, SMALL, ACCEPT] {
            // A transaction is full with its first.
            commands.send(ACCEPT).unwrap();
            assert_eq!(inbox.first(), Some(expected));
        }
    }

    #[test]
    fn small_and_large_ones_get_their_turn_however_many_messages_there_are() {
        let (commands, queue) = mpsc::channel();
        let mut inbox = Inbox::new(queue);
        for command in [SMALL, LARGE] {
            commands.send(command).unwrap();
        }
        let mut seen = Vec::new();
        for _ in 0..4 {
            commands.send(ACCEPT).unwrap();
            seen.push(inbox.first().unwrap());
            seen.extend(std::iter::from_fn(|| inbox.next()));
        }
        assert_eq!(seen, [LARGE, ACCEPT, ACCEPT, SMALL, ACCEPT, ACCEPT]);
    }

    #[test]
    fn nothing_that_came_before_the_last_is_forgotten_and_what_comes_after_it_is_not_looked_at() {
        let asked = [LARGE, ACCEPT, Wish, Last, ACCEPT];
        assert_eq!(transactions(&asked), [vec![Wish, ACCEPT], vec![LARGE]]);
        assert_eq!(transactions(&[Last]), [[]; 0]);
    }

    #[test]
    fn waiting_for_a_moment_ends_with_what_comes_or_with_the_moment() {
        let (commands, queue) = mpsc::channel();
        let mut inbox = Inbox::new(queue);
        inbox.begin();
        assert_eq!(inbox.next_within(Duration::ZERO), None);
        commands.send(ACCEPT).unwrap();
        assert_eq!(inbox.next_within(Duration::from_secs(60)), Some(ACCEPT));
        drop(commands);
        assert_eq!(inbox.next_within(Duration::from_secs(60)), None);
        assert_eq!(inbox.first(), None);
    }
}
