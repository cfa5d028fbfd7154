//! Parameters: what they are for, in one place, because a name means the same in every operation.

use postrider_domain::names::MAX_NAME_BYTES;
use serde_json::{Value, json};

use crate::access::idempotency::MAX_KEY_BYTES;
use crate::http::parameter::Parameter;

/// What the parameters of query strings are for.
const QUERY: &[(&str, &str)] = &[
    ("after", "Only what was made at this instant or later. Alone, it gives the oldest page."),
    ("before", "Only what was made before this instant."),
    ("channel", "Only what was sent on this channel."),
    ("endpoint_id", "Only what was sent to this endpoint: its id or uid."),
    ("event_type", "Only what has this event type."),
    ("event_types", "Only what has one of these event types: separated by commas, or the parameter repeated."),
    ("exclude_apps_with_disabled_endpoints", "Leave out applications whose endpoints are all disabled."),
    ("exclude_apps_with_no_endpoints", "Leave out applications without endpoints."),
    ("expunge", "Remove it for good instead of archiving it."),
    ("get_if_exists", "Answer the one that exists, if the uid is taken, instead of refusing."),
    ("include_archived", "List archived ones too."),
    ("iterator", "`iterator` of an earlier answer for the page after it, `prevIterator` for the page before it."),
    ("limit", "The most elements to answer."),
    ("order", "The order of the list, by the time of creation."),
    ("since", "From this instant on. By default 28 days before `until`."),
    ("status", "Only what is in this state; of deliveries: 0 succeeded, 1 pending, 2 failed, 3 sending, 4 canceled."),
    ("status_code_class", "Only attempts whose response status is in this hundred; 0 is no response at all."),
    ("tag", "Only what has this tag."),
    ("task", "Only tasks that do this."),
    ("until", "Up to this instant. By default now."),
    ("with_content", "Whether to answer the content, or to leave it empty."),
    ("with_msg", "Whether to answer the message of each attempt, too, without its payload."),
];

/// What the parameters of paths are for.
const PATH: &[(&str, &str)] = &[
    ("app_id", "The id or uid of the application."),
    ("attempt_id", "The id of the attempt."),
    ("consumer_id", "The name of the consumer, of your choice."),
    ("endpoint_id", "The id or uid of the endpoint."),
    ("environment_id", "The id of the environment."),
    ("event_type_name", "The name of the event type."),
    ("msg_id", "The id or `eventId` of the message."),
    ("task_id", "The id of the task."),
    ("sink_id", "The id or uid of the endpoint whose messages are polled."),
];

fn purpose(of: &'static [(&'static str, &'static str)], name: &str) -> &'static str {
    of.iter().find(|(known, _)| *known == name).map_or("", |(_, purpose)| *purpose)
}

/// A parameter of a query, as the document has it.
pub(crate) fn of_query(parameter: &Parameter) -> Value {
    let mut shown = json!({
        "name": parameter.name,
        "in": "query",
        "description": purpose(QUERY, parameter.name),
        "schema": parameter.schema,
    });
    if parameter.schema["type"] == "array" {
        shown["style"] = "form".into();
        shown["explode"] = false.into();
    }
    shown
}

/// The names of the parameters of a path.
pub(crate) fn path_names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

/// The parameters of a path, as the document has them.
pub(crate) fn of_path(path: &str, patterns: &[(&'static str, &'static str)]) -> Vec<Value> {
    let schema = |name: &str| match patterns.iter().find(|(judged, _)| *judged == name) {
        Some((_, pattern)) => json!({ "type": "string", "pattern": pattern, "maxLength": MAX_NAME_BYTES }),
        None => json!({ "type": "string", "minLength": 1, "maxLength": MAX_NAME_BYTES }),
    };
    let parameter = |name: &str| {
        json!({
            "name": name,
            "in": "path",
            "required": true,
            "description": purpose(PATH, name),
            "schema": schema(name),
        })
    };
    path_names(path).map(parameter).collect()
}

/// The header that makes a repeated POST answer the same.
pub(crate) fn idempotency_key() -> Value {
    json!({
        "name": "idempotency-key",
        "in": "header",
        "description": "A key of your choice: a repetition with the same key within 12 hours gets the same answer.",
        "schema": { "type": "string", "maxLength": MAX_KEY_BYTES },
    })
}

/// A heading for the operations of a resource: `message-attempt` becomes `Message attempt`.
pub(crate) fn heading(resource: &str) -> String {
    let words = resource.replace(['-', '.'], " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
