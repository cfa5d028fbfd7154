//! The URL of an endpoint: judged once, in its normal form, when a caller brings it.
//!
//! * [`EndpointUrl::parse`] normalises first and judges what came of it, so what is accepted is what is stored: a text that
//!   grows when it is percent-encoded is measured after it has grown.
//! * [`EndpointUrl::from_trusted`] takes what a store kept and never refuses: a rule that became stricter must not make
//!   an endpoint unreadable. What can't be requested fails when it is to be requested.
//! * A user and a password are no part of the text. They are [`Credentials`], which nothing shows.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use percent_encoding::percent_decode_str;
use url::Url;

crate::limits! {
    in "Endpoints";
    /// The URL of an endpoint, as it is given and in its normal form (percent-encoded, the host in ASCII)
    pub const MAX_URL_BYTES: usize = 2_048, "bytes", beyond "422";
}

/// An absolute http or https URL with a host, in its normal form (host in lower case, empty path `/`), and apart from it
/// the user and password that it came with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointUrl {
    form: Form,
    credentials: Option<Credentials>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Form {
    Parsed(Box<Url>),
    /// A store kept something that can't be requested.
    Unusable(Box<str>),
}

/// The user and password of a URL, percent-encoded. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    username: Box<str>,
    password: Option<Box<str>>,
}

/// Why a text can't be an endpoint's URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not parse.
    #[error("is not a URL: {0}")]
    Syntax(String),
    /// Another scheme than http or https, or none. (In `localhost:3000` it is `localhost`.)
    #[error("must begin with http:// or https://")]
    Scheme,
    /// No host to connect to.
    #[error("has no host")]
    Host,
    /// Longer than any server takes.
    #[error("must be at most {MAX_URL_BYTES} bytes long, also in its normal form (percent-encoded, the host in ASCII)")]
    Length,
    /// Its normal form is read as another URL.
    #[error("has no normal form")]
    Unstable,
}

impl EndpointUrl {
    /// Normalises a URL, and checks what came of it.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_URL_BYTES {
            return Err(UrlError::Length);
        }
        let url = Url::parse(text).map_err(|error| match error {
            url::ParseError::RelativeUrlWithoutBase => UrlError::Scheme,
            error => UrlError::Syntax(error.to_string()),
        })?;
        if !is_http(&url) {
            return Err(UrlError::Scheme);
        }
        if !has_host(&url) {
            return Err(UrlError::Host);
        }
        if url.as_str().len() > MAX_URL_BYTES {
            return Err(UrlError::Length);
        }
        if Url::parse(url.as_str()).as_ref() != Ok(&url) {
            return Err(UrlError::Unstable);
        }
        Ok(Self::split(url))
    }

    /// A URL that a store kept. It was judged when it was first taken, by the rules of that time.
    pub fn from_trusted(text: String) -> Self {
        match Url::parse(&text) {
            Ok(url) if is_http(&url) && has_host(&url) => Self::split(url),
            _ => Self { form: Form::Unusable(text.into()), credentials: None },
        }
    }

    fn split(mut url: Url) -> Self {
        let credentials = Credentials::of(&url);
        if credentials.is_some() {
            // Both can only fail for URLs without a host.
            let _ = url.set_username("");
            let _ = url.set_password(None);
        }
        Self { form: Form::Parsed(Box::new(url)), credentials }
    }

    /// The normal form, without credentials.
    pub fn as_str(&self) -> &str {
        match &self.form {
            Form::Parsed(url) => url.as_str(),
            Form::Unusable(text) if matches!(without_credentials(text), Cow::Owned(_)) => "",
            Form::Unusable(text) => text,
        }
    }

    /// The parsed URL, without credentials; `None` if it can't be requested.
    pub fn url(&self) -> Option<&Url> {
        match &self.form {
            Form::Parsed(url) => Some(url),
            Form::Unusable(_) => None,
        }
    }

    /// The user and password that it came with.
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// What the header `Authorization` is to be if the URL of an endpoint changes from this one, if it does, and it has none:
    /// its credentials, unless the new URL leads to another origin.
    pub fn authorization_taken_over(&self, after: Option<&Self>) -> Option<String> {
        let same_origin = |after: &Self| self.url().zip(after.url()).is_some_and(|(a, b)| a.origin() == b.origin());
        self.credentials().filter(|_| after.is_none_or(same_origin)).map(Credentials::authorization)
    }

    /// The URL without credentials, and these.
    pub fn into_parts(mut self) -> (Self, Option<Credentials>) {
        let credentials = self.credentials.take();
        (self, credentials)
    }
}

impl Credentials {
    fn of(url: &Url) -> Option<Self> {
        let (username, password) = (url.username(), url.password());
        (!username.is_empty() || password.is_some())
            .then(|| Self { username: username.into(), password: password.map(Into::into) })
    }

    /// What the header `Authorization` says of them: `Basic`, and both in base64.
    pub fn authorization(&self) -> String {
        let mut pair: Vec<u8> = percent_decode_str(&self.username).collect();
        pair.push(b':');
        pair.extend(percent_decode_str(self.password.as_deref().unwrap_or_default()));
        format!("Basic {}", BASE64.encode(pair))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// The text of a URL in its normal form without its user and password. For texts that were kept when URLs still had them.
pub fn without_credentials(text: &str) -> Cow<'_, str> {
    let Some(start) = text.find("://").map(|at| at + 3) else { return Cow::Borrowed(text) };
    let authority = &text[start..];
    let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
    match authority[..end].rfind('@') {
        Some(at) => Cow::Owned(format!("{}{}", &text[..start], &authority[at + 1..])),
        None => Cow::Borrowed(text),
    }
}

fn is_http(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
}

fn has_host(url: &Url) -> bool {
    url.host_str().is_some_and(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_url_is_normalised() {
        assert_eq!(EndpointUrl::parse("http://BAD.url").unwrap().as_str(), "http://bad.url/");
    }

    #[test]
    fn another_scheme_or_no_host_is_refused() {
        for text in ["file:///etc/passwd", "gopher://x", "unix:/tmp/s", "http://", "/hook", "", "ftp://h/"] {
            assert!(EndpointUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numeric_spellings_of_an_address_become_that_address() {
        for text in ["http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/"] {
            assert_eq!(EndpointUrl::parse(text).unwrap().as_str(), "http://127.0.0.1/", "{text}");
        }
    }

    #[test]
    fn a_url_that_grows_when_it_is_normalised_is_measured_after_it_has_grown() {
        for part in ["ü", " ", "\"", "<", "\u{10ffff}"] {
            let text = format!("http://h/{}", part.repeat(900 / part.len().max(1)));
            let most = format!("http://h/?{}x", part.repeat(2_000 / part.len()));
            for text in [&text, &most] {
                match EndpointUrl::parse(text) {
                    Ok(url) => assert!(url.as_str().len() <= MAX_URL_BYTES, "{text}"),
                    Err(error) => assert_eq!(error, UrlError::Length, "{text}"),
                }
            }
            assert_eq!(EndpointUrl::parse(&most), Err(UrlError::Length), "{part}");
        }
        let longest = format!("http://h/{}", "a".repeat(MAX_URL_BYTES - 9));
        assert!(EndpointUrl::parse(&longest).is_ok());
        assert_eq!(EndpointUrl::parse(&format!("{longest}a")), Err(UrlError::Length));
        let user = format!("http://{}@h/", "ü".repeat(900));
        assert_eq!(EndpointUrl::parse(&user), Err(UrlError::Length));
    }

    #[test]
    fn a_stored_url_is_never_judged() {
        let long = format!("http://h/{}", "%C3%BC".repeat(900));
        assert_eq!(EndpointUrl::from_trusted(long.clone()).as_str(), long);
        for text in ["", "nonsense", "ftp://h/", "http://"] {
            let url = EndpointUrl::from_trusted(text.to_owned());
            assert_eq!((url.as_str(), url.url()), (text, None));
        }
    }

    #[test]
    fn credentials_are_no_part_of_the_text() {
        for (text, shown, authorization) in [
            ("https://ali%3Ace:s%40cret@h/a?b", "https://h/a?b", "Basic YWxpOmNlOnNAY3JldA=="),
            ("https://:secret@h/", "https://h/", "Basic OnNlY3JldA=="),
            ("https://user@h:81/", "https://h:81/", "Basic dXNlcjo="),
        ] {
            for url in [EndpointUrl::parse(text).unwrap(), EndpointUrl::from_trusted(text.to_owned())] {
                assert_eq!(url.as_str(), shown);
                assert_eq!(url.credentials().map(Credentials::authorization).as_deref(), Some(authorization));
                assert!(!format!("{url:?}").contains("cret"), "{url:?}");
                let (bare, taken) = url.into_parts();
                assert_eq!((bare, taken.is_some()), (EndpointUrl::parse(shown).unwrap(), true));
            }
            assert_eq!(without_credentials(text), shown);
        }
        assert_eq!(EndpointUrl::from_trusted("foo://a:b@c".to_owned()).as_str(), "");
        assert_eq!(without_credentials("https://h/@a:b@"), "https://h/@a:b@");
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_read_back_as_it_is(rest in "\\PC{0,300}", scheme in "https?") {
            if let Ok(url) = EndpointUrl::parse(&format!("{scheme}://{rest}")) {
                prop_assert!(url.as_str().len() <= MAX_URL_BYTES);
                let (bare, _) = url.into_parts();
                prop_assert_eq!(&EndpointUrl::from_trusted(bare.as_str().to_owned()), &bare);
                prop_assert_eq!(&EndpointUrl::parse(bare.as_str()), &Ok(bare.clone()));
            }
        }
    }
}
