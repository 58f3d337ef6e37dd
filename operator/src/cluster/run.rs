//! Watches clusters and their children and reconciles on changes. Called by the leader. Returns
//! after `stop` is cancelled and running reconciliations have finished.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future};
use kube::{
    Resource as _, ResourceExt,
    api::DynamicObject,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        Controller, WatchStreamExt,
        controller::{self, Action},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    ClusterReconciler,
    children::{LABEL_CLUSTER, LABEL_CLUSTER_NAMESPACE, ManagedKind},
};
use crate::{
    context::{OperatorContext, WatchScope, is_forbidden},
    crd::{FIELD_MANAGER, StreamHouseCluster},
    metadata_stores::ClusterKey,
};

/// A cluster that may be one that cannot be decoded.
type GuardedCluster = DeserializeGuard<StreamHouseCluster>;

/// Changes in quick succession are reconciled together.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Value of the label `kind` in metrics.
const METRIC_KIND: &str = "StreamHouseCluster";

struct ControllerState {
    reconciler: ClusterReconciler,
    context: OperatorContext,
    /// Limits the reconciliations of all watches together.
    running: Semaphore,
    synced: Mutex<SyncedWatches>,
    /// The clusters that are being reconciled, and whether each was deleted meanwhile.
    in_progress: Mutex<HashMap<ClusterKey, bool>>,
    /// Number of clusters per watch.
    counts: Mutex<HashMap<Option<Vec<String>>, ClusterCounts>>,
}

/// Number of clusters by their Ready condition, and of those that cannot be decoded.
#[derive(Debug, Clone, Copy, Default)]
struct ClusterCounts {
    ready: i64,
    not_ready: i64,
    unknown: i64,
    undecodable: i64,
}

/// The watches by their scope.
#[derive(Default)]
struct SyncedWatches {
    /// Those that have listed all their clusters.
    listed: HashSet<Option<Vec<String>>>,
    /// Those that the API server forbids.
    forbidden: HashSet<Option<Vec<String>>>,
}

impl ControllerState {
    /// Drops the state of a cluster that no longer exists, again at the end of a reconciliation
    /// that is in progress.
    fn forget(&self, key: &ClusterKey) {
        if let Some(deleted) = self.in_progress.lock().get_mut(key) {
            *deleted = true;
        }
        self.reconciler.remove(key);
    }

    /// Records that the watch of this scope has listed all its clusters, or that it is forbidden.
    /// A namespace that the operator may not read does not keep it from being ready for others.
    fn mark_watch(&self, scope: &WatchScope, forbidden: bool) {
        let mut synced = self.synced.lock();
        if forbidden {
            synced.forbidden.insert(scope.namespaces.clone());
        } else {
            synced.forbidden.remove(&scope.namespaces);
            synced.listed.insert(scope.namespaces.clone());
        }
        for namespace in scope.namespaces.iter().flatten() {
            self.context.metrics.set_namespace_forbidden(namespace, forbidden);
        }
        let answered = |scope: &WatchScope| {
            let names = &scope.namespaces;
            synced.listed.contains(names) || synced.forbidden.contains(names)
        };
        if !synced.listed.is_empty() && self.context.scope.per_watch().iter().all(answered) {
            let gauge = &self.context.metrics.synced;
            gauge.with_label_values(&[METRIC_KIND]).set(1);
        }
    }
}

/// Runs until `stop` is cancelled, with at most `concurrency` concurrent reconciliations.
///
/// # Errors
///
/// Returns an error if a watch ends by itself.
pub async fn run(context: OperatorContext, concurrency: u16, stop: CancellationToken) -> anyhow::Result<()> {
    let work = Arc::new(ControllerState {
        reconciler: ClusterReconciler::new(context.clone()),
        context: context.clone(),
        running: Semaphore::new(usize::from(concurrency)),
        synced: Mutex::default(),
        in_progress: Mutex::default(),
        counts: Mutex::default(),
    });
    loop {
        let mut changes = context.apis.subscribe();
        changes.mark_unchanged();
        // Ends this iteration: at shutdown, or to watch different APIs.
        let round = stop.child_token();
        // One store per watch: a watch that restarts replaces the contents of its store.
        let each = context.scope.per_watch();
        let watching = future::try_join_all(
            each.iter()
                .map(|scope| run_watch(work.clone(), scope, concurrency, round.clone())),
        );
        tokio::pin!(watching);
        tokio::select! {
            ended = &mut watching => {
                anyhow::ensure!(stop.is_cancelled(), "the watch of clusters has ended unexpectedly: {ended:?}");
                return Ok(());
            }
            _ = changes.changed() => {
                tracing::info!("the set of optional APIs has changed: restarting the watches");
                round.cancel();
                watching.await?;
            }
        }
        if stop.is_cancelled() {
            return Ok(());
        }
    }
}

async fn run_watch(
    work: Arc<ControllerState>,
    scope: &WatchScope,
    concurrency: u16,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // Exactly one, in the scope of one watch.
    let Some(clusters) = scope.apis::<GuardedCluster>(&work.context.client).pop() else {
        return Ok(());
    };
    let context = &work.context;
    let ends = watch_presence(work.clone(), scope);
    let mut controller = Controller::new(clusters, watcher::Config::default())
        .with_config(
            controller::Config::default()
                .debounce(DEBOUNCE)
                .concurrency(concurrency),
        )
        .graceful_shutdown_on(stop.cancelled_owned());
    let store = controller.store();
    let caught_up = async {
        if store.wait_until_ready().await.is_ok() {
            work.mark_watch(scope, false);
        }
        future::pending::<()>().await;
    };
    let labels = format!("app.kubernetes.io/managed-by={FIELD_MANAGER},{LABEL_CLUSTER}");
    for kind in ManagedKind::ALL {
        if kind.optional_api().is_some_and(|api| !context.apis.has(api)) {
            continue;
        }
        let resource = kind.served_resource(&context.apis);
        for api in scope.dynamic_apis(&context.client, &resource) {
            let selected = watcher::Config::default().labels(&labels);
            controller = controller.watches_with(api, resource.clone(), selected, owner_of);
        }
    }
    let working = controller
        .run(reconcile, error_policy, work.clone())
        .for_each(|outcome| {
            if let Err(error) = outcome {
                tracing::debug!(%error, "a watch of clusters or of their objects failed; restarting it");
            }
            count_ready(&work, scope, &store);
            future::ready(())
        });
    tokio::select! {
        () = caught_up => Ok(()),
        () = working => Ok(()),
        () = ends => anyhow::bail!("the watch for deleted clusters has ended unexpectedly"),
    }
}

/// Watches which clusters exist: for those that no longer do, which a controller does not report,
/// and for whether the operator may read them.
async fn watch_presence(work: Arc<ControllerState>, scope: &WatchScope) {
    let Some(clusters) = scope
        .apis::<PartialObjectMeta<StreamHouseCluster>>(&work.context.client)
        .pop()
    else {
        return;
    };
    let key_of = |cluster: &PartialObjectMeta<StreamHouseCluster>| {
        ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any())
    };
    let in_scope = |key: &ClusterKey| {
        scope
            .namespaces
            .as_ref()
            .is_none_or(|names| names.contains(&key.namespace))
    };
    let mut listed = HashSet::new();
    let mut events = watcher(clusters, watcher::Config::default())
        .default_backoff()
        .boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(cluster)) => {
                listed.insert(key_of(&cluster));
            }
            Ok(watcher::Event::InitDone) => {
                work.mark_watch(scope, false);
                let known = work.context.stores.clusters();
                known
                    .iter()
                    .filter(|key| in_scope(key) && !listed.contains(key))
                    .for_each(|key| work.forget(key));
            }
            Ok(watcher::Event::Delete(cluster)) => work.forget(&key_of(&cluster)),
            Ok(watcher::Event::Apply(_)) => {}
            Err(error) => {
                if is_forbidden(&error) {
                    work.mark_watch(scope, true);
                }
                tracing::debug!(%error, "the watch for deleted clusters failed; retrying");
            }
        }
    }
}

/// Returns the cluster in the labels of a child.
fn owner_of(child: DynamicObject) -> Option<ObjectRef<GuardedCluster>> {
    let labels = child.labels();
    let (name, namespace) = (labels.get(LABEL_CLUSTER)?, labels.get(LABEL_CLUSTER_NAMESPACE)?);
    Some(ObjectRef::new(name).within(namespace))
}

async fn reconcile(cluster: Arc<GuardedCluster>, work: Arc<ControllerState>) -> Result<Action, Infallible> {
    // Fails only if the semaphore was closed, which nobody does.
    let _permit = work.running.acquire().await;
    let begin = Instant::now();
    let metadata = cluster.meta();
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let key = ClusterKey::new(text(&metadata.namespace), text(&metadata.name));
    work.in_progress.lock().insert(key.clone(), false);
    let action = match &cluster.0 {
        Ok(cluster) => work.reconciler.reconcile(cluster).await,
        Err(invalid) => work.reconciler.handle_undecodable(invalid).await,
    };
    if work.in_progress.lock().remove(&key) == Some(true) {
        work.reconciler.remove(&key);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let now_ms = work.context.clock.now_ms();
    work.context
        .metrics
        .record_reconcile(METRIC_KIND, action.outcome, seconds, now_ms);
    Ok(action.after.map_or_else(Action::await_change, Action::requeue))
}

/// A reconciliation reports its failures as its action.
fn error_policy(_: Arc<GuardedCluster>, error: &Infallible, _: Arc<ControllerState>) -> Action {
    match *error {}
}

/// Counts the clusters of one watch and publishes the sums over all watches.
fn count_ready(work: &ControllerState, scope: &WatchScope, store: &Store<GuardedCluster>) {
    let mut counts = ClusterCounts::default();
    for cluster in store.state() {
        match &cluster.0 {
            Ok(cluster) => *count_of(&mut counts, cluster) += 1,
            Err(_) => counts.undecodable += 1,
        }
    }
    let mut all = work.counts.lock();
    all.insert(scope.namespaces.clone(), counts);
    let sum = |of: fn(&ClusterCounts) -> i64| all.values().map(of).sum();
    let metrics = &work.context.metrics;
    let resources = |label: &str, number| {
        let gauge = metrics.resources.with_label_values(&[METRIC_KIND, label]);
        gauge.set(number);
    };
    resources("true", sum(|counts| counts.ready));
    resources("false", sum(|counts| counts.not_ready + counts.undecodable));
    resources("unknown", sum(|counts| counts.unknown));
    let undecodable = metrics.undecodable.with_label_values(&[METRIC_KIND]);
    undecodable.set(sum(|counts| counts.undecodable));
    let failing = metrics.failing.with_label_values(&[METRIC_KIND]);
    failing.set(work.reconciler.failing());
}

fn count_of<'a>(counts: &'a mut ClusterCounts, cluster: &StreamHouseCluster) -> &'a mut i64 {
    let conditions = cluster
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    let ready = crate::conditions::find_condition(conditions, crate::crd::ConditionType::Ready);
    match ready.map(|ready| ready.status.as_str()) {
        Some("True") => &mut counts.ready,
        Some("False") => &mut counts.not_ready,
        _ => &mut counts.unknown,
    }
}
