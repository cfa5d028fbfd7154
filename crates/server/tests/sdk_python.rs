//! The published Python SDK and its verifiers, against a server of which they only know the URL.
//!
//! The cases are in `python/sdk_test.py`. They need a Python that has the packages of `scripts/requirements.txt`; its path
//! is in `POSTRIDER_TEST_PYTHON`. `scripts/test` sets both up.

use postrider_testkit::{TestServer, process};

/// Runs one case of the Python test.
async fn python(case: &str) {
    let python = std::env::var("POSTRIDER_TEST_PYTHON").expect("POSTRIDER_TEST_PYTHON names a Python that has the SDK");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/sdk_test.py");
    let server = TestServer::builder(env!("CARGO_BIN_EXE_postrider")).start().await;
    let (url, token) = (server.url(), server.token());
    let settings = [("POSTRIDER_URL", url.as_str()), ("POSTRIDER_TOKEN", token.as_str())];
    let case = format!("SdkTest.{case}");
    let finished = process::run(python, &["-B", script, "-v", &case], &settings, server.folder()).await;
    assert!(finished.status.success(), "{}\n{}", finished.stdout, finished.stderr);
    assert!(finished.stderr.contains("Ran 1 test"), "{}", finished.stderr);
}

macro_rules! cases {
    ($($case:ident)*) => {
        $(
            #[tokio::test]
            #[ignore = "needs Python with the SDK: scripts/test sets it up and runs this"]
            async fn $case() {
                python(concat!("test_", stringify!($case))).await;
            }
        )*
    };
}

cases! {
    what_is_sent_arrives_and_verifies
    a_raw_payload_arrives_as_it_is
    a_failure_is_retried_and_logged_and_a_resend_is_possible
    a_secret_is_rotated_and_both_sign
    event_types_and_channels_filter
    applications_and_endpoints_are_managed
    errors_are_the_sdks_own
    the_same_idempotency_key_is_one_message
}
