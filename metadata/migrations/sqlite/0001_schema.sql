-- StreamHouse metadata, embedded. The same tables as for PostgreSQL; times are milliseconds since the Unix epoch.

-- The cluster itself: one row.
CREATE TABLE cluster (
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    cluster_id      TEXT    NOT NULL,
    -- Rises with every change of agents, leaders and topics.
    version         INTEGER NOT NULL,
    last_producer_id INTEGER NOT NULL,
    created_at      INTEGER NOT NULL
) STRICT;

INSERT INTO cluster (one, cluster_id, version, last_producer_id, created_at)
SELECT 1,
       substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-4' || substr(h, 14, 3) || '-a' || substr(h, 18, 3) || '-' || substr(h, 21, 12),
       1, 0, CAST(unixepoch('subsec') * 1000 AS INTEGER)
FROM (SELECT lower(hex(randomblob(16))) AS h);

-- Kafka's broker id of every agent id ever seen.
CREATE TABLE nodes (
    agent_id    TEXT    PRIMARY KEY,
    node_id     INTEGER NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;

-- One row for each life of an agent. The lease of everything it holds is the one lease_expires_at.
CREATE TABLE agents (
    incarnation         INTEGER PRIMARY KEY AUTOINCREMENT,
    agent_id            TEXT    NOT NULL,
    node_id             INTEGER NOT NULL,
    grpc_address        TEXT    NOT NULL,
    http_address        TEXT    NOT NULL,
    kafka_address       TEXT    NOT NULL,
    zone                TEXT    NOT NULL,
    version             TEXT    NOT NULL,
    lease_ttl_ms        INTEGER NOT NULL,
    registered_at       INTEGER NOT NULL,
    lease_expires_at    INTEGER NOT NULL,
    -- It hands its leases over and is given no new ones.
    draining            INTEGER NOT NULL DEFAULT 0,
    -- Set once: the life is over, and every commit of it is refused from then on.
    sealed_at           INTEGER,
    -- Set once: no orphan object of it is left.
    swept_at            INTEGER,
    -- The greatest WAL sequence whose object was deleted and whose row is gone: it can never be committed again.
    forgotten_sequence  INTEGER NOT NULL DEFAULT -1
) STRICT;

CREATE UNIQUE INDEX agents_live ON agents (agent_id) WHERE sealed_at IS NULL;
CREATE INDEX agents_unswept ON agents (incarnation) WHERE sealed_at IS NOT NULL AND swept_at IS NULL;

CREATE TABLE topics (
    -- The 16 bytes of a UUID.
    topic_id    BLOB    PRIMARY KEY,
    -- Reserved until the row is gone, and that is when the last object under the name is deleted.
    name        TEXT    NOT NULL UNIQUE,
    internal    INTEGER NOT NULL DEFAULT 0,
    config      TEXT    NOT NULL DEFAULT '{}',
    created_at  INTEGER NOT NULL,
    deleted_at  INTEGER,
    -- Its rows are gone; what is left is to delete its objects.
    purged      INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE partitions (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    topic_id        BLOB    NOT NULL REFERENCES topics,
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

-- Objects that agents wrote, each with batches of many partitions.
CREATE TABLE wal_objects (
    incarnation     INTEGER NOT NULL,
    sequence        INTEGER NOT NULL,
    size_bytes      INTEGER NOT NULL,
    -- How many rows of ranges point to it.
    live_ranges     INTEGER NOT NULL CHECK (live_ranges >= 0),
    -- What the commit answered, for when it is asked again.
    outcome         BLOB    NOT NULL,
    committed_at    INTEGER NOT NULL,
    unreferenced_at INTEGER,
    PRIMARY KEY (incarnation, sequence)
) STRICT;

CREATE INDEX wal_objects_garbage ON wal_objects (unreferenced_at) WHERE unreferenced_at IS NOT NULL;

-- Committed records that still lie in WAL objects. To locate an offset: the first row with a greater end_offset.
CREATE TABLE ranges (
    partition_id    INTEGER NOT NULL,
    end_offset      INTEGER NOT NULL,
    base_offset     INTEGER NOT NULL,
    incarnation     INTEGER NOT NULL,
    sequence        INTEGER NOT NULL,
    position        INTEGER NOT NULL,
    length          INTEGER NOT NULL,
    epoch           INTEGER NOT NULL,
    max_timestamp   INTEGER NOT NULL,
    PRIMARY KEY (partition_id, end_offset),
    CHECK (base_offset < end_offset)
) STRICT, WITHOUT ROWID;

-- Records that were rolled into an object of their partition.
CREATE TABLE segments (
    partition_id    INTEGER NOT NULL,
    end_offset      INTEGER NOT NULL,
    base_offset     INTEGER NOT NULL,
    max_timestamp   INTEGER NOT NULL,
    size_bytes      INTEGER NOT NULL,
    key             TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    PRIMARY KEY (partition_id, end_offset),
    CHECK (base_offset < end_offset)
) STRICT, WITHOUT ROWID;

-- Segments that somebody is writing, or was: their object may exist.
CREATE TABLE segment_intents (
    partition_id    INTEGER NOT NULL,
    base_offset     INTEGER NOT NULL,
    key             TEXT    NOT NULL,
    incarnation     INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    PRIMARY KEY (partition_id, base_offset)
) STRICT, WITHOUT ROWID;

-- Objects under a topic's name that nothing references any more.
CREATE TABLE deletions (
    key         TEXT    PRIMARY KEY,
    topic_id    BLOB    NOT NULL,
    queued_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX deletions_queued ON deletions (queued_at);
CREATE INDEX deletions_topic ON deletions (topic_id);

-- The last batches of each idempotent producer, 16 bytes each: first sequence, last sequence, base offset.
CREATE TABLE producer_state (
    partition_id    INTEGER NOT NULL,
    producer_id     INTEGER NOT NULL,
    epoch           INTEGER NOT NULL,
    batches         BLOB    NOT NULL,
    -- To the minute, so that a busy producer's updates leave the index alone for a minute.
    last_used       INTEGER NOT NULL,
    PRIMARY KEY (partition_id, producer_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX producer_state_idle ON producer_state (last_used);

CREATE TABLE consumer_groups (
    group_id    TEXT    PRIMARY KEY,
    -- hash(group_id) modulo the number of coordinator slots.
    slot        INTEGER NOT NULL,
    generation  INTEGER NOT NULL,
    -- The coordinator's own bytes; none when the group has no members.
    state       BLOB    NOT NULL,
    updated_at  INTEGER NOT NULL,
    -- Since when it has no members, or later when its offsets were looked at; NULL while it has members.
    idle_since  INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX consumer_groups_slot ON consumer_groups (slot);
CREATE INDEX consumer_groups_idle ON consumer_groups (idle_since) WHERE idle_since IS NOT NULL;

CREATE TABLE consumer_offsets (
    group_id        TEXT    NOT NULL,
    partition_id    INTEGER NOT NULL,
    committed_offset INTEGER NOT NULL,
    leader_epoch    INTEGER NOT NULL,
    metadata        TEXT    NOT NULL,
    committed_at    INTEGER NOT NULL,
    PRIMARY KEY (group_id, partition_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX consumer_offsets_partition ON consumer_offsets (partition_id);

-- The coordinator slots: leased like any partition.
INSERT INTO topics (topic_id, name, internal, created_at)
VALUES (randomblob(16), '__consumer_groups', 1, CAST(unixepoch('subsec') * 1000 AS INTEGER));

WITH RECURSIVE slots (slot) AS (SELECT 0 UNION ALL SELECT slot + 1 FROM slots WHERE slot < 15)
INSERT INTO partitions (topic_id, partition)
SELECT topic_id, slot FROM topics, slots WHERE name = '__consumer_groups' ORDER BY slot;
