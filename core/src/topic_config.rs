//! The settings of a topic, with Kafka's names: one table of keys, defaults, bounds and help, and the typed value.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::error::{Error, ErrorCode};

/// A topic's settings in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicConfig {
    /// Records older than this many milliseconds may go; `None` keeps them.
    pub retention_ms: Option<i64>,
    /// Beyond this many stored bytes a partition, the oldest records may go; `None` keeps them.
    pub retention_bytes: Option<i64>,
    /// A segment is written when this many bytes wait.
    pub segment_bytes: usize,
    /// A segment is written when the oldest bytes have waited this many milliseconds.
    pub segment_ms: u64,
    /// The largest batch taken, in bytes as it is sent.
    pub max_message_bytes: usize,
    /// How far a timestamp may lie behind the agent's clock, in milliseconds.
    pub timestamp_before_max_ms: i64,
    /// How far a timestamp may lie ahead of the agent's clock, in milliseconds.
    pub timestamp_after_max_ms: i64,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// Kafka's name.
    pub key: &'static str,
    /// As text.
    pub default: &'static str,
    /// What is allowed, for people.
    pub bounds: &'static str,
    /// What it does.
    pub help: &'static str,
    set: fn(&mut TopicConfig, &str) -> Result<(), String>,
}

/// Every setting, by key.
pub const DEFINITIONS: &[Definition] = &[
    Definition {
        key: "cleanup.policy",
        default: "delete",
        bounds: "delete",
        help: "What happens to old records. Compaction is not offered.",
        set: |_, value| match value {
            "delete" => Ok(()),
            "compact" => Err("compaction is not offered; use delete".to_owned()),
            other => Err(format!("{other:?} is not a policy; use delete")),
        },
    },
    Definition {
        key: "compression.type",
        default: "producer",
        bounds: "producer",
        help: "Batches are stored as producers compress them; agents compress nothing again.",
        set: |_, value| match value {
            "producer" => Ok(()),
            other => Err(format!(
                "{other:?} is not offered, only \"producer\" is: batches are stored as producers compress them, so set \
                 the codec there (the default is lz4)"
            )),
        },
    },
    Definition {
        key: "max.message.bytes",
        default: "1048588",
        bounds: "1024 to 16777216",
        help: "The largest batch taken, in bytes as it is sent.",
        set: |config, value| number(value, 1024, 16 << 20).map(|n| config.max_message_bytes = n as usize),
    },
    Definition {
        key: "message.timestamp.after.max.ms",
        default: "3600000",
        bounds: "0 and more",
        help: "How far a record's timestamp may lie ahead of the agent's clock, in milliseconds; batches beyond are refused \
               with INVALID_TIMESTAMP.",
        set: |config, value| number(value, 0, i64::MAX).map(|n| config.timestamp_after_max_ms = n),
    },
    Definition {
        key: "message.timestamp.before.max.ms",
        default: "9223372036854775807",
        bounds: "0 and more",
        help: "How far a record's timestamp may lie behind the agent's clock, in milliseconds; batches beyond are refused \
               with INVALID_TIMESTAMP.",
        set: |config, value| number(value, 0, i64::MAX).map(|n| config.timestamp_before_max_ms = n),
    },
    Definition {
        key: "message.timestamp.type",
        default: "CreateTime",
        bounds: "CreateTime",
        help: "Timestamps are the producer's.",
        set: |_, value| match value {
            "CreateTime" => Ok(()),
            other => Err(format!("{other:?} is not offered; use CreateTime")),
        },
    },
    Definition {
        key: "retention.bytes",
        default: "-1",
        bounds: "-1 (no limit) or 0 and more",
        help: "Stored bytes a partition keeps at least; beyond them the oldest records go.",
        set: |config, value| {
            number(value, -1, i64::MAX).map(|n| config.retention_bytes = (n >= 0).then_some(n))
        },
    },
    Definition {
        key: "retention.ms",
        default: "604800000",
        bounds: "-1 (no limit) or 0 and more",
        help: "How long records are kept at least, in milliseconds: by their timestamps, see below.",
        set: |config, value| number(value, -1, i64::MAX).map(|n| config.retention_ms = (n >= 0).then_some(n)),
    },
    Definition {
        key: "segment.bytes",
        default: "67108864",
        bounds: "65536 to 134217728",
        help: "A segment is written when this many bytes wait. The agent holds one segment in memory while it writes it.",
        set: |config, value| number(value, 65536, 128 << 20).map(|n| config.segment_bytes = n as usize),
    },
    Definition {
        key: "segment.ms",
        default: "600000",
        bounds: "100 and more",
        help: "A segment is written when the oldest bytes have waited this long, in milliseconds.",
        set: |config, value| number(value, 100, i64::MAX).map(|n| config.segment_ms = n.unsigned_abs()),
    },
];

fn number(value: &str, min: i64, max: i64) -> Result<i64, String> {
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
        };
        for definition in DEFINITIONS {
            // The defaults are legal: a test says so.
            let _ = (definition.set)(&mut config, definition.default);
        }
        config
    }
}

impl TopicConfig {
    /// The defaults with these settings over them. INVALID_CONFIG names the first that is unknown or out of bounds.
    pub fn from_overrides(overrides: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mut config = Self::default();
        for (key, value) in overrides {
            let set = definition(key)?.set;
            set(&mut config, value)
                .map_err(|problem| Error::new(ErrorCode::InvalidConfig, format!("{key}: {problem}")))?;
        }
        Ok(config)
    }

    /// The same for settings that are stored already: what this build does not know or offer any more has its default, the
    /// others hold. A topic stays usable whatever an earlier or later version allowed to be set.
    pub fn from_stored(overrides: &BTreeMap<String, String>) -> Self {
        let mut config = Self::default();
        for (key, value) in overrides {
            if let Ok(definition) = definition(key) {
                // A setter that refuses changes nothing.
                let _ = (definition.set)(&mut config, value);
            }
        }
        config
    }
}

/// The setting of this name; INVALID_CONFIG with the nearest name when there is none.
pub fn definition(key: &str) -> Result<&'static Definition, Error> {
    DEFINITIONS
        .iter()
        .find(|definition| definition.key == key)
        .ok_or_else(|| {
            let nearest = DEFINITIONS
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

/// Every setting with its value in force.
pub fn effective(overrides: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let value = |d: &Definition| overrides.get(d.key).map_or(d.default, String::as_str).to_owned();
    DEFINITIONS
        .iter()
        .map(|definition| (definition.key.to_owned(), value(definition)))
        .collect()
}

/// The reference for `docs/reference/topic-config.md`.
pub fn reference_markdown() -> String {
    let mut out = "# Topic settings\n\nMade from the code; do not edit.\n\n\
        | setting | default | allowed | what it does |\n|---|---|---|---|\n"
        .to_owned();
    for Definition {
        key,
        default,
        bounds,
        help,
        ..
    } in DEFINITIONS
    {
        let _ = writeln!(out, "| `{key}` | `{default}` | {bounds} | {help} |");
    }
    out.push_str(NOTES);
    out
}

/// What the table has no room for.
const NOTES: &str = "
## Timestamps and retention

`retention.ms` goes by the greatest timestamp of a span (a WAL range or a segment), but never by one that lies after the moment
when the span was stored:

| timestamp | expires |
|---|---|
| in the past | by the timestamp, as in Kafka: records older than `retention.ms` may go in the next round, however new they are here. \
Set `message.timestamp.before.max.ms` to have such batches refused instead. |
| in the future | by the time of storing: a wrong clock cannot keep what follows from expiring. |
| -1 (none) or 0 | by the time of storing. In Kafka, 0 is the year 1970; here it counts as a field left empty. |

Producers are refused with INVALID_TIMESTAMP when the first or the greatest timestamp of a batch lies outside \
`message.timestamp.before.max.ms` and `message.timestamp.after.max.ms`, or is less than -1. A batch without timestamps (-1) is taken.

## Settings that are not offered

A value that is not in the table is refused with INVALID_CONFIG when a topic is created or altered. A topic that has such a value
from an earlier version keeps working as if it were not set; reset it when convenient.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn every_default_is_legal_and_in_force() {
        for definition in DEFINITIONS {
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
            ("cleanup.policy", "compact"),
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
