//! Links: how what one operation answers is passed to others. Found by the names of path parameters, so that a new route
//! is linked without a word.

use serde_json::{Map, Value, json};

use crate::openapi::parameters::path_names;
use crate::openapi::routes::Route;

/// The links of an answer of `route`: to what takes the thing that it makes, and to the next page of a list.
pub(crate) fn from(route: &Route, routes: &[&Route]) -> Map<String, Value> {
    let own: Vec<_> = path_names(&route.path).collect();
    let mut links = Map::new();
    if let Some(creates) = route.operation.creates {
        for target in routes {
            let wanted: Vec<_> = path_names(&target.path).collect();
            let is_reachable = wanted.iter().all(|name| *name == creates.parameter || own.contains(name));
            if is_reachable && wanted.contains(&creates.parameter) {
                let mut parameters = passed_on(&wanted);
                let made = format!("$response.body#{}", creates.pointer);
                parameters.insert(format!("path.{}", creates.parameter), made.into());
                links.insert(target.operation.id.clone(), link(target, &parameters));
            }
        }
    }
    if route.signature.query.iter().any(|parameter| parameter.name == "iterator") {
        let mut parameters = passed_on(&own);
        parameters.insert("query.iterator".to_owned(), "$response.body#/iterator".into());
        links.insert("next-page".to_owned(), link(route, &parameters));
    }
    links
}

/// Parameters that keep the value that they had in the request.
fn passed_on(names: &[&str]) -> Map<String, Value> {
    names.iter().map(|name| (format!("path.{name}"), format!("$request.path.{name}").into())).collect()
}

fn link(target: &Route, parameters: &Map<String, Value>) -> Value {
    json!({ "operationId": target.operation.id, "parameters": parameters })
}
