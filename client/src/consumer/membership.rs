//! A consumer's group membership. A pure state machine holds the member's state; a driver task
//! executes its orders; `poll` performs the actions that involve the application: reports lost
//! partitions, revokes and assigns partitions. Every step may be interrupted and repeated, because
//! a caller may drop the future of `poll` at any await.

mod driver;
mod machine;
mod pattern;

use std::sync::Arc;

use streamhouse_core::TopicPartition;
use tokio::time::{Instant, timeout};

use self::machine::RebalanceAction;
pub(super) use self::{
    driver::run,
    machine::{CommitPermit, CommitVerdict, JoinOrder, MemberConfig, MemberIdentity, MemberStateMachine},
    pattern::TopicPattern,
};
use super::{
    AbortOnDrop, Consumer, ConsumerHandle, ConsumerShared, commit::OffsetCommitter, heartbeat::LEAVE_TIMEOUT,
};
use crate::{
    error::{Error, Result},
    retry::Deadline,
};

impl ConsumerShared {
    /// Returns the group name; empty without a group.
    pub(super) fn group(&self) -> &str {
        self.config.group.as_deref().unwrap_or_default()
    }

    /// Applies an event to the member and notifies all waiters.
    pub(super) fn update_member<T>(&self, event: impl FnOnce(&mut MemberStateMachine) -> T) -> T {
        let outcome = {
            let mut member = self.member.lock();
            let outcome = event(&mut member);
            self.remove_dropped(&mut member);
            outcome
        };
        self.notify_member_changed();
        outcome
    }

    /// Stops reading the partitions that the member has lost, before the change is visible to other
    /// tasks.
    fn remove_dropped(&self, member: &mut MemberStateMachine) -> bool {
        let dropped = member.take_dropped();
        if !dropped.is_empty() {
            self.assignment.lock().remove(&dropped);
        }
        !dropped.is_empty()
    }

    pub(super) fn notify_member_changed(&self) {
        self.member_changes.send_modify(|version| *version += 1);
        self.poll_notifier.notify_one();
    }

    /// Returns the next action. Partitions to assign are in the assignment from then on, but not
    /// fetched before [`ConsumerShared::complete_assign`].
    fn next_rebalance_action(&self) -> Option<RebalanceAction> {
        let mut member = self.member.lock();
        let duty = member.next_action();
        if let Some(RebalanceAction::Assign(partitions)) = &duty {
            self.assignment
                .lock()
                .add_pending_on_assigned(partitions, &self.metrics);
            self.fetcher_wake.notify_one();
        }
        duty
    }

    fn complete_assign(&self, partitions: &[TopicPartition]) {
        let mut member = self.member.lock();
        let still = member.complete_assign(partitions);
        self.assignment.lock().enable_fetching(&still);
        drop(member);
        self.fetcher_wake.notify_one();
    }
}

/// Performs the member's pending actions.
async fn run_rebalance_actions(shared: &Arc<ConsumerShared>) {
    while let Some(duty) = shared.next_rebalance_action() {
        match duty {
            RebalanceAction::Lose(partitions) => {
                if let Some(listener) = &shared.config.listener {
                    listener.on_lost(&partitions).await;
                }
                shared.update_member(|member| member.complete_lose(&partitions));
            }
            RebalanceAction::Revoke(partitions) => {
                settle_commits(shared, &partitions).await;
                if shared.member.lock().has_lost_partitions() {
                    // The partitions were lost meanwhile: there is nothing to revoke.
                    continue;
                }
                call_on_revoked(shared, &partitions).await;
                shared.update_member(|member| member.complete_revoke(&partitions));
            }
            RebalanceAction::Assign(partitions) => {
                if let Some(listener) = &shared.config.listener {
                    let handle = ConsumerHandle::new(shared.clone());
                    listener.on_assigned(&partitions, &handle).await;
                }
                shared.complete_assign(&partitions);
            }
        }
    }
}

/// Completes commits before partitions are revoked: with automatic commits, that of the positions
/// read; and the commits that the application has started.
async fn settle_commits(shared: &Arc<ConsumerShared>, partitions: &[TopicPartition]) {
    let deadline = Deadline::after(shared.client.config().request_timeout);
    let committer = OffsetCommitter::new(shared.clone());
    if shared.config.auto_commit.is_some() && shared.config.group.is_some() {
        let commit = committer.snapshot_of(partitions);
        if let Err(error) = committer.commit_until(commit, deadline).await {
            tracing::warn!(%error, "the last commit before partitions were revoked failed; their next owner reads some records again");
        }
    }
    let last = shared.next_commit_serial();
    let mut pending = shared.pending_commits.subscribe();
    let settled = pending.wait_for(|pending| pending.first().is_none_or(|first| *first > last));
    let _ = timeout(deadline.remaining(), settled).await;
}

async fn call_on_revoked(shared: &Arc<ConsumerShared>, partitions: &[TopicPartition]) {
    if let Some(listener) = &shared.config.listener {
        let committer = OffsetCommitter::new(shared.clone());
        listener.on_revoked(partitions, &committer).await;
    }
}

impl Consumer {
    /// Performs the pending actions of the membership.
    pub(super) async fn drive_membership(&self) -> Result<()> {
        if self.driver.as_ref().is_some_and(|driver| driver.0.is_finished()) {
            return Err(Error::State(
                "the membership task has ended, perhaps with its tokio runtime; build a new consumer".into(),
            ));
        }
        if self.shared.member.lock().start_poll(Instant::now()) {
            self.shared.notify_member_changed();
        }
        run_rebalance_actions(&self.shared).await;
        match self.shared.member.lock().take_failure() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Subscribes to topics: joins the group or, without one, reads all their partitions.
    pub(super) fn subscribe_topics(&mut self, topics: Vec<String>) {
        let whole = self.shared.config.group.is_none();
        self.shared.assignment.lock().subscribe(&topics, whole);
        self.shared.fetcher_wake.notify_one();
        if whole {
            return;
        }
        for topic in &topics {
            self.shared.client.cache().track_topic(topic);
        }
        self.shared.update_member(|member| member.subscribe(topics));
        if self.driver.is_none() {
            let task = tokio::spawn(run(self.shared.clone()));
            self.driver = Some(AbortOnDrop(task.abort_handle()));
        }
    }

    /// Assigns partitions manually.
    pub(super) fn assign_partitions(&mut self, partitions: Vec<TopicPartition>) {
        for partition in &partitions {
            self.shared.client.cache().track_topic(&partition.topic);
        }
        let mut assignment = self.shared.assignment.lock();
        assignment.subscribe(&[], false);
        assignment.add(&partitions, &self.shared.metrics);
        drop(assignment);
        self.shared.fetcher_wake.notify_one();
    }

    /// Gives up all partitions and leaves the group. May be interrupted and called again.
    pub(super) async fn release_all(&mut self) {
        self.shared.assignment.lock().subscribe(&[], false);
        if self.shared.member.lock().is_subscribed() {
            self.shared.update_member(MemberStateMachine::start_leaving);
            run_rebalance_actions(&self.shared).await;
            self.shared.update_member(|member| member.leave(Instant::now()));
        } else {
            let assigned = self.shared.assignment.lock().partitions();
            if !assigned.is_empty() {
                settle_commits(&self.shared, &assigned).await;
                call_on_revoked(&self.shared, &assigned).await;
                self.shared.assignment.lock().remove(&assigned);
            }
        }
        let mut changes = self.shared.member_changes.subscribe();
        let leaving = changes.wait_for(|_| self.shared.member.lock().has_left());
        // A member id may have to arrive before the leave request; beyond this time, the session
        // time-out removes the member.
        let _ = timeout(LEAVE_TIMEOUT * 2, leaving).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::MetricsRegistry;

    #[test]
    fn a_consumer_that_outlives_its_runtime_says_so() {
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
        };
        let first = runtime();
        let builder = Consumer::builder()
            .bootstrap("127.0.0.1:1")
            .metrics_registry(MetricsRegistry::new())
            .group("g")
            .topics(["t"]);
        let mut consumer = first.block_on(builder.build()).unwrap();
        drop(first);
        let error = runtime()
            .block_on(consumer.poll(Duration::from_secs(3_600)))
            .unwrap_err();
        assert!(error.to_string().contains("build a new consumer"), "{error}");
    }
}
