//! Resources that this version of the operator cannot decode, for example because a newer custom
//! resource definition has accepted a value that it does not know. Called by both controllers,
//! which go on with all other resources. Such a resource gets a condition and an event. If it is
//! being deleted, the operator's finalizer is removed and all data is kept: its deletion policy is
//! unknown, and a deletion must end.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::{PartialObjectMeta, PartialObjectMetaExt as _, error_boundary::InvalidObject},
};
use serde_json::json;

use crate::{
    conditions::{ConditionSet, ConditionStatus},
    context::OperatorContext,
    crd::{ConditionReason, ConditionType, FINALIZER},
    events::EventPublisher,
};

/// Field manager of the conditions. Not that of the status, whose other fields would be removed.
const CONDITION_MANAGER: &str = "streamhouse-operator-undecodable";
/// Interval of the attempts while a resource cannot be decoded. A change of it is handled at once.
pub(crate) const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// Returns whether the deletion of the resource waits for the operator.
pub(crate) fn is_held(metadata: &ObjectMeta) -> bool {
    let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
    metadata.deletion_timestamp.is_some() && finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// Handles a Topic or User: reports it as not ready, or ends its deletion and keeps its data. An
/// error is also logged.
///
/// # Errors
///
/// Returns the error of the API server.
pub(crate) async fn handle<K>(
    context: &OperatorContext,
    events: &EventPublisher,
    invalid: &InvalidObject,
) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let handled = if is_held(&invalid.metadata) {
        release::<K>(context, events, invalid, ConditionReason::Retained).await
    } else {
        let conditions = [(ConditionType::Ready, ConditionStatus::False)];
        report::<K>(context, events, invalid, &conditions).await
    };
    if let Err(error) = &handled {
        let (kind, name) = (K::kind(&()), &invalid.metadata.name);
        tracing::warn!(%kind, ?name, %error, "cannot handle a resource that cannot be decoded; retrying");
    }
    handled
}

/// Reports the resource in its conditions and, once per change, as an event. Sets the condition
/// types in `conditions` to these statuses.
///
/// # Errors
///
/// Returns the error of the API server.
pub(crate) async fn report<K>(
    context: &OperatorContext,
    events: &EventPublisher,
    invalid: &InvalidObject,
    conditions: &[(ConditionType, ConditionStatus)],
) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api = untyped_api::<K>(context, &invalid.metadata);
    let name = invalid.metadata.name.as_deref().unwrap_or_default();
    let Some(found) = api.get_opt(name).await? else {
        return Ok(());
    };
    if found.metadata.uid != invalid.metadata.uid {
        return Ok(());
    }
    let stored = found.data.pointer("/status/conditions").cloned();
    let stored: Vec<Condition> = stored
        .and_then(|stored| serde_json::from_value(stored).ok())
        .unwrap_or_default();
    let message = format!(
        "{}: the resource is not reconciled; upgrade the operator, or correct the resource",
        invalid.error
    );
    let now = Timestamp::from_millisecond(context.clock.now_ms()).unwrap_or_default();
    let now = Timestamp::from_second(now.as_second()).unwrap_or_default();
    let mut set = ConditionSet::from_stored(&stored, found.metadata.generation, now);
    for (kind, status) in conditions {
        set.set(*kind, *status, ConditionReason::Undecodable, message.as_str());
    }
    let ours = |condition: &Condition| {
        conditions
            .iter()
            .any(|(kind, _)| kind.as_str() == condition.type_)
    };
    let wanted: Vec<Condition> = set.into_sorted_vec().into_iter().filter(ours).collect();
    if wanted.iter().all(|condition| stored.contains(condition)) {
        return Ok(());
    }
    let patch = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "metadata": { "uid": found.metadata.uid },
        "status": { "conditions": wanted },
    });
    let how = PatchParams::apply(CONDITION_MANAGER).force();
    api.patch_status(name, &how, &Patch::Apply(&patch)).await?;
    let kind = K::kind(&());
    context.metrics.api_writes.with_label_values(&[&*kind]).inc();
    tracing::warn!(%kind, namespace = ?found.metadata.namespace, name, error = invalid.error, "cannot decode a resource");
    events
        .publish_warning(&reference::<K>(invalid), ConditionReason::Undecodable, message)
        .await;
    Ok(())
}

/// Removes the operator's finalizer and keeps all others. Publishes `reason` as an event.
///
/// # Errors
///
/// Returns the error of the API server.
pub(crate) async fn release<K>(
    context: &OperatorContext,
    events: &EventPublisher,
    invalid: &InvalidObject,
    reason: ConditionReason,
) -> kube::Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api = untyped_api::<K>(context, &invalid.metadata);
    let name = invalid.metadata.name.as_deref().unwrap_or_default();
    let found = api.get_opt(name).await?;
    let Some(found) = found.filter(|found| found.metadata.uid == invalid.metadata.uid) else {
        return Ok(());
    };
    let mut finalizers = found.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    // The resource version makes this a compare-and-swap, so that no other finalizer is lost.
    let patch =
        json!({ "metadata": { "finalizers": finalizers, "resourceVersion": found.resource_version() } });
    match api
        .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
    {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        Err(error) => return Err(error),
    }
    let kind = K::kind(&());
    context.metrics.api_writes.with_label_values(&[&*kind]).inc();
    let message = format!(
        "the resource was deleted, but could not be read ({}): its data is kept",
        invalid.error
    );
    tracing::warn!(%kind, namespace = ?found.metadata.namespace, name, message);
    events
        .publish_warning(&reference::<K>(invalid), reason, message)
        .await;
    Ok(())
}

fn untyped_api<K>(context: &OperatorContext, metadata: &ObjectMeta) -> Api<DynamicObject>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    Api::namespaced_with(context.client.clone(), namespace, &ApiResource::erase::<K>(&()))
}

fn reference<K>(invalid: &InvalidObject) -> PartialObjectMeta<K>
where
    K: Resource<DynamicType = ()>,
{
    invalid.metadata.clone().into_request_partial()
}
