-- When a range was committed: retention goes by it where a record's timestamp lies in the future or is none. Ranges that are
-- there count as stored now. now() is the same for all of them, so no row is rewritten.
ALTER TABLE ranges ADD COLUMN stored_at timestamptz NOT NULL DEFAULT now();
