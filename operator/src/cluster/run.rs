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
    Reconciler,
    children::{LABEL_CLUSTER, LABEL_CLUSTER_NAMESPACE, ManagedKind},
};
use crate::{
    backoff::delay,
    context::{Context, Scope},
    crd::{MANAGER, StreamHouseCluster},
    metrics::Outcome,
    stores::ClusterKey,
};

/// Changes in quick succession are reconciled together.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Value of the label `kind` in metrics.
const KIND: &str = "StreamHouseCluster";

struct Work {
    reconciler: Reconciler,
    failures: Mutex<HashMap<ClusterKey, u32>>,
    context: Context,
    /// The watches that have listed all their clusters.
    seen: Mutex<HashSet<Option<Vec<String>>>>,
}

impl Work {
    /// Records that the watch of this scope has listed all its clusters.
    fn saw(&self, scope: &Scope) {
        let mut seen = self.seen.lock();
        seen.insert(scope.namespaces.clone());
        if seen.len() == self.context.scope.each().len() {
            self.context.metrics.synced.with_label_values(&[KIND]).set(1);
        }
    }
}

/// Runs until `stop` is cancelled, with at most `concurrency` concurrent reconciliations per watch.
///
/// # Errors
///
/// Returns an error if a watch ends by itself.
pub async fn run(context: Context, concurrency: u16, stop: CancellationToken) -> anyhow::Result<()> {
    let work = Arc::new(Work {
        reconciler: Reconciler::new(context.clone()),
        failures: Mutex::default(),
        context: context.clone(),
        seen: Mutex::default(),
    });
    loop {
        let mut changes = context.apis.changes();
        changes.mark_unchanged();
        // Ends this iteration: at shutdown, or to watch different APIs.
        let round = stop.child_token();
        // One store per watch: a watch that restarts replaces the contents of its store.
        let each = context.scope.each();
        let watching = future::try_join_all(
            each.iter()
                .map(|scope| watch(work.clone(), scope, concurrency, round.clone())),
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

async fn watch(
    work: Arc<Work>,
    scope: &Scope,
    concurrency: u16,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // Exactly one, in the scope of one watch.
    let Some(clusters) = scope.apis::<StreamHouseCluster>(&work.context.client).pop() else {
        return Ok(());
    };
    let context = &work.context;
    let ends = notice_ends(work.clone(), scope, clusters.clone());
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
            work.saw(scope);
        }
        future::pending::<()>().await;
    };
    let labels = format!("app.kubernetes.io/managed-by={MANAGER},{LABEL_CLUSTER}");
    for kind in ManagedKind::ALL {
        if kind.optional_api().is_some_and(|api| !context.apis.has(api)) {
            continue;
        }
        let resource = kind.api_resource();
        for api in scope.dynamic_apis(&context.client, &resource) {
            let selected = watcher::Config::default().labels(&labels);
            controller = controller.watches_with(api, resource.clone(), selected, owner);
        }
    }
    let working = controller
        .run(reconcile, on_error, work.clone())
        .for_each(|outcome| {
            if let Err(error) = outcome {
                tracing::debug!(%error, "a reconciliation of a cluster failed");
            }
            count(&work.context, &store);
            future::ready(())
        });
    tokio::select! {
        () = caught_up => Ok(()),
        () = working => Ok(()),
        () = ends => anyhow::bail!("the watch for deleted clusters has ended unexpectedly"),
    }
}

/// Watches for clusters that no longer exist, which a controller does not report.
async fn notice_ends(work: Arc<Work>, scope: &Scope, clusters: Api<StreamHouseCluster>) {
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
        work.reconciler.forget(key);
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
fn owner(child: DynamicObject) -> Option<ObjectRef<StreamHouseCluster>> {
    let labels = child.labels();
    let (name, namespace) = (labels.get(LABEL_CLUSTER)?, labels.get(LABEL_CLUSTER_NAMESPACE)?);
    Some(ObjectRef::new(name).within(namespace))
}

async fn reconcile(cluster: Arc<StreamHouseCluster>, work: Arc<Work>) -> Result<Action, kube::Error> {
    let begin = Instant::now();
    let key = ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
    let outcome = work.reconciler.reconcile(cluster).await;
    let seconds = begin.elapsed().as_secs_f64();
    let label = match &outcome {
        Ok(_) => Outcome::Ok,
        Err(_) => Outcome::Error,
    };
    work.context
        .metrics
        .reconciled(KIND, label, seconds, work.context.clock.now_ms());
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
fn on_error(cluster: Arc<StreamHouseCluster>, _: &kube::Error, work: Arc<Work>) -> Action {
    let key = ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
    let failures = {
        let mut failures = work.failures.lock();
        let count = failures.entry(key).or_insert(0);
        *count = count.saturating_add(1);
        *count
    };
    Action::requeue(delay(failures, &*work.context.entropy))
}

/// Counts the clusters by readiness for the metrics.
fn count(context: &Context, store: &Store<StreamHouseCluster>) {
    let mut counts = HashMap::from([("true", 0), ("false", 0), ("unknown", 0)]);
    for cluster in store.state() {
        let conditions = cluster
            .status
            .as_ref()
            .map(|status| status.conditions.as_slice())
            .unwrap_or_default();
        let ready = crate::conditions::find(conditions, crate::crd::ConditionType::Ready);
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
            .with_label_values(&[KIND, label])
            .set(number);
    }
}
