//! Deletion of a User and its finalizer. A User has the finalizer only while its deletion policy is
//! Delete and it owns the user in the metadata store. Must never block the deletion of a namespace:
//! if the rows cannot or need not be deleted, the finalizer is removed and they are kept.

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::error::{UserError, with_timeout};
use crate::{
    context::OperatorContext,
    crd::{DeletionPolicy, FIELD_MANAGER, FINALIZER, User},
};

/// Attempts to change the finalizers despite concurrent changes of the resource.
const MAX_ATTEMPTS: usize = 3;

/// State of the cluster and the namespace of a User that is being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UserSurroundings {
    /// The cluster exists and is not being deleted.
    Present,
    /// The cluster does not exist or is being deleted.
    ClusterDeleting,
    /// The namespace is being deleted, and the cluster with it.
    NamespaceTerminating,
}

/// What the deletion of a User requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UserDeletionPlan {
    /// Wait until the metadata store is available; the finalizer stays.
    Wait,
    /// Delete the rows and then remove the finalizer.
    Delete,
    /// Remove the finalizer; the rows are kept for this reason.
    Keep(&'static str),
    /// Nothing to do: the User has no finalizer.
    Nothing,
}

/// Plans the deletion of a User with a deletion timestamp.
pub(super) fn plan_deletion(user: &User, around: UserSurroundings, has_store: bool) -> UserDeletionPlan {
    if !has_finalizer(user) {
        return UserDeletionPlan::Nothing;
    }
    if user.spec.deletion_policy == DeletionPolicy::Retain {
        return UserDeletionPlan::Keep("spec.deletionPolicy is Retain");
    }
    match around {
        UserSurroundings::ClusterDeleting => UserDeletionPlan::Keep("its cluster was deleted"),
        UserSurroundings::NamespaceTerminating => UserDeletionPlan::Keep("its namespace is being deleted"),
        UserSurroundings::Present if !has_store => UserDeletionPlan::Wait,
        UserSurroundings::Present => UserDeletionPlan::Delete,
    }
}

/// Returns whether the User has the operator's finalizer.
pub(super) fn has_finalizer(user: &User) -> bool {
    let finalizers = user.metadata.finalizers.as_deref().unwrap_or_default();
    finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// Returns whether the namespace is being deleted. Without the right to read namespaces, only the
/// state of the cluster is considered.
pub(super) async fn is_namespace_terminating(
    context: &OperatorContext,
    namespace: &str,
) -> Result<bool, UserError> {
    let namespaces: Api<Namespace> = Api::all(context.client.clone());
    let found = with_timeout(async {
        match namespaces.get_opt(namespace).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(Some(Namespace::default())),
            other => other,
        }
    });
    Ok(found
        .await?
        .is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}

/// Adds or removes the operator's finalizer and keeps all others.
///
/// # Errors
///
/// Returns [`UserError::Gone`] if the resource no longer exists.
pub(super) async fn set_finalizer(
    context: &OperatorContext,
    user: &User,
    held: bool,
) -> Result<(), UserError> {
    let (Some(namespace), Some(name)) = (&user.metadata.namespace, &user.metadata.name) else {
        return Err(UserError::Gone);
    };
    if has_finalizer(user) == held {
        return Ok(());
    }
    let users: Api<User> = Api::namespaced(context.client.clone(), namespace);
    // The watch may lag behind.
    for _ in 0..MAX_ATTEMPTS {
        let current = with_timeout(users.get_opt(name)).await?;
        let current = current.filter(|current| current.metadata.uid == user.metadata.uid);
        let current = current.ok_or(UserError::Gone)?;
        if has_finalizer(&current) == held {
            return Ok(());
        }
        let patch = Patch::Merge(finalizer_patch(&current, held));
        let how = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patched = with_timeout(async {
            match users.patch(name, &how, &patch).await {
                // The next attempt finds the change, or that the resource is gone.
                Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(false),
                other => other.map(|_| true),
            }
        });
        if patched.await? {
            context.metrics.api_writes.with_label_values(&["User"]).inc();
            return Ok(());
        }
    }
    Err(UserError::Api(
        "the finalizers of the User are being changed by other clients".to_owned(),
    ))
}

/// The resource version guards the list, which a merge patch replaces as a whole.
fn finalizer_patch(user: &User, held: bool) -> serde_json::Value {
    let finalizers = user.metadata.finalizers.iter().flatten();
    let others = finalizers.filter(|name| *name != FINALIZER);
    let finalizers: Vec<&str> = others
        .map(String::as_str)
        .chain(held.then_some(FINALIZER))
        .collect();
    json!({ "metadata": { "resourceVersion": user.metadata.resource_version, "finalizers": finalizers } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(policy: &str, finalizers: &[&str]) -> User {
        serde_json::from_value(json!({
            "apiVersion": "streamhouse.io/v1alpha1", "kind": "User",
            "metadata": { "name": "alice", "finalizers": finalizers, "resourceVersion": "7" },
            "spec": { "clusterRef": { "name": "main" }, "authentication": { "type": "scram" }, "deletionPolicy": policy }
        }))
        .unwrap()
    }

    #[test]
    fn only_what_the_user_owns_in_a_cluster_that_stays_is_deleted() {
        use UserSurroundings::{ClusterDeleting, NamespaceTerminating, Present};
        let held = user("Delete", &["other/one", FINALIZER]);
        assert_eq!(plan_deletion(&held, Present, true), UserDeletionPlan::Delete);
        assert_eq!(plan_deletion(&held, Present, false), UserDeletionPlan::Wait);
        for around in [ClusterDeleting, NamespaceTerminating] {
            assert!(matches!(
                plan_deletion(&held, around, true),
                UserDeletionPlan::Keep(_)
            ));
            assert!(matches!(
                plan_deletion(&held, around, false),
                UserDeletionPlan::Keep(_)
            ));
        }
        let retained = user("Retain", &[FINALIZER]);
        assert!(matches!(
            plan_deletion(&retained, Present, false),
            UserDeletionPlan::Keep(_)
        ));
        let free = user("Delete", &["other/one"]);
        assert_eq!(plan_deletion(&free, Present, true), UserDeletionPlan::Nothing);
    }

    #[test]
    fn finalizers_of_others_are_kept() {
        let finalizers = |user: &User, held| finalizer_patch(user, held)["metadata"]["finalizers"].clone();
        let held = user("Delete", &["other/one", FINALIZER]);
        assert_eq!(finalizers(&held, false), json!(["other/one"]));
        assert_eq!(
            finalizers(&user("Delete", &["other/one"]), true),
            json!(["other/one", FINALIZER])
        );
    }
}
