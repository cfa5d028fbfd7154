//! How SQLite carries out a statement, for tests: a list must walk an index, and never read or sort everything; and it must
//! not be compiled again for each block that it reads.

use std::path::Path;

use rusqlite::{Connection, StatementStatus};

/// An empty database of the current schema, set up like a store's.
pub(crate) fn database() -> Connection {
    let connection = crate::open::connect(Path::new(":memory:")).unwrap();
    for migration in crate::engine::migrate::MIGRATIONS {
        connection.execute_batch(migration).unwrap();
    }
    connection
}

/// The steps of a statement.
pub(crate) fn plan(sql: &str) -> Vec<String> {
    let connection = database();
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    for parameter in 1..=statement.parameter_count() {
        statement.raw_bind_parameter(parameter, 1).unwrap();
    }
    let mut rows = statement.raw_query();
    let mut steps = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        steps.push(row.get("detail").unwrap());
    }
    steps
}

/// Asserts that a statement walks this index, in whose order it answers, scans no table, and is compiled once.
pub(crate) fn assert_walks(sql: &str, index: &str) {
    let plan = plan(sql);
    assert!(plan.contains(&format!("SEARCH {index}")), "{plan:#?}");
    let costly =
        |step: &String| step.contains("TEMP B-TREE") || (step.starts_with("SCAN") && !step.contains("json_each"));
    assert!(!plan.iter().any(costly), "{plan:#?}");
    assert_eq!(recompiled(sql), 0, "{sql}");
}

/// How many steps SQLite takes while something is done, in thousands.
pub(crate) fn steps(connection: &mut Connection, work: impl FnOnce(&Connection)) -> usize {
    let counted = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&counted);
    connection
        .progress_handler(
            1_000,
            Some(move || {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                false
            }),
        )
        .unwrap();
    work(connection);
    connection.progress_handler(0, None::<fn() -> bool>).unwrap();
    counted.load(std::sync::atomic::Ordering::Relaxed)
}

/// How often a statement was compiled again when it was asked for one range after the other.
fn recompiled(sql: &str) -> i32 {
    let connection = database();
    let mut statement = connection.prepare(sql).unwrap();
    for turn in 0..3u8 {
        for parameter in 1..=statement.parameter_count() {
            statement.raw_bind_parameter(parameter, [turn; 20]).unwrap();
        }
        // What is asked makes no sense, and may be refused as that; what counts is that it was started.
        let _ = statement.raw_query().next();
    }
    statement.get_status(StatementStatus::RePrepare)
}
