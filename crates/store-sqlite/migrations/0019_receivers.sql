-- How often the receiver of an endpoint was another one: what was learned of one says nothing of the next.
ALTER TABLE endpoint ADD COLUMN receiver INTEGER NOT NULL DEFAULT 0;
