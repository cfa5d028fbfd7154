//! Seeds of the simulation.
//!
//! `POSTRIDER_SIMULATION_SEEDS` says how many are run (300 if it does not), `POSTRIDER_SIMULATION_SEED` runs that one and
//! prints what happened.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use postrider_simulation::{Report, run};

const SEEDS: u64 = 300;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Runs a seed, in memory where there is such a folder: seeds write much, and nothing that anybody keeps.
fn report(seed: u64) -> Report {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder");
    run(seed, folder.path())
}

fn assert_kept(seed: u64, report: &Report) {
    let broken = &report.broken;
    assert!(broken.is_empty(), "seed {seed}: {broken:?}; POSTRIDER_SIMULATION_SEED={seed} shows what happened");
}

#[test]
fn what_is_promised_holds_for_every_seed() {
    if let Some(seed) = number("POSTRIDER_SIMULATION_SEED") {
        let report = report(seed);
        println!("{}", report.trace.join("\n"));
        return assert_kept(seed, &report);
    }
    let seeds = number("POSTRIDER_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let (deliveries, requests) = (AtomicU64::new(0), AtomicU64::new(0));
    let run_some = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let report = report(seed);
            deliveries.fetch_add(report.deliveries as u64, Ordering::Relaxed);
            requests.fetch_add(report.requests as u64, Ordering::Relaxed);
            assert_kept(seed, &report);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(run_some);
        }
    });
    println!("{seeds} seeds: {deliveries:?} deliveries, {requests:?} requests");
}

#[test]
fn a_seed_happens_in_the_same_way_again() {
    for seed in 0..10 {
        assert_eq!(report(seed).trace, report(seed).trace, "seed {seed}");
    }
}
