//! The bounds of what is accepted: each member just at its bound and just beyond it, on every road that leads in; and the
//! document, in which nothing is without a bound.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value, json};

use crate::world::{Extras, World, app_token, id};

const URL: &str = "https://example.com/hook";

#[tokio::test]
async fn a_url_that_grows_beyond_the_bound_is_refused_on_every_road_and_one_that_fits_stays_usable() {
    let world = World::new();
    let app = world.app("shop").await;
    let endpoint = world.endpoint(&app, "main").await;
    let path = format!("/app/{app}/endpoint");
    let grown = json!({ "url": format!("http://h.example/{}", "ü".repeat(900)) });
    assert_eq!(world.post(&path, grown.clone()).await.invalid(), ["body.url"]);
    assert_eq!(world.send("PUT", &format!("{path}/{endpoint}"), grown.clone()).await.invalid(), ["body.url"]);
    assert_eq!(world.send("PATCH", &format!("{path}/{endpoint}"), grown.clone()).await.invalid(), ["body.url"]);
    assert_eq!(world.post("/operational-webhook/endpoint", grown).await.invalid(), ["body.url"]);
    // 17 bytes before, and six for each.
    let longest = json!({ "url": format!("http://h.example/{}", "ü".repeat((2_048 - 17) / 6)) });
    let made = id(&world.post(&path, longest).await.expect(201));
    world.get(&format!("{path}/{made}")).await.expect(200);
    world.get(&path).await.expect(200);
    world.message(&app, "a").await;
    world.delete(&format!("{path}/{made}")).await.expect(204);
    world.close().await;
}

#[tokio::test]
async fn headers_have_a_number_a_size_and_one_spelling_each() {
    let world = World::new();
    let app = world.app("shop").await;
    let endpoint = world.endpoint(&app, "main").await;
    let (path, create) = (format!("/app/{app}/endpoint/{endpoint}/headers"), format!("/app/{app}/endpoint"));
    let many = |count: usize, value: &str| -> Value {
        (0..count).map(|at| (format!("x-{at:03}"), json!(value))).collect::<Map<_, _>>().into()
    };
    for (headers, is_good) in [
        (many(50, "1"), true),
        (many(51, "1"), false),
        (many(24_569, ""), false),
        (many(4, &"v".repeat(4_091)), true),
        (many(4, &"v".repeat(4_092)), false),
        (json!({ "x": "v".repeat(4_097) }), false),
        (json!({ ("x".repeat(257)): "" }), false),
        (json!({ "X-A": "1", "x-a": "2" }), false),
        (json!({ "Host": "not a host" }), false),
    ] {
        let created = world.post(&create, json!({ "url": URL, "headers": headers })).await;
        let replaced = world.send("PUT", &path, json!({ "headers": headers })).await;
        if is_good {
            created.expect(201);
            replaced.expect(204);
        } else {
            assert!(created.invalid().iter().all(|place| place.starts_with("body.headers")));
            assert!(replaced.invalid().iter().all(|place| place.starts_with("body.headers")));
        }
    }
    // What is there counts too.
    world.send("PUT", &path, json!({ "headers": many(50, "1") })).await.expect(204);
    let one_more = world.send("PATCH", &path, json!({ "headers": { "y": "1" } })).await;
    assert_eq!(one_more.invalid(), ["body.headers"]);
    let in_place = json!({ "headers": { "y": "1", "X-000": null } });
    world.send("PATCH", &path, in_place).await.expect(204);
    let too_many = json!({ "headers": {}, "deleteHeaders": vec!["x"; 101] });
    assert_eq!(world.send("PATCH", &path, too_many).await.invalid(), ["body.deleteHeaders"]);
    world.close().await;
}

#[tokio::test]
async fn a_header_in_another_case_is_the_same_header() {
    let world = World::new();
    let app = world.app("shop").await;
    let endpoint = world.endpoint(&app, "main").await;
    let path = format!("/app/{app}/endpoint/{endpoint}/headers");
    let shown = async || world.get(&path).await.expect(200);
    let set = |headers: Value| json!({ "headers": headers });
    world.send("PUT", &path, set(json!({ "Authorization": "old", "X-A": "1" }))).await.expect(204);
    world.send("PATCH", &path, set(json!({ "AUTHORIZATION": "new" }))).await.expect(204);
    assert_eq!(shown().await, json!({ "headers": { "X-A": "1" }, "sensitive": ["AUTHORIZATION"] }));
    world.send("PATCH", &path, set(json!({ "authorization": null }))).await.expect(204);
    assert_eq!(shown().await, json!({ "headers": { "X-A": "1" }, "sensitive": [] }));
    world.send("PATCH", &path, json!({ "headers": {}, "deleteHeaders": ["x-a"] })).await.expect(204);
    assert_eq!(shown().await, json!({ "headers": {}, "sensitive": [] }));
    // What is removed and set is set, in whatever case.
    let both = json!({ "headers": { "X-B": "1" }, "deleteHeaders": ["x-b"] });
    world.send("PATCH", &path, both).await.expect(204);
    assert_eq!(shown().await["headers"], json!({ "X-B": "1" }));
    for twice in [json!({ "X-C": "1", "x-c": "2" }), json!({ "X-C": "1", "x-c": null })] {
        assert_eq!(world.send("PATCH", &path, set(twice)).await.invalid(), ["body.headers.x-c"]);
    }
    world.close().await;
}

#[tokio::test]
async fn a_step_in_a_path_is_no_name_on_any_road() {
    let world = World::new();
    let app = world.app("shop").await;
    let endpoint = world.endpoint(&app, "main").await;
    let (one, of_app) = (format!("/app/{app}/endpoint/{endpoint}"), format!("/app/{app}"));
    for step in [".", ".."] {
        for (method, path, body, place) in [
            ("POST", "/app", json!({ "name": "a", "uid": step }), "body.uid"),
            ("PUT", &*of_app, json!({ "name": "a", "uid": step }), "body.uid"),
            ("PATCH", &*of_app, json!({ "uid": step }), "body.uid"),
            ("PUT", "/app/none", json!({ "name": "a", "uid": step }), "body.uid"),
            ("POST", &*format!("{of_app}/endpoint"), json!({ "url": URL, "uid": step }), "body.uid"),
            ("POST", "/operational-webhook/endpoint", json!({ "url": URL, "uid": step }), "body.uid"),
            ("PUT", &*one, json!({ "url": URL, "uid": step }), "body.uid"),
            ("PATCH", &*one, json!({ "uid": step }), "body.uid"),
            ("PATCH", &*one, json!({ "channels": [step] }), "body.channels.[0]"),
            ("PATCH", &*one, json!({ "eventTypes": [step] }), "body.eventTypes.[0]"),
            ("PUT", &*format!("/event-type/{step}"), json!({ "description": "" }), "path.event_type_name"),
            ("POST", "/event-type", json!({ "name": step, "description": "" }), "body.name"),
            (
                "POST",
                "/environment/import",
                json!({ "eventTypes": [{ "name": step, "description": "" }] }),
                "body.eventTypes.[0].name",
            ),
            ("POST", &*format!("{of_app}/msg"), json!({ "eventType": step, "payload": {} }), "body.eventType"),
            (
                "POST",
                &*format!("{of_app}/msg"),
                json!({ "eventType": "a", "payload": {}, "eventId": step }),
                "body.eventId",
            ),
            (
                "POST",
                &*format!("{of_app}/msg"),
                json!({ "eventType": "a", "payload": {}, "tags": [step] }),
                "body.tags.[0]",
            ),
            (
                "POST",
                &*format!("{of_app}/msg"),
                json!({ "eventType": "a", "payload": {}, "channels": [step] }),
                "body.channels.[0]",
            ),
            (
                "POST",
                "/app/none/msg",
                json!({ "eventType": "a", "payload": {}, "application": { "name": "a", "uid": step } }),
                "body.application.uid",
            ),
            (
                "POST",
                &*format!("/app/{step}/msg"),
                json!({ "eventType": "a", "payload": {} }),
                "path.app_id_or_uid.__all__",
            ),
            (
                "POST",
                &*format!("{of_app}/poller/main/consumer/{step}/seek"),
                json!({ "after": "2026-01-01T00:00:00Z" }),
                "path.consumer_id",
            ),
        ] {
            assert_eq!(world.send(method, path, body).await.invalid(), [place], "{method} {path}");
        }
        let items = json!([{ "eventType": "a", "payload": {}, "eventId": step }]);
        let batch = world.post(&format!("{of_app}/msg/batch"), items).await;
        assert_eq!(batch.expect(202)["data"][0]["status"], 422);
        let spec = json!({ "openapi": "3.1.0", "webhooks": { (step): { "post": {} } } });
        assert_eq!(
            world.post("/event-type/import/openapi", json!({ "spec": spec })).await.invalid(),
            [format!("body.spec.webhooks.{step}")]
        );
    }
    world.close().await;
}

#[tokio::test]
async fn what_a_client_makes_of_a_path_with_steps_removes_and_changes_nothing() {
    let world = World::new();
    let app = world.app("demo").await;
    world.endpoint(&app, "main").await;
    for (method, path) in [
        ("DELETE", "/app/demo/"),
        ("DELETE", "/app/demo//"),
        ("DELETE", "/app/demo/endpoint/"),
        ("DELETE", "/app/demo/endpoint/.."),
        ("DELETE", "/app/demo/endpoint/%2e%2e"),
        ("DELETE", "/app/demo/endpoint/main/"),
        ("DELETE", "/app/demo/endpoint//"),
        ("PATCH", "/app/demo/"),
        ("PUT", "/app/demo/"),
        ("PUT", "/app/.."),
    ] {
        world.send(method, path, json!({ "name": "changed" })).await.refused(400, "ambiguous_path");
    }
    assert_eq!(world.get("/app/demo").await.expect(200)["name"], "demo");
    // Elsewhere a slash at the end means nothing.
    world.get("/app/demo/").await.expect(200);
    world.post("/app/demo/msg/", json!({ "eventType": "a", "payload": {} })).await.expect(202);
    world.delete("/app/demo/endpoint/main").await.expect(204);
    world.delete("/app/demo").await.expect(204);
    world.close().await;
}

#[tokio::test]
async fn a_password_in_a_url_is_shown_to_nobody() {
    let world = World::new();
    let app = world.app("shop").await;
    let path = format!("/app/{app}/endpoint");
    let url = "https://user:swordfish@example.com/hook";
    let made = world.post(&path, json!({ "url": url, "uid": "main" })).await.expect(201);
    assert_eq!(made["url"], URL);
    let own = json!({ "url": url, "uid": "own", "headers": { "AUTHORIZATION": "Bearer x" } });
    world.post(&path, own).await.expect(201);
    let headers = async |endpoint: &str| world.get(&format!("{path}/{endpoint}/headers")).await.expect(200);
    assert_eq!(headers("main").await, json!({ "headers": {}, "sensitive": ["Authorization"] }));
    assert_eq!(headers("own").await, json!({ "headers": {}, "sensitive": ["AUTHORIZATION"] }));
    for (method, body) in [("PATCH", json!({ "url": url })), ("PUT", json!({ "url": url, "uid": "main" }))] {
        let changed = world.send(method, &format!("{path}/main"), body).await.expect(200);
        assert_eq!(changed["url"], URL);
    }
    let endpoint = id(&made);
    let message = world.message(&app, "a").await;
    world.attempt(&app, &endpoint, &message, 200, b"ok").await;
    let reader = app_token(&app, &[]);
    for path in [
        path.clone(),
        format!("{path}/main"),
        format!("{path}/main/headers"),
        format!("/app/{app}/attempt/endpoint/main"),
        format!("/app/{app}/attempt/msg/{message}"),
        format!("/app/{app}/msg/{message}/endpoint"),
    ] {
        let answer = world.send_as(&reader, "GET", &path, None).await;
        answer.expect(200);
        assert!(!answer.text.contains("swordfish") && !answer.text.contains("user"), "{path}: {}", answer.text);
    }
    world.close().await;
}

#[tokio::test]
async fn members_are_accepted_at_their_bound_and_refused_beyond_it() {
    let world = World::new();
    let app = world.app("shop").await;
    let (endpoints, types) = (format!("/app/{app}/endpoint"), "/event-type");
    let pairs =
        |count: usize| -> Value { (0..count).map(|at| (at.to_string(), json!(""))).collect::<Map<_, _>>().into() };
    let made_names = AtomicUsize::new(0);
    let versions =
        |count: usize| -> Value { (0..count).map(|at| (at.to_string(), json!({}))).collect::<Map<_, _>>().into() };
    let names = |count: usize| -> Value { (0..count).map(|at| json!(format!("t{at}"))).collect() };
    world.post("/environment/import", json!({ "eventTypes": (0..1_001).map(|at| json!({ "name": format!("t{at}"), "description": "" })).collect::<Vec<_>>() })).await.expect(204);
    for (path, member, good, bad) in [
        ("/app", "name", json!("ü".repeat(1_024)), json!("n".repeat(1_025))),
        ("/app", "uid", json!("u".repeat(256)), json!("u".repeat(257))),
        ("/app", "metadata", pairs(100), pairs(101)),
        ("/app", "metadata", json!({ ("k".repeat(256)): "" }), json!({ ("k".repeat(257)): "" })),
        ("/app", "metadata", json!({ "k": "v".repeat(4_088) }), json!({ "k": "v".repeat(4_089) })),
        (&*endpoints, "description", json!("ü".repeat(4_096)), json!("d".repeat(4_097))),
        (&*endpoints, "metadata", pairs(100), pairs(101)),
        (&*endpoints, "channels", names(10), names(11)),
        (&*endpoints, "eventTypes", names(1_000), names(1_001)),
        (types, "description", json!("ü".repeat(4_096)), json!("d".repeat(4_097))),
        (types, "groupName", json!("ü".repeat(256)), json!("g".repeat(257))),
        (types, "featureFlag", json!("f".repeat(256)), json!("f".repeat(257))),
        (types, "schemas", versions(100), versions(101)),
        (types, "schemas", json!({ ("v".repeat(64)): {} }), json!({ ("v".repeat(65)): {} })),
        (
            types,
            "schemas",
            json!({ "1": { "$comment": "c".repeat(1_000_000) } }),
            json!({ "1": { "$comment": "c".repeat(1_048_576) } }),
        ),
    ] {
        let body = |value: &Value| {
            let name = format!("n{}", made_names.fetch_add(1, Ordering::Relaxed));
            let mut body = match path {
                "/app" => json!({ "name": "a" }),
                "/event-type" => json!({ "name": name, "description": "" }),
                _ => json!({ "url": URL }),
            };
            body[member] = value.clone();
            body
        };
        let made = world.post(path, body(&good)).await.expect(201);
        let one = format!("{path}/{}", made.get("id").or_else(|| made.get("name")).unwrap().as_str().unwrap());
        assert_eq!(world.get(&one).await.expect(200)[member], good, "{path} {member}");
        world.get(&format!("{path}?limit=250")).await.expect(200);
        let patch = |value: &Value| json!({ (member): value });
        world.send("PATCH", &one, patch(&good)).await.expect(200);
        let place = format!("body.{member}");
        for answer in [world.post(path, body(&bad)).await, world.send("PATCH", &one, patch(&bad)).await] {
            assert_eq!(answer.invalid(), [place.as_str()], "{path} {member}");
        }
        world.delete(&one).await.expect(204);
    }
    world.close().await;
}

#[tokio::test]
async fn a_misspelled_member_is_ignored_with_a_warning() {
    let world = World::new();
    let app = world.app("shop").await;
    let made = world.post(&format!("/app/{app}/endpoint"), json!({ "url": URL, "evenTypes": ["a"] })).await;
    made.expect(201);
    let warning = made.headers["postrider-warning"].to_str().unwrap();
    assert!(warning.contains("'evenTypes'") && warning.contains("'eventTypes'"), "{warning}");
    let made =
        world.post(&format!("/app/{app}/endpoint"), json!({ "url": URL, "filterTypes": null, "other": 1 })).await;
    made.expect(201);
    assert!(!made.headers.contains_key("postrider-warning"));
    let refused = world.post("/app", json!({ "nmae": "a" })).await;
    refused.invalid();
    assert!(refused.headers["postrider-warning"].to_str().unwrap().contains("'name'"));
    let sent =
        world.post(&format!("/app/{app}/msg"), json!({ "eventType": "a", "payload": {}, "chanels": ["b"] })).await;
    sent.expect(202);
    assert!(sent.headers["postrider-warning"].to_str().unwrap().contains("'channels'"));
    let sent = world.post(&format!("/app/{app}/msg"), json!({ "eventType": "a", "data": {}, "paylod": {} })).await;
    assert!(sent.headers["postrider-warning"].to_str().unwrap().contains("'payload'"));
    world.close().await;
}

#[tokio::test]
async fn a_misspelled_query_parameter_is_ignored_with_a_warning() {
    let world = World::new();
    let app = world.app("shop").await;
    world.endpoint("shop", "e").await;
    for (query, wrong, meant) in [
        ("attempt/endpoint/e?stauts=2", "'stauts'", "'status'"),
        ("attempt/endpoint/e?eventTypes=a", "'eventTypes'", "'event_types'"),
        ("msg?event_type[]=a", "'event_type'", "'event_types'"),
        ("endpoint?Limit=1", "'Limit'", "'limit'"),
    ] {
        let list = world.get(&format!("/app/{app}/{query}")).await;
        list.expect(200);
        let warning = list.headers["postrider-warning"].to_str().unwrap();
        assert!(warning.contains("query parameter") && warning.contains(wrong) && warning.contains(meant), "{warning}");
    }
    for query in ["attempt/endpoint/e?status=2&with_msg=true&expanded_statuses=true&unlike=1", "msg?event_types[0]=a"] {
        let list = world.get(&format!("/app/{app}/{query}")).await;
        list.expect(200);
        assert!(!list.headers.contains_key("postrider-warning"), "{query}: {:?}", list.headers);
    }
    world.close().await;
}

/// Where in a document something has no bound.
fn unbounded(schema: &Value, place: &str, found: &mut Vec<String>) {
    match schema {
        Value::Object(members) => {
            let is_schema = members.get("type").is_some_and(|kind| kind.is_string() || kind.is_array());
            if is_schema && !is_bounded(members) {
                found.push(place.to_owned());
            }
            let properties = members.get("properties").and_then(Value::as_object).into_iter().flatten();
            let untyped = properties.filter(|(_, schema)| !says_what_it_is(schema));
            found.extend(untyped.map(|(name, _)| format!("{place}/properties/{name} is of no type")));
            if let Some(why) = members.get("x-unbounded").and_then(Value::as_str)
                && !MAY_BE_UNBOUNDED.contains(&why)
            {
                found.push(format!("{place} is unbounded, because {why}"));
            }
            for (name, member) in members.iter().filter(|(name, _)| *name != "examples" && *name != "propertyNames") {
                unbounded(member, &format!("{place}/{name}"), found);
            }
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(at, item)| unbounded(item, &format!("{place}/{at}"), found));
        }
        _ => {}
    }
}

/// The reasons for which something has no bound of its own.
const MAY_BE_UNBOUNDED: [&str; 7] = [
    "all event types that there are",
    "what the schema has",
    "a count for each application or event type that there is",
    "there may be any number of lines, each of which has the bounds of a message",
    "a text of the server's making",
    "it grows with the feature flags, of which there is a limit",
    "what the store kept of the response, which is cut when it is read",
];

fn says_what_it_is(schema: &Value) -> bool {
    let kinds = ["type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "x-max-bytes"];
    kinds.into_iter().any(|kind| schema.get(kind).is_some())
}

fn is_bounded(schema: &Map<String, Value>) -> bool {
    let is =
        |kind: &str| schema["type"] == kind || schema["type"].as_array().is_some_and(|all| all.contains(&kind.into()));
    let has = |bound: &str| schema.contains_key(bound);
    if ["enum", "const", "x-max-bytes", "x-unbounded"].into_iter().any(has) {
        return true;
    }
    // Members that are named are as many as there are names, and all others are ignored.
    let is_named = has("properties") && !has("additionalProperties");
    (!is("string") || has("maxLength"))
        && (!is("array") || has("maxItems"))
        && (!is("object") || has("maxProperties") || is_named)
}

#[tokio::test]
async fn every_string_array_and_object_of_the_document_has_a_bound_or_says_why_not() {
    let world = World::new();
    let document = world.raw("GET", "/api/v1/openapi.json", Extras::default()).await.expect(200);
    let mut found = Vec::new();
    unbounded(&document["paths"], "paths", &mut found);
    unbounded(&document["components"]["schemas"], "schemas", &mut found);
    assert!(found.is_empty(), "{found:#?}");
    world.close().await;
}

#[tokio::test]
async fn every_parameter_of_a_query_beyond_its_bound_is_refused_by_its_name() {
    let world = World::new();
    let app = world.app("shop").await;
    let endpoint = world.endpoint(&app, "main").await;
    let message = world.message(&app, "a").await;
    world.post("/event-type", json!({ "name": "a", "description": "" })).await.expect(201);
    let document = world.raw("GET", "/api/v1/openapi.json", Extras::default()).await.expect(200);
    let mut tried = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let names = [("app_id", &*app), ("endpoint_id", &*endpoint), ("sink_id", &*endpoint), ("msg_id", &*message)];
        let more = [("consumer_id", "c"), ("event_type_name", "a")];
        let fill = |path: String, (name, id): &(&str, &str)| path.replace(&format!("{{{name}}}"), id);
        let filled = names.iter().chain(&more).fold(path.clone(), fill);
        let Some(parameters) = operations["get"]["parameters"].as_array().filter(|_| !filled.contains('{')) else {
            continue;
        };
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let (name, schema) = (parameter["name"].as_str().unwrap(), &parameter["schema"]);
            let one = schema["items"]["maxLength"].as_u64().or(schema["maxLength"].as_u64()).unwrap_or(64);
            let most = schema["maximum"].as_u64().map(|most| (most + 1).to_string());
            let many = schema["maxItems"].as_u64().map(|most| vec!["a"; most as usize + 1].join(","));
            for beyond in most.into_iter().chain(many).chain(["x".repeat(one as usize + 1)]) {
                let refused = world.get(&format!("{}?{name}={beyond}", filled.trim_start_matches("/api/v1"))).await;
                // What is no date, number or word of the list can't be decoded at all.
                let is_named = match refused.status.as_u16() {
                    400 => refused.text.contains(&format!("'{name}'")),
                    422 => refused.invalid() == [format!("query.{name}")],
                    _ => false,
                };
                assert!(is_named, "{filled}?{name}: {}", refused.text);
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "{tried}");
    world.close().await;
}

#[test]
fn a_schema_without_a_bound_is_found() {
    for (schema, count) in [
        (json!({ "type": "string" }), 1),
        (json!({ "type": ["array", "null"], "maxItems": 1, "items": { "type": "string" } }), 1),
        (json!({ "type": "object" }), 1),
        (json!({ "type": "object", "properties": { "type": { "type": "string", "maxLength": 1 } } }), 0),
        (json!({ "type": "object", "additionalProperties": { "type": "integer" } }), 1),
    ] {
        let mut found = Vec::new();
        unbounded(&schema, "", &mut found);
        assert_eq!(found.len(), count, "{schema}: {found:?}");
    }
}

#[tokio::test]
async fn a_date_that_is_out_of_range_is_called_that_wherever_there_is_one() {
    const LATE: &str = "9999-12-31T23:59:59Z";
    const RANGE: &str = "out of range: must be between 0000-01-01T00:00:00Z and 9999-12-30T22:00:00Z";
    let world = World::new();
    world.app("shop").await;
    world.post("/app/shop/endpoint", json!({ "url": "https://example.com/", "uid": "ep" })).await.expect(201);
    let message = world.message("shop", "a").await;
    let mut tried = 0;
    let document = world.raw("GET", "/api/v1/openapi.json", Extras::default()).await.expect(200);
    for (path, operations) in document["paths"].as_object().unwrap() {
        let filled = path.replace("{app_id}", "shop").replace("{endpoint_id}", "ep").replace("{sink_id}", "ep");
        let filled =
            filled.replace("{consumer_id}", "c").replace("{msg_id}", &message).trim_start_matches("/api/v1").to_owned();
        let parameters = operations["get"]["parameters"].as_array().cloned().unwrap_or_default();
        for parameter in parameters.iter().filter(|parameter| parameter["schema"]["format"] == "date-time") {
            let name = parameter["name"].as_str().unwrap();
            for late in [LATE, "9999-12-31%2023:59:59Z", "9999-12-31T23:59:59+00:00"] {
                let refused = world.get(&format!("{filled}?{name}={late}")).await;
                assert!(refused.status == 400 && refused.text.contains(RANGE), "{filled}?{name}: {}", refused.text);
                tried += 1;
            }
        }
    }
    assert!(tried >= 12, "{tried}");
    let late = json!({ "eventType": "a", "payload": {}, "deliverAt": LATE });
    for (path, body) in [
        ("/app/shop/msg", late),
        ("/app/shop/poller/ep/consumer/c/seek", json!({ "after": LATE })),
        ("/app/shop/endpoint/ep/recover", json!({ "since": LATE })),
        ("/app/shop/endpoint/ep/replay-missing", json!({ "since": LATE })),
        ("/app/shop/endpoint/ep/recover", json!({ "since": "2026-01-01T00:00:00Z", "until": LATE })),
    ] {
        let refused = world.post(path, body).await;
        assert!(refused.status == 422 && refused.text.contains(RANGE), "{path}: {}", refused.text);
    }
}
