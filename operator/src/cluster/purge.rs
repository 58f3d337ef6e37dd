//! Deletes the data of a cluster: stops the agents, then runs the Job that deletes objects and
//! metadata. Called by `deletion`, again and again until it is done. A foreground deletion has
//! Kubernetes delete every object that the cluster owns, so the Job and what its pods need have no
//! owner: they are applied until the Job has ended, and then deleted here. Only the data of the
//! cluster in the status is deleted: the operator compares it with the database before the Job
//! starts, and the Job with database and bucket.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};

use super::{
    apply,
    build::{self, ChildObject},
    children::{ANNOTATION_OWNER_UID, ManagedKind},
    dereference,
    desired::DesiredCluster,
    inputs::BuildInputs,
    labels, metadata,
    preflight::{self, JobState},
    problem::ClusterProblem,
};
use crate::{
    context::OperatorContext,
    crd::{CONFIRM_DELETION_ANNOTATION, ConditionReason},
    metadata_stores::ClusterKey,
};

/// What the API server says when it refuses an object in a namespace that is being deleted.
const NAMESPACE_ENDING: &str = "because it is being terminated";

/// Progress of the deletion of the data.
pub(super) enum PurgeProgress {
    /// Objects and metadata are deleted.
    Done,
    /// It waits for this.
    Pending(String),
    /// It is not begun, or no longer goes on, before a user has changed something.
    Refused(ClusterProblem),
    /// The namespace is being deleted, so the Job cannot run.
    NamespaceEnding,
}

/// Executes one step. `cluster_id` is the cluster that the resource was for.
pub(super) async fn advance_purge(
    context: &OperatorContext,
    key: &ClusterKey,
    desired: &DesiredCluster,
    cluster_id: Option<&str>,
) -> kube::Result<PurgeProgress> {
    let inputs = BuildInputs {
        openshift: context.apis.is_openshift(),
        ..BuildInputs::default()
    };
    let objects = build::purge_objects(desired, &inputs, cluster_id);
    if is_complete(context, key, &objects).await? {
        return Ok(PurgeProgress::Done);
    }
    let read = dereference::dereference(context, desired).await?;
    let checked = metadata::check_purge(read.connection.as_ref(), cluster_id).await;
    if let Err(problem) = &checked
        && problem.reason == ConditionReason::ClusterIdMismatch
    {
        delete_other_jobs(context, key, &[]).await?;
        return Ok(PurgeProgress::Refused(problem.clone()));
    }
    let deployments = apply::api_for(context, ManagedKind::Deployment, &key.namespace);
    if let Some(deployment) = deployments.get_opt(&desired.agent_name()).await? {
        apply::delete_object(context, ManagedKind::Deployment, &deployment).await?;
    }
    let agents = count_agents(context, key).await?;
    if agents > 0 {
        return Ok(PurgeProgress::Pending(format!(
            "waiting for {agents} agents to stop"
        )));
    }
    match checked {
        Ok(()) => run_purge_job(context, key, &objects).await,
        Err(problem) if problem.reason.needs_user() => Ok(PurgeProgress::Refused(problem)),
        Err(problem) => Ok(PurgeProgress::Pending(format!(
            "cannot compare the database with status.clusterId before it is deleted, retrying: {problem}; to keep the \
             data, remove the annotation {CONFIRM_DELETION_ANNOTATION}"
        ))),
    }
}

/// Returns whether the Job has deleted everything. The database may be gone since.
async fn is_complete(
    context: &OperatorContext,
    key: &ClusterKey,
    objects: &[ChildObject],
) -> kube::Result<bool> {
    let Some(job) = objects.iter().find(|child| child.kind == ManagedKind::Job) else {
        return Ok(false);
    };
    let jobs = apply::api_for(context, ManagedKind::Job, &key.namespace);
    let stored = jobs.get_opt(job.name()).await?;
    let stored = stored.filter(|stored| apply::is_managed_for(stored, key));
    Ok(stored.is_some_and(|stored| preflight::is_complete(&stored)))
}

/// Applies the Job and what its pods need, and returns its progress.
async fn run_purge_job(
    context: &OperatorContext,
    key: &ClusterKey,
    objects: &[ChildObject],
) -> kube::Result<PurgeProgress> {
    delete_other_jobs(context, key, objects).await?;
    let applied = apply::apply_children(context, key, objects, None).await?;
    if let Some(problem) = applied.problems.first() {
        return Ok(if problem.message.contains(NAMESPACE_ENDING) {
            PurgeProgress::NamespaceEnding
        } else {
            PurgeProgress::Pending(problem.message.clone())
        });
    }
    Ok(
        match preflight::read_job(context, key, applied.preflight.as_ref()).await? {
            JobState::Complete => PurgeProgress::Done,
            JobState::Running(None) => {
                PurgeProgress::Pending("metadata and objects are being deleted".to_owned())
            }
            JobState::Running(Some(why)) => PurgeProgress::Pending(format!(
                "metadata and objects are being deleted; the pod of the Job waits: {why}"
            )),
            JobState::Failed(why) => PurgeProgress::Pending(format!(
                "cannot delete metadata and objects, retrying: {why}; to keep them, remove the annotation \
                {CONFIRM_DELETION_ANNOTATION}"
            )),
        },
    )
}

/// Deletes what the steps have applied. Also called when the data is kept after all.
pub(super) async fn delete_purge_objects(
    context: &OperatorContext,
    key: &ClusterKey,
    uid: &str,
) -> kube::Result<()> {
    for kind in [
        ManagedKind::Job,
        ManagedKind::ConfigMap,
        ManagedKind::ServiceAccount,
    ] {
        for object in apply::list_children(context, kind, key, uid).await?.objects {
            if object.owner_references().is_empty() && object.annotations().contains_key(ANNOTATION_OWNER_UID)
            {
                apply::delete_object(context, kind, &object).await?;
            }
        }
    }
    Ok(())
}

async fn count_agents(context: &OperatorContext, key: &ClusterKey) -> kube::Result<usize> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let selected = ListParams::default().labels(&labels::agent_selector_text(&key.name));
    Ok(pods.list(&selected).await?.items.len())
}

/// Deletes Jobs of this purge that were rendered from another spec.
async fn delete_other_jobs(
    context: &OperatorContext,
    key: &ClusterKey,
    wanted: &[ChildObject],
) -> kube::Result<()> {
    let jobs = apply::api_for(context, ManagedKind::Job, &key.namespace);
    let selected = format!(
        "{},{}={}",
        labels::children_selector(&key.namespace, &key.name),
        labels::COMPONENT_LABEL,
        build::PURGE_COMPONENT
    );
    for job in jobs.list(&ListParams::default().labels(&selected)).await?.items {
        if !wanted.iter().any(|child| child.name() == job.name_any()) {
            apply::delete_object(context, ManagedKind::Job, &job).await?;
        }
    }
    Ok(())
}
