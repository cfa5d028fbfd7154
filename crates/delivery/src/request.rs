//! The signed request: what is fixed per endpoint is prepared once (`Template`), what changes per attempt is added.
//!
//! The body is the message's payload, byte for byte, and what is signed is what is sent. The signature's timestamp is the
//! system clock's at the attempt, because the receiver compares it with its own clock.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};
use percent_encoding::percent_decode_str;
use postrider_domain::delivery::Failure;
use postrider_domain::endpoint::{EndpointUrl, Headers};
use postrider_domain::ids::MessageId;
use postrider_domain::signature::SigningKeys;
use postrider_domain::time::Timestamp;

use crate::answer::Trouble;
use crate::connect::{Origin, forbidden};
use crate::connection::Payload;
use crate::egress::Policy;
use crate::options::HeaderPrefix;

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

/// Everything of an endpoint's requests that does not change from one attempt to the next.
pub(crate) struct Template {
    pub(crate) origin: Arc<Origin>,
    /// `/path?query`, as HTTP/1 wants it.
    path: Uri,
    /// The whole URI, as HTTP/2 wants it.
    absolute: Uri,
    /// With `host` and empty values for the signature's headers, so that a copy only needs them set.
    headers: HeaderMap,
    names: SignatureNames,
    keys: SigningKeys,
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
    let parsed = url.url();
    let unusable = || Trouble::new(Failure::Connect, "the URL cannot be requested");
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
    let headers = template(&authority, parsed, extra, names).ok_or_else(unusable)?;
    let authority = Authority::try_from(headers[header::HOST].as_bytes()).map_err(|_| unusable())?;
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(path.clone());
    parts.authority = Some(authority);
    parts.scheme = Some(if https { Scheme::HTTPS } else { Scheme::HTTP });
    let absolute = Uri::from_parts(parts).map_err(|_| unusable())?;
    Ok(Template { origin, path: path.into(), absolute, headers, names: names.clone(), keys: keys.clone() })
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

fn template(authority: &str, url: &url::Url, extra: &Headers, names: &SignatureNames) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(8 + extra.len());
    headers.insert(header::HOST, HeaderValue::from_str(authority).ok()?);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    for name in [&names.id, &names.timestamp, &names.signature] {
        headers.insert(name, HeaderValue::from_static(""));
    }
    headers.extend(basic_auth(url).map(|value| (header::AUTHORIZATION, value)));
    for (name, value) in extra {
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(value)) if !is_reserved(&name) => {
                headers.insert(name, value);
            }
            _ => tracing::warn!(header = %name.escape_debug(), "an endpoint's header cannot be sent and is left out"),
        }
    }
    Some(headers)
}

/// `Authorization` for a URL with a user or a password in it.
fn basic_auth(url: &url::Url) -> Option<HeaderValue> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or_default()));
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
    let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Template {
    /// The request of one attempt. `wall` is what the system clock says, `now` tells which keys are in force.
    pub(crate) fn request(
        &self,
        version: Version,
        id: &MessageId,
        payload: Bytes,
        wall: Timestamp,
        now: Timestamp,
    ) -> Option<Request<Payload>> {
        let timestamp = HeaderValue::from(wall.as_seconds());
        // Exactly as long as an id is, so that it becomes a header value without being copied.
        let mut id_text = String::with_capacity(31);
        write!(id_text, "{id}").ok()?;
        let signature = self.keys.sign_text(&id_text, timestamp.to_str().ok()?, &payload, now);
        let mut headers = self.headers.clone();
        *headers.get_mut(&self.names.id)? = HeaderValue::from_maybe_shared(Bytes::from(id_text)).ok()?;
        *headers.get_mut(&self.names.timestamp)? = timestamp;
        *headers.get_mut(&self.names.signature)? = HeaderValue::from_maybe_shared(Bytes::from(signature)).ok()?;
        if payload.is_empty() {
            // hyper takes an empty body for none, and would leave the length out.
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let mut request = Request::new(Payload::new(payload));
        *request.method_mut() = Method::POST;
        if version == Version::HTTP_2 {
            headers.remove(header::HOST);
            *request.uri_mut() = self.absolute.clone();
        } else {
            *request.uri_mut() = self.path.clone();
        }
        *request.version_mut() = version;
        *request.headers_mut() = headers;
        Some(request)
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

    fn request_to(url: &str, extra: &[(&str, &str)], prefix: HeaderPrefix, version: Version) -> Request<Payload> {
        let url = EndpointUrl::parse(url).unwrap();
        let extra = extra.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let policy = Policy::new(&DeliveryOptions::default());
        let template = prepare(&url, &extra, &keys(), &policy, &prefix.into()).unwrap();
        let id = MessageId::new(NOW, &SeededEntropy::new(2));
        template.request(version, &id, Bytes::from_static(b"{}"), NOW, NOW).unwrap()
    }

    fn header<'a>(request: &'a Request<Payload>, name: &str) -> &'a str {
        request.headers()[name].to_str().unwrap()
    }

    #[test]
    fn a_request_is_signed_over_what_it_carries() {
        let request = request_to("https://example.com/hook?a=b", &[], HeaderPrefix::Webhook, Version::HTTP_11);
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri(), "/hook?a=b");
        assert_eq!(header(&request, "host"), "example.com");
        assert_eq!(header(&request, "content-type"), "application/json");
        assert_eq!(header(&request, "accept"), "*/*");
        assert!(header(&request, "user-agent").starts_with("Postrider/"));
        assert_eq!(header(&request, "webhook-timestamp"), "1767323045");
        let id = header(&request, "webhook-id").parse().unwrap();
        assert_eq!(header(&request, "webhook-signature"), keys().sign(&id, "1767323045", b"{}", NOW));
        assert!(request.headers().get("accept-encoding").is_none());
    }

    #[test]
    fn receivers_that_know_only_the_other_names_get_those_instead() {
        let request = request_to("https://example.com/", &[], HeaderPrefix::Svix, Version::HTTP_11);
        for name in ["id", "timestamp", "signature"] {
            assert!(!header(&request, &format!("svix-{name}")).is_empty());
            assert!(request.headers().get(format!("webhook-{name}")).is_none());
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
            assert_eq!(header(&request_to(url, &[], HeaderPrefix::Webhook, Version::HTTP_11), "host"), host, "{url}");
        }
    }

    #[test]
    fn http2_gets_the_whole_uri_and_no_host() {
        let request = request_to("https://example.com:8443/a?b", &[], HeaderPrefix::Webhook, Version::HTTP_2);
        assert_eq!(request.uri(), "https://example.com:8443/a?b");
        assert!(request.headers().get("host").is_none());
    }

    #[test]
    fn a_user_and_password_become_basic_auth_unless_there_is_an_authorization_header() {
        let url = "https://ali%3Ace:s%40cret@example.com/";
        let request = request_to(url, &[], HeaderPrefix::Webhook, Version::HTTP_11);
        assert_eq!(header(&request, "authorization"), "Basic YWxpOmNlOnNAY3JldA==");
        assert_eq!(header(&request, "host"), "example.com");
        let own = request_to(url, &[("AUTHORIZATION", "Bearer x")], HeaderPrefix::Webhook, Version::HTTP_11);
        assert_eq!(header(&own, "authorization"), "Bearer x");
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
        let request = request_to("https://example.com/", &extra, HeaderPrefix::Webhook, Version::HTTP_11);
        assert_eq!(header(&request, "accept"), "text/plain");
        assert_eq!(header(&request, "x-custom"), "1");
        assert_ne!(header(&request, "webhook-signature"), "v1,forged");
        for name in ["content-length", "transfer-encoding", "connection", "x-bad"] {
            assert!(request.headers().get(name).is_none(), "{name}");
        }
    }

    #[test]
    fn every_path_that_a_url_can_have_is_requested_as_it_is() {
        for path in ["/a|b", "/a'b", "/%7Ea^[]", "/?q=`{}|^", "/ü?ü=ü", "//x", "/a;b,c:d@e!$&()*+=", "/?"] {
            let url = EndpointUrl::parse(&format!("https://example.com{path}")).unwrap();
            let request = request_to(url.as_str(), &[], HeaderPrefix::Webhook, Version::HTTP_11);
            assert_eq!(format!("https://example.com{}", request.uri()), url.as_str(), "{path}");
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
