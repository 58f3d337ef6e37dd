-- A representative volume for the plans of queries: 10,000 partitions with 200,000 ranges in 44,000 objects and 300,000
-- segments, and what belongs to them.
INSERT INTO agents (agent_id, node_id, grpc_address, http_address, kafka_address, zone, version, lease_ttl_ms,
                    lease_expires_at, sealed_at, swept_at)
SELECT 'agent-' || n, n, '', '', '', '', '', 10000, now() + interval '1 h',
       CASE WHEN n > 20 THEN now() END, CASE WHEN n > 20 THEN now() END
FROM generate_series(1, 400) AS n;
INSERT INTO topics (name, folder) SELECT 'topic-' || n, 'topic-' || n FROM generate_series(1, 100) AS n;
INSERT INTO topic_owners (name, uid, namespace, resource)
SELECT 'topic-' || n, gen_random_uuid(), 'default', 'topic-' || n FROM generate_series(51, 150) AS n;
INSERT INTO partitions (topic_id, partition, holder, epoch, rolled, high_watermark, size_bytes)
SELECT topic_id, n, 1 + n % 20, 1, 300000, 302000, 1000000
FROM topics, generate_series(0, 99) AS n WHERE NOT internal;
INSERT INTO segments (partition_id, end_offset, base_offset, max_timestamp, size_bytes, key)
SELECT p.id, n * 10000, (n - 1) * 10000, n * 1000, 1000000, 'topic/' || p.id || '/segment_' || n
FROM partitions p, generate_series(1, 30) AS n WHERE p.high_watermark > 0;
INSERT INTO ranges (partition_id, end_offset, base_offset, incarnation, sequence, position, length, epoch, max_timestamp)
SELECT p.id, 300000 + n * 100, 300000 + (n - 1) * 100, 1 + p.id % 20, n * 100 + p.id % 100, p.id, 100, 1, 30000 + n
FROM partitions p, generate_series(1, 20) AS n WHERE p.high_watermark > 0;
INSERT INTO wal_objects (incarnation, sequence, size_bytes, live_ranges, outcome, unreferenced_at)
SELECT i, n, 1000000, CASE WHEN n < 100 THEN 0 ELSE 5 END, '', CASE WHEN n < 100 THEN now() - n * interval '1 min' END
FROM generate_series(1, 20) AS i, generate_series(0, 2199) AS n;
INSERT INTO segment_intents (partition_id, base_offset, key, incarnation, topic_id)
SELECT id, 300000, 'topic/' || id || '/segment_300000', 1, topic_id FROM partitions WHERE id % 2 = 0;
INSERT INTO deletions (key, topic_id, queued_at)
SELECT 'old/0/segment_' || n, gen_random_uuid(), now() - n * interval '1 s' FROM generate_series(1, 20000) AS n;
INSERT INTO producer_state (partition_id, producer_id, epoch, batches, last_used)
SELECT id, n, 0, decode(repeat('00', 80), 'hex'), date_trunc('minute', now() - n * interval '1 h')
FROM partitions, generate_series(1, 10) AS n;
INSERT INTO consumer_groups (group_id, slot, generation, state)
SELECT 'group-' || n, n % 16, 1, '' FROM generate_series(1, 2000) AS n;
INSERT INTO consumer_offsets (group_id, partition_id, committed_offset, leader_epoch, metadata)
SELECT 'group-' || g, 17 + (g * 50 + n) % 10000, 5, 1, '' FROM generate_series(1, 2000) AS g, generate_series(0, 49) AS n;
