-- What the engine knows of endpoints beyond what their owners set. The conventions are those of 0001.

-- Endpoints that get nothing before an instant, and why (`HoldReason`). Nothing puts such an endpoint into `wake` at an
-- earlier instant. A row whose time is over means nothing; it goes when the endpoint is parked.
CREATE TABLE endpoint_hold (
    endpoint_no INTEGER PRIMARY KEY,
    not_before  INTEGER NOT NULL,
    reason      TEXT NOT NULL
) STRICT;

-- Why and since when an endpoint is disabled (`DisabledReason`); NULL if it is not, or was before this was noted.
ALTER TABLE endpoint ADD COLUMN disabled_reason TEXT;
ALTER TABLE endpoint ADD COLUMN disabled_since INTEGER;

-- The few that have been failing, so that a start finds them without looking at all.
CREATE INDEX endpoint_failing ON endpoint (no) WHERE failing_since IS NOT NULL;
