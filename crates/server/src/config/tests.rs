//! Settings from every source: what holds, and what is said of what is wrong.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use super::load::{Flag, Problems};
use super::*;

/// Long enough for a secret.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn load_all(toml: &str, environment: &[(&str, &str)], flags: &[Flag]) -> Result<Loaded, Problems> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.toml");
    std::fs::write(&path, toml).unwrap();
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load(Some(&path), environment, flags)
}

fn config(toml: &str, environment: &[(&str, &str)]) -> Config {
    load_all(toml, environment, &[]).unwrap().config
}

fn problems(toml: &str, environment: &[(&str, &str)]) -> Vec<String> {
    load_all(toml, environment, &[]).expect_err(&format!("should be refused: {toml} {environment:?}")).0
}

#[track_caller]
fn problem(toml: &str, environment: &[(&str, &str)]) -> String {
    let problems = problems(toml, environment);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].lines().count(), 1, "{problems:?}");
    problems[0].clone()
}

#[track_caller]
fn names(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "'{part}' in: {text}");
    }
}

#[test]
fn the_environment_overrides_the_file_and_flags_override_both() {
    let environment = [
        ("POSTRIDER_DELIVERY__CONCURRENCY", "7"),
        ("POSTRIDER_DELIVERY__RETRY_SCHEDULE", "[\"5s\",\"5m\"]"),
        ("POSTRIDER_DELIVERY__ALLOW_SUBNETS", "127.0.0.0/8,::1"),
        ("POSTRIDER_AUTH__JWT_SECRET", SECRET),
        ("POSTRIDER_TOKEN", "not for the server"),
    ];
    let toml = "[delivery]\nrequest_timeout = \"5s\"\nconcurrency = 3\nretry_schedule = [\"1s\"]";
    let flag = Flag { setting: "server.listen", flag: "--listen", value: Some("[::1]:1".to_owned()) };
    let loaded = load_all(toml, &environment, &[flag]).unwrap();
    let config = &loaded.config;
    assert_eq!(config.delivery.concurrency, 7);
    assert_eq!(config.delivery.request_timeout.0.as_secs(), 5);
    assert_eq!(config.delivery.retry_schedule.wait_after(2).unwrap().as_secs(), 300);
    assert_eq!(config.delivery.allow_subnets.0.len(), 2);
    assert_eq!(config.server.listen, "[::1]:1");
    assert!(config.auth.jwt_secret.is_some());
    let source = |path: &str| {
        let valued = loaded.values.iter().find(|valued| valued.setting.path() == path).unwrap();
        (valued.source.to_string(), valued.shown().to_string())
    };
    assert_eq!(source("server.listen"), ("flag --listen".to_owned(), "\"[::1]:1\"".to_owned()));
    assert_eq!(source("delivery.concurrency").0, "environment variable POSTRIDER_DELIVERY__CONCURRENCY");
    assert!(source("delivery.request_timeout").0.ends_with("postrider.toml, line 2"));
    assert_eq!(source("delivery.retry_schedule").1, "[\"5s\",\"5m\"]");
    assert_eq!(source("delivery.https_only"), ("default".to_owned(), "false".to_owned()));
    assert_eq!(source("auth.jwt_secret").1, "\"********\"");
    assert!(!format!("{loaded:?}").contains(SECRET));
}

#[test]
fn every_number_and_duration_has_a_range_that_its_default_is_in() {
    for setting in reference() {
        let Some(default) = &setting.default else { continue };
        let value: serde_json::Value = serde_json::from_str(default).unwrap();
        let is_span = |value: &serde_json::Value| {
            value.as_str().is_some_and(|text| text.parse::<postrider_domain::settings::Span>().is_ok())
        };
        let is_measured =
            value.is_number() || is_span(&value) || value.as_array().is_some_and(|items| items.iter().any(is_span));
        assert_eq!(setting.range.is_some(), is_measured, "{}", setting.path());
        assert_eq!(setting.check(&value), Ok(()), "{}", setting.path());
    }
}

#[test]
fn an_empty_blank_or_short_secret_is_refused_with_its_source_and_never_shown() {
    for text in ["", " ", "\t", "                                          "] {
        let problem = problem("", &[("POSTRIDER_AUTH__JWT_SECRET", text)]);
        names(&problem, &["auth.jwt_secret", "blank", "environment variable POSTRIDER_AUTH__JWT_SECRET"]);
    }
    let short = problem("[delivery]\n[auth]\njwt_secret = \"hunter2\"", &[]);
    names(&short, &["auth.jwt_secret", "7 bytes", "32", "postrider.toml, line 3", "allow_short_secret"]);
    names(&problem("[auth]\njwt_secret = \"\"", &[]), &["auth.jwt_secret", "line 2"]);
    for toml in ["[auth]\njwt_secret = 12345", "[auth]\njwt_secret = [\"hunter2\"]", "[auth]\njwt_secret = \"hunter2\""]
    {
        let problem = problem(toml, &[]);
        assert!(!problem.contains("hunter2") && !problem.contains("12345"), "{problem}");
    }
    let with_line_end = format!("{SECRET}\n");
    names(&problem("", &[("POSTRIDER_AUTH__JWT_SECRET", &with_line_end)]), &["U+000A", "line end"]);
}

#[test]
fn a_short_secret_is_taken_if_the_operator_says_so_but_never_a_blank_one() {
    let allowed = [("POSTRIDER_AUTH__ALLOW_SHORT_SECRET", "true"), ("POSTRIDER_AUTH__JWT_SECRET", "hunter2")];
    assert!(config("", &allowed).auth.jwt_secret.is_some());
    assert!(config("[auth]\nallow_short_secret = true\njwt_secret = \"x\"", &[]).auth.jwt_secret.is_some());
    problem("[auth]\nallow_short_secret = true\njwt_secret = \" \"", &[]);
    problem("[auth]\nallow_short_secret = false\njwt_secret = \"x\"", &[]);
}

#[test]
fn an_unknown_setting_is_named_with_its_place_and_the_nearest_real_one() {
    let text = problem("\n[delivery]\nrequest_timout = \"5s\"", &[]);
    names(&text, &["delivery.request_timout", "request_timeout?", "line 3"]);
    names(&problem("[delivry]\n", &[]), &["[delivry]", "delivery?", "line 1"]);
    names(&problem("delivery = 5\n", &[]), &["[delivery]", "section"]);
    for (name, near) in [
        ("POSTRIDER_SERVER__LISTN", "POSTRIDER_SERVER__LISTEN?"),
        ("POSTRIDER_SERVER_LISTEN", "POSTRIDER_SERVER__LISTEN?"),
        ("POSTRIDER__SERVER__LISTEN", "POSTRIDER_SERVER__LISTEN?"),
        ("postrider_server__listen", "POSTRIDER_SERVER__LISTEN?"),
        ("POSTRIDER_AUTH_JWT_SECRET", "POSTRIDER_AUTH__JWT_SECRET?"),
        ("POSTRIDER_LISTEN", "POSTRIDER_SERVER__LISTEN?"),
        ("POSTRIDER_LOG", "postrider config reference"),
    ] {
        names(&problem("", &[(name, "x")]), &[name, near]);
    }
    for name in ["POSTRIDER_FOO", "POSTRIDER_", "POSTRIDER_DEBUG"] {
        let text = problem("", &[(name, "x")]);
        assert!(!text.contains("did you mean"), "{text}");
    }
}

#[test]
fn what_kubernetes_sets_for_a_service_of_our_name_is_no_setting() {
    config(
        "",
        &[
            ("POSTRIDER_SERVICE_HOST", "10.0.0.1"),
            ("POSTRIDER_SERVICE_PORT", "8071"),
            ("POSTRIDER_SERVICE_PORT_HTTP", "8071"),
            ("POSTRIDER_PORT", "tcp://10.0.0.1:8071"),
            ("POSTRIDER_PORT_8071_TCP", "tcp://10.0.0.1:8071"),
            ("POSTRIDER_PORT_8071_TCP_PROTO", "tcp"),
            ("POSTRIDER_PORT_8071_TCP_PORT", "8071"),
            ("POSTRIDER_PORT_8071_TCP_ADDR", "10.0.0.1"),
        ],
    );
    names(&problem("", &[("POSTRIDER_PORT", "8071")]), &["POSTRIDER_PORT"]);
}

#[test]
fn a_malformed_value_is_named_with_its_place() {
    names(&problem("[delivery]\nrequest_timeout = \"5 parsecs\"", &[]), &["postrider.toml", "line 2", "5 parsecs"]);
    names(&problem("[delivery]\nrequest_timeout = 5", &[]), &["line 2", "unit"]);
    names(&problem("", &[("POSTRIDER_DELIVERY__CONCURRENCY", "many")]), &["POSTRIDER_DELIVERY__CONCURRENCY", "many"]);
    names(&problem("", &[("POSTRIDER_DELIVERY__HTTPS_ONLY", "perhaps")]), &["POSTRIDER_DELIVERY__HTTPS_ONLY"]);
    names(&problem("[delivery\n", &[]), &["line 1"]);
}

#[test]
fn a_value_out_of_its_range_is_refused_with_the_range() {
    names(
        &problem("[delivery]\nrequest_timeout = \"0s\"", &[]),
        &["delivery.request_timeout", "10ms to 10m", "line 2"],
    );
    names(&problem("[delivery]\nconcurrency = 0", &[]), &["delivery.concurrency", "1 to 10000", "line 2"]);
    names(&problem("[delivery]\nconcurrency = -1", &[]), &["1 to 10000"]);
    let environment = [("POSTRIDER_DELIVERY__MEMORY_BYTES", "99999999999999999999")];
    names(&problem("", &environment), &["delivery.memory_bytes", "POSTRIDER_DELIVERY__MEMORY_BYTES"]);
    names(&problem("", &[("POSTRIDER_DELIVERY__RETRY_SCHEDULE", "1s,31d")]), &["0s to 30d"]);
}

#[test]
fn a_blank_value_is_refused_whatever_the_setting_and_an_empty_list_is_written_so() {
    for setting in reference() {
        for blank in ["", " ", "\u{2003}"] {
            let name = variable(&setting);
            names(&problem("", &[(&name, blank)]), &[&name, "blank"]);
        }
    }
    let schedule = |text| config("", &[("POSTRIDER_DELIVERY__RETRY_SCHEDULE", text)]).delivery.retry_schedule;
    assert_eq!(schedule("[]").wait_after(1), None);
    for text in [",", "1s,", "1s,,1s", "[\"\"]"] {
        names(&problem("", &[("POSTRIDER_DELIVERY__RETRY_SCHEDULE", text)]), &["blank"]);
    }
}

#[test]
fn a_value_with_a_line_end_or_a_control_character_is_refused_whatever_the_setting() {
    for setting in reference() {
        for bad in ["info\n", "info\r\n", "in\u{0}fo", "\u{feff}info", " info", "info\u{7f}"] {
            let name = variable(&setting);
            names(&problem("", &[(&name, bad)]), &[&name]);
        }
    }
}

#[test]
fn a_level_that_would_log_nothing_is_refused() {
    for level in
        ["verbose", "off", "inf", "info,verbose", "info,postrider_delivry=debug", "info,postrider=loud", "=info", "3"]
    {
        names(&problem("", &[("POSTRIDER_LOG__LEVEL", level)]), &["log.level", "POSTRIDER_LOG__LEVEL"]);
    }
    for level in ["info", "WARN", "info,postrider_delivery=debug", "postrider_delivery::lane=trace", "debug,hyper=off"]
    {
        config("", &[("POSTRIDER_LOG__LEVEL", level)]);
    }
}

#[test]
fn a_level_is_that_of_our_own_crates_and_of_libraries_that_are_named() {
    for (level, want) in [
        ("info", "postrider=info,error"),
        ("WARN", "postrider=warn,error"),
        ("info,postrider_delivery=debug", "postrider_delivery=debug,postrider=info,error"),
        ("postrider=debug", "postrider=debug,error"),
        ("warn,h2=info", "postrider=warn,h2=info,error"),
        ("debug", "debug"),
        ("Trace,hyper=off", "hyper=off,trace"),
    ] {
        assert_eq!(super::log_filter(level).unwrap().to_string(), want, "{level}");
    }
}

#[test]
fn a_public_url_must_be_one_that_links_can_be_made_of() {
    for url in [
        "hooks.example.com",
        "ftp://example.com",
        "https://",
        "https://me:secret@example.com",
        "https://a.example/?b=c",
    ] {
        names(
            &problem("", &[("POSTRIDER_SERVER__PUBLIC_URL", url)]),
            &["server.public_url", "https://hooks.example.com"],
        );
    }
    config("", &[("POSTRIDER_SERVER__PUBLIC_URL", "https://hooks.example.com/prefix")]);
}

#[test]
fn an_address_to_listen_on_has_a_host_and_a_port() {
    for address in [
        "nonsense",
        "127.0.0.1",
        "127.0.0.1:70000",
        ":8071",
        "localhost:http",
        "[::1:8071",
        "::1]:8071",
        "::1:8071",
        "[localhost]:8071",
        "127.0.0.300:8071",
        "127.0.0.1 :8071",
        "a/b:8071",
    ] {
        names(&problem("", &[("POSTRIDER_SERVER__LISTEN", address)]), &["server.listen"]);
    }
    for address in ["localhost:8071", "[::]:0", "[::1]:8071", "0.0.0.0:8071", "hooks.example.com:80"] {
        config("", &[("POSTRIDER_SERVER__LISTEN", address)]);
    }
}

#[test]
fn every_problem_is_found_at_once() {
    let found = problems(
        "[delivery]\nconcurrency = 0\nnonsense = 1\n[auth]\njwt_secret = \"x\"",
        &[("POSTRIDER_LOG__LEVEL", "loud"), ("POSTRIDER_SERVER_LISTEN", "x")],
    );
    assert_eq!(found.len(), 5, "{found:#?}");
    let first = Problems(found).to_string();
    names(&first, &["and 4 more", "postrider config check"]);
    assert_eq!(first.lines().count(), 1);
}

#[test]
fn a_variable_that_is_not_utf8_matters_only_if_it_is_ours() {
    let bad = || OsString::from_vec(vec![b'a', 0xff]);
    load(None, [(bad(), bad()), (OsString::from("LANG"), bad())].into_iter(), &[]).unwrap();
    for name in ["POSTRIDER_LOG__LEVEL", "POSTRIDER_TOKEN"] {
        let problems = load(None, [(OsString::from(name), bad())].into_iter(), &[]).unwrap_err();
        names(&problems.to_string(), &[name, "UTF-8"]);
    }
    let name = OsString::from_vec(b"POSTRIDER_\xff".to_vec());
    let problems = load(None, [(name, OsString::from("x"))].into_iter(), &[]).unwrap_err();
    names(&problems.to_string(), &["POSTRIDER_"]);
}

#[test]
fn a_file_that_never_ends_is_not_read_to_its_end() {
    let problems = load(Some(Path::new("/dev/zero")), std::iter::empty(), &[]).unwrap_err();
    names(&problems.to_string(), &["/dev/zero", "1 MiB"]);
}

#[test]
fn ports_are_numbers_and_ranges_in_a_list_or_as_text() {
    let from_text = |text| config("", &[("POSTRIDER_DELIVERY__ALLOW_PORTS", text)]).delivery.allow_ports;
    let from_file = config("[delivery]\nallow_ports = [25, \"6000-6063\"]", &[]).delivery.allow_ports;
    assert_eq!(from_file.0.len(), 2);
    assert!(from_text("25,6000-6063") == from_file && from_text("[25, \"6000-6063\"]") == from_file);
    names(&problem("", &[("POSTRIDER_DELIVERY__ALLOW_PORTS", "25,")]), &["POSTRIDER_DELIVERY__ALLOW_PORTS", "blank"]);
    names(&problem("[delivery]\nallow_ports = [70000]", &[]), &["allow_ports", "'70000'", "neither a port"]);
    names(&problem("[delivery]\nallow_ports = true", &[]), &["allow_ports", "[8080, \"6000-6063\"]"]);
}

#[test]
fn what_is_of_the_wrong_kind_is_said_without_names_of_types() {
    names(&problem("[schemas]\nprocesses = true", &[]), &["schemas.processes", "expected a number"]);
    names(&problem("[auth]\nallow_short_secret = \"maybe\"", &[]), &["allow_short_secret", "expected true or false"]);
}

#[test]
fn only_sqlite_urls_name_a_store() {
    assert_eq!(sqlite_path("sqlite:///var/lib/p.db").unwrap(), Path::new("/var/lib/p.db"));
    assert_eq!(sqlite_path("sqlite://p.db").unwrap(), Path::new("p.db"));
    for url in [
        "p.db",
        "sqlite://",
        "postgres://localhost/p",
        "",
        "sqlite::memory:",
        "sqlite://:memory:",
        "sqlite://p.db?mode=memory",
        "sqlite://p.db?",
    ] {
        assert!(sqlite_path(url).is_err(), "{url}");
    }
}

#[test]
fn one_address_has_its_part_of_however_many_connections_there_are() {
    let options = |all, each| ServerOptions {
        max_connections: all,
        max_connections_per_address: each,
        ..ServerOptions::default()
    };
    for (all, each, left, part) in [
        (2_048, None, 2_048, 1_024),
        (500, None, 500, 250),
        (2_048, None, 989, 494),
        (1, None, 1, 1),
        (2_048, Some(512), 1_024, 256),
        (2_048, Some(1), 16, 1),
        // On purpose.
        (2_048, Some(2_048), 989, 989),
        (500, Some(1_024), 500, 500),
    ] {
        assert_eq!(options(all, each).most_per_address(left), part, "{each:?} of {all}, {left} are left");
    }
}

#[test]
fn a_key_that_is_there_twice_is_named() {
    names(
        &problem("[server]\nthreads = 1\n[server]\nthreads = 2\n", &[]),
        &["line 3", "server", "a second time", "merge"],
    );
    names(&problem("[server]\nthreads = 1\nthreads = 2\n", &[]), &["line 3", "threads", "a second time"]);
}

#[test]
fn a_setting_outside_of_all_sections_is_told_where_it_belongs() {
    names(&problem("listen = \"[::1]:1\"\n", &[]), &["line 1", "did you mean [server] listen?"]);
    names(&problem("delivery = 1\n", &[]), &["[delivery] must be a section"]);
}

#[test]
fn the_format_of_the_log_may_be_in_any_case_as_its_level() {
    assert_eq!(config("[log]\nformat = \"JSON\"\nlevel = \"WARN\"", &[]).log.format, LogFormat::Json);
    names(&problem("[log]\nformat = \"xml\"", &[]), &["log.format", "text or json", "xml"]);
}

/// What a user who is not root would see.
#[test]
fn settings_that_may_not_be_read_say_whose_they_are() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("postrider.toml");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o240)).unwrap();
    let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    names(&load::why_unread(&path, None, &denied), &["belongs to the user", "0240", "may not read it"]);
    let hidden = folder.path().join("none/postrider.toml");
    names(&load::why_unread(&hidden, None, &denied), &["may not enter this folder", "--config"]);
    names(&load::why_unread(&hidden, Some(&hidden), &denied), &["may not enter its folder"]);
}
