//! Leader election with the Lease of a real API server: the assumptions of the simulation, and two
//! replicas that follow each other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code, including helpers

use std::{sync::Arc, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use streamhouse_core::time::{system_clock, system_entropy};
use streamhouse_operator::lease::{
    ElectionEnvironment, ElectionTiming, KubernetesLeaseStore, LeaderElector, LeaseRecord, LeaseStore,
    LeaseStoreError, SystemTimer, TermFence,
};
use streamhouse_testkit::KubeApi;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Short, so that an expiry is seen soon; long enough for a slow machine to renew.
const TIMING: ElectionTiming = ElectionTiming {
    lease_duration: Duration::from_secs(6),
    renew_deadline: Duration::from_secs(4),
    retry_period: Duration::from_millis(300),
};

async fn client(api: &KubeApi) -> Client {
    // Another test of this process may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(api.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    streamhouse_operator::connect::new_client(config).unwrap()
}

fn record(holder: &str, renewed_us: i64) -> LeaseRecord {
    LeaseRecord {
        holder: Some(holder.to_owned()),
        duration: Some(Duration::from_secs(15)),
        acquired_us: 1_700_000_000_000_000,
        renewed_us,
        transitions: 0,
    }
}

#[tokio::test]
async fn of_two_writers_of_one_version_the_later_is_refused() {
    let api = KubeApi::shared().unwrap();
    let namespace = api.create_namespace("lease").unwrap();
    let client = client(api).await;
    let (a, b) = (
        KubernetesLeaseStore::new(client.clone(), &namespace, "operator"),
        KubernetesLeaseStore::new(client, &namespace, "operator"),
    );
    assert_eq!(a.get().await.unwrap(), None);
    let made = a.create(&record("a", 1_700_000_000_000_001)).await.unwrap();
    assert_eq!(
        b.create(&record("b", 1_700_000_000_000_001)).await,
        Err(LeaseStoreError::Conflict)
    );

    let seen = b.get().await.unwrap().unwrap();
    assert_eq!(seen, made, "the written record is read back");
    let renewed = a
        .update(&record("a", 1_700_000_000_000_002), &made.version)
        .await
        .unwrap();
    assert_ne!(renewed.version, made.version);
    let late = b.update(&record("b", 1_700_000_000_000_003), &seen.version).await;
    assert_eq!(late, Err(LeaseStoreError::Conflict));
    assert_eq!(
        b.get().await.unwrap().unwrap(),
        renewed,
        "the rejected write changed nothing"
    );
}

#[tokio::test]
async fn what_others_put_on_the_lease_stays_and_a_lease_that_is_gone_is_a_conflict() {
    let api = KubeApi::shared().unwrap();
    let namespace = api.create_namespace("lease").unwrap();
    let lease = KubernetesLeaseStore::new(client(api).await, &namespace, "operator");
    lease.create(&record("a", 1_700_000_000_000_001)).await.unwrap();
    let here = ["-n", namespace.as_str()];
    api.kubectl(&[&["label", "lease", "operator", "team=streams"], &here[..]].concat())
        .unwrap();
    let seen = lease.get().await.unwrap().unwrap();
    let released = LeaseRecord {
        holder: None,
        ..record("a", 1_700_000_000_000_002)
    };
    let written = lease.update(&released, &seen.version).await.unwrap();
    let show = "jsonpath={.metadata.labels.team} [{.spec.holderIdentity}] {.spec.leaseDurationSeconds}";
    let shown = api
        .kubectl(&[&["get", "lease", "operator", "-o", show], &here[..]].concat())
        .unwrap();
    assert_eq!(shown, "streams [] 15");

    api.kubectl(&[&["delete", "lease", "operator"], &here[..]].concat())
        .unwrap();
    let late = lease.update(&released, &written.version).await;
    assert_eq!(late, Err(LeaseStoreError::Conflict));
}

#[tokio::test]
async fn without_the_right_it_says_which_one_is_missing() {
    let api = KubeApi::shared().unwrap();
    let namespace = api.create_namespace("lease").unwrap();
    let path = api.kubeconfig_for("nobody", &[]).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    let lease = KubernetesLeaseStore::new(
        streamhouse_operator::connect::new_client(config).unwrap(),
        &namespace,
        "operator",
    );
    let LeaseStoreError::Failed(why) = lease.get().await.unwrap_err() else {
        panic!("not a conflict");
    };
    assert!(why.contains("grant get, create and update of leases"), "{why}");
}

/// An elector in a task, with work that only waits.
struct TestReplica {
    fence: TermFence,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn start(client: &Client, namespace: &str, name: &str) -> TestReplica {
    let lease = KubernetesLeaseStore::new(client.clone(), namespace, "operator");
    let seams = ElectionEnvironment {
        timer: Arc::new(SystemTimer),
        clock: system_clock(),
        entropy: system_entropy(),
    };
    let elector = LeaderElector::new(
        Arc::new(lease),
        name.to_owned(),
        TIMING,
        Duration::from_secs(5),
        seams,
    );
    let (fence, stop) = (elector.fence(), CancellationToken::new());
    let told = stop.clone();
    let task = tokio::spawn(async move {
        elector
            .run(told, |term| async move { term.stop.cancelled().await })
            .await;
    });
    TestReplica { fence, stop, task }
}

/// Waits until the replica leads; fails if both lead at the same time.
async fn until_leads(replica: &TestReplica, other: Option<&TestReplica>) {
    let led = async {
        loop {
            // The other replica is checked second: a term that it held a moment ago may have ended,
            // but not the reverse.
            let both = replica.fence.is_open() && other.is_some_and(|other| other.fence.is_open());
            assert!(!both, "two lead");
            if replica.fence.is_open() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), led)
        .await
        .expect("no replica leads");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_one_ends_in_order_or_dies_the_other_leads() {
    let api = KubeApi::shared().unwrap();
    let namespace = api.create_namespace("lease").unwrap();
    let client = client(api).await;
    let first = start(&client, &namespace, "first");
    until_leads(&first, None).await;
    let mut second = start(&client, &namespace, "second");

    first.stop.cancel();
    until_leads(&second, Some(&first)).await;
    first.task.await.unwrap();

    let third = start(&client, &namespace, "third");
    // Aborted without releasing the Lease, like a killed process.
    second.task.abort();
    assert!((&mut second.task).await.unwrap_err().is_cancelled());
    until_leads(&third, Some(&second)).await;
    let show = "jsonpath={.spec.holderIdentity} {.spec.leaseTransitions}";
    let shown = api
        .kubectl(&["get", "lease", "operator", "-n", &namespace, "-o", show])
        .unwrap();
    assert_eq!(shown, "third 2");
    third.stop.cancel();
    third.task.await.unwrap();
}
