//! What the words of this crate look like on the wire, as JSON Schema: the text forms that their `Serialize` writes. A
//! value that can't be written is no value of a type, so these patterns hold for everything that is ever shown.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::endpoint::EndpointUrl;
use crate::ids::{ApplicationId, AttemptId, EndpointId, Id, KeyId, MessageId, TaskId};
use crate::names::{Channel, EventTypeName, Tag, Uid};
use crate::time::Timestamp;

/// What a name may consist of.
pub const NAME_PATTERN: &str = "^[a-zA-Z0-9\\-_.]{1,256}$";

/// The 27 characters of a KSUID. Until the year 2148 none begins with a small letter.
pub const KSUID_PATTERN: &str = "[0-9A-Z][0-9A-Za-z]{26}";

/// The schema of an id of one kind.
pub fn id<I: Id>() -> Schema {
    json_schema!({
        "type": "string",
        "pattern": format!("^{}{KSUID_PATTERN}$", I::PREFIX),
        "examples": [format!("{}0ujtsYcgvSTl8PAuAdqWYSMnLOv", I::PREFIX)],
    })
}

/// The schema of a name.
pub fn name(example: &str) -> Schema {
    json_schema!({ "type": "string", "pattern": NAME_PATTERN, "examples": [example] })
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
    Timestamp => json_schema!({ "type": "string", "format": "date-time", "examples": ["2026-01-31T12:00:00Z"] });
    EndpointUrl => json_schema!({
        "type": "string",
        "format": "uri",
        "maxLength": 2_048,
        "examples": ["https://example.com/webhooks"],
    });
}
