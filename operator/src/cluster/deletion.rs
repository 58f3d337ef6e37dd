//! Deletion of a cluster. Children in its namespace are deleted by Kubernetes through their owner
//! references. This module deletes the rest: children in other namespaces and, with
//! `deletionPolicy: Delete` and the confirming annotation, metadata and objects. Called by the
//! reconciliation of a cluster that is being deleted. Never blocks the deletion of a namespace:
//! data that can no longer be deleted (namespace terminating, confirmation missing) is kept, and an
//! event reports it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{
    apply, build,
    children::ManagedKind,
    desired::DesiredCluster,
    labels,
    preflight::{self, BucketCheck},
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
    /// The deletion waits for this and is checked again after the duration.
    Pending(String, Duration),
}

/// Executes one step of the deletion.
pub(super) async fn advance_deletion(
    context: &OperatorContext,
    events: &EventPublisher,
    cluster: &StreamHouseCluster,
    key: &ClusterKey,
    desired: Option<&DesiredCluster>,
) -> kube::Result<DeletionProgress> {
    if !cluster
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
    {
        return Ok(DeletionProgress::Done);
    }
    let kept = match retention_reason(context, cluster, key).await? {
        Some(why) => Some(why),
        None => match desired {
            Some(desired) => match purge_data(context, key, desired).await? {
                PurgeProgress::Done => None,
                PurgeProgress::Pending(what) => return Ok(DeletionProgress::Pending(what, POLL_INTERVAL)),
            },
            None => Some("the spec is invalid, so the data cannot be located".to_owned()),
        },
    };
    let forbidden =
        apply::delete_children_elsewhere(context, key, &cluster.uid().unwrap_or_default()).await?;
    set_finalizer(context, cluster, false).await?;
    for namespace in super::other_namespaces(cluster, key).filter(|name| forbidden.contains(*name)) {
        let message = format!(
            "the operator may not delete the cluster's objects in namespace {namespace}: delete them by hand"
        );
        events
            .publish_warning(cluster, ConditionReason::NamespaceForbidden, message)
            .await;
    }
    match kept {
        Some(why) => {
            events
                .publish_normal(
                    cluster,
                    ConditionReason::DataRetained,
                    format!("metadata and objects are kept: {why}"),
                )
                .await
        }
        None => {
            events
                .publish_normal(
                    cluster,
                    ConditionReason::DataDeleted,
                    "metadata and objects were deleted",
                )
                .await
        }
    }
    Ok(DeletionProgress::Done)
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
    let namespace = namespaces.get_opt(&key.namespace).await?;
    let ending = namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some());
    Ok(ending.then(|| "the namespace is being deleted, so the Job that deletes them cannot run".to_owned()))
}

enum PurgeProgress {
    Done,
    Pending(String),
}

/// Stops the agents, then deletes objects and metadata with a Job.
async fn purge_data(
    context: &OperatorContext,
    key: &ClusterKey,
    desired: &DesiredCluster,
) -> kube::Result<PurgeProgress> {
    let deployments = apply::api_for(context, ManagedKind::Deployment, &key.namespace);
    if let Some(deployment) = deployments.get_opt(&desired.agent_name()).await? {
        apply::delete_object(context, ManagedKind::Deployment, &deployment).await?;
    }
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let agents = pods
        .list(&ListParams::default().labels(&labels::agent_selector_text(&key.name)))
        .await?
        .items;
    if !agents.is_empty() {
        return Ok(PurgeProgress::Pending(format!(
            "waiting for {} agents to stop",
            agents.len()
        )));
    }
    let job = build::purge_job(desired);
    let applied = apply::apply_children(context, key, std::slice::from_ref(&job), None).await?;
    if let Some(problem) = applied.problems.first() {
        return Ok(PurgeProgress::Pending(problem.message.clone()));
    }
    match preflight::read_bucket_check(context, key, applied.preflight.as_ref()).await? {
        BucketCheck::Verified => Ok(PurgeProgress::Done),
        BucketCheck::Checking(_) => Ok(PurgeProgress::Pending(
            "metadata and objects are being deleted".to_owned(),
        )),
        BucketCheck::Failed(why) => Ok(PurgeProgress::Pending(format!(
            "cannot delete metadata and objects, retrying: {why}; to keep them, remove the annotation {CONFIRM_DELETION_ANNOTATION}"
        ))),
    }
}

/// Returns the problem that the status shows meanwhile.
pub(super) fn pending_problem(what: &str) -> super::problem::ClusterProblem {
    super::problem::ClusterProblem {
        condition: ConditionType::Ready,
        reason: ConditionReason::DeletePending,
        message: what.to_owned(),
    }
}
