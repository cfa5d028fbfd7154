//! The OpenAPI document says what the server does: every operation in it is there, and so is everything it refers to.

use http::StatusCode;
use serde_json::{Value, json};

use crate::world::{Extras, ORG, World, org_token};

/// The document as it is served.
async fn document(world: &World) -> Value {
    let answer = world.raw("GET", "/api/v1/openapi.json", Extras::default()).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    answer.expect(200)
}

/// Every operation: method, path, and what is said about it.
fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &'_ Value)| -> Vec<(String, String)> {
        item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())).collect()
    };
    let all = paths.iter().flat_map(of_path);
    all.map(|(method, path)| {
        let operation = &document["paths"][&path][method.to_lowercase()];
        (method, path, operation)
    })
    .collect()
}

/// A path with something in the place of its parameters.
fn filled(path: &str) -> String {
    let fill = |part: &str| if part.starts_with('{') { "x".to_owned() } else { part.to_owned() };
    path.split('/').map(fill).collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn every_documented_operation_is_there_and_wants_a_token_if_it_says_so() {
    let world = World::new();
    let document = document(&world).await;
    let operations = operations(&document);
    assert!(operations.len() > 30, "{}", operations.len());
    for (method, path, operation) in operations {
        let answer = world.raw(&method, &filled(&path), Extras::default()).await;
        let is_public = operation["security"] == json!([]);
        assert_eq!(answer.status == StatusCode::UNAUTHORIZED, !is_public, "{method} {path}: {answer:?}");
        // What is public may say that it is not there, but not in the words for a path that is unknown.
        let is_unknown = answer.status == StatusCode::NOT_FOUND
            && answer.json()["detail"] == "Entity not found: there is no such path";
        assert!(!is_unknown, "{method} {path}");
        assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
    }
    world.close().await;
}

/// Every `$ref` in a value.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_reference_and_every_link_leads_somewhere() {
    let world = World::new();
    let document = document(&world).await;
    let mut found = Vec::new();
    references(&document, &mut found);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} leads out of the document"));
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let operations = operations(&document);
    let ids: Vec<_> = operations.iter().map(|(_, _, operation)| operation["operationId"].as_str().unwrap()).collect();
    let mut distinct = ids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), ids.len(), "an operation id comes twice");
    for (method, path, operation) in &operations {
        let responses = operation["responses"].as_object().unwrap();
        for link in responses.values().filter_map(|response| response["links"].as_object()).flat_map(|all| all.values())
        {
            assert!(ids.contains(&link["operationId"].as_str().unwrap()), "{method} {path}: {link}");
        }
    }
    world.close().await;
}

#[tokio::test]
async fn everything_is_described() {
    let world = World::new();
    let document = document(&world).await;
    for (method, path, operation) in operations(&document) {
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{method} {path}");
        for parameter in operation["parameters"].as_array().unwrap() {
            let name = &parameter["name"];
            assert_ne!(parameter["description"], "", "{method} {path}: describe {name} in openapi/parameters.rs");
        }
    }
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(schema["description"].is_string(), "the schema {name} says nothing about itself");
    }
    world.close().await;
}

#[tokio::test]
async fn an_operation_is_described_by_its_handler() {
    let world = World::new();
    let document = document(&world).await;
    let list = &document["paths"]["/api/v1/app"]["get"];
    let limit = list["parameters"].as_array().unwrap().iter().find(|parameter| parameter["name"] == "limit").unwrap();
    assert_eq!(limit["schema"], json!({ "type": "integer", "minimum": 0, "maximum": 250, "default": 50 }));
    assert_eq!(list["security"], json!([{ "bearer": [] }]));
    assert_eq!(list["responses"]["200"]["links"]["next-page"]["operationId"], "v1.application.list");

    let create = &document["paths"]["/api/v1/app/{app_id}/endpoint"]["post"];
    let names: Vec<_> = create["parameters"].as_array().unwrap().iter().map(|parameter| &parameter["name"]).collect();
    assert_eq!(names, ["app_id", "idempotency-key"]);
    let body = &create["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(*body, json!({ "$ref": "#/components/schemas/EndpointIn" }));
    let link = &create["responses"]["201"]["links"]["v1.endpoint.get"]["parameters"];
    let passed = json!({ "path.app_id": "$request.path.app_id", "path.endpoint_id": "$response.body#/id" });
    assert_eq!(*link, passed);
    for status in ["201", "400", "401", "403", "404", "408", "409", "413", "422", "429", "500", "503"] {
        assert!(create["responses"][status].is_object(), "{status}");
    }
    // What a body may leave out is always shown, and what it may set to null is not always null.
    let (incoming, outgoing) =
        (&document["components"]["schemas"]["EndpointIn"], &document["components"]["schemas"]["EndpointOut"]);
    assert_eq!(incoming["required"], json!(["url"]));
    assert!(outgoing["required"].as_array().unwrap().contains(&json!("disabled")));
    assert_eq!(incoming["properties"]["uid"]["type"], json!(["string", "null"]));
    // A replacement leaves secret and headers alone, so it promises nothing about them.
    let replacement = &document["paths"]["/api/v1/app/{app_id}/endpoint/{endpoint_id}"]["put"]["requestBody"];
    let replacement = &replacement["content"]["application/json"]["schema"];
    assert_eq!(*replacement, json!({ "$ref": "#/components/schemas/EndpointUpdate" }));
    let replacement = &document["components"]["schemas"]["EndpointUpdate"]["properties"];
    for (member, is_kept) in [("url", false), ("secret", true), ("headers", true)] {
        assert_eq!((incoming["properties"].get(member).is_some(), replacement.get(member).is_none()), (true, is_kept));
    }
    world.close().await;
}

#[tokio::test]
async fn the_documentation_comes_with_the_server_and_loads_nothing_from_elsewhere() {
    let world = World::new();
    let front = world.page("/").await;
    assert_eq!((front.status, &front.headers["location"]), (StatusCode::TEMPORARY_REDIRECT, &"docs".parse().unwrap()));
    for (path, content_type) in
        [("/docs", "text/html"), ("/docs/docs.css", "text/css"), ("/docs/docs.js", "text/javascript")]
    {
        let page = world.page(path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}");
        assert!(page.headers["content-type"].to_str().unwrap().starts_with(content_type), "{path}");
        assert!(page.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"), "{path}");
        assert!(!page.text.contains("http://") && !page.text.contains("https://"), "{path} names another host");
    }
    // Everything that the page refers to is there.
    let page = world.page("/docs").await.text;
    let references = page.split(['"', '\'']).filter(|part| part.starts_with("docs") || part.starts_with("api/"));
    for reference in references {
        assert_eq!(world.page(&format!("/{reference}")).await.status, StatusCode::OK, "{reference}");
    }
    world.close().await;
}

#[tokio::test]
async fn what_is_not_implemented_says_what_to_use_instead_once_the_token_is_accepted() {
    let world = World::new();
    let document = document(&world).await;
    let absent = document["x-not-implemented"].as_array().unwrap();
    assert!(absent.len() > 50, "{}", absent.len());
    for operation in absent {
        let (method, path) = (operation["method"].as_str().unwrap(), filled(operation["path"].as_str().unwrap()));
        // Whoever wants to log out may well have a token that is none any more.
        if path != "/api/v1/auth/logout" {
            world.raw(method, &path, Extras::default()).await.refused(401, "authentication_failed");
        }
        let token = org_token(ORG);
        let answer = world.raw(method, &path, Extras { token: Some(&token), ..Extras::default() }).await;
        answer.refused(501, "not_implemented");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(operation["instead"].as_str().unwrap()), "{detail}");
    }
    world.close().await;
}

/// The operations of the official SDKs: see `scripts/sdk-operations`.
const SDK_OPERATIONS: &str = include_str!("../data/sdk-operations.json");

#[tokio::test]
async fn every_operation_of_the_sdks_is_known() {
    let world = World::new();
    let known: Value = serde_json::from_str(SDK_OPERATIONS).unwrap();
    let mut unknown = Vec::new();
    for operation in known["operations"].as_array().unwrap() {
        let (method, path) = (operation["method"].as_str().unwrap(), operation["path"].as_str().unwrap());
        // Without a token every operation but the public ones is 401, while an unknown one is 404 or 405.
        let answer = world.raw(method, &filled(path), Extras::default()).await;
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            unknown.push(format!("{method} {path}"));
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
    world.close().await;
}
