//! What the memory of a server is spent on at most: a line for each part, so that `postrider config check` can print the sum.
//!
//! Whoever gives something in memory a bound adds a line where the bound is: each crate has a function `memory` beside
//! `limits`.

use std::path::Path;

use postrider_domain::memory::{KIB, MIB, Part};

use crate::config::Config;
use crate::connections::{MAX_HEAD_BYTES, RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES};
use crate::log;

/// The program itself, its threads and what the allocator holds back; much of that is what one thread allocates and another frees.
const PROGRAM: u64 = 72 * MIB;
/// The head of a request, what is read ahead, and what waits to be written of an answer.
const CONNECTION: u64 = 2 * MAX_HEAD_BYTES as u64;
/// What the system has of a connection in its own memory: Linux takes twice what it is asked for, for what it adds to the bytes.
const IN_THE_SYSTEM: u64 = 2 * (SEND_BUFFER_BYTES as u64 + RECEIVE_BUFFER_BYTES as u64);

/// Every part.
pub(crate) fn parts(config: &Config) -> Vec<Part> {
    let connections = u64::from(config.server.max_connections);
    let own = vec![
        Part::set("server.max_connections", "connections of callers", connections * CONNECTION),
        Part::set(
            "server.max_connections",
            "connections of callers, in the kernel's buffers (if no client reads, and the server falls behind)",
            connections * IN_THE_SYSTEM,
        )
        .apart(),
        Part::fixed("log lines that wait to be written", log::MAX_WAITING_BYTES as u64),
        Part::fixed("the program itself", PROGRAM),
    ];
    [
        postrider_delivery::memory(&config.delivery),
        postrider_api::memory(&config.limits, connections),
        postrider_ingest::memory(&config.limits, &config.schemas),
        postrider_store_sqlite::memory(),
        own,
    ]
    .concat()
}

/// Where the system says how much memory there is, and to how much the groups are kept that this process is in.
const MEMORY: &str = "/proc/meminfo";
const GROUP: &str = "/proc/self/cgroup";
const GROUPS: &str = "/sys/fs/cgroup";

/// The memory of the machine or, if that is less, of the container, or of whatever holds that: a pod, a slice of systemd.
/// `None` if the system does not say.
pub(crate) fn of_machine() -> Option<u64> {
    let memory = std::fs::read_to_string(MEMORY).ok()?;
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    let total = total?.trim().parse::<u64>().ok()?.saturating_mul(KIB);
    let groups = std::fs::read_to_string(GROUP).unwrap_or_default();
    limits_of(Path::new(GROUPS), &groups).into_iter().chain([total]).min()
}

/// The limits of the groups that this process is in, and of all that hold them: each holds for what is within it.
fn limits_of(root: &Path, groups: &str) -> Vec<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        // Seen from within a container, a group may be one that is not shown there; what is shown as the root is its own then.
        let group = base.join(group.trim_start_matches('/'));
        let holders = group.ancestors().take_while(|holder| holder.starts_with(&base));
        // Without a limit there is a word in it.
        let limit = |holder: &Path| std::fs::read_to_string(holder.join(file)).ok()?.trim().parse::<u64>().ok();
        limits.extend(holders.filter_map(limit));
    }
    limits
}

/// What all parts take at most.
pub(crate) fn sum(parts: &[Part]) -> u64 {
    sum_of(&mut parts.iter())
}

fn of_process(parts: &[Part]) -> u64 {
    sum_of(&mut parts.iter().filter(|part| !part.is_apart))
}

fn sum_of(parts: &mut dyn Iterator<Item = &Part>) -> u64 {
    parts.fold(0u64, |sum, part| sum.saturating_add(part.bytes))
}

/// An amount, for people.
pub(crate) fn shown(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / MIB as f64)
}

/// The sum, for people, and where to look for the parts.
pub(crate) fn in_short(parts: &[Part]) -> String {
    format!(
        "Memory: {} at most in all, {} of that in the server's own process. Usually it is far less.\n\
         `postrider config check --memory` lists the parts, and which setting bounds each.\n",
        shown(sum(parts)),
        shown(of_process(parts))
    )
}

/// The parts and their sum, for people.
pub(crate) fn as_text(parts: &[Part]) -> String {
    let row = |bytes: u64, what: &str, bound: &str| format!("{:>14}  {what}{bound}\n", shown(bytes));
    let mut text = String::new();
    for part in parts {
        let bound = part.setting.map_or_else(String::new, |setting| format!(" ({setting})"));
        text.push_str(&row(part.bytes, part.what, &bound));
    }
    text.push_str(&row(of_process(parts), "in the server's own process, at most", ""));
    text.push_str(&row(sum(parts), "in all, at most", ""));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_all_that_hold_a_group_are_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let limit = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        limit("pod/memory.max", "1000\n");
        limit("pod/container/memory.max", "max\n");
        limit("pod/other/memory.max", "10\n");
        limit("memory/slice/memory.limit_in_bytes", "2000\n");
        limit("memory/slice/unit/memory.limit_in_bytes", "3000\n");
        let limits = |groups: &str| limits_of(folder.path(), groups);
        assert_eq!(limits("0::/pod/container\n"), [1_000]);
        assert_eq!(limits("5:cpu,memory:/slice/unit\n4:pids:/slice\n"), [3_000, 2_000]);
        assert_eq!(limits("0::/not/shown/here\nnonsense\n"), [] as [u64; 0]);
    }

    /// What `docs/operating.md` says that memory can grow to.
    #[test]
    fn the_figures_in_the_documentation_are_those_of_the_settings() {
        let page = include_str!("../../../docs/operating.md");
        let says = |what: &str| assert!(page.contains(what), "docs/operating.md is to say: {what}");
        let of = |settings: &str| -> Vec<Part> {
            let mut config = toml::from_str::<Config>(settings).expect("the page has good settings");
            // As many as there are on two cores.
            if config.schemas.processes == 0 {
                config.schemas.processes = 2;
            }
            parts(&config)
        };
        says(&format!("{:.1} GiB with the defaults\non two cores", sum(&of("")) as f64 / (1024.0 * MIB as f64)));
        let (_, small) = page.split_once("**On 1 GiB**").expect("there is a part on small machines");
        let settings = small.split("```").nth(1).and_then(|block| block.strip_prefix("toml")).expect("with settings");
        let small = of(settings);
        let imports = small.iter().filter(|part| part.what.starts_with("imports")).map(|part| part.bytes).sum::<u64>();
        says(&format!("The sum is {} then", shown(sum(&small))));
        says(&format!("{} of that are for imports", shown(imports)));
        says(&format!("it is {}", shown(sum(&small) - imports)));
    }

    #[test]
    fn the_sum_is_that_of_the_parts() {
        let parts = [
            Part::set("tea.cups", "tea", 3 * MIB / 2),
            Part::fixed("cake", MIB),
            Part::fixed("what guests bring", MIB / 2).apart(),
        ];
        let text = as_text(&parts);
        assert!(text.contains("1.5 MiB  tea (tea.cups)\n") && text.ends_with("3.0 MiB  in all, at most\n"), "{text}");
        assert!(text.contains("2.5 MiB  in the server's own process, at most\n"), "{text}");
        let short = in_short(&parts);
        assert!(
            short.starts_with("Memory: 3.0 MiB at most in all, 2.5 MiB of that in the server's own process."),
            "{short}"
        );
    }
}
