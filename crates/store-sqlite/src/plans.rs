//! How SQLite carries out a statement, for tests: a list must walk an index, and never read or sort everything.

use rusqlite::Connection;

/// The steps of a statement on an empty database of the current schema.
pub(crate) fn plan(sql: &str) -> Vec<String> {
    let connection = Connection::open_in_memory().unwrap();
    for migration in crate::migrate::MIGRATIONS {
        connection.execute_batch(migration).unwrap();
    }
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

/// Asserts that a statement walks this index, in whose order it answers, and scans no table.
pub(crate) fn assert_walks(sql: &str, index: &str) {
    let plan = plan(sql);
    assert!(plan.contains(&format!("SEARCH {index}")), "{plan:#?}");
    let costly =
        |step: &String| step.contains("TEMP B-TREE") || (step.starts_with("SCAN") && !step.contains("json_each"));
    assert!(!plan.iter().any(costly), "{plan:#?}");
}
