//! Computes what a reconciliation would change, without changing it. Called by `diff`. Follows the
//! steps of a reconciliation (dereference, validate, build) and determines the result for each
//! child with a server-side dry run.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context as _, bail};
use kube::{
    ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
};
use streamhouse_metadata::{ConnectOptions, MetadataStore};

use super::{
    apply,
    build::{self, ChildObject},
    children::ManagedKind,
    dereference::{ResolvedReferences, dereference},
    desired::DesiredCluster,
    hold::{self, HeldRollout},
    listeners,
    schema_plan::check_release,
    validate::validate,
};
use crate::{
    context::OperatorContext,
    crd::{ConditionReason, FIELD_MANAGER, StreamHouseCluster},
    metadata_stores::ClusterKey,
};

/// The changes of a cluster.
#[derive(Debug, Default)]
pub(crate) struct ClusterPreview {
    /// The objects, each before and after.
    pub(crate) objects: Vec<PreviewedObject>,
    /// Problems, as messages.
    pub(crate) problems: Vec<String>,
}

/// One object; at least one of the two sides is present.
#[derive(Debug)]
pub(crate) struct PreviewedObject {
    pub(crate) kind: ManagedKind,
    pub(crate) before: Option<DynamicObject>,
    pub(crate) after: Option<DynamicObject>,
}

/// Returns what applying this cluster would change.
pub(crate) async fn preview_cluster(
    context: &OperatorContext,
    cluster: &StreamHouseCluster,
) -> anyhow::Result<ClusterPreview> {
    let desired = validate_cluster(context, cluster)?;
    let ResolvedReferences {
        problems,
        hold_rollout: hold_secrets,
        mut inputs,
        ..
    } = dereference(context, &desired)
        .await
        .context("cannot read the Secrets of the cluster")?;
    inputs.listeners = listeners::observe(context, &desired, None)
        .await
        .context("cannot read the Services and pods of the cluster")?;
    let mut preview = ClusterPreview {
        problems: problems
            .iter()
            .map(|problem| format!("{}: {}", problem.reason, problem.message))
            .collect(),
        ..ClusterPreview::default()
    };
    for api in desired
        .optional_apis()
        .into_iter()
        .filter(|api| !context.apis.has(*api))
    {
        preview.problems.push(format!(
            "{} is not installed: its objects are not created",
            api.group()
        ));
    }
    let report = listeners::report(&desired, &inputs, Vec::new());
    // An address that is still unknown is no problem of the change.
    if let Some(problem) = report
        .problem
        .filter(|p| p.reason != ConditionReason::AddressPending)
    {
        preview
            .problems
            .push(format!("{}: {}", problem.reason, problem.message));
    }
    let refused = check_release(
        &context.defaults.version,
        ConnectOptions::default().schema,
        desired.release.as_deref(),
    );
    if let Err(refusal) = &refused {
        preview
            .problems
            .push(format!("{}: {}", refusal.reason, refusal.message));
    }
    let key = ClusterKey::new(&desired.namespace, &desired.name);
    let mut children = build::build(&desired, &inputs);
    let mut held = None;
    if hold_secrets || refused.is_err() {
        held = Some(hold::withhold_children(context, &key, &desired, &mut children).await?);
        preview
            .problems
            .push("agents are neither replaced nor restarted until then".to_owned());
    }
    for child in &children {
        match preview_child(context, &key, child).await? {
            Ok(changed) => preview.objects.push(changed),
            Err(problem) => preview.problems.push(problem),
        }
    }
    let uid = cluster.uid().unwrap_or_default();
    preview
        .objects
        .extend(unwanted_objects(context, &key, &uid, &children, held).await?);
    Ok(preview)
}

/// Returns what applying one child would change, or the problem.
async fn preview_child(
    context: &OperatorContext,
    key: &ClusterKey,
    child: &ChildObject,
) -> anyhow::Result<Result<PreviewedObject, String>> {
    let api = apply::api_for(context, child.kind, child.namespace());
    let before = api.get_opt(child.name()).await?;
    if before
        .as_ref()
        .is_some_and(|before| !apply::is_managed_for(before, key))
    {
        return Ok(Err(apply::object_conflict(child).message));
    }
    let try_it = PatchParams::apply(FIELD_MANAGER).force().dry_run();
    let patch = Patch::Apply(&child.object);
    match api.patch(child.name(), &try_it, &patch).await {
        Ok(after) => Ok(Ok(PreviewedObject {
            kind: child.kind,
            before,
            after: Some(after),
        })),
        Err(kube::Error::Api(status)) if status.code != 429 && status.code < 500 => {
            Ok(Err(apply::apply_refused(child, &status.message).message))
        }
        Err(error) => Err(error).context("cannot query the API server"),
    }
}

/// Returns the existing objects that would be deleted.
async fn unwanted_objects(
    context: &OperatorContext,
    key: &ClusterKey,
    uid: &str,
    children: &[ChildObject],
    held: Option<HeldRollout>,
) -> anyhow::Result<Vec<PreviewedObject>> {
    let wanted: BTreeSet<(ManagedKind, &str, &str)> = children
        .iter()
        .map(|child| (child.kind, child.namespace(), child.name()))
        .collect();
    let mut orphans = Vec::new();
    for kind in ManagedKind::ALL {
        for object in apply::list_children(context, *kind, key, uid).await?.objects {
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            let kept = held.is_some_and(|held| held.keeps(*kind, &object));
            if !kept && !wanted.contains(&(*kind, namespace.as_str(), name.as_str())) {
                orphans.push(PreviewedObject {
                    kind: *kind,
                    before: Some(object),
                    after: None,
                });
            }
        }
    }
    Ok(orphans)
}

/// Opens the cluster's metadata store for reading, without migrating its schema.
pub(crate) async fn open_metadata(
    context: &OperatorContext,
    cluster: &StreamHouseCluster,
) -> anyhow::Result<Arc<dyn MetadataStore>> {
    let desired = validate_cluster(context, cluster)?;
    let read = dereference(context, &desired)
        .await
        .context("cannot read the Secrets of the cluster")?;
    match read.connection {
        Ok(connection) => streamhouse_metadata::connect(&connection.url, &connection.options)
            .await
            .context("cannot connect to the metadata store; outside of the Kubernetes cluster, forward its port and set --metadata-url"),
        Err(problem) => bail!("{}: {}", problem.reason, problem.message),
    }
}

fn validate_cluster(
    context: &OperatorContext,
    cluster: &StreamHouseCluster,
) -> anyhow::Result<DesiredCluster> {
    validate(cluster, &context.defaults)
        .map_err(|problem| anyhow::anyhow!("{}: {}", problem.reason, problem.message))
}
