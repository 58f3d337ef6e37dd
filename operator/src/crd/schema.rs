//! Schema fragments that the derive macros cannot express: quantities, free-form objects and the
//! agent's settings.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};
use streamhouse_core::settings::SETTING_DEFINITIONS;

/// Settings that are derived from other fields of the resource and cannot be set directly, each
/// with the field that determines it.
pub(crate) const DERIVED_SETTINGS: &[(&str, &str)] = &[
    ("dev", "the cluster's own PostgreSQL and bucket"),
    ("data-dir", "the cluster's own PostgreSQL and bucket"),
    ("agent-id", "the pod's name"),
    ("zone", "the node's zone"),
    ("http-listen", "listeners.http.port"),
    ("grpc-listen", "listeners.grpc.port"),
    ("grpc-forward-listen", "the operator"),
    ("kafka-listen", "listeners.kafka.port"),
    (
        "kafka-auto-create-partitions",
        "listeners.kafka.autoCreatePartitions",
    ),
    ("advertised-kafka-address", "listeners.kafka"),
    ("authentication", "authentication"),
    ("authorization", "authorization"),
    ("super-users", "authorization.superUsers"),
    ("oauth-file", "authentication.oauth"),
    ("listeners-file", "listeners.additional"),
    (
        "advertised-grpc-address",
        "the pod's address and listeners.grpc.port",
    ),
    (
        "advertised-http-address",
        "the pod's address and listeners.http.port",
    ),
    (
        "tls-dir",
        "listeners.grpc.tls, listeners.http.tls and listeners.kafka.tls",
    ),
    ("metadata-url", "postgresql.connectionSecret"),
    ("object-store", "objectStorage.bucket and objectStorage.prefix"),
    ("s3-endpoint", "objectStorage.endpoint"),
    ("s3-region", "objectStorage.region"),
    ("s3-path-style", "objectStorage.pathStyle"),
    ("s3-ca-file", "objectStorage.caSecret"),
];

/// Returns the field that determines a setting, by flag name; `None` if the setting can be set
/// directly.
pub(crate) fn source_of_setting(name: &str) -> Option<&'static str> {
    DERIVED_SETTINGS
        .iter()
        .find(|(owned, _)| *owned == name)
        .map(|(_, owner)| *owner)
}

/// An object whose fields are defined by another API.
pub(super) fn free_form(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// A list of objects whose fields are defined by another API.
pub(super) fn free_form_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "maxItems": 64,
        "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true }
    })
}

/// Gateways that a route attaches to.
pub(super) fn parent_refs(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array", "minItems": 1, "maxItems": 8,
        "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true }
    })
}

/// Resource quantities by resource name, as in a container.
pub(super) fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 32,
        "additionalProperties": {
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "pattern": "^(\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\\+|-)?(([0-9]+(\\.[0-9]*)?)|(\\.[0-9]+))))?$",
            "x-kubernetes-int-or-string": true
        }
    })
}

/// A number of pods or a percentage.
pub(super) fn number_or_percentage(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "anyOf": [{ "type": "integer" }, { "type": "string" }],
        "minimum": 0, "maximum": 1000, "maxLength": 4, "pattern": "^([0-9]{1,3}|100%|[0-9]{1,2}%)$",
        "x-kubernetes-int-or-string": true
    })
}

/// Labels or annotations.
pub(super) fn text_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 4096 }
    })
}

/// Additional topic settings: a value, or null to leave the setting unmanaged.
pub(super) fn topic_config(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 64,
        "additionalProperties": {
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "x-kubernetes-int-or-string": true, "nullable": true
        }
    })
}

/// Thresholds by alert name.
pub(super) fn thresholds(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 32, "pattern": "^[0-9]+(\\.[0-9]+)?$" }
    })
}

/// Durations by alert name.
pub(super) fn waits(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object", "maxProperties": 64,
        "additionalProperties": {
            "type": "string", "minLength": 2, "maxLength": 32, "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"
        }
    })
}

/// The settings of the agent, without those that are derived from other fields.
pub(super) fn agent_settings(_: &mut SchemaGenerator) -> Schema {
    let mut properties = Map::new();
    for definition in SETTING_DEFINITIONS
        .iter()
        .filter(|d| source_of_setting(d.name).is_none())
    {
        let default = match (definition.name, definition.default) {
            // Logs in Kubernetes are collected by machines.
            ("log-format", _) => " Default: json.".to_owned(),
            (_, "") => String::new(),
            (_, default) => format!(" Default: {default}."),
        };
        let description = format!("{} Takes {}.{default}", definition.help, definition.bounds);
        let schema = if definition.is_switch() {
            json!({ "description": description, "type": "boolean" })
        } else {
            json!({
                "description": description,
                "anyOf": [{ "type": "integer" }, { "type": "string" }],
                "maxLength": 1024,
                "x-kubernetes-int-or-string": true
            })
        };
        properties.insert(definition.camel_name(), schema);
    }
    json_schema!({ "type": "object", "properties": Value::Object(properties) })
}

/// Removes what a structural schema does not allow, and redundant parts.
pub(super) fn prune_definition(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        if let Some(schema) = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
        {
            prune_schema(schema);
        }
    }
    crd
}

/// Removes formats such as `uint16`, about which the API server warns; null as a second way to omit
/// a field, which every rule would have to handle; and `anyOf` beside `x-kubernetes-int-or-string`.
fn prune_schema(schema: &mut JSONSchemaProps) {
    if schema.x_kubernetes_int_or_string == Some(true) {
        schema.any_of = None;
    }
    if let Some(values) = schema.enum_.as_mut() {
        values.retain(|value| !value.0.is_null());
    }
    if schema
        .format
        .as_deref()
        .is_some_and(|format| format.starts_with("uint"))
    {
        schema.format = None;
    }
    for property in schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
    {
        property.nullable = None;
        // A null in an enum also fails kubectl's validation of the definition.
        if let Some(words) = &mut property.enum_ {
            words.retain(|word| !word.0.is_null());
        }
        prune_schema(property);
    }
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        JSONSchemaPropsOrArray::Schema as One, JSONSchemaPropsOrBool::Schema as Each,
    };
    if let Some(One(items)) = schema.items.as_mut() {
        prune_schema(items);
    }
    if let Some(Each(values)) = schema.additional_properties.as_mut() {
        prune_schema(values);
    }
}
