-- Names that come back: a topic's name is free as soon as the topic is deleted, and no object key is ever used twice.

-- How many folders a name was given. Rows are never deleted: a folder is given once, also when its topic's row is long gone.
CREATE TABLE topic_names (
    name    TEXT    PRIMARY KEY,
    uses    INTEGER NOT NULL CHECK (uses > 0)
) STRICT, WITHOUT ROWID;

INSERT INTO topic_names (name, uses) SELECT name, 1 FROM topics;

-- SQLite cannot drop a constraint, so both tables are made anew; whoever references goes first, so that no reference ever
-- leads nowhere.
CREATE TABLE new_topics (
    -- The 16 bytes of a UUID.
    topic_id    BLOB    PRIMARY KEY,
    -- Unique among the topics that are not deleted.
    name        TEXT    NOT NULL,
    -- What the keys of the topic's segments begin with: the name, or for a name that was used before the name, an @ and a
    -- number.
    folder      TEXT    NOT NULL UNIQUE,
    internal    INTEGER NOT NULL DEFAULT 0,
    config      TEXT    NOT NULL DEFAULT '{}',
    created_at  INTEGER NOT NULL,
    deleted_at  INTEGER,
    -- Its rows are gone; what is left is to delete its objects.
    purged      INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

INSERT INTO new_topics (topic_id, name, folder, internal, config, created_at, deleted_at, purged)
SELECT topic_id, name, name, internal, config, created_at, deleted_at, purged FROM topics;

CREATE TABLE new_partitions (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    topic_id        BLOB    NOT NULL REFERENCES new_topics,
    partition       INTEGER NOT NULL CHECK (partition >= 0),
    -- The incarnation that holds the lease; one that is sealed counts as nobody.
    holder          INTEGER,
    epoch           INTEGER NOT NULL DEFAULT 0,
    log_start       INTEGER NOT NULL DEFAULT 0 CHECK (log_start >= 0),
    -- The first offset that no segment covers.
    rolled          INTEGER NOT NULL DEFAULT 0 CHECK (rolled >= 0),
    high_watermark  INTEGER NOT NULL DEFAULT 0,
    size_bytes      INTEGER NOT NULL DEFAULT 0,
    deleted         INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic_id, partition),
    CHECK (log_start <= high_watermark),
    CHECK (rolled <= high_watermark)
) STRICT;

INSERT INTO new_partitions (id, topic_id, partition, holder, epoch, log_start, rolled, high_watermark, size_bytes, deleted)
SELECT id, topic_id, partition, holder, epoch, log_start, rolled, high_watermark, size_bytes, deleted FROM partitions;

-- An id that was given before is never given again, also when its partition is gone. (The coordinator slots are always there.)
UPDATE sqlite_sequence SET seq = (SELECT seq FROM sqlite_sequence WHERE name = 'partitions') WHERE name = 'new_partitions';

DROP TABLE partitions;
DROP TABLE topics;
-- The references follow.
ALTER TABLE new_topics RENAME TO topics;
ALTER TABLE new_partitions RENAME TO partitions;
CREATE INDEX topics_deleted ON topics (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE UNIQUE INDEX topics_live_name ON topics (name) WHERE deleted_at IS NULL;

-- Segments that a life of an agent began and did not finish, and whose intent is gone or another's: its put may still arrive.
-- They are deleted once more when that life has been over for the grace, and at the last look at it.
CREATE TABLE abandoned_segments (
    incarnation     INTEGER NOT NULL,
    key             TEXT    NOT NULL,
    partition_id    INTEGER NOT NULL,
    base_offset     INTEGER NOT NULL,
    topic_id        BLOB    NOT NULL,
    -- When it was queued for deletion because the life was over.
    queued_at       INTEGER,
    PRIMARY KEY (incarnation, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX abandoned_segments_waiting ON abandoned_segments (incarnation) WHERE queued_at IS NULL;

-- The life's objects are looked through once more before its row is forgotten.
ALTER TABLE agents ADD COLUMN last_look INTEGER NOT NULL DEFAULT 0;
