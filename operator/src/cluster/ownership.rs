//! To which cluster a child belongs: by its owner reference, or where that cannot be, by the uid in
//! an annotation. Used where children are applied, listed and deleted.

use kube::{Api, ResourceExt, api::DynamicObject};

use super::{build::ChildObject, children::ANNOTATION_OWNER_UID};
use crate::{context::OperatorContext, crd::StreamHouseCluster, metadata_stores::ClusterKey};

/// Returns whether an object with the labels of a child belongs to this cluster. In its namespace
/// only the objects of a purge have no owner.
pub(super) fn belongs_to(object: &DynamicObject, key: &ClusterKey, uid: &str) -> bool {
    let owners = object.owner_references();
    let annotated = object
        .annotations()
        .get(ANNOTATION_OWNER_UID)
        .is_some_and(|owner| owner == uid);
    if object.namespace().as_deref() != Some(key.namespace.as_str()) || owners.is_empty() {
        return annotated;
    }
    owners.iter().any(|owner| owner.uid == uid)
}

/// Returns whether the stored child lacks the owner reference: it belonged to an earlier cluster
/// with this name, or the cluster is being deleted with the propagation policy `Orphan`.
pub(super) fn has_lost_owner(child: &ChildObject, stored: &DynamicObject) -> bool {
    let found = stored.owner_references();
    child
        .object
        .owner_references()
        .iter()
        .any(|owner| !found.iter().any(|found| found.uid == owner.uid))
}

/// Returns whether the cluster that owns the child is being deleted or gone. A reconciliation that
/// began before must not take an orphaned child back: the garbage collector would delete it with
/// the cluster.
pub(super) async fn is_ending(
    context: &OperatorContext,
    key: &ClusterKey,
    child: &ChildObject,
) -> kube::Result<bool> {
    let clusters: Api<StreamHouseCluster> = Api::namespaced(context.client.clone(), &key.namespace);
    let found = clusters.get_opt(&key.name).await?;
    Ok(found.is_none_or(|cluster| {
        let uid = cluster.uid();
        let owns = |owner_uid: &String| uid.as_ref() == Some(owner_uid);
        cluster.metadata.deletion_timestamp.is_some()
            || !child
                .object
                .owner_references()
                .iter()
                .any(|owner| owns(&owner.uid))
    }))
}
