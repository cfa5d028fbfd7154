//! The power goes, again and again: what was not synced is lost, sector by sector, and nothing that was acked with it.
//!
//! How many times is said by `POSTRIDER_POWER_CUTS`; `scripts/test` says 50. With `synchronous = NORMAL` instead of `FULL` the store
//! does not pass.

use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;

use postrider_testkit::{Disk, Plan, random};

use crate::world::{World, server};

/// The power goes at one of so many writes after a start.
const WRITES: f64 = 1_500.0;

fn cuts() -> u64 {
    match std::env::var("POSTRIDER_POWER_CUTS") {
        Ok(text) => text.parse().expect("POSTRIDER_POWER_CUTS is a number"),
        Err(_) => 5,
    }
}

/// Runs until the power goes, and loses what was not synced, but for a part that was written all the same. Returns how many
/// sectors were lost.
async fn cut(world: &mut World, disk: &Disk, plan: Plan, kept: f64) -> usize {
    disk.plan(plan);
    world.server.try_start().await;
    let ended = world.server.ended().await;
    assert_eq!(ended.signal(), Some(9), "the power went{}", world.server.log());
    disk.lose(|| random::unit() < kept)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_power_goes_again_and_again_under_load_nothing_acked_is_lost() {
    let (cuts, disk) = (cuts(), Disk::new());
    let mut world = World::begin(disk.under(server()).start().await).await;
    world.server.kill().await;
    let (mut lost, mut replayed) = (0, Vec::new());
    for number in 0..cuts {
        if number == cuts / 2 {
            disk.plan(Plan::default());
            world.server.start().await;
            world.add_endpoint("replayed").await;
            replayed.push("replayed".to_owned());
            world.server.kill().await;
        }
        let cut_at = Some(1 + (random::unit() * WRITES) as u64);
        lost += cut(&mut world, &disk, Plan { cut_at, ..Plan::default() }, [0.0, 0.5, 0.9][number as usize % 3]).await;
    }
    disk.plan(Plan::default());
    world.server.start().await;
    let said = world.end(cuts + 2, &replayed).await;
    let _ = writeln!(std::io::stderr(), "{cuts} times without power: {lost} sectors lost, {said}");
}

/// Shows that the test above would notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_disk_that_says_it_has_synced_and_has_not_messages_are_lost() {
    let disk = Disk::new();
    let mut world = World::begin(disk.under(server()).start().await).await;
    world.server.kill().await;
    let lost = cut(&mut world, &disk, Plan { cut_at: Some(3_000), lies: true, ..Plan::default() }, 0.0).await;
    disk.plan(Plan::default());
    world.server.start().await;
    let forgotten = world.forgotten().await;
    assert!(lost > 0 && forgotten > 0, "{lost} sectors lost, {forgotten} messages forgotten");
}
