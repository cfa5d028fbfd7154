-- With what came of each attempt: to look that up, SQLite would read the attempt's row, and long ones beside it to their ends.
DROP INDEX attempt_by_message;
CREATE INDEX attempt_by_message ON attempt (message_no, endpoint_no, id, succeeded, status_code);
