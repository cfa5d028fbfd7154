//! Schemas of members whose Rust type says less than the rule that they are judged by. Used as
//! `#[schemars(with = "…")]` beside the member; the rule itself is in `rules.rs` or in the domain.

use std::borrow::Cow;
use std::marker::PhantomData;

use postrider_domain::application::{
    MAX_APPLICATION_NAME, MAX_METADATA_MEMBERS, MAX_METADATA_NAME, MAX_METADATA_VALUE,
};
use postrider_domain::endpoint::{MAX_ENDPOINT_DESCRIPTION, MAX_URL_BYTES};
use postrider_domain::event_type::{MAX_SCHEMA_VERSIONS, MAX_SCHEMAS_BYTES, MAX_VERSION_NAME};
use postrider_domain::headers::{MAX_HEADER_NAME_BYTES, MAX_HEADER_VALUE_BYTES, MAX_HEADERS};
use postrider_domain::ids::Id;
use postrider_domain::message::MAX_BODY_BYTES;
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
        schema.insert("pattern".to_owned(), format!("^(?!{}|\\.{{1,2}}$)[a-zA-Z0-9\\-_.]{{1,256}}$", I::PREFIX).into());
        schema
    }
}

/// What names an application in a path whose form is judged: its id or a uid.
pub(crate) const APPLICATION_PATTERN: &str =
    "^(?!app_|\\.{1,2}$)[a-zA-Z0-9\\-_.]{1,256}$|^app_[0-9A-Z][0-9A-Za-z]{26}$";

const SECRET: &str = concat!(
    "^whsec_([A-Za-z0-9+/]{4}){8,24}([A-Za-z0-9+/]{4}|[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$",
    "|^whsk_[A-Za-z0-9+/]{85}[AQgw]==$",
);

/// The longest secret: the prefix, and 75 bytes in base64.
const SECRET_CHARS: usize = 106;

/// The names of headers, without the two reserved ones that are so short that they come up by accident.
pub(crate) const HEADER_NAME: &str = "^(?![tT][eE]$)(?![aA][gG][eE]$)[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

/// The values of headers.
pub(crate) const HEADER_VALUE: &str = "^[\\t -~]{0,4096}$";

/// Defines types that stand for the schemas of members.
macro_rules! members {
    ($($(#[$doc:meta])* $type:ident => $schema:expr;)*) => {
        $(
            $(#[$doc])*
            pub(crate) struct $type;

            impl schemars::JsonSchema for $type {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> std::borrow::Cow<'static, str> {
                    stringify!($type).into()
                }

                fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                    $schema
                }
            }
        )*
    };
}

pub(crate) use members;

/// No control characters that could upset a terminal.
const PROSE: &str = "^[^\\u0000-\\u0008]*$";

members! {
    /// A text for people, which may be empty.
    Prose => json_schema!({ "type": "string", "pattern": PROSE, "maxLength": MAX_ENDPOINT_DESCRIPTION });
    /// A text for people.
    Title => json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_APPLICATION_NAME,
        "pattern": PROSE,
        "examples": ["Acme"],
    });
    /// Free text pairs.
    MetadataPairs => json_schema!({
        "type": "object",
        "maxProperties": MAX_METADATA_MEMBERS,
        "propertyNames": { "maxLength": MAX_METADATA_NAME },
        "additionalProperties": { "type": "string", "maxLength": MAX_METADATA_VALUE },
    });
    /// Messages per second, or another number that is not 0.
    Rate => json_schema!({ "type": "integer", "minimum": 1, "maximum": 65_535 });
    /// A secret as callers bring it: 24 to 75 bytes, or the two halves of an Ed25519 key, in base64.
    SecretText => json_schema!({
        "type": "string",
        "pattern": SECRET,
        "maxLength": SECRET_CHARS,
        "examples": ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"],
    });
    /// A secret as it is shown.
    SecretShown => json_schema!({ "type": "string", "maxLength": SECRET_CHARS });
    /// The URL of an endpoint.
    UrlText => json_schema!({
        "type": "string",
        "format": "uri",
        "pattern": "^https?://",
        "maxLength": MAX_URL_BYTES,
        "examples": ["https://example.com/webhooks"],
    });
    /// The URL of an endpoint as it is shown, without user and password.
    UrlShown => json_schema!({ "type": "string", "maxLength": MAX_URL_BYTES, "examples": ["https://example.com/webhooks"] });
    /// Headers by name.
    HeaderValues => json_schema!({
        "type": "object",
        "maxProperties": MAX_HEADERS,
        "propertyNames": { "pattern": HEADER_NAME, "maxLength": MAX_HEADER_NAME_BYTES },
        "additionalProperties": { "type": "string", "pattern": HEADER_VALUE, "maxLength": MAX_HEADER_VALUE_BYTES },
    });
    /// Headers by name, as they are shown.
    ShownHeaders => json_schema!({
        "type": "object",
        "maxProperties": MAX_HEADERS,
        "propertyNames": { "maxLength": MAX_HEADER_NAME_BYTES },
        "additionalProperties": { "type": "string", "maxLength": MAX_HEADER_VALUE_BYTES },
    });
    /// Names of headers, as they are shown.
    HeaderNames => json_schema!({
        "type": "array",
        "maxItems": MAX_HEADERS,
        "items": { "type": "string", "maxLength": MAX_HEADER_NAME_BYTES },
    });
    /// A JSON object with anything in it.
    Object => json_schema!({ "type": "object", "x-max-bytes": MAX_BODY_BYTES });
    /// JSON Schemas of draft 7 by version.
    SchemasByVersion => json_schema!({
        "type": "object",
        "maxProperties": MAX_SCHEMA_VERSIONS,
        "propertyNames": { "maxLength": MAX_VERSION_NAME },
        "additionalProperties": {
            "type": ["object", "boolean"],
            "description": "A JSON Schema of draft 7.",
            "x-max-bytes": MAX_SCHEMAS_BYTES,
        },
    });
    /// A payload as text.
    RawText => json_schema!({ "type": "string", "maxLength": MAX_BODY_BYTES });
    /// What the server says.
    Said => json_schema!({ "type": "string", "x-unbounded": "a text of the server's making" });
    /// A token.
    TokenText => json_schema!({ "type": "string", "x-unbounded": "it grows with the feature flags, of which there is a limit" });
    /// What a receiver answered.
    ResponseShown => json_schema!({ "type": "string", "x-unbounded": "what the store kept of the response, which is cut when it is read" });
}
