//! Validation of names, partitions, settings and units.

use serde_json::json;

use super::*;
use crate::topic::fixtures::topic;

fn value(text: &str) -> DesiredSetting {
    DesiredSetting::Value(text.to_owned())
}

fn problem_of(wanted: &DesiredTopic) -> &str {
    assert_eq!(wanted.problems.len(), 1, "{:?}", wanted.problems);
    assert_eq!(wanted.problems[0].reason, ConditionReason::InvalidConfig);
    &wanted.problems[0].message
}

#[test]
fn nothing_set_asks_for_nothing() {
    let wanted = validate(&topic(json!({}))).unwrap();
    assert_eq!((wanted.name.as_str(), wanted.partitions), ("orders", None));
    assert!(wanted.settings.is_empty() && wanted.problems.is_empty());
}

#[test]
fn fields_and_config_become_settings() {
    let wanted = validate(&topic(json!({
        "retention": { "time": "7d", "bytes": "10Gi" }, "segmentBytes": "64Mi", "compression": "producer",
        "cleanupPolicy": "delete", "config": { "segment.ms": 604_800_000_000_i64, "max.message.bytes": "2048" }
    })))
    .unwrap();
    let expected = [
        ("retention.ms", "604800000"),
        ("retention.bytes", "10737418240"),
        ("segment.bytes", "67108864"),
        ("compression.type", "producer"),
        ("cleanup.policy", "delete"),
        ("segment.ms", "604800000000"),
        ("max.message.bytes", "2048"),
    ];
    assert!(wanted.problems.is_empty(), "{:?}", wanted.problems);
    assert_eq!(
        wanted.settings,
        expected
            .iter()
            .map(|(key, text)| ((*key).to_owned(), value(text)))
            .collect()
    );
}

#[test]
fn a_codec_is_refused_with_what_is_offered_and_the_others_stand() {
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let wanted = validate(&topic(json!({ "compression": codec, "segmentBytes": "64Mi" }))).unwrap();
        let problem = problem_of(&wanted);
        assert!(
            problem.starts_with("spec.compression: compression.type: "),
            "{problem}"
        );
        assert!(problem.contains("only \"producer\""), "{problem}");
        assert_eq!(wanted.settings["compression.type"], DesiredSetting::Unmanaged);
        assert_eq!(wanted.settings["segment.bytes"], value("67108864"));
    }
}

#[test]
fn null_leaves_a_setting_alone() {
    let wanted = validate(&topic(json!({ "config": { "segment.ms": null } }))).unwrap();
    assert_eq!(wanted.settings["segment.ms"], DesiredSetting::Unmanaged);
    assert!(wanted.problems.is_empty());
}

#[test]
fn an_unknown_setting_is_named_and_the_others_stand() {
    for bad in [json!("1"), json!(null)] {
        let config = json!({ "config": { "retention.mss": bad, "segment.ms": 1000 } });
        let wanted = validate(&topic(config)).unwrap();
        assert!(problem_of(&wanted).contains("\"retention.mss\""));
        assert!(
            problem_of(&wanted).contains("\"retention.ms\""),
            "the nearest name"
        );
        assert_eq!(wanted.settings["segment.ms"], value("1000"));
        assert_eq!(wanted.settings["retention.mss"], DesiredSetting::Unmanaged);
    }
}

#[test]
fn a_value_out_of_bounds_is_named_and_left_alone() {
    let wanted = validate(&topic(json!({ "segmentBytes": "1Ki" }))).unwrap();
    assert!(problem_of(&wanted).starts_with("spec.segmentBytes: segment.bytes: 1024"));
    assert_eq!(wanted.settings["segment.bytes"], DesiredSetting::Unmanaged);
    let wanted = validate(&topic(json!({ "config": { "segment.ms": 0 } }))).unwrap();
    assert!(problem_of(&wanted).starts_with("spec.config: segment.ms: 0"));
}

#[test]
fn a_setting_given_twice_is_named_and_left_alone() {
    let twice = json!({ "retention": { "time": "1d" }, "config": { "retention.ms": 1 } });
    let wanted = validate(&topic(twice)).unwrap();
    assert!(problem_of(&wanted).contains("retention.ms is also set by its own field"));
    assert_eq!(wanted.settings["retention.ms"], DesiredSetting::Unmanaged);
}

#[test]
fn illegal_names_and_partitions_stop_everything() {
    for (spec, field) in [
        (json!({ "topicName": ".." }), "spec.topicName"),
        (json!({ "topicName": "__consumer_offsets" }), "spec.topicName"),
        (json!({ "topicName": "a".repeat(250) }), "spec.topicName"),
        (json!({ "topicName": "a b" }), "spec.topicName"),
        (json!({ "partitions": 0 }), "spec.partitions"),
        (json!({ "partitions": 10_001 }), "spec.partitions"),
    ] {
        let problem = validate(&topic(spec.clone())).unwrap_err();
        assert_eq!(problem.reason, ConditionReason::InvalidSpec);
        assert!(problem.message.starts_with(field), "{spec}: {problem:?}");
    }
}

#[test]
fn a_name_that_changed_is_refused() {
    let mut changed = topic(json!({ "topicName": "new" }));
    changed.status = Some(serde_json::from_value(json!({ "topicName": "old" })).unwrap());
    let problem = validate(&changed).unwrap_err();
    assert!(
        problem.message.contains("from \"old\" to \"new\""),
        "{}",
        problem.message
    );
}

#[test]
fn durations_and_amounts_have_their_units() {
    for (text, expected) in [
        ("5ms", 5),
        ("5s", 5_000),
        ("5m", 300_000),
        ("12h", 43_200_000),
        ("7d", 604_800_000),
        ("-1", -1),
        ("0d", 0),
    ] {
        assert_eq!(parse_duration_ms(text), Ok(expected.to_string()), "{text}");
    }
    for (text, expected) in [
        ("5", 5),
        ("5Ki", 5_120_i64),
        ("1Mi", 1 << 20),
        ("1Gi", 1 << 30),
        ("2Ti", 2 << 40),
        ("-1", -1),
    ] {
        assert_eq!(parse_bytes(text), Ok(expected.to_string()), "{text}");
    }
    for text in ["", "d", "7", "7w", "-2d", "1.5h", "1h30m"] {
        assert!(
            parse_duration_ms(text).unwrap_err().contains("not a duration"),
            "{text}"
        );
    }
    for text in ["", "Gi", "1G", "1 Gi", "-5"] {
        assert!(parse_bytes(text).unwrap_err().contains("not a size"), "{text}");
    }
    for text in ["9223372036854775807d", "99999999999999999999ms"] {
        assert!(
            parse_duration_ms(text).unwrap_err().contains("too large"),
            "{text}"
        );
    }
}
