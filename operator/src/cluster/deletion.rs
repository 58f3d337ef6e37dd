//! Deletion of a cluster. Children in its namespace are deleted by Kubernetes through their owner
//! references: after the cluster (`Background`), before it (`Foreground`) or not at all (`Orphan`).
//! This module deletes the rest: children in other namespaces and, with `deletionPolicy: Delete`
//! and the confirming annotation, metadata and objects. Called by the reconciliation of a cluster
//! that is being deleted. Never blocks the deletion of a namespace: data that can no longer be
//! deleted (namespace terminating, confirmation missing, agents that keep running) is kept, and an
//! event reports it.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    apply,
    children::ManagedKind,
    desired::DesiredCluster,
    problem::ClusterProblem,
    purge::{self, PurgeProgress},
};
use crate::{
    context::OperatorContext,
    crd::{
        CONFIRM_DELETION_ANNOTATION, ConditionReason, ConditionType, DeletionPolicy, FINALIZER,
        StreamHouseCluster,
    },
    events::EventPublisher,
    metadata_stores::ClusterKey,
};

/// Finalizer that Kubernetes sets for a deletion with the propagation policy `Orphan`.
const ORPHAN_FINALIZER: &str = "orphan";
/// Why the data of a cluster in a namespace that is being deleted is kept.
const NAMESPACE_ENDING: &str = "the namespace is being deleted, so the Job that deletes them cannot run";
/// Interval of the checks while agents stop or the purge runs.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Returns whether the cluster needs the operator's finalizer.
pub(super) fn needs_finalizer(cluster: &StreamHouseCluster, elsewhere: bool) -> bool {
    elsewhere || cluster.spec.deletion_policy == DeletionPolicy::Delete
}

/// Adds or removes the operator's finalizer and keeps all others.
pub(super) async fn set_finalizer(
    context: &OperatorContext,
    cluster: &StreamHouseCluster,
    wanted: bool,
) -> kube::Result<()> {
    let mut finalizers = cluster.finalizers().to_vec();
    let present = finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    if present == wanted {
        return Ok(());
    }
    if wanted {
        finalizers.push(FINALIZER.to_owned());
    } else {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    // The resource version makes this a compare-and-swap, so that no other finalizer is lost.
    let patch =
        json!({ "metadata": { "finalizers": finalizers, "resourceVersion": cluster.resource_version() } });
    let api: Api<StreamHouseCluster> =
        Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    match api
        .patch(
            &cluster.name_any(),
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Progress of a deletion.
pub(super) enum DeletionProgress {
    /// The finalizer has been removed.
    Done,
    /// The deletion waits for what these problems say, and is checked again after the duration.
    Pending(Vec<ClusterProblem>, Duration),
}

/// Executes one step of the deletion.
pub(super) async fn advance_deletion(
    context: &OperatorContext,
    events: &EventPublisher,
    cluster: &StreamHouseCluster,
    key: &ClusterKey,
    desired: Option<&DesiredCluster>,
) -> kube::Result<DeletionProgress> {
    let ours = |finalizer: &String| finalizer == FINALIZER;
    if !cluster.finalizers().iter().any(ours) {
        return Ok(DeletionProgress::Done);
    }
    let orphans = orphans_children(context, cluster, key).await?;
    let reason = if orphans {
        Some("the propagation policy Orphan keeps the agents running".to_owned())
    } else {
        retention_reason(context, cluster, key).await?
    };
    let kept = match (reason, desired) {
        (Some(why), _) => Some(why),
        (None, None) => Some("the spec is invalid, so the data cannot be located".to_owned()),
        (None, Some(desired)) => {
            let status = cluster.status.as_ref();
            let cluster_id = status.and_then(|status| status.cluster_id.as_deref());
            match purge::advance_purge(context, key, desired, cluster_id).await? {
                PurgeProgress::Done => None,
                PurgeProgress::NamespaceEnding => Some(NAMESPACE_ENDING.to_owned()),
                PurgeProgress::Pending(what) => {
                    let problems = vec![pending_problem(&what)];
                    return Ok(DeletionProgress::Pending(problems, POLL_INTERVAL));
                }
                PurgeProgress::Refused(problem) => {
                    let problems = vec![pending_problem(&problem.message), problem];
                    return Ok(DeletionProgress::Pending(problems, POLL_INTERVAL));
                }
            }
        }
    };
    let uid = cluster.uid().unwrap_or_default();
    purge::delete_purge_objects(context, key, &uid).await?;
    let mut forbidden = BTreeSet::new();
    if !orphans {
        forbidden = apply::delete_children_elsewhere(context, key, &uid).await?;
    }
    set_finalizer(context, cluster, false).await?;
    for namespace in super::other_namespaces(cluster, key).filter(|name| forbidden.contains(*name)) {
        let message = format!(
            "the operator may not delete the cluster's objects in namespace {namespace}: delete them by hand"
        );
        events
            .publish_warning(cluster, ConditionReason::NamespaceForbidden, message)
            .await;
    }
    let (reason, message) = match kept {
        Some(why) => (
            ConditionReason::DataRetained,
            format!("metadata and objects are kept: {why}"),
        ),
        None => (
            ConditionReason::DataDeleted,
            "metadata and objects were deleted".to_owned(),
        ),
    };
    events.publish_normal(cluster, reason, message).await;
    Ok(DeletionProgress::Done)
}

/// Returns whether the cluster is deleted with the propagation policy `Orphan`: Kubernetes removes
/// the owner references of its children, then its own finalizer.
async fn orphans_children(
    context: &OperatorContext,
    cluster: &StreamHouseCluster,
    key: &ClusterKey,
) -> kube::Result<bool> {
    if cluster
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == ORPHAN_FINALIZER)
    {
        return Ok(true);
    }
    let deployments = apply::api_for(context, ManagedKind::Deployment, &key.namespace);
    let found = deployments.get_opt(&format!("{}-agent", key.name)).await?;
    let uid = cluster.uid().unwrap_or_default();
    Ok(found.is_some_and(|deployment| {
        apply::is_managed_for(&deployment, key)
            && !deployment.owner_references().iter().any(|owner| owner.uid == uid)
    }))
}

/// Returns why the data is kept; `None` if it is to be deleted.
async fn retention_reason(
    context: &OperatorContext,
    cluster: &StreamHouseCluster,
    key: &ClusterKey,
) -> kube::Result<Option<String>> {
    if cluster.spec.deletion_policy == DeletionPolicy::Retain {
        return Ok(Some("spec.deletionPolicy is Retain".to_owned()));
    }
    if cluster.annotations().get(CONFIRM_DELETION_ANNOTATION) != Some(&key.name) {
        return Ok(Some(format!(
            "the annotation {CONFIRM_DELETION_ANNOTATION}: {} was not set",
            key.name
        )));
    }
    let namespaces: Api<Namespace> = Api::all(context.client.clone());
    let ending = match namespaces.get_opt(&key.namespace).await {
        Ok(namespace) => namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()),
        // Without the right to read it: the API server refuses the Job if the namespace is ending.
        Err(kube::Error::Api(status)) if status.code == 403 => false,
        Err(error) => return Err(error),
    };
    Ok(ending.then(|| NAMESPACE_ENDING.to_owned()))
}

/// Returns the problem that the status shows meanwhile.
fn pending_problem(what: &str) -> ClusterProblem {
    ClusterProblem {
        condition: ConditionType::Ready,
        reason: ConditionReason::DeletePending,
        message: what.to_owned(),
    }
}
