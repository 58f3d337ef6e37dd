//! Decides what the deletion of a User requires, without side effects. A User has the finalizer
//! only while its deletion policy is Delete and it owns the user in the metadata store. Must never
//! block the deletion of a namespace: if the rows cannot or need not be deleted, the finalizer is
//! removed and they are kept.

use crate::{
    crd::{DeletionPolicy, User},
    finalizer::has_finalizer,
};

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
    if !has_finalizer(&user.metadata) {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::FINALIZER;

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
}
