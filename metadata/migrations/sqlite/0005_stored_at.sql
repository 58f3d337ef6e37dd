-- When a range was committed: retention goes by it where a record's timestamp lies in the future or is none.
ALTER TABLE ranges ADD COLUMN stored_at INTEGER NOT NULL DEFAULT 0;
UPDATE ranges SET stored_at = CAST(unixepoch('subsec') * 1000 AS INTEGER);
