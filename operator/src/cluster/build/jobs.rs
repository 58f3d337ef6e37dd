//! Builds the Jobs: the check of the bucket before agents start, and the deletion of all data of a
//! cluster. Both run the agent's program, since only that opens the object store.

use serde_json::json;

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
        "template": pod::job_template(desired, inputs, COMPONENT, &["check", "object-store"]),
        "backoffLimit": 3,
        "activeDeadlineSeconds": 120,
    });
    let of_store = |(name, _): &(&String, &String)| name.contains("_S3_") || name.ends_with("_OBJECT_STORE");
    let store: Vec<_> = desired.variables.iter().filter(of_store).collect();
    let depends_on = json!([spec, store, inputs.secret_hash]).to_string();
    new_job(desired, COMPONENT, &depends_on).build(json!({ "spec": spec }))
}

/// Component label of the purge.
pub(in crate::cluster) const PURGE_COMPONENT: &str = "purge";

/// Builds the Job that deletes all objects and the metadata. It can be interrupted and restarted at
/// any point, also by another Job: its name contains a hash of its template, which is immutable, so
/// that a corrected image or setting takes effect. The garbage collector must not delete it during
/// a foreground deletion of the cluster, so it has no owner.
pub(super) fn purge_job(
    desired: &DesiredCluster,
    inputs: &BuildInputs,
    cluster_id: Option<&str>,
) -> ChildObject {
    let mut arguments = vec!["purge", "--yes"];
    // The Secret may name other stores by the time a pod starts.
    arguments.extend(cluster_id.into_iter().flat_map(|id| ["--cluster-id", id]));
    let spec = json!({
        "template": pod::job_template(desired, inputs, PURGE_COMPONENT, &arguments),
        "backoffLimit": 20,
    });
    let depends_on = json!([spec, desired.variables]).to_string();
    new_job(desired, PURGE_COMPONENT, &depends_on)
        .without_owner()
        .build(json!({ "spec": spec }))
}

/// Starts a Job whose name contains a hash of what it depends on.
fn new_job<'a>(desired: &'a DesiredCluster, component: &str, depends_on: &str) -> ObjectBuilder<'a> {
    let hash: String = short_hash(depends_on).chars().take(10).collect();
    let name = format!("{}-{component}-{hash}", desired.name);
    ObjectBuilder::new(desired, ManagedKind::Job, name).component(component)
}
