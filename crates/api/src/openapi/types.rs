//! Schemas of members whose Rust type says less than the rule that they are judged by. Used as
//! `#[schemars(with = "…")]` beside the member; the rule itself is in `rules.rs` or in the domain.

use std::borrow::Cow;
use std::marker::PhantomData;

use postrider_domain::ids::Id;
use postrider_domain::schema::name;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// A uid of something whose ids are of kind `I`: it must not begin like an id.
pub(crate) struct UidOf<I>(PhantomData<I>);

impl<I: Id> JsonSchema for UidOf<I> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("UidOf{}", I::PREFIX).into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut schema = name("customer-42");
        schema.insert("pattern".to_owned(), format!("^(?!{})[a-zA-Z0-9\\-_.]{{1,256}}$", I::PREFIX).into());
        schema
    }
}

/// What names an application in a path whose form is judged: its id or a uid.
pub(crate) const APPLICATION_PATTERN: &str = "^(?!app_)[a-zA-Z0-9\\-_.]{1,256}$|^app_[0-9A-Z][0-9A-Za-z]{26}$";

const SECRET: &str = concat!(
    "^whsec_([A-Za-z0-9+/]{4}){8,24}([A-Za-z0-9+/]{4}|[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
    "|^whsk_[A-Za-z0-9+/]{85}[AQgw]==$",
);

/// The names of headers, without the two reserved ones that are so short that they come up by accident.
const HEADER_NAME: &str = "^(?![tT][eE]$)(?![aA][gG][eE]$)[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

/// The values of headers.
const HEADER_VALUE: &str = "^[\\t -~]{0,4096}$";

macro_rules! members {
    ($($(#[$doc:meta])* $type:ident => $schema:expr;)*) => {
        $(
            $(#[$doc])*
            pub(crate) struct $type;

            impl JsonSchema for $type {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    stringify!($type).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    $schema
                }
            }
        )*
    };
}

/// No control characters that could upset a terminal.
const PROSE: &str = "^[^\\u0000-\\u0008]*$";

members! {
    /// A text for people, which may be empty.
    Prose => json_schema!({ "type": "string", "pattern": PROSE });
    /// A text for people.
    Title => json_schema!({ "type": "string", "minLength": 1, "pattern": PROSE, "examples": ["Acme"] });
    /// Messages per second, or another number that is not 0.
    Rate => json_schema!({ "type": "integer", "minimum": 1, "maximum": 65_535 });
    /// A secret as callers bring it: 24 to 75 bytes, or the two halves of an Ed25519 key, in base64.
    SecretText => json_schema!({
        "type": "string",
        "pattern": SECRET,
        "examples": ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"],
    });
    /// The URL of an endpoint.
    UrlText => json_schema!({
        "type": "string",
        "format": "uri",
        "pattern": "^https?://",
        "maxLength": 2_048,
        "examples": ["https://example.com/webhooks"],
    });
    /// Headers by name.
    HeaderValues => json_schema!({
        "type": "object",
        "propertyNames": { "pattern": HEADER_NAME },
        "additionalProperties": { "type": "string", "pattern": HEADER_VALUE },
    });
    /// Headers by name, or null to remove one.
    HeaderChanges => json_schema!({
        "type": "object",
        "patternProperties": { HEADER_NAME: { "type": ["string", "null"], "pattern": HEADER_VALUE } },
        // What can't be there can be removed.
        "additionalProperties": { "type": "null" },
    });
    /// A JSON object with anything in it.
    Object => json_schema!({ "type": "object" });
    /// A JSON Schema of draft 7.
    JsonSchemaText => json_schema!({ "type": ["object", "boolean"], "description": "A JSON Schema of draft 7." });
}
