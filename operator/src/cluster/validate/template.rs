//! Validates `spec.agents.podTemplate`: it must be part of a pod template, its lists must
//! be mergeable, and it must not change the labels that select the agents' pods.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use serde::Deserialize;
use serde_json::Value;

use crate::cluster::{labels, merge, names, problem::ClusterProblem};

const POD_TEMPLATE_FIELD: &str = "spec.agents.podTemplate";

/// Rejects what cannot be merged or would break the selectors.
pub(super) fn check_template(template: &Value) -> Result<(), ClusterProblem> {
    check_known_fields(POD_TEMPLATE_FIELD, template, &["metadata", "spec"])?;
    if let Some(metadata) = non_null_field(template, "metadata") {
        check_metadata(metadata)?;
    }
    let Some(spec) = non_null_field(template, "spec") else {
        return Ok(());
    };
    if !spec.is_object() {
        return Err(ClusterProblem::invalid_spec(format!(
            "{POD_TEMPLATE_FIELD}.spec is not an object"
        )));
    }
    // Fields of newer Kubernetes versions are passed through.
    PodSpec::deserialize(&merge::strip_nulls(spec))
        .map_err(|error| ClusterProblem::invalid_spec(format!("{POD_TEMPLATE_FIELD}.spec: {error}")))?;
    match merge::find_missing_key(spec) {
        Some((list, key)) => Err(ClusterProblem::invalid_spec(format!(
            "{POD_TEMPLATE_FIELD}.spec.{list}: each element needs {key}, by which it is merged"
        ))),
        None => Ok(()),
    }
}

fn check_metadata(metadata: &Value) -> Result<(), ClusterProblem> {
    let field = format!("{POD_TEMPLATE_FIELD}.metadata");
    check_known_fields(&field, metadata, &["labels", "annotations"])?;
    let read = |part: &str| match non_null_field(metadata, part) {
        None => Ok(BTreeMap::new()),
        Some(map) => BTreeMap::<String, Option<String>>::deserialize(map)
            .map_err(|error| ClusterProblem::invalid_spec(format!("{field}.{part}: {error}"))),
    };
    let texts = |map: BTreeMap<String, Option<String>>| -> BTreeMap<String, String> {
        map.into_iter()
            .map(|(name, text)| (name, text.unwrap_or_default()))
            .collect()
    };
    let (own_labels, annotations) = (texts(read("labels")?), texts(read("annotations")?));
    names::check_labels(&format!("{field}.labels"), &own_labels)?;
    names::check_annotations(&format!("{field}.annotations"), &annotations)?;
    let own = |name: &&String| labels::is_reserved(name);
    match own_labels.keys().chain(annotations.keys()).find(own) {
        Some(name) => Err(ClusterProblem::invalid_spec(format!(
            "{field}: {name} is reserved for the operator: remove it"
        ))),
        None => Ok(()),
    }
}

/// Returns the field, unless it is null.
fn non_null_field<'a>(value: &'a Value, field: &str) -> Option<&'a Value> {
    value.get(field).filter(|value| !value.is_null())
}

fn check_known_fields(field: &str, value: &Value, known: &[&str]) -> Result<(), ClusterProblem> {
    let Some(object) = value.as_object() else {
        return Err(ClusterProblem::invalid_spec(format!("{field} is not an object")));
    };
    match object.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(ClusterProblem::invalid_spec(format!(
            "{field} has no field {name}; its fields are {}",
            known.join(" and ")
        ))),
        None => Ok(()),
    }
}
