//! What the words of this crate look like on the wire, as JSON Schema: the text forms that their `Serialize` writes. A
//! value that can't be written is no value of a type, so these patterns hold for everything that is ever shown.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::endpoint::{EndpointUrl, MAX_URL_BYTES};
use crate::ids::{ApplicationId, AttemptId, EndpointId, Id, KeyId, MessageId, TaskId};
use crate::names::{Channel, EventTypeName, MAX_NAME_BYTES, Tag, Uid};
use crate::time::Timestamp;

/// What a name may consist of. It is no step in a path.
pub const NAME_PATTERN: &str = "^(?!\\.{1,2}$)[a-zA-Z0-9\\-_.]{1,256}$";

/// The 27 characters of a KSUID. Until the year 2148 none begins with a small letter.
pub const KSUID_PATTERN: &str = "[0-9A-Z][0-9A-Za-z]{26}";

const KSUID_CHARS: usize = 27;

/// The most characters of a date, as it is read and shown.
pub const DATE_CHARS: usize = 64;

/// The schema of an id of one kind.
pub fn id<I: Id>() -> Schema {
    json_schema!({
        "type": "string",
        "pattern": format!("^{}{KSUID_PATTERN}$", I::PREFIX),
        "maxLength": id_chars::<I>(),
        "examples": [format!("{}0ujtsYcgvSTl8PAuAdqWYSMnLOv", I::PREFIX)],
    })
}

/// The characters of an id of one kind.
pub fn id_chars<I: Id>() -> usize {
    I::PREFIX.len() + KSUID_CHARS
}

/// The schema of a name.
pub fn name(example: &str) -> Schema {
    json_schema!({ "type": "string", "pattern": NAME_PATTERN, "maxLength": MAX_NAME_BYTES, "examples": [example] })
}

macro_rules! schemas {
    ($($type:ident => $schema:expr;)*) => {
        $(impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        })*
    };
}

schemas! {
    ApplicationId => id::<Self>();
    EndpointId => id::<Self>();
    MessageId => id::<Self>();
    AttemptId => id::<Self>();
    KeyId => id::<Self>();
    TaskId => id::<Self>();
    Uid => name("customer-42");
    EventTypeName => name("invoice.paid");
    Channel => name("project_1337");
    Tag => name("priority");
    Timestamp => json_schema!({
        "type": "string",
        "format": "date-time",
        "maxLength": DATE_CHARS,
        "examples": ["2026-01-31T12:00:00Z"],
    });
    EndpointUrl => json_schema!({
        "type": "string",
        "format": "uri",
        "maxLength": MAX_URL_BYTES,
        "examples": ["https://example.com/webhooks"],
    });
}
