//! One pass over the Topics of one cluster: a single look at the metadata store, then for each Topic what its plan says, then its status.
//! At rest that is one query and nothing written. One Topic that fails hinders no other. Called by the controller, never twice at once
//! for one cluster; a test calls it too. It may be cut off at any await: the next pass does the rest.

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

/// So many Topics are worked on at the same time.
const ABREAST: usize = 16;
/// After so many looks that failed in a row, Topics that were ready are no longer called so.
const PATIENCE: u32 = 3;

/// Whether the cluster's resource is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// There is none.
    Missing,
    /// It is being deleted.
    Ending,
    /// It is there.
    Live,
}

/// What a pass looks at.
#[derive(Debug)]
pub struct View {
    /// The cluster.
    pub cluster: ClusterKey,
    /// Whether it is there.
    pub presence: Presence,
    /// Its Topics, all of them: a claim of one that is not here may be taken for left behind.
    pub topics: Vec<Arc<Topic>>,
    /// Its metadata store; `None` when nobody has looked yet.
    pub access: Option<Access>,
    /// Take records and sizes into the statuses too.
    pub refresh: bool,
}

/// What passes over one cluster remember.
#[derive(Debug, Default)]
pub struct Memory {
    /// Topics as we have written them last, until the watch has caught up, by uid.
    latest: HashMap<String, Arc<Topic>>,
    waiting: Waiting,
    /// Looks at the metadata store that failed in a row.
    failures: u32,
    open: bool,
}

/// Topics by their Ready condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Ready.
    pub ready: i64,
    /// Not ready.
    pub not_ready: i64,
    /// Nobody knows.
    pub unknown: i64,
}

/// What came of a pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// When to come again without being asked.
    pub retry_at: Option<Instant>,
    /// How the Topics are.
    pub tally: Tally,
    /// Topics that failed or wait for a change.
    pub troubled: usize,
}

/// What a pass can do.
pub(super) enum Ground {
    /// Everything.
    Open { store: Store, overview: TopicsOverview },
    /// Nothing that needs the metadata store.
    Shut {
        problem: Problem,
        /// Also those that were ready are not called so any longer.
        everyone: bool,
        outcome: Outcome,
    },
}

/// One pass.
pub async fn pass(context: &Context, mut view: View, memory: &mut Memory) -> Report {
    let started = Instant::now();
    memory.freshen(&mut view.topics);
    // The older of two that want the same name comes first.
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

/// The uid, which everything in the API server has.
pub(super) fn uid(topic: &Topic) -> &str {
    topic.metadata.uid.as_deref().unwrap_or_default()
}

/// Looks at the metadata store, once, and gives up the claims of Topics that are gone.
async fn look(context: &Context, view: &View, memory: &mut Memory) -> Ground {
    let shut = |reason, message: &str, everyone| Ground::Shut {
        problem: Problem::new(reason, message),
        everyone,
        outcome: Outcome::Terminal,
    };
    let name = &view.cluster.name;
    let access = match (view.presence, &view.access) {
        (Presence::Missing, _) => {
            let message = format!("there is no StreamHouseCluster {name:?} in this namespace: create it");
            return shut(Reason::ClusterNotFound, &message, true);
        }
        (Presence::Ending, _) => {
            let message = format!("the StreamHouseCluster {name:?} is being deleted");
            return shut(Reason::ClusterNotReady, &message, true);
        }
        (Presence::Live, None) => {
            let message = "the cluster's metadata store has not been looked at yet";
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
            tracing::warn!(cluster = %view.cluster, %error, "the topics of a cluster could not be looked at");
            Ground::Shut {
                problem: Problem::new(Reason::ClusterNotReady, error.to_string()),
                everyone: memory.failures >= PATIENCE,
                outcome: Outcome::Error,
            }
        }
    }
}

/// A Topic that kept its topic leaves its claim behind when it goes, and so does one that went while the operator was down. What is
/// claimed from this cluster's namespace, or stands in the way of a Topic, is given up if the API server knows no such resource.
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
                    tracing::warn!(topic = %name, %owner, %error, "could not tell whether a claim was left behind");
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

/// Asks the API server itself: the watch may lag, and another replica may know more.
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
    tracing::info!(topic = %name, %owner, "its Topic is gone: the claim is given up, the topic stays");
    Ok(store.release(name, &owner.uid).await?)
}

/// What surrounds Topics that are being deleted. The namespace is asked for only when there is one.
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
    /// Puts what we wrote last in the place of what the watch does not know yet, and forgets what it knows.
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

/// The API server's versions are numbers that rise, as Kubernetes has promised since its 1.35.
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
