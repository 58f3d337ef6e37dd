//! Applies the children of a cluster with server-side apply and deletes those that are no longer
//! desired. Called by the reconciliation. Guarantees: an object that is not managed for this
//! cluster is never changed; fields of other field managers are kept; a field that is removed from
//! the spec is removed from the child.

use std::collections::BTreeSet;

use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy},
};

use super::{
    build::ChildObject,
    children::{
        ANNOTATION_OWNER_UID, ANNOTATION_RENDERED_HASH, LABEL_CLUSTER, LABEL_CLUSTER_NAMESPACE,
        LABEL_LISTENER, ManagedKind,
    },
    labels,
    problem::ClusterProblem,
    replicas,
};
use crate::{
    context::OperatorContext,
    crd::{ConditionReason, ConditionType, FIELD_MANAGER},
    metadata_stores::ClusterKey,
};

/// Result of applying the children.
#[derive(Debug, Default)]
pub(super) struct AppliedChildren {
    /// Children that could not be applied, with the reason.
    pub(super) problems: Vec<ClusterProblem>,
    /// Children that were changed or deleted by another client, as `ManifestKind name`.
    pub(super) drift: Vec<String>,
    /// The Deployment as stored.
    pub(super) deployment: Option<DynamicObject>,
    /// The Job that checks the bucket, as stored.
    pub(super) preflight: Option<DynamicObject>,
}

/// Returns the API of a kind in a namespace.
pub(super) fn api_for(context: &OperatorContext, kind: ManagedKind, namespace: &str) -> Api<DynamicObject> {
    let resource = kind.served_resource(&context.apis);
    Api::namespaced_with(context.client.clone(), namespace, &resource)
}

/// Returns whether the object is managed for this cluster, or for an earlier one with the same name
/// and namespace.
pub(super) fn is_managed_for(object: &DynamicObject, key: &ClusterKey) -> bool {
    let labels = object.labels();
    let is = |label: &str, value: &str| labels.get(label).is_some_and(|found| found == value);
    is("app.kubernetes.io/managed-by", FIELD_MANAGER)
        && is(LABEL_CLUSTER, &key.name)
        && is(LABEL_CLUSTER_NAMESPACE, &key.namespace)
}

/// Applies all children. A child that cannot be applied is reported and does not stop the others.
///
/// # Errors
///
/// Returns errors of the API server that may be temporary.
pub(super) async fn apply_children(
    context: &OperatorContext,
    key: &ClusterKey,
    children: &[ChildObject],
    known_generation: bool,
) -> kube::Result<AppliedChildren> {
    let mut applied = AppliedChildren::default();
    for child in children {
        match apply_child(context, key, child).await {
            Ok(ChildOutcome::Applied { object, drifted }) => {
                if known_generation && drifted {
                    applied
                        .drift
                        .push(format!("{} {}", child.kind, object.name_any()));
                    context
                        .metrics
                        .drift_corrected
                        .with_label_values(&[child.kind.as_str()])
                        .inc();
                }
                match child.kind {
                    ManagedKind::Deployment => applied.deployment = Some(*object),
                    ManagedKind::Job => applied.preflight = Some(*object),
                    _ => {}
                }
            }
            Ok(ChildOutcome::Conflict) => applied.problems.push(object_conflict(child)),
            Ok(ChildOutcome::Deleting) => applied.problems.push(ClusterProblem {
                condition: ConditionType::Progressing,
                reason: ConditionReason::Progressing,
                message: format!(
                    "waiting for the deletion of the previous {} {}",
                    child.kind,
                    child.name()
                ),
            }),
            Err(kube::Error::Api(status)) if status.code != 429 && status.code < 500 => {
                applied.problems.push(apply_refused(child, &status.message));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(applied)
}

pub(super) fn object_conflict(child: &ChildObject) -> ClusterProblem {
    let name = child.name();
    ClusterProblem {
        condition: affected_condition(child),
        reason: ConditionReason::ObjectConflict,
        message: format!(
            "{} {name} exists and is not managed for this cluster: rename or delete it",
            child.kind
        ),
    }
}

pub(super) fn apply_refused(child: &ChildObject, why: &str) -> ClusterProblem {
    ClusterProblem {
        condition: affected_condition(child),
        reason: ConditionReason::ApplyFailed,
        message: format!("{} {}: {why}", child.kind, child.name()),
    }
}

/// Returns the condition that is affected by a child.
fn affected_condition(child: &ChildObject) -> ConditionType {
    match child.kind {
        _ if child.object.labels().contains_key(LABEL_LISTENER) => ConditionType::ListenersAvailable,
        ManagedKind::ServiceMonitor | ManagedKind::PrometheusRule => ConditionType::MonitoringAvailable,
        _ => ConditionType::Ready,
    }
}

/// Result of applying one child.
enum ChildOutcome {
    Applied {
        object: Box<DynamicObject>,
        /// See [`has_drifted`].
        drifted: bool,
    },
    Conflict,
    Deleting,
}

async fn apply_child(
    context: &OperatorContext,
    key: &ClusterKey,
    child: &ChildObject,
) -> kube::Result<ChildOutcome> {
    let name = child.name();
    let api = api_for(context, child.kind, child.namespace());
    let before = api.get_opt(name).await?;
    if let Some(before) = &before {
        if !is_managed_for(before, key) {
            return Ok(ChildOutcome::Conflict);
        }
        if before.metadata.deletion_timestamp.is_some() {
            return Ok(ChildOutcome::Deleting);
        }
        replicas::keep_replicas(&api, child, before).await?;
    }
    let object = api
        .patch(
            name,
            &PatchParams::apply(FIELD_MANAGER).force(),
            &Patch::Apply(&child.object),
        )
        .await?;
    let changed = before
        .as_ref()
        .is_none_or(|before| before.resource_version() != object.resource_version());
    if changed {
        context
            .metrics
            .api_writes
            .with_label_values(&[child.kind.as_str()])
            .inc();
    }
    Ok(ChildOutcome::Applied {
        drifted: has_drifted(child, before.as_ref(), &object),
        object: Box::new(object),
    })
}

/// Returns whether another client has changed or deleted the child while the spec was unchanged.
fn has_drifted(child: &ChildObject, before: Option<&DynamicObject>, after: &DynamicObject) -> bool {
    let Some(before) = before else {
        return true;
    };
    let hash = |object: &DynamicObject| object.annotations().get(ANNOTATION_RENDERED_HASH).cloned();
    hash(before) == hash(&child.object) && before.resource_version() != after.resource_version()
}

/// Deletes children of this cluster that are no longer desired.
pub(super) async fn delete_unwanted_children(
    context: &OperatorContext,
    key: &ClusterKey,
    uid: &str,
    wanted: &[ChildObject],
    kept: &[ManagedKind],
) -> kube::Result<()> {
    let wanted: BTreeSet<(ManagedKind, String, String)> = wanted
        .iter()
        .map(|child| (child.kind, child.namespace().to_owned(), child.name().to_owned()))
        .collect();
    for kind in ManagedKind::ALL
        .iter()
        .copied()
        .filter(|kind| !kept.contains(kind))
    {
        for object in list_children(context, kind, key, uid).await? {
            let place = (kind, object.namespace().unwrap_or_default(), object.name_any());
            if !wanted.contains(&place) {
                delete_object(context, kind, &object).await?;
            }
        }
    }
    Ok(())
}

/// Deletes children in other namespaces, which owner references do not reach.
pub(super) async fn delete_children_elsewhere(
    context: &OperatorContext,
    key: &ClusterKey,
    uid: &str,
) -> kube::Result<()> {
    for kind in ManagedKind::ALL
        .iter()
        .copied()
        .filter(|kind| kind.can_be_in_other_namespace())
    {
        for object in list_children(context, kind, key, uid).await? {
            if object.namespace().as_deref() != Some(key.namespace.as_str()) {
                delete_object(context, kind, &object).await?;
            }
        }
    }
    Ok(())
}

/// Lists the objects of a kind that belong to this cluster. Labels alone are not enough: a user may
/// have copied them.
pub(super) async fn list_children(
    context: &OperatorContext,
    kind: ManagedKind,
    key: &ClusterKey,
    uid: &str,
) -> kube::Result<Vec<DynamicObject>> {
    if kind
        .optional_api()
        .is_some_and(|optional| !context.apis.has(optional))
    {
        return Ok(Vec::new());
    }
    let handles = if kind.can_be_in_other_namespace() {
        let resource = kind.served_resource(&context.apis);
        context.scope.dynamic_apis(&context.client, &resource)
    } else {
        vec![api_for(context, kind, &key.namespace)]
    };
    let selector = labels::children_selector(&key.namespace, &key.name);
    let mut found = Vec::new();
    for handle in handles {
        let objects = handle.list(&ListParams::default().labels(&selector)).await?.items;
        found.extend(objects.into_iter().filter(|object| {
            if object.namespace().as_deref() == Some(key.namespace.as_str()) {
                object.owner_references().iter().any(|owner| owner.uid == uid)
            } else {
                object
                    .annotations()
                    .get(ANNOTATION_OWNER_UID)
                    .is_some_and(|owner| owner == uid)
            }
        }));
    }
    Ok(found)
}

/// Deletes exactly this object, not a successor with the same name.
pub(super) async fn delete_object(
    context: &OperatorContext,
    kind: ManagedKind,
    object: &DynamicObject,
) -> kube::Result<()> {
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let namespace = object.namespace().unwrap_or_default();
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions {
            uid: object.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api_for(context, kind, &namespace)
        .delete(&object.name_any(), &parameters)
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}
