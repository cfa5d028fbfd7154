-- What the whole REST contract needs beyond the first schema. The conventions are those of 0001.

-- Messages: tags, an instant of delivery, and retention to the hour -------------------------------------------------------

CREATE TABLE message_2 (
    no             INTEGER PRIMARY KEY,
    application_no INTEGER NOT NULL,
    id             BLOB NOT NULL,
    event_type     TEXT NOT NULL,
    event_id       TEXT,
    channels       TEXT,
    tags           TEXT,
    -- When it is to be delivered; NULL is at once.
    deliver_at     INTEGER,
    -- When its payload goes; NULL is after the time that the server keeps payloads.
    expires_at     INTEGER,
    created_at     INTEGER NOT NULL,
    -- NULL when expunged or expired. Last, so that everything else is read without touching its overflow pages.
    payload        BLOB
) STRICT;
INSERT INTO message_2 (no, application_no, id, event_type, event_id, channels, expires_at, created_at, payload)
SELECT no, application_no, id, event_type, event_id, channels,
       CASE WHEN retention_days < 90 THEN created_at + retention_days * 86400000000 END, created_at, payload
FROM message;
DROP TABLE message;
ALTER TABLE message_2 RENAME TO message;
CREATE UNIQUE INDEX message_by_id ON message (application_no, id);
CREATE UNIQUE INDEX message_by_event_id ON message (application_no, event_id) WHERE event_id IS NOT NULL;
-- Payloads that go at a time of their own. The others go in the order in which they came; see `sequence`.
CREATE INDEX message_by_expiry ON message (expires_at) WHERE expires_at IS NOT NULL AND payload IS NOT NULL;

-- The first message that may still have a payload which goes after the time that the server keeps payloads.
INSERT INTO sequence (name, next) VALUES ('retention', 1);

-- Tokens ----------------------------------------------------------------------------------------------------------------

-- Signs the application tokens that this server makes, if its settings name no secret for that.
CREATE TABLE token_secret (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    secret   BLOB NOT NULL
) STRICT;

-- Tokens of an application that were issued earlier are refused from an instant on.
CREATE TABLE token_expiry (
    application_no INTEGER NOT NULL,
    -- Only tokens of this session; empty for all.
    session        TEXT NOT NULL,
    issued_before  INTEGER NOT NULL,
    refused_from   INTEGER NOT NULL,
    PRIMARY KEY (application_no, session, issued_before)
) STRICT, WITHOUT ROWID;

-- Streams ---------------------------------------------------------------------------------------------------------------

-- How far named readers have come with the messages that an endpoint's filters let through.
CREATE TABLE stream_reader (
    endpoint_no INTEGER NOT NULL,
    name        TEXT NOT NULL,
    -- The id up to which everything was read, as far as it was there when `seen` was the newest message.
    after       BLOB NOT NULL,
    seen        INTEGER,
    updated_at  INTEGER NOT NULL,
    PRIMARY KEY (endpoint_no, name)
) STRICT, WITHOUT ROWID;

-- Settings of environments ----------------------------------------------------------------------------------------------

-- 0: off, 1: warn, 2: reject.
ALTER TABLE environment ADD COLUMN schema_enforcement INTEGER NOT NULL DEFAULT 0;
-- 0: allow, 1: reject.
ALTER TABLE environment ADD COLUMN unknown_event_types INTEGER NOT NULL DEFAULT 0;
ALTER TABLE environment ADD COLUMN public_catalogue INTEGER NOT NULL DEFAULT 0;
-- Grows with every change of these rules, and of event types while there are rules. The version of an application's routes
-- is its own plus this one: neither ever shrinks, so the sum is the same only if both are.
ALTER TABLE environment ADD COLUMN rules_version INTEGER NOT NULL DEFAULT 0;
-- NULL until the settings were changed for the first time.
ALTER TABLE environment ADD COLUMN settings_created_at INTEGER;
ALTER TABLE environment ADD COLUMN settings_updated_at INTEGER;
