//! Transfers the number of agents to the autoscaler. With server-side apply, a field that its only
//! manager no longer specifies is removed, and a Deployment without `replicas` has one: five agents
//! would become one until the autoscaler reacts. So before the operator drops the field, another
//! field manager takes it over with its present value; the autoscaler then changes it freely.
//! Called before a Deployment is applied.

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
/// did.
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
    // A stopped cluster has zero replicas, with which an autoscaler does nothing: the API server's
    // default of one is right then.
    let Some(replicas) = replicas.filter(|replicas| *replicas > 0 && owns_replicas(before)) else {
        return Ok(());
    };
    let number = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": child.name() }, "spec": { "replicas": replicas },
    });
    let parameters = PatchParams::apply(REPLICAS_MANAGER).force();
    api.patch(child.name(), &parameters, &Patch::Apply(&number))
        .await?;
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
