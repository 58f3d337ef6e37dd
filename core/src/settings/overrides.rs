//! Agent settings in a document, such as a Kubernetes resource: names in camelCase; values as text,
//! numbers or booleans. They are validated when they are deserialized, and passed to an agent as
//! environment variables.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{AgentSettings, SETTING_DEFINITIONS, SettingDefinition, nearest_name};

/// Some of the agent's settings, each of them known and valid by itself; the others have their
/// defaults. [`SettingOverrides::resolve`] checks whether they fit together.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SettingOverrides(BTreeMap<&'static str, String>);

impl SettingOverrides {
    /// Sets a setting by its flag name or camelCase name.
    ///
    /// # Errors
    ///
    /// Fails with a message that names the setting and its allowed values.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> Result<(), String> {
        let found = SETTING_DEFINITIONS
            .iter()
            .find(|definition| definition.name == name || definition.camel_name() == name);
        let Some(definition) = found else {
            let nearest = nearest_name(name, |definition| definition.camel_name());
            return Err(format!("there is no setting {name:?}; did you mean {nearest:?}?"));
        };
        let value = value.into();
        definition
            .apply(&mut AgentSettings::defaults(false), value.trim())
            .map_err(|problem| format!("{name}: {problem}; it takes {}", definition.bounds))?;
        self.0.insert(definition.name, value);
        Ok(())
    }

    /// Returns the value of a setting by its flag name, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns the settings as environment variables of an agent.
    pub fn variables(&self) -> impl Iterator<Item = (String, &str)> {
        self.set_definitions()
            .map(|(definition, value)| (definition.variable(), value))
    }

    /// Applies the overrides to the defaults and returns complete settings, as an agent with only
    /// these settings has them.
    ///
    /// # Errors
    ///
    /// Fails if the settings contradict each other or a required one is missing.
    pub fn resolve(&self, dev: bool) -> Result<AgentSettings, String> {
        let mut settings = AgentSettings::defaults(dev);
        for (definition, value) in self.set_definitions() {
            definition.apply(&mut settings, value.trim())?;
        }
        settings.resolve()
    }

    fn set_definitions(&self) -> impl Iterator<Item = (&'static SettingDefinition, &str)> {
        SETTING_DEFINITIONS
            .iter()
            .filter_map(|definition| Some((definition, self.get(definition.name)?)))
    }
}

impl fmt::Debug for SettingOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A value may hold a password, and only the typed settings know which one.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Serialize for SettingOverrides {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.set_definitions()
                .map(|(definition, value)| (definition.camel_name(), value)),
        )
    }
}

impl<'de> Deserialize<'de> for SettingOverrides {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A value as written in the document.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum SettingValue {
            Switch(bool),
            Number(u64),
            Text(String),
        }
        let mut overrides = Self::default();
        for (name, value) in BTreeMap::<String, SettingValue>::deserialize(deserializer)? {
            let value = match value {
                SettingValue::Switch(value) => value.to_string(),
                SettingValue::Number(value) => value.to_string(),
                SettingValue::Text(value) => value,
            };
            overrides.set(&name, value).map_err(de::Error::custom)?;
        }
        Ok(overrides)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DOCUMENT: &str = r#"{"flushInterval": "20ms", "metadataMaxConnections": 16, "s3PathStyle": true,
        "metadataUrl": "postgres://u:hunter2@h/d", "objectStore": "s3://data"}"#;

    #[test]
    fn a_document_becomes_settings_and_variables() {
        let overrides: SettingOverrides = serde_json::from_str(DOCUMENT).unwrap();
        let settings = overrides.resolve(false).unwrap();
        assert_eq!(settings.flush_interval, Duration::from_millis(20));
        assert_eq!(
            (settings.metadata_max_connections, settings.s3_path_style),
            (16, true)
        );
        let variables: Vec<_> = overrides.variables().collect();
        assert!(variables.contains(&("STREAMHOUSE_S3_PATH_STYLE".to_owned(), "true")));
        assert_eq!(variables.len(), 5);
        let again = serde_json::to_string(&overrides).unwrap();
        assert_eq!(
            serde_json::from_str::<SettingOverrides>(&again).unwrap(),
            overrides
        );
    }

    #[test]
    fn what_is_unknown_or_out_of_bounds_is_refused_by_name() {
        let refused = |document| {
            serde_json::from_str::<SettingOverrides>(document)
                .unwrap_err()
                .to_string()
        };
        assert!(refused(r#"{"flushIntervall": "1s"}"#).contains("\"flushInterval\"?"));
        assert!(refused(r#"{"flushBytes": 1}"#).contains("flushBytes: 1 is not between 64KiB"));
        assert!(refused(r#"{"dev": "perhaps"}"#).contains("true or false"));
    }

    #[test]
    fn contradictions_are_refused() {
        let document = r#"{"metadataUrl": "sqlite:x", "objectStore": "file:x", "s3Endpoint": "http://x"}"#;
        let overrides: SettingOverrides = serde_json::from_str(document).unwrap();
        assert!(overrides.resolve(false).unwrap_err().contains("s3-endpoint"));
    }

    #[test]
    fn debug_output_shows_no_password() {
        let overrides: SettingOverrides = serde_json::from_str(DOCUMENT).unwrap();
        assert!(!format!("{overrides:?}").contains("hunter2"));
    }
}
