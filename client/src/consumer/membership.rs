//! [`Membership`]: the consumer's life in its group, driven by `poll`: give up what must be given up, join, take what was
//! given, and again when the group rebalances. Every step may be cut off and repeated, because a caller may drop the
//! future of `poll` at any await.

use std::{collections::BTreeMap, sync::Arc};

use streamhouse_core::TopicPartition;
use tokio::task::JoinHandle;

use super::{
    AbortOnDrop, Consumer, Shared,
    commit::Committer,
    group::{self, Joined, Joining},
    heartbeat,
};
use crate::{
    error::{Error, Result},
    metadata_cache::TopicKnown,
    retry::Deadline,
};

/// A consumer's membership.
#[derive(Debug)]
pub(super) struct Membership {
    group: String,
    topics: Vec<String>,
    state: State,
    heartbeat: Option<AbortOnDrop>,
    /// For the group's leader: what it shared, to notice when topics grow.
    shared_topics: Option<BTreeMap<String, i32>>,
}

#[derive(Debug)]
enum State {
    /// It must join.
    Out,
    /// A join is under way.
    Joining(Join),
    /// The join's result is being put into force.
    Taking(Joined),
    /// It is a member.
    In,
}

#[derive(Debug)]
struct Join {
    task: JoinHandle<Result<Joined>>,
    _abort: AbortOnDrop,
}

impl Membership {
    pub(super) fn new(group: String, topics: Vec<String>) -> Self {
        Self {
            group,
            topics,
            state: State::Out,
            heartbeat: None,
            shared_topics: None,
        }
    }

    pub(super) fn topics(&self) -> &[String] {
        &self.topics
    }

    /// Ends the membership.
    pub(super) async fn leave(mut self, shared: &Shared) {
        self.state = State::Out;
        self.heartbeat = None;
        heartbeat::leave(shared, &self.group).await;
        let mut identity = shared.identity.lock();
        identity.subscribed = false;
        identity.generation = -1;
        (identity.rejoin, identity.lost) = (false, false);
    }

    /// Goes as far as it can without waiting for the group.
    pub(super) async fn drive(&mut self, shared: &Arc<Shared>) -> Result<()> {
        loop {
            match &mut self.state {
                State::Out => self.start_join(shared).await?,
                State::Joining(join) => {
                    if !join.task.is_finished() {
                        return Ok(());
                    }
                    let joined = match (&mut join.task).await {
                        Ok(joined) => joined,
                        Err(error) => Err(Error::State(format!("the join was cut off: {error}").into())),
                    };
                    self.state = State::Out;
                    self.state = State::Taking(joined?);
                }
                State::Taking(joined) => {
                    let joined = joined.clone();
                    self.take(shared, joined).await;
                }
                State::In => {
                    let again = {
                        let identity = shared.identity.lock();
                        identity.lost || identity.rejoin
                    };
                    if !again && !self.topics_grew(shared) {
                        return Ok(());
                    }
                    self.state = State::Out;
                }
            }
        }
    }

    /// Gives up what it may not hold during a join, and starts it.
    async fn start_join(&mut self, shared: &Arc<Shared>) -> Result<()> {
        self.heartbeat = None;
        let (lost, fatal) = {
            let identity = shared.identity.lock();
            (identity.lost, identity.fatal.clone())
        };
        let held = shared.assignment.lock().partitions();
        let cooperative = shared
            .config
            .assignors
            .iter()
            .all(|assignor| assignor.is_cooperative());
        if lost {
            give_up(shared, &held, true).await;
        } else if !cooperative {
            give_up(shared, &held, false).await;
        }
        if let Some(fatal) = fatal {
            return Err(fatal.into());
        }
        let joining = {
            let mut identity = shared.identity.lock();
            identity.subscribed = true;
            if identity.lost {
                identity.generation = -1;
            }
            (identity.lost, identity.rejoin) = (false, false);
            Joining {
                group: self.group.clone(),
                topics: self.topics.clone(),
                member_id: identity.member_id.clone(),
                owned: shared.assignment.lock().partitions(),
                generation: identity.generation,
            }
        };
        let (shared, joined) = (shared.clone(), shared.clone());
        let task = tokio::spawn(async move {
            let outcome = group::join(shared, joining).await;
            joined.news.notify_one();
            outcome
        });
        self.state = State::Joining(Join {
            _abort: AbortOnDrop(task.abort_handle()),
            task,
        });
        Ok(())
    }

    /// Puts a join's result into force.
    async fn take(&mut self, shared: &Arc<Shared>, joined: Joined) {
        {
            let mut identity = shared.identity.lock();
            identity.member_id = joined.member_id;
            identity.generation = joined.generation;
        }
        if self.heartbeat.is_none() {
            let task = tokio::spawn(heartbeat::run(shared.clone(), self.group.clone()));
            self.heartbeat = Some(AbortOnDrop(task.abort_handle()));
        }
        let held = shared.assignment.lock().partitions();
        let gone: Vec<_> = held
            .iter()
            .filter(|p| !joined.partitions.contains(p))
            .cloned()
            .collect();
        let new: Vec<_> = joined
            .partitions
            .iter()
            .filter(|p| !held.contains(p))
            .cloned()
            .collect();
        give_up(shared, &gone, false).await;
        if let Some(listener) = &shared.config.listener
            && !new.is_empty()
        {
            listener.on_assigned(&new).await;
        }
        shared.assignment.lock().add(&new, &shared.metrics);
        shared.changed.notify_one();
        tracing::info!(
            group = self.group,
            generation = joined.generation,
            partitions = joined.partitions.len(),
            "joined the group"
        );
        self.shared_topics = joined.shared_topics;
        self.state = State::In;
        if !gone.is_empty() && joined.assignor.is_cooperative() {
            // The others wait for what was given up here.
            shared.identity.lock().rejoin = true;
        }
    }

    /// Whether a topic that this leader shared has other partitions by now.
    fn topics_grew(&self, shared: &Shared) -> bool {
        let Some(topics) = &self.shared_topics else {
            return false;
        };
        let cache = shared.client.cache();
        topics.iter().any(|(topic, count)| match cache.topic(topic) {
            // Partitions are never taken away, so fewer are those of another topic, or old news.
            TopicKnown::Partitions(now) if now < *count => shared.assignment.lock().is_remade(topic),
            TopicKnown::Partitions(now) => now > *count,
            TopicKnown::NotYet | TopicKnown::Failed(_) => false,
        })
    }

    /// Whether a topic that it wants is missing: then metadata are worth asking for more often.
    pub(super) fn misses_topics(&self) -> bool {
        self.shared_topics
            .as_ref()
            .is_some_and(|topics| topics.values().any(|count| *count == 0))
    }
}

/// Gives partitions up: commits what was read of them (in automatic mode), tells the listener, and forgets them. With
/// `lost` they are somebody else's already, so nothing can be committed.
pub(super) async fn give_up(shared: &Arc<Shared>, partitions: &[TopicPartition], lost: bool) {
    if partitions.is_empty() {
        return;
    }
    let committer = Committer::new(shared.clone());
    if shared.config.auto_commit.is_some() && !lost && shared.config.group.is_some() {
        let offsets = committer
            .positions()
            .into_iter()
            .filter(|(key, _)| partitions.contains(key))
            .collect();
        let deadline = Deadline::after(shared.client.settings().request_timeout);
        if let Err(error) = committer.commit_until(offsets, deadline).await {
            tracing::warn!(%error, "the last commit before giving partitions up failed; their next reader repeats records");
        }
    }
    if let Some(listener) = &shared.config.listener {
        if lost {
            listener.on_lost(partitions).await;
        } else {
            listener.on_revoked(partitions, &committer).await;
        }
    }
    shared.assignment.lock().remove(partitions);
}

impl Consumer {
    /// Reads the group's share of topics, or all of them without a group.
    pub(super) fn join(&mut self, topics: Vec<String>) {
        let whole = self.shared.config.group.is_none();
        self.shared.assignment.lock().follow(&topics, whole);
        self.shared.changed.notify_one();
        if let Some(group) = &self.shared.config.group {
            topics
                .iter()
                .for_each(|topic| self.shared.client.cache().want(topic));
            self.shared.identity.lock().subscribed = true;
            self.membership = Some(Membership::new(group.clone(), topics));
        }
    }

    /// Reads partitions of the caller's choice.
    pub(super) fn take(&mut self, partitions: Vec<TopicPartition>) {
        partitions
            .iter()
            .for_each(|partition| self.shared.client.cache().want(&partition.topic));
        let mut assignment = self.shared.assignment.lock();
        assignment.follow(&[], false);
        assignment.add(&partitions, &self.shared.metrics);
        self.shared.changed.notify_one();
    }

    /// Gives up everything it reads.
    pub(super) async fn give_up_all(&mut self) -> Result<()> {
        let held = self.shared.assignment.lock().partitions();
        let lost = self.membership.is_some() && self.shared.identity.lock().lost;
        give_up(&self.shared, &held, lost).await;
        Ok(())
    }
}
