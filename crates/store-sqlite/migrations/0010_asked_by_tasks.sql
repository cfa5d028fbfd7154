-- What an application's tasks asked for, apart from what its callers did one by one: neither leaves the other nothing. What was
-- asked for before counts as the callers'.
ALTER TABLE asked ADD COLUMN tasks_whole_at INTEGER NOT NULL DEFAULT 0;
