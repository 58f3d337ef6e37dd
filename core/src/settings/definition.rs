//! The definition of one setting, and how values are read.

use std::{path::PathBuf, str::FromStr};

use super::{AgentSettings, ByteSize, parse_duration};

/// The definition of one agent setting.
#[derive(Debug, Clone, Copy)]
pub struct SettingDefinition {
    /// The flag without its leading dashes.
    pub name: &'static str,
    /// The default, as text; empty for none.
    pub default: &'static str,
    /// The default with `--dev`, if it differs.
    pub dev_default: Option<&'static str>,
    /// The allowed values, in words.
    pub bounds: &'static str,
    /// The description for users.
    pub help: &'static str,
    pub(super) set: fn(&mut AgentSettings, &str) -> Result<(), String>,
}

impl SettingDefinition {
    /// Returns the default as text.
    pub fn default_for(&self, dev: bool) -> &'static str {
        self.dev_default.filter(|_| dev).unwrap_or(self.default)
    }

    /// Returns the environment variable, such as `STREAMHOUSE_FLUSH_INTERVAL`.
    pub fn variable(&self) -> String {
        format!("STREAMHOUSE_{}", self.name.replace('-', "_").to_ascii_uppercase())
    }

    /// Returns the name in documents, such as `flushInterval`.
    pub fn camel_name(&self) -> String {
        let mut parts = self.name.split('-');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |name, part| {
            name + &part[..1].to_ascii_uppercase() + &part[1..]
        })
    }

    /// Parses and sets a value. A value with a control character, such as a line feed read from a
    /// file, is invalid for every setting; the error does not repeat it, since it may be secret.
    pub(super) fn apply(&self, settings: &mut AgentSettings, value: &str) -> Result<(), String> {
        if value.chars().any(char::is_control) {
            return Err("the value holds a line feed or another control character; remove it".to_owned());
        }
        (self.set)(settings, value)
    }

    /// Returns whether the flag needs no value.
    pub fn is_switch(&self) -> bool {
        self.bounds == BOOLEAN_BOUNDS
    }
}

pub(super) const BOOLEAN_BOUNDS: &str = "true or false";

pub(super) fn parse_number<T: FromStr + PartialOrd + std::fmt::Display>(
    text: &str,
    min: T,
    max: T,
) -> Result<T, String> {
    let number: T = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number in the allowed range"))?;
    if number >= min && number <= max {
        Ok(number)
    } else {
        Err(format!("{number} is not between {min} and {max}"))
    }
}

pub(super) fn parse_size(text: &str, min: u64, max: u64) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    let (min, max) = (ByteSize(min), ByteSize(max));
    if size >= min && size <= max {
        Ok(size)
    } else {
        Err(format!("{size} is not between {min} and {max}"))
    }
}

pub(super) fn parse_duration_between(text: &str, min: u64, max: u64) -> Result<std::time::Duration, String> {
    let duration = parse_duration(text)?;
    let allowed = u128::from(min)..=u128::from(max);
    if allowed.contains(&duration.as_millis()) {
        Ok(duration)
    } else {
        Err(format!("{text} is not between {min}ms and {max}ms"))
    }
}

pub(super) fn parse_path(text: &str) -> Result<Option<PathBuf>, String> {
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is neither true nor false"))
}

pub(super) const fn define(
    name: &'static str,
    default: &'static str,
    bounds: &'static str,
    help: &'static str,
    set: fn(&mut AgentSettings, &str) -> Result<(), String>,
) -> SettingDefinition {
    SettingDefinition {
        name,
        default,
        dev_default: None,
        bounds,
        help,
        set,
    }
}

pub(super) const fn with_dev_default(
    dev_default: &'static str,
    definition: SettingDefinition,
) -> SettingDefinition {
    SettingDefinition {
        dev_default: Some(dev_default),
        ..definition
    }
}
