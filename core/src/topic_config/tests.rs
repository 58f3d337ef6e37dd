//! Topic settings: bounds, defaults, what is kept.

use super::*;

fn overrides(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

#[test]
fn only_a_policy_with_delete_deletes() {
    for (policy, deletes) in [
        ("delete", true),
        ("compact", false),
        ("compact, delete", true),
        ("delete,compact", true),
        ("", false),
    ] {
        let config = TopicConfig::from_overrides(&overrides("cleanup.policy", policy)).unwrap();
        assert_eq!(config.deletes_records, deletes, "{policy}");
    }
    assert!(TopicConfig::from_overrides(&overrides("cleanup.policy", "delete,")).is_err());
}

#[test]
fn every_default_is_legal_and_in_force() {
    for definition in TOPIC_SETTING_DEFINITIONS {
        let set = TopicConfig::from_overrides(&overrides(definition.key, definition.default));
        assert_eq!(set.unwrap(), TopicConfig::default(), "{}", definition.key);
    }
    let config = TopicConfig::default();
    assert_eq!(
        (config.retention_ms, config.retention_bytes),
        (Some(604_800_000), None)
    );
    assert_eq!((config.segment_bytes, config.segment_ms), (64 << 20, 600_000));
}

#[test]
fn an_unknown_setting_is_refused_with_the_nearest_name() {
    let error = TopicConfig::from_overrides(&overrides("retention.mss", "1")).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidConfig);
    assert!(error.message().contains("\"retention.ms\""), "{error}");
}

#[test]
fn a_value_out_of_bounds_is_refused_by_name() {
    for (key, value) in [
        ("segment.bytes", "1"),
        ("retention.ms", "-2"),
        ("retention.ms", "x"),
        ("cleanup.policy", "compact,shred"),
        ("message.timestamp.type", "AppendTime"),
        ("message.timestamp.after.max.ms", "-1"),
        ("message.timestamp.before.max.ms", "soon"),
    ] {
        let error = TopicConfig::from_overrides(&overrides(key, value)).unwrap_err();
        assert!(error.message().starts_with(key), "{error}");
    }
}

#[test]
fn a_codec_is_refused_with_what_is_offered() {
    for codec in ["none", "gzip", "snappy", "lz4", "zstd", "best"] {
        let error = TopicConfig::from_overrides(&overrides("compression.type", codec)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidConfig);
        assert!(error.message().contains("only \"producer\""), "{error}");
    }
}

#[test]
fn what_is_stored_holds_as_far_as_it_is_understood() {
    let stored = BTreeMap::from(
        [
            ("compression.type", "gzip"),
            ("no.such.setting", "1"),
            ("retention.ms", "5000"),
            ("segment.bytes", "1"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    let expected = TopicConfig {
        retention_ms: Some(5000),
        ..TopicConfig::default()
    };
    assert_eq!(TopicConfig::from_stored(&stored), expected);
}

#[test]
fn the_reference_is_what_the_code_says() {
    streamhouse_testkit::assert_current("docs/reference/topic-config.md", &reference_markdown()).unwrap();
}

#[test]
fn every_topic_setting_of_kafka_is_known_in_order() {
    assert!(TOPIC_SETTING_DEFINITIONS.is_sorted_by_key(|definition| definition.key));
    // Kafka 4.3.1.
    assert_eq!(TOPIC_SETTING_DEFINITIONS.len(), 33);
}

#[test]
fn values_have_the_bounds_of_kafka() {
    for (key, valid, invalid) in [
        ("cleanup.policy", "delete,delete", "Delete"),
        ("compression.gzip.level", "-1", "0"),
        ("compression.lz4.level", "17", "18"),
        ("compression.zstd.level", "-131072", "23"),
        ("flush.messages", "1", "0"),
        ("index.interval.bytes", "0", "2147483648"),
        ("leader.replication.throttled.replicas", "0:1,1:1", "x"),
        ("local.retention.ms", "-2", "-3"),
        ("max.compaction.lag.ms", "1", "0"),
        ("max.message.bytes", "2147483647", "-1"),
        ("min.cleanable.dirty.ratio", "1e-1", "1.5"),
        ("min.insync.replicas", "5", "0"),
        ("preallocate", "TRUE", "yes"),
        ("remote.storage.enable", "false", "true"),
        ("retention.bytes", "-5", "much"),
        ("retention.ms", " 5 ", "5L"),
        ("segment.bytes", "1073741824", "2147483648"),
        ("segment.ms", "1", "0"),
    ] {
        let config = TopicConfig::from_overrides(&overrides(key, valid));
        assert!(config.is_ok(), "{key}={valid}: {config:?}");
        let error = TopicConfig::from_overrides(&overrides(key, invalid)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidConfig, "{key}={invalid}");
    }
}

#[test]
fn values_that_are_too_large_for_an_agent_are_kept_and_bounded() {
    let config = TopicConfig::from_overrides(&BTreeMap::from(
        [
            ("max.message.bytes", "2147483647"),
            ("segment.bytes", "1073741824"),
            ("segment.ms", "1"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    ));
    let config = config.unwrap();
    assert_eq!(
        (config.max_message_bytes, config.segment_bytes, config.segment_ms),
        (16 << 20, 128 << 20, 100)
    );
}

#[test]
fn settings_without_an_effect_change_nothing_and_are_shown_once_they_are_set() {
    let set = overrides("min.insync.replicas", "2");
    assert_eq!(TopicConfig::from_overrides(&set).unwrap(), TopicConfig::default());
    assert_eq!(effective_config(&set)["min.insync.replicas"], "2");
    assert!(!effective_config(&BTreeMap::new()).contains_key("min.insync.replicas"));
}

#[test]
fn the_lags_of_compaction_do_not_contradict_each_other() {
    let mut set = overrides("min.compaction.lag.ms", "10");
    assert!(TopicConfig::from_overrides(&set).is_ok());
    set.insert("max.compaction.lag.ms".to_owned(), "5".to_owned());
    let error = TopicConfig::from_overrides(&set).unwrap_err();
    assert!(error.message().starts_with("min.compaction.lag.ms"), "{error}");
}
