//! Deletes the data of a cluster: stops the agents, then runs the Job that deletes objects and
//! metadata. Called by `deletion`, again and again until it is done. A foreground deletion has
//! Kubernetes delete every object that the cluster owns, so the Job and what its pods need have no
//! owner: they are applied until the Job has ended, and then deleted here.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};

use super::{
    apply,
    build::{self, ChildObject},
    children::{ANNOTATION_OWNER_UID, ManagedKind},
    desired::DesiredCluster,
    inputs::BuildInputs,
    labels,
    preflight::{self, JobState},
};
use crate::{context::OperatorContext, crd::CONFIRM_DELETION_ANNOTATION, metadata_stores::ClusterKey};

/// What the API server says when it refuses an object in a namespace that is being deleted.
const NAMESPACE_ENDING: &str = "because it is being terminated";

/// Progress of the deletion of the data.
pub(super) enum PurgeProgress {
    /// Objects and metadata are deleted.
    Done,
    /// It waits for this.
    Pending(String),
    /// The namespace is being deleted, so the Job cannot run.
    NamespaceEnding,
}

/// Executes one step.
pub(super) async fn advance_purge(
    context: &OperatorContext,
    key: &ClusterKey,
    desired: &DesiredCluster,
) -> kube::Result<PurgeProgress> {
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
    let inputs = BuildInputs {
        openshift: context.apis.is_openshift(),
        ..BuildInputs::default()
    };
    let objects = build::purge_objects(desired, &inputs);
    delete_other_jobs(context, key, &objects).await?;
    let applied = apply::apply_children(context, key, &objects, None).await?;
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
