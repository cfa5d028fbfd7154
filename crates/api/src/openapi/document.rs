//! The document: every registered route with its parameters, bodies, answers and links, and the schemas of both ways.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::openapi::arguments::Access;
use crate::openapi::operation::{Operation, Outcome};
use crate::openapi::parameters;
use crate::openapi::routes::Route;
use crate::openapi::{components, links};

/// The schemas of what comes in and of what is shown. One type can look different both ways: a member with a default
/// need not come in, but is always shown.
struct Schemas {
    incoming: SchemaGenerator,
    outgoing: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let mut settings = SchemaSettings::draft2020_12();
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        let incoming = settings.clone().for_deserialize().into_generator();
        Self { incoming, outgoing: settings.for_serialize().into_generator() }
    }

    fn into_components(mut self) -> Map<String, Value> {
        let mut all = self.incoming.take_definitions(true);
        all.append(&mut self.outgoing.take_definitions(true));
        all.append(&mut components::schemas());
        all.values_mut().for_each(tidy);
        all
    }
}

/// Removes what derived schemas say about Rust and not about JSON: names of integer types, defaults that are null.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.get("default").is_some_and(Value::is_null) {
                members.remove("default");
            }
            if members.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                members.remove("format");
            }
            members.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// The document of these routes.
pub(crate) fn document(routes: &[Route]) -> Value {
    let (routes, absent): (Vec<_>, Vec<_>) = routes.iter().partition(|route| route.operation.instead.is_none());
    let mut schemas = Schemas::new();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for &route in &routes {
        let item = paths.entry(&route.path).or_default();
        item.insert(route.method.as_str().to_ascii_lowercase(), operation(route, &routes, &mut schemas));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Postrider",
            "summary": "A webhook sender: accepts events, and delivers each one signed, retried and logged.",
            "description": components::DESCRIPTION,
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "tags": tags(&routes),
        "paths": paths,
        "components": {
            "schemas": schemas.into_components(),
            "responses": components::responses(),
            "securitySchemes": components::security(),
        },
        "x-not-implemented": absent.iter().map(|route| not_implemented(route)).collect::<Vec<_>>(),
    })
}

/// An operation that always refuses. It is no path of the document: nobody should generate a client for it.
fn not_implemented(route: &Route) -> Value {
    let Operation { summary, instead, .. } = &route.operation;
    json!({ "method": route.method.as_str(), "path": route.path, "description": summary, "instead": instead })
}

/// The resource that an operation belongs to: what stands in its id between the version and the last word.
fn resource(route: &Route) -> String {
    let id = &route.operation.id;
    let resource =
        id.split_once('.').and_then(|(_, rest)| rest.rsplit_once('.')).map_or(id.as_str(), |(resource, _)| resource);
    parameters::heading(resource)
}

fn tags(routes: &[&Route]) -> Vec<Value> {
    let mut names: Vec<_> = routes.iter().map(|route| resource(route)).collect();
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names.into_iter().map(|name| json!({ "name": name })).collect()
}

fn operation(route: &Route, routes: &[&Route], schemas: &mut Schemas) -> Value {
    let about = &route.operation;
    let mut operation = json!({
        "operationId": about.id,
        "tags": [resource(route)],
        "summary": about.summary,
        "security": if is_public(route) { json!([]) } else { json!([{ "bearer": [] }]) },
        "parameters": parameters_of(route),
        "responses": responses(route, routes, schemas),
    });
    let description = [about.description, access_note(route.signature.access)].join("\n\n");
    if !description.trim().is_empty() {
        operation["description"] = description.trim().into();
    }
    if let Some(differs) = about.differs {
        operation["x-differs"] = differs.into();
    }
    if let Some(body) = about.body.or(route.signature.body) {
        let schema = body(&mut schemas.incoming);
        operation["requestBody"] = json!({ "required": true, "content": content(&schema.into(), about.lines) });
    }
    operation
}

fn is_public(route: &Route) -> bool {
    route.signature.access == Access::Public
}

fn access_note(access: Access) -> &'static str {
    match access {
        Access::Public => "Needs no token.",
        Access::Operator => "Needs a token of the environment.",
        Access::Tenant => "Takes a token of the environment, or one of the application.",
        Access::Reader => "Takes a token of the environment, or one of any of its applications.",
    }
}

fn parameters_of(route: &Route) -> Vec<Value> {
    let mut all = parameters::of_path(&route.path, &route.operation.patterns);
    all.extend(route.signature.query.iter().map(parameters::of_query));
    if route.method == Method::POST && !is_public(route) {
        all.push(parameters::idempotency_key());
    }
    all
}

fn responses(route: &Route, routes: &[&Route], schemas: &mut Schemas) -> Map<String, Value> {
    let mut all = Map::new();
    for outcome in &route.operation.outcomes {
        all.insert(outcome.status.as_str().to_owned(), success(outcome, route, routes, schemas));
    }
    for status in errors_by_rule(route) {
        all.insert(status.as_str().to_owned(), components::reference(status));
    }
    for (status, when) in &route.operation.errors {
        all.insert(status.as_str().to_owned(), components::error(*status, when));
    }
    for (status, when) in components::HEAD_ERRORS {
        all.insert(status.as_str().to_owned(), json!({ "description": when }));
    }
    all
}

fn success(outcome: &Outcome, route: &Route, routes: &[&Route], schemas: &mut Schemas) -> Value {
    let mut response = json!({ "description": outcome.when });
    if let Some(body) = outcome.body {
        let schema = body(&mut schemas.outgoing);
        response["content"] = content(&schema.into(), route.operation.lines);
        let links = links::from(route, routes);
        if !links.is_empty() {
            response["links"] = links.into();
        }
    }
    response
}

/// A body of JSON, or also of lines.
fn content(schema: &Value, or_lines: bool) -> Value {
    let mut content = json!({ "application/json": { "schema": schema } });
    if or_lines {
        let schema = json!({
            "type": "string",
            "x-unbounded": "there may be any number of lines, each of which has the bounds of a message",
            "description": "The items of the array, one a line.",
        });
        content["application/x-ndjson"] = json!({ "schema": schema });
    }
    content
}

/// The errors that follow from the signature of the handler.
fn errors_by_rule(route: &Route) -> Vec<StatusCode> {
    let mut errors = vec![StatusCode::INTERNAL_SERVER_ERROR];
    if !is_public(route) {
        errors.extend([StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]);
        errors.extend([StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE]);
    }
    if route.path.contains('{') {
        errors.push(StatusCode::NOT_FOUND);
    }
    if !route.signature.query.is_empty() || !route.operation.patterns.is_empty() {
        errors.push(StatusCode::UNPROCESSABLE_ENTITY);
    }
    if route.signature.body.or(route.operation.body).is_some() {
        errors.extend([StatusCode::REQUEST_TIMEOUT, StatusCode::PAYLOAD_TOO_LARGE]);
        errors.extend([StatusCode::UNSUPPORTED_MEDIA_TYPE, StatusCode::UNPROCESSABLE_ENTITY]);
    }
    errors
}
