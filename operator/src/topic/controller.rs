//! Watches Topics and clusters and starts the passes. Called once by the leader. Ends when `stop`
//! is cancelled and aborts running passes, whose steps are idempotent. A broken watch is restarted.
//! No pass starts before every watch has listed its objects, since an object that has not been
//! listed would be considered deleted.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::Arc,
};

use futures::{Stream, StreamExt as _, stream};
use kube::{
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, ObjectRef},
        watcher::{self, Event},
    },
};
use tokio::{
    sync::broadcast::error::RecvError,
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    backoff::TopicFingerprint,
    pass::{ClusterPresence, PassInput, PassReport, PassState, run_pass},
    schedule::{DuePass, PassSchedule},
};
use crate::{
    context::OperatorContext,
    crd::{StreamHouseCluster, Topic},
    metadata_stores::ClusterKey,
};

type ClusterMetadata = PartialObjectMeta<StreamHouseCluster>;
/// A watch's events with its index.
type WatchEvents<K> = Pin<Box<dyn Stream<Item = (usize, watcher::Result<Event<K>>)> + Send>>;

/// Reconciles all Topics in the scope until `stop` is cancelled.
pub async fn run(context: OperatorContext, stop: CancellationToken) {
    let mut controller = TopicController::new(context);
    let (mut topics, mut clusters) = controller.start_watches();
    let mut wakes = controller.context.stores.subscribe();
    loop {
        let next = controller.next_pass_at();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
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
    topics: Vec<reflector::Store<Topic>>,
    clusters: Vec<reflector::Store<ClusterMetadata>>,
    /// Watches that have listed all their objects.
    synced: HashSet<(&'static str, usize)>,
    /// Fingerprints of the Topics when they last woke their cluster.
    fingerprints: HashMap<String, TopicFingerprint>,
    schedule: PassSchedule,
    running: JoinSet<FinishedPass>,
    passes: HashMap<Id, ClusterKey>,
}

impl TopicController {
    fn new(context: OperatorContext) -> Self {
        Self {
            schedule: PassSchedule::new(context.drift_interval, context.entropy.clone()),
            context,
            topics: Vec::new(),
            clusters: Vec::new(),
            synced: HashSet::new(),
            fingerprints: HashMap::new(),
            running: JoinSet::new(),
            passes: HashMap::new(),
        }
    }

    /// Starts one watch per kind, or one per kind and namespace. Clusters are watched by metadata
    /// only.
    fn start_watches(&mut self) -> (WatchEvents<Topic>, WatchEvents<ClusterMetadata>) {
        let (client, scope) = (&self.context.client, &self.context.scope);
        let mut topics: Vec<WatchEvents<Topic>> = Vec::new();
        for (watch, api) in scope.apis::<Topic>(client).into_iter().enumerate() {
            let (store, writer) = reflector::store();
            self.topics.push(store);
            let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
            topics.push(Box::pin(
                reflector::reflector(writer, events).map(move |event| (watch, event)),
            ));
        }
        let mut clusters: Vec<WatchEvents<ClusterMetadata>> = Vec::new();
        for (watch, api) in scope.apis::<ClusterMetadata>(client).into_iter().enumerate() {
            let (store, writer) = reflector::store();
            self.clusters.push(store);
            let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
            clusters.push(Box::pin(
                reflector::reflector(writer, events).map(move |event| (watch, event)),
            ));
        }
        (
            Box::pin(stream::select_all(topics)),
            Box::pin(stream::select_all(clusters)),
        )
    }

    fn handle_topic_event(&mut self, watch: usize, event: watcher::Result<Event<Topic>>) {
        match event {
            Ok(Event::Apply(topic) | Event::InitApply(topic)) => {
                let now = TopicFingerprint::from_topic(&topic);
                let before = self
                    .fingerprints
                    .insert(topic.resource_uid().to_owned(), now.clone());
                if before != Some(now) {
                    self.wake(&topic);
                }
            }
            Ok(Event::Delete(topic)) => {
                self.fingerprints.remove(topic.resource_uid());
                self.wake(&topic);
            }
            Ok(Event::Init) => {}
            Ok(Event::InitDone) => {
                self.mark_synced("topics", watch);
                // Deletions that were missed while the watch was broken are found by the passes.
                let all = self.topics.iter().flat_map(reflector::Store::state);
                let there: HashSet<String> = all.map(|topic| topic.resource_uid().to_owned()).collect();
                self.fingerprints.retain(|uid, _| there.contains(uid));
                self.schedule.wake_all(Instant::now());
            }
            Err(error) => tracing::warn!(%error, "the watch of Topics failed; restarting it"),
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
                self.mark_synced("clusters", watch);
                self.schedule.wake_all(Instant::now());
            }
            Err(error) => tracing::warn!(%error, "the watch of clusters failed; restarting it"),
        }
    }

    /// Records that a watch has listed all its objects.
    fn mark_synced(&mut self, kind: &'static str, watch: usize) {
        self.synced.insert((kind, watch));
        if self.is_synced() {
            self.context.metrics.synced.with_label_values(&["Topic"]).set(1);
        }
    }

    fn is_synced(&self) -> bool {
        self.synced.len() == self.topics.len() + self.clusters.len()
    }

    fn wake(&mut self, topic: &Topic) {
        if let Some(cluster) = cluster_of(topic) {
            self.schedule.wake(cluster, Instant::now());
        }
    }

    /// Returns when the next pass starts; `None` before all watches are synced.
    fn next_pass_at(&self) -> Option<Instant> {
        self.schedule.next_due().filter(|_| self.is_synced())
    }

    fn start_passes(&mut self) {
        for DuePass {
            cluster,
            state: mut memory,
            refresh,
        } in self.schedule.start_due(Instant::now())
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

    fn pass_input(&self, cluster: &ClusterKey, refresh: bool) -> PassInput {
        let mine = |topic: &Topic| cluster_of(topic).as_ref() == Some(cluster);
        PassInput {
            cluster: cluster.clone(),
            presence: self.cluster_presence(cluster),
            topics: self
                .topics
                .iter()
                .flat_map(|store| store.state_filter(mine))
                .collect(),
            access: self.context.stores.get(cluster),
            refresh,
        }
    }

    fn cluster_presence(&self, cluster: &ClusterKey) -> ClusterPresence {
        let key = ObjectRef::new(&cluster.name).within(&cluster.namespace);
        let found: Option<Arc<ClusterMetadata>> = self.clusters.iter().find_map(|store| store.get(&key));
        match found {
            None => ClusterPresence::Missing,
            Some(found) if found.metadata.deletion_timestamp.is_some() => ClusterPresence::Deleting,
            Some(_) => ClusterPresence::Live,
        }
    }

    fn finish_pass(&mut self, ended: Result<(Id, FinishedPass), JoinError>) {
        match ended {
            Ok((id, (cluster, memory, report))) => {
                self.passes.remove(&id);
                let needed = self.cluster_presence(&cluster) != ClusterPresence::Missing
                    || self.topics.iter().any(|store| {
                        store
                            .find(|topic| cluster_of(topic).as_ref() == Some(&cluster))
                            .is_some()
                    });
                self.schedule.finish_pass(&cluster, memory, &report, needed);
            }
            Err(error) => {
                if let Some(cluster) = self.passes.remove(&error.id()) {
                    tracing::error!(%cluster, %error, "a pass over the Topics of a cluster panicked");
                    self.schedule.fail_pass(&cluster, Instant::now());
                }
            }
        }
        let tally = self.schedule.total_counts();
        let resources = &self.context.metrics.resources;
        for (ready, count) in [
            ("true", tally.ready),
            ("false", tally.not_ready),
            ("unknown", tally.unknown),
        ] {
            resources.with_label_values(&["Topic", ready]).set(count);
        }
    }
}

/// Returns the cluster that a Topic references.
fn cluster_of(topic: &Topic) -> Option<ClusterKey> {
    let namespace = topic.metadata.namespace.as_deref()?;
    Some(ClusterKey::new(namespace, topic.spec.cluster_ref.name.as_str()))
}
