//! A cluster that cannot be decoded: it is reported, and nothing of it is changed. Called by the
//! watch of the clusters.

use kube::core::error_boundary::InvalidObject;

use super::{ClusterReconciler, POLL_INTERVAL, ReconcileAction, apply, memory::ReconcileResult};
use crate::{
    conditions::ConditionStatus,
    crd::{ConditionReason, ConditionType, StreamHouseCluster},
    metadata_stores::ClusterKey,
    metrics::ReconcileOutcome,
    undecodable,
};

impl ClusterReconciler {
    /// Handles a cluster that cannot be decoded. Its agents and its Topics are left as they are.
    pub(crate) async fn handle_undecodable(&self, invalid: &InvalidObject) -> ReconcileAction {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let key = ClusterKey::new(text(&invalid.metadata.namespace), text(&invalid.metadata.name));
        let handled = if undecodable::is_held(&invalid.metadata) {
            self.release_undecodable(&key, invalid).await
        } else {
            let conditions = [
                (ConditionType::Ready, ConditionStatus::False),
                (ConditionType::Stalled, ConditionStatus::True),
            ];
            let (context, events) = (&self.context, &self.events);
            undecodable::report::<StreamHouseCluster>(context, events, invalid, &conditions).await
        };
        if let Err(error) = &handled {
            tracing::warn!(cluster = %key, %error, "cannot handle a cluster that cannot be decoded; retrying");
        }
        let result = ReconcileResult {
            outcome: match handled {
                Ok(()) => ReconcileOutcome::Blocked,
                Err(_) => ReconcileOutcome::Error,
            },
            reasons: vec![ConditionReason::Undecodable],
            poll: POLL_INTERVAL,
        };
        self.schedule(&key, &result)
    }

    async fn release_undecodable(&self, key: &ClusterKey, invalid: &InvalidObject) -> kube::Result<()> {
        let context = &self.context;
        let uid = invalid.metadata.uid.as_deref().unwrap_or_default();
        apply::delete_children_elsewhere(context, key, uid).await?;
        let reason = ConditionReason::DataRetained;
        undecodable::release::<StreamHouseCluster>(context, &self.events, invalid, reason).await
    }
}
