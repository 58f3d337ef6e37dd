//! Validates a Topic without reading anything. Repeats the rules of the schema, since a resource
//! may be older than a rule, and checks what a schema cannot: sizes, durations and the bounds of
//! settings. Called by the plan.
//!
//! An invalid setting is reported and left unmanaged; all other settings are applied.

use std::collections::BTreeMap;

use streamhouse_core::{ids::topic_name_problem, topic_config::TopicConfig};

use crate::crd::{Adopt, CleanupPolicy, Compression, Reason, Topic};

/// Maximum number of partitions, as in the schema.
const MOST_PARTITIONS: i32 = 10_000;

/// The desired state of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Valid name of the topic.
    pub name: String,
    /// Minimum number of partitions; `None` accepts any number.
    pub partitions: Option<i32>,
    /// Settings by key; a setting that is absent has its default.
    pub settings: BTreeMap<String, Setting>,
    /// Whether an existing topic may be adopted.
    pub adopt: Adopt,
    /// Problems that do not prevent the other changes.
    pub problems: Vec<Problem>,
}

/// Desired state of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// A valid value.
    Value(String),
    /// Unmanaged: the value is null or invalid.
    Leave,
}

/// Why a Topic is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The reason of the condition.
    pub reason: Reason,
    /// The message, which says what to do.
    pub message: String,
}

impl Problem {
    /// Creates a problem.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Validates a Topic.
///
/// # Errors
///
/// Returns a problem that prevents all changes.
pub fn validate(topic: &Topic) -> Result<Wanted, Problem> {
    let invalid = |message: String| Err(Problem::new(Reason::InvalidSpec, message));
    let name = topic.topic_name();
    if let Some(problem) = topic_name_problem(name) {
        let field = match topic.spec.topic_name {
            Some(_) => "spec.topicName",
            None => "metadata.name",
        };
        return invalid(format!("{field}: {problem}"));
    }
    let before = topic
        .status
        .as_ref()
        .and_then(|status| status.topic_name.as_deref());
    if let Some(before) = before.filter(|before| *before != name) {
        return invalid(format!(
            "spec.topicName: cannot change from {before:?} to {name:?}: restore it and create a new Topic for the other name"
        ));
    }
    if let Some(partitions) = topic.spec.partitions
        && !(1..=MOST_PARTITIONS).contains(&partitions)
    {
        return invalid(format!(
            "spec.partitions: {partitions} is not between 1 and {MOST_PARTITIONS}"
        ));
    }
    let mut problems = Vec::new();
    Ok(Wanted {
        name: name.to_owned(),
        partitions: topic.spec.partitions,
        settings: settings(topic, &mut problems),
        adopt: topic.spec.adopt,
        problems,
    })
}

/// Collects the settings of the spec's own fields and of `spec.config`.
fn settings(topic: &Topic, problems: &mut Vec<Problem>) -> BTreeMap<String, Setting> {
    let mut settings = BTreeMap::new();
    let mut wrong = |message: String| problems.push(Problem::new(Reason::InvalidConfig, message));
    for Field { path, key, value } in fields(topic) {
        let setting = match value.and_then(|value| legal(key, &value).map(|()| value)) {
            Ok(value) => Setting::Value(value),
            Err(problem) => {
                wrong(format!("{path}: {problem}"));
                Setting::Leave
            }
        };
        settings.insert(key.to_owned(), setting);
    }
    for (key, value) in &topic.spec.config {
        let setting = match value.as_ref().map(ToString::to_string) {
            _ if settings.contains_key(key) => {
                wrong(format!(
                    "spec.config: {key} is also set by its own field: set only one"
                ));
                Setting::Leave
            }
            None => match legal_key(key) {
                Ok(()) => Setting::Leave,
                Err(problem) => {
                    wrong(format!("spec.config: {problem}"));
                    Setting::Leave
                }
            },
            Some(value) => match legal(key, &value) {
                Ok(()) => Setting::Value(value),
                Err(problem) => {
                    wrong(format!("spec.config: {problem}"));
                    Setting::Leave
                }
            },
        };
        settings.insert(key.clone(), setting);
    }
    settings
}

/// A setting with its own field in the spec.
struct Field {
    path: &'static str,
    key: &'static str,
    value: Result<String, String>,
}

/// Returns the settings whose fields are set.
fn fields(topic: &Topic) -> impl Iterator<Item = Field> {
    let spec = &topic.spec;
    let retention = spec.retention.as_ref();
    let field = |path, key, value| Field { path, key, value };
    let time = retention.and_then(|retention| retention.time.as_deref());
    let bytes = retention.and_then(|retention| retention.bytes.as_deref());
    let policy = |policy: CleanupPolicy| match policy {
        CleanupPolicy::Delete => Ok("delete".to_owned()),
    };
    let compression = |compression: Compression| Ok(compression.as_str().to_owned());
    [
        time.map(|time| field("spec.retention.time", "retention.ms", milliseconds(time))),
        bytes.map(|bytes| field("spec.retention.bytes", "retention.bytes", whole_bytes(bytes))),
        spec.segment_bytes
            .as_deref()
            .map(|bytes| field("spec.segmentBytes", "segment.bytes", whole_bytes(bytes))),
        spec.compression
            .map(|kind| field("spec.compression", "compression.type", compression(kind))),
        spec.cleanup_policy
            .map(|kind| field("spec.cleanupPolicy", "cleanup.policy", policy(kind))),
    ]
    .into_iter()
    .flatten()
}

/// Checks a value against the bounds of its setting; the message contains the key.
fn legal(key: &str, value: &str) -> Result<(), String> {
    let alone = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    TopicConfig::from_overrides(&alone)
        .map(drop)
        .map_err(|error| error.message().to_owned())
}

fn legal_key(key: &str) -> Result<(), String> {
    streamhouse_core::topic_config::definition(key)
        .map(drop)
        .map_err(|error| error.message().to_owned())
}

/// Parses a duration such as `7d` or `-1` into milliseconds.
fn milliseconds(text: &str) -> Result<String, String> {
    let units = [
        ("ms", 1),
        ("s", 1_000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    with_unit(text, &units, "a duration such as 7d, 12h or -1")
}

/// Parses a size such as `10Gi` or `-1` into bytes.
fn whole_bytes(text: &str) -> Result<String, String> {
    let units = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("", 1),
    ];
    with_unit(text, &units, "a size such as 64Mi, 10Gi or a number of bytes")
}

fn with_unit(text: &str, units: &[(&str, i64)], what: &str) -> Result<String, String> {
    if text == "-1" {
        return Ok(text.to_owned());
    }
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = &text[digits.len()..];
    let factor = units
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
        .filter(|_| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()))
        .ok_or_else(|| format!("{text:?} is not {what}"))?;
    digits
        .parse::<i64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .map(|number| number.to_string())
        .ok_or_else(|| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests;
