-- Answers to repeated POSTs, apart from the keys that lead to them, and with a bound for each owner.

-- Keys come in no order. Here they lie by owner, and are small: however many others have, a request with a key touches
-- pages of its own owner. An owner is an application (its number), or the operator of an environment (its number, negative).
-- 0 is whoever had a key before this was noted; those answers count for nobody.
CREATE TABLE answer_key (
    owner          INTEGER NOT NULL,
    key            BLOB NOT NULL,
    -- What the request was about, 0 for nothing: under one path and key there may be an answer for each thing that had its
    -- name at a time.
    application_no INTEGER NOT NULL DEFAULT 0,
    endpoint_no    INTEGER NOT NULL DEFAULT 0,
    message_no     INTEGER NOT NULL DEFAULT 0,
    answer_no      INTEGER NOT NULL,
    PRIMARY KEY (owner, key, application_no, endpoint_no, message_no)
) STRICT, WITHOUT ROWID;

-- What a repetition is answered. Appended, and removed from the front: in the order in which they came.
CREATE TABLE answer (
    no             INTEGER PRIMARY KEY,
    owner          INTEGER NOT NULL,
    key            BLOB NOT NULL,
    created_at     INTEGER NOT NULL,
    -- As in `answer_key`, for the row that leads here.
    application_no INTEGER NOT NULL DEFAULT 0,
    endpoint_no    INTEGER NOT NULL DEFAULT 0,
    message_no     INTEGER NOT NULL DEFAULT 0,
    status         INTEGER NOT NULL,
    -- Last, so that everything else is read without touching its overflow pages.
    body           BLOB NOT NULL
) STRICT;

-- The room that an owner's answers of an hour (since 1970) take, of all that are in `answer`.
CREATE TABLE answer_room (
    owner INTEGER NOT NULL,
    hour  INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (owner, hour)
) STRICT, WITHOUT ROWID;

INSERT INTO answer_key (owner, key, answer_no)
SELECT 0, key, row_number() OVER (ORDER BY created_at, key) FROM idempotency WHERE status IS NOT NULL AND body IS NOT NULL;
INSERT INTO answer (no, owner, key, created_at, status, body)
SELECT answer_no, 0, answer_key.key, created_at, status, body
FROM answer_key CROSS JOIN idempotency ON idempotency.key = answer_key.key;
DROP TABLE idempotency;

-- Endpoints: how many there are, and how many were deleted of late -------------------------------------------------------

CREATE INDEX endpoint_of ON endpoint (application_no, deleted_at);
