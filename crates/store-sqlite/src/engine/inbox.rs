//! What the writer was asked and has not begun, and in which order it comes.
//!
//! Messages and results come first, as they came. Other writes wait in lines of their own, so that however many somebody
//! asks for, nobody's message waits for more than a few: of small ones, a transaction has so many rows; a large one has a
//! transaction to itself, and after it everything else that waits has its turn. Small ones that found no room in a transaction
//! are first in the next.
//!
//! What the process writes by itself does not wait behind what callers ask for: small ones have a line and room of their own, large
//! ones every other turn. In each line, those take turns whose the writes are, by environment and within one by application, with
//! one write each; so whatever somebody asks for, one write of anybody else waits for about one transaction. What is of one caller
//! comes as it came.
//!
//! What its caller has withdrawn before it was begun (he hung up, so what bounds his requests does not count it any more) has no turn,
//! and does not stay: when much has come, lines are gone through.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::engine::askers::Asker;
use crate::engine::group::{Kind, Waiting};
use crate::engine::turns::{Line, Turns};

/// Rows of small writes in a transaction: of the process's, and as many of callers'. What has more rows is large.
const OTHER_ROWS: usize = 256;

/// Lines are gone through for what was withdrawn when so many writes have come, or as many as they had left.
const FIRST_CLEANING: usize = 1_024;

/// What somebody asks the writer.
pub(crate) trait Command {
    /// What is known of it, if it is something to write.
    fn about(&self) -> Option<Waiting>;

    /// Whether it is the last.
    fn is_last(&self) -> bool;

    /// Whether whoever asked still wants it.
    fn is_wanted(&self) -> bool;
}

/// What waits, by environment and application.
type Askers<C> = Turns<i64, Turns<i64, VecDeque<C>>>;

/// The receiving end of the writer's queue.
pub(crate) struct Inbox<'a, C> {
    queue: Receiver<C>,
    /// Who asked for an other write.
    asker: Box<dyn Fn(&C) -> Asker + 'a>,
    /// What is nothing to write.
    wishes: VecDeque<C>,
    urgent: VecDeque<C>,
    /// Of the process.
    own: Small<C>,
    /// Of callers.
    asked: Small<C>,
    /// The process's and the callers' take turns.
    large: Turns<bool, Askers<C>>,
    /// So many other writes come until lines are gone through.
    clean_in: usize,
    /// The last command, or the end of the queue, has come.
    is_over: bool,
    /// The transaction began with a large one.
    is_large: bool,
}

/// Small writes that wait.
struct Small<C> {
    line: Askers<C>,
    /// How many more rows of them this transaction takes.
    room: usize,
    /// Some waited when the transaction began, and none of them is in it.
    is_due: bool,
    /// So it was with the transaction before.
    is_first: bool,
}

impl<C> Default for Small<C> {
    fn default() -> Self {
        Self { line: Askers::default(), room: 0, is_due: false, is_first: false }
    }
}

impl<C: Command> Small<C> {
    fn begin(&mut self) {
        self.room = OTHER_ROWS;
        self.is_first = self.is_due;
        self.line.skip(&C::is_wanted);
        self.is_due = !self.line.is_empty();
    }

    fn next(&mut self) -> Option<C> {
        self.line.skip(&C::is_wanted);
        let rows = self.line.first()?.about()?.rows;
        self.room = self.room.checked_sub(rows)?;
        self.is_due = false;
        self.line.pop()
    }

    fn overdue(&mut self) -> Option<C> {
        if self.is_first { self.next() } else { None }
    }
}

impl<'a, C: Command> Inbox<'a, C> {
    pub(crate) fn new(queue: Receiver<C>, asker: impl Fn(&C) -> Asker + 'a) -> Self {
        Self {
            queue,
            asker: Box::new(asker),
            wishes: VecDeque::new(),
            urgent: VecDeque::new(),
            own: Small::default(),
            asked: Small::default(),
            large: Turns::default(),
            clean_in: FIRST_CLEANING,
            is_over: false,
            is_large: false,
        }
    }

    /// Waits for what the next transaction begins with; `None` when there will be nothing more.
    pub(crate) fn first(&mut self) -> Option<C> {
        loop {
            self.sort_all();
            if let Some(wish) = self.wishes.pop_front() {
                return Some(wish);
            }
            self.skip_withdrawn();
            let is_light = !self.urgent.is_empty() || !self.own.line.is_empty() || !self.asked.line.is_empty();
            let is_turn_of_large = !is_light || !self.is_large;
            if is_turn_of_large && let Some(large) = self.large.pop() {
                self.is_large = true;
                return Some(large);
            }
            self.is_large = false;
            self.own.begin();
            self.asked.begin();
            if let Some(command) = self.more() {
                return Some(command);
            }
            // What was small has been withdrawn since it was looked at: then it is the turn of what is large.
            if !self.large.is_empty() {
                continue;
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
        self.is_large = false;
        (self.own.room, self.asked.room) = (OTHER_ROWS, OTHER_ROWS);
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
        if self.is_large {
            return None;
        }
        let overdue = self.own.overdue().or_else(|| self.asked.overdue());
        let light = overdue.or_else(|| self.urgent.pop_front());
        light.or_else(|| self.own.next()).or_else(|| self.asked.next())
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
        match command.about() {
            None => self.wishes.push_back(command),
            Some(Waiting { kind: Kind::Accept | Kind::Settle, .. }) => self.urgent.push_back(command),
            Some(Waiting { kind: Kind::Other, rows }) => self.sort_other(command, rows <= OTHER_ROWS),
        }
    }

    fn sort_other(&mut self, command: C, is_small: bool) {
        if !command.is_wanted() {
            return;
        }
        let Asker { is_process, environment, application } = (self.asker)(&command);
        let askers = match (is_small, is_process) {
            (true, true) => &mut self.own.line,
            (true, false) => &mut self.asked.line,
            (false, _) => self.large.of(is_process),
        };
        askers.of(environment).of(application).push_back(command);
        self.clean_in -= 1;
        if self.clean_in == 0 {
            let [own, asked] = [&mut self.own, &mut self.asked].map(|small| small.line.retain(&C::is_wanted));
            self.clean_in = (own + asked + self.large.retain(&C::is_wanted)).max(FIRST_CLEANING);
        }
    }

    fn skip_withdrawn(&mut self) {
        self.own.line.skip(&C::is_wanted);
        self.asked.line.skip(&C::is_wanted);
        self.large.skip(&C::is_wanted);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::mpsc::{self, Sender};

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Asked {
        Write(Kind, usize, Asker),
        /// With a number: those below [`WITHDRAWN`] are withdrawn.
        Numbered(usize, Asker),
        Wish,
        Last,
    }
    use Asked::{Last, Numbered, Wish, Write};

    thread_local! {
        static WITHDRAWN: Cell<usize> = const { Cell::new(0) };
        /// So many times more it is found to be wanted.
        static WANTED_LOOKS: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    impl Command for Asked {
        fn about(&self) -> Option<Waiting> {
            match self {
                Write(kind, rows, _) => Some(Waiting { kind: *kind, rows: *rows }),
                Numbered(..) => Some(Waiting { kind: Kind::Other, rows: 141 }),
                Wish | Last => None,
            }
        }

        fn is_last(&self) -> bool {
            *self == Last
        }

        fn is_wanted(&self) -> bool {
            let Numbered(number, _) = self else { return true };
            let looks = WANTED_LOOKS.get();
            WANTED_LOOKS.set(looks.saturating_sub(1));
            looks > 0 && *number >= WITHDRAWN.get()
        }
    }

    fn asker(of: &Asked) -> Asker {
        match of {
            Write(.., asker) | Numbered(_, asker) => *asker,
            Wish | Last => PROCESS,
        }
    }

    const PROCESS: Asker = Asker { is_process: true, environment: 0, application: 0 };

    /// What an application of an environment asks for; 0 is the environment as a whole.
    const fn of(environment: i64, application: i64, rows: usize) -> Asked {
        Write(Kind::Other, rows, Asker { is_process: false, environment, application })
    }

    /// What the engine notes of an endpoint.
    const fn note(environment: i64, application: i64) -> Asked {
        Write(Kind::Other, 16, Asker { is_process: true, environment, application })
    }

    const ACCEPT: Asked = Write(Kind::Accept, 2, PROCESS);
    const SMALL: Asked = of(1, 1, 100);
    const LARGE: Asked = of(1, 1, 2_000);
    /// As the health check's, and as what upkeep removes.
    const OWN: Asked = Write(Kind::Other, 16, PROCESS);
    const OWN_LARGE: Asked = Write(Kind::Other, 1_000, PROCESS);
    /// A thousand event types of an endpoint.
    const NAMES: Asked = of(1, 1, 141);

    fn inbox() -> (Sender<Asked>, Inbox<'static, Asked>) {
        let (commands, queue) = mpsc::channel();
        (commands, Inbox::new(queue, asker))
    }

    /// The next transaction; there must be something that waits.
    fn transaction(inbox: &mut Inbox<'_, Asked>) -> Vec<Asked> {
        let mut transaction = vec![inbox.first().unwrap()];
        transaction.extend(std::iter::from_fn(|| inbox.next()));
        transaction
    }

    /// The transactions that are made of these.
    fn transactions(asked: &[Asked]) -> Vec<Vec<Asked>> {
        let (commands, mut inbox) = inbox();
        for command in asked {
            commands.send(*command).unwrap();
        }
        drop(commands);
        let mut transactions = Vec::new();
        while let Some(first) = inbox.first() {
            let mut transaction = vec![first];
            transaction.extend(std::iter::from_fn(|| inbox.next()));
            transactions.push(transaction);
        }
        transactions
    }

    /// In which transaction what is asked for last is, while a thousand others of somebody wait.
    fn place_behind_a_thousand(others: &[Asked], last: Asked) -> usize {
        let asked: Vec<Asked> = others.iter().copied().cycle().take(1_000).chain([last]).collect();
        let transactions = transactions(&asked);
        assert_eq!(transactions.iter().map(Vec::len).sum::<usize>(), asked.len(), "nothing is forgotten");
        transactions.iter().position(|transaction| transaction.contains(&last)).unwrap()
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
        let (commands, mut inbox) = inbox();
        commands.send(SMALL).unwrap();
        for expected in [ACCEPT, SMALL, ACCEPT] {
            // A transaction is full with its first.
            commands.send(ACCEPT).unwrap();
            assert_eq!(inbox.first(), Some(expected));
        }
    }

    #[test]
    fn small_and_large_ones_get_their_turn_however_many_messages_there_are() {
        let (commands, mut inbox) = inbox();
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
    fn a_thousand_writes_of_one_caller_delay_anothers_by_a_transaction() {
        let others = [of(1, 2, 16), of(1, 0, 16), of(2, 0, 16), of(2, 1, 200), of(2, 1, 2_000)];
        for last in others {
            assert!(place_behind_a_thousand(&[NAMES], last) <= 1, "{last:?}");
            assert!(place_behind_a_thousand(&[LARGE], last) <= 1, "{last:?}");
            assert!(place_behind_a_thousand(&[NAMES, LARGE], last) <= 3, "{last:?}");
        }
    }

    const CUSTOMER: Asker = Asker { is_process: false, environment: 1, application: 1 };

    #[test]
    fn nobody_waits_behind_what_was_withdrawn() {
        let (commands, mut inbox) = inbox();
        commands.send(ACCEPT).unwrap();
        for number in 0..1_000 {
            commands.send(Numbered(number, CUSTOMER)).unwrap();
        }
        let others = [of(1, 1, 16), of(2, 1, 16), of(1, 2, 16)];
        others.iter().for_each(|other| commands.send(*other).unwrap());
        drop(commands);
        assert_eq!(inbox.first(), Some(ACCEPT));
        WITHDRAWN.set(1_000);
        let came: Vec<Asked> = std::iter::from_fn(|| inbox.next()).collect();
        assert_eq!((came.as_slice(), inbox.first()), (others.as_slice(), None));
    }

    #[test]
    fn a_large_one_gets_its_turn_when_what_was_before_it_is_withdrawn_at_the_last_moment() {
        let (commands, mut inbox) = inbox();
        commands.send(LARGE).unwrap();
        assert_eq!(inbox.first(), Some(LARGE));
        for command in [Numbered(0, CUSTOMER), LARGE] {
            commands.send(command).unwrap();
        }
        drop(commands);
        // It is wanted when it comes, and when it is looked whose turn it is, and then no more.
        WANTED_LOOKS.set(2);
        assert_eq!((inbox.first(), inbox.first()), (Some(LARGE), None));
    }

    #[test]
    fn lines_do_not_grow_by_what_was_withdrawn() {
        let (commands, mut inbox) = inbox();
        commands.send(of(1, 1, 16)).unwrap();
        for number in 0..20_000 {
            commands.send(Numbered(number, CUSTOMER)).unwrap();
            inbox.sort_all();
            // A hundred at a time are still waited for.
            WITHDRAWN.set(number.saturating_sub(100));
            assert!(inbox.asked.line.of(1).of(1).len() <= 2 * FIRST_CLEANING);
        }
        assert_eq!(inbox.first(), Some(of(1, 1, 16)), "what is still wanted stays");
        assert_eq!(inbox.next(), Some(Numbered(19_899, CUSTOMER)));
    }

    #[test]
    fn an_environment_has_no_more_turns_for_having_many_applications() {
        let of_many: Vec<Asked> = (1..=1_000).map(|application| of(1, application, 240)).collect();
        assert!(place_behind_a_thousand(&of_many, of(2, 1, 16)) <= 1);
    }

    #[test]
    fn what_the_process_writes_by_itself_does_not_wait_behind_what_callers_ask_for() {
        let of_many: Vec<Asked> = (1..=1_000).map(|number| of(number, 1, 240)).collect();
        let large_of_many: Vec<Asked> = (1..=1_000).map(|number| of(number, 1, 2_000)).collect();
        assert_eq!(place_behind_a_thousand(&of_many, OWN), 0);
        assert_eq!(place_behind_a_thousand(&large_of_many, OWN), 1);
        assert_eq!(place_behind_a_thousand(&of_many, OWN_LARGE), 0);
        assert!(place_behind_a_thousand(&large_of_many, OWN_LARGE) <= 1);
    }

    #[test]
    fn what_the_engine_notes_of_one_tenants_endpoints_keeps_no_other_waiting() {
        for last in [OWN, note(1, 2), note(2, 1), of(1, 1, 16)] {
            assert_eq!(place_behind_a_thousand(&[note(1, 1)], last), 0, "{last:?}");
        }
    }

    #[test]
    fn what_the_process_writes_by_itself_leaves_callers_their_turns() {
        for last in [SMALL, LARGE] {
            assert!(place_behind_a_thousand(&[OWN], last) <= 1, "{last:?}");
            assert!(place_behind_a_thousand(&[OWN_LARGE], last) <= 1, "{last:?}");
        }
    }

    #[test]
    fn a_small_write_of_the_process_is_in_the_next_transaction_but_one_when_those_are_full_of_messages() {
        let (commands, mut inbox) = inbox();
        commands.send(OWN).unwrap();
        for expected in [ACCEPT, OWN, ACCEPT] {
            commands.send(ACCEPT).unwrap();
            assert_eq!(inbox.first(), Some(expected));
        }
    }

    #[test]
    fn whatever_the_order_is_nobody_starves_and_what_is_of_one_caller_comes_as_it_came() {
        for seed in 0..200_u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = |below: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                usize::try_from(state % below as u64).unwrap()
            };
            let asked: Vec<Asked> = (0..300)
                .map(|number| {
                    // Rows tell one from the other.
                    let rows = [number % 250, 300 + number][random(2)];
                    match random(8) {
                        0 => Write(Kind::Accept, number, PROCESS),
                        1 => Write(Kind::Other, rows, PROCESS),
                        // Most of what is asked for is asked for by one.
                        2..6 => of(1, 1, rows),
                        _ => of(random(3) as i64, random(3) as i64, rows),
                    }
                })
                .collect();
            let transactions = transactions(&asked);
            let came: Vec<Asked> = transactions.concat();
            assert_eq!(came.len(), asked.len(), "seed {seed}");
            for transaction in &transactions {
                let rows = |is_process: bool| -> usize {
                    let such =
                        |one: &&Asked| asker(one).is_process == is_process && matches!(one, Write(Kind::Other, ..));
                    transaction.iter().filter(such).filter_map(Command::about).map(|about| about.rows).sum()
                };
                let is_bounded = rows(true) <= OTHER_ROWS && rows(false) <= OTHER_ROWS;
                assert!(is_bounded || transaction.len() == 1, "seed {seed}: {transaction:?}");
            }
            for whose in came.iter().map(asker) {
                for is_large in [false, true] {
                    let only = |all: &[Asked]| -> Vec<Asked> {
                        let such = |one: &Asked| {
                            let about = one.about().unwrap();
                            about.kind == Kind::Other && asker(one) == whose && (about.rows > OTHER_ROWS) == is_large
                        };
                        all.iter().copied().filter(such).collect()
                    };
                    assert_eq!(only(&came), only(&asked), "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn callers_who_go_on_asking_get_a_turn_each() {
        let (commands, mut inbox) = inbox();
        let mut turns = [0; 3];
        for _ in 0..100 {
            // One sends ten times as much as the others.
            for _ in 0..10 {
                commands.send(NAMES).unwrap();
            }
            commands.send(of(2, 1, 141)).unwrap();
            commands.send(of(3, 1, 141)).unwrap();
            for command in transaction(&mut inbox) {
                turns[usize::try_from(asker(&command).environment).unwrap() - 1] += 1;
            }
        }
        assert!(turns.iter().all(|turns| (33..=34).contains(turns)), "{turns:?}");
    }

    #[test]
    fn nothing_that_came_before_the_last_is_forgotten_and_what_comes_after_it_is_not_looked_at() {
        let asked = [LARGE, ACCEPT, Wish, Last, ACCEPT];
        assert_eq!(transactions(&asked), [vec![Wish, ACCEPT], vec![LARGE]]);
        assert_eq!(transactions(&[Last]), [[]; 0]);
    }

    #[test]
    fn waiting_for_a_moment_ends_with_what_comes_or_with_the_moment() {
        let (commands, mut inbox) = inbox();
        inbox.begin();
        assert_eq!(inbox.next_within(Duration::ZERO), None);
        commands.send(ACCEPT).unwrap();
        assert_eq!(inbox.next_within(Duration::from_secs(60)), Some(ACCEPT));
        drop(commands);
        assert_eq!(inbox.next_within(Duration::from_secs(60)), None);
        assert_eq!(inbox.first(), None);
    }
}
