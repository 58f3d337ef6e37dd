//! The end of a cluster. Children in its namespace go with the resource, by their owner references; what this file adds is what owner
//! references cannot do: children in other namespaces, and, when the spec says `deletionPolicy: Delete` and the annotation confirms it,
//! metadata and objects. Called by the reconciliation when the resource is being deleted. Never blocks a namespace: when the data cannot
//! be deleted any more (namespace ending, confirmation missing), it is kept and said so.

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
    desired::Desired,
    labels,
    preflight::{self, Bucket},
};
use crate::{
    context::Context,
    crd::{CONFIRM_DELETION, ConditionType, DeletionPolicy, FINALIZER, Reason, StreamHouseCluster},
    events::Events,
    stores::ClusterKey,
};

/// How soon to look again while agents stop or the purge runs.
const SOON: Duration = Duration::from_secs(2);

/// Whether this cluster needs a last word from us when it is deleted.
pub(super) fn needs_finalizer(cluster: &StreamHouseCluster, elsewhere: bool) -> bool {
    elsewhere || cluster.spec.deletion_policy == DeletionPolicy::Delete
}

/// Adds or removes our finalizer, leaving those of others alone.
pub(super) async fn set_finalizer(
    context: &Context,
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
    // The version makes this a comparison and a swap: nobody else's finalizer is lost.
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

/// How far a deletion is.
pub(super) enum Deletion {
    /// Nothing is left to do: the finalizer is gone.
    Done,
    /// It waits; says for what.
    Pending(String, Duration),
}

/// One step of the deletion.
pub(super) async fn step(
    context: &Context,
    events: &Events,
    cluster: &StreamHouseCluster,
    key: &ClusterKey,
    desired: Option<&Desired>,
) -> kube::Result<Deletion> {
    if !cluster
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == FINALIZER)
    {
        return Ok(Deletion::Done);
    }
    let kept = match why_kept(context, cluster, key).await? {
        Some(why) => Some(why),
        None => match desired {
            Some(desired) => match purge(context, key, desired).await? {
                Purge::Done => None,
                Purge::Pending(what) => return Ok(Deletion::Pending(what, SOON)),
            },
            None => Some("the spec is not valid, so the data cannot be found".to_owned()),
        },
    };
    apply::remove_elsewhere(context, key, &cluster.uid().unwrap_or_default()).await?;
    set_finalizer(context, cluster, false).await?;
    match kept {
        Some(why) => {
            events
                .normal(
                    cluster,
                    Reason::DataRetained,
                    format!("metadata and objects are kept: {why}"),
                )
                .await
        }
        None => {
            events
                .normal(cluster, Reason::DataDeleted, "metadata and objects were deleted")
                .await
        }
    }
    Ok(Deletion::Done)
}

/// Why the data is kept; `None` when it is to be deleted.
async fn why_kept(
    context: &Context,
    cluster: &StreamHouseCluster,
    key: &ClusterKey,
) -> kube::Result<Option<String>> {
    if cluster.spec.deletion_policy == DeletionPolicy::Retain {
        return Ok(Some("spec.deletionPolicy is Retain".to_owned()));
    }
    if cluster.annotations().get(CONFIRM_DELETION) != Some(&key.name) {
        return Ok(Some(format!(
            "the annotation {CONFIRM_DELETION}: {} was not set",
            key.name
        )));
    }
    let namespaces: Api<Namespace> = Api::all(context.client.clone());
    let namespace = namespaces.get_opt(&key.namespace).await?;
    let ending = namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some());
    Ok(ending.then(|| {
        "the namespace is being deleted, so nothing can run in it that would delete them".to_owned()
    }))
}

enum Purge {
    Done,
    Pending(String),
}

/// Stops the agents, then has a job delete objects and metadata.
async fn purge(context: &Context, key: &ClusterKey, desired: &Desired) -> kube::Result<Purge> {
    let deployments = apply::api(context, ManagedKind::Deployment, &key.namespace);
    if let Some(deployment) = deployments.get_opt(&desired.agent()).await? {
        apply::delete(context, ManagedKind::Deployment, &deployment).await?;
    }
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let agents = pods
        .list(&ListParams::default().labels(&labels::selector_text(&key.name)))
        .await?
        .items;
    if !agents.is_empty() {
        return Ok(Purge::Pending(format!(
            "waiting for {} agents to stop",
            agents.len()
        )));
    }
    let job = build::purge(desired);
    let applied = apply::apply(context, key, std::slice::from_ref(&job), false).await?;
    if let Some(problem) = applied.problems.first() {
        return Ok(Purge::Pending(problem.message.clone()));
    }
    match preflight::bucket(context, key, applied.preflight.as_ref()).await? {
        Bucket::Verified => Ok(Purge::Done),
        Bucket::Checking(_) => Ok(Purge::Pending(
            "metadata and objects are being deleted".to_owned(),
        )),
        Bucket::Failed(why) => Ok(Purge::Pending(format!(
            "metadata and objects could not be deleted, trying again: {why}; to keep them, remove the annotation {CONFIRM_DELETION}"
        ))),
    }
}

/// What the status says meanwhile.
pub(super) fn pending(what: &str) -> super::problem::Problem {
    super::problem::Problem {
        condition: ConditionType::Ready,
        reason: Reason::DeletePending,
        message: what.to_owned(),
    }
}
