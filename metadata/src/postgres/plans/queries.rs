//! The hot queries as the store sends them, with arguments and the indexes that they must use.

use super::super::{agents, commit, garbage, groups, log, owners, segments};

/// A query with its arguments as SQL, and the indexes that it must use.
pub(super) struct HotQuery {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    pub(super) arguments: String,
    pub(super) indexes: &'static [&'static str],
    /// The growing tables that it may scan as a whole, once each.
    pub(super) full_scans: &'static [&'static str],
}

fn hot_query(
    name: &'static str,
    sql: &'static str,
    arguments: &[&str],
    indexes: &'static [&'static str],
) -> HotQuery {
    HotQuery {
        name,
        sql,
        arguments: arguments.join(", "),
        indexes,
        full_scans: &[],
    }
}

/// Returns the array `from..from + 100`.
fn number_array(from: i64) -> String {
    let list: Vec<String> = (from..from + 100).map(|n| n.to_string()).collect();
    format!("'{{{}}}'", list.join(","))
}

/// Returns an array that contains a value a hundred times.
fn repeated_array(value: &str) -> String {
    format!("'{{{}}}'", vec![value; 100].join(","))
}

/// Returns every hot query.
pub(super) fn all() -> Vec<HotQuery> {
    [
        commits(),
        reads(),
        leases(),
        rolls(),
        garbage(),
        groups(),
        overview(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn commits() -> Vec<HotQuery> {
    let (uids, ones, ends, producers) = (
        number_array(500),
        repeated_array("1"),
        repeated_array("400000"),
        repeated_array("\\\\x00"),
    );
    let write = [
        "1", "99999", &uids, &ends, &ones, &ones, &ones, &ones, &ones, &uids, &ends, &ones, &uids, &ones,
        &ones, &producers, "1", "100", "''",
    ];
    vec![
        hot_query(
            "commit: lock the agent's row and read an earlier outcome",
            commit::LOCK_AGENT,
            &["7", "1234"],
            &["agents_pkey", "wal_objects_pkey"],
        ),
        hot_query(
            "commit: lock the partitions",
            commit::LOCK_PARTITIONS,
            &[&uids],
            &["partitions_pkey"],
        ),
        hot_query(
            "commit: read the producer states",
            commit::READ_PRODUCERS,
            &[&uids, &ones],
            &["producer_state_pkey"],
        ),
        hot_query(
            "commit: write everything",
            commit::WRITE_COMMIT,
            &write,
            &["partitions_pkey"],
        ),
    ]
}

fn reads() -> Vec<HotQuery> {
    let log: &[&str] = &["partitions_pkey", "segments_pkey", "ranges_pkey"];
    vec![
        hot_query(
            "read from an offset",
            log::READ_OFFSET,
            &["4711", "123456", "100"],
            log,
        ),
        hot_query(
            "read from a time",
            log::READ_TIMESTAMP,
            &["4711", "29500", "100"],
            log,
        ),
        hot_query(
            "read from the greatest time",
            log::READ_GREATEST_TIMESTAMP,
            &["4711", "123456", "100"],
            log,
        ),
        hot_query(
            "producers of a partition",
            log::ACTIVE_PRODUCERS,
            &["4711", "100"],
            &["producer_state_pkey", "partitions_pkey"],
        ),
        hot_query("bounds", log::BOUNDS, &[&number_array(500)], &["partitions_pkey"]),
    ]
}

fn leases() -> Vec<HotQuery> {
    vec![
        hot_query("renew", agents::RENEW_LEASE, &["7"], &["agents_pkey"]),
        hot_query(
            "lease check of a write",
            agents::LEASED_EXCLUSIVE,
            &["4711"],
            &["partitions_pkey"],
        ),
        hot_query(
            "lease check of a group's write",
            agents::LEASED_SHARED,
            &["4711"],
            &["partitions_pkey"],
        ),
    ]
}

fn rolls() -> Vec<HotQuery> {
    let (ones, sequences) = (repeated_array("1"), number_array(300));
    let objects: &[&str] = &["wal_objects_pkey"];
    vec![
        hot_query(
            "roll: delete the ranges",
            segments::DELETE_RANGES,
            &["4711", "301000"],
            &["ranges_pkey"],
        ),
        hot_query(
            "roll: lock the objects",
            segments::LOCK_OBJECTS,
            &[&ones, &sequences],
            objects,
        ),
        hot_query(
            "roll: release the objects",
            segments::RELEASE_OBJECTS,
            &[&ones, &sequences, &ones],
            objects,
        ),
    ]
}

fn garbage() -> Vec<HotQuery> {
    // The topic's id replaces the subquery before the query is planned.
    let topic = "(SELECT topic_id FROM topics WHERE name = 'topic-7')";
    vec![
        hot_query(
            "garbage: objects to delete",
            garbage::UNREFERENCED,
            &["60000", "1000"],
            &["wal_objects_garbage", "deletions_queued"],
        ),
        hot_query(
            "garbage: remove idle producers",
            garbage::EXPIRE_PRODUCERS,
            &["32400000"],
            &["producer_state_idle", "producer_state_pkey"],
        ),
        hot_query(
            "garbage: incarnations without objects",
            garbage::SWEPT_INCARNATIONS,
            &["60000"],
            &["agents_swept", "wal_objects_pkey"],
        ),
        hot_query(
            "garbage: segments that sealed incarnations may have put late",
            garbage::QUEUE_ABANDONED,
            &["60000"],
            &["segment_intents_pkey", "segments_pkey"],
        ),
        hot_query(
            "garbage: purge ranges of a topic",
            garbage::PURGE_RANGES,
            &[topic],
            &["partitions_topic_id_partition_key", "ranges_pkey"],
        ),
        hot_query(
            "garbage: purge segments of a topic",
            garbage::PURGE_SEGMENTS,
            &[topic],
            &["partitions_topic_id_partition_key", "segments_pkey"],
        ),
        hot_query(
            "orphans: which objects are known",
            garbage::KNOWN_OBJECTS,
            &["3", &number_array(300)],
            &["wal_objects_pkey"],
        ),
    ]
}

fn groups() -> Vec<HotQuery> {
    let ones = repeated_array("1");
    let write = ["'group-7'", &number_array(500), &ones, &ones, &ones];
    vec![
        hot_query(
            "groups of a slot",
            groups::GROUPS_OF_SLOT,
            &["3"],
            &["consumer_groups_slot"],
        ),
        hot_query(
            "commit offsets",
            groups::WRITE_OFFSETS,
            &write,
            &["partitions_pkey"],
        ),
        hot_query(
            "fetch offsets",
            groups::FETCH_OFFSETS,
            &["'group-7'"],
            &["consumer_offsets_pkey", "partitions_pkey"],
        ),
    ]
}

/// Not on the hot path: the operator runs it every few seconds.
fn overview() -> Vec<HotQuery> {
    vec![HotQuery {
        full_scans: &["partitions"],
        ..hot_query("operator: every topic and owner", owners::OVERVIEW, &[], &[])
    }]
}
