//! One pass over the Topics of one cluster: a single query of the metadata store, then the plan of
//! each Topic, then its status. At rest this is one query and no write. A Topic that fails does not
//! delay others. Called by the controller, never concurrently for the same cluster, and by `tests`.
//! May be cancelled at any await point: the next pass does the rest.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt as _, stream};
use tokio::time::Instant;

use super::{
    backoff::TopicBackoff,
    claims::release_stale_claims,
    error::TopicError,
    finalize::{OwnerState, TopicHeirs},
    metered_store::MeteredStore,
    reconciler::{MetadataAccess, TopicOutcome, TopicReconciler},
    refresh::RefreshTurn,
    status,
    validate::TopicProblem,
};
use crate::{
    api_calls::is_namespace_terminating,
    backoff::RECONCILE_BACKOFF,
    conditions::ConditionStatus,
    context::OperatorContext,
    crd::{ConditionReason, Topic},
    events::EventPublisher,
    finalizer::has_finalizer,
    metadata_stores::{ClusterKey, StoreAccess},
    metrics::ReconcileOutcome,
};

/// Number of Topics that are reconciled concurrently.
const MAX_CONCURRENT_TOPICS: usize = 16;
/// Number of consecutive failed queries after which ready Topics are no longer reported as ready.
const MAX_QUERY_FAILURES: u32 = 3;

/// Whether the cluster's resource exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterPresence {
    /// The resource does not exist.
    Missing,
    /// The resource is being deleted.
    Deleting,
    /// The resource exists.
    Live,
}

/// Input of a pass.
#[derive(Debug)]
pub struct PassInput {
    /// The cluster.
    pub cluster: ClusterKey,
    /// Whether its resource exists.
    pub presence: ClusterPresence,
    /// All of its Topics: the claim of a Topic that is not listed here may be considered stale.
    pub topics: Vec<Arc<Topic>>,
    /// Access to its metadata store; `None` before its first reconciliation.
    pub access: Option<StoreAccess>,
    /// The Topics whose records and sizes are updated in the status.
    pub refresh: Option<RefreshTurn>,
}

/// State that is kept between the passes over one cluster.
#[derive(Debug, Default)]
pub struct PassState {
    /// Topics as last written, by uid, until the watch has caught up.
    latest: HashMap<String, Arc<Topic>>,
    backoff: TopicBackoff,
    /// Number of consecutive failed queries of the metadata store.
    failures: u32,
    open: bool,
}

/// Number of Topics by their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadinessCounts {
    /// Ready.
    pub ready: i64,
    /// Not ready.
    pub not_ready: i64,
    /// Unknown.
    pub unknown: i64,
    /// Those whose last reconciliation failed, whatever their Ready condition.
    pub failing: i64,
}

/// Result of a pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct PassReport {
    /// When to run the next pass without a change.
    pub retry_at: Option<Instant>,
    /// Number of Topics by readiness.
    pub counts: ReadinessCounts,
    /// Number of Topics that failed or wait for a change.
    pub failing: usize,
}

/// Runs one pass.
pub async fn run_pass(context: &OperatorContext, mut view: PassInput, memory: &mut PassState) -> PassReport {
    let started = Instant::now();
    memory.apply_latest(&mut view.topics);
    // Of two Topics that want the same name, the older comes first.
    view.topics.sort_by_cached_key(|topic| {
        (
            topic.metadata.creation_timestamp.clone(),
            topic.resource_uid().to_owned(),
        )
    });
    let ground = query_metadata(context, &view, memory).await;
    let around = resolve_owner_state(context, &view).await;
    let events = EventPublisher::new(context.client.clone(), context.instance.clone());
    let one = TopicReconciler {
        context,
        events: &events,
        metadata: &ground,
        owner_state: &around,
        heirs: &TopicHeirs::find(&view.topics),
        refresh: view.refresh,
    };
    let now = Instant::now();
    let mut report = PassReport::default();
    let mut due = Vec::new();
    for topic in &view.topics {
        match memory.backoff.waits_until(topic.resource_uid(), topic, now) {
            Some(until) => report.record_skipped(topic, until),
            None => due.push(topic.clone()),
        }
    }
    let handled: Vec<TopicOutcome> = stream::iter(due)
        .map(|topic| one.reconcile_topic(topic))
        .buffer_unordered(MAX_CONCURRENT_TOPICS)
        .collect()
        .await;
    for one in handled {
        memory.record_outcome(context, one, &mut report);
    }
    if let MetadataAccess::Unavailable {
        outcome: ReconcileOutcome::Error,
        ..
    } = ground
    {
        let delay = RECONCILE_BACKOFF.delay_after(memory.failures, &*context.entropy);
        report.schedule_retry(Instant::now() + delay);
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

/// Queries the metadata store once and releases stale claims.
async fn query_metadata(
    context: &OperatorContext,
    view: &PassInput,
    memory: &mut PassState,
) -> MetadataAccess {
    let shut = |reason, message: &str, everyone| MetadataAccess::Unavailable {
        problem: TopicProblem::new(reason, message),
        affects_ready: everyone,
        outcome: match reason {
            ConditionReason::ClusterNotFound => ReconcileOutcome::Blocked,
            _ => ReconcileOutcome::Waiting,
        },
    };
    let name = &view.cluster.name;
    let access = match (view.presence, &view.access) {
        (ClusterPresence::Missing, _) => {
            let message = format!("StreamHouseCluster {name:?} does not exist in this namespace: create it");
            return shut(ConditionReason::ClusterNotFound, &message, true);
        }
        (ClusterPresence::Deleting, _) => {
            let message = format!("StreamHouseCluster {name:?} is being deleted");
            return shut(ConditionReason::ClusterNotReady, &message, true);
        }
        (ClusterPresence::Live, None) => {
            let message = "the metadata store of the cluster has not been checked yet";
            return shut(ConditionReason::ClusterNotReady, message, false);
        }
        (ClusterPresence::Live, Some(StoreAccess::Closed(why))) => {
            memory.open = false;
            return shut(ConditionReason::ClusterNotReady, why, true);
        }
        (ClusterPresence::Live, Some(StoreAccess::Open(store))) => store,
    };
    let store = MeteredStore::new(access.clone(), context.metrics.clone());
    if !memory.open {
        memory.open = true;
        memory.backoff.clear();
    }
    match store.overview().await {
        Ok(mut overview) => {
            memory.failures = 0;
            release_stale_claims(
                context,
                &view.cluster.namespace,
                &view.topics,
                &store,
                &mut overview,
            )
            .await;
            MetadataAccess::Open { store, overview }
        }
        Err(error) => {
            memory.failures = memory.failures.saturating_add(1);
            tracing::warn!(cluster = %view.cluster, %error, "cannot query the topics of a cluster");
            MetadataAccess::Unavailable {
                problem: TopicProblem::new(ConditionReason::ClusterNotReady, error.to_string()),
                affects_ready: memory.failures >= MAX_QUERY_FAILURES,
                outcome: ReconcileOutcome::Error,
            }
        }
    }
}

/// Determines the state of the owner of Topics that are being deleted. Reads the namespace only if
/// there are such Topics.
async fn resolve_owner_state(context: &OperatorContext, view: &PassInput) -> Result<OwnerState, TopicError> {
    let ends =
        |topic: &Arc<Topic>| topic.metadata.deletion_timestamp.is_some() && has_finalizer(&topic.metadata);
    if view.presence != ClusterPresence::Live {
        return Ok(OwnerState::ClusterDeleting);
    }
    if view.topics.iter().any(ends) && is_namespace_terminating(context, &view.cluster.namespace).await? {
        return Ok(OwnerState::NamespaceTerminating);
    }
    Ok(OwnerState::Present)
}

impl PassState {
    /// Replaces Topics that the watch has not caught up with by their last written version, and
    /// drops versions that it has.
    fn apply_latest(&mut self, topics: &mut [Arc<Topic>]) {
        let there: HashSet<&str> = topics.iter().map(|topic| topic.resource_uid()).collect();
        self.latest.retain(|uid, _| there.contains(uid.as_str()));
        self.backoff.retain(&there);
        for topic in topics {
            let Some(latest) = self.latest.get(topic.resource_uid()) else {
                continue;
            };
            if resource_version(topic) < resource_version(latest) {
                *topic = latest.clone();
            } else {
                self.latest.remove(topic.resource_uid());
            }
        }
    }

    fn record_outcome(&mut self, context: &OperatorContext, one: TopicOutcome, report: &mut PassReport) {
        let outcomes = &context.metrics.reconciles;
        outcomes.with_label_values(&["Topic", one.outcome.as_str()]).inc();
        let uid = one.topic.resource_uid().to_owned();
        if one.retry {
            let due = self
                .backoff
                .record_failure(&uid, &one.topic, Instant::now(), &*context.entropy);
            report.schedule_retry(due);
        } else {
            self.backoff.record_success(&uid);
        }
        report.failing += usize::from(one.outcome != ReconcileOutcome::Ok);
        report.counts.failing += i64::from(one.outcome == ReconcileOutcome::Error);
        if !one.gone {
            report.count_readiness(&one.topic);
        }
        if one.written {
            self.latest.insert(uid, one.topic);
        }
    }
}

/// Resource versions are increasing numbers, as guaranteed since Kubernetes 1.35.
fn resource_version(topic: &Topic) -> u64 {
    let version = topic.metadata.resource_version.as_deref();
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or_default()
}

impl PassReport {
    fn schedule_retry(&mut self, at: Instant) {
        self.retry_at = Some(self.retry_at.map_or(at, |before| before.min(at)));
    }

    fn record_skipped(&mut self, topic: &Topic, until: Instant) {
        self.schedule_retry(until);
        self.failing += 1;
        self.counts.failing += 1;
        self.count_readiness(topic);
    }

    fn count_readiness(&mut self, topic: &Topic) {
        match status::stored_ready(topic) {
            Some((state, _, _)) if state == ConditionStatus::True.as_str() => self.counts.ready += 1,
            Some((state, _, _)) if state == ConditionStatus::False.as_str() => self.counts.not_ready += 1,
            _ => self.counts.unknown += 1,
        }
    }
}
