-- The attempts for a message in the order of their ids, whatever their endpoints: a page of them, or one of them, is found without
-- looking through all.
CREATE INDEX attempt_of_message ON attempt (message_no, id, succeeded, status_code);

-- How many notices wait for an operator: to count them for each that is added would take as long as there are many.
CREATE TABLE outbox_room (
    recipient TEXT NOT NULL PRIMARY KEY,
    notices   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO outbox_room (recipient, notices) SELECT recipient, count(*) FROM outbox GROUP BY recipient;

CREATE TRIGGER outbox_added AFTER INSERT ON outbox BEGIN
    INSERT INTO outbox_room (recipient, notices) VALUES (NEW.recipient, 1)
    ON CONFLICT DO UPDATE SET notices = min(max(notices, 0), 1000000000) + 1;
END;

CREATE TRIGGER outbox_removed AFTER DELETE ON outbox BEGIN
    UPDATE outbox_room SET notices = notices - 1 WHERE recipient = OLD.recipient AND notices > 0;
    DELETE FROM outbox_room WHERE recipient = OLD.recipient AND notices <= 0;
END;
