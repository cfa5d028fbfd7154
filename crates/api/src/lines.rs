//! A body of lines, read in chunks: as many lines as have come, up to a limit. Of what has not been handed out, at most
//! one line and one piece of the body are in memory.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use postrider_domain::message::MAX_BODY_BYTES;

use crate::account::Account;
use crate::body::Incoming;
use crate::error::Result;

/// The most bytes of lines in a chunk, so that a chunk of large lines is small in number.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// How long an incomplete chunk waits for more lines. What a client sends at once arrives in pieces.
const LINGER: Duration = Duration::from_millis(2);

/// A line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Text(Bytes),
    /// It is longer than a message may be; nothing was kept of it.
    TooLong,
}

impl Line {
    /// How many bytes there are of it.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::TooLong => 0,
        }
    }
}

/// The lines of a body. Empty ones are left out.
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no end of a line.
    searched: usize,
    /// In a line that is too long, of which the rest is thrown away.
    skipping: bool,
    ended: bool,
}

impl Lines {
    /// The lines of a body of which the first piece was read, and charged, already.
    pub(crate) fn new(first: Bytes, body: Incoming) -> Self {
        Self { body, buffer: BytesMut::from(first), searched: 0, skipping: false, ended: false }
    }

    /// What they are charged to.
    pub(crate) fn account(&self) -> &Account {
        self.body.account()
    }

    /// The next lines, at most `limit`; none at the end. What was handed out before counts as done with.
    pub(crate) async fn chunk(&mut self, limit: usize) -> Result<Vec<Line>> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        self.body.account().keep(self.buffer.len());
        while lines.len() < limit && bytes < CHUNK_BYTES {
            if let Some(line) = self.next() {
                bytes += line.len();
                lines.push(line);
                continue;
            }
            if self.ended {
                break;
            }
            let piece = if lines.is_empty() {
                self.body.next().await?
            } else {
                match tokio::time::timeout(LINGER, self.body.next()).await {
                    Ok(Ok(piece)) => piece,
                    // What has come is handed out first; the error comes again.
                    Ok(Err(_)) | Err(_) => break,
                }
            };
            match piece {
                Some(piece) => {
                    self.body.account().charge(piece.len()).await?;
                    self.buffer.extend_from_slice(&piece);
                }
                None => self.ended = true,
            }
        }
        Ok(lines)
    }

    /// The next line that is complete.
    fn next(&mut self) -> Option<Line> {
        loop {
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
            let line = self.buffer.split_to(end + 1).freeze();
            match line[..end].trim_ascii() {
                [] => {}
                text if text.len() > MAX_BODY_BYTES => return Some(Line::TooLong),
                text => return Some(Line::Text(line.slice_ref(text))),
            }
        }
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
    use axum::body::Body;
    use proptest::prelude::*;

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
