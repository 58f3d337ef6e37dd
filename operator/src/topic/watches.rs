//! The watches of Topics and of their clusters: one per kind, or one per kind and namespace. Owned
//! by the controller. Each namespace stands by itself: one that the operator may not read, or that
//! is not listed yet, does not affect the others.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::Arc,
};

use futures::{Stream, StreamExt as _, stream};
use kube::{
    Client,
    core::{DeserializeGuard, ObjectMeta, PartialObjectMeta, error_boundary::InvalidObject},
    runtime::{
        WatchStreamExt as _,
        reflector::{self, ObjectRef, Store, store::Writer},
        watcher::{self, Event},
    },
};

use super::pass::ClusterPresence;
use crate::{
    context::{OperatorContext, WatchScope},
    crd::{StreamHouseCluster, Topic},
    metadata_stores::ClusterKey,
};

pub(super) type ClusterMetadata = PartialObjectMeta<StreamHouseCluster>;
pub(super) type GuardedTopic = DeserializeGuard<Topic>;
/// A watch's events with its index.
pub(super) type WatchEvents<K> = Pin<Box<dyn Stream<Item = (usize, watcher::Result<Event<K>>)> + Send>>;

/// A kind of watched objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum WatchedKind {
    Topics,
    Clusters,
}

/// State of the watches.
pub(super) struct TopicWatches {
    context: OperatorContext,
    topics: Vec<(Store<Topic>, Writer<Topic>)>,
    clusters: Vec<Store<ClusterMetadata>>,
    /// Watches that have listed all their objects.
    listed: HashSet<(WatchedKind, usize)>,
    /// Watches that the API server forbids.
    forbidden: HashSet<(WatchedKind, usize)>,
    /// Topics that cannot be decoded, by namespace and name, with the index of their watch.
    undecodable: HashMap<(String, String), (usize, InvalidObject)>,
}

impl TopicWatches {
    /// Starts the watches. Clusters are watched by metadata only.
    pub(super) fn start(
        context: &OperatorContext,
    ) -> (Self, WatchEvents<GuardedTopic>, WatchEvents<ClusterMetadata>) {
        let (client, scope) = (&context.client, &context.scope);
        let mut watches = Self {
            context: context.clone(),
            topics: Vec::new(),
            clusters: Vec::new(),
            listed: HashSet::new(),
            forbidden: HashSet::new(),
            undecodable: HashMap::new(),
        };
        let topics = watch_topics(client, scope);
        watches
            .topics
            .extend(scope.places().iter().map(|_| reflector::store()));
        let mut clusters: Vec<WatchEvents<ClusterMetadata>> = Vec::new();
        for (watch, api) in scope.apis::<ClusterMetadata>(client).into_iter().enumerate() {
            let (store, writer) = reflector::store();
            watches.clusters.push(store);
            let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
            clusters.push(Box::pin(
                reflector::reflector(writer, events).map(move |event| (watch, event)),
            ));
        }
        (watches, topics, Box::pin(stream::select_all(clusters)))
    }

    /// Stores the event of a Topic and returns it without the guard. A Topic that cannot be decoded
    /// is kept apart, as if there were none.
    pub(super) fn store_topic_event(
        &mut self,
        watch: usize,
        event: Event<GuardedTopic>,
    ) -> Option<Event<Topic>> {
        let event = match event {
            Event::Init => {
                // Those that still exist are listed again.
                self.undecodable.retain(|_, (of, _)| *of != watch);
                Event::Init
            }
            Event::InitDone => Event::InitDone,
            Event::InitApply(DeserializeGuard(Ok(topic))) => {
                self.undecodable.remove(&place_of(&topic.metadata));
                Event::InitApply(topic)
            }
            Event::Apply(DeserializeGuard(Ok(topic))) => {
                self.undecodable.remove(&place_of(&topic.metadata));
                Event::Apply(topic)
            }
            Event::Delete(DeserializeGuard(Ok(topic))) => {
                self.undecodable.remove(&place_of(&topic.metadata));
                Event::Delete(topic)
            }
            Event::InitApply(DeserializeGuard(Err(invalid))) => {
                self.undecodable
                    .insert(place_of(&invalid.metadata), (watch, invalid));
                return None;
            }
            Event::Apply(DeserializeGuard(Err(invalid))) => {
                let known = self
                    .topics
                    .get(watch)
                    .and_then(|(store, _)| store.get(&reference(&invalid)));
                self.undecodable
                    .insert(place_of(&invalid.metadata), (watch, invalid));
                Event::Delete(Topic::clone(&*known?))
            }
            Event::Delete(DeserializeGuard(Err(invalid))) => {
                let known = self
                    .topics
                    .get(watch)
                    .and_then(|(store, _)| store.get(&reference(&invalid)));
                self.undecodable.remove(&place_of(&invalid.metadata));
                Event::Delete(Topic::clone(&*known?))
            }
        };
        if let Some((_, writer)) = self.topics.get_mut(watch) {
            writer.apply_watcher_event(&event);
        }
        Some(event)
    }

    /// Records that a watch has listed all its objects.
    pub(super) fn mark_listed(&mut self, kind: WatchedKind, watch: usize) {
        self.listed.insert((kind, watch));
        self.forbidden.remove(&(kind, watch));
        self.publish_state(watch);
    }

    /// Records that a watch has failed and is restarted.
    pub(super) fn mark_failed(&mut self, kind: WatchedKind, watch: usize, error: &watcher::Error) {
        if crate::context::is_forbidden(error) {
            self.forbidden.insert((kind, watch));
            self.publish_state(watch);
        } else {
            tracing::warn!(?kind, %error, "a watch failed; restarting it");
        }
    }

    fn publish_state(&self, watch: usize) {
        let metrics = &self.context.metrics;
        if let Some(Some(namespace)) = self.context.scope.places().get(watch) {
            let forbidden = self.kinds().any(|kind| self.forbidden.contains(&(kind, watch)));
            metrics.set_namespace_forbidden(namespace, forbidden);
        }
        if self.is_synced() {
            metrics.synced.with_label_values(&["Topic"]).set(1);
        }
    }

    fn kinds(&self) -> impl Iterator<Item = WatchedKind> + use<> {
        [WatchedKind::Topics, WatchedKind::Clusters].into_iter()
    }

    /// Returns whether every watch has listed its objects or is forbidden, and one has.
    fn is_synced(&self) -> bool {
        let all = || (0..self.topics.len()).flat_map(|watch| self.kinds().map(move |kind| (kind, watch)));
        all().all(|one| self.listed.contains(&one) || self.forbidden.contains(&one))
            && all().any(|one| self.listed.contains(&one))
    }

    /// Returns whether all Topics and clusters of the namespace have been listed.
    pub(super) fn is_listed(&self, namespace: &str) -> bool {
        let places = self.context.scope.places();
        let covers = |place: &Option<&str>| place.is_none_or(|name| name == namespace);
        let watch = places.iter().position(covers);
        watch.is_some_and(|watch| self.kinds().all(|kind| self.listed.contains(&(kind, watch))))
    }

    /// Returns the Topics that satisfy the predicate.
    pub(super) fn topics(&self, holds: impl Fn(&Topic) -> bool) -> Vec<Arc<Topic>> {
        let stores = self.topics.iter();
        stores.flat_map(|(store, _)| store.state_filter(&holds)).collect()
    }

    /// Returns whether a Topic satisfies the predicate.
    pub(super) fn has_topic(&self, holds: impl Fn(&Topic) -> bool) -> bool {
        self.topics.iter().any(|(store, _)| store.find(&holds).is_some())
    }

    /// Returns whether the cluster's resource exists.
    pub(super) fn cluster_presence(&self, cluster: &ClusterKey) -> ClusterPresence {
        let key = ObjectRef::new(&cluster.name).within(&cluster.namespace);
        let found: Option<Arc<ClusterMetadata>> = self.clusters.iter().find_map(|store| store.get(&key));
        match found {
            None => ClusterPresence::Missing,
            Some(found) if found.metadata.deletion_timestamp.is_some() => ClusterPresence::Deleting,
            Some(_) => ClusterPresence::Live,
        }
    }

    /// Returns the number of Topics that cannot be decoded.
    pub(super) fn undecodable_count(&self) -> i64 {
        i64::try_from(self.undecodable.len()).unwrap_or(i64::MAX)
    }

    /// Returns the Topics that cannot be decoded.
    pub(super) fn undecodable(&self) -> Vec<InvalidObject> {
        let all = self.undecodable.values();
        all.map(|(_, invalid)| invalid.clone()).collect()
    }
}

fn watch_topics(client: &Client, scope: &WatchScope) -> WatchEvents<GuardedTopic> {
    let apis = scope.apis::<GuardedTopic>(client).into_iter().enumerate();
    let watches = apis.map(|(watch, api)| {
        let events = watcher::watcher(api, watcher::Config::default()).default_backoff();
        events.map(move |event| (watch, event)).boxed()
    });
    Box::pin(stream::select_all(watches))
}

fn place_of(metadata: &ObjectMeta) -> (String, String) {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    (text(&metadata.namespace), text(&metadata.name))
}

fn reference(invalid: &InvalidObject) -> ObjectRef<Topic> {
    let (namespace, name) = place_of(&invalid.metadata);
    ObjectRef::new(&name).within(&namespace)
}
