//! The membership requests besides joining: heartbeat and leave. The membership driver runs them;
//! the state machine decides when.

use std::{sync::Arc, time::Duration};

use streamhouse_core::{Error as ClusterError, ErrorCode, protocol::v1};

use super::{ConsumerShared, membership::MemberIdentity};
use crate::{
    connection,
    error::{Error, Result},
    retry::Deadline,
};

/// Time limit for leaving the group; beyond it, the session time-out removes the member.
pub(super) const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends a heartbeat, with retries for a whole session time-out.
pub(super) async fn send_heartbeat(shared: Arc<ConsumerShared>, identity: MemberIdentity) -> Result<()> {
    let request = v1::HeartbeatRequest {
        group_id: shared.group().to_owned(),
        generation: identity.generation,
        member_id: identity.member_id,
        group_instance_id: shared.config.group_instance_id.clone().unwrap_or_default(),
    };
    let deadline = Deadline::after(shared.config.session_timeout);
    let answer_within = shared
        .client
        .config()
        .request_timeout
        .min(shared.config.session_timeout / 3);
    let beat = |channel| {
        let request = request.clone();
        async move { connection::group_client(channel).heartbeat(request).await }
    };
    shared
        .client
        .call_coordinator_with_timeout(shared.group(), "the heartbeat", deadline, answer_within, beat)
        .await
        .map(|_| ())
}

/// Leaves the group.
pub(super) async fn leave_group(shared: Arc<ConsumerShared>, member_id: String) {
    let group = shared.group();
    let left = shared.client.call_coordinator(
        group,
        "leaving the group",
        Deadline::after(LEAVE_TIMEOUT),
        |channel| {
            let request = v1::LeaveGroupRequest {
                group_id: group.to_owned(),
                member_id: member_id.clone(),
                group_instance_id: String::new(),
            };
            async move { connection::group_client(channel).leave_group(request).await }
        },
    );
    match left.await {
        Ok(_) => {}
        // The member has been removed already.
        Err(Error::Cluster(error)) if is_not_member(&error) => {}
        Err(error) => {
            tracing::debug!(%error, "could not leave the group; it removes the member after the session time-out")
        }
    }
}

fn is_not_member(error: &ClusterError) -> bool {
    matches!(
        error.code(),
        ErrorCode::UnknownMemberId | ErrorCode::GroupIdNotFound
    )
}
