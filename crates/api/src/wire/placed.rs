//! The JSON Schemas in a body, each with its place.

use std::borrow::Cow;

use postrider_domain::event_type::Schemas;

/// A schema, and where in the body it stands.
pub(crate) struct Placed<'a> {
    pub(crate) loc: Vec<Cow<'static, str>>,
    pub(crate) text: &'a str,
}

/// The schemas of an event type in a body.
pub(crate) fn of_body(schemas: Option<&Schemas>) -> Vec<Placed<'_>> {
    let place = |version: &String| vec!["body".into(), "schemas".into(), version.clone().into()];
    schemas.into_iter().flatten().map(|(version, text)| Placed { loc: place(version), text: text.get() }).collect()
}
