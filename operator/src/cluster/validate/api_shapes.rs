//! Validates fields that another API defines and that are therefore free-form in the schema,
//! against the types of that API, so that a typing error is reported in the custom resource and not
//! when the object is applied. Used by the other validations.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::cluster::problem::ClusterProblem;

/// A relabeling of a ServiceMonitor, whose types are not part of the Kubernetes API library.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RelabelingConfig {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    source_labels: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    separator: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    regex: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modulus: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replacement: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    action: Option<String>,
}

/// Checks a value against a type: every field must exist and have the right type.
pub(super) fn check_shape<T: Serialize + DeserializeOwned>(
    field: &str,
    given: &Value,
) -> Result<(), ClusterProblem> {
    if !given.is_object() {
        return Err(ClusterProblem::invalid_spec(format!("{field} is not an object")));
    }
    let refuse = |error: &dyn std::fmt::Display| ClusterProblem::invalid_spec(format!("{field}: {error}"));
    let read: T = T::deserialize(given).map_err(|error| refuse(&error))?;
    let known = serde_json::to_value(read).map_err(|error| refuse(&error))?;
    match unknown_field(given, &known) {
        Some(path) => Err(ClusterProblem::invalid_spec(format!(
            "{field} has no field {path}"
        ))),
        None => Ok(()),
    }
}

/// Checks each element of a list.
pub(super) fn check_each_shape<T: Serialize + DeserializeOwned>(
    field: &str,
    given: &[Value],
) -> Result<(), ClusterProblem> {
    given
        .iter()
        .enumerate()
        .try_for_each(|(index, value)| check_shape::<T>(&format!("{field}[{index}]"), value))
}

/// Returns the path of the first field in `given` that is missing in `known`. Empty values are
/// ignored, because types omit them.
fn unknown_field(given: &Value, known: &Value) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            given.iter().find_map(|(name, value)| match known.get(name) {
                Some(known) => unknown_field(value, known).map(|path| format!("{name}.{path}")),
                None if is_empty(value) => None,
                None => Some(name.clone()),
            })
        }
        (Value::Array(given), Value::Array(known)) => given
            .iter()
            .zip(known)
            .find_map(|(given, known)| unknown_field(given, known)),
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_api_knows_passes() {
        let peer = json!({ "podSelector": { "matchLabels": { "app": "billing" } }, "namespaceSelector": {} });
        assert_eq!(check_shape::<NetworkPolicyPeer>("f", &peer), Ok(()));
        let relabeling = json!({ "sourceLabels": ["pod"], "targetLabel": "pod_name", "action": "replace" });
        assert_eq!(check_shape::<RelabelingConfig>("f", &relabeling), Ok(()));
    }

    #[test]
    fn a_typing_error_is_named() {
        let message = |given| {
            check_shape::<NetworkPolicyPeer>("spec.f[0]", &given)
                .unwrap_err()
                .message
        };
        assert_eq!(
            message(json!({ "podSelctor": { "matchLabels": {} } })),
            "spec.f[0] has no field podSelctor"
        );
        assert_eq!(
            message(json!({ "podSelector": { "matchLabel": { "a": "b" } } })),
            "spec.f[0] has no field podSelector.matchLabel"
        );
        assert!(message(json!({ "podSelector": { "matchLabels": { "a": 1 } } })).contains("invalid type"));
        let error = check_shape::<RelabelingConfig>("f", &json!({ "target": "a" })).unwrap_err();
        assert!(error.message.contains("unknown field `target`"), "{error}");
    }
}
