-- What an application's former URLs took of late that attempts name, in bytes: when all that was used of a day's worth will be
-- there again.
ALTER TABLE asked ADD COLUMN urls_whole_at INTEGER NOT NULL DEFAULT 0;
