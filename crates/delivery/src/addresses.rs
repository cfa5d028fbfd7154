//! In which order the addresses of a host are tried, and which of them have failed lately.
//!
//! An address that failed, in whatever way and at whatever step, comes after all others for a while, so that the others
//! get their chance at the next attempt at the latest. If all have failed, the one that failed longest ago is first: they
//! take turns.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use postrider_domain::time::Timestamp;

use crate::aged::Aged;
use crate::origin::Origin;

postrider_domain::limits! {
    in "Connections to receivers";
    /// Addresses of one name that are tried in one attempt
    pub const MAX_ADDRESSES: usize = 8, "addresses", beyond "they are left to the next attempt";
    /// Addresses that have failed and are remembered, for five minutes
    pub const MAX_FAILED: usize = 4_096, "addresses", beyond "the one that failed longest ago is forgotten";
}

/// How long it counts that an address failed.
const MEMORY: Duration = Duration::from_secs(300);

/// Addresses that have failed lately, by host: what one host's certificate is worth says nothing of another's.
#[derive(Debug, Default)]
pub(crate) struct Failed(Mutex<Aged<Arc<(url::Host, SocketAddr)>, Timestamp, MAX_FAILED>>);

impl Failed {
    /// Remembers that these failed.
    pub(crate) fn blame(&self, origin: &Origin, addresses: &[SocketAddr], now: Timestamp) {
        // A literal address has no other to give the turn to.
        if !matches!(origin.host, url::Host::Domain(_)) {
            return;
        }
        let mut failed = self.0.lock();
        for address in addresses {
            failed.insert(Arc::new((origin.host.clone(), *address)), now);
        }
    }

    /// Forgets that this one failed.
    pub(crate) fn praise(&self, origin: &Origin, address: SocketAddr) {
        let mut failed = self.0.lock();
        if !failed.is_empty() {
            failed.remove(&(origin.host.clone(), address));
        }
    }

    /// The addresses that are to be tried, in their order.
    pub(crate) fn order(&self, origin: &Origin, found: &[IpAddr], now: Timestamp) -> Vec<SocketAddr> {
        let mut order: Vec<_> =
            interleaved(found).into_iter().map(|address| SocketAddr::new(address, origin.port)).collect();
        let failed = self.0.lock();
        if !failed.is_empty() {
            let lately = |address: &SocketAddr| {
                let at = failed.get(&(origin.host.clone(), *address)).copied();
                at.filter(|at| now.since(*at) < MEMORY)
            };
            // Stable: those that did not fail keep their places.
            order.sort_by_cached_key(lately);
        }
        drop(failed);
        order.truncate(MAX_ADDRESSES);
        order
    }
}

/// Both families in turn, each in its own order, beginning with the family of the first (RFC 8305 §4).
fn interleaved(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let Some(first) = addresses.first() else { return Vec::new() };
    let (mut same, mut other): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses.iter().rev().copied().partition(|address| address.is_ipv4() == first.is_ipv4());
    let mut order = Vec::with_capacity(addresses.len());
    while !(same.is_empty() && other.is_empty()) {
        order.extend(same.pop().into_iter().chain(other.pop()));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn origin(host: &str) -> Origin {
        Origin { https: true, host: url::Host::Domain(host.to_owned()), port: 443 }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn order(failed: &Failed, host: &str, found: &[&str], now: Timestamp) -> Vec<IpAddr> {
        failed.order(&origin(host), &parse(found), now).iter().map(SocketAddr::ip).collect()
    }

    #[test]
    fn addresses_of_both_families_take_turns() {
        let given = parse(&["2606::1", "2606::2", "2606::3", "1.1.1.1", "1.1.1.2"]);
        assert_eq!(interleaved(&given), parse(&["2606::1", "1.1.1.1", "2606::2", "1.1.1.2", "2606::3"]));
        assert_eq!(interleaved(&parse(&["1.1.1.1", "2606::1"])), parse(&["1.1.1.1", "2606::1"]));
        assert_eq!(interleaved(&[]), Vec::<IpAddr>::new());
    }

    #[test]
    fn an_address_that_failed_comes_last_for_a_while_and_only_for_its_host() {
        let (failed, found) = (Failed::default(), ["1.1.1.1", "1.1.1.2", "1.1.1.3"]);
        let blame = |text: &str, now| {
            failed.blame(&origin("a"), &[SocketAddr::new(text.parse().unwrap(), 443)], now);
        };
        blame("1.1.1.1", at(0));
        assert_eq!(order(&failed, "a", &found, at(1)), parse(&["1.1.1.2", "1.1.1.3", "1.1.1.1"]));
        assert_eq!(order(&failed, "b", &found, at(1)), parse(&found));
        blame("1.1.1.3", at(1));
        blame("1.1.1.2", at(2));
        assert_eq!(order(&failed, "a", &found, at(3)), parse(&["1.1.1.1", "1.1.1.3", "1.1.1.2"]), "they take turns");
        failed.praise(&origin("a"), "1.1.1.2:443".parse().unwrap());
        assert_eq!(order(&failed, "a", &found, at(3))[0], parse(&["1.1.1.2"])[0]);
        assert_eq!(order(&failed, "a", &found, at(302)), parse(&found));
    }

    #[test]
    fn what_has_failed_is_remembered_within_a_bound_and_what_fails_again_takes_no_place_of_another() {
        let (failed, found) = (Failed::default(), ["1.1.1.1", "1.1.1.2"]);
        let bad = SocketAddr::new("1.1.1.1".parse().unwrap(), 443);
        let is_known = |number: usize| order(&failed, &format!("host{number}"), &found, at(1))[0] != bad.ip();
        for number in 0..MAX_FAILED {
            failed.blame(&origin(&format!("host{number}")), &[bad], at(0));
        }
        for _ in 0..2 {
            failed.blame(&origin("host1"), &[bad], at(1));
        }
        assert_eq!([0, 1, 2].map(is_known), [true; 3]);
        failed.blame(&origin("another"), &[bad], at(1));
        assert_eq!([0, 1, 2].map(is_known), [false, true, true]);
    }

    #[test]
    fn the_ninth_address_has_its_chance_when_eight_have_failed() {
        let failed = Failed::default();
        let found: Vec<String> = (1..=9).map(|number| format!("1.1.1.{number}")).collect();
        let found: Vec<&str> = found.iter().map(String::as_str).collect();
        let first = failed.order(&origin("a"), &parse(&found), at(0));
        assert_eq!(first.len(), MAX_ADDRESSES);
        failed.blame(&origin("a"), &first, at(0));
        assert_eq!(order(&failed, "a", &found, at(1))[0], parse(&["1.1.1.9"])[0]);
    }
}
