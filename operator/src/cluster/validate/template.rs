//! Validates `spec.agents.podTemplate`: it must be part of a pod template, its lists must be
//! mergeable, and it must not change the labels that select the agents' pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize;
use serde_json::Value;

use crate::cluster::{labels, merge, names, problem::Problem};

const FIELD: &str = "spec.agents.podTemplate";

/// Rejects what cannot be merged or would break the selectors.
pub(super) fn check(template: &Value) -> Result<(), Problem> {
    only(FIELD, template, &["metadata", "spec"])?;
    if let Some(metadata) = given(template, "metadata") {
        check_metadata(metadata)?;
    }
    let Some(spec) = given(template, "spec") else {
        return Ok(());
    };
    if !spec.is_object() {
        return Err(Problem::spec(format!("{FIELD}.spec is not an object")));
    }
    // Fields of newer Kubernetes versions are passed through.
    PodSpec::deserialize(&without_nulls(spec))
        .map_err(|error| Problem::spec(format!("{FIELD}.spec: {error}")))?;
    match merge::without_key(spec) {
        Some((list, key)) => Err(Problem::spec(format!(
            "{FIELD}.spec.{list}: each element needs {key}, by which it is merged"
        ))),
        None => Ok(()),
    }
}

fn check_metadata(metadata: &Value) -> Result<(), Problem> {
    let field = format!("{FIELD}.metadata");
    only(&field, metadata, &["labels", "annotations"])?;
    let read = |part: &str| match given(metadata, part) {
        None => Ok(BTreeMap::new()),
        Some(map) => BTreeMap::<String, Option<String>>::deserialize(map)
            .map_err(|error| Problem::spec(format!("{field}.{part}: {error}"))),
    };
    let texts = |map: BTreeMap<String, Option<String>>| -> BTreeMap<String, String> {
        map.into_iter()
            .map(|(name, text)| (name, text.unwrap_or_default()))
            .collect()
    };
    let (own_labels, annotations) = (texts(read("labels")?), texts(read("annotations")?));
    names::labels(&format!("{field}.labels"), &own_labels)?;
    names::annotations(&format!("{field}.annotations"), &annotations)?;
    let own = |name: &&String| labels::is_reserved(name);
    match own_labels.keys().chain(annotations.keys()).find(own) {
        Some(name) => Err(Problem::spec(format!(
            "{field}: {name} is reserved for the operator: remove it"
        ))),
        None => Ok(()),
    }
}

/// Returns the field, unless it is null.
fn given<'a>(value: &'a Value, field: &str) -> Option<&'a Value> {
    value.get(field).filter(|value| !value.is_null())
}

fn only(field: &str, value: &Value, known: &[&str]) -> Result<(), Problem> {
    let Some(object) = value.as_object() else {
        return Err(Problem::spec(format!("{field} is not an object")));
    };
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(Problem::spec(format!(
            "{field} has no field {name}; its fields are {}",
            known.join(" and ")
        ))),
        None => Ok(()),
    }
}

/// Removes nulls, which remove a field when merging but fit no type.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                kept.map(|(name, value)| (name.clone(), without_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(values) => Value::Array(values.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}
