//! An agent stops at each step of flush, commit, roll, swap, delete and sweep; another takes over;
//! then the first continues, or it has crashed. The object store fails each operation of these
//! steps in each way. The invariants hold.

use streamhouse_metadata::keys;

use super::{
    ledger::*,
    stores::{FaultyStores, QUIET_ARGUMENTS, expire_ended_incarnations, run_jobs_until_idle},
    *,
};
use crate::{
    failpoint::FailPoint,
    maintenance::{delete, roll, sweep},
    store::{
        StoreErrorKind, StoreOperation,
        fault::{Toxic, ToxicKind},
    },
};

/// Two agents, a topic, and the acknowledged records.
struct TakeoverCluster {
    stores: FaultyStores,
    ledger: parking_lot::Mutex<RecordLedger>,
    log: PartitionName,
    producer: TestProducer,
    /// The leader, which has the oldest incarnation.
    first: Agent,
}

impl TakeoverCluster {
    /// Starts one agent, with two records in the WAL and one orphan of an ended incarnation.
    async fn new() -> Self {
        let stores = FaultyStores::without_graces().await;
        let first = stores.start_ready_agent("one", &QUIET_ARGUMENTS).await;
        create_topic(&first, "orders", 1).await;
        let log = user_partitions(&stores).await.remove(0);
        let producer = TestProducer::new(&stores, &log).await;
        let mut cluster = Self {
            stores,
            ledger: parking_lot::Mutex::default(),
            log,
            producer,
            first,
        };
        cluster.leave_an_orphan().await;
        for _ in 0..2 {
            cluster
                .producer
                .send(&cluster.ledger, &cluster.first.node)
                .await
                .unwrap();
        }
        cluster
    }

    /// Leaves the orphan of an agent that ended between PUT and commit.
    async fn leave_an_orphan(&self) {
        let registration = AgentRegistration {
            agent_id: "dead".to_owned(),
            ..registration(&self.first.node.settings, self.first.addresses(), None)
        };
        let metadata = self.stores.metadata.inner();
        let dead = metadata.register_agent(&registration).await.unwrap().incarnation;
        let key = keys::wal_key(dead, 0);
        self.stores.store.put_new(&key, "orphan".into()).await.unwrap();
        metadata.seal(dead).await.unwrap();
        let node = self.first.node.clone();
        node.directory.request_refresh();
        wait_until("the ended incarnation shows", || {
            let view = node.directory.view();
            view.snapshot
                .unswept
                .iter()
                .any(|(incarnation, _)| *incarnation == dead)
        })
        .await;
    }

    /// Leaves a segment of a deleted topic.
    async fn leave_a_deleted_segment(&self) {
        create_topic(&self.first, "gone", 1).await;
        produce(&self.first, "gone", 0, "x").await.unwrap();
        let node = &self.first.node;
        let session = node.session().unwrap();
        let gone = session
            .partitions
            .all()
            .into_iter()
            .find(|held| &*held.topic == "gone");
        roll::roll_partition(&node.maintenance(), &gone.unwrap())
            .await
            .unwrap();
        topics::delete(&node.topics(), "gone").await.unwrap();
        wait_until("it leads one log", || led_count(&self.first) == 1).await;
    }

    /// Crashes the leader and waits until another agent leads.
    async fn fail_over(&mut self) {
        let incarnation = incarnation(&self.first).unwrap();
        let next = format!("after-{incarnation}");
        let next = self.stores.start_agent(&next, &QUIET_ARGUMENTS).await;
        self.stores.metadata.inner().seal(incarnation).await.unwrap();
        std::mem::replace(&mut self.first, next).crash().await;
        wait_until("the next one leads", || led_count(&self.first) == 1).await;
    }

    /// Sends the next value to `node` until it is acknowledged.
    async fn send_until_acked(&mut self, node: &AgentNode) {
        let deadline = Instant::now() + EVENT_TIMEOUT;
        while let Err(error) = self.producer.send(&self.ledger, node).await {
            assert!(error.is_retryable() && Instant::now() < deadline, "{error}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Rolls, deletes and sweeps until nothing is left to do, then compares everything.
    async fn check_invariants(&self, node: &AgentNode) {
        run_jobs_until_idle(&self.stores, node).await;
        expire_ended_incarnations(&self.stores).await;
        run_jobs_until_idle(&self.stores, node).await;
        let mut next = 0;
        let (_, bounds) = self
            .stores
            .metadata
            .inner()
            .bounds(&[self.log.uid])
            .await
            .unwrap()[0];
        while next < bounds.high_watermark {
            next = read_and_check(&self.stores, &self.ledger, node, &self.log, next)
                .await
                .unwrap();
        }
        self.ledger.lock().check_whole(&self.log, bounds.high_watermark);
        check_objects(&self.stores, &self.ledger, true).await;
    }
}

/// Runs the step that passes `point`.
async fn run_step_through(node: Arc<AgentNode>, point: FailPoint) {
    let Some(session) = node.session() else { return };
    let _either = match point {
        FailPoint::BeforeUpload | FailPoint::BeforeCommit | FailPoint::AfterCommit => Ok(()),
        FailPoint::BeforeSegmentPut | FailPoint::BeforeSegmentSwap | FailPoint::AfterSegmentSwap => {
            roll::roll_all(&node.maintenance(), &session).await
        }
        FailPoint::BeforeDelete | FailPoint::AfterDelete => delete::run(&node.maintenance()).await,
        FailPoint::BeforeSweep | FailPoint::AfterSweep => sweep::run(&node.maintenance(), &session).await,
    };
}

/// Stops the first agent at `point` and lets a second one take over; the first has crashed, or
/// continues as a zombie.
async fn stop_at_fail_point(point: FailPoint, crashes: bool) {
    let mut cluster = TakeoverCluster::new().await;
    let node = cluster.first.node.clone();
    let session = node.session().unwrap();
    if matches!(point, FailPoint::BeforeDelete | FailPoint::AfterDelete) {
        roll::roll_all(&node.maintenance(), &session).await.unwrap();
    }
    let hold = node.failpoints.hold(point);
    let sequence = cluster.producer.sequence;
    let value = cluster.producer.value(sequence);
    let pending = match point {
        FailPoint::BeforeUpload | FailPoint::BeforeCommit | FailPoint::AfterCommit => {
            cluster.ledger.lock().record_sent(&cluster.log, &value);
            Some(cluster.producer.begin_send(&node, sequence).await)
        }
        _ => None,
    };
    let work = tokio::spawn(run_step_through(node.clone(), point));
    timeout(EVENT_TIMEOUT, hold.wait_reached()).await.unwrap();
    let second = cluster.stores.start_agent("two", &QUIET_ARGUMENTS).await;
    cluster
        .stores
        .metadata
        .inner()
        .seal(session.incarnation)
        .await
        .unwrap();
    let first = if crashes {
        work.abort();
        cluster.first.crash().await;
        None
    } else {
        Some(cluster.first)
    };
    wait_until("the second leads", || led_count(&second) == 1).await;
    cluster.first = second;
    let second = cluster.first.node.clone();
    cluster.send_until_acked(&second).await;
    run_jobs_until_idle(&cluster.stores, &second).await;
    drop(hold);
    let _either = work.await;
    if let Some(pending) = pending
        && let Ok(offset) = single_offset(pending.finish(&node.produce()).await)
    {
        // Acknowledged by both, as the same record.
        assert_eq!(
            fetch_values(&second, &cluster.log, offset, 1).await.unwrap()[0],
            (offset, value)
        );
    }
    cluster.send_until_acked(&second).await;
    cluster.check_invariants(&second).await;
    drop(first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_crashes_at_any_step_loses_and_leaves_nothing() {
    futures::future::join_all(FailPoint::ALL.map(|point| stop_at_fail_point(point, true))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_goes_on_after_another_took_over_loses_and_leaves_nothing() {
    let points = FailPoint::ALL.into_iter();
    futures::future::join_all(points.map(|point| stop_at_fail_point(point, false))).await;
}

/// Fails one operation of the object store in one way, while each job runs.
async fn fail_store_operation(operation: StoreOperation, kind: ToxicKind, prefix: &str) {
    let mut cluster = TakeoverCluster::new().await;
    cluster.leave_a_deleted_segment().await;
    // The next leader has no tail in memory of what it rolls.
    cluster.fail_over().await;
    let node = cluster.first.node.clone();
    let session = node.session().unwrap();
    let toxic = cluster
        .stores
        .store
        .add(Toxic::new(kind).on(&[operation]).with_prefix(prefix).times(2));
    cluster.send_until_acked(&node).await;
    for _ in 0..4 {
        let _either = roll::roll_all(&node.maintenance(), &session).await;
        let _either = delete::run(&node.maintenance()).await;
        let _either = sweep::run(&node.maintenance(), &session).await;
    }
    assert!(
        cluster.stores.store.hits(toxic) > 0,
        "{operation:?} {kind:?} below {prefix:?} hit nothing"
    );
    cluster.stores.store.clear();
    cluster.stores.store.wait_settled().await;
    cluster.send_until_acked(&node).await;
    // What arrived late under a key that was deleted already is removed once the incarnation has
    // ended.
    cluster.fail_over().await;
    let second = cluster.first.node.clone();
    cluster.send_until_acked(&second).await;
    cluster.check_invariants(&second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_store_that_fails_any_operation_in_any_way_loses_and_leaves_nothing() {
    use StoreErrorKind as E;
    use StoreOperation as O;
    use ToxicKind as T;
    let lost = [
        T::Error(E::Unavailable),
        T::Error(E::Timeout),
        T::Error(E::Throttled),
        T::LoseReply,
    ];
    let mut cases = Vec::new();
    for kind in lost {
        // WAL objects and segments; deletions of both, and of the orphan; the sweep's listing.
        cases.extend([
            (O::Put, kind, "_wal/"),
            (O::Put, kind, "orders"),
            (O::Delete, kind, "_wal/"),
        ]);
        cases.extend([
            (O::Delete, kind, "gone"),
            (O::List, kind, "_wal/"),
            (O::Get, kind, "_wal/"),
        ]);
    }
    // Nothing to delete, as some stores report it.
    cases.push((O::Delete, T::Error(E::NotFound), "_wal/"));
    // Not found, as a store that is not quite consistent reports it.
    cases.push((O::Get, T::Error(E::NotFound), "_wal/"));
    cases.push((O::Put, T::Late, "_wal/"));
    cases.push((O::Delete, T::Late, "_wal/"));
    let cases = cases
        .into_iter()
        .map(|(on, kind, below)| fail_store_operation(on, kind, below));
    futures::future::join_all(cases).await;
}
