//! Watches clusters and their children and reconciles on changes. Called by the leader. Returns
//! after `stop` is cancelled and running reconciliations have finished.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future};
use kube::{
    Api, ResourceExt,
    api::DynamicObject,
    runtime::{
        Controller, WatchStreamExt,
        controller::{self, Action},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    ClusterReconciler,
    children::{LABEL_CLUSTER, LABEL_CLUSTER_NAMESPACE, ManagedKind},
};
use crate::{
    backoff::RECONCILE_BACKOFF,
    context::{OperatorContext, WatchScope},
    crd::{FIELD_MANAGER, StreamHouseCluster},
    metadata_stores::ClusterKey,
    metrics::ReconcileOutcome,
};

/// Changes in quick succession are reconciled together.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Value of the label `kind` in metrics.
const METRIC_KIND: &str = "StreamHouseCluster";

struct ControllerState {
    reconciler: ClusterReconciler,
    failures: Mutex<HashMap<ClusterKey, u32>>,
    context: OperatorContext,
    /// The watches that have listed all their clusters.
    synced: Mutex<HashSet<Option<Vec<String>>>>,
}

impl ControllerState {
    /// Records that the watch of this scope has listed all its clusters.
    fn mark_synced(&self, scope: &WatchScope) {
        let mut seen = self.synced.lock();
        seen.insert(scope.namespaces.clone());
        if seen.len() == self.context.scope.per_watch().len() {
            self.context
                .metrics
                .synced
                .with_label_values(&[METRIC_KIND])
                .set(1);
        }
    }
}

/// Runs until `stop` is cancelled, with at most `concurrency` concurrent reconciliations per watch.
///
/// # Errors
///
/// Returns an error if a watch ends by itself.
pub async fn run(context: OperatorContext, concurrency: u16, stop: CancellationToken) -> anyhow::Result<()> {
    let work = Arc::new(ControllerState {
        reconciler: ClusterReconciler::new(context.clone()),
        failures: Mutex::default(),
        context: context.clone(),
        synced: Mutex::default(),
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
    let Some(clusters) = scope.apis::<StreamHouseCluster>(&work.context.client).pop() else {
        return Ok(());
    };
    let context = &work.context;
    let ends = watch_deletions(work.clone(), scope, clusters.clone());
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
            work.mark_synced(scope);
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
                tracing::debug!(%error, "a reconciliation of a cluster failed");
            }
            count_ready(&work.context, &store);
            future::ready(())
        });
    tokio::select! {
        () = caught_up => Ok(()),
        () = working => Ok(()),
        () = ends => anyhow::bail!("the watch for deleted clusters has ended unexpectedly"),
    }
}

/// Watches for clusters that no longer exist, which a controller does not report.
async fn watch_deletions(work: Arc<ControllerState>, scope: &WatchScope, clusters: Api<StreamHouseCluster>) {
    let key_of = |cluster: &StreamHouseCluster| {
        ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any())
    };
    let in_scope = |key: &ClusterKey| {
        scope
            .namespaces
            .as_ref()
            .is_none_or(|names| names.contains(&key.namespace))
    };
    let forget = |key: &ClusterKey| {
        work.reconciler.remove(key);
        work.failures.lock().remove(key);
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
                let known = work.context.stores.clusters();
                known
                    .iter()
                    .filter(|key| in_scope(key) && !listed.contains(key))
                    .for_each(forget);
            }
            Ok(watcher::Event::Delete(cluster)) => forget(&key_of(&cluster)),
            Ok(watcher::Event::Apply(_)) => {}
            Err(error) => tracing::debug!(%error, "the watch for deleted clusters failed; retrying"),
        }
    }
}

/// Returns the cluster in the labels of a child.
fn owner_of(child: DynamicObject) -> Option<ObjectRef<StreamHouseCluster>> {
    let labels = child.labels();
    let (name, namespace) = (labels.get(LABEL_CLUSTER)?, labels.get(LABEL_CLUSTER_NAMESPACE)?);
    Some(ObjectRef::new(name).within(namespace))
}

async fn reconcile(
    cluster: Arc<StreamHouseCluster>,
    work: Arc<ControllerState>,
) -> Result<Action, kube::Error> {
    let begin = Instant::now();
    let key = ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
    let outcome = work.reconciler.reconcile(cluster).await;
    let seconds = begin.elapsed().as_secs_f64();
    let label = match &outcome {
        Ok(_) => ReconcileOutcome::Ok,
        Err(_) => ReconcileOutcome::Error,
    };
    work.context
        .metrics
        .record_reconcile(METRIC_KIND, label, seconds, work.context.clock.now_ms());
    match outcome {
        Ok(action) => {
            work.failures.lock().remove(&key);
            Ok(action)
        }
        Err(error) => {
            tracing::warn!(cluster = %key, %error, "cannot reconcile the cluster; retrying");
            Err(error)
        }
    }
}

/// Requeues with exponential back-off and jitter.
fn error_policy(cluster: Arc<StreamHouseCluster>, _: &kube::Error, work: Arc<ControllerState>) -> Action {
    let key = ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
    let failures = {
        let mut failures = work.failures.lock();
        let count = failures.entry(key).or_insert(0);
        *count = count.saturating_add(1);
        *count
    };
    Action::requeue(RECONCILE_BACKOFF.delay_after(failures, &*work.context.entropy))
}

/// Counts the clusters by readiness for the metrics.
fn count_ready(context: &OperatorContext, store: &Store<StreamHouseCluster>) {
    let mut counts = HashMap::from([("true", 0), ("false", 0), ("unknown", 0)]);
    for cluster in store.state() {
        let conditions = cluster
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice())
            .unwrap_or_default();
        let ready = crate::conditions::find_condition(conditions, crate::crd::ConditionType::Ready);
        let label = match ready.map(|ready| ready.status.as_str()) {
            Some("True") => "true",
            Some("False") => "false",
            _ => "unknown",
        };
        *counts.entry(label).or_insert(0) += 1;
    }
    for (label, number) in counts {
        context
            .metrics
            .resources
            .with_label_values(&[METRIC_KIND, label])
            .set(number);
    }
}
