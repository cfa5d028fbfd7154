//! Whose a write is, so that those who ask take turns: what it names says so, and the store knows the rest.
//!
//! An application's writes are those that name it, or an endpoint or a message of it, whoever of the two that may change it
//! asked; everything else that a caller asks for is its environment's. What the process does by itself is nobody's, or, of what the
//! engine notes of endpoints, on account of whose they are.

use postrider_domain::application::EnvironmentId;
use postrider_store::{ApplicationKey, EndpointKey, MessageKey};
use rusqlite::{Connection, OptionalExtension as _, Params};

/// What a write names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whose {
    /// No caller asked: the process did, which has so many under way as it has tasks of its own.
    Process,
    /// The process did, because of an endpoint: of those, it has as many under way as there are lanes.
    Engine(EndpointKey),
    Environment(EnvironmentId),
    Application(ApplicationKey),
    Endpoint(EndpointKey),
    Message(MessageKey),
}

impl Whose {
    /// Whether a caller asked, who may go before it is done.
    pub(crate) fn is_a_callers(&self) -> bool {
        !matches!(self, Self::Process | Self::Engine(_))
    }
}

impl From<&EnvironmentId> for Whose {
    fn from(environment: &EnvironmentId) -> Self {
        Self::Environment(environment.clone())
    }
}

impl From<ApplicationKey> for Whose {
    fn from(application: ApplicationKey) -> Self {
        Self::Application(application)
    }
}

impl From<EndpointKey> for Whose {
    fn from(endpoint: EndpointKey) -> Self {
        Self::Endpoint(endpoint)
    }
}

impl From<MessageKey> for Whose {
    fn from(message: MessageKey) -> Self {
        Self::Message(message)
    }
}

/// Whose turn it can be, by the numbers of rows, of which none is 0: that is what is not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Asker {
    /// The process, on account of the environment if that is there.
    pub(crate) is_process: bool,
    pub(crate) environment: i64,
    /// 0 is the environment as a whole.
    pub(crate) application: i64,
}

const ENVIRONMENT_SQL: &str = "SELECT no, 0 FROM environment WHERE id = ?";
const APPLICATION_SQL: &str = "SELECT environment_no, no FROM application WHERE no = ?";
const ENDPOINT_SQL: &str = "SELECT environment_no, application.no FROM application
     WHERE no = (SELECT application_no FROM endpoint WHERE endpoint.no = ?)";
const MESSAGE_SQL: &str = "SELECT environment_no, application.no FROM application
     WHERE no = (SELECT application_no FROM message WHERE message.no = ?)";

/// Who asked. Those of whom nothing is there, or can be read, are one.
pub(crate) fn asker(connection: &Connection, whose: &Whose) -> Asker {
    let found = match whose {
        Whose::Process => Ok(None),
        Whose::Environment(id) => look_up(connection, ENVIRONMENT_SQL, [id.as_str()]),
        Whose::Application(key) => look_up(connection, APPLICATION_SQL, [key.0]),
        Whose::Endpoint(key) | Whose::Engine(key) => look_up(connection, ENDPOINT_SQL, [key.0]),
        Whose::Message(key) => look_up(connection, MESSAGE_SQL, [key.0]),
    };
    // What is wrong is found when the write is carried out.
    Asker { is_process: !whose.is_a_callers(), ..found.ok().flatten().unwrap_or_default() }
}

fn look_up(connection: &Connection, sql: &str, named: impl Params) -> rusqlite::Result<Option<Asker>> {
    let row =
        |row: &rusqlite::Row<'_>| Ok(Asker { is_process: false, environment: row.get(0)?, application: row.get(1)? });
    connection.prepare_cached(sql)?.query_row(named, row).optional()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plans::{database, plan};

    #[test]
    fn whatever_is_an_applications_counts_as_its_own_and_the_rest_as_its_environments() {
        let connection = database();
        connection
            .execute_batch(
                "INSERT INTO environment (no, id) VALUES (7, 'org_a');
                 INSERT INTO application (no, environment_no, id, name, metadata, created_at, updated_at)
                     VALUES (3, 7, x'01', '', '{}', 0, 0);
                 INSERT INTO endpoint (no, application_no, id, url, description, version, disabled, metadata, headers,
                                       signing_keys, created_at, updated_at)
                     VALUES (5, 3, x'01', '', '', 1, 0, '{}', '{}', '{}', 0, 0);
                 INSERT INTO message (no, application_no, id, event_type, created_at) VALUES (9, 3, x'01', 'a', 0);",
            )
            .unwrap();
        let environment = EnvironmentId::parse("org_a").unwrap();
        let of = |whose: Whose| asker(&connection, &whose);
        let own = Asker { is_process: false, environment: 7, application: 3 };
        assert_eq!(of(Whose::from(&environment)), Asker { application: 0, ..own });
        let named = [ApplicationKey(3).into(), EndpointKey(5).into(), MessageKey(9).into()];
        assert_eq!(named.map(of), [own; 3]);
        assert_eq!([ApplicationKey(4).into(), EndpointKey(4).into()].map(of), [Asker::default(); 2]);
        assert_eq!(of(Whose::Engine(EndpointKey(5))), Asker { is_process: true, ..own });
        assert_eq!(of(Whose::Process), Asker { is_process: true, ..Asker::default() });
    }

    #[test]
    fn who_asked_is_looked_up_by_numbers_and_indexes() {
        for sql in [ENVIRONMENT_SQL, APPLICATION_SQL, ENDPOINT_SQL, MESSAGE_SQL] {
            let plan = plan(sql);
            assert!(!plan.iter().any(|step| step.starts_with("SCAN")), "{plan:#?}");
        }
    }
}
