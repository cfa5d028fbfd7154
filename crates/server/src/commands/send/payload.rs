//! What is sent: the data byte for byte, or, with a type, an event in the form that Standard Webhooks recommends. Without
//! data and file it is what is piped or redirected into standard input.

use std::io::Read as _;

use anyhow::{Context as _, anyhow, bail};
use postrider_domain::names::EventTypeName;
use postrider_domain::time::Timestamp;
use serde_json::value::RawValue;

/// The type of what is sent when nothing was said at all.
pub(super) const DEFAULT_TYPE: &str = "postrider.test";

/// Reads the data from where it is, and puts it into an event if there is a type.
pub(super) fn read(
    event_type: Option<&EventTypeName>,
    data: Option<String>,
    file: Option<&str>,
    now: Timestamp,
) -> anyhow::Result<Vec<u8>> {
    let data = match (data, file) {
        (Some(data), _) => Some(data.into_bytes()),
        (None, Some("-")) => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).context("can't read standard input")?;
            if bytes.is_empty() {
                bail!("standard input is empty: pipe what to send into it");
            }
            Some(bytes)
        }
        (None, Some(path)) => Some(std::fs::read(path).with_context(|| format!("can't read {path}"))?),
        (None, None) => piped()?,
    };
    match (event_type, data) {
        (None, Some(data)) => Ok(data),
        (None, None) => event(DEFAULT_TYPE, b"{}", now),
        (Some(event_type), data) => event(event_type.as_str(), data.as_deref().unwrap_or(b"{}"), now),
    }
}

/// What was piped or redirected into standard input, if anything was. A terminal or `/dev/null` is not read.
fn piped() -> anyhow::Result<Option<Vec<u8>>> {
    use rustix::fs::FileType;

    let stdin = std::io::stdin();
    let Ok(stat) = rustix::fs::fstat(&stdin) else { return Ok(None) };
    if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::Fifo | FileType::RegularFile | FileType::Socket) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    stdin.lock().read_to_end(&mut bytes).context("can't read standard input")?;
    Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
}

/// Whether something was piped into standard input though what is sent comes from elsewhere. It may be meant for somebody
/// else (in a loop over lines, standard input holds the lines to come), so it is no reason to refuse.
pub(super) fn is_ignored(data: Option<&str>, file: Option<&str>) -> bool {
    use rustix::fs::FileType;

    let stdin = std::io::stdin();
    let is_pipe = rustix::fs::fstat(&stdin).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
    let from_elsewhere = data.is_some() || file.is_some_and(|file| file != "-");
    from_elsewhere && is_pipe && rustix::io::ioctl_fionread(&stdin).is_ok_and(|bytes| bytes > 0)
}

fn event(event_type: &str, data: &[u8], now: Timestamp) -> anyhow::Result<Vec<u8>> {
    #[derive(serde::Serialize)]
    struct Event<'a> {
        r#type: &'a str,
        timestamp: Timestamp,
        data: &'a RawValue,
    }
    // Kept as it was written: numbers keep their digits, members their order.
    let data: &RawValue = serde_json::from_slice(data)
        .map_err(|_| anyhow!("the data of an event (--type) must be JSON; without --type it is sent as it is"))?;
    Ok(serde_json::to_vec(&Event { r#type: event_type, timestamp: now, data })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_767_323_045_000_000);

    fn text(event_type: Option<&str>, data: Option<&str>) -> anyhow::Result<String> {
        let event_type = event_type.map(|name| EventTypeName::parse(name).unwrap());
        Ok(String::from_utf8(read(event_type.as_ref(), data.map(str::to_owned), None, NOW)?)?)
    }

    #[test]
    fn data_without_a_type_is_sent_byte_for_byte() {
        assert_eq!(text(None, Some("{ \"a\" : 1.0 }\n")).unwrap(), "{ \"a\" : 1.0 }\n");
        assert_eq!(text(None, Some("not json")).unwrap(), "not json");
    }

    #[test]
    fn data_with_a_type_becomes_an_event_and_keeps_its_digits() {
        assert_eq!(
            text(Some("user.created"), Some("{\"n\":1.00,\"a\":2}")).unwrap(),
            "{\"type\":\"user.created\",\"timestamp\":\"2026-01-02T03:04:05Z\",\"data\":{\"n\":1.00,\"a\":2}}"
        );
        assert!(text(Some("user.created"), Some("{")).unwrap_err().to_string().contains("must be JSON"));
    }

    #[test]
    fn nothing_at_all_is_a_test_event() {
        assert!(event(DEFAULT_TYPE, b"{}", NOW).unwrap().starts_with(b"{\"type\":\"postrider.test\","));
    }
}
