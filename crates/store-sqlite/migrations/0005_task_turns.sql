-- Whose turn a task takes, so that nobody's tasks wait behind all of somebody else's.
ALTER TABLE task ADD COLUMN application_no INTEGER;
ALTER TABLE task ADD COLUMN endpoint_no INTEGER;
UPDATE task SET endpoint_no = json_extract(parameters, '$.endpoint_no') WHERE status = 'running' AND json_valid(parameters);
UPDATE task SET application_no = coalesce(
    json_extract(parameters, '$.application_no'), (SELECT application_no FROM endpoint WHERE endpoint.no = task.endpoint_no)
) WHERE status = 'running' AND json_valid(parameters);
CREATE INDEX task_turn ON task (environment_no, application_no, id) WHERE status = 'running';
CREATE INDEX task_at_endpoint ON task (endpoint_no, id) WHERE status = 'running';
DROP INDEX task_running;

-- Deliveries that somebody asked for, to count them.
CREATE INDEX delivery_manual ON delivery (endpoint_no) WHERE trigger = 1;

CREATE INDEX outbox_by_recipient ON outbox (recipient, no);
