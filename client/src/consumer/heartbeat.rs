//! The heartbeat task: says every few seconds that the member lives, hears of rebalances, and leaves the group when the
//! application has not polled for too long.

use std::{sync::Arc, time::Duration};

use streamhouse_core::{Error as CoreError, ErrorCode, protocol::v1};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Shared;
use crate::{connection, error::Error, retry::Deadline};

/// A leave that takes longer is left to the session time-out.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// Runs for one generation, until the group rebalances or goes on without this member.
pub(super) async fn run(shared: Arc<Shared>, group: String) {
    let mut ticks = interval(shared.config.heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if polls_too_rarely(&shared) {
            tracing::warn!(
                interval = ?shared.config.max_poll_interval,
                "no poll within max_poll_interval: leaving the group; poll more often or raise it"
            );
            leave(&shared, &group).await;
            shared.identity.lock().lost = true;
            shared.news.notify_one();
            return;
        }
        let Err(error) = beat(&shared, &group).await else {
            continue;
        };
        let mut identity = shared.identity.lock();
        match error {
            Error::Cluster(error) => identity.learn(&error),
            // Silent for a whole session time-out: the coordinator has given this member up.
            error => {
                tracing::warn!(%error, "the group's coordinator cannot be reached");
                identity.lost = true;
            }
        }
        let over = identity.lost || identity.rejoin;
        drop(identity);
        if over {
            shared.news.notify_one();
            return;
        }
    }
}

fn polls_too_rarely(shared: &Shared) -> bool {
    let identity = shared.identity.lock();
    !identity.polling && Instant::now() > identity.last_poll + shared.config.max_poll_interval
}

async fn beat(shared: &Shared, group: &str) -> Result<(), Error> {
    let request = {
        let identity = shared.identity.lock();
        v1::HeartbeatRequest {
            group_id: group.to_owned(),
            generation: identity.generation,
            member_id: identity.member_id.clone(),
            group_instance_id: shared.config.group_instance_id.clone().unwrap_or_default(),
        }
    };
    let deadline = Deadline::after(shared.config.session_timeout);
    let answer_within = shared
        .client
        .settings()
        .request_timeout
        .min(shared.config.session_timeout / 3);
    let beat = |channel| {
        let request = request.clone();
        async move { connection::group(channel).heartbeat(request).await }
    };
    match shared
        .client
        .call_coordinator_for(group, "the heartbeat", deadline, answer_within, beat)
        .await
    {
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Leaves the group; a static member stays, so that it may come back to its partitions.
pub(super) async fn leave(shared: &Shared, group: &str) {
    let member_id = std::mem::take(&mut shared.identity.lock().member_id);
    if member_id.is_empty() || shared.config.group_instance_id.is_some() {
        return;
    }
    let left = shared.client.call_coordinator(
        group,
        "leaving the group",
        Deadline::after(LEAVE_WITHIN),
        |channel| {
            let request = v1::LeaveGroupRequest {
                group_id: group.to_owned(),
                member_id: member_id.clone(),
                group_instance_id: String::new(),
            };
            async move { connection::group(channel).leave_group(request).await }
        },
    );
    match left.await {
        Ok(_) => {}
        // It is out already.
        Err(Error::Cluster(error)) if is_out(&error) => {}
        Err(error) => {
            tracing::debug!(%error, "could not leave the group; it notices by the session time-out")
        }
    }
}

fn is_out(error: &CoreError) -> bool {
    matches!(
        error.code(),
        ErrorCode::UnknownMemberId | ErrorCode::GroupIdNotFound
    )
}
