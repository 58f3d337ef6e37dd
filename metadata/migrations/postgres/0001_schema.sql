-- StreamHouse metadata. Offsets are half-open (base_offset..end_offset), sizes are bytes, times are the server's.
--
-- Hot rows (partitions, agents, wal_objects, producer_state, consumer_offsets) leave room in their pages, and none of the
-- columns that change on the hot path is indexed, so their updates stay in the page and touch no index (HOT).

-- The cluster itself: one row. Whoever changes agents, leaders or topics locks it first, so such changes come one by one.
CREATE TABLE cluster (
    one         boolean     PRIMARY KEY DEFAULT true CHECK (one),
    cluster_id  text        NOT NULL,
    -- Rises with every change of agents, leaders and topics.
    version     bigint      NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

INSERT INTO cluster (cluster_id, version) VALUES (gen_random_uuid()::text, 1);

-- Kafka's broker id of every agent id ever seen.
CREATE TABLE nodes (
    agent_id    text        PRIMARY KEY,
    node_id     integer     NOT NULL UNIQUE
);

-- One row for each life of an agent. The lease of everything it holds is the one lease_expires_at.
CREATE TABLE agents (
    incarnation         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    agent_id            text        NOT NULL,
    node_id             integer     NOT NULL,
    grpc_address        text        NOT NULL,
    http_address        text        NOT NULL,
    kafka_address       text        NOT NULL,
    zone                text        NOT NULL,
    version             text        NOT NULL,
    lease_ttl_ms        bigint      NOT NULL,
    registered_at       timestamptz NOT NULL DEFAULT now(),
    lease_expires_at    timestamptz NOT NULL,
    -- It hands its leases over and is given no new ones.
    draining            boolean     NOT NULL DEFAULT false,
    -- Set once: the life is over, and every commit of it is refused from then on.
    sealed_at           timestamptz,
    -- Set once: no orphan object of it is left.
    swept_at            timestamptz,
    -- The greatest WAL sequence whose object was deleted and whose row is gone: it can never be committed again.
    forgotten_sequence  bigint      NOT NULL DEFAULT -1
) WITH (fillfactor = 50);

CREATE UNIQUE INDEX agents_live ON agents (agent_id) WHERE sealed_at IS NULL;
CREATE INDEX agents_unswept ON agents (incarnation) WHERE sealed_at IS NOT NULL AND swept_at IS NULL;

CREATE TABLE topics (
    topic_id    uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    -- Reserved until the row is gone, and that is when the last object under the name is deleted.
    name        text        NOT NULL UNIQUE,
    internal    boolean     NOT NULL DEFAULT false,
    config      jsonb       NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    deleted_at  timestamptz,
    -- Its rows are gone; what is left is to delete its objects.
    purged      boolean     NOT NULL DEFAULT false
);

CREATE INDEX topics_deleted ON topics (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE partitions (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic_id        uuid        NOT NULL REFERENCES topics,
    partition       integer     NOT NULL CHECK (partition >= 0),
    -- The incarnation that holds the lease; one that is sealed counts as nobody.
    holder          bigint,
    epoch           integer     NOT NULL DEFAULT 0,
    log_start       bigint      NOT NULL DEFAULT 0 CHECK (log_start >= 0),
    -- The first offset that no segment covers.
    rolled          bigint      NOT NULL DEFAULT 0 CHECK (rolled >= 0),
    high_watermark  bigint      NOT NULL DEFAULT 0,
    size_bytes      bigint      NOT NULL DEFAULT 0,
    deleted         boolean     NOT NULL DEFAULT false,
    UNIQUE (topic_id, partition),
    CHECK (log_start <= high_watermark),
    CHECK (rolled <= high_watermark)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Objects that agents wrote, each with batches of many partitions.
CREATE TABLE wal_objects (
    incarnation     bigint      NOT NULL,
    sequence        bigint      NOT NULL,
    size_bytes      bigint      NOT NULL,
    -- How many rows of ranges point to it.
    live_ranges     integer     NOT NULL CHECK (live_ranges >= 0),
    -- What the commit answered, for when it is asked again.
    outcome         bytea       NOT NULL,
    committed_at    timestamptz NOT NULL DEFAULT now(),
    unreferenced_at timestamptz,
    PRIMARY KEY (incarnation, sequence)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX wal_objects_garbage ON wal_objects (unreferenced_at) WHERE unreferenced_at IS NOT NULL;

-- Committed records that still lie in WAL objects. To locate an offset: the first row with a greater end_offset.
CREATE TABLE ranges (
    partition_id    bigint      NOT NULL,
    end_offset      bigint      NOT NULL,
    base_offset     bigint      NOT NULL,
    incarnation     bigint      NOT NULL,
    sequence        bigint      NOT NULL,
    position        bigint      NOT NULL,
    length          bigint      NOT NULL,
    epoch           integer     NOT NULL,
    max_timestamp   bigint      NOT NULL,
    PRIMARY KEY (partition_id, end_offset),
    CHECK (base_offset < end_offset)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05);

-- Records that were rolled into an object of their partition. The timestamp is in the index: a search by time reads no row.
CREATE TABLE segments (
    partition_id    bigint      NOT NULL,
    end_offset      bigint      NOT NULL,
    base_offset     bigint      NOT NULL,
    max_timestamp   bigint      NOT NULL,
    size_bytes      bigint      NOT NULL,
    key             text        NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition_id, end_offset) INCLUDE (max_timestamp),
    CHECK (base_offset < end_offset)
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.05);

-- Segments that somebody is writing, or was: their object may exist.
CREATE TABLE segment_intents (
    partition_id    bigint      NOT NULL,
    base_offset     bigint      NOT NULL,
    key             text        NOT NULL,
    incarnation     bigint      NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition_id, base_offset)
);

-- Objects under a topic's name that nothing references any more.
CREATE TABLE deletions (
    key         text        PRIMARY KEY,
    topic_id    uuid        NOT NULL,
    queued_at   timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX deletions_queued ON deletions (queued_at);
CREATE INDEX deletions_topic ON deletions (topic_id);

CREATE SEQUENCE producer_ids MINVALUE 1 START 1;

-- The last batches of each idempotent producer, 16 bytes each: first sequence, last sequence, base offset.
CREATE TABLE producer_state (
    partition_id    bigint      NOT NULL,
    producer_id     bigint      NOT NULL,
    epoch           smallint    NOT NULL,
    batches         bytea       NOT NULL,
    -- To the minute, so that a busy producer's updates leave the index alone for a minute.
    last_used       timestamptz NOT NULL,
    PRIMARY KEY (partition_id, producer_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX producer_state_idle ON producer_state (last_used);

CREATE TABLE consumer_groups (
    group_id    text        PRIMARY KEY,
    -- hash(group_id) modulo the number of coordinator slots.
    slot        integer     NOT NULL,
    generation  integer     NOT NULL,
    -- The coordinator's own bytes; none when the group has no members.
    state       bytea       NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    -- Since when it has no members, or later when its offsets were looked at; NULL while it has members.
    idle_since  timestamptz
) WITH (fillfactor = 60);

CREATE INDEX consumer_groups_slot ON consumer_groups (slot);
CREATE INDEX consumer_groups_idle ON consumer_groups (idle_since) WHERE idle_since IS NOT NULL;

CREATE TABLE consumer_offsets (
    group_id        text        NOT NULL,
    partition_id    bigint      NOT NULL,
    committed_offset bigint     NOT NULL,
    leader_epoch    integer     NOT NULL,
    metadata        text        NOT NULL,
    committed_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (group_id, partition_id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX consumer_offsets_partition ON consumer_offsets (partition_id);

-- The coordinator slots: leased like any partition.
WITH slots AS (
    INSERT INTO topics (name, internal) VALUES ('__consumer_groups', true) RETURNING topic_id
)
INSERT INTO partitions (topic_id, partition)
SELECT topic_id, slot FROM slots, generate_series(0, 15) AS slot ORDER BY slot;
