//! Writing for people: colour only where it is seen.
//!
//! anstream (which clap prints its help with) strips styles when the output is no terminal, and when `NO_COLOR` is set.

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use clap::builder::Styles;
use postrider_domain::settings::is_unseen;

use crate::commands::STACK_BYTES;

/// How long the last line may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Something went well.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Something went wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// Neither, but worth a look.
pub(crate) const NOTE: Style = AnsiColor::Yellow.on_default();
/// Less important than what is around it.
pub(crate) const DIM: Style = Style::new().dimmed();
/// More important than what is around it.
pub(crate) const STRONG: Style = Style::new().bold();

/// How clap colours the help.
pub(crate) const HELP: Styles = Styles::styled()
    .header(STRONG)
    .usage(STRONG)
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(DIM)
    .error(BAD)
    .valid(AnsiColor::Green.on_default())
    .invalid(NOTE);

/// Standard output; styles are stripped unless a terminal shows them.
pub(crate) fn stdout() -> AutoStream<std::io::Stdout> {
    AutoStream::auto(std::io::stdout())
}

/// What is to be shown on standard output, put together first: as [`stdout`] would show it.
pub(crate) fn buffer() -> AutoStream<Vec<u8>> {
    AutoStream::new(Vec::new(), AutoStream::choice(&std::io::stdout()))
}

/// Standard error; styles are stripped unless a terminal shows them.
pub(crate) fn stderr() -> AutoStream<std::io::Stderr> {
    AutoStream::auto(std::io::stderr())
}

/// Whether a line on standard error can be overwritten.
pub(crate) fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

/// One line that says why the command failed.
pub(crate) fn error(error: &anyhow::Error) {
    error_line(&format!("{error:#}"));
}

/// One line that says what is wrong. Where it cannot be written, or nobody reads, that is no reason to stay.
pub(crate) fn error_line(text: &str) {
    let line = format!("{BAD}error:{BAD:#} {text}");
    let (done, wait) = std::sync::mpsc::channel();
    let copy = line.clone();
    let write = move || {
        // Nothing is left to do if even this fails.
        let _ = writeln!(stderr(), "{copy}");
        let _ = done.send(());
    };
    if std::thread::Builder::new().stack_size(STACK_BYTES).spawn(write).is_ok() {
        let _ = wait.recv_timeout(LAST_WORDS);
    } else {
        // That there are no threads may be what is to be said.
        let _ = writeln!(stderr(), "{line}");
    }
}

/// One line that says what somebody may not expect. Where it cannot be written, that is no reason to stop.
pub(crate) fn note_line(text: &str) {
    let _ = writeln!(stderr(), "{NOTE}note:{NOTE:#} {text}");
}

/// `text` in `style`.
pub(crate) fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Without characters that a terminal would obey, or that nobody would see: those that turn the direction of what follows make
/// a text read as what it is not.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_unseen) {
        Cow::Owned(text.chars().map(|letter| if is_unseen(letter) { '\u{fffd}' } else { letter }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_or_nobody_sees_is_replaced() {
        for letter in [
            '\u{1b}',
            '\u{9b}',
            '\r',
            '\u{61c}',
            '\u{200b}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{feff}',
            '\u{e0041}',
        ] {
            assert_eq!(harmless(&format!("a{letter}b")), "a\u{fffd}b", "{letter:?}");
        }
        assert!(matches!(harmless("größer – 大きい שלום"), Cow::Borrowed(_)));
    }
}
