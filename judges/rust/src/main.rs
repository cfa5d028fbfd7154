//! The published Rust SDK against a server: only the server's URL is not the SDK's own.
//!
//! `judge --list` prints the names of the cases, `judge CASE` runs one, and `passed: CASE` is printed if all that it claims
//! is so. The server's URL is in `POSTRIDER_URL`, a token for an empty environment in `POSTRIDER_TOKEN`.

mod deliveries;
mod environment;
mod history;
mod managed;
mod support;

macro_rules! cases {
    ($($group:ident: $($case:ident)*;)*) => {
        const CASES: &[&str] = &[$($(stringify!($case)),*),*];

        async fn run(case: &str) {
            match case {
                $($(stringify!($case) => $group::$case().await,)*)*
                _ => panic!("there is no case {case}"),
            }
        }
    };
}

cases! {
    deliveries:
        a_failure_is_retried_and_logged_and_a_resend_is_possible
        a_raw_payload_arrives_as_it_is
        a_secret_is_rotated_and_both_sign
        an_example_is_sent
        event_types_and_channels_filter
        the_same_idempotency_key_is_one_message
        what_is_sent_arrives_and_verifies;
    environment:
        a_portal_token_reaches_its_application_only
        environments_are_exported_and_imported
        errors_are_the_sdks_own
        health_is_told
        operational_webhooks_are_managed_and_arrive
        what_is_absent_says_so;
    history:
        a_message_waits_until_it_is_to_be_delivered
        attempted_messages_and_destinations_are_listed
        attempts_are_listed_by_every_filter
        messages_are_listed_by_every_filter
        payloads_are_expunged
        usage_is_counted
        what_failed_is_recovered;
    managed:
        applications_are_listed_in_both_directions
        applications_are_managed
        endpoints_are_managed
        event_types_are_managed
        event_types_come_from_an_openapi_document
        headers_are_managed_and_sent;
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let argument = std::env::args().nth(1).expect("--list or the name of a case");
    if argument == "--list" {
        let mut cases = CASES.to_vec();
        cases.sort_unstable();
        return println!("{}", cases.join("\n"));
    }
    run(&argument).await;
    println!("passed: {argument}");
}
