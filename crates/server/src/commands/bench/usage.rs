//! What a process costs: memory and processor time, as Linux tells it under `/proc`.

use anyhow::Context as _;

/// A process's memory and processor time at one moment.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(super) struct Usage {
    /// Memory in use (VmRSS).
    pub(super) memory_bytes: u64,
    /// The most that was ever in use (VmHWM).
    pub(super) peak_memory_bytes: u64,
    /// Processor time; over its life, or of a phase.
    pub(super) cpu_seconds: f64,
}

impl Usage {
    /// Of a running process. Fails where there is no `/proc`.
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path).with_context(|| format!("can't read {path}"))
        };
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        parse(&read("status")?, &read("stat")?, ticks_per_second).context("/proc is not as expected")
    }

    /// The memory of `self`, and the processor time from `earlier` on.
    pub(super) fn since(self, earlier: Self) -> Self {
        Self { cpu_seconds: self.cpu_seconds - earlier.cpu_seconds, ..self }
    }
}

fn parse(status: &str, stat: &str, ticks_per_second: u64) -> Option<Usage> {
    let kilobytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    // The second field is the program's name in brackets, and may hold blanks and brackets itself.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Usage {
        memory_bytes: kilobytes("VmRSS")? * 1_024,
        peak_memory_bytes: kilobytes("VmHWM")? * 1_024,
        cpu_seconds: ticks as f64 / ticks_per_second as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_time_are_read_although_the_name_has_brackets() {
        let status = "Name:\ta) b\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 100 1 2";
        let usage = Usage { memory_bytes: 1 << 20, peak_memory_bytes: 2 << 20, cpu_seconds: 3.0 };
        assert_eq!(parse(status, stat, 100), Some(usage));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_memory() {
        assert!(Usage::of(std::process::id()).unwrap().memory_bytes > 100_000);
    }
}
