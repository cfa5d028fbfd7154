-- What the rest of the REST contract needs. Conventions: see 0001.

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
