//! AlterConfigs and IncrementalAlterConfigs: changes of topics' settings. The settings of brokers
//! and groups are read-only.

use std::collections::{BTreeSet, HashMap, HashSet};

use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        AlterConfigsConfig, AlterConfigsRequest, AlterConfigsResponse, AlterConfigsResult,
        IncrementalAlterConfigsConfig, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
        IncrementalAlterConfigsResult,
    },
    protocol::v1,
    security::AclOperation,
    topic_config::{TopicSettingType, find_definition},
};

use super::{
    configs::{BROKER, GROUP, TOPIC, check_access, unknown_resource},
    error::{ErrorFamily, result_code},
    request::RequestContext,
};
use crate::topics;

/// Operations of IncrementalAlterConfigs.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Settings of a resource as a request gives them.
enum RequestedSettings {
    /// Replaces all.
    All(Vec<AlterConfigsConfig>),
    /// Changes some.
    Changes(Vec<IncrementalAlterConfigsConfig>),
}

/// Type and name of a resource.
type ResourceKey = (i8, String);

/// Serves IncrementalAlterConfigs.
pub(super) async fn incremental_alter_configs(
    context: RequestContext,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let resources = request.resources.into_iter().map(|resource| {
        let key = (resource.resource_type, resource.resource_name);
        (key, RequestedSettings::Changes(resource.configs))
    });
    let altered = alter_resources(&context, resources.collect(), request.validate_only).await;
    let responses = altered.into_iter().map(|result| IncrementalAlterConfigsResult {
        error_code: result.error_code,
        error_message: result.error_message,
        resource_type: result.resource_type,
        resource_name: result.resource_name,
    });
    IncrementalAlterConfigsResponse {
        responses: responses.collect(),
        ..IncrementalAlterConfigsResponse::default()
    }
}

/// Serves AlterConfigs, which replaces all settings of a topic.
pub(super) async fn alter_configs(
    context: RequestContext,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let resources = request.resources.into_iter().map(|resource| {
        let key = (resource.resource_type, resource.resource_name);
        (key, RequestedSettings::All(resource.configs))
    });
    AlterConfigsResponse {
        responses: alter_resources(&context, resources.collect(), request.validate_only).await,
        ..AlterConfigsResponse::default()
    }
}

/// Alters one resource after the other; one that is named twice is not altered.
async fn alter_resources(
    context: &RequestContext,
    resources: Vec<(ResourceKey, RequestedSettings)>,
    validate_only: bool,
) -> Vec<AlterConfigsResult> {
    let repeated = repeated_resources(resources.iter().map(|(key, _)| key));
    let mut results = Vec::with_capacity(resources.len());
    for (key, settings) in resources {
        let allowed = match repeated.contains(&key) {
            true => Err(repeated_resource()),
            false => check_access(context, AclOperation::AlterConfigs, (key.0, &key.1)),
        };
        let altered = match (allowed, settings) {
            (Err(error), _) => Err(error),
            (_, RequestedSettings::All(configs)) => replace(context, &key, configs, validate_only).await,
            (_, RequestedSettings::Changes(configs)) => {
                change_topic(context, &key, configs, validate_only).await
            }
        };
        results.push(AlterConfigsResult {
            error_code: result_code(ErrorFamily::Admin, &altered),
            error_message: altered.err().map(|error| error.message().to_owned()),
            resource_type: key.0,
            resource_name: key.1,
        });
    }
    results
}

async fn change_topic(
    context: &RequestContext,
    (kind, name): &ResourceKey,
    configs: Vec<IncrementalAlterConfigsConfig>,
    validate_only: bool,
) -> Result<(), Error> {
    check_names(configs.iter().map(|config| config.name.as_str()))?;
    let changes_list =
        |config: &IncrementalAlterConfigsConfig| matches!(config.config_operation, APPEND | SUBTRACT);
    ensure_topic(*kind, configs.iter().map(|config| config.name.as_str()))?;
    // Only a change of a list needs what the topic has.
    let current = match configs.iter().any(changes_list) {
        true => {
            topics::describe_settings(&context.client.deps.topics, name)
                .await?
                .config
        }
        false => HashMap::new(),
    };
    let change = change_of(configs, &current)?;
    alter(context, name, change, validate_only).await
}

/// A change of a topic's settings.
#[derive(Debug, Default, PartialEq)]
struct SettingsChange {
    set: HashMap<String, String>,
    reset: Vec<String>,
}

/// Returns the change that operations ask for, of a topic with these settings.
fn change_of(
    configs: Vec<IncrementalAlterConfigsConfig>,
    current: &HashMap<String, String>,
) -> Result<SettingsChange, Error> {
    let mut change = SettingsChange::default();
    for config in configs {
        let IncrementalAlterConfigsConfig {
            name,
            config_operation,
            value,
        } = config;
        if config_operation == DELETE {
            // To reset what is not there changes nothing.
            if find_definition(&name).is_ok() {
                change.reset.push(name);
            }
            continue;
        }
        let value = value.ok_or_else(|| missing_value(&name))?;
        let value = match config_operation {
            SET => value,
            APPEND | SUBTRACT => {
                let definition = find_definition(&name).ok();
                let definition = definition.filter(|known| known.kind == TopicSettingType::List);
                let definition = definition.ok_or_else(|| {
                    let message = format!("{name} is not a list, to which values can be added");
                    Error::new(ErrorCode::InvalidConfig, message)
                })?;
                let old = current.get(&name).map_or(definition.default, String::as_str);
                changed_list(old, &value, config_operation == APPEND)
            }
            other => {
                let message = format!("operation {other} of {name} is unknown");
                return Err(Error::new(ErrorCode::InvalidRequest, message));
            }
        };
        change.set.insert(name, value);
    }
    Ok(change)
}

/// Returns a list with the values added that it lacks, or without them.
fn changed_list(old: &str, values: &str, add: bool) -> String {
    let words = |list: &str| {
        let words = list.split(',').map(str::trim);
        let words = words.filter(|word| !word.is_empty());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut list = words(old);
    for value in words(values) {
        if !add {
            list.retain(|word| *word != value);
        } else if !list.contains(&value) {
            list.push(value);
        }
    }
    list.join(",")
}

async fn replace(
    context: &RequestContext,
    (kind, name): &ResourceKey,
    configs: Vec<AlterConfigsConfig>,
    validate_only: bool,
) -> Result<(), Error> {
    check_names(configs.iter().map(|config| config.name.as_str()))?;
    ensure_topic(*kind, configs.iter().map(|config| config.name.as_str()))?;
    let mut set = HashMap::with_capacity(configs.len());
    for config in configs {
        let value = config.value.ok_or_else(|| missing_value(&config.name))?;
        set.insert(config.name, value);
    }
    let described = topics::describe_settings(&context.client.deps.topics, name).await?;
    let known = |key: &String| !set.contains_key(key) && find_definition(key).is_ok();
    let reset = described.overridden.into_iter().filter(known).collect();
    alter(context, name, SettingsChange { set, reset }, validate_only).await
}

async fn alter(
    context: &RequestContext,
    name: &str,
    change: SettingsChange,
    validate_only: bool,
) -> Result<(), Error> {
    let request = v1::AlterTopicRequest {
        name: name.to_owned(),
        partitions: 0,
        set_config: change.set,
        reset_config: change.reset,
        validate_only,
    };
    let altered = topics::alter(&context.client.deps.topics, request).await;
    altered.map(drop)
}

/// Checks that no setting is named twice.
fn check_names<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let mut seen = HashSet::new();
    match names.find(|name| !seen.insert(*name)) {
        None => Ok(()),
        Some(name) => {
            let message = format!("the request names the setting {name} more than once");
            Err(Error::new(ErrorCode::InvalidRequest, message))
        }
    }
}

/// Checks that the settings are those of a topic.
fn ensure_topic<'a>(kind: i8, names: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    match kind {
        TOPIC => Ok(()),
        BROKER | GROUP => {
            let names: Vec<&str> = names.collect();
            let message = format!(
                "the settings of brokers and groups cannot be changed through the Kafka protocol, but by the agents' own: [{}]",
                names.join(", ")
            );
            Err(Error::new(ErrorCode::InvalidRequest, message))
        }
        other => Err(unknown_resource(other)),
    }
}

fn missing_value(name: &str) -> Error {
    Error::new(
        ErrorCode::InvalidRequest,
        format!("the setting {name} has no value; use the operation DELETE to reset it"),
    )
}

/// Returns the resources that a request names more than once.
fn repeated_resources<'a>(named: impl Iterator<Item = &'a ResourceKey>) -> BTreeSet<ResourceKey> {
    let mut seen = HashSet::new();
    named.filter(|key| !seen.insert(*key)).cloned().collect()
}

fn repeated_resource() -> Error {
    let message = "the request names the resource more than once";
    Error::new(ErrorCode::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, config_operation: i8, value: Option<&str>) -> IncrementalAlterConfigsConfig {
        IncrementalAlterConfigsConfig {
            name: name.to_owned(),
            config_operation,
            value: value.map(str::to_owned),
        }
    }

    fn change(config: IncrementalAlterConfigsConfig, policy: Option<&str>) -> Result<SettingsChange, Error> {
        let current = policy.map(|policy| ("cleanup.policy".to_owned(), policy.to_owned()));
        change_of(vec![config], &current.into_iter().collect())
    }

    #[test]
    fn operations_become_one_change() {
        let configs = vec![
            config("retention.ms", SET, Some("5")),
            config("segment.ms", DELETE, None),
            config("no.such.setting", DELETE, None),
        ];
        let change = change_of(configs, &HashMap::new()).unwrap();
        assert_eq!(change.set["retention.ms"], "5");
        assert_eq!(change.reset, ["segment.ms"]);
    }

    #[test]
    fn lists_grow_and_shrink() {
        for (operation, value, policy, expected) in [
            (APPEND, "compact", None, "delete,compact"),
            (APPEND, "compact", Some("compact"), "compact"),
            (APPEND, "compact,delete", Some(""), "compact,delete"),
            (SUBTRACT, "delete", Some("delete, compact"), "compact"),
            (SUBTRACT, "delete", Some("compact"), "compact"),
            (SUBTRACT, "delete", None, ""),
        ] {
            let changed = change(config("cleanup.policy", operation, Some(value)), policy).unwrap();
            assert_eq!(changed.set["cleanup.policy"], expected, "{policy:?}");
        }
    }

    #[test]
    fn operations_that_mean_nothing_are_refused() {
        let code = |config| change(config, None).unwrap_err().code();
        assert_eq!(code(config("retention.ms", SET, None)), ErrorCode::InvalidRequest);
        assert_eq!(
            code(config("retention.ms", 9, Some("1"))),
            ErrorCode::InvalidRequest
        );
        for operation in [APPEND, SUBTRACT] {
            assert_eq!(
                code(config("retention.ms", operation, Some("1"))),
                ErrorCode::InvalidConfig
            );
        }
        assert!(check_names(["a", "b", "a"].into_iter()).is_err());
        assert!(check_names(["a", "b"].into_iter()).is_ok());
    }
}
