//! `postrider bench` from the outside, against the relay: it needs no other server.

#[expect(dead_code, reason = "the tests of other commands use the rest")]
mod support;

use std::process::Output;

use serde_json::Value;

/// Runs `postrider bench` to its end.
fn bench(arguments: &[&str]) -> Output {
    let mut command = support::postrider();
    // As whoever follows the guides has it; a private server makes its own.
    command.env("POSTRIDER_TOKEN", "sk_of_another_server");
    command.arg("bench").args(arguments).output().expect("the program starts")
}

/// Runs it against the relay with `--json`, and gives what it printed.
fn bench_relay(arguments: &[&str]) -> Value {
    let output = bench(&[&["relay", "--json", "--connections", "8"], arguments].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"))
}

#[test]
fn every_message_reaches_every_endpoint_once() {
    let report = bench_relay(&["--messages", "300", "--warmup", "0s", "--endpoints", "3"]);
    let round = &report["columns"][0]["rounds"][0];
    assert_eq!(report["columns"][0]["name"], "relay");
    assert_eq!((&round["accepted"], &round["delivered"]), (&300.into(), &900.into()));
    assert_eq!((&round["lost"], &round["repeated"], &report["strays"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!((&round["signatures_checked"], &round["signatures_bad"]), (&9.into(), &0.into()));
    assert_eq!(round["errors"], serde_json::json!({}));
    for figure in ["accepted_per_s", "delivered_per_s"] {
        assert!(round[figure].as_f64().unwrap() > 0.0, "{figure}");
    }
    for distribution in ["accept_ms", "end_to_end_ms", "accept_to_receive_ms"] {
        for percentile in ["p50", "p90", "p99", "p999", "max"] {
            assert!(round[distribution][percentile].is_f64(), "{distribution} {percentile}");
        }
    }
}

#[test]
fn a_fixed_rate_is_kept_and_rounds_and_warm_up_are_apart() {
    let report = bench_relay(&["--rate", "200/s", "--duration", "500ms", "--warmup", "100ms", "--rounds", "2"]);
    let rounds = report["columns"][0]["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    for round in rounds {
        assert_eq!((&round["accepted"], &round["unsent"], &round["lost"]), (&100.into(), &0.into(), &0.into()));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_memory_of_the_server_is_reported() {
    let report = bench_relay(&["--messages", "10", "--warmup", "0s"]);
    let server = &report["columns"][0]["rounds"][0]["server"];
    assert!(server["memory_bytes"].as_u64().unwrap() > 500_000, "{server}");
    assert!(server["peak_memory_bytes"].as_u64() >= server["memory_bytes"].as_u64());
}

#[test]
fn people_get_a_table_and_the_progress_stays_out_of_it() {
    let output = bench(&["relay", "--messages", "50", "--warmup", "0s"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("delivered/s") && table.contains("lost / repeated"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colour without a terminal");
    assert!(String::from_utf8(output.stderr).unwrap().contains("relay …"));
}

#[test]
fn a_server_that_is_not_there_is_said_and_is_a_failure() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let output = bench(&["--url", &url, "--messages", "1"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(&format!("can't connect to 127.0.0.1:{port}")), "{error}");
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    for (arguments, reason) in [
        (&["--payload", "10"][..], "--payload must be at least 80"),
        (&["--connections", "0"], "--connections must be at least 1"),
        (&["relay", "--hang", "3"], "the relay stores nothing"),
        (&["--rate", "fast"], "write a number of messages per second"),
        (&["--url", "https://localhost"], "plain http"),
    ] {
        let output = bench(arguments);
        assert!(!output.status.success());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(reason), "{arguments:?}: {error}");
    }
}

#[test]
fn a_filled_store_is_asked_for_its_lists() {
    let output = bench(&["--lists", "100", "--json"]);
    let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    for list in ["messages", "attempted messages", "attempts by endpoint", "destinations", "statistics"] {
        assert!(printed.contains(list), "{list}: {printed}");
    }
}
