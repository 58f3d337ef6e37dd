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
    backoff::Fingerprint,
    pass::{Memory, Presence, Report, View, pass, uid},
    schedule::{Schedule, Start},
};
use crate::{
    context::Context,
    crd::{StreamHouseCluster, Topic},
    stores::ClusterKey,
};

type Cluster = PartialObjectMeta<StreamHouseCluster>;
/// A watch's events with its index.
type Events<K> = Pin<Box<dyn Stream<Item = (usize, watcher::Result<Event<K>>)> + Send>>;

/// Reconciles all Topics in the scope until `stop` is cancelled.
pub async fn run(context: Context, stop: CancellationToken) {
    let mut controller = Controller::new(context);
    let (mut topics, mut clusters) = controller.watch();
    let mut wakes = controller.context.stores.wakes();
    loop {
        let next = controller.next();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some((watch, event)) = topics.next() => controller.topic_event(watch, event),
            Some((watch, event)) = clusters.next() => controller.cluster_event(watch, event),
            wake = wakes.recv() => match wake {
                Ok(cluster) => controller.schedule.wake(cluster, Instant::now()),
                Err(RecvError::Lagged(_)) => controller.schedule.wake_all(Instant::now()),
                // The context holds the sender.
                Err(RecvError::Closed) => return,
            },
            Some(ended) = controller.running.join_next_with_id() => controller.ended(ended),
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => controller.start(),
        }
    }
}

/// A finished pass: its cluster, state and report.
type Ended = (ClusterKey, Memory, Report);

struct Controller {
    context: Context,
    topics: Vec<reflector::Store<Topic>>,
    clusters: Vec<reflector::Store<Cluster>>,
    /// Watches that have listed all their objects.
    seen: HashSet<(&'static str, usize)>,
    /// Fingerprints of the Topics when they last woke their cluster.
    known: HashMap<String, Fingerprint>,
    schedule: Schedule,
    running: JoinSet<Ended>,
    passes: HashMap<Id, ClusterKey>,
}

impl Controller {
    fn new(context: Context) -> Self {
        Self {
            schedule: Schedule::new(context.drift_interval, context.entropy.clone()),
            context,
            topics: Vec::new(),
            clusters: Vec::new(),
            seen: HashSet::new(),
            known: HashMap::new(),
            running: JoinSet::new(),
            passes: HashMap::new(),
        }
    }

    /// Starts one watch per kind, or one per kind and namespace. Clusters are watched by metadata
    /// only.
    fn watch(&mut self) -> (Events<Topic>, Events<Cluster>) {
        let (client, scope) = (&self.context.client, &self.context.scope);
        let mut topics: Vec<Events<Topic>> = Vec::new();
        for (watch, api) in scope.apis::<Topic>(client).into_iter().enumerate() {
            let (store, writer) = reflector::store();
            self.topics.push(store);
            let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
            topics.push(Box::pin(
                reflector::reflector(writer, events).map(move |event| (watch, event)),
            ));
        }
        let mut clusters: Vec<Events<Cluster>> = Vec::new();
        for (watch, api) in scope.apis::<Cluster>(client).into_iter().enumerate() {
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

    fn topic_event(&mut self, watch: usize, event: watcher::Result<Event<Topic>>) {
        match event {
            Ok(Event::Apply(topic) | Event::InitApply(topic)) => {
                let now = Fingerprint::of(&topic);
                let before = self.known.insert(uid(&topic).to_owned(), now.clone());
                if before != Some(now) {
                    self.wake(&topic);
                }
            }
            Ok(Event::Delete(topic)) => {
                self.known.remove(uid(&topic));
                self.wake(&topic);
            }
            Ok(Event::Init) => {}
            Ok(Event::InitDone) => {
                self.saw("topics", watch);
                // Deletions that were missed while the watch was broken are found by the passes.
                let all = self.topics.iter().flat_map(reflector::Store::state);
                let there: HashSet<String> = all.map(|topic| uid(&topic).to_owned()).collect();
                self.known.retain(|uid, _| there.contains(uid));
                self.schedule.wake_all(Instant::now());
            }
            Err(error) => tracing::warn!(%error, "the watch of Topics failed; restarting it"),
        }
    }

    fn cluster_event(&mut self, watch: usize, event: watcher::Result<Event<Cluster>>) {
        match event {
            Ok(Event::Apply(cluster) | Event::InitApply(cluster) | Event::Delete(cluster)) => {
                if let (Some(namespace), Some(name)) = (cluster.metadata.namespace, cluster.metadata.name) {
                    self.schedule
                        .wake(ClusterKey::new(namespace, name), Instant::now());
                }
            }
            Ok(Event::Init) => {}
            Ok(Event::InitDone) => {
                self.saw("clusters", watch);
                self.schedule.wake_all(Instant::now());
            }
            Err(error) => tracing::warn!(%error, "the watch of clusters failed; restarting it"),
        }
    }

    /// Records that a watch has listed all its objects.
    fn saw(&mut self, kind: &'static str, watch: usize) {
        self.seen.insert((kind, watch));
        if self.is_complete() {
            self.context.metrics.synced.with_label_values(&["Topic"]).set(1);
        }
    }

    fn is_complete(&self) -> bool {
        self.seen.len() == self.topics.len() + self.clusters.len()
    }

    fn wake(&mut self, topic: &Topic) {
        if let Some(cluster) = cluster_of(topic) {
            self.schedule.wake(cluster, Instant::now());
        }
    }

    /// Returns when the next pass starts; `None` before all watches are synced.
    fn next(&self) -> Option<Instant> {
        self.schedule.next().filter(|_| self.is_complete())
    }

    fn start(&mut self) {
        for Start {
            cluster,
            mut memory,
            refresh,
        } in self.schedule.start(Instant::now())
        {
            let view = self.view(&cluster, refresh);
            let context = self.context.clone();
            let key = cluster.clone();
            let task = self.running.spawn(async move {
                let report = pass(&context, view, &mut memory).await;
                (key, memory, report)
            });
            self.passes.insert(task.id(), cluster);
        }
    }

    fn view(&self, cluster: &ClusterKey, refresh: bool) -> View {
        let mine = |topic: &Topic| cluster_of(topic).as_ref() == Some(cluster);
        View {
            cluster: cluster.clone(),
            presence: self.presence(cluster),
            topics: self
                .topics
                .iter()
                .flat_map(|store| store.state_filter(mine))
                .collect(),
            access: self.context.stores.get(cluster),
            refresh,
        }
    }

    fn presence(&self, cluster: &ClusterKey) -> Presence {
        let key = ObjectRef::new(&cluster.name).within(&cluster.namespace);
        let found: Option<Arc<Cluster>> = self.clusters.iter().find_map(|store| store.get(&key));
        match found {
            None => Presence::Missing,
            Some(found) if found.metadata.deletion_timestamp.is_some() => Presence::Ending,
            Some(_) => Presence::Live,
        }
    }

    fn ended(&mut self, ended: Result<(Id, Ended), JoinError>) {
        match ended {
            Ok((id, (cluster, memory, report))) => {
                self.passes.remove(&id);
                let needed = self.presence(&cluster) != Presence::Missing
                    || self.topics.iter().any(|store| {
                        store
                            .find(|topic| cluster_of(topic).as_ref() == Some(&cluster))
                            .is_some()
                    });
                self.schedule.finished(&cluster, memory, &report, needed);
            }
            Err(error) => {
                if let Some(cluster) = self.passes.remove(&error.id()) {
                    tracing::error!(%cluster, %error, "a pass over the Topics of a cluster panicked");
                    self.schedule.broke(&cluster, Instant::now());
                }
            }
        }
        let tally = self.schedule.tally();
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
