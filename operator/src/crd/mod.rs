//! The custom resources `StreamHouseCluster`, `Topic` and `User`, as users write them. Owns their
//! schema, bounds, defaults and validation rules; `crds/` is generated from this module.
//!
//! Everything that the API server accepts can be deserialized into these types. A value that a
//! schema cannot judge stays a string here and is checked by `validate`, because one resource that
//! cannot be deserialized would break the watch of all resources of its kind.

// The derive generates a second, hidden struct for each struct with rules and marks it `pub`.
mod access;
#[allow(unreachable_pub)]
mod additional_listener;
#[allow(unreachable_pub)]
mod agents;
#[allow(unreachable_pub)]
mod cluster;
mod condition;
#[allow(unreachable_pub)]
mod connections;
#[allow(unreachable_pub)]
mod listener_tls;
#[allow(unreachable_pub)]
mod listeners;
mod monitoring;
mod reference;
mod scalar;
mod schema;
#[allow(unreachable_pub)]
mod topic;
#[allow(unreachable_pub)]
mod user;

pub use access::*;
pub use additional_listener::*;
pub use agents::*;
pub use cluster::*;
pub use condition::{ConditionReason, ConditionType, reasons_markdown};
pub use connections::*;
pub use listener_tls::*;
pub use listeners::*;
pub use monitoring::*;
pub use reference::api_markdown;
pub use scalar::ScalarValue;
pub(crate) use schema::source_of_setting;
pub use topic::*;
pub use user::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// API group of the custom resources.
pub const API_GROUP: &str = "streamhouse.io";
/// API version of the custom resources.
pub const API_VERSION: &str = "v1alpha1";
/// Field manager, `managed-by` label and event source of the operator. Must never change:
/// server-side apply identifies the operator's fields by it.
pub const FIELD_MANAGER: &str = "streamhouse-operator";
/// Annotation on a cluster with `deletionPolicy: Delete`. Set to the cluster's name, it confirms
/// that the records may be deleted.
pub const CONFIRM_DELETION_ANNOTATION: &str = "streamhouse.io/confirm-deletion";
/// Annotation on a cluster: the metadata schema is not migrated beyond this version, so that the
/// agents can go back to an older release until it is removed.
pub const MAX_SCHEMA_VERSION_ANNOTATION: &str = "streamhouse.io/max-schema-version";
/// Finalizer of all kinds.
pub const FINALIZER: &str = "streamhouse.io/finalizer";

/// Returns all custom resource definitions in installation order.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![StreamHouseCluster::crd(), Topic::crd(), User::crd()]
        .into_iter()
        .map(schema::prune_definition)
        .collect()
}

/// Returns all definitions as file name and YAML text, as stored in `crds/` and in the chart.
///
/// # Errors
///
/// Returns an error if a definition cannot be serialized.
pub fn definition_documents() -> Result<Vec<(String, String)>, serde_yaml_ng::Error> {
    let document = |definition: CustomResourceDefinition| {
        let file = format!("{}_{}.yaml", definition.spec.group, definition.spec.names.plural);
        let text = serde_yaml_ng::to_string(&definition)?;
        Ok((
            file,
            format!("# Made from the code by hack/update-docs.sh; do not edit.\n{text}"),
        ))
    };
    definitions().into_iter().map(document).collect()
}
