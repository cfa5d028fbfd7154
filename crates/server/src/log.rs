//! The log, and everything else that a server prints.
//!
//! Guarantee: printing never blocks, panics, fails or stops anything, whatever standard error and output are: a closed pipe,
//! a full disk, a pipe that nobody reads. Lines go into a bounded queue, and a thread of its own writes them. What does not
//! fit or cannot be written is left out and counted, and the log says how much as soon as it can be written again. Of the same warning
//! or error, only so many lines are written in a minute ([`Repeated`]): a store that is full fails each request, and the log may be on
//! the same disk.
//!
//! `tracing-appender` was considered: its queue is bounded by lines, not by bytes, it counts what was left out but never says
//! so, and at the end it may print with `println!`, which panics.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use postrider_domain::clock::{Clock as _, SystemClock};
use tokio::time::Instant;
use tracing::callsite::Identifier;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

use crate::commands::STACK_BYTES;
use crate::config::{LogFormat, LogOptions, log_filter};
use crate::terminal::{self, harmless};

postrider_domain::limits! {
    in "Log";
    /// Lines of the log that wait to be written
    pub(crate) const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024, "bytes", beyond "lines are left out, and counted";
    /// One line of the log
    pub(crate) const MAX_LINE_BYTES: usize = 64 * 1024, "bytes", beyond "it is cut";
    /// Lines of the same warning or error in a minute
    pub(crate) const MAX_SAME_LINES: u32 = 300, "lines", beyond "they are left out; the next one after that minute says how many";
}

/// See [`MAX_SAME_LINES`].
const MINUTE: Duration = Duration::from_secs(60);

/// What begins a new line.
const LINE_ENDS: [u8; 2] = *b"\n\r";

/// The pause before a write that found no room, where the operating system does not wait by itself.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Starts the log on standard error, and reports panics there.
pub(crate) fn start(options: &LogOptions) -> anyhow::Result<Output> {
    let filter = log_filter(&options.level).map_err(|problem| anyhow::anyhow!("log.level {problem}"))?;
    let format = options.format;
    let notice = move |lost: u64| {
        line(format, "WARN", "lines of the log are missing here: they could not be written", &[("lost", lost.into())])
    };
    let output = Output::start("log", sink(&io::stderr()), notice);
    let log = Log { output: output.clone(), format, repeated: Arc::default() };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(log).log_internal_errors(false);
    let started = match format {
        LogFormat::Text => tracing::subscriber::set_global_default(
            log.with_ansi(terminal::stderr_is_terminal()).with_target(false).finish(),
        ),
        LogFormat::Json => tracing::subscriber::set_global_default(log.json().flatten_event(true).finish()),
    };
    started?;
    let panics = output.clone();
    std::panic::set_hook(Box::new(move |info| panics.push(report(format, info))));
    Ok(output)
}

/// Standard output, for what people are told at the start.
pub(crate) fn stdout() -> Output {
    Output::start("stdout", sink(&io::stdout()), |_lost| Vec::new())
}

/// A way to a stream that shares no lock with anybody: a write that blocks keeps nobody else from going on.
fn sink(stream: &impl AsFd) -> Box<dyn Write + Send> {
    match stream.as_fd().try_clone_to_owned() {
        Ok(descriptor) => Box::new(File::from(descriptor)),
        Err(_) => Box::new(io::sink()),
    }
}

/// What is said of a panic. Nothing here can panic itself: a second one would end the process.
fn report(format: LogFormat, info: &PanicHookInfo<'_>) -> Vec<u8> {
    let message = info.payload_as_str().unwrap_or("without a message");
    let place = info.location().map_or_else(String::new, ToString::to_string);
    let backtrace = std::backtrace::Backtrace::capture();
    let backtrace = match backtrace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    let text = format!("thread '{}' panicked at {place}: {}", harmless(&thread), harmless(message));
    match format {
        LogFormat::Text => line(format, "ERROR", &format!("{text}{backtrace}"), &[]),
        LogFormat::Json => line(format, "ERROR", &text, &[("backtrace", backtrace.trim().into())]),
    }
}

/// A line that looks like those of the log.
fn line(format: LogFormat, level: &str, message: &str, fields: &[(&str, serde_json::Value)]) -> Vec<u8> {
    let mut at = String::new();
    // A time beyond the calendar is left out; `to_string` would panic.
    let _ = std::fmt::Write::write_fmt(&mut at, format_args!("{}", SystemClock::new().wall()));
    let text = match format {
        LogFormat::Text => {
            let fields: String = fields.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            format!("{at} {level:>5} {message}{fields}\n")
        }
        LogFormat::Json => {
            let head = [("timestamp", at.as_str().into()), ("level", level.into()), ("message", message.into())];
            let object: serde_json::Map<_, _> =
                head.iter().chain(fields).map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            format!("{}\n", serde_json::Value::Object(object))
        }
    };
    text.into_bytes()
}

/// What fits of a line that is too long. One of JSON still is JSON: its longest members are cut.
fn cut(line: &[u8]) -> Vec<u8> {
    if let Ok(mut object) = serde_json::from_slice(line) {
        let mut longest = MAX_LINE_BYTES / 2;
        while longest > 0 {
            cut_texts(&mut object, longest);
            let text = format!("{object}\n");
            if text.len() <= MAX_LINE_BYTES {
                return text.into_bytes();
            }
            longest /= 2;
        }
    }
    let text = String::from_utf8_lossy(&line[..MAX_LINE_BYTES]);
    format!("{}…\n", text.trim_end_matches(char::REPLACEMENT_CHARACTER)).into_bytes()
}

/// Cuts every text in a value that has more bytes than this.
fn cut_texts(value: &mut serde_json::Value, longest: usize) {
    match value {
        serde_json::Value::String(text) if text.len() > longest => {
            text.truncate(text.floor_char_boundary(longest));
            text.push('…');
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| cut_texts(item, longest)),
        serde_json::Value::Object(members) => members.values_mut().for_each(|member| cut_texts(member, longest)),
        _ => {}
    }
}

/// Lines on their way to a stream. Clones are the same.
#[derive(Clone)]
pub(crate) struct Output(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Whether the thread has something in hand.
    writing: bool,
}

enum Entry {
    Line(Vec<u8>),
    /// So many lines did not fit here.
    Lost(u64),
}

impl Output {
    /// Writes to `sink` on a thread of its own. `notice` is what is written where lines are missing.
    fn start(name: &str, sink: Box<dyn Write + Send>, notice: impl Fn(u64) -> Vec<u8> + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let mut writer = Writer { sink, notice, lost: 0, torn: false };
        let queue = Arc::clone(&shared);
        // Without a thread everything is lost, which is no reason not to serve.
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
        let _ = thread.spawn(move || {
            loop {
                writer.take(queue.next());
            }
        });
        Self(shared)
    }

    /// Hands over a line, which ends with a line end.
    pub(crate) fn push(&self, line: Vec<u8>) {
        self.0.push(if line.len() > MAX_LINE_BYTES { cut(&line) } else { line });
    }

    /// Hands over a text for people.
    pub(crate) fn say(&self, text: &str) {
        self.push(format!("{text}\n").into_bytes());
    }

    /// Waits until everything is written, but not longer than this.
    pub(crate) fn flush(&self, patience: Duration) {
        let mut queue = self.0.queue.lock();
        let busy = |queue: &mut Queue| queue.writing || !queue.entries.is_empty();
        self.0.changed.wait_while_for(&mut queue, busy, patience);
    }
}

impl Shared {
    fn push(&self, line: Vec<u8>) {
        let mut queue = self.queue.lock();
        if queue.bytes + line.len() <= MAX_WAITING_BYTES {
            queue.bytes += line.len();
            queue.entries.push_back(Entry::Line(line));
        } else if let Some(Entry::Lost(lost)) = queue.entries.back_mut() {
            *lost += 1;
        } else {
            queue.entries.push_back(Entry::Lost(1));
        }
        self.changed.notify_all();
    }

    /// What is to be written next; waits for it.
    fn next(&self) -> Entry {
        let mut queue = self.queue.lock();
        queue.writing = false;
        self.changed.notify_all();
        loop {
            if let Some(entry) = queue.entries.pop_front() {
                if let Entry::Line(line) = &entry {
                    queue.bytes -= line.len();
                }
                queue.writing = true;
                return entry;
            }
            self.changed.wait(&mut queue);
        }
    }
}

/// The thread's side.
struct Writer<F> {
    sink: Box<dyn Write + Send>,
    notice: F,
    /// Lines that were not written since the last notice.
    lost: u64,
    /// The last write stopped in the middle of a line.
    torn: bool,
}

impl<F: Fn(u64) -> Vec<u8>> Writer<F> {
    fn take(&mut self, entry: Entry) {
        match entry {
            Entry::Lost(lost) => {
                self.lost += lost;
                self.confess();
            }
            Entry::Line(line) => {
                if !self.confess() || !self.write(&line) {
                    self.lost += 1;
                }
            }
        }
    }

    /// Says how many lines are missing, if any are; false if even that cannot be written.
    fn confess(&mut self) -> bool {
        if self.lost > 0 {
            let notice = (self.notice)(self.lost);
            if !self.write(&notice) {
                return false;
            }
            self.lost = 0;
        }
        true
    }

    fn write(&mut self, line: &[u8]) -> bool {
        if self.torn && !self.write_all(b"\n") {
            return false;
        }
        self.torn = false;
        self.write_all(line)
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> bool {
        let whole = bytes.len();
        while !bytes.is_empty() {
            match self.sink.write(bytes) {
                Ok(written) if written > 0 => bytes = &bytes[written.min(bytes.len())..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Somebody made the stream one that does not wait.
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY_PAUSE),
                Ok(_) | Err(_) => {
                    self.torn |= bytes.len() < whole;
                    return false;
                }
            }
        }
        true
    }
}

/// Takes one event, which comes in one piece, and is one line: what somebody sent us cannot begin another one.
/// Or leaves it out.
pub(crate) struct EventWriter(Option<Output>);

impl Write for EventWriter {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let Some(output) = &self.0 else { return Ok(event.len()) };
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        if text.iter().any(|byte| LINE_ENDS.contains(byte)) {
            let escaped = text.iter().flat_map(|byte| match byte {
                b'\n' => b"\\n".to_vec(),
                b'\r' => b"\\r".to_vec(),
                other => vec![*other],
            });
            output.push(escaped.chain([b'\n']).collect());
        } else {
            output.push(event.to_vec());
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What writes events.
struct Log {
    output: Output,
    format: LogFormat,
    repeated: Arc<Mutex<Repeated>>,
}

impl MakeWriter<'_> for Log {
    type Writer = EventWriter;

    fn make_writer(&self) -> EventWriter {
        EventWriter(Some(self.output.clone()))
    }

    fn make_writer_for(&self, of: &Metadata<'_>) -> EventWriter {
        if *of.level() > Level::WARN {
            return self.make_writer();
        }
        let admitted = self.repeated.lock().admit(of.callsite(), Instant::now());
        match admitted {
            Admitted::No => EventWriter(None),
            Admitted::Yes { left_out: 0 } => self.make_writer(),
            Admitted::Yes { left_out } => {
                let place = format!("{}:{}", of.target(), of.line().unwrap_or_default());
                let fields = [("left_out", left_out.into()), ("place", place.into())];
                self.output.push(line(self.format, "WARN", "lines like the next one were left out", &fields));
                self.make_writer()
            }
        }
    }
}

/// How often the same was said lately; by its place in the program, of which there are so many.
#[derive(Default)]
struct Repeated(HashMap<Identifier, Said>);

struct Said {
    since: Instant,
    lines: u32,
    left_out: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Admitted {
    /// It is said; before it so many of its kind were not.
    Yes {
        left_out: u64,
    },
    No,
}

impl Repeated {
    fn admit(&mut self, of: Identifier, now: Instant) -> Admitted {
        let said = self.0.entry(of).or_insert(Said { since: now, lines: 0, left_out: 0 });
        let mut left_out = 0;
        if now.saturating_duration_since(said.since) >= MINUTE {
            left_out = said.left_out;
            *said = Said { since: now, lines: 0, left_out: 0 };
        }
        if said.lines >= MAX_SAME_LINES {
            said.left_out += 1;
            return Admitted::No;
        }
        said.lines += 1;
        Admitted::Yes { left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Long enough for any machine; what is waited for comes at once.
    const DEADLINE: Duration = Duration::from_secs(60);

    /// A stream that can be made to fail.
    #[derive(Clone, Default)]
    struct Broken {
        failing: Arc<AtomicBool>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Broken {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.failing.load(Ordering::SeqCst) {
                return Err(io::Error::from(ErrorKind::BrokenPipe));
            }
            self.written.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn notice(lost: u64) -> Vec<u8> {
        format!("({lost} lost)\n").into_bytes()
    }

    #[test]
    fn lines_that_could_not_be_written_are_counted_and_told_when_it_works_again() {
        let stream = Broken::default();
        let output = Output::start("test", Box::new(stream.clone()), notice);
        output.push(b"one\n".to_vec());
        output.flush(DEADLINE);
        stream.failing.store(true, Ordering::SeqCst);
        for _ in 0..3 {
            output.push(b"lost\n".to_vec());
        }
        output.flush(DEADLINE);
        stream.failing.store(false, Ordering::SeqCst);
        output.push(b"two\n".to_vec());
        output.flush(DEADLINE);
        assert_eq!(String::from_utf8_lossy(&stream.written.lock()), "one\n(3 lost)\ntwo\n");
    }

    #[test]
    fn a_stream_that_nobody_reads_holds_nobody_up_and_memory_stays_bounded() {
        let (reader, writer) = io::pipe().unwrap();
        let output = Output::start("test", Box::new(File::from(std::os::fd::OwnedFd::from(writer))), notice);
        let line = [b'x'; 1_023].iter().copied().chain([b'\n']).collect::<Vec<_>>();
        let count = MAX_WAITING_BYTES / line.len() * 2;
        for _ in 0..count {
            output.push(line.clone());
        }
        assert!(output.0.queue.lock().bytes <= MAX_WAITING_BYTES);
        let (mut read, mut lost) = (0, 0);
        for line in io::BufRead::lines(io::BufReader::new(reader)) {
            match line.unwrap().strip_prefix('(').map(|rest| rest.trim_end_matches(" lost)").parse::<usize>()) {
                Some(told) => lost += told.unwrap(),
                None => read += 1,
            }
            if read + lost == count {
                break;
            }
        }
        assert!(read * line.len() >= MAX_WAITING_BYTES && lost > 0, "{read} {lost}");
    }

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        let stream = Broken::default();
        let output = Output::start("test", Box::new(stream.clone()), notice);
        let event = b"WARN failed to read 'a\r\nINFO all is well'\n";
        assert_eq!(EventWriter(Some(output.clone())).write(event).unwrap(), event.len());
        output.flush(DEADLINE);
        assert_eq!(*stream.written.lock(), b"WARN failed to read 'a\\r\\nINFO all is well'\n");
    }

    #[test]
    fn a_line_of_json_that_is_cut_is_json() {
        let long = "x\"\u{1}ü".repeat(MAX_LINE_BYTES);
        let fields =
            [("error", long.as_str().into()), ("nested", serde_json::json!({ "a": [long] })), ("lost", 5.into())];
        let whole = line(LogFormat::Json, "WARN", &long, &fields);
        let shown = cut(&whole);
        assert!(shown.len() <= MAX_LINE_BYTES && shown.ends_with(b"}\n"));
        let read: serde_json::Value = serde_json::from_slice(&shown).unwrap();
        assert_eq!((&read["level"], &read["lost"]), (&"WARN".into(), &5.into()));
        for text in [&read["message"], &read["error"], &read["nested"]["a"][0]] {
            let text = text.as_str().unwrap();
            assert!(text.len() > 1_000 && text.ends_with('…') && long.starts_with(&text[..text.len() - 3]));
        }
    }

    #[test]
    fn a_line_of_text_is_cut_at_a_character() {
        let shown = cut("ü".repeat(MAX_LINE_BYTES).as_bytes());
        let text = String::from_utf8(shown).unwrap();
        assert!(text.len() <= MAX_LINE_BYTES + 4 && text.ends_with("ü…\n"));
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let stream = Broken::default();
        let output = Output::start("test", Box::new(stream.clone()), notice);
        output.push(vec![b'x'; MAX_LINE_BYTES * 2]);
        output.flush(DEADLINE);
        assert!(stream.written.lock().len() < MAX_LINE_BYTES + 10);
    }

    #[test]
    fn of_the_same_warning_so_many_lines_are_written_in_a_minute_and_the_next_one_is_told_how_many_were_not() {
        // Not empty: each is to have an address of its own.
        struct Place(#[expect(dead_code, reason = "see above")] u8);
        static PLACES: [Place; 2] = [Place(1), Place(2)];
        impl tracing::Callsite for Place {
            fn set_interest(&self, _: tracing::subscriber::Interest) {}
            fn metadata(&self) -> &Metadata<'_> {
                unreachable!("nobody asks")
            }
        }
        let [one, other] = [Identifier(&PLACES[0]), Identifier(&PLACES[1])];
        let (mut repeated, now) = (Repeated::default(), Instant::now());
        let written = (0..1_000).filter(|_| repeated.admit(one.clone(), now) != Admitted::No).count();
        assert_eq!(written, MAX_SAME_LINES as usize);
        assert_eq!(repeated.admit(other, now), Admitted::Yes { left_out: 0 });
        let later = now + MINUTE;
        assert_eq!(repeated.admit(one.clone(), later), Admitted::Yes { left_out: 1_000 - u64::from(MAX_SAME_LINES) });
        assert_eq!(repeated.admit(one, later), Admitted::Yes { left_out: 0 });
    }
}
