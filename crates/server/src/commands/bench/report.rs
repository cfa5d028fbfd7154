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
    #[serde(skip_serializing_if = "Vec::is_empty")]
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
#[derive(Debug, Serialize)]
pub(super) struct Fact {
    /// What it is, with its unit.
    pub(super) name: &'static str,
    /// Its value.
    pub(super) value: f64,
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
        let mut ratios = Vec::new();
        if let Some((first, others)) = columns.split_first() {
            for other in others {
                ratios.extend(figures.iter().map(|figure| Ratio {
                    figure: figure.name,
                    of: other.name.clone(),
                    to: first.name.clone(),
                    ratio: other.median(*figure) / first.median(*figure),
                }));
            }
        }
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        Self { cores, columns, ratios, facts: Vec::new(), strays }
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
        let width = middles.iter().map(|(column, _)| column.name.chars().count()).max().unwrap_or(0).max(12) + 2;
        let mut header = format!("{:28}", "");
        for (column, _) in &middles {
            header += &format!("{:>width$}", column.name);
        }
        writeln!(out, "{}", paint(STRONG, header))?;
        for (name, cell) in ROWS {
            let cells: Vec<String> = middles.iter().map(|(_, measured)| cell(measured)).collect();
            if cells.iter().any(|cell| cell != "-") {
                write!(out, "{name:28}")?;
                for cell in cells {
                    write!(out, "{cell:>width$}")?;
                }
                writeln!(out)?;
            }
        }
        self.write_rounds(out)?;
        self.write_errors(out)?;
        for fact in &self.facts {
            writeln!(out, "{:40} {:>12}", fact.name, number(fact.value))?;
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
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
    let mut grouped = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or(grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}
