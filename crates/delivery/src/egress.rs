//! The egress policy: which targets a delivery may be made to.
//!
//! Customers choose the URLs, so a URL may be a way to reach what only this machine can reach: the cloud's metadata
//! service, a database, the server itself. Every address that is not plainly public, or is this machine's own, is forbidden
//! unless `delivery.allow_subnets` covers it. The check is made twice: for a literal address when an endpoint is created
//! ([`Policy::check_literal`]), and for every address that is about to be dialled ([`Policy::check`]). The second one is
//! what counts, because a name may resolve differently at any time.
//!
//! Ports of well-known services that are no HTTP are refused, too, unless `delivery.allow_ports` names them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use postrider_domain::endpoint::EndpointUrl;

use crate::options::{DeliveryOptions, Ports};
use crate::ours;
use crate::own::is_own;

/// Ports that are refused unless `delivery.allow_ports` names them: those of well-known services that are not meant for
/// HTTP from outside. A request to one is a nuisance or an attack, and what comes of it would tell a tenant which of them
/// run where. The "bad ports" of the Fetch standard, and in the last line databases, caches, queues and remote control.
const WELL_KNOWN_PORTS: [u16; 97] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109,
    110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531,
    532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060,
    5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080, //
    445, 1433, 1521, 2375, 2379, 3306, 3389, 5432, 5672, 5900, 6379, 9042, 11211, 27017,
];

/// Why a target is forbidden. The texts are for the endpoint's owner: they name no address, so that nobody can find out
/// through them what a name resolves to inside this network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// The address, or one of the addresses of the name, is not public. (Of a name something else is said: see `connect.rs`.)
    #[error("the host is a private, local or reserved address, which is not delivered to")]
    Address,
    /// The port is a well-known service's.
    #[error("port {0} belongs to a non-HTTP service and is blocked")]
    Port(u16),
    /// The URL is http, and `delivery.https_only` is set.
    #[error("only https URLs are delivered to")]
    Plaintext,
    /// Nobody's fault but this machine's: it cannot say at present whether the address is its own. Only at dial.
    #[error("whether the address is this machine's own could not be found out here")]
    Unknown {
        /// Because this machine lacks what closing connections would give back.
        starved: bool,
    },
}

impl Forbidden {
    /// What lets such a target be delivered to. For operators: customers do not choose settings.
    pub fn remedy(self) -> Option<&'static str> {
        match self {
            Self::Address => Some(
                "to allow it, name its network in delivery.allow_subnets (`postrider serve --dev` allows loopback addresses)",
            ),
            Self::Port(_) => Some("to allow it, name it in delivery.allow_ports"),
            Self::Plaintext | Self::Unknown { .. } => None,
        }
    }
}

/// Which targets may be delivered to.
#[derive(Debug, Clone)]
pub struct Policy {
    allowed: Vec<IpNet>,
    allowed_ports: Ports,
    https_only: bool,
}

impl Policy {
    /// The policy of these settings.
    pub fn new(options: &DeliveryOptions) -> Self {
        Self {
            allowed: options.allow_subnets.0.iter().map(unmapped).collect(),
            allowed_ports: options.allow_ports.clone(),
            https_only: options.https_only,
        }
    }

    /// Checks what can be known of a URL without resolving its name.
    pub fn check_literal(&self, url: &EndpointUrl) -> Result<(), Forbidden> {
        // What can't be requested is not dialled either.
        let Some(url) = url.url() else { return Ok(()) };
        if self.https_only && url.scheme() != "https" {
            return Err(Forbidden::Plaintext);
        }
        if let Some(port) = url.port_or_known_default() {
            self.check_port(port)?;
        }
        match url.host() {
            Some(url::Host::Ipv4(address)) => self.check_for_now(address.into()),
            Some(url::Host::Ipv6(address)) => self.check_for_now(address.into()),
            Some(url::Host::Domain(_)) | None => Ok(()),
        }
    }

    /// What cannot be known now is left to the check at dial.
    fn check_for_now(&self, address: IpAddr) -> Result<(), Forbidden> {
        match self.check(address) {
            Err(Forbidden::Unknown { .. }) => Ok(()),
            known => known,
        }
    }

    fn check_port(&self, port: u16) -> Result<(), Forbidden> {
        if WELL_KNOWN_PORTS.contains(&port) && !self.allowed_ports.contains(port) {
            return Err(Forbidden::Port(port));
        }
        Ok(())
    }

    /// Checks an address that is about to be dialled.
    pub fn check(&self, address: IpAddr) -> Result<(), Forbidden> {
        // What a mapped address reaches is the IPv4 address, so a network that covers that one covers both.
        let reached = address.to_canonical();
        if self.allowed.iter().any(|network| network.contains(&address) || network.contains(&reached)) {
            return Ok(());
        }
        match address {
            IpAddr::V4(public) if is_reserved_v4(public) => Err(Forbidden::Address),
            IpAddr::V6(public) => match translated(public) {
                Some(inside) => self.check(inside.into()),
                None if is_reserved_v6(public) => Err(Forbidden::Address),
                None => refuse_own(address),
            },
            IpAddr::V4(_) => refuse_own(address),
        }
    }
}

fn refuse_own(address: IpAddr) -> Result<(), Forbidden> {
    match is_own(address) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Forbidden::Address),
        Err(error) => {
            tracing::debug!(%error, "whether an address is this machine's own could not be found out: nothing is sent to it");
            Err(Forbidden::Unknown { starved: ours::is_limit(&error) })
        }
    }
}

/// Allowed networks that are larger than any private one, and hold much that is none of a receiver's.
pub fn opened_wide(options: &DeliveryOptions) -> Vec<IpNet> {
    let largest_private = |network: &IpNet| if matches!(network, IpNet::V4(_)) { 8 } else { 7 };
    let networks = options.allow_subnets.0.iter().map(unmapped);
    networks.filter(|network| network.prefix_len() < largest_private(network)).collect()
}

/// A network of IPv4-mapped addresses as the IPv4 network that it is; any other as it was.
fn unmapped(network: &IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else { return *network };
    let inside = mapped.addr().to_ipv4_mapped().zip(mapped.prefix_len().checked_sub(96));
    inside.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(*network, IpNet::V4)
}

/// The IPv4 address inside `64:ff9b::/96`, to which a NAT64 gateway translates (RFC 6052).
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = address.segments() else { return None };
    Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(a: u16, b: u16, c: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), length)
}

/// From IANA's registry of special-purpose addresses, plus multicast and one cloud's metadata address.
const RESERVED_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),        // this network
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // shared by carriers (CGNAT)
    v4(127, 0, 0, 0, 8),      // loopback
    v4(169, 254, 0, 0, 16),   // link-local: also most clouds' metadata service
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocol assignments
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 88, 99, 0, 24),   // 6to4 relays, deprecated
    v4(192, 168, 0, 0, 16),   // private
    v4(198, 18, 0, 0, 15),    // benchmarks
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // future use, and broadcast
    v4(168, 63, 129, 16, 32), // Azure's platform service
];

const RESERVED_V6: [Ipv6Net; 12] = [
    v6(0, 0, 0, 8),           // unspecified, loopback, IPv4-mapped and -compatible
    v6(0x64, 0xff9b, 1, 48),  // local NAT64
    v6(0x100, 0, 0, 64),      // discard
    v6(0x2001, 0, 0, 23),     // protocol assignments, Teredo
    v6(0x2001, 0xdb8, 0, 32), // documentation
    v6(0x2002, 0, 0, 16),     // 6to4
    v6(0x3fff, 0, 0, 20),     // documentation
    v6(0x5f00, 0, 0, 16),     // segment routing
    v6(0xfc00, 0, 0, 7),      // unique local
    v6(0xfe80, 0, 0, 10),     // link-local
    v6(0xfec0, 0, 0, 10),     // site-local, deprecated
    v6(0xff00, 0, 0, 8),      // multicast
];

fn is_reserved_v4(address: Ipv4Addr) -> bool {
    RESERVED_V4.iter().any(|network| network.contains(&address))
}

fn is_reserved_v6(address: Ipv6Addr) -> bool {
    RESERVED_V6.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Subnets;

    fn policy(allow: &[&str]) -> Policy {
        let allow_subnets = Subnets(allow.iter().map(|network| network.parse().unwrap()).collect());
        Policy::new(&DeliveryOptions { allow_subnets, ..DeliveryOptions::default() })
    }

    fn allowed(policy: &Policy, address: IpAddr) -> bool {
        policy.check(address).is_ok()
    }

    /// The list of the acceptance cases, written out again so that a slip in the table above is seen.
    const FORBIDDEN: [&str; 29] = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "255.255.255.255/32",
        "168.63.129.16/32",
        "::/8",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    ];

    /// The addresses just before and just after a network, where there are any.
    fn neighbours(network: &IpNet) -> Vec<IpAddr> {
        match network {
            IpNet::V4(network) => {
                let before = network.network().to_bits().checked_sub(1);
                let after = network.broadcast().to_bits().checked_add(1);
                before.into_iter().chain(after).map(|bits| Ipv4Addr::from_bits(bits).into()).collect()
            }
            IpNet::V6(network) => {
                let before = network.network().to_bits().checked_sub(1);
                let after = network.broadcast().to_bits().checked_add(1);
                before.into_iter().chain(after).map(|bits| Ipv6Addr::from_bits(bits).into()).collect()
            }
        }
    }

    #[test]
    fn the_first_and_last_address_of_every_forbidden_network_are_refused_and_their_neighbours_are_not() {
        let policy = policy(&[]);
        let networks: Vec<IpNet> = FORBIDDEN.iter().map(|network| network.parse().unwrap()).collect();
        let mut free_neighbours = 0;
        for network in &networks {
            assert!(!allowed(&policy, network.network()), "{network}: first address");
            assert!(!allowed(&policy, network.broadcast()), "{network}: last address");
            for neighbour in neighbours(network) {
                let covered = networks.iter().any(|other| other.contains(&neighbour));
                assert_eq!(allowed(&policy, neighbour), !covered, "{neighbour} beside {network}");
                free_neighbours += usize::from(!covered);
            }
        }
        assert!(free_neighbours > 30, "only {free_neighbours} neighbours were public: the test has lost its point");
    }

    #[test]
    fn ordinary_public_addresses_are_allowed() {
        for address in ["1.1.1.1", "8.8.8.8", "93.184.215.14", "2606:4700::1111", "2a00:1450:4001:80f::200e"] {
            assert!(allowed(&policy(&[]), address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_nat64_address_is_judged_by_the_ipv4_address_inside_it() {
        let open = policy(&[]);
        for (address, want) in [
            ("64:ff9b::7f00:1", false),
            ("64:ff9b::a00:1", false),
            ("64:ff9b::a9fe:a9fe", false),
            ("64:ff9b::808:808", true),
        ] {
            assert_eq!(allowed(&open, address.parse().unwrap()), want, "{address}");
        }
        assert!(allowed(&policy(&["10.0.0.0/8"]), "64:ff9b::a00:1".parse().unwrap()));
        assert!(!allowed(&open, "64:ff9b::1:0:808:808".parse().unwrap()), "not in the /96");
    }

    #[test]
    fn a_mapped_address_is_refused_even_if_the_inside_is_public_and_allowed_with_its_network() {
        let mapped = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(!allowed(&policy(&[]), mapped("::ffff:169.254.169.254")));
        assert!(!allowed(&policy(&[]), mapped("::ffff:8.8.8.8")));
        for network in ["127.0.0.0/8", "::ffff:127.0.0.0/104", "::ffff:0:0/96"] {
            assert!(allowed(&policy(&[network]), mapped("::ffff:127.0.0.1")), "{network}");
            assert!(allowed(&policy(&[network]), mapped("127.0.0.1")), "{network}");
        }
        assert!(!allowed(&policy(&["127.0.0.0/8"]), mapped("::1")), "another address altogether");
    }

    #[test]
    fn an_allowed_network_opens_exactly_itself() {
        let policy = policy(&["10.1.2.0/24", "fd00::/8"]);
        for (address, want) in
            [("10.1.2.3", true), ("10.1.3.0", false), ("10.1.1.255", false), ("fd12::1", true), ("fc00::1", false)]
        {
            assert_eq!(allowed(&policy, address.parse().unwrap()), want, "{address}");
        }
    }

    #[test]
    fn a_literal_address_is_judged_when_the_endpoint_is_created_however_it_is_spelled() {
        let policy = policy(&[]);
        for url in [
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.0.0.1./",
            "http://[::]/",
            "http://[::ffff:169.254.169.254]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[fd00:ec2::254]/",
            "https://user:password@10.0.0.1:8443/hook",
        ] {
            let url = EndpointUrl::parse(url).unwrap();
            assert_eq!(policy.check_literal(&url), Err(Forbidden::Address), "{}", url.as_str());
        }
        for url in ["https://example.com/hook", "http://8.8.8.8/", "http://localhost./"] {
            assert_eq!(policy.check_literal(&EndpointUrl::parse(url).unwrap()), Ok(()), "{url}: judged at dial");
        }
    }

    #[test]
    fn an_address_is_not_allowed_because_this_process_has_no_descriptor_to_find_out_with() {
        let test = "egress::tests::without_descriptors_no_address_is_allowed";
        let program = std::env::current_exe().unwrap();
        let alone =
            std::process::Command::new(program).args(["--ignored", "--exact", test, "--test-threads=1"]).output();
        let output = String::from_utf8(alone.unwrap().stdout).unwrap();
        assert!(output.contains("1 passed"), "{output}");
    }

    #[test]
    #[ignore = "takes the descriptors of its process away: the test above has one made for it"]
    fn without_descriptors_no_address_is_allowed() {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let (policy, address) = (policy(&[]), "8.8.8.8".parse().unwrap());
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, rustix::process::Rlimit { current: Some(0), ..before }).unwrap();
        let checked = policy.check(address);
        let literal = policy.check_literal(&EndpointUrl::parse("http://8.8.8.8/").unwrap());
        setrlimit(Resource::Nofile, before).unwrap();
        assert_eq!((checked, literal), (Err(Forbidden::Unknown { starved: true }), Ok(())));
        assert_eq!(policy.check(address), Ok(()));
    }

    #[test]
    fn https_only_refuses_http() {
        let policy = Policy::new(&DeliveryOptions { https_only: true, ..DeliveryOptions::default() });
        let check = |url| policy.check_literal(&EndpointUrl::parse(url).unwrap());
        assert_eq!(check("http://example.com/"), Err(Forbidden::Plaintext));
        assert_eq!(check("https://example.com/"), Ok(()));
    }

    #[test]
    fn ports_of_well_known_services_are_refused_unless_they_are_allowed() {
        let check = |policy: &Policy, port: u16| {
            policy.check_literal(&EndpointUrl::parse(&format!("http://example.com:{port}/")).unwrap())
        };
        for port in [0, 22, 25, 53, 445, 3306, 5432, 6379, 6667, 11211, 27017] {
            assert_eq!(check(&policy(&[]), port), Err(Forbidden::Port(port)));
        }
        for port in [80, 443, 81, 3000, 4000, 5000, 8000, 8080, 8443, 9000, 9999, 49152, 65535] {
            assert_eq!(check(&policy(&[]), port), Ok(()), "{port}");
        }
        let allow_ports = serde_json::from_str("[25, \"6660-6669\"]").unwrap();
        let open = Policy::new(&DeliveryOptions { allow_ports, ..DeliveryOptions::default() });
        assert_eq!([25, 6665, 6669].map(|port| check(&open, port)), [Ok(()); 3]);
        assert_eq!(check(&open, 6679), Err(Forbidden::Port(6679)));
    }
}
