//! Hands the number of agents over to the autoscaler. With server-side apply a field that its only owner leaves out is gone, and a
//! Deployment without a number has one replica: five agents would become one until the autoscaler notices. So before the operator lets
//! go of the number, a manager of another name holds it as it is; the autoscaler takes it from that one without asking. Called before a
//! Deployment is applied.

use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::json;

use super::{build::Child, children::ManagedKind};
use crate::crd::MANAGER;

/// Holds the number while nobody else does.
const KEEPER: &str = "streamhouse-operator-replicas";

/// Keeps the number of replicas that the API server has, if `child` no longer says one and the operator alone did.
pub(super) async fn keep(
    api: &Api<DynamicObject>,
    child: &Child,
    before: &DynamicObject,
) -> kube::Result<()> {
    if child.kind != ManagedKind::Deployment || child.object.data.pointer("/spec/replicas").is_some() {
        return Ok(());
    }
    let replicas = before
        .data
        .pointer("/spec/replicas")
        .and_then(serde_json::Value::as_i64);
    // A stopped cluster has none, and an autoscaler never begins with none: the API server's own one is right then.
    let Some(replicas) = replicas.filter(|replicas| *replicas > 0 && is_ours(before)) else {
        return Ok(());
    };
    let number = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": child.name() }, "spec": { "replicas": replicas },
    });
    let parameters = PatchParams::apply(KEEPER).force();
    api.patch(child.name(), &parameters, &Patch::Apply(&number))
        .await?;
    Ok(())
}

/// Whether the operator holds the number of replicas.
fn is_ours(deployment: &DynamicObject) -> bool {
    let managers = deployment.metadata.managed_fields.iter().flatten();
    let mut ours = managers.filter(|entry| entry.manager.as_deref() == Some(MANAGER));
    ours.any(|entry| {
        let fields = entry.fields_v1.as_ref();
        fields.is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
    })
}
