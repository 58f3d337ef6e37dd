//! Validates a Topic without reading anything. Repeats the rules of the schema, since a resource
//! may be older than a rule, and checks what a schema cannot: sizes, durations and the bounds of
//! settings. Called by the plan.
//!
//! An invalid setting is reported and left unmanaged; all other settings are applied.

use std::collections::BTreeMap;

use streamhouse_core::{ids::topic_name_problem, topic_config::TopicConfig};

use crate::crd::{AdoptionPolicy, CleanupPolicy, CompressionType, ConditionReason, Topic};

/// Maximum number of partitions, as in the schema.
const MAX_PARTITIONS: i32 = 10_000;

/// The desired state of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredTopic {
    /// Valid name of the topic.
    pub name: String,
    /// Minimum number of partitions; `None` accepts any number.
    pub partitions: Option<i32>,
    /// Settings by key; a setting that is absent has its default.
    pub settings: BTreeMap<String, DesiredSetting>,
    /// Whether an existing topic may be adopted.
    pub adopt: AdoptionPolicy,
    /// Problems that do not prevent the other changes.
    pub problems: Vec<TopicProblem>,
}

/// Desired state of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DesiredSetting {
    /// A valid value.
    Value(String),
    /// Unmanaged: the value is null or invalid.
    Unmanaged,
}

/// Why a Topic is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicProblem {
    /// The reason of the condition.
    pub reason: ConditionReason,
    /// The message, which says what to do.
    pub message: String,
}

impl TopicProblem {
    /// Creates a problem.
    pub fn new(reason: ConditionReason, message: impl Into<String>) -> Self {
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
pub fn validate(topic: &Topic) -> Result<DesiredTopic, TopicProblem> {
    let invalid = |message: String| Err(TopicProblem::new(ConditionReason::InvalidSpec, message));
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
        && !(1..=MAX_PARTITIONS).contains(&partitions)
    {
        return invalid(format!(
            "spec.partitions: {partitions} is not between 1 and {MAX_PARTITIONS}"
        ));
    }
    let mut problems = Vec::new();
    Ok(DesiredTopic {
        name: name.to_owned(),
        partitions: topic.spec.partitions,
        settings: collect_settings(topic, &mut problems),
        adopt: topic.spec.adopt,
        problems,
    })
}

/// Collects the settings of the spec's own fields and of `spec.config`.
fn collect_settings(topic: &Topic, problems: &mut Vec<TopicProblem>) -> BTreeMap<String, DesiredSetting> {
    let mut settings = BTreeMap::new();
    let mut wrong =
        |message: String| problems.push(TopicProblem::new(ConditionReason::InvalidConfig, message));
    for SettingField { path, key, value } in setting_fields(topic) {
        let setting = match value.and_then(|value| check_setting(key, &value).map(|()| value)) {
            Ok(value) => DesiredSetting::Value(value),
            Err(problem) => {
                wrong(format!("{path}: {problem}"));
                DesiredSetting::Unmanaged
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
                DesiredSetting::Unmanaged
            }
            None => match check_key(key) {
                Ok(()) => DesiredSetting::Unmanaged,
                Err(problem) => {
                    wrong(format!("spec.config: {problem}"));
                    DesiredSetting::Unmanaged
                }
            },
            Some(value) => match check_setting(key, &value) {
                Ok(()) => DesiredSetting::Value(value),
                Err(problem) => {
                    wrong(format!("spec.config: {problem}"));
                    DesiredSetting::Unmanaged
                }
            },
        };
        settings.insert(key.clone(), setting);
    }
    settings
}

/// A setting with its own field in the spec.
struct SettingField {
    path: &'static str,
    key: &'static str,
    value: Result<String, String>,
}

/// Returns the settings whose fields are set.
fn setting_fields(topic: &Topic) -> impl Iterator<Item = SettingField> {
    let spec = &topic.spec;
    let retention = spec.retention.as_ref();
    let field = |path, key, value| SettingField { path, key, value };
    let time = retention.and_then(|retention| retention.time.as_deref());
    let bytes = retention.and_then(|retention| retention.bytes.as_deref());
    let policy = |policy: CleanupPolicy| match policy {
        CleanupPolicy::Delete => Ok("delete".to_owned()),
    };
    let compression = |compression: CompressionType| Ok(compression.as_str().to_owned());
    [
        time.map(|time| field("spec.retention.time", "retention.ms", parse_duration_ms(time))),
        bytes.map(|bytes| field("spec.retention.bytes", "retention.bytes", parse_bytes(bytes))),
        spec.segment_bytes
            .as_deref()
            .map(|bytes| field("spec.segmentBytes", "segment.bytes", parse_bytes(bytes))),
        spec.compression
            .map(|kind| field("spec.compression", "compression.type", compression(kind))),
        spec.cleanup_policy
            .map(|kind| field("spec.cleanupPolicy", "cleanup.policy", policy(kind))),
    ]
    .into_iter()
    .flatten()
}

/// Checks a value against the bounds of its setting; the message contains the key.
fn check_setting(key: &str, value: &str) -> Result<(), String> {
    let alone = BTreeMap::from([(key.to_owned(), value.to_owned())]);
    TopicConfig::from_overrides(&alone)
        .map(drop)
        .map_err(|error| error.message().to_owned())
}

fn check_key(key: &str) -> Result<(), String> {
    streamhouse_core::topic_config::find_definition(key)
        .map(drop)
        .map_err(|error| error.message().to_owned())
}

/// Parses a duration such as `7d` or `-1` into milliseconds.
fn parse_duration_ms(text: &str) -> Result<String, String> {
    let units = [
        ("ms", 1),
        ("s", 1_000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    parse_with_unit(text, &units, "a duration such as 7d, 12h or -1")
}

/// Parses a size such as `10Gi` or `-1` into bytes.
fn parse_bytes(text: &str) -> Result<String, String> {
    let units = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("", 1),
    ];
    parse_with_unit(text, &units, "a size such as 64Mi, 10Gi or a number of bytes")
}

fn parse_with_unit(text: &str, units: &[(&str, i64)], what: &str) -> Result<String, String> {
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
