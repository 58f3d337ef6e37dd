//! An agent stops at each step of flush, commit, roll, swap, delete and sweep; another takes over;
//! then the first continues, or it has crashed. The object store fails each operation of these
//! steps in each way. The invariants hold.

use streamhouse_metadata::keys;

use super::{
    ledger::*,
    stores::{FaultyStores, QUIET, look_again, tidy},
    *,
};
use crate::{
    failpoint::FailPoint,
    maintenance::{delete, roll, sweep},
    store::{
        Operation, StoreErrorKind,
        fault::{Toxic, ToxicKind},
    },
};

/// Two agents, a topic, and the acknowledged records.
struct Cluster {
    stores: FaultyStores,
    ledger: parking_lot::Mutex<Ledger>,
    log: LogName,
    producer: Producer,
    /// The leader, which has the oldest incarnation.
    first: Agent,
}

impl Cluster {
    /// Starts one agent, with two records in the WAL and one orphan of an ended incarnation.
    async fn new() -> Self {
        let stores = FaultyStores::without_graces().await;
        let first = stores.agent("one", &QUIET).await;
        create(&first, "orders", 1).await;
        let log = logs(&stores).await.remove(0);
        let producer = Producer::new(&stores, &log).await;
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
            ..registration(&self.first.node.settings, self.first.addresses())
        };
        let metadata = self.stores.metadata.inner();
        let dead = metadata.register_agent(&registration).await.unwrap().incarnation;
        let key = keys::wal_key(dead, 0);
        self.stores.store.put_new(&key, "orphan".into()).await.unwrap();
        metadata.seal(dead).await.unwrap();
        let node = self.first.node.clone();
        node.directory.want();
        until("the ended incarnation shows", || {
            let view = node.directory.view();
            view.snapshot.unswept.iter().any(|(life, _)| *life == dead)
        })
        .await;
    }

    /// Leaves a segment of a deleted topic.
    async fn leave_a_deleted_segment(&self) {
        create(&self.first, "gone", 1).await;
        produce(&self.first, "gone", 0, "x").await.unwrap();
        let node = &self.first.node;
        let life = node.life().unwrap();
        let gone = life.held.all().into_iter().find(|held| &*held.topic == "gone");
        roll::one(node, &gone.unwrap()).await.unwrap();
        topics::delete(node, "gone").await.unwrap();
        until("it leads one log", || held(&self.first) == 1).await;
    }

    /// Crashes the leader and waits until another agent leads.
    async fn fail_over(&mut self) {
        let life = life(&self.first).unwrap();
        let next = format!("after-{life}");
        let next = self.stores.starting(&next, &QUIET).await;
        self.stores.metadata.inner().seal(life).await.unwrap();
        std::mem::replace(&mut self.first, next).crash().await;
        until("the next one leads", || held(&self.first) == 1).await;
    }

    /// Sends the next value to `node` until it is acknowledged.
    async fn insist(&mut self, node: &Node) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = self.producer.send(&self.ledger, node).await {
            assert!(error.is_retryable() && Instant::now() < deadline, "{error}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Rolls, deletes and sweeps until nothing is left to do, then compares everything.
    async fn check(&self, node: &Node) {
        tidy(&self.stores, node).await;
        look_again(&self.stores).await;
        tidy(&self.stores, node).await;
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
async fn work(node: Arc<Node>, point: FailPoint) {
    let Some(life) = node.life() else { return };
    let _either = match point {
        FailPoint::BeforeUpload | FailPoint::BeforeCommit | FailPoint::AfterCommit => Ok(()),
        FailPoint::BeforeSegmentPut | FailPoint::BeforeSegmentSwap | FailPoint::AfterSegmentSwap => {
            roll::all(&node, &life).await
        }
        FailPoint::BeforeDelete | FailPoint::AfterDelete => delete::run(&node).await,
        FailPoint::BeforeSweep | FailPoint::AfterSweep => sweep::run(&node, &life).await,
    };
}

/// Stops the first agent at `point` and lets a second one take over; the first has crashed, or
/// continues as a zombie.
async fn stops_at(point: FailPoint, crashes: bool) {
    let mut cluster = Cluster::new().await;
    let node = cluster.first.node.clone();
    let life = node.life().unwrap();
    if matches!(point, FailPoint::BeforeDelete | FailPoint::AfterDelete) {
        roll::all(&node, &life).await.unwrap();
    }
    let hold = node.failpoints.hold(point);
    let sequence = cluster.producer.sequence;
    let value = cluster.producer.value(sequence);
    let pending = match point {
        FailPoint::BeforeUpload | FailPoint::BeforeCommit | FailPoint::AfterCommit => {
            cluster.ledger.lock().sent(&cluster.log, &value);
            Some(cluster.producer.hand_in(&node, sequence).await)
        }
        _ => None,
    };
    let work = tokio::spawn(work(node.clone(), point));
    timeout(PATIENCE, hold.reached()).await.unwrap();
    let second = cluster.stores.starting("two", &QUIET).await;
    cluster
        .stores
        .metadata
        .inner()
        .seal(life.incarnation)
        .await
        .unwrap();
    let first = if crashes {
        work.abort();
        cluster.first.crash().await;
        None
    } else {
        Some(cluster.first)
    };
    until("the second leads", || held(&second) == 1).await;
    cluster.first = second;
    let second = cluster.first.node.clone();
    cluster.insist(&second).await;
    tidy(&cluster.stores, &second).await;
    drop(hold);
    let _either = work.await;
    if let Some(pending) = pending
        && let Ok(offset) = offset(pending.finish(&node).await)
    {
        // Acknowledged by both, as the same record.
        assert_eq!(
            fetch_values(&second, &cluster.log, offset, 1).await.unwrap()[0],
            (offset, value)
        );
    }
    cluster.insist(&second).await;
    cluster.check(&second).await;
    drop(first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_crashes_at_any_step_loses_and_leaves_nothing() {
    futures::future::join_all(FailPoint::ALL.map(|point| stops_at(point, true))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_goes_on_after_another_took_over_loses_and_leaves_nothing() {
    let points = FailPoint::ALL.into_iter();
    futures::future::join_all(points.map(|point| stops_at(point, false))).await;
}

/// Fails one operation of the object store in one way, while each job runs.
async fn store_fails(operation: Operation, kind: ToxicKind, prefix: &str) {
    let mut cluster = Cluster::new().await;
    cluster.leave_a_deleted_segment().await;
    // The next leader has no tail in memory of what it rolls.
    cluster.fail_over().await;
    let node = cluster.first.node.clone();
    let life = node.life().unwrap();
    let toxic = cluster
        .stores
        .store
        .add(Toxic::new(kind).on(&[operation]).below(prefix).times(2));
    cluster.insist(&node).await;
    for _ in 0..4 {
        let _either = roll::all(&node, &life).await;
        let _either = delete::run(&node).await;
        let _either = sweep::run(&node, &life).await;
    }
    assert!(
        cluster.stores.store.hits(toxic) > 0,
        "{operation:?} {kind:?} below {prefix:?} hit nothing"
    );
    cluster.stores.store.clear();
    cluster.stores.store.settled().await;
    cluster.insist(&node).await;
    // What arrived late under a key that was deleted already is removed once the incarnation has
    // ended.
    cluster.fail_over().await;
    let second = cluster.first.node.clone();
    cluster.insist(&second).await;
    cluster.check(&second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_store_that_fails_any_operation_in_any_way_loses_and_leaves_nothing() {
    use Operation as O;
    use StoreErrorKind as E;
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
        .map(|(on, kind, below)| store_fails(on, kind, below));
    futures::future::join_all(cases).await;
}
