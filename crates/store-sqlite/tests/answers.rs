//! What a request with an idempotency key costs, beside as many remembered answers as there may be. Measures, and asserts
//! nothing: `cargo test --workspace --test answers -- --ignored --nocapture`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "it measures real time, and shows it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use postrider_domain::application::{Application, EnvironmentId};
use postrider_domain::entropy::{Entropy as _, SeededEntropy};
use postrider_domain::ids::ApplicationId;
use postrider_domain::time::Timestamp;
use postrider_store::{Applications as _, IdempotencyKey, Once, Owner, Store as _, StoredAnswer, Work as _};
use postrider_store_sqlite::{Ownership, SqliteStore};

const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

/// Requests of a kind that are measured.
const REQUESTS: usize = 2_000;

struct Measure<'a> {
    store: &'a SqliteStore,
    entropy: SeededEntropy,
}

impl Measure<'_> {
    /// Creates applications, one after the other; prints how long that took.
    async fn create(&self, label: &str, keyed: bool) {
        let mut took = Vec::with_capacity(REQUESTS);
        for _ in 0..REQUESTS {
            let application = Application {
                id: ApplicationId::new(NOW, &self.entropy),
                uid: None,
                name: "a".to_owned(),
                throttle_rate: None,
                metadata: BTreeMap::new(),
                created_at: NOW,
                updated_at: NOW,
            };
            let mut key = [0; 16];
            self.entropy.fill(&mut key);
            let once = keyed.then(|| Once {
                key: IdempotencyKey(key),
                owner: Owner::Operator(EnvironmentId::default_environment()),
                most: u64::MAX,
                not_before: NOW.saturating_sub(Duration::from_secs(12 * 3_600)),
                answer: Box::new(|_: &_| StoredAnswer { status: 201, body: Bytes::from(vec![b'a'; 300]) }),
            });
            let began = Instant::now();
            self.store.create_application(&EnvironmentId::default_environment(), application, once).await.unwrap();
            took.push(began.elapsed());
        }
        took.sort_unstable();
        println!("{label:<40} p50 {:>9.3?}  p99 {:>9.3?}", took[REQUESTS / 2], took[REQUESTS * 99 / 100]);
    }
}

/// Stores answers of the default environment's operator, past the store.
fn fill(path: &Path, count: u32, bytes: u32) {
    let connection = rusqlite::Connection::open(path).unwrap();
    let sql = format!(
        "BEGIN;
         CREATE TEMP TABLE filled AS
             WITH RECURSIVE more(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM more WHERE number < {count})
             SELECT (SELECT coalesce(max(no), 0) FROM answer) + number AS no, randomblob(16) AS key FROM more;
         INSERT INTO answer (no, owner, key, created_at, status, body)
             SELECT no, -1, key, {}, 201, randomblob({bytes}) FROM filled ORDER BY no;
         INSERT INTO answer_key (owner, key, answer_no) SELECT -1, key, no FROM filled ORDER BY key;
         INSERT INTO answer_room VALUES (-1, 490923, {count} * ({bytes} + 128))
             ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
         DROP TABLE filled;
         COMMIT",
        NOW.as_micros()
    );
    connection.execute_batch(&sql).unwrap();
}

#[tokio::test]
#[ignore = "a measurement"]
async fn what_a_keyed_request_costs_beside_a_gibibyte_of_answers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.db");
    let store = SqliteStore::open(&path, Ownership::Owner).unwrap();
    let measure = Measure { store: &store, entropy: SeededEntropy::new(7) };
    measure.create("no key", false).await;
    measure.create("keys, no answers", true).await;
    for _ in 0..10 {
        fill(&path, 100, 512 * 1_024);
        fill(&path, 100_000, 400);
    }
    measure.create("no key, 1 GiB of answers", false).await;
    measure.create("keys, 1 GiB of answers", true).await;
    let (began, mut slices, mut longest) = (Instant::now(), 0, Duration::ZERO);
    loop {
        let slice = Instant::now();
        let more = store.forget_keys(NOW.saturating_add(Duration::from_secs(1)), 500).await.unwrap();
        longest = longest.max(slice.elapsed());
        slices += 1;
        if !more {
            break;
        }
    }
    println!("forgetting all of it: {slices} slices in {:.3?}, the longest {longest:.3?}", began.elapsed());
    measure.create("keys, when they are forgotten", true).await;
    store.close().await;
}
