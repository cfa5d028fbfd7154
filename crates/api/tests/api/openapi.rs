//! The OpenAPI document says what the server does: every operation in it is there, and so is everything it refers to.

use http::StatusCode;
use serde_json::{Value, json};

use crate::world::{Extras, World};

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
        let is_unknown = answer.status == StatusCode::NOT_FOUND && answer.json()["detail"] == "Entity not found";
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
