-- Whose endpoint a notice is about, so that applications take turns, and which one, so that a change that is told already stands for
-- the ones before it. 0: that was not noted yet.
ALTER TABLE outbox ADD COLUMN application_no INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outbox ADD COLUMN endpoint_no INTEGER NOT NULL DEFAULT 0;

CREATE INDEX outbox_by_application ON outbox (recipient, application_no);
CREATE INDEX outbox_updated ON outbox (endpoint_no) WHERE event_type = 'endpoint.updated';
