//! The published SDKs against servers of which they know the URL and a token: they judge whether a user of theirs has to
//! change anything else.
//!
//! The cases are in `judges/`, in each SDK's own language and under the same names. A judge is a program: `--list` prints
//! the names of its cases, and a name runs that case, which ends well only if all that it claims is so. `scripts/test`
//! installs the SDKs and builds the judges, and then runs these tests. Every case has a server of its own.

use std::path::PathBuf;

use postrider_testkit::{TestServer, process};

/// The program of a judge, and what comes before its argument.
struct Judge {
    program: PathBuf,
    script: Option<PathBuf>,
}

impl Judge {
    fn at(program: &str, script: Option<&str>) -> Self {
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let program = if program.contains('/') { root.join(program) } else { program.into() };
        Self { program, script: script.map(|path| root.join(path)) }
    }

    async fn run(&self, argument: &str, settings: &[(&str, &str)]) -> process::Finished {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let script = self.script.as_ref().map(|path| path.display().to_string());
        let arguments: Vec<&str> = script.as_deref().into_iter().chain([argument]).collect();
        process::run(&self.program, &arguments, settings, folder.path()).await
    }

    async fn case(&self, case: &str) {
        let server = TestServer::builder(env!("CARGO_BIN_EXE_postrider")).start().await;
        let (url, token) = (server.url(), server.token());
        let settings =
            [("POSTRIDER_URL", url.as_str()), ("POSTRIDER_TOKEN", token.as_str()), ("PYTHONDONTWRITEBYTECODE", "1")];
        let finished = self.run(case, &settings).await;
        assert!(finished.status.success(), "{}\n{}", finished.stdout, finished.stderr);
        assert_eq!(finished.stdout.trim_end().lines().last(), Some(&*format!("passed: {case}")), "{}", finished.stdout);
    }

    /// What is tested here is what the judge has, so that no case is forgotten.
    async fn has(&self, cases: &[&str]) {
        let finished = self.run("--list", &[("PYTHONDONTWRITEBYTECODE", "1")]).await;
        assert!(finished.status.success(), "{}", finished.stderr);
        let mut cases = cases.to_vec();
        cases.sort_unstable();
        assert_eq!(finished.stdout.lines().collect::<Vec<_>>(), cases);
    }
}

macro_rules! cases {
    ($($case:ident)*) => {
        $(
            #[tokio::test]
            #[ignore = "needs the SDK: scripts/test installs it and runs this"]
            async fn $case() {
                judge().case(stringify!($case)).await;
            }
        )*

        #[tokio::test]
        #[ignore = "needs the SDK: scripts/test installs it and runs this"]
        async fn every_case_of_the_judge_is_run() {
            judge().has(&[$(stringify!($case)),*]).await;
        }
    };
}

/// A module for a judge: with the cases of every judge, and those that only later SDKs can run.
macro_rules! judge {
    ($judge:ident: $program:expr, $script:expr; $($more:ident)*) => {
        mod $judge {
            fn judge() -> super::Judge {
                super::Judge::at($program, $script)
            }
            cases! {
                a_failure_is_retried_and_logged_and_a_resend_is_possible
                a_portal_token_reaches_its_application_only
                a_raw_payload_arrives_as_it_is
                a_secret_is_rotated_and_both_sign
                an_example_is_sent
                applications_are_listed_in_both_directions
                applications_are_managed
                attempted_messages_and_destinations_are_listed
                attempts_are_listed_by_every_filter
                endpoints_are_managed
                errors_are_the_sdks_own
                event_types_and_channels_filter
                event_types_are_managed
                event_types_come_from_an_openapi_document
                headers_are_managed_and_sent
                messages_are_listed_by_every_filter
                operational_webhooks_are_managed_and_arrive
                payloads_are_expunged
                the_same_idempotency_key_is_one_message
                usage_is_counted
                what_failed_is_recovered
                what_is_absent_says_so
                what_is_sent_arrives_and_verifies
                $($more)*
            }
        }
    };
    ($judge:ident: $program:expr, $script:expr) => {
        judge! {
            $judge: $program, $script;
            a_message_waits_until_it_is_to_be_delivered
            environments_are_exported_and_imported
            health_is_told
        }
    };
}

judge!(python_1: ".cache/judges/svix-1/bin/python", Some("judges/python/judge.py"););
judge!(python_2: ".cache/judges/svix-2/bin/python", Some("judges/python/judge.py"));
judge!(javascript: "node", Some("judges/javascript/judge.mjs"));
judge!(go: ".cache/judges/go", None);
judge!(rust: ".cache/judges/rust/debug/judge", None);
