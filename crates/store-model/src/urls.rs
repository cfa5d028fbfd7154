//! URLs that attempts name. That of an endpoint has a row from the first attempt on, and is retired when the endpoint gets another
//! one; what was under way then names it when it ends.

use std::time::Duration;

use postrider_domain::endpoint::EndpointUrl;
use postrider_domain::time::Timestamp;
use postrider_store::{ApplicationKey, AttemptRecord, EndpointKey, FORMER_URLS_PER_DAY, WriteError};

use crate::records::{Url, Use};
use crate::state::{Kind, State};

/// When an attempt ended.
pub(crate) fn ended(attempt: &AttemptRecord) -> Timestamp {
    attempt.started_at.saturating_add(Duration::from_millis(attempt.duration_ms.into()))
}

impl State {
    /// The number of the URL that an attempt names.
    pub(crate) fn url_of(&mut self, endpoint: EndpointKey, attempt: &AttemptRecord) -> i64 {
        let is_it = |url: &Url| url.endpoint == endpoint && url.url == *attempt.url;
        let present = self.urls.iter().find(|(_, url)| is_it(url) && url.retired_at.is_none());
        if let Some((number, _)) = present {
            return *number;
        }
        if self.endpoints.get(&endpoint).is_some_and(|receiver| receiver.endpoint.url.as_str() == &*attempt.url) {
            return self.add_url(endpoint, &attempt.url, None);
        }
        // It was another one when the attempt began.
        let was_then = |url: &Url| url.retired_at.is_some_and(|at| at >= attempt.started_at);
        let former = self.urls.iter().filter(|(_, url)| is_it(url) && was_then(url));
        if let Some((number, _)) = former.min_by_key(|(number, url)| (url.retired_at, **number)) {
            return *number;
        }
        let ended = ended(attempt);
        let number = self.add_url(endpoint, &attempt.url, Some(ended));
        if let Some(application) = self.application_of(endpoint) {
            self.take(application, Use::Urls, self.urls[&number].bytes(), FORMER_URLS_PER_DAY, ended);
        }
        number
    }

    fn add_url(&mut self, endpoint: EndpointKey, url: &str, retired_at: Option<Timestamp>) -> i64 {
        let number = self.next_number(Kind::Url);
        self.urls.insert(number, Url { endpoint, url: url.to_owned(), retired_at });
        number
    }

    /// Makes the URL that an endpoint had a former one. Attempts that are under way name it when they end, so it has a row also
    /// if none has yet; unless nothing was ever sent there.
    pub(crate) fn retire_url(
        &mut self,
        key: EndpointKey,
        application: ApplicationKey,
        url: &EndpointUrl,
        now: Timestamp,
    ) -> Result<(), WriteError> {
        let (mut bytes, mut has_row) = (0, false);
        for present in self.urls.values_mut().filter(|url| url.endpoint == key && url.retired_at.is_none()) {
            present.retired_at = Some(now);
            bytes += present.bytes();
            has_row |= present.url == url.as_str();
        }
        let is_used = self.attempts_at(key).next().is_some() || self.pending(key).next().is_some();
        if !has_row && is_used {
            let number = self.add_url(key, url.as_str(), Some(now));
            bytes += self.urls[&number].bytes();
        }
        let spent = self.spend(application, Use::Urls, bytes, FORMER_URLS_PER_DAY, now);
        spent.map(drop).map_err(|wait| WriteError::ManyUrls { most: FORMER_URLS_PER_DAY, wait })
    }
}
