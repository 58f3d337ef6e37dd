//! Settings of topics and brokers.

use std::collections::{HashMap, HashSet};

use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        AlterConfigsRequest, AlterConfigsResponse, AlterConfigsResult, DescribeConfigsRequest,
        DescribeConfigsResource, DescribeConfigsResourceResult, DescribeConfigsResponse,
        DescribeConfigsResult, DescribeConfigsSynonym, IncrementalAlterConfigsConfig,
        IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, IncrementalAlterConfigsResult,
    },
    protocol::v1,
    topic_config::TOPIC_SETTING_DEFINITIONS,
};

use super::{
    error::{ErrorFamily, kafka_code, result_code},
    request::RequestContext,
};
use crate::topics;

/// Kafka's numbers of resources.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
/// Bytes of memory that the settings of a topic take in an answer.
const RESOURCE_MEMORY: usize = 16 << 10;
/// Where a value comes from: set for the topic, or the default.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_DEFAULT: i8 = 5;
/// The type of a value.
const TYPE_STRING: i8 = 2;
const TYPE_LONG: i8 = 5;
/// Operations of IncrementalAlterConfigs.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// A setting of a topic.
pub(super) struct EffectiveSetting {
    pub(super) name: String,
    pub(super) value: String,
    /// Kafka's number of where the value comes from.
    pub(super) source: i8,
}

/// Returns the settings of a topic by name.
pub(super) fn topic_settings(topic: &v1::TopicDescription) -> impl Iterator<Item = EffectiveSetting> {
    TOPIC_SETTING_DEFINITIONS.iter().map(|definition| {
        let overridden = topic.overridden.iter().any(|key| key == definition.key);
        EffectiveSetting {
            name: definition.key.to_owned(),
            value: topic
                .config
                .get(definition.key)
                .cloned()
                .unwrap_or_else(|| definition.default.to_owned()),
            source: if overridden { SOURCE_TOPIC } else { SOURCE_DEFAULT },
        }
    })
}

/// Serves DescribeConfigs.
pub(super) async fn describe_configs(
    context: RequestContext,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let mut resources = request.resources;
    // The answer is not larger than the cluster, however often a request names a topic.
    let mut seen = HashSet::with_capacity(resources.len());
    resources.retain(|resource| seen.insert((resource.resource_type, resource.resource_name.clone())));
    context
        .reserve_answer(resources.len().saturating_mul(RESOURCE_MEMORY))
        .await;
    let mut results = Vec::with_capacity(resources.len());
    for resource in resources {
        let described = describe_resource(&context, &resource, request.include_synonyms).await;
        let mut result = DescribeConfigsResult {
            error_code: result_code(ErrorFamily::Admin, &described),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            ..DescribeConfigsResult::default()
        };
        match described {
            Ok(configs) => result.configs = configs,
            Err(error) => result.error_message = Some(error.message().to_owned()),
        }
        results.push(result);
    }
    DescribeConfigsResponse {
        results,
        ..DescribeConfigsResponse::default()
    }
}

async fn describe_resource(
    context: &RequestContext,
    resource: &DescribeConfigsResource,
    synonyms: bool,
) -> Result<Vec<DescribeConfigsResourceResult>, Error> {
    let wanted = |name: &str| {
        let keys = resource.configuration_keys.as_ref();
        keys.is_none_or(|keys| keys.iter().any(|key| key == name))
    };
    if resource.resource_type == BROKER {
        // Agents are configured by their own settings, which Kafka's clients do not know.
        return Ok(broker_settings(context)
            .into_iter()
            .filter(|setting| wanted(&setting.name))
            .collect());
    }
    if resource.resource_type != TOPIC {
        return Err(unknown_resource(resource.resource_type));
    }
    let topics = &context.client.deps.topics;
    let described = topics::describe(topics, &resource.resource_name).await?;
    let settings = topic_settings(&described).filter(|setting| wanted(&setting.name));
    Ok(settings
        .map(|setting| described_setting(setting, synonyms))
        .collect())
}

fn described_setting(setting: EffectiveSetting, synonyms: bool) -> DescribeConfigsResourceResult {
    let definition = TOPIC_SETTING_DEFINITIONS
        .iter()
        .find(|known| known.key == setting.name);
    let default = definition.map(|definition| DescribeConfigsSynonym {
        name: setting.name.clone(),
        value: Some(definition.default.to_owned()),
        source: SOURCE_DEFAULT,
    });
    let set = (setting.source == SOURCE_TOPIC).then(|| DescribeConfigsSynonym {
        name: setting.name.clone(),
        value: Some(setting.value.clone()),
        source: SOURCE_TOPIC,
    });
    let is_number = definition.is_some_and(|known| known.default.parse::<i64>().is_ok());
    DescribeConfigsResourceResult {
        synonyms: if synonyms {
            set.into_iter().chain(default).collect()
        } else {
            Vec::new()
        },
        name: setting.name,
        value: Some(setting.value),
        config_source: setting.source,
        config_type: if is_number { TYPE_LONG } else { TYPE_STRING },
        documentation: definition.map(|definition| definition.help.to_owned()),
        ..DescribeConfigsResourceResult::default()
    }
}

/// Returns what tools ask of brokers.
fn broker_settings(context: &RequestContext) -> Vec<DescribeConfigsResourceResult> {
    let deps = &context.client.deps;
    let (auto_create, largest) = (deps.auto_create_partitions, deps.max_request_bytes);
    let settings = [
        ("auto.create.topics.enable", auto_create.is_some().to_string()),
        ("default.replication.factor", "1".to_owned()),
        ("message.max.bytes", largest.to_string()),
        ("num.partitions", auto_create.unwrap_or(1).to_string()),
        ("offsets.topic.replication.factor", "1".to_owned()),
        ("socket.request.max.bytes", largest.to_string()),
    ];
    let settings = settings.map(|(name, value)| DescribeConfigsResourceResult {
        name: name.to_owned(),
        value: Some(value),
        read_only: true,
        config_source: SOURCE_DEFAULT,
        config_type: TYPE_STRING,
        ..DescribeConfigsResourceResult::default()
    });
    settings.into()
}

fn unknown_resource(kind: i8) -> Error {
    let message = format!("resources of type {kind} have no settings here; topics have the type {TOPIC}");
    Error::new(ErrorCode::InvalidRequest, message)
}

/// Serves IncrementalAlterConfigs.
pub(super) async fn incremental_alter_configs(
    context: RequestContext,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let change = change_of(resource.configs);
        let changed = match change {
            Ok(change) => {
                alter(
                    &context,
                    resource.resource_type,
                    &resource.resource_name,
                    change,
                    request.validate_only,
                )
                .await
            }
            Err(error) => Err(error),
        };
        responses.push(IncrementalAlterConfigsResult {
            error_code: result_code(ErrorFamily::Admin, &changed),
            error_message: changed.err().map(|error| error.message().to_owned()),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        });
    }
    IncrementalAlterConfigsResponse {
        responses,
        ..IncrementalAlterConfigsResponse::default()
    }
}

/// A change of a topic's settings.
#[derive(Debug, Default, PartialEq)]
struct SettingsChange {
    set: HashMap<String, String>,
    reset: Vec<String>,
}

fn change_of(configs: Vec<IncrementalAlterConfigsConfig>) -> Result<SettingsChange, Error> {
    let mut change = SettingsChange::default();
    for config in configs {
        let IncrementalAlterConfigsConfig {
            name,
            config_operation,
            value,
        } = config;
        match (config_operation, value) {
            // The only list is cleanup.policy, which has one value.
            (SET | APPEND, Some(value)) => {
                change.set.insert(name, value);
            }
            (DELETE, _) => change.reset.push(name),
            (SUBTRACT, _) => {
                let message = format!("nothing can be removed from {name}, which is not a list");
                return Err(Error::new(ErrorCode::InvalidConfig, message));
            }
            (operation, value) => {
                let missing = if value.is_none() { " without a value" } else { "" };
                let message = format!("operation {operation}{missing} of {name} is not valid");
                return Err(Error::new(ErrorCode::InvalidRequest, message));
            }
        }
    }
    Ok(change)
}

async fn alter(
    context: &RequestContext,
    kind: i8,
    name: &str,
    change: SettingsChange,
    validate_only: bool,
) -> Result<(), Error> {
    if kind != TOPIC {
        return Err(unknown_resource(kind));
    }
    let request = v1::AlterTopicRequest {
        name: name.to_owned(),
        partitions: 0,
        set_config: change.set,
        reset_config: change.reset,
        validate_only,
    };
    topics::alter(&context.client.deps.topics, request)
        .await
        .map(drop)
}

/// Serves AlterConfigs, which replaces all settings of a topic.
pub(super) async fn alter_configs(
    context: RequestContext,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let mut responses = Vec::with_capacity(request.resources.len());
    for resource in request.resources {
        let set: HashMap<String, String> = resource
            .configs
            .into_iter()
            .filter_map(|config| Some((config.name, config.value?)))
            .collect();
        let changed = replace(
            &context,
            resource.resource_type,
            &resource.resource_name,
            set,
            request.validate_only,
        )
        .await;
        responses.push(AlterConfigsResult {
            error_code: changed
                .as_ref()
                .err()
                .map_or(0, |error| kafka_code(ErrorFamily::Admin, error)),
            error_message: changed.err().map(|error| error.message().to_owned()),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
        });
    }
    AlterConfigsResponse {
        responses,
        ..AlterConfigsResponse::default()
    }
}

async fn replace(
    context: &RequestContext,
    kind: i8,
    name: &str,
    set: HashMap<String, String>,
    validate_only: bool,
) -> Result<(), Error> {
    if kind != TOPIC {
        return Err(unknown_resource(kind));
    }
    let described = topics::describe(&context.client.deps.topics, name).await?;
    let reset = described
        .overridden
        .into_iter()
        .filter(|key| !set.contains_key(key))
        .collect();
    alter(context, kind, name, SettingsChange { set, reset }, validate_only).await
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

    #[test]
    fn operations_become_one_change() {
        let change = change_of(vec![
            config("retention.ms", SET, Some("5")),
            config("cleanup.policy", APPEND, Some("compact")),
            config("segment.ms", DELETE, None),
        ]);
        let change = change.unwrap();
        assert_eq!(
            (
                change.set["retention.ms"].as_str(),
                change.set["cleanup.policy"].as_str()
            ),
            ("5", "compact")
        );
        assert_eq!(change.reset, ["segment.ms"]);
    }

    #[test]
    fn operations_that_mean_nothing_are_refused() {
        let code = |config| change_of(vec![config]).unwrap_err().code();
        assert_eq!(code(config("retention.ms", SET, None)), ErrorCode::InvalidRequest);
        assert_eq!(
            code(config("retention.ms", 9, Some("1"))),
            ErrorCode::InvalidRequest
        );
        assert_eq!(
            code(config("cleanup.policy", SUBTRACT, Some("delete"))),
            ErrorCode::InvalidConfig
        );
    }
}
