//! Watches Users and their clusters and reconciles on changes. Called by the leader. Returns after
//! `stop` is cancelled and running reconciliations have finished.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt, future, stream};
use kube::{
    Resource as _,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use parking_lot::Mutex;
use tokio::{
    sync::{
        Semaphore,
        broadcast::{Receiver, error::RecvError},
    },
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{reconciler::UserReconciler, status};
use crate::{
    conditions::ConditionStatus,
    context::{OperatorContext, WatchScope, is_forbidden},
    crd::{StreamHouseCluster, User},
};

/// A User that may be one that cannot be decoded.
type GuardedUser = DeserializeGuard<User>;

/// Changes in quick succession are reconciled together.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Number of Users that are reconciled concurrently.
const CONCURRENCY: u16 = 16;
/// Interval at which Users are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);
/// Value of the label `kind` in metrics.
const METRIC_KIND: &str = "User";

struct UserControllerState {
    reconciler: UserReconciler,
    context: OperatorContext,
    /// Limits the reconciliations of all watches together.
    running: Semaphore,
    /// The Users of each watch; a watch has an entry once it has listed its Users.
    counts: Mutex<HashMap<Option<Vec<String>>, UserCounts>>,
}

/// The Users of one watch: their uids, their number by their Ready condition, and the number of
/// those that cannot be decoded.
#[derive(Debug, Default)]
struct UserCounts {
    uids: HashSet<String>,
    ready: i64,
    not_ready: i64,
    unknown: i64,
    undecodable: i64,
}

/// Reconciles all Users in the scope until `stop` is cancelled.
pub async fn run(context: OperatorContext, stop: CancellationToken) {
    let work = Arc::new(UserControllerState {
        reconciler: UserReconciler::new(context.clone()),
        context: context.clone(),
        running: Semaphore::new(usize::from(CONCURRENCY)),
        counts: Mutex::default(),
    });
    let scopes = context.scope.per_watch();
    let watches = scopes
        .iter()
        .map(|scope| run_watch(work.clone(), scope, stop.child_token()));
    future::join_all(watches).await;
}

async fn run_watch(work: Arc<UserControllerState>, scope: &WatchScope, stop: CancellationToken) {
    let client = &work.context.client;
    // Exactly one of each, in the scope of one watch.
    let (Some(users), Some(clusters)) = (
        scope.apis::<GuardedUser>(client).pop(),
        scope.apis::<PartialObjectMeta<StreamHouseCluster>>(client).pop(),
    ) else {
        return;
    };
    let stores = wakes(work.context.stores.subscribe());
    let released = wakes(work.reconciler.subscribe_released());
    let controller = Controller::new(users, watcher::Config::default())
        .with_config(
            controller::Config::default()
                .debounce(DEBOUNCE)
                .concurrency(CONCURRENCY),
        )
        .graceful_shutdown_on(stop.cancelled_owned());
    let store = controller.store();
    let of_cluster = store.clone();
    let counting = async {
        if store.wait_until_ready().await.is_err() {
            future::pending::<()>().await;
        }
        mark_listed(&work, scope, &store);
        let mut ticks = tokio::time::interval(COUNT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            count_users(&work, scope, &store);
        }
    };
    let working = controller
        .watches(clusters, watcher::Config::default(), move |cluster| {
            users_of(&of_cluster, &cluster)
        })
        .reconcile_all_on(stream::select(stores, released))
        .run(reconcile, error_policy, work.clone())
        .for_each(|outcome| {
            if let Err(error) = outcome {
                if is_forbidden_watch(&error) {
                    mark_listed(&work, scope, &store);
                }
                tracing::debug!(%error, "a watch of Users or of their clusters failed; restarting it");
            }
            future::ready(())
        });
    tokio::select! {
        () = counting => {}
        () = working => {}
    }
}

/// Returns a stream with an item for each message, or for several that were missed.
fn wakes<T: Clone + Send + 'static>(messages: Receiver<T>) -> impl Stream<Item = ()> + Send {
    stream::unfold(messages, |mut messages| async move {
        match messages.recv().await {
            Ok(_) | Err(RecvError::Lagged(_)) => Some(((), messages)),
            Err(RecvError::Closed) => None,
        }
    })
}

/// Returns the Users of a cluster that has changed.
fn users_of(
    store: &Store<GuardedUser>,
    cluster: &PartialObjectMeta<StreamHouseCluster>,
) -> Vec<ObjectRef<GuardedUser>> {
    let is_of_cluster = |user: &GuardedUser| {
        user.0.as_ref().is_ok_and(|user| {
            user.metadata.namespace == cluster.metadata.namespace
                && Some(&user.spec.cluster_ref.name) == cluster.metadata.name.as_ref()
        })
    };
    let users = store.state_filter(is_of_cluster);
    users.iter().map(|user| ObjectRef::from_obj(&**user)).collect()
}

async fn reconcile(user: Arc<GuardedUser>, work: Arc<UserControllerState>) -> Result<Action, Infallible> {
    // Fails only if the semaphore was closed, which nobody does.
    let _permit = work.running.acquire().await;
    let begin = Instant::now();
    let done = match &user.0 {
        Ok(user) => work.reconciler.reconcile(user).await,
        Err(invalid) => work.reconciler.handle_undecodable(invalid).await,
    };
    let seconds = begin.elapsed().as_secs_f64();
    let now_ms = work.context.clock.now_ms();
    let metrics = &work.context.metrics;
    metrics.record_reconcile(METRIC_KIND, done.outcome, seconds, now_ms);
    Ok(done.after.map_or_else(Action::await_change, Action::requeue))
}

/// Returns whether the operator may not read Users or clusters. A namespace that is forbidden does
/// not keep the operator from being ready for others.
fn is_forbidden_watch(error: &controller::Error<Infallible, watcher::Error>) -> bool {
    matches!(error, controller::Error::QueueError(error) if is_forbidden(error))
}

/// A reconciliation reports its failures as its action.
fn error_policy(_: Arc<GuardedUser>, error: &Infallible, _: Arc<UserControllerState>) -> Action {
    match *error {}
}

fn mark_listed(work: &UserControllerState, scope: &WatchScope, store: &Store<GuardedUser>) {
    count_users(work, scope, store);
    let metrics = &work.context.metrics;
    if work.counts.lock().len() == work.context.scope.per_watch().len() {
        metrics.synced.with_label_values(&[METRIC_KIND]).set(1);
    }
}

/// Counts the Users of one watch and publishes the sums over all watches. Once all have counted,
/// what is remembered of Users that no longer exist is dropped.
fn count_users(work: &UserControllerState, scope: &WatchScope, store: &Store<GuardedUser>) {
    let mut all = work.counts.lock();
    all.insert(scope.namespaces.clone(), UserCounts::of(&store.state()));
    if all.len() == work.context.scope.per_watch().len() {
        work.reconciler
            .retain(|uid| all.values().any(|counts| counts.uids.contains(uid)));
    }
    let sum = |of: fn(&UserCounts) -> i64| all.values().map(of).sum();
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

impl UserCounts {
    fn of(users: &[Arc<GuardedUser>]) -> Self {
        let mut counts = Self::default();
        for user in users {
            counts.uids.extend(user.meta().uid.clone());
            match &user.0 {
                Ok(user) => match status::stored_ready(user) {
                    Some((state, ..)) if state == ConditionStatus::True.as_str() => counts.ready += 1,
                    Some((state, ..)) if state == ConditionStatus::False.as_str() => counts.not_ready += 1,
                    _ => counts.unknown += 1,
                },
                Err(_) => counts.undecodable += 1,
            }
        }
        counts
    }
}
