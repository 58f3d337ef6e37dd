//! Starts the passes over the Topics of each cluster when a watch reports a change. Called once by
//! the leader. Ends when `stop` is cancelled and aborts running passes, whose steps are idempotent.
//! No pass starts before its namespace has been listed, since an object that has not been listed
//! would be considered deleted.

use std::collections::{HashMap, HashSet};

use futures::StreamExt as _;
use kube::runtime::watcher::{self, Event};
use tokio::{
    sync::broadcast::error::RecvError,
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    backoff::TopicFingerprint,
    pass::{ClusterPresence, PassInput, PassReport, PassState, run_pass},
    refresh::RefreshTurn,
    report_schedule::ReportSchedule,
    schedule::{DuePass, PassSchedule},
    watches::{ClusterMetadata, GuardedTopic, TopicWatches, WatchedKind},
};
use crate::{
    context::OperatorContext, crd::Topic, events::EventPublisher, metadata_stores::ClusterKey, undecodable,
};

/// Reconciles all Topics in the scope until `stop` is cancelled.
pub async fn run(context: OperatorContext, stop: CancellationToken) {
    let (watches, mut topics, mut clusters) = TopicWatches::start(&context);
    let mut controller = TopicController::new(context, watches);
    let mut wakes = controller.context.stores.subscribe();
    loop {
        let next = controller.next_pass_at();
        let report = controller.reports.next_due();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Before the events, of which there may always be one more.
            () = tokio::time::sleep_until(report.unwrap_or_else(Instant::now)), if report.is_some() => controller.report_undecodable(),
            Some((watch, event)) = topics.next() => controller.handle_topic_event(watch, event),
            Some((watch, event)) = clusters.next() => controller.handle_cluster_event(watch, event),
            wake = wakes.recv() => match wake {
                Ok(cluster) => controller.schedule.wake(cluster, Instant::now()),
                Err(RecvError::Lagged(_)) => controller.schedule.wake_all(Instant::now()),
                // The context holds the sender.
                Err(RecvError::Closed) => return,
            },
            Some(ended) = controller.running.join_next_with_id() => controller.finish_pass(ended),
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => controller.start_passes(),
        }
    }
}

/// A finished pass: its cluster, state and report.
type FinishedPass = (ClusterKey, PassState, PassReport);

struct TopicController {
    context: OperatorContext,
    watches: TopicWatches,
    /// Fingerprints of the Topics when they last woke their cluster.
    fingerprints: HashMap<String, TopicFingerprint>,
    schedule: PassSchedule,
    running: JoinSet<FinishedPass>,
    passes: HashMap<Id, ClusterKey>,
    /// When Topics that cannot be decoded are reported next.
    reports: ReportSchedule,
    /// The last such report.
    reporting: Option<AbortOnDropHandle<()>>,
}

impl TopicController {
    fn new(context: OperatorContext, watches: TopicWatches) -> Self {
        Self {
            schedule: PassSchedule::new(context.drift_interval, context.entropy.clone()),
            context,
            watches,
            fingerprints: HashMap::new(),
            running: JoinSet::new(),
            passes: HashMap::new(),
            reports: ReportSchedule::default(),
            reporting: None,
        }
    }

    fn handle_topic_event(&mut self, watch: usize, event: watcher::Result<Event<GuardedTopic>>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return self.watches.mark_failed(WatchedKind::Topics, watch, &error),
        };
        let invalid = is_undecodable(&event);
        let before = self.watches.undecodable_count();
        let event = self.watches.store_topic_event(watch, event);
        if invalid || before != self.watches.undecodable_count() {
            self.reports.request(Instant::now());
        }
        match event {
            Some(Event::Apply(topic) | Event::InitApply(topic)) => {
                let now = TopicFingerprint::from_topic(&topic);
                let before = self
                    .fingerprints
                    .insert(topic.resource_uid().to_owned(), now.clone());
                if before != Some(now) {
                    self.wake(&topic);
                }
            }
            Some(Event::Delete(topic)) => {
                self.fingerprints.remove(topic.resource_uid());
                self.wake(&topic);
            }
            Some(Event::Init) | None => {}
            Some(Event::InitDone) => {
                self.watches.mark_listed(WatchedKind::Topics, watch);
                // Deletions that were missed while the watch was broken are found by the passes.
                let all = self.watches.topics(|_| true);
                let there: HashSet<&str> = all.iter().map(|topic| topic.resource_uid()).collect();
                self.fingerprints.retain(|uid, _| there.contains(uid.as_str()));
                self.schedule.wake_all(Instant::now());
            }
        }
    }

    fn handle_cluster_event(&mut self, watch: usize, event: watcher::Result<Event<ClusterMetadata>>) {
        match event {
            Ok(Event::Apply(cluster) | Event::InitApply(cluster) | Event::Delete(cluster)) => {
                if let (Some(namespace), Some(name)) = (cluster.metadata.namespace, cluster.metadata.name) {
                    self.schedule
                        .wake(ClusterKey::new(namespace, name), Instant::now());
                }
            }
            Ok(Event::Init) => {}
            Ok(Event::InitDone) => {
                self.watches.mark_listed(WatchedKind::Clusters, watch);
                self.schedule.wake_all(Instant::now());
            }
            Err(error) => self.watches.mark_failed(WatchedKind::Clusters, watch, &error),
        }
    }

    fn wake(&mut self, topic: &Topic) {
        if let Some(cluster) = cluster_of(topic) {
            self.schedule.wake(cluster, Instant::now());
        }
    }

    /// Returns when the next pass starts.
    fn next_pass_at(&self) -> Option<Instant> {
        self.schedule
            .next_due(|cluster| self.watches.is_listed(&cluster.namespace))
    }

    fn start_passes(&mut self) {
        let watches = &self.watches;
        let due = self
            .schedule
            .start_due(Instant::now(), |cluster| watches.is_listed(&cluster.namespace));
        for DuePass {
            cluster,
            state: mut memory,
            refresh,
        } in due
        {
            let view = self.pass_input(&cluster, refresh);
            let context = self.context.clone();
            let key = cluster.clone();
            let task = self.running.spawn(async move {
                let report = run_pass(&context, view, &mut memory).await;
                (key, memory, report)
            });
            self.passes.insert(task.id(), cluster);
        }
    }

    fn pass_input(&self, cluster: &ClusterKey, refresh: Option<RefreshTurn>) -> PassInput {
        PassInput {
            cluster: cluster.clone(),
            presence: self.watches.cluster_presence(cluster),
            topics: self
                .watches
                .topics(|topic| cluster_of(topic).as_ref() == Some(cluster)),
            access: self.context.stores.get(cluster),
            refresh,
        }
    }

    fn finish_pass(&mut self, ended: Result<(Id, FinishedPass), JoinError>) {
        match ended {
            Ok((id, (cluster, memory, report))) => {
                self.passes.remove(&id);
                let needed = self.watches.cluster_presence(&cluster) != ClusterPresence::Missing
                    || self
                        .watches
                        .has_topic(|topic| cluster_of(topic).as_ref() == Some(&cluster));
                self.schedule.finish_pass(&cluster, memory, &report, needed);
            }
            Err(error) => {
                if let Some(cluster) = self.passes.remove(&error.id()) {
                    tracing::error!(%cluster, %error, "a pass over the Topics of a cluster panicked");
                    self.schedule.fail_pass(&cluster, Instant::now());
                }
            }
        }
        self.publish_counts();
    }

    fn publish_counts(&self) {
        let tally = self.schedule.total_counts();
        let undecodable = self.watches.undecodable_count();
        let metrics = &self.context.metrics;
        for (ready, count) in [
            ("true", tally.ready),
            ("false", tally.not_ready + undecodable),
            ("unknown", tally.unknown),
        ] {
            metrics.resources.with_label_values(&["Topic", ready]).set(count);
        }
        metrics.undecodable.with_label_values(&["Topic"]).set(undecodable);
        metrics.failing.with_label_values(&["Topic"]).set(tally.failing);
    }

    /// Reports the Topics that cannot be decoded, again and again until there are none: the API
    /// server may refuse an attempt.
    fn report_undecodable(&mut self) {
        self.publish_counts();
        self.reports.clear();
        if self
            .reporting
            .as_ref()
            .is_some_and(|running| !running.is_finished())
        {
            self.reports.request(Instant::now());
            return;
        }
        let all = self.watches.undecodable();
        if all.is_empty() {
            return;
        }
        self.reports
            .schedule(Instant::now() + undecodable::RETRY_INTERVAL);
        let context = self.context.clone();
        let task = tokio::spawn(async move {
            let events = EventPublisher::new(context.client.clone(), context.instance.clone());
            for invalid in &all {
                // An error is logged, and the next report tries again.
                let _ = undecodable::handle::<Topic>(&context, &events, invalid).await;
            }
        });
        self.reporting = Some(AbortOnDropHandle::new(task));
    }
}

/// Returns whether the event is that of a Topic that cannot be decoded.
fn is_undecodable(event: &Event<GuardedTopic>) -> bool {
    match event {
        Event::Apply(topic) | Event::InitApply(topic) | Event::Delete(topic) => topic.0.is_err(),
        Event::Init | Event::InitDone => false,
    }
}

/// Returns the cluster that a Topic references.
fn cluster_of(topic: &Topic) -> Option<ClusterKey> {
    let namespace = topic.metadata.namespace.as_deref()?;
    Some(ClusterKey::new(namespace, topic.spec.cluster_ref.name.as_str()))
}
