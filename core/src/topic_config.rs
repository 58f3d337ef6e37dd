//! Topic settings, with Kafka's names: one table of keys, defaults, bounds and descriptions, and
//! the typed value.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::error::{Error, ErrorCode};

/// The effective settings of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicConfig {
    /// Records older than this many milliseconds may be deleted; `None` retains them.
    pub retention_ms: Option<i64>,
    /// If a partition stores more than this many bytes, the oldest records may be deleted; `None`
    /// retains them.
    pub retention_bytes: Option<i64>,
    /// A segment is written once this many bytes have accumulated.
    pub segment_bytes: usize,
    /// A segment is written once the oldest bytes are this many milliseconds old.
    pub segment_ms: u64,
    /// The largest batch accepted, in bytes as it is sent.
    pub max_message_bytes: usize,
    /// How far a timestamp may lie behind the agent's clock, in milliseconds.
    pub timestamp_before_max_ms: i64,
    /// How far a timestamp may lie ahead of the agent's clock, in milliseconds.
    pub timestamp_after_max_ms: i64,
    /// Whether the cleanup policy deletes records by time and size.
    pub deletes_records: bool,
}

/// The definition of one topic setting.
#[derive(Debug, Clone, Copy)]
pub struct TopicSettingDefinition {
    /// Kafka's name of the setting.
    pub key: &'static str,
    /// The default, as text.
    pub default: &'static str,
    /// The allowed values, in words.
    pub bounds: &'static str,
    /// The description for users.
    pub help: &'static str,
    set: fn(&mut TopicConfig, &str) -> Result<(), String>,
}

/// All topic settings, ordered by key.
pub const TOPIC_SETTING_DEFINITIONS: &[TopicSettingDefinition] = &[
    TopicSettingDefinition {
        key: "cleanup.policy",
        default: "delete",
        bounds: "delete, compact, or both",
        help: "How old records are removed. Records of a topic with compact alone are all retained: compaction itself does not \
               take place yet, which is correct and takes more storage. With delete, they are deleted by time and size.",
        set: |config, value| parse_cleanup_policy(value).map(|deletes| config.deletes_records = deletes),
    },
    TopicSettingDefinition {
        key: "compression.type",
        default: "producer",
        bounds: "producer",
        help: "The codec of stored batches. Batches are stored as producers compress them; agents do not recompress.",
        set: |_, value| match value {
            "producer" => Ok(()),
            other => Err(format!(
                "{other:?} is not supported, only \"producer\" is: batches are stored as producers compress them, so set \
                 the codec there (the default is lz4)"
            )),
        },
    },
    TopicSettingDefinition {
        key: "max.message.bytes",
        default: "1048588",
        bounds: "1024 to 16777216",
        help: "The largest batch that is accepted, in bytes as it is sent.",
        set: |config, value| {
            parse_number(value, 1024, 16 << 20).map(|n| config.max_message_bytes = n as usize)
        },
    },
    TopicSettingDefinition {
        key: "message.timestamp.after.max.ms",
        default: "3600000",
        bounds: "0 and more",
        help: "How far a record's timestamp may lie ahead of the agent's clock, in milliseconds; batches beyond that are rejected \
               with INVALID_TIMESTAMP.",
        set: |config, value| parse_number(value, 0, i64::MAX).map(|n| config.timestamp_after_max_ms = n),
    },
    TopicSettingDefinition {
        key: "message.timestamp.before.max.ms",
        default: "9223372036854775807",
        bounds: "0 and more",
        help: "How far a record's timestamp may lie behind the agent's clock, in milliseconds; batches beyond that are rejected \
               with INVALID_TIMESTAMP.",
        set: |config, value| parse_number(value, 0, i64::MAX).map(|n| config.timestamp_before_max_ms = n),
    },
    TopicSettingDefinition {
        key: "message.timestamp.type",
        default: "CreateTime",
        bounds: "CreateTime",
        help: "The source of a record's timestamp. Only timestamps set by the producer are supported.",
        set: |_, value| match value {
            "CreateTime" => Ok(()),
            other => Err(format!("{other:?} is not supported; use CreateTime")),
        },
    },
    TopicSettingDefinition {
        key: "retention.bytes",
        default: "-1",
        bounds: "-1 (no limit) or 0 and more",
        help: "The stored bytes that are retained per partition. If there are more, the oldest records are deleted.",
        set: |config, value| {
            parse_number(value, -1, i64::MAX).map(|n| config.retention_bytes = (n >= 0).then_some(n))
        },
    },
    TopicSettingDefinition {
        key: "retention.ms",
        default: "604800000",
        bounds: "-1 (no limit) or 0 and more",
        help: "How long records are retained, in milliseconds, by their timestamps; see below.",
        set: |config, value| {
            parse_number(value, -1, i64::MAX).map(|n| config.retention_ms = (n >= 0).then_some(n))
        },
    },
    TopicSettingDefinition {
        key: "segment.bytes",
        default: "67108864",
        bounds: "65536 to 134217728",
        help: "A segment is written once a partition has this many bytes in WAL objects. The agent holds one segment in memory while it writes it.",
        set: |config, value| parse_number(value, 65536, 128 << 20).map(|n| config.segment_bytes = n as usize),
    },
    TopicSettingDefinition {
        key: "segment.ms",
        default: "600000",
        bounds: "100 and more",
        help: "A segment is written once a partition's oldest bytes in WAL objects are this old, in milliseconds.",
        set: |config, value| parse_number(value, 100, i64::MAX).map(|n| config.segment_ms = n.unsigned_abs()),
    },
];

/// Returns whether a cleanup policy, a list, deletes records.
fn parse_cleanup_policy(value: &str) -> Result<bool, String> {
    let policies = value.split(',').map(str::trim);
    let mut deletes = false;
    for policy in policies {
        match policy {
            "delete" => deletes = true,
            "compact" => {}
            other => {
                return Err(format!(
                    "{other:?} is not a cleanup policy; use delete, compact or both"
                ));
            }
        }
    }
    Ok(deletes)
}

fn parse_number(value: &str, min: i64, max: i64) -> Result<i64, String> {
    let number: i64 = value
        .parse()
        .map_err(|_| format!("{value:?} is not a whole number"))?;
    if (min..=max).contains(&number) {
        Ok(number)
    } else {
        Err(format!("{number} is not between {min} and {max}"))
    }
}

impl Default for TopicConfig {
    fn default() -> Self {
        let mut config = Self {
            retention_ms: None,
            retention_bytes: None,
            segment_bytes: 0,
            segment_ms: 0,
            max_message_bytes: 0,
            timestamp_before_max_ms: 0,
            timestamp_after_max_ms: 0,
            deletes_records: true,
        };
        for definition in TOPIC_SETTING_DEFINITIONS {
            // A test verifies that every default is valid.
            let _ = (definition.set)(&mut config, definition.default);
        }
        config
    }
}

impl TopicConfig {
    /// Returns the defaults with these overrides applied.
    ///
    /// # Errors
    ///
    /// Fails with INVALID_CONFIG, which names the first setting that is unknown or out of bounds.
    pub fn from_overrides(overrides: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mut config = Self::default();
        for (key, value) in overrides {
            let set = find_definition(key)?.set;
            set(&mut config, value)
                .map_err(|problem| Error::new(ErrorCode::InvalidConfig, format!("{key}: {problem}")))?;
        }
        Ok(config)
    }

    /// Returns the defaults with stored overrides applied. A setting or value that this version
    /// does not support keeps its default, so that a topic stays usable whichever version wrote its
    /// settings.
    pub fn from_stored(overrides: &BTreeMap<String, String>) -> Self {
        let mut config = Self::default();
        for (key, value) in overrides {
            if let Ok(definition) = find_definition(key) {
                // A setter that fails changes nothing.
                let _ = (definition.set)(&mut config, value);
            }
        }
        config
    }
}

/// Returns the definition of a setting.
///
/// # Errors
///
/// Fails with INVALID_CONFIG, which suggests the most similar name, if there is no such setting.
pub fn find_definition(key: &str) -> Result<&'static TopicSettingDefinition, Error> {
    TOPIC_SETTING_DEFINITIONS
        .iter()
        .find(|definition| definition.key == key)
        .ok_or_else(|| {
            let nearest = TOPIC_SETTING_DEFINITIONS
                .iter()
                .max_by(|a, b| strsim::jaro_winkler(a.key, key).total_cmp(&strsim::jaro_winkler(b.key, key)));
            let hint = nearest
                .map(|nearest| format!("; did you mean {:?}?", nearest.key))
                .unwrap_or_default();
            Error::new(
                ErrorCode::InvalidConfig,
                format!("there is no topic setting {key:?}{hint}"),
            )
        })
}

/// Returns all settings with their effective values.
pub fn effective_config(overrides: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let value =
        |d: &TopicSettingDefinition| overrides.get(d.key).map_or(d.default, String::as_str).to_owned();
    TOPIC_SETTING_DEFINITIONS
        .iter()
        .map(|definition| (definition.key.to_owned(), value(definition)))
        .collect()
}

/// Returns the text of `docs/reference/topic-config.md`.
pub fn reference_markdown() -> String {
    let mut out = "# Topic settings\n\nGenerated from the code; do not edit.\n\n\
        | setting | default | allowed | what it does |\n|---|---|---|---|\n"
        .to_owned();
    for TopicSettingDefinition {
        key,
        default,
        bounds,
        help,
        ..
    } in TOPIC_SETTING_DEFINITIONS
    {
        let _ = writeln!(out, "| `{key}` | `{default}` | {bounds} | {help} |");
    }
    out.push_str(REFERENCE_NOTES);
    out
}

/// Notes below the table of the reference.
const REFERENCE_NOTES: &str = "
## Timestamps and retention

`retention.ms` applies to the greatest timestamp of a WAL range or segment, but never to one later than the
time at which the range or segment was stored:

| timestamp | expiry |
|---|---|
| in the past | By the timestamp, as in Kafka: records older than `retention.ms` may be deleted in the next round, however recently they were stored. \
Set `message.timestamp.before.max.ms` to reject such batches instead. |
| in the future | By the time of storing, so that a producer's wrong clock cannot prevent later records from expiring. |
| -1 (none) or 0 | By the time of storing. In Kafka, 0 means the year 1970; here it means that no timestamp is set. |

A batch is rejected with INVALID_TIMESTAMP if its first or greatest timestamp lies outside \
`message.timestamp.before.max.ms` and `message.timestamp.after.max.ms`, or is less than -1. A batch without timestamps (-1) is accepted.

## Unsupported values

A value that the table does not allow is rejected with INVALID_CONFIG when a topic is created or altered. A topic with such a value
from an earlier version keeps working as if the setting were not set; reset it when convenient.
";

#[cfg(test)]
mod tests {
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
        ] {
            let config = TopicConfig::from_overrides(&overrides("cleanup.policy", policy)).unwrap();
            assert_eq!(config.deletes_records, deletes, "{policy}");
        }
        assert!(TopicConfig::from_overrides(&overrides("cleanup.policy", "")).is_err());
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
            ("message.timestamp.type", "LogAppendTime"),
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
}
