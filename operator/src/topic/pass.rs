//! One pass over the Topics of one cluster: a single query of the metadata store, then the plan of
//! each Topic, then its status. At rest this is one query and no write. A Topic that fails does not
//! delay others. Called by the controller, never concurrently for the same cluster, and by `tests`.
//! May be cancelled at any await point: the next pass does the rest.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt as _, stream};
use kube::Api;
use streamhouse_metadata::{TopicOwner, TopicsOverview};
use tokio::time::Instant;

use super::{
    backoff::Waiting,
    failure::{Failure, within},
    finalize::{Surroundings, is_held, namespace_ends},
    one::{Handled, One},
    status,
    store::Store,
    validate::Problem,
};
use crate::{
    backoff::delay,
    conditions::State,
    context::Context,
    crd::{Reason, Topic},
    events::Events,
    metrics::Outcome,
    stores::{Access, ClusterKey},
};

/// Number of Topics that are reconciled concurrently.
const ABREAST: usize = 16;
/// Number of consecutive failed queries after which ready Topics are no longer reported as ready.
const PATIENCE: u32 = 3;

/// Whether the cluster's resource exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The resource does not exist.
    Missing,
    /// The resource is being deleted.
    Ending,
    /// The resource exists.
    Live,
}

/// Input of a pass.
#[derive(Debug)]
pub struct View {
    /// The cluster.
    pub cluster: ClusterKey,
    /// Whether its resource exists.
    pub presence: Presence,
    /// All of its Topics: the claim of a Topic that is not listed here may be considered stale.
    pub topics: Vec<Arc<Topic>>,
    /// Access to its metadata store; `None` before its first reconciliation.
    pub access: Option<Access>,
    /// Whether to update records and sizes in the statuses.
    pub refresh: bool,
}

/// State that is kept between the passes over one cluster.
#[derive(Debug, Default)]
pub struct Memory {
    /// Topics as last written, by uid, until the watch has caught up.
    latest: HashMap<String, Arc<Topic>>,
    waiting: Waiting,
    /// Number of consecutive failed queries of the metadata store.
    failures: u32,
    open: bool,
}

/// Number of Topics by their Ready condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Ready.
    pub ready: i64,
    /// Not ready.
    pub not_ready: i64,
    /// Unknown.
    pub unknown: i64,
}

/// Result of a pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// When to run the next pass without a change.
    pub retry_at: Option<Instant>,
    /// Number of Topics by readiness.
    pub tally: Tally,
    /// Number of Topics that failed or wait for a change.
    pub troubled: usize,
}

/// Access of a pass to the metadata store.
pub(super) enum Ground {
    /// The store was queried.
    Open { store: Store, overview: TopicsOverview },
    /// The store is not available.
    Shut {
        problem: Problem,
        /// Whether Topics that were ready are reported as unknown, too.
        everyone: bool,
        outcome: Outcome,
    },
}

/// Runs one pass.
pub async fn pass(context: &Context, mut view: View, memory: &mut Memory) -> Report {
    let started = Instant::now();
    memory.freshen(&mut view.topics);
    // Of two Topics that want the same name, the older comes first.
    view.topics
        .sort_by_cached_key(|topic| (topic.metadata.creation_timestamp.clone(), uid(topic).to_owned()));
    let ground = look(context, &view, memory).await;
    let around = surroundings(context, &view).await;
    let events = Events::new(context.client.clone(), context.instance.clone());
    let one = One {
        context,
        events: &events,
        ground: &ground,
        around: &around,
        refresh: view.refresh,
    };
    let now = Instant::now();
    let mut report = Report::default();
    let mut due = Vec::new();
    for topic in &view.topics {
        match memory.waiting.until(uid(topic), topic, now) {
            Some(until) => report.skipped(topic, until),
            None => due.push(topic.clone()),
        }
    }
    let handled: Vec<Handled> = stream::iter(due)
        .map(|topic| one.handle(topic))
        .buffer_unordered(ABREAST)
        .collect()
        .await;
    for one in handled {
        memory.remember(context, one, &mut report);
    }
    if let Ground::Shut {
        outcome: Outcome::Error,
        ..
    } = ground
    {
        report.again_at(Instant::now() + delay(memory.failures, &*context.entropy));
    } else {
        let now = context.clock.now_ms() / 1000;
        context
            .metrics
            .last_success
            .with_label_values(&["Topic"])
            .set(now);
    }
    let took = started.elapsed().as_secs_f64();
    context
        .metrics
        .duration
        .with_label_values(&["Topic"])
        .observe(took);
    report
}

/// Returns the uid, which every object in the API server has.
pub(super) fn uid(topic: &Topic) -> &str {
    topic.metadata.uid.as_deref().unwrap_or_default()
}

/// Queries the metadata store once and releases stale claims.
async fn look(context: &Context, view: &View, memory: &mut Memory) -> Ground {
    let shut = |reason, message: &str, everyone| Ground::Shut {
        problem: Problem::new(reason, message),
        everyone,
        outcome: Outcome::Terminal,
    };
    let name = &view.cluster.name;
    let access = match (view.presence, &view.access) {
        (Presence::Missing, _) => {
            let message = format!("StreamHouseCluster {name:?} does not exist in this namespace: create it");
            return shut(Reason::ClusterNotFound, &message, true);
        }
        (Presence::Ending, _) => {
            let message = format!("StreamHouseCluster {name:?} is being deleted");
            return shut(Reason::ClusterNotReady, &message, true);
        }
        (Presence::Live, None) => {
            let message = "the metadata store of the cluster has not been checked yet";
            return shut(Reason::ClusterNotReady, message, false);
        }
        (Presence::Live, Some(Access::Closed(why))) => {
            memory.open = false;
            return shut(Reason::ClusterNotReady, why, true);
        }
        (Presence::Live, Some(Access::Open(store))) => store,
    };
    let store = Store::new(access.clone(), context.metrics.clone());
    if !memory.open {
        memory.open = true;
        memory.waiting.clear();
    }
    match store.overview().await {
        Ok(mut overview) => {
            memory.failures = 0;
            release_orphans(context, view, &store, &mut overview).await;
            Ground::Open { store, overview }
        }
        Err(error) => {
            memory.failures = memory.failures.saturating_add(1);
            tracing::warn!(cluster = %view.cluster, %error, "cannot query the topics of a cluster");
            Ground::Shut {
                problem: Problem::new(Reason::ClusterNotReady, error.to_string()),
                everyone: memory.failures >= PATIENCE,
                outcome: Outcome::Error,
            }
        }
    }
}

/// Releases stale claims. A Topic that retains its topic leaves its claim behind when it is
/// deleted, and so does one that is deleted while the operator is down. A claim from this cluster's
/// namespace, or one that blocks a Topic, is released if the API server has no such resource.
async fn release_orphans(context: &Context, view: &View, store: &Store, overview: &mut TopicsOverview) {
    let there: HashSet<&str> = view.topics.iter().map(|topic| uid(topic)).collect();
    let wanted: HashSet<&str> = view.topics.iter().map(|topic| topic.topic_name()).collect();
    let suspects: Vec<(String, TopicOwner)> = overview
        .owners
        .iter()
        .filter(|(_, owner)| !there.contains(owner.uid.as_str()))
        .filter(|(name, owner)| owner.namespace == view.cluster.namespace || wanted.contains(name.as_str()))
        .filter(|(_, owner)| context.scope.contains(&owner.namespace))
        .map(|(name, owner)| (name.clone(), owner.clone()))
        .collect();
    let released: Vec<Option<String>> = stream::iter(suspects)
        .map(|(name, owner)| async move {
            match release_orphan(context, store, &name, &owner).await {
                Ok(released) => released.then_some(name),
                Err(error) => {
                    tracing::warn!(topic = %name, %owner, %error, "cannot determine whether a claim is stale");
                    None
                }
            }
        })
        .buffer_unordered(ABREAST)
        .collect()
        .await;
    for name in released.into_iter().flatten() {
        overview.owners.remove(&name);
    }
}

/// Queries the API server directly: the watch may lag, and another replica may know more.
async fn release_orphan(
    context: &Context,
    store: &Store,
    name: &str,
    owner: &TopicOwner,
) -> Result<bool, Failure> {
    let topics: Api<Topic> = Api::namespaced(context.client.clone(), &owner.namespace);
    let found = within(topics.get_metadata_opt(&owner.resource)).await?;
    if found.is_some_and(|found| found.metadata.uid.as_deref() == Some(&owner.uid)) {
        return Ok(false);
    }
    tracing::info!(topic = %name, %owner, "the Topic no longer exists: releasing its claim, keeping the topic");
    Ok(store.release(name, &owner.uid).await?)
}

/// Determines the state of the owner of Topics that are being deleted. Reads the namespace only if
/// there are such Topics.
async fn surroundings(context: &Context, view: &View) -> Result<Surroundings, Failure> {
    let ends = |topic: &Arc<Topic>| topic.metadata.deletion_timestamp.is_some() && is_held(topic);
    if view.presence != Presence::Live {
        return Ok(Surroundings::ClusterEnds);
    }
    if view.topics.iter().any(ends) && namespace_ends(context, &view.cluster.namespace).await? {
        return Ok(Surroundings::NamespaceEnds);
    }
    Ok(Surroundings::Stay)
}

impl Memory {
    /// Replaces Topics that the watch has not caught up with by their last written version, and
    /// drops versions that it has.
    fn freshen(&mut self, topics: &mut [Arc<Topic>]) {
        let there: HashSet<&str> = topics.iter().map(|topic| uid(topic)).collect();
        self.latest.retain(|uid, _| there.contains(uid.as_str()));
        self.waiting.keep(&there);
        for topic in topics {
            let Some(latest) = self.latest.get(uid(topic)) else {
                continue;
            };
            if version(topic) < version(latest) {
                *topic = latest.clone();
            } else {
                self.latest.remove(uid(topic));
            }
        }
    }

    fn remember(&mut self, context: &Context, one: Handled, report: &mut Report) {
        let outcomes = &context.metrics.reconciles;
        outcomes.with_label_values(&["Topic", one.outcome.as_str()]).inc();
        let uid = uid(&one.topic).to_owned();
        if one.again {
            let due = self
                .waiting
                .failed(&uid, &one.topic, Instant::now(), &*context.entropy);
            report.again_at(due);
        } else {
            self.waiting.succeeded(&uid);
        }
        report.troubled += usize::from(one.outcome != Outcome::Ok);
        if !one.gone {
            report.count(&one.topic);
        }
        if one.written {
            self.latest.insert(uid, one.topic);
        }
    }
}

/// Resource versions are increasing numbers, as guaranteed since Kubernetes 1.35.
fn version(topic: &Topic) -> u64 {
    let version = topic.metadata.resource_version.as_deref();
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or_default()
}

impl Report {
    fn again_at(&mut self, at: Instant) {
        self.retry_at = Some(self.retry_at.map_or(at, |before| before.min(at)));
    }

    fn skipped(&mut self, topic: &Topic, until: Instant) {
        self.again_at(until);
        self.troubled += 1;
        self.count(topic);
    }

    fn count(&mut self, topic: &Topic) {
        match status::ready(topic) {
            Some((state, _, _)) if state == State::True.as_str() => self.tally.ready += 1,
            Some((state, _, _)) if state == State::False.as_str() => self.tally.not_ready += 1,
            _ => self.tally.unknown += 1,
        }
    }
}
