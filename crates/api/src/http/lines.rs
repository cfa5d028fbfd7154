//! A body of lines, read in chunks: as many lines as have come, up to a limit. Of what has not been handed out, at most
//! one line and one piece of the body are in memory. A line comes to its end within the time that a whole body may take elsewhere, and
//! waits for room no longer than one, in however many pieces it comes. Blanks between lines keep a request alive, and are no use beyond that: there
//! may be so many in a row.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use postrider_domain::message::MAX_BODY_BYTES;
use tokio::time::Instant;

use crate::http::account::{Account, Patience};
use crate::http::body::Incoming;
use crate::wire::error::{ApiError, Result};

postrider_domain::limits! {
    in "Requests";
    /// Blanks and empty lines in a row, in a body of lines
    pub(crate) const MAX_BLANKS: usize = 65_536, "bytes", beyond "400 as the last result; what came before is stored";
}

/// The most bytes of lines in a chunk, so that a chunk of large lines is small in number.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// What is paid of a line at a time: its pieces may be single bytes.
const PAID_BYTES: usize = 4 * 1024;

/// How long an incomplete chunk waits for more lines. What a client sends at once arrives in pieces.
const LINGER: Duration = Duration::from_millis(2);

/// A line, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    Text(Bytes),
    /// It is longer than a message may be; nothing was kept of it.
    TooLong,
}

impl Line {
    /// How many bytes there are of it.
    pub(crate) fn len(&self) -> usize {
        self.text().len()
    }

    /// What there is of it.
    pub(crate) fn text(&self) -> &[u8] {
        match self {
            Self::Text(text) => text,
            Self::TooLong => &[],
        }
    }
}

/// The lines of a body. Empty ones are left out.
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// For how much of the buffer is paid, or more.
    paid: usize,
    /// How much was handed out with the lines that are worked on.
    handed: usize,
    /// Until when the line that has begun has to come to its end, and how long it may wait for room.
    deadline: Option<Instant>,
    patience: Patience,
    /// How much of the buffer is known to hold no end of a line.
    searched: usize,
    /// Bytes of blanks since the last line.
    blanks: usize,
    /// In a line that is too long, of which the rest is thrown away.
    skipping: bool,
    ended: bool,
    /// Why there is no more; what came before is handed out first. A line that it cut off is none.
    broken: Option<ApiError>,
}

impl Lines {
    /// The lines of a body of which the first piece was read, and charged, already.
    pub(crate) fn new(first: Bytes, body: Incoming) -> Self {
        let buffer = BytesMut::from(first);
        let (paid, patience) = (buffer.len(), Patience::default());
        Self {
            body,
            buffer,
            paid,
            handed: 0,
            deadline: None,
            patience,
            searched: 0,
            blanks: 0,
            skipping: false,
            ended: false,
            broken: None,
        }
    }

    /// What they are charged to.
    pub(crate) fn account(&self) -> &Account {
        self.body.account()
    }

    /// The next lines, at most `limit`; none at the end. What was handed out before counts as done with. Until the next ones are
    /// asked for, the client is not waited for.
    pub(crate) async fn chunk(&mut self, limit: usize) -> Result<Vec<Line>> {
        let lines = self.collect(limit).await;
        self.body.account().body_is_worked_on();
        match self.broken.take_if(|_| lines.is_empty()) {
            Some(error) => Err(error),
            None => Ok(lines),
        }
    }

    async fn collect(&mut self, limit: usize) -> Vec<Line> {
        self.keep();
        // While lines were worked on, nobody waited for the rest of the next one.
        (self.deadline, self.patience) = (None, Patience::default());
        // With what is between the lines: it is in memory as long as they are.
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while lines.len() < limit && bytes < CHUNK_BYTES {
            let before = self.buffer.len();
            let line = self.next();
            bytes += before - self.buffer.len();
            self.handed = bytes;
            if let Some(line) = line {
                lines.push(line);
                continue;
            }
            if self.ended || self.broken.is_some() {
                break;
            }
            if lines.is_empty() {
                // What was thrown away is not in memory any more.
                bytes = 0;
                self.keep();
                let deadline = self.deadline_of_line();
                let piece = self.body.next_until(deadline).await;
                self.take(piece).await;
            } else {
                // What has come is handed out, rather than kept until more does.
                let Ok(piece) = tokio::time::timeout(LINGER, self.body.next()).await else { break };
                self.take(piece).await;
            }
        }
        lines
    }

    /// Gives back what was paid for what is not in memory any more.
    fn keep(&mut self) {
        self.handed = 0;
        // What is paid ahead stays paid while a line comes.
        if self.buffer.is_empty() || self.paid > self.buffer.len() + PAID_BYTES {
            self.paid = self.buffer.len();
            self.body.account().keep(self.paid);
        }
    }

    /// Until when the line that has begun has to come to its end; `None` between lines.
    fn deadline_of_line(&mut self) -> Option<Instant> {
        if self.buffer.is_empty() && !self.skipping {
            (self.deadline, self.patience) = (None, Patience::default());
            return None;
        }
        Some(*self.deadline.get_or_insert_with(|| self.body.deadline()))
    }

    /// Takes a piece of the body in, once it is paid.
    async fn take(&mut self, piece: Result<Option<Bytes>>) {
        let paid = match piece {
            Ok(Some(piece)) => self.pay(piece.len()).await.map(|()| self.buffer.extend_from_slice(&piece)),
            Ok(None) => {
                self.ended = true;
                Ok(())
            }
            Err(error) => Err(error),
        };
        self.broken = paid.err();
    }

    /// Pays for so much more.
    async fn pay(&mut self, bytes: usize) -> Result<()> {
        // What was handed out is in memory until the next lines are asked for.
        let needed = (self.handed + self.buffer.len() + bytes).saturating_sub(self.paid);
        if needed > 0 {
            let paid = needed.max(PAID_BYTES);
            self.body.account().charge_piece(paid, &mut self.patience).await?;
            self.paid += paid;
        }
        Ok(())
    }

    /// The next line that is complete.
    fn next(&mut self) -> Option<Line> {
        loop {
            if self.searched == 0 && !self.skipping && !self.skip_blanks() {
                return None;
            }
            let end = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n');
            let Some(end) = end.map(|end| self.searched + end) else {
                self.searched = self.buffer.len();
                return self.rest();
            };
            self.searched = 0;
            if std::mem::take(&mut self.skipping) {
                self.buffer.advance(end + 1);
                continue;
            }
            self.blanks = 0;
            let line = self.buffer.split_to(end + 1).freeze();
            let text = line[..end].trim_ascii();
            return Some(if text.len() > MAX_BODY_BYTES { Line::TooLong } else { Line::Text(line.slice_ref(text)) });
        }
    }

    /// Passes over the blanks that the buffer begins with; false if there were too many in a row.
    fn skip_blanks(&mut self) -> bool {
        let count = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.buffer.advance(count);
        self.blanks += count;
        if self.blanks > MAX_BLANKS {
            self.buffer.clear();
            self.broken = Some(ApiError::bad_request(format!("more than {MAX_BLANKS} bytes came that are no line")));
        }
        self.broken.is_none()
    }

    /// What there is of a line that has not ended.
    fn rest(&mut self) -> Option<Line> {
        if self.buffer.len() > MAX_BODY_BYTES || self.skipping {
            self.buffer.clear();
            self.searched = 0;
            return if std::mem::replace(&mut self.skipping, true) { None } else { Some(Line::TooLong) };
        }
        if !self.ended {
            return None;
        }
        let line = self.buffer.split().freeze();
        self.searched = 0;
        let text = line.trim_ascii();
        (!text.is_empty()).then(|| Line::Text(line.slice_ref(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Weak};

    use axum::body::Body;
    use proptest::prelude::*;

    use crate::http::progress::{Progress, Watched};

    fn body(pieces: Vec<Bytes>) -> Lines {
        let stream = futures_util::stream::iter(pieces.into_iter().map(Ok::<_, std::convert::Infallible>));
        Lines::new(Bytes::new(), Incoming::of_nobody(Body::from_stream(stream)))
    }

    async fn all(mut lines: Lines, limit: usize) -> Vec<Line> {
        let mut found = Vec::new();
        loop {
            let chunk = lines.chunk(limit).await.unwrap();
            assert!(chunk.len() <= limit);
            if chunk.is_empty() {
                return found;
            }
            found.extend(chunk);
        }
    }

    fn text(line: &'static str) -> Line {
        Line::Text(Bytes::from_static(line.as_bytes()))
    }

    #[tokio::test]
    async fn lines_are_found_wherever_pieces_end() {
        for pieces in [&["a\nb\r\n\n  \nc"][..], &["a", "\nb\r", "\n\n  \n", "c"], &["a\nb\nc\n"], &["", "a\n", "b\nc"]]
        {
            let pieces = pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect();
            assert_eq!(all(body(pieces), 2).await, [text("a"), text("b"), text("c")]);
        }
        assert_eq!(all(body(Vec::new()), 2).await, []);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_passed_over_without_being_kept() {
        let piece = Bytes::from(vec![b'x'; 1024 * 1024]);
        let mut pieces = vec![Bytes::from_static(b"a\n")];
        pieces.extend(std::iter::repeat_n(piece, 20));
        pieces.extend([Bytes::from_static(b"\nb\n"), Bytes::from(vec![b'y'; MAX_BODY_BYTES + 1])]);
        assert_eq!(all(body(pieces), 10).await, [text("a"), Line::TooLong, text("b"), Line::TooLong]);
        let exact = Bytes::from(vec![b'z'; MAX_BODY_BYTES]);
        assert_eq!(all(body(vec![exact.clone(), Bytes::from_static(b"\n")]), 10).await, [Line::Text(exact)]);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_no_body_that_ends_and_the_line_that_it_cut_is_none() {
        for sent in [&["a\nb\nc"][..], &["a\n", "b\nc"], &["a", "\nb\n", "c"]] {
            let pieces = sent.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes())));
            let stream =
                futures_util::stream::iter(pieces.chain([Err(std::io::Error::other("reset"))]).collect::<Vec<_>>());
            let body = crate::http::body::Upload::new(Body::from_stream(stream), false);
            let mut lines = Lines::new(Bytes::new(), Incoming::of_nobody(Body::new(body)));
            let mut found = Vec::new();
            let error = loop {
                match lines.chunk(10).await {
                    Ok(chunk) if chunk.is_empty() => break None,
                    Ok(chunk) => found.extend(chunk),
                    Err(error) => break Some(error),
                }
            };
            assert_eq!(found, [text("a"), text("b")], "{sent:?}");
            assert!(error.is_some(), "{sent:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lines_that_came_before_there_was_no_more_room_are_handed_out() {
        let options = postrider_ingest::LimitOptions::default();
        let budgets = Arc::new(crate::http::account::Budgets::new(&options, 10));
        let operator = crate::http::principal::Principal::Environment(
            postrider_domain::application::EnvironmentId::default_environment(),
        );
        let (mine, others) = (Account::new(budgets.clone()), Account::new(budgets));
        for account in [&mine, &others] {
            account.open(&operator, false).await.unwrap();
        }
        others.charge(13 << 20).await.unwrap();
        // The second piece is more than is left.
        let pieces =
            [Bytes::from_static(b"a\nb\n"), Bytes::from(vec![b'c'; 2 << 20])].map(Ok::<_, std::convert::Infallible>);
        let body = Incoming::charged_to(Body::from_stream(futures_util::stream::iter(pieces)), mine);
        let mut lines = Lines::new(Bytes::new(), body);
        assert_eq!(lines.chunk(10).await.unwrap(), [text("a"), text("b")]);
        let error = lines.chunk(10).await.unwrap_err();
        assert_eq!(error.status(), http::StatusCode::TOO_MANY_REQUESTS);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_thrown_away_is_not_charged_however_much_it_is() {
        let options = postrider_ingest::LimitOptions::default();
        let account = Account::new(Arc::new(crate::http::account::Budgets::new(&options, 10)));
        let operator = crate::http::principal::Principal::Environment(
            postrider_domain::application::EnvironmentId::default_environment(),
        );
        account.open(&operator, false).await.unwrap();
        let much = std::iter::repeat_n(Bytes::from(vec![b'x'; 1 << 20]), 40);
        let line = |text: &'static str| std::iter::once(Bytes::from_static(text.as_bytes()));
        let pieces = much.chain(line("\na\n"));
        let stream = futures_util::stream::iter(pieces.map(Ok::<_, std::convert::Infallible>));
        let lines = Lines::new(Bytes::new(), Incoming::charged_to(Body::from_stream(stream), account));
        assert_eq!(all(lines, 10).await, [Line::TooLong, text("a")]);
    }

    #[tokio::test(start_paused = true)]
    async fn lines_that_were_handed_out_are_paid_for_as_long_as_they_are_worked_on() {
        let options = postrider_ingest::LimitOptions::default();
        let account = Account::new(Arc::new(crate::http::account::Budgets::new(&options, 10)));
        let operator = crate::http::principal::Principal::Environment(
            postrider_domain::application::EnvironmentId::default_environment(),
        );
        account.open(&operator, false).await.unwrap();
        let lines = format!("{}\n", "x".repeat(4_095)).repeat(16);
        let pieces = std::iter::repeat_n(Bytes::from(lines), 60);
        let stream = futures_util::stream::iter(pieces.map(Ok::<_, std::convert::Infallible>));
        let mut lines = Lines::new(Bytes::new(), Incoming::charged_to(Body::from_stream(stream), account));
        let handed: usize = lines.chunk(1_000).await.unwrap().iter().map(|line| line_bytes(line) + 1).sum();
        assert!(handed > 1_000_000 && lines.paid >= handed, "{} of {handed} bytes are paid", lines.paid);
    }

    fn line_bytes(line: &Line) -> usize {
        match line {
            Line::Text(text) => text.len(),
            Line::TooLong => 0,
        }
    }

    /// A line of which a byte comes now and then, for ever.
    fn endless_line(
        every: Duration,
    ) -> impl futures_util::Stream<Item = std::result::Result<Bytes, std::convert::Infallible>> {
        futures_util::stream::unfold((), move |()| async move {
            tokio::time::sleep(every).await;
            Some((Ok(Bytes::from_static(b"x")), ()))
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_never_ends_ends_the_request_and_one_for_each_while_does_not() {
        let begun = Instant::now();
        let stream = endless_line(Duration::from_secs(1));
        let mut lines = Lines::new(Bytes::new(), Incoming::of_nobody(Body::from_stream(Box::pin(stream))));
        assert_eq!(lines.chunk(10).await.unwrap_err().status(), http::StatusCode::REQUEST_TIMEOUT);
        let options = postrider_ingest::LimitOptions::default();
        let most = options.body_timeout.0 + Duration::from_secs(1);
        assert!(begun.elapsed() <= most, "{:?}", begun.elapsed());
        let stream = futures_util::StreamExt::take(endless_line(Duration::from_secs(1)), 600);
        let stream = futures_util::StreamExt::map(stream, |piece| piece.map(|_| Bytes::from_static(b"a\n")));
        let lines = Lines::new(Bytes::new(), Incoming::of_nobody(Body::from_stream(Box::pin(stream))));
        assert_eq!(all(lines, 10).await.len(), 600);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_of_single_bytes_waits_for_room_no_longer_than_a_body() {
        let options = postrider_ingest::LimitOptions::default();
        let budgets = Arc::new(crate::http::account::Budgets::new(&options, 100_000));
        let operator = crate::http::principal::Principal::Environment(
            postrider_domain::application::EnvironmentId::default_environment(),
        );
        let open = async || {
            let account = Account::new(Arc::clone(&budgets));
            account.open(&operator, false).await.unwrap();
            account
        };
        // All that he may have, but a little that is given back and taken again.
        let (mine, mut others) = (open().await, Vec::new());
        loop {
            let account = open().await;
            let Ok(()) = account.charge(16 << 10).await else { break };
            others.push(account);
        }
        let given_back = async {
            while others.pop().is_some() {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        };
        let stream = futures_util::stream::repeat_with(|| Ok::<_, std::convert::Infallible>(Bytes::from_static(b"x")));
        let stream = futures_util::StreamExt::take(stream, 1 << 20);
        let mut lines = Lines::new(Bytes::new(), Incoming::charged_to(Body::from_stream(stream), mine));
        let begun = Instant::now();
        let error = tokio::select! {
            error = lines.chunk(10) => error.unwrap_err(),
            () = given_back => unreachable!("it goes on for ever"),
        };
        assert_eq!(error.status(), http::StatusCode::TOO_MANY_REQUESTS);
        assert!(begun.elapsed() <= Duration::from_secs(6), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn so_many_blanks_in_a_row_are_no_lines_that_anybody_needs() {
        let blanks = |count| std::iter::repeat_n(Bytes::from(vec![b'\n'; 1_024]), count);
        let line = |text: &'static str| std::iter::once(Bytes::from_static(text.as_bytes()));
        let most = MAX_BLANKS / 1_024;
        let kept_alive = blanks(most).chain(line("a\n")).chain(blanks(most)).chain(line("b\n"));
        assert_eq!(all(body(kept_alive.collect()), 10).await, [text("a"), text("b")]);
        for after in ["a\n", ""] {
            let mut lines = body(line(after).chain(blanks(most + 1)).chain(line("b\n")).collect());
            if !after.is_empty() {
                assert_eq!(lines.chunk(10).await.unwrap(), [text("a")]);
            }
            assert_eq!(lines.chunk(10).await.unwrap_err().status(), http::StatusCode::BAD_REQUEST);
        }
    }

    #[derive(Default)]
    struct Told(AtomicUsize);

    impl Progress for Told {
        fn caller_is_known(&self) -> bool {
            false
        }

        fn body_is_worked_on(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn while_lines_are_worked_on_nobody_waits_for_more_of_them() {
        let told: Arc<Told> = Arc::default();
        let watcher: Weak<dyn Progress> = Arc::downgrade(&(Arc::clone(&told) as _));
        let budgets = crate::http::account::Budgets::new(&postrider_ingest::LimitOptions::default(), 10);
        let account = Account::watched(Arc::new(budgets), Some(Watched(watcher)));
        let first = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(Bytes::from_static(b"a\n"))]);
        let stream = futures_util::StreamExt::chain(first, futures_util::stream::pending());
        let mut lines = Lines::new(Bytes::new(), Incoming::charged_to(Body::from_stream(stream), account));
        assert_eq!(lines.chunk(10).await.unwrap(), [text("a")]);
        assert_eq!(told.0.load(Ordering::Relaxed), 1);
    }

    proptest! {
        #[test]
        fn cutting_differently_finds_the_same(text in "[ab\n ]{0,60}", cuts in proptest::collection::vec(0usize..60, 0..6)) {
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| Bytes::copy_from_slice(&text.as_bytes()[cut[0]..cut[1]])).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let found = runtime.block_on(all(body(pieces), 3));
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let want: Vec<_> = lines.map(|line| Line::Text(Bytes::copy_from_slice(line.as_bytes()))).collect();
            prop_assert_eq!(found, want);
        }
    }
}
