//! The table of topic settings.

use super::{
    TopicConfig, TopicSettingDefinition,
    TopicSettingType::{self, Boolean, Double, Int, List, Long, String as Text},
    values::{
        check_int, check_level, check_long, check_replicas, check_share, parse_boolean, parse_cleanup_policy,
        parse_number,
    },
};

/// The largest batch that an agent accepts, in bytes.
const MAX_BATCH_BYTES: i64 = 16 << 20;
/// The largest segment, which an agent holds in memory while it writes it.
const MAX_SEGMENT_BYTES: i64 = 128 << 20;
/// The shortest age of a segment, in milliseconds.
const MIN_SEGMENT_MS: i64 = 100;

type CheckValue = fn(&mut TopicConfig, &str) -> Result<(), String>;

/// Defines a setting that is kept and has no effect, for `reason`.
const fn kept(
    (key, broker_setting): (&'static str, Option<&'static str>),
    kind: TopicSettingType,
    (default, bounds): (&'static str, &'static str),
    reason: &'static str,
    set: CheckValue,
) -> TopicSettingDefinition {
    TopicSettingDefinition {
        key,
        kind,
        default,
        bounds,
        help: reason,
        broker_setting,
        has_effect: false,
        set,
    }
}

const CODEC_LEVEL: &str = "Agents do not recompress; set the level at the producer.";
const COMPACTION: &str = "Compaction does not take place yet.";
const DISK: &str = "Agents keep no log on disks.";
const FLUSH: &str = "Records are in the object store before they are acknowledged.";
const INDEX: &str = "Segments have an index of their own.";
const REPLICAS: &str = "The object store replicates.";
const TIERED: &str = "All records are in the object store.";
const LONG_MAX: &str = "9223372036854775807";

/// All topic settings, ordered by key.
pub const TOPIC_SETTING_DEFINITIONS: &[TopicSettingDefinition] = &[
    TopicSettingDefinition {
        key: "cleanup.policy",
        kind: List,
        default: "delete",
        bounds: "delete, compact, both, or nothing",
        help: "How old records are removed. Records of a topic without delete are all retained: compaction itself does not \
               take place yet, which is correct and takes more storage. With delete, they are deleted by time and size.",
        broker_setting: Some("log.cleanup.policy"),
        has_effect: true,
        set: |config, value| parse_cleanup_policy(value).map(|deletes| config.deletes_records = deletes),
    },
    kept(
        ("compression.gzip.level", Some("compression.gzip.level")),
        Int,
        ("-1", "1 to 9, or -1"),
        CODEC_LEVEL,
        |_, value| check_level(value, 1, 9, Some(-1)),
    ),
    kept(
        ("compression.lz4.level", Some("compression.lz4.level")),
        Int,
        ("9", "1 to 17"),
        CODEC_LEVEL,
        |_, value| check_level(value, 1, 17, None),
    ),
    TopicSettingDefinition {
        key: "compression.type",
        kind: Text,
        default: "producer",
        bounds: "producer",
        help: "The codec of stored batches. Batches are stored as producers compress them; agents do not recompress.",
        broker_setting: Some("compression.type"),
        has_effect: true,
        set: |_, value| match value.trim() {
            "producer" => Ok(()),
            other => Err(format!(
                "{other:?} is not supported, only \"producer\" is: batches are stored as producers compress them, so set \
                 the codec there (the default is lz4)"
            )),
        },
    },
    kept(
        ("compression.zstd.level", Some("compression.zstd.level")),
        Int,
        ("3", "-131072 to 22"),
        CODEC_LEVEL,
        |_, value| check_level(value, -131_072, 22, None),
    ),
    kept(
        ("delete.retention.ms", Some("log.cleaner.delete.retention.ms")),
        Long,
        ("86400000", "0 and more"),
        COMPACTION,
        |_, value| check_long(value, 0),
    ),
    kept(
        ("file.delete.delay.ms", Some("log.segment.delete.delay.ms")),
        Long,
        ("60000", "0 and more"),
        DISK,
        |_, value| check_long(value, 0),
    ),
    kept(
        ("flush.messages", Some("log.flush.interval.messages")),
        Long,
        (LONG_MAX, "1 and more"),
        FLUSH,
        |_, value| check_long(value, 1),
    ),
    kept(
        ("flush.ms", None),
        Long,
        (LONG_MAX, "0 and more"),
        FLUSH,
        |_, value| check_long(value, 0),
    ),
    kept(
        ("follower.replication.throttled.replicas", None),
        List,
        ("", "replicas, * or nothing"),
        REPLICAS,
        |_, value| check_replicas(value),
    ),
    kept(
        ("index.interval.bytes", Some("log.index.interval.bytes")),
        Int,
        ("4096", "0 and more"),
        INDEX,
        |_, value| check_int(value, 0),
    ),
    kept(
        ("leader.replication.throttled.replicas", None),
        List,
        ("", "replicas, * or nothing"),
        REPLICAS,
        |_, value| check_replicas(value),
    ),
    kept(
        ("local.retention.bytes", Some("log.local.retention.bytes")),
        Long,
        ("-2", "-2 and more"),
        TIERED,
        |_, value| check_long(value, -2),
    ),
    kept(
        ("local.retention.ms", Some("log.local.retention.ms")),
        Long,
        ("-2", "-2 and more"),
        TIERED,
        |_, value| check_long(value, -2),
    ),
    kept(
        ("max.compaction.lag.ms", Some("log.cleaner.max.compaction.lag.ms")),
        Long,
        (LONG_MAX, "1 and more"),
        COMPACTION,
        |_, value| check_long(value, 1),
    ),
    TopicSettingDefinition {
        key: "max.message.bytes",
        kind: Int,
        default: "1048588",
        bounds: "0 to 2147483647",
        help: "The largest batch that is accepted, in bytes as it is sent. More than 16777216 has the effect of 16777216.",
        broker_setting: Some("message.max.bytes"),
        has_effect: true,
        set: |config, value| {
            parse_number(value, 0, i32::MAX.into())
                .map(|n| config.max_message_bytes = n.min(MAX_BATCH_BYTES) as usize)
        },
    },
    TopicSettingDefinition {
        key: "message.timestamp.after.max.ms",
        kind: Long,
        default: "3600000",
        bounds: "0 and more",
        help: "How far a record's timestamp may lie ahead of the agent's clock, in milliseconds; batches beyond that are rejected \
               with INVALID_TIMESTAMP.",
        broker_setting: Some("log.message.timestamp.after.max.ms"),
        has_effect: true,
        set: |config, value| parse_number(value, 0, i64::MAX).map(|n| config.timestamp_after_max_ms = n),
    },
    TopicSettingDefinition {
        key: "message.timestamp.before.max.ms",
        kind: Long,
        default: LONG_MAX,
        bounds: "0 and more",
        help: "How far a record's timestamp may lie behind the agent's clock, in milliseconds; batches beyond that are rejected \
               with INVALID_TIMESTAMP.",
        broker_setting: Some("log.message.timestamp.before.max.ms"),
        has_effect: true,
        set: |config, value| parse_number(value, 0, i64::MAX).map(|n| config.timestamp_before_max_ms = n),
    },
    TopicSettingDefinition {
        key: "message.timestamp.type",
        kind: Text,
        default: "CreateTime",
        bounds: "CreateTime or LogAppendTime",
        help: "The source of records' timestamps: the producer, or the clock of the agent that appends them.",
        broker_setting: Some("log.message.timestamp.type"),
        has_effect: true,
        set: |config, value| {
            config.stamps_append_time = match value.trim() {
                "CreateTime" => false,
                "LogAppendTime" => true,
                other => {
                    return Err(format!(
                        "{other:?} is not a source of timestamps; use CreateTime or LogAppendTime"
                    ));
                }
            };
            Ok(())
        },
    },
    kept(
        (
            "min.cleanable.dirty.ratio",
            Some("log.cleaner.min.cleanable.ratio"),
        ),
        Double,
        ("0.5", "0 to 1"),
        COMPACTION,
        |_, value| check_share(value),
    ),
    kept(
        ("min.compaction.lag.ms", Some("log.cleaner.min.compaction.lag.ms")),
        Long,
        ("0", "0 to max.compaction.lag.ms"),
        COMPACTION,
        |_, value| check_long(value, 0),
    ),
    kept(
        ("min.insync.replicas", Some("min.insync.replicas")),
        Int,
        ("1", "1 and more"),
        REPLICAS,
        |_, value| check_int(value, 1),
    ),
    kept(
        ("preallocate", Some("log.preallocate")),
        Boolean,
        ("false", "true or false"),
        DISK,
        |_, value| parse_boolean(value).map(drop),
    ),
    kept(
        ("remote.log.copy.disable", None),
        Boolean,
        ("false", "true or false"),
        TIERED,
        |_, value| parse_boolean(value).map(drop),
    ),
    kept(
        ("remote.log.delete.on.disable", None),
        Boolean,
        ("false", "true or false"),
        TIERED,
        |_, value| parse_boolean(value).map(drop),
    ),
    kept(
        ("remote.storage.enable", None),
        Boolean,
        ("false", "false"),
        TIERED,
        |_, value| match parse_boolean(value)? {
            false => Ok(()),
            true => Err("there is no second tier to enable: all records are in the object store".to_owned()),
        },
    ),
    TopicSettingDefinition {
        key: "retention.bytes",
        kind: Long,
        default: "-1",
        bounds: "any number; less than 0 is no limit",
        help: "The stored bytes that are retained per partition. If there are more, the oldest records are deleted.",
        broker_setting: Some("log.retention.bytes"),
        has_effect: true,
        set: |config, value| {
            parse_number(value, i64::MIN, i64::MAX).map(|n| config.retention_bytes = (n >= 0).then_some(n))
        },
    },
    TopicSettingDefinition {
        key: "retention.ms",
        kind: Long,
        default: "604800000",
        bounds: "-1 (no limit) or 0 and more",
        help: "How long records are retained, in milliseconds, by their timestamps; see below.",
        broker_setting: None,
        has_effect: true,
        set: |config, value| {
            parse_number(value, -1, i64::MAX).map(|n| config.retention_ms = (n >= 0).then_some(n))
        },
    },
    TopicSettingDefinition {
        key: "segment.bytes",
        kind: Int,
        default: "67108864",
        bounds: "65536 to 2147483647",
        help: "A segment is written once a partition has this many bytes in WAL objects. The agent holds one segment in memory \
               while it writes it, so more than 134217728 has the effect of 134217728.",
        broker_setting: Some("log.segment.bytes"),
        has_effect: true,
        set: |config, value| {
            parse_number(value, 65536, i32::MAX.into())
                .map(|n| config.segment_bytes = n.min(MAX_SEGMENT_BYTES) as usize)
        },
    },
    kept(
        ("segment.index.bytes", Some("log.index.size.max.bytes")),
        Int,
        ("10485760", "4 and more"),
        INDEX,
        |_, value| check_int(value, 4),
    ),
    kept(
        ("segment.jitter.ms", None),
        Long,
        ("0", "0 and more"),
        "Partitions write their segments at different times anyway.",
        |_, value| check_long(value, 0),
    ),
    TopicSettingDefinition {
        key: "segment.ms",
        kind: Long,
        default: "600000",
        bounds: "1 and more",
        help: "A segment is written once a partition's oldest bytes in WAL objects are this old, in milliseconds. Less than 100 \
               has the effect of 100.",
        broker_setting: None,
        has_effect: true,
        set: |config, value| {
            parse_number(value, 1, i64::MAX).map(|n| config.segment_ms = n.max(MIN_SEGMENT_MS).unsigned_abs())
        },
    },
    kept(
        (
            "unclean.leader.election.enable",
            Some("unclean.leader.election.enable"),
        ),
        Boolean,
        ("false", "true or false"),
        REPLICAS,
        |_, value| parse_boolean(value).map(drop),
    ),
];
