//! What the system's files say of names: `/etc/hosts` and `/etc/resolv.conf`.
//!
//! Both are read as far as a bound: what is read here is held in memory. Lines that make no sense are passed over, as the
//! system does. Only regular files are read, because a pipe would never end.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::dns::{MAX_OF_FAMILY, Server, Servers};
use crate::ours;

postrider_domain::limits! {
    in "Name resolution";
    /// Bytes of `/etc/hosts`, and of `/etc/resolv.conf`, that are read
    pub const MAX_FILE_BYTES: usize = 1024 * 1024, "bytes", beyond "the rest is not read, and the log says so";
    /// Names with an address in `/etc/hosts`
    pub const MAX_LISTED_NAMES: usize = 16_384, "names", beyond "the rest is not read, and the log says so";
    /// Name servers in `/etc/resolv.conf`
    pub const MAX_SERVERS: usize = 3, "name servers", beyond "the rest is not asked, as the system does";
}

/// How long a name server is waited for: what `options timeout` may ask for, and without it.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
const MOST_PATIENCE: Duration = Duration::from_secs(3);

/// Where the system says how names are resolved.
#[derive(Debug, Clone)]
pub struct Files {
    /// The list of name servers.
    pub resolv_conf: PathBuf,
    /// Names that are known without asking.
    pub hosts: PathBuf,
    /// The port that name servers are asked at.
    pub dns_port: u16,
}

impl Default for Files {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into(), dns_port: 53 }
    }
}

/// Tells one version of a file from another.
pub(crate) type Stamp = (u64, u64, i64, i64, u64);

impl Files {
    pub(crate) fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.resolv_conf, &self.hosts].map(|path| std::fs::metadata(path).ok().map(|found| stamp(&found)))
    }

    /// The name servers; `None` if the file names none, or is not there.
    pub(crate) fn servers(&self) -> io::Result<Option<Servers>> {
        Ok(servers(&read(&self.resolv_conf)?, self.dns_port))
    }

    /// The name server that there may be on this machine: what libc asks, too, if nothing is configured.
    pub(crate) fn own_server(&self) -> Servers {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, self.dns_port));
        Servers::new(vec![server.into()], MOST_PATIENCE)
    }

    /// The names that are known without asking.
    pub(crate) fn listed(&self) -> io::Result<Listed> {
        let (listed, whole) = Listed::parse(&read(&self.hosts)?);
        if !whole {
            tracing::warn!(
                file = %self.hosts.display(),
                "the file has more than {MAX_LISTED_NAMES} names: those beyond are not used, and asked of the name servers"
            );
        }
        Ok(listed)
    }
}

fn stamp(file: &Metadata) -> Stamp {
    (file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.len())
}

/// Opens a regular file. Whatever else there may be at its path (a pipe, a device) could keep whoever reads it for ever, and a pipe
/// already whoever opens it.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// The text of a file; nothing if it cannot be read. Fails only if this process can open no file at present.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    match open(path).and_then(|file| file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes)) {
        Err(error) if ours::is_limit(&error) => return Err(error),
        Err(error) => tracing::debug!(%error, file = %path.display(), "failed to read a file of the system"),
        Ok(_) => {}
    }
    if bytes.len() > MAX_FILE_BYTES {
        tracing::warn!(file = %path.display(), "the file is larger than {MAX_FILE_BYTES} bytes: the rest of it is not read");
        // The last line may be cut.
        let end = bytes[..MAX_FILE_BYTES].iter().rposition(|byte| *byte == b'\n');
        bytes.truncate(end.unwrap_or(0));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Lines that do not concern this resolver (the search list) are passed over.
fn servers(text: &str, port: u16) -> Option<Servers> {
    let (mut servers, mut patience) = (Vec::new(), MOST_PATIENCE);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") if servers.len() < MAX_SERVERS => {
                servers.extend(words.next().and_then(|word| Server::parse(word, port)));
            }
            Some("options") => {
                let seconds = words.filter_map(|word| word.strip_prefix("timeout:")?.parse().ok()).next_back();
                patience = seconds.map_or(patience, Duration::from_secs).clamp(LEAST_PATIENCE, MOST_PATIENCE);
            }
            _ => {}
        }
    }
    (!servers.is_empty()).then(|| Servers::new(servers, patience))
}

/// Names that are known without asking, in lower case and without the last dot, in order. One with several addresses is
/// there several times, in the order of the file.
#[derive(Debug, Default)]
pub(crate) struct Listed(Vec<(Box<str>, IpAddr)>);

impl Listed {
    /// Also tells whether that is all.
    fn parse(text: &str) -> (Self, bool) {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
        let mut pairs = lines.flat_map(|mut words| {
            let address = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
            words.filter_map(move |name| Some((plain(name).into_boxed_str(), address?)))
        });
        let mut names: Vec<_> = pairs.by_ref().take(MAX_LISTED_NAMES).collect();
        let whole = pairs.next().is_none();
        // Stable: the addresses of a name stay in their order.
        names.sort_by(|(one, _), (other, _)| one.cmp(other));
        names.shrink_to_fit();
        (Self(names), whole)
    }

    /// The addresses of a name as [`plain`] has it: IPv6 first, as many of each family as are used.
    pub(crate) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let start = self.0.partition_point(|(listed, _)| **listed < *name);
        let of_name =
            || self.0[start..].iter().take_while(|(listed, _)| **listed == *name).map(|(_, address)| *address);
        let v6 = of_name().filter(IpAddr::is_ipv6).take(MAX_OF_FAMILY);
        v6.chain(of_name().filter(IpAddr::is_ipv4).take(MAX_OF_FAMILY)).collect()
    }
}

/// A name as it is compared: in lower case, and without the dot at its end.
pub(crate) fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_name_of_the_hosts_file_has_all_its_addresses_and_no_others() {
        let text = "192.0.2.2 b # c\n192.0.2.1 a B.\n::2\tb\nnone d\n fe80::1%eth0 e\n#192.0.2.9 f\n192.0.2.3 aa";
        let (listed, whole) = Listed::parse(text);
        assert!(whole);
        assert_eq!(listed.addresses("b"), addresses(&["::2", "192.0.2.2", "192.0.2.1"]));
        assert_eq!(listed.addresses("a"), addresses(&["192.0.2.1"]));
        assert_eq!(listed.addresses("e"), addresses(&["fe80::1"]));
        for none in ["", "c", "d", "f", "ab"] {
            assert_eq!(listed.addresses(none), addresses(&[]), "{none}");
        }
    }

    #[test]
    fn of_a_hosts_file_with_too_many_names_the_first_are_known() {
        let text: String = (0..=MAX_LISTED_NAMES).map(|number| format!("192.0.2.1 name{number}\n")).collect();
        let (listed, whole) = Listed::parse(&text);
        assert!(!whole);
        assert_eq!(listed.addresses(&format!("name{}", MAX_LISTED_NAMES - 1)), addresses(&["192.0.2.1"]));
        assert_eq!(listed.addresses(&format!("name{MAX_LISTED_NAMES}")), addresses(&[]));
    }

    #[test]
    fn of_a_file_that_is_too_large_whole_lines_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = "192.0.2.1 a\n";
        std::fs::write(file.path(), line.repeat(MAX_FILE_BYTES / line.len() + 10)).unwrap();
        let text = read(file.path()).unwrap();
        assert!(text.len() <= MAX_FILE_BYTES && text.lines().all(|read| read == line.trim_end()));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_no_regular_file_says_nothing_and_keeps_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("hosts");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        for path in [pipe.as_path(), folder.path(), Path::new("/dev/zero")] {
            assert_eq!(read(path).unwrap(), "", "{path:?}");
        }
    }
}
