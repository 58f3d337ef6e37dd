//! The cluster of a User and its metadata store, or why it cannot be used. The reconciliation of
//! the cluster opens the store, since only it reads the Secret of the connection.

use std::sync::Arc;

use kube::Api;
use streamhouse_metadata::MetadataStore;

use super::error::{UserError, UserProblem};
use crate::{
    api_calls::with_timeout,
    context::OperatorContext,
    crd::{ConditionReason, StreamHouseCluster, User},
    metadata_stores::{ClusterKey, StoreAccess},
};

/// Access to the metadata store of a User's cluster.
pub(super) enum UserClusterAccess {
    Open(Arc<dyn MetadataStore>, Box<StreamHouseCluster>),
    Unavailable {
        problem: UserProblem,
        /// Whether Users that were ready are reported as unknown, too.
        affects_ready: bool,
        /// Whether the cluster does not exist or is being deleted.
        is_gone: bool,
    },
}

/// Reads the cluster of a User, and whether its metadata store can be used.
///
/// # Errors
///
/// Returns the error of the API server.
pub(super) async fn cluster_access(
    context: &OperatorContext,
    user: &User,
) -> Result<UserClusterAccess, UserError> {
    let namespace = user.metadata.namespace.as_deref().unwrap_or_default();
    let name = user.spec.cluster_ref.name.as_str();
    let clusters: Api<StreamHouseCluster> = Api::namespaced(context.client.clone(), namespace);
    let unavailable = |reason, message: &str, affects_ready, is_gone| {
        Ok(UserClusterAccess::Unavailable {
            problem: UserProblem::new(reason, message),
            affects_ready,
            is_gone,
        })
    };
    let Some(cluster) = with_timeout(clusters.get_opt(name)).await? else {
        let message = format!("StreamHouseCluster {name:?} does not exist in this namespace: create it");
        return unavailable(ConditionReason::ClusterNotFound, &message, true, true);
    };
    let reason = ConditionReason::ClusterNotReady;
    if cluster.metadata.deletion_timestamp.is_some() {
        let message = format!("StreamHouseCluster {name:?} is being deleted");
        return unavailable(reason, &message, true, true);
    }
    match context.stores.get(&ClusterKey::new(namespace, name)) {
        None => {
            let message = "the metadata store of the cluster has not been checked yet";
            unavailable(reason, message, false, false)
        }
        Some(StoreAccess::Closed(why)) => unavailable(reason, &why, true, false),
        Some(StoreAccess::Open(store)) => Ok(UserClusterAccess::Open(store, Box::new(cluster))),
    }
}
