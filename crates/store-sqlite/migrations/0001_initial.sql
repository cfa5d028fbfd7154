-- The schema of one Postrider on SQLite.
--
-- Conventions: `no` is an integer handle that is never reused and never shown to callers; `id` is the 20 bytes of a
-- KSUID, whose order is the order of creation; instants are microseconds since 1970 (UTC); flags are 0 or 1; lists and
-- maps are JSON texts. Deleted applications and endpoints keep their row (`deleted_at`), because the log refers to them.
--
-- The hot path touches four trees per delivery, three of which grow at their right edge: message (by no), the index of
-- messages by application, attempt (by endpoint) and its index by message; and delivery, from which rows vanish again.

CREATE TABLE environment (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE application (
    no             INTEGER PRIMARY KEY AUTOINCREMENT,
    environment_no INTEGER NOT NULL REFERENCES environment (no),
    id             BLOB NOT NULL,
    uid            TEXT,
    name           TEXT NOT NULL,
    throttle_rate  INTEGER,
    metadata       TEXT NOT NULL,
    -- Grows with every change that could alter where a message goes or how it is sent; checked in the accept commit.
    version        INTEGER NOT NULL DEFAULT 1,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    deleted_at     INTEGER
) STRICT;
CREATE UNIQUE INDEX application_by_id ON application (environment_no, id);
CREATE UNIQUE INDEX application_by_uid ON application (environment_no, uid) WHERE uid IS NOT NULL AND deleted_at IS NULL;

CREATE TABLE endpoint (
    no             INTEGER PRIMARY KEY AUTOINCREMENT,
    application_no INTEGER NOT NULL REFERENCES application (no),
    id             BLOB NOT NULL,
    uid            TEXT,
    url            TEXT NOT NULL,
    description    TEXT NOT NULL,
    version        INTEGER NOT NULL,
    disabled       INTEGER NOT NULL,
    event_types    TEXT,
    channels       TEXT,
    throttle_rate  INTEGER,
    metadata       TEXT NOT NULL,
    headers        TEXT NOT NULL,
    -- {"current": "whsec_…", "old": [{"secret": "whsec_…", "expires_at": 0}]}
    signing_keys   TEXT NOT NULL,
    -- When a delivery was first exhausted with no success since.
    failing_since  INTEGER,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    deleted_at     INTEGER
) STRICT;
CREATE UNIQUE INDEX endpoint_by_id ON endpoint (application_no, id);
CREATE UNIQUE INDEX endpoint_by_uid ON endpoint (application_no, uid) WHERE uid IS NOT NULL AND deleted_at IS NULL;

-- The URLs an endpoint has had, so that each attempt names its URL with a number.
CREATE TABLE endpoint_url (
    no          INTEGER PRIMARY KEY AUTOINCREMENT,
    endpoint_no INTEGER NOT NULL REFERENCES endpoint (no),
    url         TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX endpoint_url_by_text ON endpoint_url (endpoint_no, url);

CREATE TABLE event_type (
    environment_no INTEGER NOT NULL REFERENCES environment (no),
    name           TEXT NOT NULL,
    description    TEXT NOT NULL,
    archived       INTEGER NOT NULL,
    deprecated     INTEGER NOT NULL,
    schemas        TEXT,
    feature_flag   TEXT,
    group_name     TEXT,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL,
    PRIMARY KEY (environment_no, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE message (
    no             INTEGER PRIMARY KEY,
    application_no INTEGER NOT NULL,
    id             BLOB NOT NULL,
    event_type     TEXT NOT NULL,
    event_id       TEXT,
    channels       TEXT,
    retention_days INTEGER NOT NULL,
    created_at     INTEGER NOT NULL,
    -- NULL when expunged or expired. Last, so that everything else is read without touching its overflow pages.
    payload        BLOB
) STRICT;
CREATE UNIQUE INDEX message_by_id ON message (application_no, id);
CREATE UNIQUE INDEX message_by_event_id ON message (application_no, event_id) WHERE event_id IS NOT NULL;

-- The work table: what must be delivered. A row lives from the accept commit to the settle commit that ends it.
CREATE TABLE delivery (
    endpoint_no INTEGER NOT NULL,
    due_at      INTEGER NOT NULL,
    message_no  INTEGER NOT NULL,
    -- Attempts made so far.
    made        INTEGER NOT NULL,
    -- 0: by the schedule, 1: because somebody asked.
    trigger     INTEGER NOT NULL,
    PRIMARY KEY (endpoint_no, due_at, message_no)
) STRICT, WITHOUT ROWID;

-- When endpoints that nobody looks after are next due: one row per endpoint, however many deliveries it has. It can be
-- rebuilt from `delivery`, and is at every start.
CREATE TABLE wake (
    endpoint_no INTEGER PRIMARY KEY,
    due_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX wake_by_due ON wake (due_at, endpoint_no);

CREATE TABLE attempt (
    endpoint_no     INTEGER NOT NULL,
    id              BLOB NOT NULL,
    message_no      INTEGER NOT NULL,
    url_no          INTEGER NOT NULL,
    -- 1 for the first attempt of a delivery.
    number          INTEGER NOT NULL,
    trigger         INTEGER NOT NULL,
    started_at      INTEGER NOT NULL,
    duration_ms     INTEGER NOT NULL,
    succeeded       INTEGER NOT NULL,
    -- 0 if there was no answer.
    status_code     INTEGER NOT NULL,
    -- When the delivery is tried again; NULL if it is not.
    next_attempt_at INTEGER,
    -- The first bytes of the answer, or what went wrong; NULL if expunged.
    response        BLOB,
    PRIMARY KEY (endpoint_no, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX attempt_by_message ON attempt (message_no, endpoint_no, id);

-- What a repeated POST is answered: the message it made, or the stored answer.
CREATE TABLE idempotency (
    key        BLOB PRIMARY KEY,
    created_at INTEGER NOT NULL,
    message_no INTEGER,
    status     INTEGER,
    body       BLOB
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key (
    id             BLOB PRIMARY KEY,
    hash           BLOB NOT NULL UNIQUE,
    hint           TEXT NOT NULL,
    name           TEXT NOT NULL,
    environment_no INTEGER NOT NULL REFERENCES environment (no),
    scopes         TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    expires_at     INTEGER,
    last_used_at   INTEGER
) STRICT, WITHOUT ROWID;

-- Numbers are handed out from memory; this is the first one that no process has reserved.
CREATE TABLE sequence (
    name TEXT PRIMARY KEY,
    next INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO sequence (name, next) VALUES ('message', 1);
