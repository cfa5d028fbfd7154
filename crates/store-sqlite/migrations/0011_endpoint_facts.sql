-- What the engine finds out about an endpoint, in a row of its own: SQLite writes all of a row that becomes longer or shorter,
-- and an endpoint's own may have a quarter of a megabyte. Endpoints that never failed, and are not disabled, have none.
CREATE TABLE endpoint_fact (
    endpoint_no     INTEGER PRIMARY KEY,
    -- When a delivery was first exhausted with no success since; NULL if none was.
    failing_since   INTEGER,
    -- Why and since when it is disabled (`DisableReason`); NULL if it is not, or was before this was noted.
    disabled_reason TEXT,
    disabled_since  INTEGER
) STRICT;

INSERT INTO endpoint_fact (endpoint_no, failing_since, disabled_reason, disabled_since)
SELECT no, failing_since, disabled_reason, disabled_since FROM endpoint
WHERE failing_since IS NOT NULL OR disabled_reason IS NOT NULL OR disabled_since IS NOT NULL;

DROP INDEX endpoint_failing;
ALTER TABLE endpoint DROP COLUMN failing_since;
ALTER TABLE endpoint DROP COLUMN disabled_reason;
ALTER TABLE endpoint DROP COLUMN disabled_since;

-- The few that have been failing, so that a start finds them without looking at all.
CREATE INDEX endpoint_failing ON endpoint_fact (endpoint_no) WHERE failing_since IS NOT NULL;
