//! Builds the Jobs: the check of the bucket before agents start, and the deletion of all data of a
//! cluster. Both run the agent's program, since only that opens the object store.

use serde_json::{Value, json};

use super::{
    ChildObject,
    object::{ObjectBuilder, short_hash},
    pod,
};
use crate::cluster::{children::ManagedKind, desired::DesiredCluster, inputs::BuildInputs};

/// Builds the Job that checks whether objects can be written, read and deleted in the bucket, with
/// the settings, rights and files of the agents. Its name contains a hash of everything that it
/// depends on, so that another bucket or key is checked again. A failed Job stays until it is
/// deleted.
pub(super) fn preflight_job(desired: &DesiredCluster, inputs: &BuildInputs) -> ChildObject {
    const COMPONENT: &str = "preflight";
    let spec = json!({
        "template": pod::job_template(desired, COMPONENT, &["check", "object-store"]),
        "backoffLimit": 3,
        "activeDeadlineSeconds": 120,
    });
    let of_store = |(name, _): &(&String, &String)| name.contains("_S3_") || name.ends_with("_OBJECT_STORE");
    let store: Vec<_> = desired.variables.iter().filter(of_store).collect();
    let depends_on = json!([spec, store, inputs.secret_hash]).to_string();
    let hash: String = short_hash(&depends_on).chars().take(10).collect();
    new_job(
        desired,
        COMPONENT,
        format!("{}-preflight-{hash}", desired.name),
        spec,
    )
}

/// Builds the Job that deletes all objects and the metadata. It can be interrupted and restarted at
/// any point.
pub(super) fn purge_job(desired: &DesiredCluster) -> ChildObject {
    const COMPONENT: &str = "purge";
    let spec = json!({
        "template": pod::job_template(desired, COMPONENT, &["purge", "--yes"]),
        "backoffLimit": 20,
    });
    new_job(desired, COMPONENT, format!("{}-purge", desired.name), spec)
}

fn new_job(desired: &DesiredCluster, component: &str, name: String, spec: Value) -> ChildObject {
    ObjectBuilder::new(desired, ManagedKind::Job, name)
        .component(component)
        .build(json!({ "spec": spec }))
}
