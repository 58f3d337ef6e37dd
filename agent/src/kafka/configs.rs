//! DescribeConfigs: the settings of topics, brokers and groups.

use std::collections::BTreeSet;

use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult,
        DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
    },
    protocol::v1,
    security::AclOperation,
    topic_config::{TOPIC_SETTING_DEFINITIONS, TopicSettingDefinition},
};

use super::{
    broker_settings::{self, SOURCE_DEFAULT, type_number},
    error::{ErrorFamily, result_code},
    request::{RequestContext, each_once},
};
use crate::topics;

/// Kafka's numbers of resources.
pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;
pub(super) const GROUP: i8 = 32;
/// Resources that have no settings here, and are the cluster's.
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
/// Bytes of memory that the settings of a topic take in an answer.
const RESOURCE_MEMORY: usize = 16 << 10;
/// Where a value comes from: set for the topic, or the default.
const SOURCE_TOPIC: i8 = 1;

/// A setting of a topic with its effective value.
struct EffectiveSetting {
    definition: &'static TopicSettingDefinition,
    value: String,
    is_set: bool,
}

fn effective_settings(topic: &v1::TopicDescription) -> impl Iterator<Item = EffectiveSetting> {
    TOPIC_SETTING_DEFINITIONS.iter().map(|definition| {
        let value = topic.config.get(definition.key);
        EffectiveSetting {
            definition,
            value: value.map_or(definition.default, String::as_str).to_owned(),
            is_set: topic.overridden.iter().any(|key| key == definition.key),
        }
    })
}

impl EffectiveSetting {
    /// Returns Kafka's number of where the value comes from.
    fn source(&self) -> i8 {
        match self.is_set {
            true => SOURCE_TOPIC,
            false => SOURCE_DEFAULT,
        }
    }

    fn described(self, request: &DescribeConfigsRequest) -> DescribeConfigsResourceResult {
        let Self { definition, .. } = &self;
        DescribeConfigsResourceResult {
            name: definition.key.to_owned(),
            config_source: self.source(),
            config_type: type_number(definition.kind),
            synonyms: match request.include_synonyms {
                true => self.synonyms(),
                false => Vec::new(),
            },
            documentation: request.include_documentation.then(|| definition.help.to_owned()),
            value: Some(self.value),
            ..DescribeConfigsResourceResult::default()
        }
    }

    /// Returns the values that the setting could have, the one in force first.
    fn synonyms(&self) -> Vec<DescribeConfigsSynonym> {
        let Self { definition, .. } = self;
        let set = self.is_set.then(|| DescribeConfigsSynonym {
            name: definition.key.to_owned(),
            value: Some(self.value.clone()),
            source: SOURCE_TOPIC,
        });
        let default = definition.broker_setting.map(|name| DescribeConfigsSynonym {
            name: name.to_owned(),
            value: Some(definition.default.to_owned()),
            source: SOURCE_DEFAULT,
        });
        set.into_iter().chain(default).collect()
    }
}

/// Returns name, value and source of each setting of a topic, ordered by name.
pub(super) fn topic_settings(topic: &v1::TopicDescription) -> impl Iterator<Item = (String, String, i8)> {
    effective_settings(topic).map(|setting| {
        let source = setting.source();
        (setting.definition.key.to_owned(), setting.value, source)
    })
}

/// Serves DescribeConfigs.
pub(super) async fn describe_configs(
    context: RequestContext,
    mut request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let resources = each_once(std::mem::take(&mut request.resources), |resource| {
        (resource.resource_type, resource.resource_name.clone())
    });
    context
        .reserve_answer(resources.len().saturating_mul(RESOURCE_MEMORY))
        .await;
    let mut results = Vec::with_capacity(resources.len());
    for resource in resources {
        let described = describe_resource(&context, &resource, &request).await;
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
    request: &DescribeConfigsRequest,
) -> Result<Vec<DescribeConfigsResourceResult>, Error> {
    let name = &resource.resource_name;
    check_access(
        context,
        AclOperation::DescribeConfigs,
        (resource.resource_type, name),
    )?;
    let mut settings: Vec<DescribeConfigsResourceResult> = match resource.resource_type {
        TOPIC => {
            let topic = topics::describe_settings(&context.client.deps.topics, name).await?;
            effective_settings(&topic)
                .map(|setting| setting.described(request))
                .collect()
        }
        BROKER => broker_settings::of_broker(context, name)?,
        GROUP => broker_settings::of_group(context, name)?,
        other => return Err(unknown_resource(other)),
    };
    // An empty list of keys asks for all, like none.
    if let Some(keys) = resource
        .configuration_keys
        .as_ref()
        .filter(|keys| !keys.is_empty())
    {
        let keys: BTreeSet<&str> = keys.iter().map(String::as_str).collect();
        settings.retain(|setting| keys.contains(setting.name.as_str()));
    }
    Ok(settings)
}

/// Checks that the client may read or change the settings of a resource.
pub(super) fn check_access(
    context: &RequestContext,
    operation: AclOperation,
    (kind, name): (i8, &str),
) -> Result<(), Error> {
    let access = context.access();
    match kind {
        TOPIC => access.check_topic(operation, name),
        GROUP => access.check_group(operation, name),
        BROKER | BROKER_LOGGER | CLIENT_METRICS => access.check_cluster(operation),
        _ => Ok(()),
    }
}

/// Returns the error for a resource without settings.
pub(super) fn unknown_resource(kind: i8) -> Error {
    let message = format!(
        "resources of type {kind} have no settings here; topics have the type {TOPIC}, brokers {BROKER}, groups {GROUP}"
    );
    Error::new(ErrorCode::InvalidRequest, message)
}
