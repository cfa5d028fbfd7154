-- Streams go by the order in which messages came: their numbers. Ids are made by the clock, and it may have been wrong.

-- An entry of it is an application and, as in every index, the number of the row.
CREATE INDEX message_by_application ON message (application_no);

-- How a reader's place is meant. 0: of what had come when `seen` was the newest message, everything up to the id `after` was read
-- (`seen` is NULL while nothing was), and nothing of what came later. 1: everything up to `seen` was read.
ALTER TABLE stream_reader ADD COLUMN by_number INTEGER NOT NULL DEFAULT 0;
-- Who had not begun begins now. (Numbers from 2^62 on make no sense.)
UPDATE stream_reader SET seen = (SELECT max(no) FROM message WHERE no < 4611686018427387904) WHERE seen IS NULL;

-- The newest message that there was when the endpoint was created; NULL if that was before this was noted.
ALTER TABLE endpoint ADD COLUMN newest_message INTEGER;
