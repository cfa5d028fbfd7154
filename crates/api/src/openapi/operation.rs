//! What a route says about itself beyond the signature of its handler.

use http::StatusCode;
use schemars::{JsonSchema, SchemaGenerator};

use crate::openapi::arguments::SchemaOf;

/// One answer of an operation that is no error.
pub(crate) struct Outcome {
    /// Its status.
    pub(crate) status: StatusCode,
    /// When it is given.
    pub(crate) when: &'static str,
    /// Its body.
    pub(crate) body: Option<SchemaOf>,
}

/// What an operation makes, for the links to the operations that take it.
#[derive(Clone, Copy)]
pub(crate) struct Creates {
    /// The path parameter that names it.
    pub(crate) parameter: &'static str,
    /// Where in the answer its name stands, as a JSON pointer.
    pub(crate) pointer: &'static str,
}

/// The description of an operation.
pub(crate) struct Operation {
    pub(crate) id: String,
    pub(crate) summary: &'static str,
    pub(crate) description: &'static str,
    pub(crate) outcomes: Vec<Outcome>,
    /// Errors of this operation that don't follow from its signature.
    pub(crate) errors: Vec<(StatusCode, &'static str)>,
    pub(crate) body: Option<SchemaOf>,
    /// It also takes and answers lines of JSON.
    pub(crate) lines: bool,
    pub(crate) creates: Option<Creates>,
    pub(crate) differs: Option<&'static str>,
    /// What to use instead of it, if it always refuses.
    pub(crate) instead: Option<&'static str>,
    /// Path parameters whose form is judged, with their patterns.
    pub(crate) patterns: Vec<(&'static str, &'static str)>,
}

impl Operation {
    /// An operation. Its id is `v1.<resource>.<what>`, the resource being the heading under which it is listed.
    pub(crate) fn new(id: impl Into<String>, summary: &'static str) -> Self {
        Self {
            id: id.into(),
            summary,
            description: "",
            outcomes: Vec::new(),
            errors: Vec::new(),
            body: None,
            lines: false,
            creates: None,
            differs: None,
            instead: None,
            patterns: Vec::new(),
        }
    }

    /// An operation that always refuses, because the server does not have what it is about. It is listed apart.
    pub(crate) fn not_implemented(what: &'static str, instead: &'static str) -> Self {
        Self { instead: Some(instead), ..Self::new("", what) }
    }

    /// More than one line about it.
    pub(crate) fn description(self, description: &'static str) -> Self {
        Self { description, ..self }
    }

    /// It can answer this status with a body.
    pub(crate) fn returns<T: JsonSchema>(self, status: StatusCode, when: &'static str) -> Self {
        self.outcome(status, when, Some(SchemaGenerator::subschema_for::<T>))
    }

    /// It can answer this status without a body.
    pub(crate) fn returns_nothing(self, status: StatusCode, when: &'static str) -> Self {
        self.outcome(status, when, None)
    }

    fn outcome(mut self, status: StatusCode, when: &'static str, body: Option<SchemaOf>) -> Self {
        self.outcomes.push(Outcome { status, when, body });
        self
    }

    /// It can answer this error for a reason of its own. Those that follow from its signature are added by rule.
    pub(crate) fn error(mut self, status: StatusCode, when: &'static str) -> Self {
        self.errors.push((status, when));
        self
    }

    /// What its body is, if the handler takes it raw.
    pub(crate) fn body<T: JsonSchema>(self) -> Self {
        Self { body: Some(SchemaGenerator::subschema_for::<T>), ..self }
    }

    /// It also takes and answers lines of JSON.
    pub(crate) fn or_lines(self) -> Self {
        Self { lines: true, ..self }
    }

    /// Its answer names something new, by which the path parameter of other operations can be filled.
    pub(crate) fn creates(self, parameter: &'static str, pointer: &'static str) -> Self {
        Self { creates: Some(Creates { parameter, pointer }), ..self }
    }

    /// What a user of the Svix API will notice. Shown in `docs/compatibility.md`.
    pub(crate) fn differs(self, note: &'static str) -> Self {
        Self { differs: Some(note), ..self }
    }

    /// A path parameter whose form is judged. Others are only looked up: what has an illegal form is not found.
    pub(crate) fn path_pattern(mut self, parameter: &'static str, pattern: &'static str) -> Self {
        self.patterns.push((parameter, pattern));
        self
    }
}
