-- Whether this store and the bucket belong to the same history.

-- Rises with each life of an agent and while records come in; the bucket holds the same number. A store whose number is lower than
-- the bucket's is an older copy.
ALTER TABLE cluster ADD COLUMN timeline bigint NOT NULL DEFAULT 0;
-- Set when the bucket holds a mark of a number that this store gave: another copy of this store went on without it.
ALTER TABLE cluster ADD COLUMN diverged_at timestamptz;
