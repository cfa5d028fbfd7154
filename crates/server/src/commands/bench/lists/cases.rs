//! Every list, in every combination of its filters, at several places: what is asked, and which index should serve it.

use postrider_domain::time::Timestamp;

use super::fill::{Filled, Marks};

/// One query, to be asked several times.
#[derive(Debug)]
pub(super) struct Case {
    /// Which list it is of.
    pub(super) list: &'static str,
    /// By what it is filtered.
    pub(super) filtered_by: String,
    /// The index that serves it.
    pub(super) index: &'static str,
    /// Path and query.
    pub(super) path: String,
}

/// The values of a parameter that are tried; an empty one is left out.
struct Parameter {
    name: &'static str,
    values: &'static [&'static str],
}

const TYPES: Parameter = Parameter {
    name: "event_types",
    // Frequent, about one in two blocks, one in a million, never, and some of these together.
    values: &["", "order.created", "stock.low", "fraud.alert", "never.sent", "invoice.paid,stock.low,fraud.alert"],
};
const CHANNELS: Parameter = Parameter { name: "channel", values: &["", "web", "partner", "vip", "nobody"] };
const ATTEMPT_STATUSES: Parameter = Parameter { name: "status", values: &["", "0", "2"] };
const CLASSES: Parameter = Parameter { name: "status_code_class", values: &["", "0", "100", "200", "400", "500"] };
const MESSAGE_STATUSES: Parameter = Parameter { name: "status", values: &["", "0", "2", "3"] };

/// A list that is measured.
struct List {
    name: &'static str,
    path: String,
    parameters: &'static [Parameter],
    unfiltered: &'static str,
    filtered: &'static str,
}

/// All cases for an application, its busy endpoint, its idle endpoint and one message.
pub(super) fn all(application: &str, busy: &str, idle: &str, filled: &Filled) -> Vec<Case> {
    let app = format!("/api/v1/app/{application}");
    let mut cases = Vec::new();
    let messages = List {
        name: "messages",
        path: format!("{app}/msg"),
        parameters: &[TYPES, CHANNELS],
        unfiltered: "message_by_id",
        filtered: "message_posting",
    };
    messages.cases(&positions(&filled.messages, filled.middle), &mut cases);
    for (name, endpoint) in [("attempts by endpoint", busy), ("attempts by idle endpoint", idle)] {
        let attempts = List {
            name,
            path: format!("{app}/attempt/endpoint/{endpoint}"),
            parameters: &[ATTEMPT_STATUSES, CLASSES, TYPES, CHANNELS],
            unfiltered: "attempt (primary key)",
            filtered: "attempt_posting",
        };
        attempts.cases(&positions(&filled.attempts, filled.middle), &mut cases);
    }
    for (name, endpoint) in [("attempted messages", busy), ("attempted messages, idle", idle)] {
        let attempted = List {
            name,
            path: format!("{app}/endpoint/{endpoint}/msg"),
            parameters: &[MESSAGE_STATUSES, TYPES, CHANNELS],
            unfiltered: "message_posting",
            filtered: "message_posting",
        };
        attempted.cases(&positions(&filled.messages, filled.middle), &mut cases);
    }
    let message = filled.messages.middle;
    let attempts = List {
        name: "attempts by message",
        path: format!("{app}/attempt/msg/{message}"),
        parameters: &[ATTEMPT_STATUSES, CLASSES, TYPES, CHANNELS],
        unfiltered: "attempt_of_message",
        filtered: "attempt_of_message",
    };
    attempts.cases(&[String::new()], &mut cases);
    let few = [
        ("destinations", "attempt_by_message", format!("{app}/msg/{message}/endpoint")),
        ("statistics", "attempt_tally", format!("{app}/endpoint/{busy}/stats")),
        ("statistics", "attempt_tally", format!("{app}/endpoint/{busy}/attempt-stats?since={}", filled.middle)),
    ];
    cases.extend(few.map(|(list, index, path)| Case { list, filtered_by: String::new(), index, path }));
    cases
}

/// First page, from the middle in both directions, last page, up to the middle, and from the middle on.
fn positions<I: std::fmt::Display>(marks: &Marks<I>, middle: Timestamp) -> Vec<String> {
    let Marks { middle: half, end } = marks;
    [
        String::new(),
        format!("iterator={half}"),
        format!("iterator=-{half}"),
        format!("iterator={end}"),
        format!("before={middle}"),
        format!("after={middle}"),
    ]
    .into()
}

impl List {
    fn cases(&self, positions: &[String], cases: &mut Vec<Case>) {
        let mut queries = vec![(Vec::new(), String::new())];
        for Parameter { name, values } in self.parameters {
            let with = |(names, query): &(Vec<&'static str>, String)| {
                let (names, query) = (names.clone(), query.clone());
                values.iter().map(move |value| match *value {
                    "" => (names.clone(), query.clone()),
                    value => ([names.as_slice(), &[*name]].concat(), format!("{query}{name}={value}&")),
                })
            };
            queries = queries.iter().flat_map(with).collect();
        }
        for (names, query) in queries {
            for position in positions {
                cases.push(Case {
                    list: self.name,
                    filtered_by: names.join(", "),
                    index: if names.is_empty() { self.unfiltered } else { self.filtered },
                    path: format!("{}?limit=50&{query}{position}", self.path),
                });
            }
        }
    }
}
