//! Rules for the members of bodies. All of a body is checked, and everything that is wrong with it is answered at once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::hash::Hash;
use std::ops::RangeInclusive;

use postrider_domain::application::{
    MAX_METADATA_BYTES, MAX_METADATA_MEMBERS, MAX_METADATA_NAME, MAX_METADATA_VALUE, Metadata,
};

use crate::wire::error::{ApiError, Result};
use crate::wire::problem::{MAX_PROBLEMS, Problem, cut_name};

/// What was found wrong with a body so far.
pub(crate) struct Problems {
    at: Vec<Cow<'static, str>>,
    found: Vec<Problem>,
}

impl Problems {
    /// Of a whole body.
    pub(crate) fn of_body() -> Self {
        Self { at: vec![Cow::Borrowed("body")], found: Vec::new() }
    }

    /// Checks the members of a member.
    pub(crate) fn within<T>(&mut self, member: &'static str, check: impl FnOnce(&mut Self) -> T) -> T {
        self.at.push(Cow::Borrowed(member));
        let value = check(self);
        self.at.pop();
        value
    }

    /// Notes that a member breaks a rule.
    pub(crate) fn add(&mut self, member: impl Into<Cow<'static, str>>, msg: impl Into<String>) {
        if self.found.len() < MAX_PROBLEMS {
            let mut loc = self.at.clone();
            loc.push(cut_name(member.into()));
            self.found.push(Problem { loc, msg: msg.into(), kind: Problem::VALUE });
        }
    }

    /// The value of a member, or a problem and `None`.
    pub(crate) fn check<T, E: Display>(
        &mut self,
        member: impl Into<Cow<'static, str>>,
        value: Result<T, E>,
    ) -> Option<T> {
        value.map_err(|error| self.add(member, error.to_string())).ok()
    }

    /// The values of a list with as many elements as `counts` says.
    pub(crate) fn list<T, E: Display>(
        &mut self,
        member: &'static str,
        items: &[impl AsRef<str>],
        counts: RangeInclusive<usize>,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        if !counts.contains(&items.len()) {
            let (least, most) = (counts.start(), counts.end());
            let msg = if *most == usize::MAX {
                format!("must have at least {least} elements")
            } else {
                format!("must have {least} to {most} elements")
            };
            self.add(member, msg);
            return Vec::new();
        }
        self.within(member, |problems| {
            let parsed = items.iter().enumerate();
            parsed.filter_map(|(at, item)| problems.check(format!("[{at}]"), parse(item.as_ref()))).collect()
        })
    }

    /// Notes a list in which a value comes twice.
    pub(crate) fn distinct<T: Hash + Eq>(&mut self, member: &'static str, values: &[T]) {
        let mut seen = std::collections::HashSet::with_capacity(values.len());
        if !values.iter().all(|value| seen.insert(value)) {
            self.add(member, "must not have the same element twice");
        }
    }

    /// A text for people, of as many characters as `lengths` says.
    pub(crate) fn prose(&mut self, member: &'static str, text: &str, lengths: RangeInclusive<usize>) {
        if text.len() < *lengths.start() {
            self.add(member, "must not be empty");
        }
        self.length(member, text, *lengths.end());
        if text.bytes().any(|byte| byte <= 0x08) {
            self.add(member, "must not have control characters");
        }
    }

    /// A text of so many characters at most.
    pub(crate) fn length(&mut self, member: impl Into<Cow<'static, str>>, text: &str, most: usize) {
        if is_longer(text, most) {
            self.add(member, format!("must be at most {most} characters long"));
        }
    }

    /// A number of messages per second.
    pub(crate) fn rate(&mut self, member: &'static str, rate: Option<u16>) {
        if rate == Some(0) {
            self.add(member, "must be 1 to 65535");
        }
    }

    /// Free text pairs.
    pub(crate) fn metadata(&mut self, metadata: &Metadata) {
        if compact_len(metadata) > MAX_METADATA_BYTES {
            self.add("metadata", format!("must be at most {MAX_METADATA_BYTES} bytes long as JSON"));
        }
        if metadata.len() > MAX_METADATA_MEMBERS {
            self.add("metadata", format!("must have at most {MAX_METADATA_MEMBERS} members"));
        }
        if metadata
            .iter()
            .any(|(name, value)| is_longer(name, MAX_METADATA_NAME) || is_longer(value, MAX_METADATA_VALUE))
        {
            let msg = format!(
                "must have names of at most {MAX_METADATA_NAME} characters, and values of at most {MAX_METADATA_VALUE}"
            );
            self.add("metadata", msg);
        }
    }

    /// The checked body, unless something is wrong with it. `value` is `None` only if there is a problem.
    pub(crate) fn finish<T>(self, value: Option<T>) -> Result<T> {
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => Err(ApiError::Invalid(self.found)),
        }
    }
}

fn is_longer(text: &str, most: usize) -> bool {
    // Most texts have fewer bytes than they may have characters.
    text.len() > most && text.chars().nth(most).is_some()
}

fn compact_len(map: &BTreeMap<String, String>) -> usize {
    serde_json::to_vec(map).map_or(usize::MAX, |text| text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::problem::{MAX_PLACE, MAX_PLACE_BYTES, MAX_TEXT};

    #[test]
    fn everything_that_is_wrong_is_said_with_its_place() {
        let mut problems = Problems::of_body();
        problems.prose("name", "", 1..=5);
        problems.within("application", |problems| problems.rate("throttleRate", Some(0)));
        problems.list("channels", &["ok", "b c"], 1..=5, postrider_domain::names::Channel::parse);
        problems.distinct("channels", &["a", "a"]);
        let Err(ApiError::Invalid(found)) = problems.finish(Some(())) else { panic!("nothing was found") };
        let locs: Vec<_> = found.iter().map(|problem| problem.loc.join(".")).collect();
        assert_eq!(locs, ["body.name", "body.application.throttleRate", "body.channels.[1]", "body.channels"]);
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        for (text, wrong) in [("ü".repeat(5), false), ("ü".repeat(6), true), ("a".repeat(6), true)] {
            let mut problems = Problems::of_body();
            problems.prose("name", &text, 1..=5);
            assert_eq!(problems.finish(Some(())).is_err(), wrong, "{text}");
        }
    }

    #[test]
    fn no_input_makes_an_error_large() {
        let mut problems = Problems::of_body();
        (0..1_000).for_each(|_| problems.add("x".repeat(100_000), "is wrong"));
        let Err(ApiError::Invalid(found)) = problems.finish(Some(())) else { panic!("nothing was found") };
        assert_eq!((found.len(), found[0].loc[1].chars().count()), (MAX_PROBLEMS, MAX_PLACE + 1));
        let loc = vec![Cow::Owned("y".repeat(10_000)); 1_000];
        let problem = Problem { loc, msg: "ü".repeat(2 << 20), kind: Problem::VALUE };
        let shown = serde_json::to_value(&problem).unwrap();
        let place: usize = shown["loc"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().len()).sum();
        assert!((MAX_PLACE_BYTES / 2..=MAX_PLACE_BYTES + 3).contains(&place), "{place}");
        assert_eq!(shown["msg"].as_str().unwrap().chars().count(), MAX_TEXT + 1);
    }

    #[test]
    fn metadata_is_measured_as_compact_json() {
        for (len, wrong) in [(4_096 - 8, false), (4_096 - 7, true)] {
            let mut problems = Problems::of_body();
            problems.metadata(&Metadata::from([("k".to_owned(), "v".repeat(len))]));
            assert_eq!(problems.finish(Some(())).is_err(), wrong, "{len}");
        }
    }
}
