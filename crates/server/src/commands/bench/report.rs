//! The result: columns of figures, ratios between them, as a table for people or JSON for programs.

use std::io::Write;

use serde::Serialize;

use super::measured::{Measured, Percentiles};
use crate::terminal::{BAD, DIM, STRONG, paint};

/// Everything a run found out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Cores of this machine.
    pub(super) cores: usize,
    /// What was measured.
    pub(super) columns: Vec<Column>,
    /// Comparisons, each of medians.
    pub(super) ratios: Vec<Ratio>,
    /// Further figures of a scenario.
    #[serde(serialize_with = "as_object")]
    pub(super) facts: Vec<Fact>,
    /// Requests at the receivers that were none of the benchmark's.
    pub(super) strays: u64,
}

/// One subject in one condition.
#[derive(Debug, Serialize)]
pub(super) struct Column {
    /// What people call it.
    pub(super) name: String,
    /// Once per round.
    pub(super) rounds: Vec<Measured>,
}

/// One figure of one column, divided by the same figure of another.
#[derive(Debug, Serialize)]
pub(super) struct Ratio {
    /// Which figure.
    pub(super) figure: &'static str,
    /// The column above the line.
    pub(super) of: String,
    /// The column below the line.
    pub(super) to: String,
    /// Median divided by median.
    pub(super) ratio: f64,
}

/// A single figure.
#[derive(Debug)]
pub(super) struct Fact {
    /// What programs call it.
    pub(super) key: &'static str,
    /// What people call it, with its unit.
    pub(super) label: &'static str,
    /// Its value.
    pub(super) value: f64,
}

fn as_object<S: serde::Serializer>(facts: &[Fact], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(facts.iter().map(|fact| (fact.key, fact.value)))
}

/// A figure that columns are compared by.
#[derive(Clone, Copy)]
pub(super) struct Figure {
    name: &'static str,
    of: fn(&Measured) -> f64,
}

/// What a load that goes as fast as it can is compared by.
pub(super) const RATES: [Figure; 2] = [
    Figure { name: "accepted/s", of: |measured| measured.accepted_per_s },
    Figure { name: "delivered/s", of: |measured| measured.delivered_per_s },
];

/// What a load at a fixed rate is compared by.
pub(super) const LATENCIES: [Figure; 3] = [
    Figure { name: "accept p99", of: |measured| measured.accept_ms.p99 },
    Figure { name: "end to end p99", of: |measured| measured.end_to_end_ms.p99 },
    Figure { name: "accept to receive p99", of: |measured| measured.accept_to_receive_ms.p99 },
];

impl Column {
    /// The round in the middle, by deliveries per second: what the table shows.
    fn middle(&self) -> Option<&Measured> {
        let mut rounds: Vec<&Measured> = self.rounds.iter().collect();
        rounds.sort_by(|a, b| a.delivered_per_s.total_cmp(&b.delivered_per_s));
        rounds.get(rounds.len().checked_sub(1)? / 2).copied()
    }

    fn median(&self, figure: Figure) -> f64 {
        let mut values: Vec<f64> = self.rounds.iter().map(figure.of).collect();
        values.sort_by(f64::total_cmp);
        match values.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => values[odd / 2],
            even => (values[even / 2 - 1] + values[even / 2]) / 2.0,
        }
    }
}

impl Report {
    /// A report that compares every column with the first by `figures`.
    pub(super) fn new(columns: Vec<Column>, figures: &[Figure], strays: u64) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let mut report = Self { cores, columns, ratios: Vec::new(), facts: Vec::new(), strays };
        for other in 1..report.columns.len() {
            report.compare(other, 0, figures);
        }
        report
    }

    /// Adds the ratios of one column to another.
    pub(super) fn compare(&mut self, of: usize, to: usize, figures: &[Figure]) {
        let (of, to) = (&self.columns[of], &self.columns[to]);
        self.ratios.extend(figures.iter().map(|figure| Ratio {
            figure: figure.name,
            of: of.name.clone(),
            to: to.name.clone(),
            ratio: of.median(*figure) / to.median(*figure),
        }));
    }

    /// Whether nothing was lost or badly signed in any round.
    pub(super) fn is_sound(&self) -> bool {
        self.columns.iter().all(|column| column.rounds.iter().all(Measured::is_sound))
    }

    /// One JSON object on one line.
    pub(super) fn write_json(&self, out: &mut impl Write) -> anyhow::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)?;
        Ok(())
    }

    /// A table.
    pub(super) fn write_table(&self, out: &mut impl Write) -> std::io::Result<()> {
        let middles: Vec<(&Column, &Measured)> =
            self.columns.iter().filter_map(|column| Some((column, column.middle()?))).collect();
        let cells: Vec<Vec<String>> =
            middles.iter().map(|(_, measured)| ROWS.iter().map(|(_, cell)| cell(measured)).collect()).collect();
        let widths: Vec<usize> = middles
            .iter()
            .zip(&cells)
            .map(|((column, _), cells)| cells.iter().chain([&column.name]).map(|text| text.chars().count()).max())
            .map(|longest| longest.unwrap_or(0) + 3)
            .collect();
        let mut header = format!("{:28}", "");
        for ((column, _), width) in middles.iter().zip(&widths) {
            header += &format!("{:>width$}", column.name);
        }
        writeln!(out, "{}", paint(STRONG, header))?;
        for (row, (name, _)) in ROWS.iter().enumerate() {
            if cells.iter().all(|cells| cells[row] == "-") {
                continue;
            }
            write!(out, "{name:28}")?;
            for (cells, width) in cells.iter().zip(&widths) {
                write!(out, "{:>width$}", cells[row])?;
            }
            writeln!(out)?;
        }
        self.write_rounds(out)?;
        self.write_errors(out)?;
        for fact in &self.facts {
            let value = if fact.value.fract() == 0.0 { grouped(&fact.value.to_string()) } else { number(fact.value) };
            writeln!(out, "{:40} {value:>12}", fact.label)?;
        }
        for ratio in &self.ratios {
            let text = format!("{}: {} / {} = {:.2}", ratio.figure, ratio.of, ratio.to, ratio.ratio);
            writeln!(out, "{}", paint(STRONG, text))?;
        }
        Ok(())
    }

    fn write_rounds(&self, out: &mut impl Write) -> std::io::Result<()> {
        for column in self.columns.iter().filter(|column| column.rounds.len() > 1) {
            let rounds: Vec<String> = column.rounds.iter().map(|round| number(round.delivered_per_s)).collect();
            let text = format!("delivered/s of {} in each round: {}", column.name, rounds.join("  "));
            writeln!(out, "{}", paint(DIM, text))?;
        }
        Ok(())
    }

    fn write_errors(&self, out: &mut impl Write) -> std::io::Result<()> {
        for column in &self.columns {
            for (what, failures) in column.rounds.iter().flat_map(|round| &round.errors) {
                let text = format!("{}: {what} {} times, e.g. {}", column.name, failures.count, failures.sample);
                writeln!(out, "{}", paint(BAD, text))?;
            }
            let sum = |of: fn(&Measured) -> u64| column.rounds.iter().map(of).sum::<u64>();
            for (count, what) in [
                (sum(|round| round.lost), "deliveries of accepted messages were lost"),
                (sum(|round| round.signatures_bad), "of the verified signatures were wrong"),
                (sum(|round| round.unsent), "requests could not be sent in time: the server is too slow for this rate"),
            ] {
                if count > 0 {
                    writeln!(out, "{}", paint(BAD, format!("{}: {count} {what}", column.name)))?;
                }
            }
        }
        if self.strays > 0 {
            writeln!(out, "{}", paint(BAD, format!("{} requests were none of the benchmark's", self.strays)))?;
        }
        Ok(())
    }
}

type Row = (&'static str, fn(&Measured) -> String);

const ROWS: [Row; 15] = [
    ("accepted/s", |m| number(m.accepted_per_s)),
    ("delivered/s", |m| number(m.delivered_per_s)),
    ("", |_| "p50 / p90 / p99".into()),
    ("accept, ms", |m| three(&m.accept_ms)),
    ("end to end, ms", |m| three(&m.end_to_end_ms)),
    ("accept to receive, ms", |m| three(&m.accept_to_receive_ms)),
    ("", |_| "p99.9 / max".into()),
    ("accept, ms", |m| two(&m.accept_ms)),
    ("end to end, ms", |m| two(&m.end_to_end_ms)),
    ("accept to receive, ms", |m| two(&m.accept_to_receive_ms)),
    ("accepted / delivered", |m| format!("{} / {}", m.accepted, m.delivered)),
    ("lost / repeated", |m| format!("{} / {}", m.lost, m.repeated)),
    ("errors", |m| m.errors.values().map(|failures| failures.count).sum::<u64>().to_string()),
    ("server memory / peak, MB", |m| {
        let megabytes = |bytes: u64| number(bytes as f64 / 1e6);
        m.server.map_or("-".into(), |use_| {
            format!("{} / {}", megabytes(use_.memory_bytes), megabytes(use_.peak_memory_bytes))
        })
    }),
    ("server CPU, s", |m| m.server.map_or("-".into(), |use_| number(use_.cpu_seconds))),
];

fn three(ms: &Percentiles) -> String {
    format!("{} / {} / {}", number(ms.p50), number(ms.p90), number(ms.p99))
}

fn two(ms: &Percentiles) -> String {
    format!("{} / {}", number(ms.p999), number(ms.max))
}

/// Three digits or more: 0.123, 1.23, 12.3, 123, 12,345.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        below if below < 1.0 => 3,
        below if below < 10.0 => 2,
        below if below < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    match text.split_once('.') {
        Some((whole, fraction)) => format!("{}.{fraction}", grouped(whole)),
        None => grouped(&text),
    }
}

/// 12345 as 12,345.
fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::load::Sent;
    use crate::commands::bench::message::Stamp;
    use crate::commands::bench::phase::Phase;

    /// A round in which `count` messages took a second each way.
    fn round(count: u32) -> Measured {
        let phase = Phase::new(0, 1);
        for sequence in 0..count {
            let stamp = Stamp { phase: 0, sequence, sent: 1 };
            phase.accept(0, stamp, 1_000_001);
            phase.receive(0, 0, stamp, 1_000_001, Some(true));
        }
        Measured::of(&phase, Sent { began: 1, unsent: 0 }, None)
    }

    fn report() -> Report {
        let column = |name: &str, rounds: [u32; 3]| Column { name: name.into(), rounds: rounds.map(round).into() };
        Report::new(vec![column("relay", [10, 400, 100]), column("server", [50, 40, 60])], &RATES, 0)
    }

    #[test]
    fn a_ratio_is_of_medians() {
        let ratios: Vec<(&str, f64)> = report().ratios.iter().map(|ratio| (ratio.figure, ratio.ratio)).collect();
        assert_eq!(ratios, [("accepted/s", 0.5), ("delivered/s", 0.5)]);
    }

    #[test]
    fn the_table_shows_the_round_in_the_middle_and_what_was_lost() {
        let mut report = report();
        report.columns[1].rounds[0].lost = 3;
        report.facts.push(Fact { key: "waiting", label: "messages waiting", value: 1_000_000.0 });
        let mut out = Vec::new();
        report.write_table(&mut out).unwrap();
        let table = anstream::adapter::strip_str(std::str::from_utf8(&out).unwrap()).to_string();
        let line = |start: &str| -> Vec<String> {
            let line = table.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {table}"));
            line.split_whitespace().map(str::to_owned).collect()
        };
        assert_eq!(line("accepted/s"), ["accepted/s", "100", "50.0"]);
        assert_eq!(line("messages waiting")[2], "1,000,000");
        assert!(table.contains("server: 3 deliveries of accepted messages were lost"), "{table}");
        assert!(table.contains("delivered/s: server / relay = 0.50"), "{table}");
        assert!(!report.is_sound());
    }

    #[test]
    fn facts_are_one_object() {
        let mut report = report();
        report.facts.push(Fact { key: "waiting", label: "messages waiting", value: 5.0 });
        let mut out = Vec::new();
        report.write_json(&mut out).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["facts"], serde_json::json!({ "waiting": 5.0 }));
        assert_eq!(json["columns"][1]["name"], "server");
    }

    #[test]
    fn numbers_have_three_digits_or_more() {
        for (value, text) in [
            (0.0, "0.000"),
            (0.1234, "0.123"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (123.4, "123"),
            (1234567.0, "1,234,567"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
