//! Who is calling: `Authorization: Bearer` with an API key (`pk_…`) or a signed token (rest-contract §4).
//!
//! Verified tokens are cached, so that a request costs one hash lookup. The cache is a hint only: a signed token is
//! compared with the clock each time, and an API key is read from the store again after a second, so that one that was
//! revoked by another process stops working within about that time. Whether an application's token was ended before its
//! time, or with the application, is asked of the store with each request.
//!
//! Whoever sends a token may be anybody: it has a greatest length, and is hashed as seldom as possible.
//!
//! Tokens of applications are also made here (rest-contract §4.1): signed with the configured secret, or with one that the
//! store made for itself. The latter is good for tokens of applications only.

mod jwt;
mod usage;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use postrider_domain::application::EnvironmentId;
use postrider_domain::clock::Clock;
use postrider_domain::entropy::Entropy;
use postrider_domain::ids::ApplicationId;
use postrider_domain::names::MAX_NAME_BYTES;
use postrider_domain::time::Timestamp;
use postrider_store::{ApiKey, IssuedToken, KeyHash, Store, StoreError};
use quick_cache::sync::Cache;
use ring::digest::{SHA256, digest};
use tokio::sync::OnceCell;

use crate::http::principal::Principal;
use crate::http::rights::{Capability, Rights};
use crate::options::AuthOptions;
use crate::wire::error::{ApiError, Rejected, Result};
pub use usage::KeyUsage;
use usage::UsageLog;

postrider_domain::limits! {
    in "Requests";
    /// A token or an API key: room for every token that the server itself makes
    pub(crate) const MAX_TOKEN_BYTES: usize = 21_504, "bytes", beyond "401, and `reason` says so";
    /// How far the clocks of whoever signs tokens and of the server may be apart: so long after its `exp` a token is still taken, and so long before its `nbf` and `iat` already
    const LEEWAY_SECONDS: u32 = 900, "seconds", beyond "401";
    in "Tokens of applications";
    /// The feature flags of a token
    pub(crate) const MAX_FEATURE_FLAGS: usize = 50, "flags", beyond "422";
    /// The capabilities of a token
    pub(crate) const MAX_CAPABILITIES: usize = 16, "capabilities", beyond "422";
    /// The name of a session
    pub(crate) const MAX_SESSION_CHARS: usize = 256, "characters", beyond "422";
}

/// The longest claims of a token that is made here, as JSON: every text in its quotation marks and with a comma, of a session and
/// an environment every character escaped, and all the rest.
const MAX_CLAIMS_BYTES: usize = MAX_FEATURE_FLAGS * (MAX_NAME_BYTES + 3)
    + MAX_CAPABILITIES * (Capability::MAX_BYTES + 3)
    + MAX_SESSION_CHARS * r"\u0000".len()
    + 2 * MAX_NAME_BYTES
    + 512;

const _: () = assert!(
    (jwt::HEADER.len() + MAX_CLAIMS_BYTES).div_ceil(3) * 4 + jwt::SIGNATURE_CHARS + "..".len() <= MAX_TOKEN_BYTES,
    "no token that is made here is too long to be taken"
);

/// What API keys begin with.
const KEY_PREFIX: &str = "pk_";

/// The scope of a key that may do everything in its environment.
const ALL_SCOPES: &str = "*";

/// For how long an API key is believed without asking the store.
const KEY_TRUST: Duration = Duration::from_secs(1);

/// The most tokens in the cache.
const CACHED_TOKENS: usize = 10_000;

/// A longer token is not cached: with it, the cache would have no bound in bytes.
const MAX_CACHED_BYTES: usize = 2_048;

/// What the cache takes at most: each token as it came, and what is known of it, which is no longer.
pub(crate) const CACHE_BYTES: u64 = (CACHED_TOKENS * (2 * MAX_CACHED_BYTES + size_of::<Caller>())) as u64;

/// A token to make for an application.
pub(crate) struct NewToken {
    /// The environment that it belongs to.
    pub(crate) environment: EnvironmentId,
    /// The application.
    pub(crate) application: ApplicationId,
    /// Which flagged event types it sees.
    pub(crate) feature_flags: Vec<String>,
    /// What it may do; everything if that is not said.
    pub(crate) capabilities: Option<Vec<Capability>>,
    /// Whether it may only look.
    pub(crate) read_only: bool,
    /// The session that it is for.
    pub(crate) session: Option<String>,
    /// For how long it is good.
    pub(crate) lifetime: Duration,
}

/// A caller with a token that was found good.
#[derive(Debug)]
pub(crate) struct Caller {
    /// Whom the token speaks for.
    pub(crate) principal: Principal,
    /// SHA-256 of the token: tells callers apart without keeping what they said.
    pub(crate) fingerprint: [u8; 32],
    /// What it takes to find out whether the token was ended, or its application; only those of applications can be.
    issued: Option<IssuedToken>,
    proof: Proof,
}

/// Why the token is good, and for how long.
#[derive(Debug)]
enum Proof {
    Signed(jwt::Validity),
    Key { expires_at: Option<Timestamp>, read_at: AtomicI64 },
}

/// What the cache says of a token.
enum Cached {
    Good(Arc<Caller>),
    Expired,
    /// To be read again.
    Stale(Arc<Caller>),
    Unknown,
}

/// Finds out who is calling.
pub(crate) struct Authenticator {
    verifier: Option<jwt::Verifier>,
    /// The hash of the secret, to recognise it where a token should be.
    secret_hash: Option<[u8; 32]>,
    /// Its length: nothing else is hashed to be compared with it.
    secret_bytes: usize,
    /// Signs and verifies with the store's own secret, once that was needed.
    own: OnceCell<jwt::Verifier>,
    entropy: Arc<dyn Entropy>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    cache: Cache<Box<str>, Arc<Caller>>,
    usage: Arc<UsageLog>,
}

impl Authenticator {
    /// Accepts keys of `store`, and tokens if `options` has a secret for them.
    pub(crate) fn new(
        options: &AuthOptions,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let verifier = options.jwt_secret.as_ref().and_then(|secret| jwt::Verifier::new(secret.reveal().as_bytes()));
        Self {
            verifier,
            secret_hash: options.jwt_secret.as_ref().map(|secret| sha256(secret.reveal())),
            secret_bytes: options.jwt_secret.as_ref().map_or(0, |secret| secret.reveal().len()),
            own: OnceCell::new(),
            entropy,
            store,
            clock,
            cache: Cache::new(CACHED_TOKENS),
            usage: Arc::default(),
        }
    }

    /// What writes down when keys were used.
    pub(crate) fn key_usage(&self) -> KeyUsage {
        KeyUsage::new(self.usage.clone(), self.store.clone(), self.clock.clone())
    }

    /// Who sent a request with these headers; 401 if that can't be told.
    pub(crate) async fn caller(&self, headers: &HeaderMap) -> Result<Arc<Caller>> {
        let token = bearer(headers).map_err(ApiError::Unauthorized)?;
        let caller = self.known(token).await?;
        caller.principal.asker().named();
        if let Some(issued) = &caller.issued
            && self.store.token_is_expired(issued, self.clock.now()).await?
        {
            return Err(ApiError::Unauthorized(Rejected::Ended));
        }
        Ok(caller)
    }

    /// Whose token this is, from the cache if possible.
    async fn known(&self, token: &str) -> Result<Arc<Caller>> {
        match self.cached(token) {
            Cached::Good(caller) => return Ok(caller),
            Cached::Expired if token.starts_with(KEY_PREFIX) => {
                return Err(ApiError::Unauthorized(Rejected::ExpiredKey));
            }
            Cached::Expired => return Err(ApiError::Unauthorized(Rejected::Expired)),
            // Does not wait behind strangers.
            Cached::Stale(caller) => caller.principal.asker().named(),
            Cached::Unknown => {}
        }
        let is_key = token.starts_with(KEY_PREFIX);
        let caller = if is_key { self.by_key(token).await } else { self.by_signature(token).await };
        match caller {
            Ok(caller) => {
                let caller = Arc::new(caller);
                if token.len() <= MAX_CACHED_BYTES {
                    self.cache.insert(token.into(), caller.clone());
                }
                Ok(caller)
            }
            Err(error) => {
                self.cache.remove(token);
                Err(error)
            }
        }
    }

    fn cached(&self, token: &str) -> Cached {
        let Some(caller) = self.cache.get(token) else { return Cached::Unknown };
        let good = match &caller.proof {
            Proof::Signed(validity) => validity.holds_at(self.clock.wall()),
            Proof::Key { expires_at, read_at } => {
                let now = self.clock.now();
                if now.since(Timestamp::from_micros(read_at.load(Ordering::Relaxed))) >= KEY_TRUST {
                    return Cached::Stale(caller);
                }
                expires_at.is_none_or(|at| now < at)
            }
        };
        if good { Cached::Good(caller) } else { Cached::Expired }
    }

    async fn by_signature(&self, token: &str) -> Result<Caller> {
        let claims = match self.verifier.as_ref().map(|verifier| verifier.claims(token)) {
            Some(Ok(claims)) => claims,
            // Not hashed again for a secret that it can't be signed with.
            _ if !jwt::may_be_made_here(token) => return Err(ApiError::Unauthorized(self.not_signed(token))),
            // The store's own secret speaks for applications only: `org` is what makes a token one of those.
            _ => match self.own().await?.claims(token) {
                Ok(claims) if claims.org.is_some() => claims,
                _ => return Err(ApiError::Unauthorized(self.not_signed(token))),
            },
        };
        if !claims.validity.holds_at(self.clock.wall()) {
            return Err(ApiError::Unauthorized(Rejected::Expired));
        }
        let (proof, session) = (Proof::Signed(claims.validity), claims.session_id.clone());
        let issued_at = claims.validity.issued_at();
        let principal = principal(claims).ok_or_else(bad_token)?;
        let issued = match &principal {
            Principal::Environment(_) => None,
            Principal::Application { environment, application, .. } => {
                let (environment, application) = (environment.clone(), *application);
                Some(IssuedToken { environment, application, session, issued_at })
            }
        };
        Ok(Caller { principal, fingerprint: sha256(token), issued, proof })
    }

    /// Why a text is not taken for a signed token.
    fn not_signed(&self, token: &str) -> Rejected {
        if token.len() == self.secret_bytes && self.secret_hash.is_some_and(|hash| hash == sha256(token)) {
            return Rejected::Secret;
        }
        if token.matches('.').count() == 2 { Rejected::NotSigned } else { Rejected::Malformed }
    }

    async fn own(&self) -> Result<&jwt::Verifier> {
        let read = async {
            let mut candidate = [0; 32];
            self.entropy.fill(&mut candidate);
            let secret = self.store.token_secret(candidate).await?;
            let none = || StoreError::Unavailable("its secret for tokens is empty".to_owned());
            jwt::Verifier::new(&secret).ok_or_else(none)
        };
        Ok(self.own.get_or_try_init(|| read).await?)
    }

    /// Makes a token for an application.
    pub(crate) async fn issue(&self, new: NewToken) -> Result<String> {
        let signer = match &self.verifier {
            Some(signer) => signer,
            None => self.own().await?,
        };
        let wall = self.clock.wall();
        // With a fraction, so that tokens made right before and right after others were ended can be told apart.
        let seconds = |at: Timestamp| at.as_micros() as f64 / 1e6;
        let mut claims = serde_json::json!({
            "sub": new.application,
            "org": new.environment.as_str(),
            "iss": "postrider",
            "iat": seconds(wall),
            "nbf": seconds(wall),
            "exp": seconds(wall.saturating_add(new.lifetime)),
        });
        if let Some(claims) = claims.as_object_mut() {
            let mut add = |name: &str, value: serde_json::Value| claims.insert(name.to_owned(), value);
            if !new.feature_flags.is_empty() {
                add("feature_flags", new.feature_flags.into());
            }
            if let Some(capabilities) = new.capabilities {
                add("capabilities", serde_json::json!(capabilities));
            }
            if new.read_only {
                add("read_only", true.into());
            }
            if let Some(session) = new.session {
                add("session_id", session.into());
            }
        }
        Ok(signer.sign(&claims))
    }

    async fn by_key(&self, token: &str) -> Result<Caller> {
        let fingerprint = sha256(token);
        let hash = KeyHash(fingerprint);
        let now = self.clock.now();
        let key = self.store.api_key(&hash).await?.ok_or(ApiError::Unauthorized(Rejected::UnknownKey))?;
        let ApiKey { environment, scopes, expires_at, .. } = key;
        if expires_at.is_some_and(|at| at <= now) {
            return Err(ApiError::Unauthorized(Rejected::ExpiredKey));
        }
        if !scopes.iter().any(|scope| scope == ALL_SCOPES) {
            return Err(ApiError::insufficient_access());
        }
        // Once a second at most, because that is how often a key is read.
        self.usage.note(hash, now);
        let proof = Proof::Key { expires_at, read_at: AtomicI64::new(now.as_micros()) };
        Ok(Caller { principal: Principal::Environment(environment), fingerprint, issued: None, proof })
    }
}

/// The token of an `Authorization: Bearer` header; the scheme's case does not matter. One that is too long is looked at no further.
fn bearer(headers: &HeaderMap) -> Result<&str, Rejected> {
    let value = headers.get(header::AUTHORIZATION).ok_or(Rejected::Missing)?;
    let parts = value.to_str().ok().and_then(|text| text.split_once(' '));
    let (scheme, token) = parts.ok_or(Rejected::NotBearer)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Rejected::NotBearer);
    }
    if token.len() > MAX_TOKEN_BYTES { Err(Rejected::TooLong) } else { Ok(token) }
}

fn principal(claims: jwt::Claims) -> Option<Principal> {
    let sub = claims.sub?;
    let Some(org) = claims.org else { return EnvironmentId::parse(&sub).map(Principal::Environment) };
    Some(Principal::Application {
        environment: EnvironmentId::parse(&org)?,
        application: sub.parse().ok()?,
        feature_flags: claims.feature_flags,
        rights: match claims.capabilities {
            _ if claims.read_only => Rights::READ_ONLY,
            None => Rights::ALL,
            // A capability of a later version allows nothing here.
            Some(names) => Rights::of(&names.iter().filter_map(|name| capability(name)).collect::<Vec<_>>()),
        },
    })
}

fn capability(name: &str) -> Option<Capability> {
    serde_json::from_value(name.into()).ok()
}

/// 400: signed with the secret, but for nothing that there is.
fn bad_token() -> ApiError {
    ApiError::new(
        StatusCode::BAD_REQUEST,
        "bad token",
        "The token is neither for an environment nor for an application: `sub` must be the id of an environment (org_…) without `org`, or \
         that of an application (app_…) with its environment in `org`.",
    )
}

fn sha256(text: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_taken_from_its_header() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bEARER  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("Bearer ", None),
            ("abc", None),
        ] {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            assert_eq!(bearer(&headers).ok(), token, "{value}");
        }
        for (bytes, refused) in [(MAX_TOKEN_BYTES, None), (MAX_TOKEN_BYTES + 1, Some(Rejected::TooLong))] {
            let value = format!("Bearer {}", "a".repeat(bytes)).parse().unwrap();
            assert_eq!(bearer(&HeaderMap::from_iter([(header::AUTHORIZATION, value)])).err(), refused, "{bytes}");
        }
        assert_eq!(bearer(&HeaderMap::new()), Err(Rejected::Missing));
    }

    #[test]
    fn the_subject_says_whom_a_token_speaks_for() {
        let claims = |sub: &str, org: Option<&str>| jwt::Claims {
            sub: Some(sub.to_owned()),
            org: org.map(str::to_owned),
            ..jwt::Claims::default()
        };
        let app = "app_0ujtsYcgvSTl8PAuAdqWYSMnLOv";
        assert!(matches!(principal(claims("org_x", None)), Some(Principal::Environment(_))));
        assert!(matches!(principal(claims(app, Some("org_x"))), Some(Principal::Application { .. })));
        for (sub, org) in [("user_1", None), (app, None), ("org_x", Some("org_x")), (app, Some("x")), ("", None)] {
            assert_eq!(principal(claims(sub, org)), None, "{sub} {org:?}");
        }
        assert_eq!(principal(jwt::Claims::default()), None);
    }
}
