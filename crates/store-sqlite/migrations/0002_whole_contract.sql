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
