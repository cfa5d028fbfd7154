-- What retention needs to give space back: whole rows go, in the order in which they came, so whole pages become free.

-- Payloads, apart from their messages -----------------------------------------------------------------------------------

-- A row is there as long as the payload is. (A column of the message that becomes NULL frees nothing: its page stays.)
CREATE TABLE payload (
    message_no INTEGER PRIMARY KEY,
    -- When it goes; NULL is after the time that the server keeps payloads.
    expires_at INTEGER,
    -- Last, so that everything else is read without touching its overflow pages.
    body       BLOB NOT NULL
) STRICT;
INSERT INTO payload (message_no, expires_at, body)
SELECT no, expires_at, payload FROM message WHERE payload IS NOT NULL ORDER BY no;
-- Payloads that go at a time of their own. The others go in the order in which they came; see `sequence`.
CREATE INDEX payload_by_expiry ON payload (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE message_3 (
    no             INTEGER PRIMARY KEY,
    application_no INTEGER NOT NULL,
    id             BLOB NOT NULL,
    event_type     TEXT NOT NULL,
    event_id       TEXT,
    channels       TEXT,
    tags           TEXT,
    -- When it is to be delivered; NULL is at once.
    deliver_at     INTEGER,
    -- When its sender wanted its payload to go; NULL is after the time that the server keeps payloads.
    expires_at     INTEGER,
    created_at     INTEGER NOT NULL
) STRICT;
INSERT INTO message_3 (no, application_no, id, event_type, event_id, channels, tags, deliver_at, expires_at, created_at)
SELECT no, application_no, id, event_type, event_id, channels, tags, deliver_at, expires_at, created_at FROM message ORDER BY no;
DROP TABLE message;
ALTER TABLE message_3 RENAME TO message;
CREATE UNIQUE INDEX message_by_id ON message (application_no, id);
CREATE UNIQUE INDEX message_by_event_id ON message (application_no, event_id) WHERE event_id IS NOT NULL;

-- Messages --------------------------------------------------------------------------------------------------------------

-- Messages up to this number are being removed: who adds a delivery of one of them notes that in `held_message`.
INSERT INTO sequence (name, next) VALUES ('history', 0);
CREATE TABLE held_message (no INTEGER PRIMARY KEY) STRICT;

-- Where data of what was deleted may be left.
CREATE INDEX application_deleted ON application (no) WHERE deleted_at IS NOT NULL;
CREATE INDEX endpoint_deleted ON endpoint (no) WHERE deleted_at IS NOT NULL;

-- The clock -------------------------------------------------------------------------------------------------------------

-- When the clock was last trusted, in microseconds since 1970; 0 is never.
INSERT INTO sequence (name, next) VALUES ('seen', 0);
