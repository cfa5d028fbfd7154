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
