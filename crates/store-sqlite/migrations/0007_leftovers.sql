-- What was there without a bound is there for as long as something refers to it, or as long as it says something.

-- URLs of endpoints ------------------------------------------------------------------------------------------------------

-- Since when the endpoint has another URL; NULL if that was not noticed. Such a row is not used for new attempts, so that it
-- can go when no attempt that is there names it. (An endpoint that gets a former URL back has another row for it.)
ALTER TABLE endpoint_url ADD COLUMN retired_at INTEGER;
UPDATE endpoint_url SET retired_at = 0 WHERE url IS NOT (SELECT url FROM endpoint WHERE endpoint.no = endpoint_no);
DROP INDEX endpoint_url_by_text;
CREATE UNIQUE INDEX endpoint_url_by_text ON endpoint_url (endpoint_no, url) WHERE retired_at IS NULL;
CREATE INDEX endpoint_url_of ON endpoint_url (endpoint_no, retired_at);

-- Tasks that ended -------------------------------------------------------------------------------------------------------

CREATE INDEX task_ended_of ON task (environment_no, application_no, updated_at, id) WHERE status <> 'running';

-- What somebody asked for --------------------------------------------------------------------------------------------------

-- How often a message waits at an endpoint because somebody asked for it, and how many deliveries do.
DROP INDEX delivery_manual;
CREATE INDEX delivery_manual ON delivery (endpoint_no, message_no) WHERE trigger = 1;
