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

-- Operational webhooks --------------------------------------------------------------------------------------------------

-- Notices to operators: written with what they report, sent afterwards as messages of the management environment.
CREATE TABLE outbox (
    no         INTEGER PRIMARY KEY AUTOINCREMENT,
    -- The uid of the application that is told, which is the id of the environment that it is told of.
    recipient  TEXT NOT NULL,
    event_type TEXT NOT NULL,
    payload    BLOB NOT NULL
) STRICT;

INSERT OR IGNORE INTO environment (id) VALUES ('org_00000000000SvixManagement00');
INSERT OR IGNORE INTO event_type (environment_no, name, description, archived, deprecated, schemas, created_at, updated_at)
SELECT environment.no, seed.column1, seed.column2, 0, 0, seed.column3, 1767225600000000, 1767225600000000
FROM environment, (VALUES
    ('endpoint.created', 'An endpoint was created.',
     '{"1":{"$schema":"http://json-schema.org/draft-07/schema#","title":"endpoint.created","description":"An endpoint was created.","type":"object","properties":{"type":{"type":"string","const":"endpoint.created"},"data":{"type":"object","properties":{"appId":{"type":"string","description":"The application''s id."},"appUid":{"type":["string","null"],"description":"The application''s uid."},"endpointId":{"type":"string","description":"The endpoint''s id."},"endpointUid":{"type":["string","null"],"description":"The endpoint''s uid."}},"required":["appId","endpointId"]}},"required":["type","data"],"examples":[{"type":"endpoint.created","data":{"appId":"app_1srOrx2ZWZBpBUvZwXKQmoEYga2","appUid":"customer-1","endpointId":"ep_1srOrx2ZWZBpBUvZwXKQmoEYga2","endpointUid":"main"}}]}}'),
    ('endpoint.updated', 'An endpoint was changed, or its secret was rotated.',
     '{"1":{"$schema":"http://json-schema.org/draft-07/schema#","title":"endpoint.updated","description":"An endpoint was changed, or its secret was rotated.","type":"object","properties":{"type":{"type":"string","const":"endpoint.updated"},"data":{"type":"object","properties":{"appId":{"type":"string","description":"The application''s id."},"appUid":{"type":["string","null"],"description":"The application''s uid."},"endpointId":{"type":"string","description":"The endpoint''s id."},"endpointUid":{"type":["string","null"],"description":"The endpoint''s uid."}},"required":["appId","endpointId"]}},"required":["type","data"],"examples":[{"type":"endpoint.updated","data":{"appId":"app_1srOrx2ZWZBpBUvZwXKQmoEYga2","appUid":"customer-1","endpointId":"ep_1srOrx2ZWZBpBUvZwXKQmoEYga2","endpointUid":"main"}}]}}'),
    ('endpoint.deleted', 'An endpoint was deleted.',
     '{"1":{"$schema":"http://json-schema.org/draft-07/schema#","title":"endpoint.deleted","description":"An endpoint was deleted.","type":"object","properties":{"type":{"type":"string","const":"endpoint.deleted"},"data":{"type":"object","properties":{"appId":{"type":"string","description":"The application''s id."},"appUid":{"type":["string","null"],"description":"The application''s uid."},"endpointId":{"type":"string","description":"The endpoint''s id."},"endpointUid":{"type":["string","null"],"description":"The endpoint''s uid."}},"required":["appId","endpointId"]}},"required":["type","data"],"examples":[{"type":"endpoint.deleted","data":{"appId":"app_1srOrx2ZWZBpBUvZwXKQmoEYga2","appUid":"customer-1","endpointId":"ep_1srOrx2ZWZBpBUvZwXKQmoEYga2","endpointUid":"main"}}]}}'),
    ('endpoint.disabled', 'An endpoint was disabled, because deliveries to it kept failing or it answered 410 Gone.',
     '{"1":{"$schema":"http://json-schema.org/draft-07/schema#","title":"endpoint.disabled","description":"An endpoint was disabled, because deliveries to it kept failing or it answered 410 Gone.","type":"object","properties":{"type":{"type":"string","const":"endpoint.disabled"},"data":{"type":"object","properties":{"appId":{"type":"string","description":"The application''s id."},"appUid":{"type":["string","null"],"description":"The application''s uid."},"endpointId":{"type":"string","description":"The endpoint''s id."},"endpointUid":{"type":["string","null"],"description":"The endpoint''s uid."},"failSince":{"type":"string","format":"date-time","description":"Since when deliveries to it had been failing."}},"required":["appId","endpointId","failSince"]}},"required":["type","data"],"examples":[{"type":"endpoint.disabled","data":{"appId":"app_1srOrx2ZWZBpBUvZwXKQmoEYga2","appUid":"customer-1","endpointId":"ep_1srOrx2ZWZBpBUvZwXKQmoEYga2","endpointUid":"main","failSince":"2026-01-02T03:04:05Z"}}]}}'),
    ('message.attempt.failing', 'The fourth attempt to deliver a message failed. It is tried again.',
     '{"1":{"$schema":"http://json-schema.org/draft-07/schema#","title":"message.attempt.failing","description":"The fourth attempt to deliver a message failed. It is tried again.","type":"object","properties":{"type":{"type":"string","const":"message.attempt.failing"},"data":{"type":"object","properties":{"appId":{"type":"string","description":"The application''s id."},"appUid":{"type":["string","null"],"description":"The application''s uid."},"msgId":{"type":"string","description":"The message''s id."},"msgEventId":{"type":["string","null"],"description":"The message''s event id."},"endpointId":{"type":"string","description":"The endpoint''s id."},"lastAttempt":{"type":"object","properties":{"id":{"type":"string","description":"The attempt''s id."},"responseStatusCode":{"type":"integer","description":"The status of the answer; 0 if there was none."},"timestamp":{"type":"string","format":"date-time","description":"When the attempt started."}},"required":["id","responseStatusCode","timestamp"]}},"required":["appId","msgId","endpointId","lastAttempt"]}},"required":["type","data"],"examples":[{"type":"message.attempt.failing","data":{"appId":"app_1srOrx2ZWZBpBUvZwXKQmoEYga2","appUid":"customer-1","msgId":"msg_1srOrx2ZWZBpBUvZwXKQmoEYga2","msgEventId":"order-4711","endpointId":"ep_1srOrx2ZWZBpBUvZwXKQmoEYga2","lastAttempt":{"id":"atmpt_1srOrx2ZWZBpBUvZwXKQmoEYga2","responseStatusCode":500,"timestamp":"2026-01-02T03:04:05Z"}}}]}}'),
    ('message.attempt.exhausted', 'The last attempt to deliver a message failed. It is not tried again.',
     '{"1":{"$schema":"http://json-schema.org/draft-07/schema#","title":"message.attempt.exhausted","description":"The last attempt to deliver a message failed. It is not tried again.","type":"object","properties":{"type":{"type":"string","const":"message.attempt.exhausted"},"data":{"type":"object","properties":{"appId":{"type":"string","description":"The application''s id."},"appUid":{"type":["string","null"],"description":"The application''s uid."},"msgId":{"type":"string","description":"The message''s id."},"msgEventId":{"type":["string","null"],"description":"The message''s event id."},"endpointId":{"type":"string","description":"The endpoint''s id."},"lastAttempt":{"type":"object","properties":{"id":{"type":"string","description":"The attempt''s id."},"responseStatusCode":{"type":"integer","description":"The status of the answer; 0 if there was none."},"timestamp":{"type":"string","format":"date-time","description":"When the attempt started."}},"required":["id","responseStatusCode","timestamp"]}},"required":["appId","msgId","endpointId","lastAttempt"]}},"required":["type","data"],"examples":[{"type":"message.attempt.exhausted","data":{"appId":"app_1srOrx2ZWZBpBUvZwXKQmoEYga2","appUid":"customer-1","msgId":"msg_1srOrx2ZWZBpBUvZwXKQmoEYga2","msgEventId":"order-4711","endpointId":"ep_1srOrx2ZWZBpBUvZwXKQmoEYga2","lastAttempt":{"id":"atmpt_1srOrx2ZWZBpBUvZwXKQmoEYga2","responseStatusCode":500,"timestamp":"2026-01-02T03:04:05Z"}}}]}}'),
    ('message.attempt.recovered', 'A message was delivered after four or more attempts had failed.',
     '{"1":{"$schema":"http://json-schema.org/draft-07/schema#","title":"message.attempt.recovered","description":"A message was delivered after four or more attempts had failed.","type":"object","properties":{"type":{"type":"string","const":"message.attempt.recovered"},"data":{"type":"object","properties":{"appId":{"type":"string","description":"The application''s id."},"appUid":{"type":["string","null"],"description":"The application''s uid."},"msgId":{"type":"string","description":"The message''s id."},"msgEventId":{"type":["string","null"],"description":"The message''s event id."},"endpointId":{"type":"string","description":"The endpoint''s id."},"lastAttempt":{"type":"object","properties":{"id":{"type":"string","description":"The attempt''s id."},"responseStatusCode":{"type":"integer","description":"The status of the answer; 0 if there was none."},"timestamp":{"type":"string","format":"date-time","description":"When the attempt started."}},"required":["id","responseStatusCode","timestamp"]}},"required":["appId","msgId","endpointId","lastAttempt"]}},"required":["type","data"],"examples":[{"type":"message.attempt.recovered","data":{"appId":"app_1srOrx2ZWZBpBUvZwXKQmoEYga2","appUid":"customer-1","msgId":"msg_1srOrx2ZWZBpBUvZwXKQmoEYga2","msgEventId":"order-4711","endpointId":"ep_1srOrx2ZWZBpBUvZwXKQmoEYga2","lastAttempt":{"id":"atmpt_1srOrx2ZWZBpBUvZwXKQmoEYga2","responseStatusCode":200,"timestamp":"2026-01-02T03:04:05Z"}}}]}}')
) AS seed
WHERE environment.id = 'org_00000000000SvixManagement00';
-- Postings of lists -----------------------------------------------------------------------------------------------------

-- Where in a log something is to be found, so that a filtered list skips what its filter does not let through. The
-- messages of an application, and the attempts to an endpoint, are divided into blocks of consecutive ids. A row says:
-- the block that begins at `start` has something that meets this term (src/terms.rs says which terms there are; term 0 is
-- the block itself). Rows with ids below an owner's first block have no postings, and are walked one by one.
--
-- Messages that failed, or wait, at an endpoint have postings of their own, which come and go: `start` is their id.
CREATE TABLE message_posting (
    application_no INTEGER NOT NULL,
    term           INTEGER NOT NULL,
    start          BLOB NOT NULL,
    PRIMARY KEY (application_no, term, start)
) STRICT, WITHOUT ROWID;

CREATE TABLE attempt_posting (
    endpoint_no INTEGER NOT NULL,
    term        INTEGER NOT NULL,
    start       BLOB NOT NULL,
    PRIMARY KEY (endpoint_no, term, start)
) STRICT, WITHOUT ROWID;

-- How many attempts with ids in [start, until) ended how. The stretches of an endpoint follow each other without a gap;
-- what lies before the first and after the last one is counted when somebody asks.
CREATE TABLE attempt_tally (
    endpoint_no INTEGER NOT NULL,
    start       BLOB NOT NULL,
    until       BLOB NOT NULL,
    succeeded   INTEGER NOT NULL,
    failed      INTEGER NOT NULL,
    PRIMARY KEY (endpoint_no, start)
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

-- Background tasks ------------------------------------------------------------------------------------------------------

CREATE TABLE task (
    no             INTEGER PRIMARY KEY,
    environment_no INTEGER NOT NULL REFERENCES environment (no),
    id             BLOB NOT NULL UNIQUE,
    -- As on the wire.
    kind           TEXT NOT NULL,
    status         TEXT NOT NULL,
    parameters     TEXT NOT NULL,
    -- How many steps were taken, and where the last one ended. What a step does and this are one commit.
    step           INTEGER NOT NULL DEFAULT 0,
    cursor         TEXT,
    -- What it has done, or found, so far.
    data           TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    updated_at     INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX task_by_id ON task (environment_no, id);
CREATE INDEX task_running ON task (id) WHERE status = 'running';
CREATE INDEX task_ended ON task (updated_at) WHERE status <> 'running';

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

-- Idempotency keys of messages ------------------------------------------------------------------------------------------

-- The youngest keys, as they came: a row for the keys of a batch. An entry is a key and, in 8 bytes, its message's number.
CREATE TABLE key_log (
    no        INTEGER PRIMARY KEY,
    -- When the newest message so far was created.
    newest_at INTEGER NOT NULL,
    entries   BLOB NOT NULL
) STRICT;

-- What was in the log once, a few ten thousand keys at a time: a run.
CREATE TABLE key_run (
    no        INTEGER PRIMARY KEY,
    newest_at INTEGER NOT NULL
) STRICT;

-- The entries of a run by the key's bucket: run × 256 + bucket.
CREATE TABLE key_bucket (
    no      INTEGER PRIMARY KEY,
    entries BLOB NOT NULL
) STRICT;

INSERT INTO key_log (newest_at, entries)
SELECT created_at, unhex(hex(key) || printf('%016x', message_no)) FROM idempotency
WHERE message_no IS NOT NULL ORDER BY created_at;
DELETE FROM idempotency WHERE message_no IS NOT NULL;
ALTER TABLE idempotency DROP COLUMN message_no;
