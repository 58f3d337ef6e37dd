//! Applies the children of a cluster with server-side apply and deletes those that are no longer
//! desired. Called by the reconciliation. Guarantees: an object that is not managed for this
//! cluster is never changed; fields of other field managers are kept; a field that is removed from
//! the spec is removed from the child.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy},
};

use super::{
    applied::AppliedHashes,
    build::ChildObject,
    children::{
        ANNOTATION_RENDERED_HASH, LABEL_CLUSTER, LABEL_CLUSTER_NAMESPACE, LABEL_LISTENER, ManagedKind,
    },
    labels, ownership,
    problem::ClusterProblem,
    replicas,
};
use crate::{
    context::OperatorContext,
    crd::{ConditionReason, ConditionType, FIELD_MANAGER},
    metadata_stores::ClusterKey,
};

/// How often a child that changed meanwhile is read again at once.
const MAX_CONFLICTS: u32 = 4;

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
/// `hashes` are what this process has applied before, by which drift is detected.
///
/// # Errors
///
/// Returns errors of the API server that may be temporary.
pub(super) async fn apply_children(
    context: &OperatorContext,
    key: &ClusterKey,
    children: &[ChildObject],
    hashes: Option<&AppliedHashes>,
) -> kube::Result<AppliedChildren> {
    let mut applied = AppliedChildren::default();
    for child in children {
        let known = hashes.and_then(|hashes| hashes.stored_fields(key, child));
        match apply_child(context, key, child, known).await {
            Ok(ChildOutcome::Applied { object, drifted }) => {
                if let Some(hashes) = hashes {
                    hashes.record(key, child, fields_hash(child, &object));
                }
                if drifted {
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
            Ok(ChildOutcome::Forbidden(why)) => {
                applied.problems.push(namespace_forbidden(child, &why));
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

/// A child is to be in a namespace that the operator may not read.
fn namespace_forbidden(child: &ChildObject, why: &str) -> ClusterProblem {
    let namespace = child.namespace();
    ClusterProblem {
        condition: affected_condition(child),
        reason: ConditionReason::NamespaceForbidden,
        message: format!(
            "the operator may not manage {} {} in namespace {namespace}: restore its RoleBinding there, add the \
             namespace to watchNamespaces, or change spec.monitoring ({why})",
            child.kind,
            child.name()
        ),
    }
}

/// Returns the condition that is affected if a child cannot be applied.
fn affected_condition(child: &ChildObject) -> ConditionType {
    let labels = child.object.labels();
    if labels.contains_key(LABEL_LISTENER) {
        return ConditionType::ListenersAvailable;
    }
    let component = labels.get(labels::COMPONENT_LABEL);
    if component.is_some_and(|component| component == labels::MONITORING_COMPONENT) {
        ConditionType::MonitoringAvailable
    } else {
        ConditionType::Ready
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
    /// The operator may not read the namespace, which is not that of the cluster.
    Forbidden(String),
}

/// Applies one child. Between the read and the write the child may change; then both are repeated.
async fn apply_child(
    context: &OperatorContext,
    key: &ClusterKey,
    child: &ChildObject,
    known: Option<u64>,
) -> kube::Result<ChildOutcome> {
    let mut conflicts = 0;
    loop {
        match try_apply_child(context, key, child, known).await {
            Err(kube::Error::Api(status)) if status.code == 409 && conflicts < MAX_CONFLICTS => {
                conflicts += 1;
            }
            outcome => return outcome,
        }
    }
}

async fn try_apply_child(
    context: &OperatorContext,
    key: &ClusterKey,
    child: &ChildObject,
    known: Option<u64>,
) -> kube::Result<ChildOutcome> {
    let name = child.name();
    let api = api_for(context, child.kind, child.namespace());
    let before = match api.get_opt(name).await {
        Err(kube::Error::Api(status)) if status.code == 403 && child.namespace() != key.namespace => {
            return Ok(ChildOutcome::Forbidden(status.message));
        }
        found => found?,
    };
    if let Some(before) = &before {
        if !is_managed_for(before, key) {
            return Ok(ChildOutcome::Conflict);
        }
        if before.metadata.deletion_timestamp.is_some() {
            return Ok(ChildOutcome::Deleting);
        }
        if ownership::has_lost_owner(child, before) && ownership::is_ending(context, key, child).await? {
            return Ok(ChildOutcome::Deleting);
        }
        if known == Some(fields_hash(child, before)) {
            return Ok(ChildOutcome::Applied {
                object: Box::new(before.clone()),
                drifted: false,
            });
        }
        replicas::keep_replicas(&api, child, before).await?;
    }
    let mut wanted = child.object.clone();
    if wanted.metadata.owner_references.is_some() {
        // The garbage collector may remove the owner reference at any time.
        wanted.metadata.resource_version = before.as_ref().and_then(ResourceExt::resource_version);
    }
    let object = api
        .patch(
            name,
            &PatchParams::apply(FIELD_MANAGER).force(),
            &Patch::Apply(&wanted),
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
        drifted: has_drifted(child, known.is_some(), before.as_ref(), &object),
        object: Box::new(object),
    })
}

/// Returns whether another client has changed or deleted the child: only if this rendering was
/// applied before, as this process (`known`) or the hash in the object's annotation says.
fn has_drifted(
    child: &ChildObject,
    known: bool,
    before: Option<&DynamicObject>,
    after: &DynamicObject,
) -> bool {
    let Some(before) = before else {
        // Jobs are deleted by the operator itself and by others when they have finished.
        return known && child.kind != ManagedKind::Job;
    };
    let hash = |object: &DynamicObject| object.annotations().get(ANNOTATION_RENDERED_HASH).cloned();
    let applied = known || (hash(before).is_some() && hash(before) == hash(&child.object));
    applied && fields_hash(child, before) != fields_hash(child, after)
}

/// Returns a hash of the parts of an object that the operator may own.
fn fields_hash(child: &ChildObject, object: &DynamicObject) -> u64 {
    let mut hasher = DefaultHasher::new();
    fields_of(child, object).to_string().hash(&mut hasher);
    hasher.finish()
}

/// Returns the parts of an object that the operator may own: everything but the status and the
/// labels and annotations of others, which their controllers change at any time.
fn fields_of(child: &ChildObject, object: &DynamicObject) -> serde_json::Value {
    let own = |ours: &BTreeMap<String, String>, stored: &BTreeMap<String, String>| {
        let mut stored = stored.clone();
        stored.retain(|name, _| ours.contains_key(name));
        stored
    };
    let mut data = object.data.clone();
    if let Some(fields) = data.as_object_mut() {
        fields.remove("status");
    }
    serde_json::json!([
        own(child.object.labels(), object.labels()),
        own(child.object.annotations(), object.annotations()),
        object.owner_references(),
        data,
    ])
}

/// Deletes children of this cluster that are no longer desired, except those that are `kept`. A
/// namespace other than the cluster's that the operator may not read is left as it is.
pub(super) async fn delete_unwanted_children(
    context: &OperatorContext,
    key: &ClusterKey,
    uid: &str,
    wanted: &[ChildObject],
    kept: impl Fn(ManagedKind, &DynamicObject) -> bool,
) -> kube::Result<()> {
    let wanted: BTreeSet<(ManagedKind, String, String)> = wanted
        .iter()
        .map(|child| (child.kind, child.namespace().to_owned(), child.name().to_owned()))
        .collect();
    for kind in ManagedKind::ALL.iter().copied() {
        for object in list_children(context, kind, key, uid).await?.objects {
            let place = (kind, object.namespace().unwrap_or_default(), object.name_any());
            if !wanted.contains(&place) && !kept(kind, &object) {
                delete_listed(context, kind, key, &object).await?;
            }
        }
    }
    Ok(())
}

/// Deletes children in other namespaces, which owner references do not reach. Returns the
/// namespaces that the operator may not read, whose children are kept.
pub(super) async fn delete_children_elsewhere(
    context: &OperatorContext,
    key: &ClusterKey,
    uid: &str,
) -> kube::Result<BTreeSet<String>> {
    let mut forbidden = BTreeSet::new();
    for kind in ManagedKind::ALL
        .iter()
        .copied()
        .filter(|kind| kind.can_be_in_other_namespace())
    {
        let mut places = context.scope.places();
        places.retain(|place| *place != Some(key.namespace.as_str()));
        let listed = list_in(context, kind, key, uid, &places).await?;
        forbidden.extend(listed.forbidden);
        for object in listed.objects {
            let namespace = object.namespace().unwrap_or_default();
            if namespace != key.namespace && !delete_listed(context, kind, key, &object).await? {
                forbidden.insert(namespace);
            }
        }
    }
    Ok(forbidden)
}

/// Deletes an object that was listed. Returns whether the operator may: in a namespace other than
/// the cluster's it may have lost the right since.
async fn delete_listed(
    context: &OperatorContext,
    kind: ManagedKind,
    key: &ClusterKey,
    object: &DynamicObject,
) -> kube::Result<bool> {
    match delete_object(context, kind, object).await {
        Err(kube::Error::Api(status))
            if status.code == 403 && object.namespace().as_deref() != Some(key.namespace.as_str()) =>
        {
            Ok(false)
        }
        deleted => deleted.map(|()| true),
    }
}

/// Children that were found.
#[derive(Debug, Default)]
pub(super) struct ListedChildren {
    /// The objects.
    pub(super) objects: Vec<DynamicObject>,
    /// Namespaces that the operator may not read, other than the cluster's.
    pub(super) forbidden: Vec<String>,
}

/// Lists the objects of a kind that belong to this cluster. Labels alone are not enough: a user may
/// have copied them.
pub(super) async fn list_children(
    context: &OperatorContext,
    kind: ManagedKind,
    key: &ClusterKey,
    uid: &str,
) -> kube::Result<ListedChildren> {
    let places = if kind.can_be_in_other_namespace() {
        context.scope.places()
    } else {
        vec![Some(key.namespace.as_str())]
    };
    list_in(context, kind, key, uid, &places).await
}

/// Like [`list_children`], in these namespaces; `None` stands for all.
async fn list_in(
    context: &OperatorContext,
    kind: ManagedKind,
    key: &ClusterKey,
    uid: &str,
    places: &[Option<&str>],
) -> kube::Result<ListedChildren> {
    let mut listed = ListedChildren::default();
    if kind
        .optional_api()
        .is_some_and(|optional| !context.apis.has(optional))
    {
        return Ok(listed);
    }
    let selector = ListParams::default().labels(&labels::children_selector(&key.namespace, &key.name));
    for place in places.iter().copied() {
        let handle: Api<DynamicObject> = match place {
            Some(namespace) => api_for(context, kind, namespace),
            None => Api::all_with(context.client.clone(), &kind.served_resource(&context.apis)),
        };
        let found = handle.list(&selector).await;
        if let (Some(namespace), ManagedKind::ConfigMap) = (place, kind) {
            // One kind, so that rights to some kinds only do not alternate.
            let forbidden = matches!(&found, Err(kube::Error::Api(status)) if status.code == 403);
            context.metrics.set_namespace_forbidden(namespace, forbidden);
        }
        match found {
            Ok(found) => listed.objects.extend(
                found
                    .items
                    .into_iter()
                    .filter(|object| ownership::belongs_to(object, key, uid)),
            ),
            Err(kube::Error::Api(status)) if status.code == 403 => match place {
                Some(namespace) if namespace != key.namespace => {
                    listed.forbidden.push(namespace.to_owned());
                }
                _ => return Err(kube::Error::Api(status)),
            },
            // Uninstalled since the last discovery.
            Err(kube::Error::Api(status)) if status.code == 404 && kind.optional_api().is_some() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(listed)
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
