//! The extra headers of an endpoint on the wire (rest-contract §7.1).

use std::collections::BTreeMap;

use http::HeaderName;
use http::uri::Authority;
use postrider_domain::endpoint::Headers;
use postrider_domain::headers::{HeaderChanges, MAX_HEADER_NAME_BYTES, MAX_HEADER_VALUE_BYTES, MAX_HEADERS};
use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize};

use crate::wire::error::Result;
use crate::wire::quirks::RemovedHeaders;
use crate::wire::rules::Problems;
use crate::wire::schema::{HEADER_NAME, HEADER_VALUE, HeaderNames, HeaderValues, ShownHeaders, members};

postrider_domain::limits! {
    in "Headers of an endpoint";
    /// The headers that one request changes, and those that it removes by `deleteHeaders`
    pub(crate) const MAX_HEADER_CHANGES: usize = 100, "headers", beyond "422";
}

members! {
    /// Headers by name, or null to remove one.
    UnsetHeaders => json_schema!({
        "type": "object",
        "maxProperties": MAX_HEADER_CHANGES,
        "patternProperties": {
            HEADER_NAME: { "type": ["string", "null"], "pattern": HEADER_VALUE, "maxLength": MAX_HEADER_VALUE_BYTES },
        },
        // What can't be there can be removed.
        "additionalProperties": { "type": "null" },
    });
}

/// Names whose values are never shown.
const SENSITIVE: [&str; 6] =
    ["x-auth-token", "x-api-key", "www-authenticate", "authorization", "proxy-authenticate", "proxy-authorization"];

/// Names that say something about the request itself or its connection, which only the sender knows. The last three are
/// how a receiver knows that a request is ours.
const RESERVED: [&str; 26] = [
    "connection",
    "expect",
    "proxy-connection",
    "trailer",
    "user-agent",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "age",
    "cache-control",
    "clear-site-data",
    "expires",
    "pragma",
    "warning",
    "content-length",
    "content-type",
    "content-encoding",
    "content-language",
    "content-location",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
];

/// Names that begin like this belong to proxies and to signatures.
const RESERVED_PREFIXES: [&str; 9] =
    ["x-amz-", "x-amzn-", "x-google", "x-goog-", "x-gfe", "x-azure-", "x-fd-", "x-svix-", "svix-"];

/// What replaces the headers.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "EndpointHeadersIn")]
pub(crate) struct HeadersIn {
    /// Values by name. Names that say something about the request itself are refused.
    #[schemars(with = "HeaderValues")]
    headers: HeadersText,
}

/// Headers as a body has them: a name may come in several spellings, which is for [`check`] to refuse.
pub(crate) type HeadersText = BTreeMap<String, String>;

/// What changes some headers: null removes one.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EndpointHeadersPatchIn")]
pub(crate) struct HeadersPatchIn {
    /// Values by name; null removes a header.
    #[schemars(with = "UnsetHeaders")]
    headers: HeaderChanges,
    #[serde(flatten)]
    removed: RemovedHeaders,
}

impl HeadersIn {
    /// Checks a body.
    pub(crate) fn checked(self) -> Result<Headers> {
        let mut problems = Problems::of_body();
        let headers = check(&mut problems, self.headers);
        problems.finish(Some(headers))
    }
}

impl HeadersPatchIn {
    /// Checks a body. A header that is removed may have any name; one that is also set is set.
    pub(crate) fn checked(self) -> Result<HeaderChanges> {
        let mut problems = Problems::of_body();
        let removed: Vec<_> = self.removed.names().collect();
        for (member, count) in [("headers", self.headers.len()), ("deleteHeaders", removed.len())] {
            if count > MAX_HEADER_CHANGES {
                problems.add(member, format!("must have at most {MAX_HEADER_CHANGES} elements"));
                return problems.finish(None);
            }
        }
        let set = self.headers.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        problems.within("headers", |problems| check_each(problems, set));
        check_spellings(&mut problems, self.headers.keys());
        let mut changes: HeaderChanges = removed.into_iter().map(|name| (name, None)).collect();
        changes.extend(self.headers);
        problems.finish(Some(changes))
    }
}

/// Checks the member `headers`.
pub(crate) fn check(problems: &mut Problems, headers: HeadersText) -> Headers {
    if headers.len() > MAX_HEADERS {
        problems.add("headers", format!("must be at most {MAX_HEADERS} headers"));
        return Headers::new();
    }
    problems.within("headers", |problems| check_each(problems, headers.iter()));
    check_spellings(problems, headers.keys());
    let headers = Headers::from(headers);
    problems.check("headers", headers.check());
    headers
}

/// Which of two values is meant can't be told: a receiver sees one name.
fn check_spellings<'a>(problems: &mut Problems, names: impl Iterator<Item = &'a String>) {
    let mut seen = BTreeMap::new();
    for name in names {
        if let Some(other) = seen.insert(name.to_ascii_lowercase(), name) {
            problems
                .within("headers", |problems| problems.add(name.clone(), format!("is the same header as '{other}'")));
        }
    }
}

fn check_each<'a>(problems: &mut Problems, headers: impl Iterator<Item = (&'a String, &'a String)>) {
    for (name, value) in headers {
        if let Err(problem) = judge(name, value) {
            problems.add(name.clone(), problem);
        }
    }
}

fn judge(name: &str, value: &str) -> Result<(), String> {
    if name.len() > MAX_HEADER_NAME_BYTES {
        return Err(format!("must have a name of at most {MAX_HEADER_NAME_BYTES} bytes"));
    }
    // Lower case from here on: `HeaderName` is.
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "is not the name of a header".to_owned())?;
    let name = name.as_str();
    if RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return Err("is set by the sender and can't be chosen".to_owned());
    }
    if value.len() > MAX_HEADER_VALUE_BYTES {
        return Err(format!("must be at most {MAX_HEADER_VALUE_BYTES} bytes long"));
    }
    if name == "host" && Authority::try_from(value).is_err() {
        return Err("must be a host, and a port if need be".to_owned());
    }
    // Narrower than what `HeaderValue` takes: bytes above ASCII mean something else to every receiver.
    if !value.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte)) {
        return Err("may only contain visible ASCII characters and blanks".to_owned());
    }
    Ok(())
}

/// The headers as they are shown: sensitive ones by name only.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EndpointHeadersOut")]
pub(crate) struct HeadersOut<'a> {
    /// Values by name.
    #[schemars(with = "ShownHeaders")]
    headers: BTreeMap<&'a str, &'a str>,
    /// The names of headers whose values are not shown.
    #[schemars(with = "HeaderNames")]
    sensitive: Vec<&'a str>,
}

impl<'a> From<&'a Headers> for HeadersOut<'a> {
    fn from(all: &'a Headers) -> Self {
        let is_sensitive = |name: &str| SENSITIVE.iter().any(|sensitive| name.eq_ignore_ascii_case(sensitive));
        let (sensitive, shown): (Vec<_>, Vec<_>) = all.iter().partition(|(name, _)| is_sensitive(name));
        Self { headers: shown.into_iter().collect(), sensitive: sensitive.into_iter().map(|(name, _)| name).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_headers_are_taken() {
        assert_eq!(judge("Host", "other.example:81"), Ok(()));
        for (name, value) in
            [("X-Custom", "a b"), ("Authorization", "Bearer x"), ("x-empty", ""), ("Webhook-Shop", "1")]
        {
            assert_eq!(judge(name, value), Ok(()), "{name}");
        }
    }

    #[test]
    fn reserved_and_broken_headers_are_refused() {
        let long = "x".repeat(MAX_HEADER_VALUE_BYTES + 1);
        for (name, value) in [
            ("Content-Type", "text/plain"),
            ("X-AMZ-Date", "now"),
            ("x-googlebot", "1"),
            ("Svix-Id", "1"),
            ("webhook-signature", "v1,x"),
            ("a b", "1"),
            ("", "1"),
            ("x\r\ny", "1"),
            ("x-a", "1\r\nx-b: 2"),
            ("Host", "a b"),
            ("Host", ""),
            ("x-a", "nul\0"),
            ("x-a", "caf\u{e9}"),
            ("x-a", "\u{7f}"),
            ("x-a", long.as_str()),
        ] {
            assert!(judge(name, value).is_err(), "{name}: {value}");
        }
    }

    #[test]
    fn sensitive_values_are_not_shown_and_names_keep_their_case() {
        let headers = Headers::from([("X-Plain", "a"), ("AUTHORIZATION", "b"), ("x-Api-key", "c")]);
        let shown = serde_json::to_value(HeadersOut::from(&headers)).unwrap();
        assert_eq!(
            shown,
            serde_json::json!({"headers": {"X-Plain": "a"}, "sensitive": ["AUTHORIZATION", "x-Api-key"]})
        );
    }
}
