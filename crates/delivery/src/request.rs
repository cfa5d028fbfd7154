//! The signed request: what is fixed per endpoint is prepared once (`Template`), what changes per attempt is added.
//!
//! The body is the message's payload, byte for byte, and what is signed is what is sent. The signature's timestamp is the
//! system clock's at the attempt, because the receiver compares it with its own clock.
//!
//! Over HTTP/1 names of headers are in title case, because there are receivers that compare them exactly; those of an
//! endpoint's own headers are spelled as they were configured. HTTP/2 has lower case only.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};
use postrider_domain::delivery::Failure;
use postrider_domain::endpoint::{EndpointUrl, Headers};
use postrider_domain::ids::MessageId;
use postrider_domain::signature::SigningKeys;
use postrider_domain::time::Timestamp;

use crate::answer::Trouble;
use crate::connect::forbidden;
use crate::egress::Policy;
use crate::http1;
use crate::options::HeaderPrefix;
use crate::origin::Origin;
use crate::rest::Payload;

/// What requests say they come from.
pub const USER_AGENT: &str = concat!("Postrider/", env!("CARGO_PKG_VERSION"));

const SIGNATURE_NAMES: [[&str; 3]; 2] =
    [["webhook-id", "webhook-timestamp", "webhook-signature"], ["svix-id", "svix-timestamp", "svix-signature"]];

/// The names of the three headers that make a request verifiable.
#[derive(Debug, Clone)]
pub(crate) struct SignatureNames {
    id: HeaderName,
    timestamp: HeaderName,
    signature: HeaderName,
}

impl From<HeaderPrefix> for SignatureNames {
    fn from(prefix: HeaderPrefix) -> Self {
        let names = match prefix {
            HeaderPrefix::Webhook => SIGNATURE_NAMES[0],
            HeaderPrefix::Svix => SIGNATURE_NAMES[1],
        };
        let [id, timestamp, signature] = names.map(HeaderName::from_static);
        Self { id, timestamp, signature }
    }
}

impl SignatureNames {
    fn contain(&self, name: &HeaderName) -> bool {
        [&self.id, &self.timestamp, &self.signature].contains(&name)
    }
}

/// Everything of an endpoint's requests that does not change from one attempt to the next.
pub(crate) struct Template {
    pub(crate) origin: Arc<Origin>,
    /// Of HTTP/1: the request line and the headers, without those that change.
    head: Vec<u8>,
    /// Of HTTP/2: the whole URI.
    absolute: Uri,
    /// Of HTTP/2: with empty values for the signature's headers, so that a copy only needs them set.
    headers: HeaderMap,
    names: SignatureNames,
    keys: SigningKeys,
}

/// What makes a request verifiable.
struct Signed {
    id: String,
    timestamp: String,
    signature: String,
}

/// Prepares an endpoint.
pub(crate) fn prepare(
    url: &EndpointUrl,
    extra: &Headers,
    keys: &SigningKeys,
    policy: &Policy,
    names: &SignatureNames,
) -> Result<Template, Trouble> {
    policy.check_literal(url).map_err(forbidden)?;
    let unusable = || Trouble::new(Failure::Connect, "the URL cannot be requested");
    let parsed = url.url().ok_or_else(unusable)?;
    let (Some(host), Some(port), Some(name)) = (parsed.host(), parsed.port_or_known_default(), parsed.host_str())
    else {
        return Err(unusable());
    };
    let https = parsed.scheme() == "https";
    let origin = Arc::new(Origin { https, host: host.to_owned(), port });
    let path = match parsed.query() {
        Some(query) => format!("{}?{query}", parsed.path()),
        None => parsed.path().to_owned(),
    };
    let path = PathAndQuery::try_from(path).map_err(|_| unusable())?;
    // The URL has no port if it is the scheme's own, which is when `host` shall have none.
    let authority = parsed.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    let mut headers = template(&authority, url, extra, names)?;
    let head = http1_head(&path, &headers, extra, names);
    let authority = Authority::try_from(headers[header::HOST].as_bytes()).map_err(|_| unusable())?;
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(path);
    parts.authority = Some(authority);
    parts.scheme = Some(if https { Scheme::HTTPS } else { Scheme::HTTP });
    let absolute = Uri::from_parts(parts).map_err(|_| unusable())?;
    headers.remove(header::HOST);
    Ok(Template { origin, head, absolute, headers, names: names.clone(), keys: keys.clone() })
}

/// The request line and every header but those of the signature. `Host` comes first (RFC 9110 §7.2).
fn http1_head(path: &PathAndQuery, headers: &HeaderMap, extra: &Headers, names: &SignatureNames) -> Vec<u8> {
    let spelled: HeaderMap<&str> =
        extra.iter().filter_map(|(name, _)| Some((HeaderName::try_from(name).ok()?, name))).collect();
    let mut head = format!("POST {path} HTTP/1.1\r\n").into_bytes();
    let host = headers.get(header::HOST).map(|value| (&header::HOST, value)).into_iter();
    let others = headers.iter().filter(|(name, _)| **name != header::HOST && !names.contain(name));
    for (name, value) in host.chain(others) {
        match spelled.get(name) {
            Some(spelled) => head.extend_from_slice(spelled.as_bytes()),
            None => head.extend(title_case(name)),
        }
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head
}

/// `webhook-id` as `Webhook-Id`.
fn title_case(name: &HeaderName) -> impl Iterator<Item = u8> {
    let bytes = name.as_str().bytes();
    bytes.scan(true, |starts, byte| {
        let spelled = if *starts { byte.to_ascii_uppercase() } else { byte };
        *starts = byte == b'-';
        Some(spelled)
    })
}

/// Names that an endpoint's own headers can't have: they would change where the body ends, how the connection is used, or
/// what was signed. The API refuses most of them; a store may hold what an older version let in.
pub fn is_reserved(name: &HeaderName) -> bool {
    const FRAMING: [HeaderName; 6] = [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    const OTHERS: [&str; 3] = ["keep-alive", "proxy-connection", "expect"];
    FRAMING.contains(name) || OTHERS.contains(&name.as_str()) || SIGNATURE_NAMES.as_flattened().contains(&name.as_str())
}

/// A map of headers panics when there are more than 32,768 in it, or room for more than 24,576 is asked for. The API lets
/// in far fewer; a store may hold what an older version let in, so that is a failure and nothing worse.
fn template(authority: &str, url: &EndpointUrl, extra: &Headers, names: &SignatureNames) -> Result<HeaderMap, Trouble> {
    let too_many = || Trouble::new(Failure::Connect, "the endpoint has too many headers");
    let unusable = || Trouble::new(Failure::Connect, "the URL cannot be requested");
    let mut headers = HeaderMap::try_with_capacity(extra.len().saturating_add(8)).map_err(|_| too_many())?;
    let host = HeaderValue::from_str(authority).map_err(|_| unusable())?;
    let own = [
        (header::HOST, host),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::ACCEPT, HeaderValue::from_static("*/*")),
        (header::USER_AGENT, HeaderValue::from_static(USER_AGENT)),
        (names.id.clone(), HeaderValue::from_static("")),
        (names.timestamp.clone(), HeaderValue::from_static("")),
        (names.signature.clone(), HeaderValue::from_static("")),
    ];
    for (name, value) in own.into_iter().chain(basic_auth(url).map(|value| (header::AUTHORIZATION, value))) {
        headers.try_insert(name, value).map_err(|_| too_many())?;
    }
    for (name, value) in extra.iter() {
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(value)) if can_be_sent(&name, &value) => {
                headers.try_insert(name, value).map_err(|_| too_many())?;
            }
            _ => tracing::warn!(header = %name.escape_debug(), "an endpoint's header cannot be sent and is left out"),
        }
    }
    Ok(headers)
}

/// Whether an endpoint's own header is sent. A `Host` must be one, because the request is addressed by it.
fn can_be_sent(name: &HeaderName, value: &HeaderValue) -> bool {
    !is_reserved(name) && (name != header::HOST || Authority::try_from(value.as_bytes()).is_ok())
}

/// `Authorization` for a URL with a user or a password in it.
fn basic_auth(url: &EndpointUrl) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(url.credentials()?.authorization()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Template {
    /// The request of one attempt over HTTP/1. `wall` is what the system clock says, `now` tells which keys are in force.
    pub(crate) fn http1(&self, id: &MessageId, payload: Bytes, wall: Timestamp, now: Timestamp) -> http1::Request {
        let Signed { id, timestamp, signature } = self.sign(id, &payload, wall, now);
        let mut head = Vec::with_capacity(self.head.len() + signature.len() + 192);
        head.extend_from_slice(&self.head);
        let SignatureNames { id: id_name, timestamp: timestamp_name, signature: signature_name } = &self.names;
        for (name, value) in [(id_name, id), (timestamp_name, timestamp), (signature_name, signature)] {
            head.extend(title_case(name));
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        // Writing to memory does not fail.
        let _ = write!(head, "Content-Length: {}\r\n\r\n", payload.len());
        http1::Request { head: head.into(), body: payload }
    }

    /// The request of one attempt over HTTP/2. `wall` is what the system clock says, `now` tells which keys are in force.
    pub(crate) fn http2(
        &self,
        id: &MessageId,
        payload: Bytes,
        wall: Timestamp,
        now: Timestamp,
    ) -> Option<Request<Payload>> {
        let Signed { id, timestamp, signature } = self.sign(id, &payload, wall, now);
        let mut headers = self.headers.clone();
        *headers.get_mut(&self.names.id)? = HeaderValue::from_maybe_shared(Bytes::from(id)).ok()?;
        *headers.get_mut(&self.names.timestamp)? = HeaderValue::from_maybe_shared(Bytes::from(timestamp)).ok()?;
        *headers.get_mut(&self.names.signature)? = HeaderValue::from_maybe_shared(Bytes::from(signature)).ok()?;
        if payload.is_empty() {
            // hyper takes an empty body for none, and would leave the length out.
            headers.try_insert(header::CONTENT_LENGTH, HeaderValue::from_static("0")).ok()?;
        }
        let mut request = Request::new(Payload::new(payload));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.absolute.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        Some(request)
    }

    fn sign(&self, id: &MessageId, payload: &[u8], wall: Timestamp, now: Timestamp) -> Signed {
        let (id, timestamp) = (id.to_string(), wall.as_seconds().to_string());
        let signature = self.keys.sign_text(&id, &timestamp, payload, now);
        Signed { id, timestamp, signature }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::DeliveryOptions;
    use postrider_domain::entropy::SeededEntropy;
    use postrider_domain::signature::{Secret, SecretKind};

    const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_999_999);

    fn keys() -> SigningKeys {
        SigningKeys::new(Secret::generate(SecretKind::Hmac256, &SeededEntropy::new(1)))
    }

    fn template_of(url: &str, extra: &[(&str, &str)], prefix: HeaderPrefix) -> Template {
        let url = EndpointUrl::parse(url).unwrap();
        let extra = extra.iter().copied().collect();
        let policy = Policy::new(&DeliveryOptions::default());
        prepare(&url, &extra, &keys(), &policy, &prefix.into()).unwrap()
    }

    fn id() -> MessageId {
        MessageId::new(NOW, &SeededEntropy::new(2))
    }

    /// The head of a request over HTTP/1.
    fn request_to(url: &str, extra: &[(&str, &str)], prefix: HeaderPrefix) -> String {
        let payload = Bytes::from_static(b"{}");
        let request = template_of(url, extra, prefix).http1(&id(), payload.clone(), NOW, NOW);
        assert_eq!(request.body, payload);
        String::from_utf8(request.head.to_vec()).unwrap()
    }

    fn header<'a>(head: &'a str, name: &str) -> &'a str {
        find(head, name).unwrap_or_else(|| panic!("no {name} in {head}"))
    }

    /// The value of a header that is spelled exactly like this.
    fn find<'a>(head: &'a str, name: &str) -> Option<&'a str> {
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn target(head: &str) -> &str {
        head.strip_prefix("POST ").unwrap().split_once(" HTTP/1.1\r\n").unwrap().0
    }

    #[test]
    fn a_request_is_signed_over_what_it_carries() {
        let request = request_to("https://example.com/hook?a=b", &[], HeaderPrefix::Webhook);
        let start = "POST /hook?a=b HTTP/1.1\r\nHost: example.com\r\nContent-Type: application/json\r\nAccept: */*\r\n";
        assert!(request.starts_with(start) && request.ends_with("\r\nContent-Length: 2\r\n\r\n"), "{request}");
        assert!(header(&request, "User-Agent").starts_with("Postrider/"));
        assert_eq!(header(&request, "Webhook-Timestamp"), "1767323045");
        let id = header(&request, "Webhook-Id").parse().unwrap();
        assert_eq!(header(&request, "Webhook-Signature"), keys().sign(&id, "1767323045", b"{}", NOW));
        assert!(!request.to_ascii_lowercase().contains("accept-encoding"));
    }

    #[test]
    fn over_http1_names_are_in_title_case_and_own_headers_spelled_as_configured() {
        let extra = [("x-lower", "1"), ("X-UPPER-Case", "2"), ("aCCept", "text/plain")];
        let request = request_to("https://example.com/", &extra, HeaderPrefix::Webhook);
        for (name, value) in extra {
            assert_eq!(header(&request, name), value);
        }
        assert!(find(&request, "Accept").is_none(), "{request}");
        let lower = request.lines().skip(1).filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()));
        assert_eq!(lower.count(), 2, "{request}");
    }

    #[test]
    fn a_request_without_a_payload_says_so() {
        let template = template_of("https://example.com/", &[], HeaderPrefix::Webhook);
        let request = template.http1(&id(), Bytes::new(), NOW, NOW);
        assert!(request.head.ends_with(b"\r\nContent-Length: 0\r\n\r\n"));
        let request = template.http2(&id(), Bytes::new(), NOW, NOW).unwrap();
        assert_eq!(request.headers()[header::CONTENT_LENGTH], "0");
    }

    #[test]
    fn receivers_that_know_only_the_other_names_get_those_instead() {
        let request = request_to("https://example.com/", &[], HeaderPrefix::Svix);
        for name in ["Id", "Timestamp", "Signature"] {
            assert!(!header(&request, &format!("Svix-{name}")).is_empty());
            assert!(find(&request, &format!("Webhook-{name}")).is_none());
        }
    }

    #[test]
    fn the_port_is_named_unless_it_is_the_schemes_own() {
        for (url, host) in [
            ("http://example.com:80/", "example.com"),
            ("https://example.com:443/", "example.com"),
            ("http://example.com:443/", "example.com:443"),
            ("https://example.com:8443/", "example.com:8443"),
            ("http://[2606:4700::1111]:81/", "[2606:4700::1111]:81"),
        ] {
            assert_eq!(header(&request_to(url, &[], HeaderPrefix::Webhook), "Host"), host, "{url}");
        }
    }

    #[test]
    fn http2_gets_the_whole_uri_and_no_host() {
        let template = template_of("https://example.com:8443/a?b", &[("X-A", "1")], HeaderPrefix::Webhook);
        let request = template.http2(&id(), Bytes::from_static(b"{}"), NOW, NOW).unwrap();
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.headers()["x-a"], "1");
        assert!(!request.headers()["webhook-signature"].is_empty());
        assert_eq!(request.uri(), "https://example.com:8443/a?b");
        assert!(request.headers().get("host").is_none());
    }

    #[test]
    fn a_user_and_password_become_basic_auth_unless_there_is_an_authorization_header() {
        let url = "https://ali%3Ace:s%40cret@example.com/";
        let request = request_to(url, &[], HeaderPrefix::Webhook);
        assert_eq!(header(&request, "Authorization"), "Basic YWxpOmNlOnNAY3JldA==");
        assert_eq!(header(&request, "Host"), "example.com");
        let own = request_to(url, &[("AUTHORIZATION", "Bearer x")], HeaderPrefix::Webhook);
        assert_eq!(header(&own, "AUTHORIZATION"), "Bearer x");
    }

    #[test]
    fn own_headers_override_but_never_the_framing_or_the_signature() {
        let extra = [
            ("Accept", "text/plain"),
            ("X-Custom", "1"),
            ("Content-Length", "3"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "close"),
            ("Webhook-Signature", "v1,forged"),
            ("bad name", "x"),
            ("x-bad", "a\r\nb"),
        ];
        let request = request_to("https://example.com/", &extra, HeaderPrefix::Webhook);
        assert_eq!(header(&request, "Accept"), "text/plain");
        assert_eq!(header(&request, "X-Custom"), "1");
        assert_ne!(header(&request, "Webhook-Signature"), "v1,forged");
        assert_eq!(header(&request, "Content-Length"), "2");
        for name in ["Content-Length", "Webhook-Signature"] {
            assert_eq!(request.matches(name).count(), 1, "{name}");
        }
        for name in ["Transfer-Encoding", "Connection", "x-bad", "bad name"] {
            assert!(find(&request, name).is_none(), "{name}");
        }
    }

    #[test]
    fn an_own_host_is_sent_if_it_is_one() {
        for (own, host) in [("other.example:81", "other.example:81"), ("a b", "example.com"), ("", "example.com")] {
            let template = template_of("https://example.com/", &[("Host", own)], HeaderPrefix::Webhook);
            let request = template.http2(&id(), Bytes::new(), NOW, NOW).unwrap();
            assert_eq!(request.uri().authority().unwrap().as_str(), host, "{own}");
            assert_eq!(
                header(&request_to("https://example.com/", &[("Host", own)], HeaderPrefix::Webhook), "Host"),
                host
            );
        }
    }

    #[test]
    fn more_headers_than_a_request_can_have_are_a_failure_and_no_panic() {
        let url = EndpointUrl::parse("https://example.com/").unwrap();
        let policy = Policy::new(&DeliveryOptions::default());
        for count in [20_000usize, 24_568, 24_569, 24_577, 32_760, 40_000] {
            let extra: Headers = (0..count).map(|at| (format!("x-{at}"), "")).collect();
            match prepare(&url, &extra, &keys(), &policy, &HeaderPrefix::Webhook.into()) {
                Ok(template) => {
                    assert!(template.http2(&id(), Bytes::new(), NOW, NOW).is_some(), "{count}");
                    assert!(!template.http1(&id(), Bytes::new(), NOW, NOW).head.is_empty(), "{count}");
                }
                Err(trouble) => assert_eq!(trouble.kind, Failure::Connect, "{count}"),
            }
        }
    }

    #[test]
    fn a_stored_url_that_can_not_be_requested_is_a_failure() {
        let policy = Policy::new(&DeliveryOptions::default());
        let url = EndpointUrl::from_trusted("nonsense".to_owned());
        let refused = prepare(&url, &Headers::new(), &keys(), &policy, &HeaderPrefix::Webhook.into());
        assert_eq!(refused.err().map(|trouble| trouble.kind), Some(Failure::Connect));
    }

    #[test]
    fn every_path_that_a_url_can_have_is_requested_as_it_is() {
        for path in ["/a|b", "/a'b", "/%7Ea^[]", "/?q=`{}|^", "/ü?ü=ü", "//x", "/a;b,c:d@e!$&()*+=", "/?"] {
            let url = EndpointUrl::parse(&format!("https://example.com{path}")).unwrap();
            let request = request_to(url.as_str(), &[], HeaderPrefix::Webhook);
            assert_eq!(format!("https://example.com{}", target(&request)), url.as_str(), "{path}");
        }
    }

    #[test]
    fn a_literal_address_is_refused_before_anything_is_made() {
        let url = EndpointUrl::parse("http://127.0.0.1/").unwrap();
        let policy = Policy::new(&DeliveryOptions::default());
        let refused = prepare(&url, &Headers::new(), &keys(), &policy, &HeaderPrefix::Webhook.into());
        assert_eq!(refused.err().map(|trouble| trouble.kind), Some(Failure::Forbidden));
    }
}
