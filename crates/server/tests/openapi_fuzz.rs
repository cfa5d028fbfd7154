//! The server keeps to its OpenAPI document, whatever it is asked: schemathesis makes requests from it, valid ones, invalid
//! ones, and chains of them along the document's links, and checks each answer.
//!
//! At least `POSTRIDER_FUZZ_REQUESTS` requests are made, 2,000 by default, from seeds that are the same in every run. Where the
//! contract differs from what schemathesis assumes is in `judges/openapi/schemathesis.toml`. `scripts/test` installs it.

use std::path::PathBuf;
use std::time::Duration;

use postrider_testkit::{TestServer, process};
use serde_json::Value;

const FIRST_SEED: u64 = 20_260_801;

/// How long requests are made from one seed. The first phases, without which nothing is judged, take less.
const SECONDS: &str = "100";

/// Beyond this it hangs.
const DEADLINE: Duration = Duration::from_secs(400);

struct Run {
    requests: u64,
    has_passed: bool,
    said: String,
}

async fn run(server: &TestServer, seed: u64) -> Run {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let program = root.join(".cache/judges/schemathesis/bin/schemathesis");
    let folder = root.join("judges/openapi").canonicalize().expect("the judge is there").display().to_string();
    let settings = format!("{folder}/schemathesis.toml");
    let report = server.folder().join(format!("report-{seed}.json"));
    let (url, authorization) =
        (format!("{}/api/v1/openapi.json", server.url()), format!("Authorization: Bearer {}", server.token()));
    let (seed, path) = (seed.to_string(), report.display().to_string());
    let arguments = [
        "--no-color",
        "--config-file",
        &settings,
        "run",
        &url,
        "--header",
        &authorization,
        "--checks=all",
        "--max-time",
        SECONDS,
        "--seed",
        &seed,
        "--report-json-path",
        &path,
    ];
    let finished = process::run_within(
        DEADLINE,
        program,
        &arguments,
        &[("JUDGE_FOLDER", &folder), ("PYTHONDONTWRITEBYTECODE", "1")],
        server.folder(),
    )
    .await;
    let said = format!("{}\n{}", finished.stdout, finished.stderr);
    let report = std::fs::read(report).unwrap_or_else(|error| panic!("there is no report: {error}\n{said}"));
    let report: Value = serde_json::from_slice(&report).expect("the report is JSON");
    let requests = report["test_cases"]["generated"].as_u64().expect("the report tells how many requests there were");
    let is_complete =
        report["operations"]["tested"] == report["operations"]["total"] && report["failures"] == Value::Array(vec![]);
    Run { requests, has_passed: finished.status.success() && is_complete, said }
}

#[tokio::test]
#[ignore = "needs schemathesis: scripts/test installs it and runs this"]
async fn the_server_keeps_to_its_openapi_document() {
    let wanted = std::env::var("POSTRIDER_FUZZ_REQUESTS").map_or(2_000, |number| number.parse().expect("a number"));
    let server = TestServer::builder(env!("CARGO_BIN_EXE_postrider")).start().await;
    let mut made = 0;
    for seed in FIRST_SEED.. {
        let run = run(&server, seed).await;
        assert!(run.has_passed, "seed {seed}:\n{}", run.said);
        assert!(run.requests > 0, "no request was made\n{}", run.said);
        made += run.requests;
        if made >= wanted {
            break;
        }
    }
    println!("{made} requests, and every answer as the OpenAPI document says");
}
