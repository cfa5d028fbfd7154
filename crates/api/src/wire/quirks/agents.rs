//! Answers that depend on which client library asks.

use http::{HeaderMap, header};

/// Whether the answer to a rotation must be 200 with the new key, and not 204 (rest-contract §9.4).
///
/// SDKs from 2.7.0 parse a body and fail without one; older ones in Java, Kotlin and C# fail with one. They name
/// themselves `svix-libs/<version>/<language>`.
pub(crate) fn wants_rotated_key(headers: &HeaderMap) -> bool {
    headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).and_then(sdk_version) >= Some((2, 7))
}

fn sdk_version(agent: &str) -> Option<(u32, u32)> {
    let version = agent.strip_prefix("svix-libs/")?.split('/').next()?;
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sdks_from_2_7_want_the_rotated_key() {
        for (agent, wants) in [
            ("svix-libs/2.7.0/rust", true),
            ("svix-libs/2.10.3/python extra", true),
            ("svix-libs/3.0.0/go", true),
            ("svix-libs/2.6.9/java", false),
            ("svix-libs/1.99.1/python", false),
            ("svix-libs/x/python", false),
            ("curl/8.5.0", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(header::USER_AGENT, agent.parse().unwrap())]);
            assert_eq!(wants_rotated_key(&headers), wants, "{agent}");
        }
        assert!(!wants_rotated_key(&HeaderMap::new()));
    }
}
