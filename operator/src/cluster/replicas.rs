//! Sets the number of agents apart from the rest of their Deployment, and transfers it to the
//! autoscaler. With server-side apply, a field that its only manager no longer specifies is
//! removed, and a Deployment without `replicas` has one: five agents would become one until the
//! autoscaler reacts. So before the operator drops the field, another field manager takes it over
//! with its present value; the autoscaler then changes it freely. Called before a Deployment is
//! applied, and while its rollout is held.

use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::json;

use super::{build::ChildObject, children::ManagedKind};
use crate::crd::FIELD_MANAGER;

/// Field manager that holds the number until the autoscaler changes it.
const REPLICAS_MANAGER: &str = "streamhouse-operator-replicas";

/// Keeps the stored number of replicas if `child` no longer specifies one and only the operator
/// did. Zero becomes one: the cluster was stopped, and an autoscaler does nothing for a Deployment
/// with no replicas.
pub(super) async fn keep_replicas(
    api: &Api<DynamicObject>,
    child: &ChildObject,
    before: &DynamicObject,
) -> kube::Result<()> {
    if child.kind != ManagedKind::Deployment || child.object.data.pointer("/spec/replicas").is_some() {
        return Ok(());
    }
    let replicas = before
        .data
        .pointer("/spec/replicas")
        .and_then(serde_json::Value::as_i64);
    match replicas {
        Some(0) => set_replicas(api, child.name(), 1).await,
        Some(replicas) if owns_replicas(before) => set_replicas(api, child.name(), replicas).await,
        _ => Ok(()),
    }
}

/// Sets the number of replicas of an existing Deployment, and nothing else.
pub(super) async fn set_replicas(api: &Api<DynamicObject>, name: &str, replicas: i64) -> kube::Result<()> {
    let number = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name }, "spec": { "replicas": replicas },
    });
    let parameters = PatchParams::apply(REPLICAS_MANAGER).force();
    api.patch(name, &parameters, &Patch::Apply(&number)).await?;
    Ok(())
}

/// Returns whether the operator manages the number of replicas.
fn owns_replicas(deployment: &DynamicObject) -> bool {
    let managers = deployment.metadata.managed_fields.iter().flatten();
    let mut ours = managers.filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER));
    ours.any(|entry| {
        let fields = entry.fields_v1.as_ref();
        fields.is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    })
}
