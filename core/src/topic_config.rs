//! Topic settings, with Kafka's names: one table of keys, defaults, bounds and descriptions, and
//! the typed value.
//!
//! Every topic setting of Kafka 4.3.1 is known. Those that concern brokers' disks and replicas have
//! no effect here; they are checked, kept and reported, so that Kafka's tools work as they are.

mod definitions;
mod reference;
mod values;

use std::collections::BTreeMap;

pub use self::{definitions::TOPIC_SETTING_DEFINITIONS, reference::reference_markdown};
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
    /// Whether the leader sets the timestamps, when it appends.
    pub stamps_append_time: bool,
    /// Whether the cleanup policy deletes records by time and size.
    pub deletes_records: bool,
}

/// The type of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicSettingType {
    /// `true` or `false`.
    Boolean,
    /// A whole number of 32 bits.
    Int,
    /// A whole number of 64 bits.
    Long,
    /// A number.
    Double,
    /// A word.
    String,
    /// Words, separated by commas.
    List,
}

/// The definition of one topic setting.
#[derive(Debug, Clone, Copy)]
pub struct TopicSettingDefinition {
    /// Kafka's name of the setting.
    pub key: &'static str,
    /// The type of its value.
    pub kind: TopicSettingType,
    /// The default, as text.
    pub default: &'static str,
    /// The allowed values, in words.
    pub bounds: &'static str,
    /// The description for users.
    pub help: &'static str,
    /// The broker setting of Kafka that has the default, if there is one.
    pub broker_setting: Option<&'static str>,
    /// Whether the setting has an effect. The others are kept and reported.
    pub has_effect: bool,
    set: fn(&mut TopicConfig, &str) -> Result<(), String>,
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
            stamps_append_time: false,
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
    /// Fails with INVALID_CONFIG, which names the first setting that is unknown, out of bounds or
    /// contradicts another one.
    pub fn from_overrides(overrides: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mut config = Self::default();
        for (key, value) in overrides {
            let set = find_definition(key)?.set;
            set(&mut config, value)
                .map_err(|problem| Error::new(ErrorCode::InvalidConfig, format!("{key}: {problem}")))?;
        }
        check_compaction_lags(overrides)?;
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

/// Checks that the time before which nothing is compacted is not longer than the one after which
/// everything is.
///
/// # Errors
///
/// Fails with INVALID_CONFIG if it is.
pub fn check_compaction_lags(overrides: &BTreeMap<String, String>) -> Result<(), Error> {
    let value = |key: &str, default: i64| {
        let value = overrides.get(key).and_then(|value| value.trim().parse().ok());
        value.unwrap_or(default)
    };
    let (min, max) = (
        value("min.compaction.lag.ms", 0),
        value("max.compaction.lag.ms", i64::MAX),
    );
    if min <= max {
        return Ok(());
    }
    let message = format!("min.compaction.lag.ms: {min} is more than max.compaction.lag.ms, {max}");
    Err(Error::new(ErrorCode::InvalidConfig, message))
}

/// Returns the settings with their effective values: those with an effect, and the others if they
/// are set.
pub fn effective_config(overrides: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let value =
        |d: &TopicSettingDefinition| overrides.get(d.key).map_or(d.default, String::as_str).to_owned();
    TOPIC_SETTING_DEFINITIONS
        .iter()
        .filter(|definition| definition.has_effect || overrides.contains_key(definition.key))
        .map(|definition| (definition.key.to_owned(), value(definition)))
        .collect()
}

#[cfg(test)]
mod tests;
