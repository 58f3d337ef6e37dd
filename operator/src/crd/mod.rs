//! The custom resources `StreamHouseCluster` and `Topic`, as users write them. Owns their shape, bounds, defaults and rules; `crds/` is
//! generated from here. Everything the API server accepts can be read into these types: what needs more than a schema to be judged stays
//! text here and is judged by `validate`, because one resource that cannot be read would blind the watch for all of them.

// The derive makes a second, hidden struct of each one with rules, and marks it `pub`.
#[allow(unreachable_pub)]
mod agents;
#[allow(unreachable_pub)]
mod cluster;
mod condition;
#[allow(unreachable_pub)]
mod connections;
mod monitoring;
mod reference;
mod scalar;
mod schema;
#[allow(unreachable_pub)]
mod topic;

pub use agents::*;
pub use cluster::*;
pub use condition::{ConditionType, Reason, reasons_markdown};
pub use connections::*;
pub use monitoring::*;
pub use reference::api_markdown;
pub use scalar::Scalar;
pub(crate) use schema::owner_of_setting;
pub use topic::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group.
pub const GROUP: &str = "streamhouse.io";
/// The API version.
pub const VERSION: &str = "v1alpha1";
/// The operator's name as a field manager, as `managed-by` and in events. Never changes: server-side apply knows our fields by it.
pub const MANAGER: &str = "streamhouse-operator";
/// On a cluster with `deletionPolicy: Delete`: set to the cluster's name it confirms that its records may be deleted.
pub const CONFIRM_DELETION: &str = "streamhouse.io/confirm-deletion";
/// The finalizer of both kinds.
pub const FINALIZER: &str = "streamhouse.io/finalizer";

/// Both definitions, in the order in which they are installed.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![StreamHouseCluster::crd(), Topic::crd()]
        .into_iter()
        .map(schema::tidy)
        .collect()
}

/// Both definitions as files: name and text. The folder `crds/` holds them, and so does the chart.
pub fn documents() -> Result<Vec<(String, String)>, serde_yaml_ng::Error> {
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
